// Command traffic is both ends of a counter that is incremented over one TCP connection, to find out whether a
// connection and the memory behind it live on. It speaks as much of the redis protocol as INCR takes, so that its
// client counts in redis too.
//
//	traffic serve ADDR FILE   counts in memory and writes every value into FILE, which it holds open
//	traffic hold ADDR MIB     holds so much random memory and answers every line with its checksum
//	traffic witness ADDR DIR  counts in DIR/counter, goes on there after a restart, and beats: see beat
//	traffic count ADDR [REST [N]]  increments over N connections in turn (1) with a rest before each (0s) until its
//	                          input ends, reports on stdout, and fails if a value is not the last one plus one
package main

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long one answer may take; a fault may cost 30 s.
const patience = 60 * time.Second

func main() {
	err := fmt.Errorf("usage: traffic serve ADDR FILE | hold ADDR MIB | witness ADDR DIR | count ADDR [REST [N]]")
	switch {
	case len(os.Args) == 4 && os.Args[1] == "serve":
		err = serve(os.Args[2], os.Args[3])
	case len(os.Args) == 4 && os.Args[1] == "hold":
		err = hold(os.Args[2], os.Args[3])
	case len(os.Args) == 4 && os.Args[1] == "witness":
		err = witness(os.Args[2], os.Args[3])
	case len(os.Args) == 3 && os.Args[1] == "count":
		err = count(os.Args[2], "0s", "1")
	case len(os.Args) == 4 && os.Args[1] == "count":
		err = count(os.Args[2], os.Args[3], "1")
	case len(os.Args) == 5 && os.Args[1] == "count":
		err = count(os.Args[2], os.Args[3], os.Args[4])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(1)
	}
}

func serve(addr, file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	var n atomic.Int64
	return answer(addr, func() (int64, error) {
		v := n.Add(1)
		_, err := fmt.Fprintln(f, v)
		return v, err
	})
}

// witness answers with a counter that outlives it: what was answered is in the file.
func witness(addr, dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "counter"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	var n int64
	if b, err := io.ReadAll(f); err != nil {
		return err
	} else if len(b) > 0 {
		if n, err = strconv.ParseInt(string(b[:counterDigits]), 10, 64); err != nil {
			return err
		}
	}
	failed := make(chan error, 2)
	go func() { failed <- beat(filepath.Join(dir, "beat")) }()
	var one sync.Mutex
	go func() {
		failed <- answer(addr, func() (int64, error) {
			one.Lock()
			defer one.Unlock()
			n++
			_, err := f.WriteAt(fmt.Appendf(nil, "%0*d %-40s\n", counterDigits, n, signature()), 0)
			return n, err
		})
	}()
	return <-failed
}

// counterDigits is how long the number in the counter's file is.
const counterDigits = 20

// signature is which copy of its container this process is in, as a host and a generation; see fault.Mark.
func signature() string {
	b, err := os.ReadFile("/run/copy")
	if err != nil {
		return "nowhere 0"
	}
	return strings.TrimSpace(string(b))
}

// beat writes a line every few milliseconds as long as it runs: when this process began, a number in memory, the time,
// which copy this is, and a checksum, since who reads along may meet the file while it is being moved. Two copies of the same memory that both run write the same number at different times.
func beat(file string) error {
	const most = 64 << 10
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	life, size := time.Now().UnixNano(), 0
	for n := 0; ; n++ {
		if size > most {
			if err := f.Truncate(0); err != nil {
				return err
			}
			size = 0
		}
		line := fmt.Sprintf("%d %d %d %s", life, n, time.Now().UnixNano(), signature())
		written, err := fmt.Fprintf(f, "%s %d\n", line, crc32.ChecksumIEEE([]byte(line)))
		if err != nil {
			return err
		}
		size += written
		time.Sleep(10 * time.Millisecond)
	}
}

func hold(addr, mib string) error {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return err
	}
	memory := make([]byte, n<<20)
	_, _ = rand.Read(memory) // never fails
	return answer(addr, func() (int64, error) { return int64(crc32.ChecksumIEEE(memory)), nil })
}

// answer answers every line of every connection with a number.
func answer(addr string, number func() (int64, error)) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			for r := bufio.NewReader(conn); ; {
				if _, err := r.ReadString('\n'); err != nil {
					return
				}
				v, err := number()
				if err != nil {
					return
				}
				if _, err := fmt.Fprintf(conn, ":%d\r\n", v); err != nil {
					return
				}
			}
		}()
	}
}

// report is one line of the client's output.
type report struct {
	First  int64   `json:"first"`
	Last   int64   `json:"last"`
	Sent   int64   `json:"sent"`
	GapMS  float64 `json:"gap_ms"` // the longest wait for an answer
	Closed bool    `json:"closed"` // the last report of an orderly end
}

// connection is one of the client's.
type connection struct {
	net.Conn
	answers *bufio.Reader
}

func connect(addr string, n int) (conns []connection, err error) {
	for range n {
		conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
		if err != nil {
			return conns, err
		}
		conns = append(conns, connection{conn, bufio.NewReader(conn)})
	}
	return conns, nil
}

func count(addr, restBefore, connections string) error {
	rest, err := time.ParseDuration(restBefore)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(connections)
	if err != nil {
		return err
	}
	conns, err := connect(addr, n)
	for _, c := range conns {
		defer c.Close()
	}
	if err != nil {
		return err
	}
	var ended atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		ended.Store(true)
	}()
	out := json.NewEncoder(os.Stdout)
	var r report
	var told time.Time
	for !ended.Load() {
		time.Sleep(rest)
		asked := time.Now()
		v, err := conns[r.Sent%int64(n)].increment()
		if err != nil {
			return errors.Join(fmt.Errorf("after %d: %w", r.Last, err), out.Encode(r))
		}
		if r.Sent > 0 && v != r.Last+1 {
			return fmt.Errorf("%d came after %d", v, r.Last)
		}
		if r.Sent == 0 {
			r.First = v
		}
		r.Last, r.Sent = v, r.Sent+1
		r.GapMS = max(r.GapMS, float64(time.Since(asked).Microseconds())/1000)
		if rest > 0 || time.Since(told) > 20*time.Millisecond {
			told = time.Now()
			if err := out.Encode(r); err != nil {
				return err
			}
		}
	}
	r.Closed = true
	return out.Encode(r)
}

func (c connection) increment() (int64, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(c, "INCR counter\r\n"); err != nil {
		return 0, err
	}
	line, err := c.answers.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(strings.TrimPrefix(line, ":")), 10, 64)
}
