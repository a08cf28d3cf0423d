#!/bin/sh
# Makes the disk that every machine of the lab boots: `sh image.sh DIR` writes DIR/vmlinuz, DIR/initrd and DIR/root.img.
# Debian 13 with its cloud kernel, systemd, sshd and what an agent needs of a host. What belongs to one machine, and what
# changes with every build of ours, is on a second disk (payload.go) that the image mounts and starts.
set -eu
umask 022
export LC_ALL=C

dir=$1
root=$dir/root
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -E '/debian/?$' | head -n 1) || :

# The kernel is unpacked, not installed: its package wants initramfs-tools, and our initrd is two modules and a shell.
cat >"$dir/kernel.sh" <<-'HOOK'
	set -eu
	export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
	name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
	cd "$1/tmp"
	apt-get -o APT::Sandbox::User=root download "$name"
	dpkg-deb -x ./linux-image-*.deb "$1"
	rm ./linux-image-*.deb
HOOK

mmdebstrap --quiet --mode=root --variant=apt --architectures=amd64 \
	--aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--include=systemd,systemd-sysv,kmod,iproute2,nftables,libseccomp2,busybox-static,openssh-server \
	--customize-hook="sh $dir/kernel.sh \"\$1\"" \
	trixie "$root" "deb [signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} trixie main"

version=$(ls "$root/usr/lib/modules")
depmod -b "$root" "$version" 2>/dev/null || chroot "$root" depmod "$version"
mv "$root/boot/vmlinuz-$version" "$dir/vmlinuz"
rm -rf "$root/boot"/* "$root/var/cache/apt"/*.bin "$root/etc/ssh"/ssh_host_*
: >"$root/etc/machine-id"

# No udev: what the machine has is known.
printf '%s\n' virtio_net overlay tun veth bridge br_netfilter nf_tables tcp_diag udp_diag unix_diag inet_diag netlink_diag af_packet_diag \
	>"$root/etc/modules-load.d/lab.conf"
echo '/dev/vda / ext4 rw,noatime 0 1' >"$root/etc/fstab"
mkdir "$root/opt/lab"
cat >"$root/etc/systemd/system/lab.service" <<-'UNIT'
	[Unit]
	Description=What this machine of the lab is
	After=local-fs.target systemd-modules-load.service systemd-sysctl.service
	Before=ssh.service
	[Service]
	Type=oneshot
	RemainAfterExit=yes
	ExecStart=/bin/sh -c 'mount -o ro /dev/vdb /opt/lab && exec sh /opt/lab/start'
	StandardOutput=tty
	TTYPath=/dev/ttyS0
	[Install]
	WantedBy=multi-user.target
	UNIT
cat >"$root/etc/systemd/system/vzcluster.service" <<-'UNIT'
	[Unit]
	Description=vzcluster agent
	After=lab.service
	[Service]
	Type=notify
	ExecStart=/usr/local/bin/vzcluster agent
	Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	Restart=always
	RestartSec=1
	KillMode=process
	UNIT
printf '%s\n' 'HostKey /opt/lab/host_key' 'AuthorizedKeysFile /opt/lab/authorized_keys' 'PermitRootLogin prohibit-password' \
	'UsePAM no' 'PrintMotd no' 'UseDNS no' 'MaxSessions 100' 'StrictModes no' >"$root/etc/ssh/sshd_config.d/lab.conf"
ln -s /etc/systemd/system/lab.service "$root/etc/systemd/system/multi-user.target.wants/lab.service"
# A console without a login, and nothing that a throw-away machine has no use for.
for unit in serial-getty@ttyS0.service getty@tty1.service getty-static.service apt-daily.timer apt-daily-upgrade.timer \
	dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-timesyncd.service ldconfig.service \
	systemd-journal-catalog-update.service systemd-update-done.service systemd-sysusers.service sys-kernel-debug.mount \
	sys-kernel-tracing.mount modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '%s\n' '[Journal]' 'Storage=volatile' >"$root/etc/systemd/journald.conf.d/lab.conf"

# The initrd: the modules of the root disk, in the order of their dependencies.
mkdir -p "$dir/initrd.d/bin" "$dir/initrd.d/dev" "$dir/initrd.d/proc" "$dir/initrd.d/root"
cp "$root/usr/bin/busybox" "$dir/initrd.d/bin/busybox"
for module in virtio_pci virtio_blk ext4; do
	chroot "$root" modprobe --set-version "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' >"$dir/modules"
while read -r path; do
	cp "$root$path" "$dir/initrd.d/"
	echo "${path##*/}"
done <"$dir/modules" >"$dir/order"
{
	printf '%s\n' '#!/bin/busybox sh' '/bin/busybox mount -t devtmpfs dev /dev' '/bin/busybox mount -t proc proc /proc'
	while read -r name; do
		case $name in
		*.xz) printf '/bin/busybox unxz /%s\n/bin/busybox insmod /%s\n' "$name" "${name%.xz}" ;;
		*) printf '/bin/busybox insmod /%s\n' "$name" ;;
		esac
	done <"$dir/order"
	printf '%s\n' '/bin/busybox mount -o noatime /dev/vda /root' '/bin/busybox umount /proc' \
		'/bin/busybox mount --move /dev /root/dev' 'exec /bin/busybox switch_root /root /lib/systemd/systemd'
} >"$dir/initrd.d/init"
chmod 755 "$dir/initrd.d/init"
(cd "$dir/initrd.d" && find . | busybox cpio -o -H newc 2>/dev/null) >"$dir/initrd"

truncate -s 4G "$dir/root.img"
mke2fs -q -t ext4 -E lazy_itable_init=1,root_owner=0:0 -O ^has_journal -d "$root" "$dir/root.img"
rm -rf --one-file-system "$root" "$dir/initrd.d" "$dir/kernel.sh" "$dir/modules" "$dir/order"
