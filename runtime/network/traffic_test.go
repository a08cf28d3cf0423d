package network

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcluster/vzcluster/runtime"
)

// carries sends so many bytes over TCP from m to o and says how long it took.
func (m member) carries(t *testing.T, o member, size int) time.Duration {
	t.Helper()
	var l net.Listener
	if err := InNamespace(o.pid, func() (err error) {
		l, err = net.Listen("tcp4", o.addr()+":0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var c net.Conn
	if err := InNamespace(m.pid, func() (err error) {
		c, err = net.Dial("tcp4", l.Addr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	if err := c.SetDeadline(began.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	g.Go(func() error {
		in, err := l.Accept()
		if err != nil {
			return err
		}
		defer in.Close()
		if _, err := io.CopyN(io.Discard, in, int64(size)); err != nil {
			return err
		}
		_, err = in.Write([]byte("x"))
		return err
	})
	_, err := c.Write(make([]byte, size))
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func TestRates(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16", Pool: netip.MustParsePrefix("10.77.0.0/16")})
	a, b := newMember(t, 1), newMember(t, 2)
	const size, rate = 4 << 20, 2 << 20 // of which a second's may go at once
	a.nic.Rates = runtime.Rates{In: rate, Out: rate}
	plug(t, n, 101, a, false)
	plug(t, n, 102, b, false)
	const least = 800 * time.Millisecond
	if d := a.carries(t, b, size); d < least {
		t.Errorf("it sent %d bytes in %s at %d bytes per second", size, d, rate)
	}
	if d := b.carries(t, a, size); d < least {
		t.Errorf("it got %d bytes in %s at %d bytes per second", size, d, rate)
	}
	for _, want := range []runtime.Rates{{Out: 4 << 20}, {In: 4 << 20}, {}, {In: 5 << 20, Out: 6 << 20}, {}} {
		before, err := n.Shape(101, want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := n.Shape(101, want); err != nil || got != want {
			t.Errorf("Shape(%+v) over %+v set %+v, %v", want, before, got, err)
		}
	}
	if fast, slow := a.carries(t, b, size)+b.carries(t, a, size), 2*least; fast > slow {
		t.Errorf("without rates it took %s", fast)
	}
	if r, err := n.Shape(104, runtime.Rates{In: rate}); err != nil || r != (runtime.Rates{}) {
		t.Errorf("shaping what is not there: %+v, %v", r, err)
	}
}

func TestTraffic(t *testing.T) {
	n := newNetwork(t, Config{Address: "10.77.0.1/16", Pool: netip.MustParsePrefix("10.77.1.1/32")})
	a, b := newMember(t, 1), newMember(t, 2) // b is not of the pool
	plug(t, n, 101, a, false)
	plug(t, n, 102, b, false)
	const size = 1 << 20
	a.carries(t, b, size)
	x, err := n.Traffic(101)
	if err != nil {
		t.Fatal(err)
	}
	y, err := n.Traffic(102)
	if err != nil {
		t.Fatal(err)
	}
	if x.SentOutside < size || x.ReceivedOutside == 0 || x.ReceivedOutside > size/2 || x.SentLocal > size/2 {
		t.Errorf("it sent %d bytes beyond the pool: %+v", size, x)
	}
	if y.ReceivedLocal < size || y.ReceivedOutside > 0 || y.SentOutside > 0 {
		t.Errorf("it got %d bytes from the pool: %+v", size, y)
	}
	if _, err := n.Shape(101, runtime.Rates{Out: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if after, err := n.Traffic(101); err != nil || after.SentOutside < x.SentOutside {
		t.Errorf("a new rate made %+v of %+v, %v", after, x, err)
	}
	if err := n.Unplug(101); err != nil {
		t.Fatal(err)
	}
	if gone, err := n.Traffic(101); err != nil || gone != (runtime.Traffic{}) {
		t.Errorf("after it was unplugged: %+v, %v", gone, err)
	}
}
