package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func msAt(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }

func TestTally(t *testing.T) {
	for _, c := range []struct {
		name    string
		replies []int64
		wrong   string
	}{
		{"in order", []int64{1, 2, 3}, ""},
		{"doubled", []int64{1, 3}, "increment 2 is 3: 1 counted twice"},
		{"lost", []int64{1, 2, 1}, "increment 3 is 1: 2 were lost"},
		{"begun above 0", []int64{4}, "increment 1 is 4: 3 counted twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := tally{last: msAt(0)}
			var err error
			for i, r := range c.replies {
				b.ask()
				err = b.reply(r, msAt(i))
			}
			if c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
				t.Errorf("error %v, want %q", err, c.wrong)
			}
		})
	}
}

func TestTallyGap(t *testing.T) {
	b := tally{last: msAt(0)}
	for i, ms := range []int{5, 7, 107, 109} {
		b.ask()
		if err := b.reply(int64(i+1), msAt(ms)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ now, want int }{{110, 100}, {111, 2}, {411, 302}} { // the second: what is under way counts
		if got := b.lap(msAt(c.now)); got != time.Duration(c.want)*time.Millisecond {
			t.Errorf("lap at %d ms: gap %v, want %d ms", c.now, got, c.want)
		}
	}
}

func TestTallyCompare(t *testing.T) {
	b := tally{sent: 10, acked: 9} // one is under way
	for _, c := range []struct{ counter, lost, doubled int64 }{{9, 0, 0}, {10, 0, 0}, {7, 2, 0}, {13, 0, 3}} {
		if lost, doubled := b.compare(c.counter); lost != c.lost || doubled != c.doubled {
			t.Errorf("counter %d: lost %d, doubled %d, want %d and %d", c.counter, lost, doubled, c.lost, c.doubled)
		}
	}
}

func TestLineCheck(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		lines        int
		ended        bool
		wrong        string
	}{
		{"whole", "1\n2\n3\nend\n", 3, true, ""},
		{"under way", "1\n2\n3", 2, false, ""},
		{"missing", "1\n3\nend\n", 1, false, `after line 1 came "3"`},
		{"twice", "1\n2\n2\n", 2, false, `after line 2 came "2"`},
		{"torn", "1\n2\n\n3\n", 2, false, `after line 2 came ""`},
		{"after the end", "1\nend\n2\n", 1, true, "after the end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for piece := 1; piece <= len(c.stream); piece++ {
				l := newLineCheck(func() time.Time { return msAt(0) })
				for part := range slices.Chunk([]byte(c.stream), piece) {
					if n, err := l.Write(part); n != len(part) || err != nil {
						t.Fatal(n, err)
					}
				}
				lines, ended, err := l.state()
				if lines != c.lines || ended != c.ended || fmt.Sprint(err) != "<nil>" != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
					t.Errorf("pieces of %d: %d lines, ended %v, error %v", piece, lines, ended, err)
				}
			}
		})
	}
}

func TestLineCheckGap(t *testing.T) {
	now := msAt(0)
	l := newLineCheck(func() time.Time { return now })
	for i, ms := range []int{900, 920, 1240, 1260} { // the time before the first line is the login
		now = msAt(ms)
		fmt.Fprintf(l, "%d\n", i+1)
	}
	if got := l.longest(); got != 320*time.Millisecond {
		t.Errorf("longest gap %v, want 320ms", got)
	}
}

// redis stands in for a server with one counter; step says how much the n-th increment adds.
func redis(t *testing.T, step func(n int) int64) (addr string, conns *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var value, asked atomic.Int64
	conns = new(atomic.Int64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go func() {
				defer c.Close()
				for in := bufio.NewScanner(c); in.Scan(); {
					switch in.Text() {
					case "INCR":
						fmt.Fprintf(c, ":%d\r\n", value.Add(step(int(asked.Add(1)))))
					case "GET":
						s := fmt.Sprint(value.Load())
						fmt.Fprintf(c, "$%d\r\n%s\r\n", len(s), s)
					}
				}
			}()
		}
	}()
	return l.Addr().String(), conns
}

