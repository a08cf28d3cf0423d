package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"
)

// demoClientCommand is what the demo runs on the machine outside.
func demoClientCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "demo-client", Hidden: true, Usage: "the demo's clients outside",
		Subcommands: []*cli.Command{
			{Name: "count", Usage: "increment a redis counter until the end of stdin; report for every line of it", ArgsUsage: "HOST:PORT", Action: e.demoCount},
			{Name: "http", Usage: "wait until every address serves a page", ArgsUsage: "ADDR...", Action: e.demoHTTP},
		},
	}
}

const (
	demoKey      = "demo:counter"
	replyTimeout = 30 * time.Second // longer than any move
)

// countReport is what the counting client says after every line of its input and at the end.
type countReport struct {
	Sent    int64   `json:"sent"`
	Acked   int64   `json:"acknowledged"`
	GapMS   float64 `json:"longest_gap_ms"` // since the report before
	Client  string  `json:"client"`         // its end of the connection
	Final   bool    `json:"final"`
	Counter int64   `json:"counter"` // final: what a fresh connection reads
	Lost    int64   `json:"lost"`
	Doubled int64   `json:"doubled"`
	Error   string  `json:"error,omitempty"`
}

// counter increments over one connection, waiting for every reply.
type counter struct {
	server string
	conn   net.Conn
	in     *bufio.Reader
	out    *json.Encoder
	done   atomic.Bool

	mu    sync.Mutex // what follows, and out
	books tally
}

func (e *env) demoCount(c *cli.Context) error {
	if err := countArgs(c, 1, 1); err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", c.Args().First(), 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	k := &counter{server: c.Args().First(), conn: conn, in: bufio.NewReader(conn), out: json.NewEncoder(e.stdout)}
	k.books.last = time.Now()
	go k.listen(e.stdin)
	return k.finish(k.run())
}

// listen reports for every line and stops the counting at the end of the input.
func (k *counter) listen(stdin io.Reader) {
	defer k.done.Store(true)
	for lines := bufio.NewScanner(stdin); lines.Scan(); {
		k.mu.Lock()
		_ = k.out.Encode(k.report()) // nobody listens: the input ends too
		k.mu.Unlock()
	}
}

func (k *counter) report() countReport {
	return countReport{
		Sent: k.books.sent, Acked: k.books.acked, Client: k.conn.LocalAddr().String(),
		GapMS: float64(k.books.lap(time.Now()).Microseconds()) / 1000,
	}
}

func (k *counter) run() error {
	for !k.done.Load() {
		k.mu.Lock()
		k.books.ask()
		k.mu.Unlock()
		n, err := redisInt(k.conn, k.in, "INCR", demoKey)
		if err != nil {
			return err
		}
		k.mu.Lock()
		err = k.books.reply(n, time.Now())
		k.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// finish compares the books with what a fresh connection reads.
func (k *counter) finish(failed error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.report()
	r.Final = true
	conn, err := net.DialTimeout("tcp", k.server, 5*time.Second)
	if err == nil {
		defer conn.Close()
		r.Counter, err = redisInt(conn, bufio.NewReader(conn), "GET", demoKey)
	}
	if err == nil {
		r.Lost, r.Doubled = k.books.compare(r.Counter)
	}
	if err := errors.Join(failed, err); err != nil {
		r.Error = err.Error()
	}
	return k.out.Encode(r)
}

// redisInt sends one command and reads its reply, which must be a number.
func redisInt(conn net.Conn, in *bufio.Reader, args ...string) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if err := conn.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return 0, err
	}
	return readRedisInt(in)
}

// readRedisInt reads ":N" or a bulk string that is a number.
func readRedisInt(in *bufio.Reader) (int64, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if strings.HasPrefix(line, "$") && line != "$-1\r\n" {
		if line, err = in.ReadString('\n'); err != nil {
			return 0, err
		}
		line = ":" + line
	}
	text, isInt := strings.CutPrefix(strings.TrimRight(line, "\r\n"), ":")
	n, err := strconv.ParseInt(text, 10, 64)
	if !isInt || err != nil {
		return 0, fmt.Errorf("redis answered %q where a number was expected", strings.TrimSpace(line))
	}
	return n, nil
}

func (e *env) demoHTTP(c *cli.Context) error {
	if err := countArgs(c, 1, -1); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, demoPatience)
	defer cancel()
	var g errgroup.Group
	for _, addr := range c.Args().Slice() {
		g.Go(func() error {
			for {
				err := fetch(ctx, "http://"+addr+"/")
				if err == nil {
					return nil
				}
				if e.pause(ctx, 100*time.Millisecond) != nil {
					return fmt.Errorf("%s serves no page: %w", addr, err)
				}
			}
		})
	}
	return g.Wait()
}

// fetch gets a page over a connection of its own.
func fetch(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}
