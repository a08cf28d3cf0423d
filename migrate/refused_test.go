package migrate

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

// A stream that does not belong to a running migration from the host that sends it to this one changes nothing here.
func TestForeignStreamsAreRefused(t *testing.T) {
	hello := func(m helloMsg) func(*stream) {
		return func(s *stream) { _ = s.send(msgHello, m) }
	}
	for name, tt := range map[string]struct {
		peer, here string
		say        func(*stream)
		want       string
	}{
		"unknown operation": {"a", "b", hello(helloMsg{Version: Version, Operation: "op9"}), "record"},
		"another source":    {"c", "b", hello(helloMsg{Version: Version, Operation: operation}), "no running migration"},
		"another target":    {"a", "c", hello(helloMsg{Version: Version, Operation: operation}), "no running migration"},
		"its own target":    {"b", "b", hello(helloMsg{Version: Version, Operation: operation}), "no running migration"},
		"version":           {"a", "b", hello(helloMsg{Version: 99, Operation: operation}), "version 99"},
		"no hello":          {"a", "b", func(s *stream) { _ = s.send(msgAllow, struct{}{}) }, "message"},
		"allow at once": {"a", "b", func(s *stream) {
			hello(helloMsg{Version: Version, Operation: operation})(s)
			_ = s.send(msgAllow, struct{}{})
		}, "out of turn"},
		"nothing at all": {"a", "b", func(*stream) {}, "hung up"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, cluster.ModeLive)
			target := r.target(r.agents["b"])
			target.Name = tt.here
			ours, theirs := connect(t)
			done := make(chan error, 1)
			go func() { done <- target.Serve(bounded(t), theirs, tt.peer, func(string) error { return nil }) }()
			tt.say(newStream(ours))
			_ = ours.(*net.TCPConn).CloseWrite() // what the target answers must still find somebody
			if err := <-done; err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("served: %v", err)
			}
			if c := r.container(); c.Host != "a" || r.op().Status != cluster.OpRunning {
				t.Errorf("the container is on %s, the operation %s", c.Host, r.op().Status)
			}
		})
	}
}

// FuzzImages gives the receiver of checkpoints any stream: what it writes has an image's name and is within bounds.
func FuzzImages(f *testing.F) {
	for _, name := range []string{"pages-1.img", "../evil.img", "a/b.img", "x.sh", "core-1.img\x00", strings.Repeat("n", 200) + ".img"} {
		var b bytes.Buffer
		w := newStream(&b)
		sendOne(w, name, 4, "body")
		_ = w.w.Flush()
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()/2])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		dir := t.TempDir()
		s := newStream(bytes.NewBuffer(in))
		room := budget{files: 3, bytes: 1000}
		for {
			k, body, err := s.receive()
			if err != nil || k != msgImage {
				break
			}
			if err := receiveImage(s, LocalDisk{}, dir, body, &room); err != nil {
				break
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) > 3 {
			t.Fatalf("%d files were written: %v", len(entries), err)
		}
		for _, e := range entries {
			if st, err := e.Info(); err != nil || !imageName.MatchString(e.Name()) || st.Size() > 1001 {
				t.Errorf("%q was written: %v", e.Name(), err)
			}
		}
	})
}

// FuzzMessages reads any message as what it could be.
func FuzzMessages(f *testing.F) {
	good, _ := json.Marshal(readyMsg{Base: "op1.1", Passes: 1, Entries: 7})
	f.Add(byte(msgReady), good)
	f.Add(byte(msgError), []byte(`{"text":"no"}`))
	f.Add(byte(0), []byte{})
	f.Fuzz(func(t *testing.T, k byte, body []byte) {
		var b bytes.Buffer
		w := newStream(&b)
		_ = w.frame(kind(k), body)
		_ = w.w.Flush()
		var ready readyMsg
		if err := newStream(&b).expect(msgReady, &ready, "host2"); err != nil {
			return
		}
		known := &shared{session: "op1.1", passes: 1}
		if base := known.base(ready.Passes, ready.Entries); base != nil {
			t.Errorf("of nothing, %+v makes %v", ready, base)
		}
	})
}
