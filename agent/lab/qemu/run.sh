#!/bin/sh
# A test that `make test` does not run: boots a virtual machine of Debian 13 with systemd and cgroup v2 only, and runs
# inside.sh in it, with the binary, the tests of the runtime and what `make setup` has put into the cache. It needs root,
# qemu-system-x86, mmdebstrap, busybox and Debian's mirror, no KVM, and 10 to 30 minutes. It leaves nothing behind.
#
#   agent/lab/qemu/run.sh
set -eu
export LC_ALL=C
cd "$(dirname "$0")/../../.."
GO=${GO:-go}
cache=/var/cache/vzcluster
for program in qemu-system-x86_64 mmdebstrap mke2fs busybox; do
	command -v $program >/dev/null || { echo "$program is missing (Debian: qemu-system-x86 mmdebstrap e2fsprogs busybox-static)" >&2; exit 1; }
done
[ -x $cache/bin/runc ] || { echo "run \`make setup\` first" >&2; exit 1; }

dir=$(mktemp -d /var/tmp/vzqemu.XXXXXX)
trap 'rm -rf --one-file-system "$dir"' EXIT
trap 'exit 1' HUP INT TERM
tree=$dir/tree

echo "the machine's file system"
mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--include=systemd-sysv,iproute2,nftables,kmod,procps,busybox-static,linux-image-cloud-amd64 trixie "$tree"
mkdir -p "$tree$cache/templates" "$tree/root/tests"
cp -a $cache/bin $cache/criu "$tree$cache/"
for template in busybox debian-12; do # the newest of each
	newest=$(ls -t $cache/templates/$template-*.tar.zst 2>/dev/null | head -n 1)
	[ -z "$newest" ] || cp "$newest" "$tree$cache/templates/$template.tar.zst"
done
export CGO_ENABLED=0
$GO build -o "$tree/usr/local/bin/vzcluster" ./cmd/vzcluster
for package in runtime/cgroup runtime/criu runtime/rootfs runtime/engine agent/lab; do
	$GO test -c -o "$tree/root/tests/" ./$package
done
cp agent/lab/qemu/inside.sh "$tree/root/"
cat >"$tree/etc/systemd/system/inside.service" <<'UNIT'
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/sh /root/inside.sh
ExecStopPost=/sbin/poweroff -f
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
Delegate=yes
UNIT
units=$tree/etc/systemd/system
mkdir -p "$units/multi-user.target.wants"
ln -s ../inside.service "$units/multi-user.target.wants/"
ln -s /dev/null "$units/serial-getty@.service" # its device never appears without udev
echo '/dev/vda / ext4 rw 0 0' >"$tree/etc/fstab"

echo "kernel and initramfs"
kernel=$(ls "$tree/lib/modules")
cp "$tree/boot/vmlinuz-$kernel" "$dir/vmlinuz"
mkdir -p "$dir/initramfs/bin" "$dir/initramfs/dev" "$dir/initramfs/new"
cp "$tree/bin/busybox" "$dir/initramfs/bin/"
{
	echo '#!/bin/busybox sh'
	echo '/bin/busybox mount -t devtmpfs none /dev'
	for module in virtio_pci virtio_blk ext4; do
		chroot "$tree" modprobe -S "$kernel" --show-depends $module
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r file; do
		name=$(basename "$file" .xz)
		case $file in
		*.xz) xz -dc "$tree$file" >"$dir/initramfs/$name" ;;
		*) cp "$tree$file" "$dir/initramfs/$name" ;;
		esac
		echo "/bin/busybox insmod /$name"
	done
	echo '/bin/busybox mount -t ext4 /dev/vda /new'
	echo 'exec /bin/busybox switch_root /new /sbin/init'
} >"$dir/initramfs/init"
chmod +x "$dir/initramfs/init"
(cd "$dir/initramfs" && find . | busybox cpio -o -H newc) >"$dir/initrd" 2>/dev/null
mke2fs -q -t ext4 -d "$tree" "$dir/disk" 4G

echo "the machine"
nice -n 10 timeout 3600 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4096 -nodefaults -nographic -nic none \
	-no-reboot -device virtio-rng-pci -kernel "$dir/vmlinuz" -initrd "$dir/initrd" -append 'console=ttyS0 quiet systemd.show_status=no' \
	-drive file="$dir/disk",format=raw,if=virtio,cache=unsafe -serial stdio </dev/null | tee "$dir/log"
grep -q '^all is well' "$dir/log"
