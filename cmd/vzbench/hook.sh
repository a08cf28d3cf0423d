#!/bin/sh
# Hook of the floor's containers, at start and again at restore: plugs a veth pair into the bridge and the container.
# PORT, BRIDGE, MAC and ADDRESS come with the environment, the container's state on stdin. As few processes as it takes:
# their time counts as the floor's.
set -e
read -r state || :
pid=${state#*\"pid\":}
pid=${pid# }
pid=${pid%%[!0-9]*}
if [ -e "/sys/class/net/$PORT" ]; then ip link del "$PORT" 2>/dev/null || :; fi
ip -batch - <<END
link add $PORT type veth peer name eth0 address $MAC netns $pid
link set $PORT master $BRIDGE up
END
exec nsenter -t "$pid" -n sh -c "echo 0 >/proc/sys/net/mptcp/enabled; exec ip -batch -" <<END
link set lo up
addr add $ADDRESS dev eth0
link set eth0 up
END