// counting runs the client with an input that asks for reports until one has so many increments, and returns the last.
func counting(t *testing.T, addr string, atLeast int64) countReport {
	t.Helper()
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- Main(t.Context(), []string{"vzcluster", "demo-client", "count", addr}, stdin, stdout, os.Stderr)
		stdout.Close()
	}()
	reports := json.NewDecoder(out)
	go func() {
		for { // ends when the input is closed
			if _, err := io.WriteString(in, "lap\n"); err != nil {
				return
			}
		}
	}()
	for {
		var r countReport
		if err := reports.Decode(&r); err != nil {
			t.Fatalf("no final report: %v", err)
		}
		if r.Final {
			if c := <-code; c != 0 {
				t.Errorf("exit code %d", c)
			}
			return r
		}
		if r.Acked >= atLeast {
			in.Close()
		}
	}
}

func TestDemoCount(t *testing.T) {
	addr, conns := redis(t, func(int) int64 { return 1 })
	r := counting(t, addr, 100)
	if r.Acked < 100 || r.Sent != r.Acked || r.Counter != r.Acked || r.Lost != 0 || r.Doubled != 0 || r.Error != "" {
		t.Errorf("report %+v", r)
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections, want one for counting and a fresh one", n)
	}
}

func TestDemoCountSeesWhatIsWrong(t *testing.T) {
	for n, want := range map[int64]string{2: "increment 50 is 51: 1 counted twice", 0: "increment 50 is 49: 1 were lost"} {
		addr, _ := redis(t, func(i int) int64 {
			if i == 50 {
				return n
			}
			return 1
		})
		if r := counting(t, addr, 1<<40); !strings.Contains(r.Error, want) {
			t.Errorf("report %+v, want %q", r, want)
		}
	}
}

func TestReadRedisInt(t *testing.T) {
	for text, want := range map[string]int64{":42\r\n": 42, "$2\r\n42\r\n": 42} {
		if n, err := readRedisInt(bufio.NewReader(strings.NewReader(text))); n != want || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"-ERR no\r\n", "$-1\r\n", ":x\r\n", "", ":4"} {
		if n, err := readRedisInt(bufio.NewReader(strings.NewReader(text))); err == nil {
			t.Errorf("%q gave %d, want an error", text, n)
		}
	}
}

func TestDemoHTTP(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusBadGateway) // not up yet
		}
	}))
	defer s.Close()
	var out bytes.Buffer
	if code := Main(t.Context(), []string{"vzcluster", "demo-client", "http", s.Listener.Addr().String()}, nil, &out, &out); code != 0 {
		t.Errorf("code %d: %s", code, out.String())
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("asked %d times, want until the page was good", n)
	}
}

func TestHalf(t *testing.T) {
	var cts []api.Container
	for name, host := range map[string]string{"a": "h1", "b": "h1", "keep": "h1", "c": "h2", "d": "h2", "e": "h3", "f": "h3", "g": "h3", "h": "h3"} {
		cts = append(cts, api.Container{Container: cluster.Container{Name: name, Host: host}})
	}
	slices.SortFunc(cts, func(a, b api.Container) int { return strings.Compare(a.Name, b.Name) })
	gone := half(cts, "keep")
	left := map[string]int{}
	for _, ct := range cts {
		if !slices.Contains(gone, ct.Name) {
			left[ct.Host]++
		}
	}
	if len(gone) != 4 || slices.Contains(gone, "keep") || left["h1"] == 0 || left["h2"] == 0 || left["h3"] == 0 {
		t.Errorf("gone %v, left %v: want 4 of 9, never keep, and something on every host", gone, left)
	}
}

func TestMedian(t *testing.T) {
	for want, ds := range map[float64][]time.Duration{0: nil, 2: {3e9, 1e9, 2e9}, 2.5: {4e9, 1e9, 2e9, 3e9}} {
		if got := median(ds); got != want {
			t.Errorf("median of %v: %v, want %v", ds, got, want)
		}
	}
}

