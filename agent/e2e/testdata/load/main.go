// Command load puts load on a server from the outside and finds out whether it notices a move: every connection is made
// once and must last, every answer must be right, and no request may fail. It reports on stdout as traffic does, until
// its input ends; then it checks what must be there now.
//
//	load postgres ADDR N        transactions over N connections, and one transaction open all the time
//	load count URL              GET over one kept connection: every number is the last one plus one
//	load get URL                GET over one kept connection: every body is the first one
//	load download URL SHA256    reads one body slowly, and the rest of it at the end
//	load udp ADDR               datagrams, each repeated until it is answered
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"
)

// patience is how long one answer may take; a fault may cost 30 s.
const patience = 60 * time.Second

// pause is between two requests of one connection, lest the client be what loads the machine.
const pause = 5 * time.Millisecond

func main() {
	err := errors.New("usage: load postgres ADDR N | count URL | get URL | download URL SHA256 | udp ADDR")
	args := append(os.Args[1:], "", "")
	p := newProgress(os.Stdin, os.Stdout)
	switch n := len(os.Args) - 1; {
	case n == 3 && args[0] == "postgres":
		var workers int
		if workers, err = strconv.Atoi(args[2]); err == nil {
			err = postgres(args[1], workers, p)
		}
	case n == 2 && args[0] == "count":
		err = get(args[1], true, p)
	case n == 2 && args[0] == "get":
		err = get(args[1], false, p)
	case n == 3 && args[0] == "download":
		err = download(args[1], args[2], p)
	case n == 2 && args[0] == "udp":
		err = udp(args[1], p)
	}
	if err == nil {
		err = p.close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// progress reports what was done so far. Its methods may be called concurrently.
type progress struct {
	ended chan struct{} // closed when the input has ended

	mu   sync.Mutex
	out  *json.Encoder
	told time.Time
	now  report
}

// report is one line of output, as traffic's.
type report struct {
	First  int64 `json:"first"`
	Last   int64 `json:"last"`
	Sent   int64 `json:"sent"`
	Closed bool  `json:"closed"` // the last report of an orderly end
}

func newProgress(in io.Reader, out io.Writer) *progress {
	p := &progress{ended: make(chan struct{}), out: json.NewEncoder(out), now: report{First: 1}}
	go func() {
		defer close(p.ended)
		_, _ = io.Copy(io.Discard, in)
	}()
	return p
}

// goesOn reports whether there is more to do.
func (p *progress) goesOn() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// did notes n things that were done and acknowledged.
func (p *progress) did(n int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Last += n
	p.now.Sent += n
	if time.Since(p.told) < 20*time.Millisecond {
		return nil
	}
	p.told = time.Now()
	return p.out.Encode(p.now)
}

func (p *progress) done() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now.Sent
}

func (p *progress) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Closed = true
	return p.out.Encode(p.now)
}
