#!/bin/sh
# Hook of the floor's containers, at start and again at restore: plugs a veth pair into the bridge and the container.
# PORT, BRIDGE, MAC and ADDRESS come with the environment, the container's state on stdin.
set -e
pid=$(sed -n 's/.*"pid": *\([0-9][0-9]*\).*/\1/p')
ip link del "$PORT" 2>/dev/null || :
ip link add "$PORT" type veth peer name eth0 address "$MAC" netns "$pid"
ip link set "$PORT" master "$BRIDGE" up
nsenter -t "$pid" -n sh -c "echo 0 >/proc/sys/net/mptcp/enabled; ip -batch -" <<END
link set lo up
addr add $ADDRESS dev eth0
link set eth0 up
END