func TestDemoTable(t *testing.T) {
	r := demoResult{
		LabSeconds: 3.04, TotalSeconds: 61,
		Template: demoTemplate{Bytes: 160 << 20, AgeSeconds: 3 * 3600, SendSeconds: 4},
		Create:   demoCreate{Containers: 9, RunningS: 12, MedianS: 7.25, ServingS: 15},
		Moves:    []demoMove{{From: "host1", To: "host2", Blackout: 151, ClientGap: 207, Bytes: 12 << 20, Total: 1500}},
		Count:    countReport{Sent: 5, Acked: 5, Counter: 5}, SSHLines: 7,
		Agent:     demoFault{Host: "host2", Seconds: 1, Containers: 1},
		Leader:    demoFault{Host: "host1", Successor: "host3", Seconds: 2, Containers: 3},
		Destroyed: 5, Consolidated: []demoMove{{Blackout: 140}, {Blackout: 9.5}}, Freed: []string{"host3"},
	}
	got := r.view().table()
	for _, want := range []string{
		"lab of three hosts up             3.0 s", "template, 160M", "tree built 3 hours ago, sent in 4.0 s", "12.0 s in all, median 7.2 s",
		"move 1, host1 -> host2            blackout 151 ms, client's longest wait 207 ms, 12M sent, 1500 ms in all",
		"5 sent, 5 acknowledged, 5 in redis: 0 lost, 0 doubled", "back in 1.0 s, its 1 container kept running",
		"host3 freed by 2 moves, blackout 140 ms, 9.5 ms", "61.0 s",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	r.Template = demoTemplate{BuildS: 50}
	if got := r.view().table(); !strings.Contains(got, "built in 50.0 s") {
		t.Errorf("a tree that was built now is shown as\n%s", got)
	}
}

func TestNarrator(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		var b bytes.Buffer
		n := newNarrator(&b, terminal)
		n.step(1, 2, "Begin")
		w := &lineWriter{say: func(s string) { n.line("%s", s) }}
		for _, part := range []string{"half a ", "line\n\n  100%  \nand", " no end"} {
			fmt.Fprint(w, part)
		}
		n.block("A  B\n1  2\n")
		want := "\n[1/2] Begin\n   0.0 s  half a line\n   0.0 s  100%\n          A  B\n          1  2\n"
		if got := strings.NewReplacer("\x1b[1m", "", "\x1b[0m", "").Replace(b.String()); got != want {
			t.Errorf("terminal %v:\n%q, want\n%q", terminal, got, want)
		}
		if strings.Contains(b.String(), "\x1b") != terminal {
			t.Errorf("terminal %v: %q", terminal, b.String())
		}
	}
}

func TestDemoWords(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{list(nil), ""},
		{list([]string{"a"}), "a"},
		{list([]string{"a", "b", "c"}), "a, b and c"},
		{ago(61 * time.Second), "61 seconds ago"},
		{ago(119 * time.Minute), "119 minutes ago"},
		{ago(49 * time.Hour), "49 hours ago"},
		{lastLine("one\ntwo \n\n"), "two"},
		{lastLine(""), "-"},
		{address(api.Container{Container: cluster.Container{Addresses: []string{"10.1.2.3/16"}}}), "10.1.2.3"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

func TestCounterSessionSaysWhy(t *testing.T) {
	ended := make(chan error, 1)
	ended <- errors.New("it ended with code 1: no route")
	close(ended)
	r, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer in.Close()
	s := &counterSession{in: in, out: json.NewDecoder(strings.NewReader("")), ended: ended}
	for range 2 { // and never hangs
		if _, err = s.read(nil); err == nil {
			t.Fatal("no error")
		}
	}
	s = &counterSession{in: in, out: json.NewDecoder(strings.NewReader(`{"acknowledged": 7, "error": "i/o timeout"}`)), ended: ended}
	if _, err := s.read(nil); err == nil || !strings.Contains(err.Error(), "after 7 increments: i/o timeout") {
		t.Errorf("error %v", err)
	}
}
