# Run by a machine of the lab at boot, from the disk that payload.go makes: makes it the host that its kernel command
# line names, and starts the agent.
set -eu
for word in $(cat /proc/cmdline); do
	case $word in
	lab.name=*) name=${word#*=} ;;
	lab.address=*) address=${word#*=} ;;
	lab.gateway=*) gateway=${word#*=} ;;
	esac
done
echo "$name" >/etc/hostname
echo "$name" >/proc/sys/kernel/hostname
ip link set lo up
ip address replace "$address/16" dev eth0
ip link set eth0 up
ip route replace default via "$gateway"

mkdir -p /etc/vzcluster
cp "/opt/lab/hosts/$name.yaml" /etc/vzcluster/agent.yaml
ln -sfn /opt/lab/cache /var/cache/vzcluster
ln -sfn /opt/lab/vzcluster /usr/local/bin/vzcluster
# As `vzcluster setup` raises them.
while read -r key value; do
	echo "$value" >"/proc/sys/$key"
done <<-END
	fs/inotify/max_user_instances 8192
	fs/inotify/max_user_watches 1048576
	kernel/keys/maxkeys 20000
	kernel/keys/maxbytes 2000000
	fs/pipe-max-size 4194304
	fs/pipe-user-pages-soft 0
END
systemctl start --no-block vzcluster.service
