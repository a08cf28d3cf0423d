package network

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

func TestPublishedPorts(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16"})
	a, b := newMember(t, 1), newMember(t, 2)
	plug(t, n, 101, a, false)
	plug(t, n, 102, b, false)
	b.listen(t, "10.77.1.2:80")
	reach := runtime.Reach{Forwards: []runtime.Forward{{Proto: unix.IPPROTO_TCP, Port: 8080, To: netip.MustParseAddrPort("10.77.1.2:80")}}}
	for range 2 { // idempotent
		if err := n.Reach(reach); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = n.Reach(runtime.Reach{}) })
	c := a.connect(t, "10.77.0.1:8080", long)
	if c == nil || !echoes(c) {
		t.Fatal("the published port does not lead to the container")
	}
	if c := a.connect(t, "10.77.1.2:80", long); c == nil || !echoes(c) {
		t.Error("the container's own port does not answer any more")
	}
	if err := n.Reach(runtime.Reach{}); err != nil {
		t.Fatal(err)
	}
	if c, err := a.dial("10.77.0.1:8080", short); err == nil {
		c.Close()
		t.Error("a port that was taken back still leads to the container")
	}
}
