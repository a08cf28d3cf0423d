#!/bin/sh
# What run.sh's machine does: doctor, the runtime's tests, then a lab whose containers are changed, moved and stopped.
# Each step says what it was; "all is well" at the end means that none failed.
export PATH=/var/cache/vzcluster/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
failed=0
step() {
	echo "== $*"
	timeout 600 "$@" || { failed=$((failed + 1)); echo "FAILED: $*"; }
}
# limit FILE VALUE: what the kernel has for container 101
limit() { grep -qsx "$2" /sys/fs/cgroup/vzlab-lab/*/vz/101/"$1"; }
options() { awk '$2 == "/sys/fs/cgroup" { print $3, $4 }' /proc/mounts; }

before=$(options)
echo "$(uname -r) $before"
step criu check
for t in cgroup criu rootfs engine lab; do
	step /root/tests/$t.test
done

step vzcluster lab up --hosts 2
eval "$(vzcluster lab env host1)"
step vzcluster template import busybox /var/cache/vzcluster/templates/busybox.tar.zst
step vzcluster run bb --template busybox --disk 50M --ram 64M --cpus 0.5 --host host1
step vzcluster set bb --ram 96M --cpus 1.5
limit memory.max 100663296 && limit cpu.max '150000 100000' || { failed=$((failed + 1)); echo "FAILED: limits after set"; }
step vzcluster migrate bb host2
step vzcluster migrate bb host1
limit memory.max 100663296 && limit cpu.max '150000 100000' || { failed=$((failed + 1)); echo "FAILED: limits after two moves"; }
step vzcluster exec bb -- ps
step vzcluster destroy -y -f bb

if [ -e /var/cache/vzcluster/templates/debian-12.tar.zst ]; then
	step vzcluster template import debian-12 /var/cache/vzcluster/templates/debian-12.tar.zst
	step vzcluster run deb --template debian-12 --disk 100M --host host1
	for target in host2 host1; do
		step vzcluster exec deb -- systemctl is-system-running --wait
		step vzcluster migrate deb $target
		step vzcluster exec deb -- systemctl restart systemd-journald
	done
	step vzcluster exec deb -- systemctl is-system-running
	step vzcluster stop deb
fi
step vzcluster lab down
[ "$(options)" = "$before" ] || { failed=$((failed + 1)); echo "FAILED: the cgroups' mount options are now $(options)"; }
[ $failed = 0 ] && echo "all is well" || echo "$failed steps failed"
sync
