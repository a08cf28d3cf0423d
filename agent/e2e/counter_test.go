package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
)

// port is where containers count.
const port = "9000"

// serveCounter has a container count in memory and in a file that it holds open.
func (k *kit) serveCounter(c api.Container) {
	k.t.Helper()
	k.serve(c, "serve :"+port+" /var/log/counter")
}

// serve starts the traffic program in a container and waits until it listens.
func (k *kit) serve(c api.Container, args string) {
	k.t.Helper()
	k.put(c, shared.traffic, "/bin/traffic")
	k.inside(c.Name, "setsid /bin/traffic "+args+" </dev/null >/dev/null 2>&1 &")
	k.listens(c, port)
}

// put copies a file of this machine into a container, as a program.
func (k *kit) put(c api.Container, from, to string) {
	k.t.Helper()
	f, err := os.Open(from)
	if err != nil {
		k.t.Fatal(err)
	}
	defer f.Close()
	if r := k.at("host1", f, "exec", c.Name, "--", "sh", "-c", "cat > "+to+" && chmod 755 "+to); r.code != 0 {
		k.t.Fatal(r)
	}
}

// listens waits until a TCP port of a container is open.
func (k *kit) listens(c api.Container, port string) {
	k.t.Helper()
	k.until("port "+port+" listens", recovery, func() error {
		if out, code := k.on(lab.Outside, fmt.Sprintf("timeout 1 bash -c '</dev/tcp/%s/%s'", address(c), port)); code != 0 {
			return errors.New(out)
		}
		return nil
	})
}

// report is what the counting client says, see testdata/traffic.
type report struct {
	First  int64   `json:"first"`
	Last   int64   `json:"last"`
	Sent   int64   `json:"sent"`
	GapMS  float64 `json:"gap_ms"`
	Closed bool    `json:"closed"`
}

// counter is a client on the outside that works until it is stopped.
type counter struct {
	k      *kit
	stdin  *os.File
	cancel func()
	ended  chan struct{} // closed when the client has ended

	mu   sync.Mutex
	last report
	errs bytes.Buffer
	code int
}

// count starts a client and returns when it counts.
func (k *kit) count(addr string) *counter { return k.countAtRest(addr, 0) }

// countAtRest starts a client that rests before every question.
func (k *kit) countAtRest(addr string, rest time.Duration) *counter {
	k.t.Helper()
	return k.client(shared.traffic, "count", addr, rest.String())
}

// startCount starts a counting client that somebody else ends.
func (k *kit) startCount(addr string, rest time.Duration) *counter {
	k.t.Helper()
	return k.startClient(shared.traffic, "count", addr, rest.String())
}

// client starts a client that reports as testdata/traffic does, and returns when something was done.
func (k *kit) client(command ...string) *counter {
	k.t.Helper()
	c := k.startClient(command...)
	k.t.Cleanup(c.abandon)
	c.goesOn()
	return c
}

func (k *kit) startClient(command ...string) *counter {
	k.t.Helper()
	in, stdin, err := os.Pipe() // no io.Pipe: whoever reads that for the client does not see it end
	if err != nil {
		k.t.Fatal(err)
	}
	out, stdout := io.Pipe()
	c := &counter{k: k, stdin: stdin, ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	read := make(chan struct{})
	go func() {
		defer close(read)
		for d := json.NewDecoder(out); ; {
			var r report
			if d.Decode(&r) != nil {
				_, _ = io.Copy(io.Discard, out)
				return
			}
			c.mu.Lock()
			c.last = r
			c.mu.Unlock()
		}
	}()
	go func() {
		defer close(c.ended)
		defer in.Close()
		code, err := k.lab.Exec(ctx, lab.Outside, command, in, stdout, &c.errs)
		stdout.CloseWithError(io.EOF)
		<-read
		if err != nil {
			code = -1
		}
		c.code = code
	}()
	return c
}

func (c *counter) now() report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// goesOn waits until the client counts further than now.
func (c *counter) goesOn() {
	c.k.t.Helper()
	from := c.now().Last
	c.k.until("the connection goes on", recovery, func() error {
		select {
		case <-c.ended:
			c.k.t.Fatalf("the client has ended with code %d after %d: %s", c.code, c.now().Last, c.errs.String())
		default:
		}
		if now := c.now().Last; now <= from {
			return fmt.Errorf("it stands at %d", now)
		}
		return nil
	})
}

// broken reports whether the client has lost its connection.
func (c *counter) broken() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// abandon ends a client whose server has gone.
func (c *counter) abandon() {
	c.stdin.Close()
	c.cancel()
	<-c.ended
}

// stop ends the client, which has seen every value exactly once, and returns what it saw.
func (c *counter) stop() report {
	c.k.t.Helper()
	c.stdin.Close()
	select {
	case <-c.ended:
	case <-time.After(recovery):
		c.k.t.Fatal("the client does not end")
	}
	r := c.now()
	if c.code != 0 || !r.Closed || r.Last-r.First+1 != r.Sent {
		c.k.t.Fatalf("the client has ended with code %d and %+v: %s", c.code, r, c.errs.String())
	}
	return r
}
