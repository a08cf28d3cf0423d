package vm

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// counter increments over one TCP connection from a third place, until it is stopped.
type counter struct {
	k     *kit
	conn  net.Conn
	last  atomic.Int64
	stop  atomic.Bool
	ended chan error // gets why it has ended, nil if it was stopped
}

// count connects and returns when it counts.
func (k *kit) count(addr string) *counter {
	k.t.Helper()
	c := &counter{k: k, ended: make(chan error, 1)}
	k.until("a connection to "+addr, func() (err error) {
		c.conn, err = k.lab.Dial(k.t.Context(), addr)
		return err
	})
	k.t.Cleanup(func() { c.conn.Close() })
	go func() { c.ended <- c.increment() }()
	c.goesOn()
	return c
}

func (c *counter) increment() error {
	for r := bufio.NewReader(c.conn); !c.stop.Load(); {
		if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := io.WriteString(c.conn, "INCR counter\r\n"); err != nil {
			return err
		}
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		v, err := strconv.ParseInt(strings.TrimPrefix(strings.TrimSpace(line), ":"), 10, 64)
		if err != nil || v != c.last.Load()+1 {
			return fmt.Errorf("%q came after %d", line, c.last.Load())
		}
		c.last.Store(v)
	}
	return nil
}

// goesOn waits until it counts further than now.
func (c *counter) goesOn() {
	c.k.t.Helper()
	from := c.last.Load()
	c.k.until("the connection goes on", func() error {
		select {
		case err := <-c.ended:
			c.k.t.Fatalf("the connection has ended after %d: %v", c.last.Load(), err)
		default:
		}
		if c.last.Load() <= from {
			return fmt.Errorf("it stands at %d", from)
		}
		return nil
	})
}

// end stops it and returns the last value: every one before it was seen once.
func (c *counter) end() int64 {
	c.k.t.Helper()
	c.stop.Store(true)
	if err := <-c.ended; err != nil {
		c.k.t.Fatalf("the connection has ended after %d: %v", c.last.Load(), err)
	}
	return c.last.Load()
}
