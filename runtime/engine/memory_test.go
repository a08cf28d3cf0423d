package engine_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/migrate/memory"
	"github.com/vzcluster/vzcluster/runtime"
)

// TestMemory moves a container's memory as a migration does: two rounds while it runs and changes, the rest from CRIU's
// dump, and a restore from what the store has made of it. Each process must find its memory as it was.
func TestMemory(t *testing.T) {
	h, s := newHost(t)
	ctx := t.Context()
	must(t, h.Start(ctx, s))
	// The big variable never changes, the small one does, in a loop and in a child with pages of its own and common ones.
	h.run(`cat > /root/hold <<'END'
x=$(head -c 6000000 /dev/urandom | base64)
echo "$x" | md5sum > /root/before.$1
i=0
while :; do
	i=$((i+1)); y=$y$i; [ ${#y} -lt 60000 ] || y=
	if [ -e /root/ask.$1 ]; then rm /root/ask.$1; echo "$x" | md5sum > /root/after.new; mv /root/after.new /root/after.$1; fi
	echo $i > /root/n.new.$1; mv /root/n.new.$1 /root/n.$1
	usleep 2000
done
END
for i in 1 2; do setsid sh /root/hold $i </dev/null >/dev/null 2>&1 & done`)
	file := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(h.Roots.Layer(101), "root", name))
		return string(b)
	}
	h.eventually("both hold their memory", func() bool { return file("n.1") != "" && file("n.2") != "" })

	images := filepath.Join(h.dir, "images")
	must(t, os.Mkdir(images, 0o755))
	send, read := memory.NewSender(), memory.NewReader(true)
	store, err := memory.Open(images, func(int64) error { return nil })
	must(t, err)
	defer store.Close()
	var first int64
	for range 2 {
		var wire bytes.Buffer
		pids, err := h.PIDs(101)
		must(t, err)
		send.Begin(&wire, false)
		must(t, read.Round(ctx, pids, func(space memory.Space, page uint64, data []byte) error {
			return send.Pages(space, page, data, 0)
		}))
		first = max(first, send.Stats().Bytes)
		must(t, store.Receive(&wire, false))
	}

	// What it must have in the end is what the dump finds, not what the rounds have read.
	root, err := h.Root(ctx, s)
	must(t, err)
	must(t, h.PrepareCheckpoint(images))
	must(t, h.Freeze(ctx, 101))
	wire, dump := io.Pipe()
	send.Begin(dump, true)
	received := make(chan error, 1)
	go func() { received <- store.Receive(wire, true) }()
	err = h.Checkpoint(s, root, images, &runtime.Pages{Serve: func(criu io.ReadWriter) error { return read.Serve(criu, send) }, Marked: read.Tracks()}, func() {})
	must(t, dump.CloseWithError(err))
	must(t, err)
	must(t, <-received)
	if rest := send.Stats().Bytes; first < 16e6 || rest > first/8 {
		t.Errorf("%d bytes in the first round, %d in the dump", first, rest)
	}

	must(t, h.Kill(ctx, 101))
	must(t, h.PrepareRestore(ctx, s, images))
	must(t, memory.Filler{}.Split(images))
	if whole, err := (memory.Filler{}).Whole(images); err != nil || whole {
		t.Errorf("nothing is left to fill: %v", err)
	}
	began := time.Now()
	must(t, h.Restore(ctx, s, images))
	restored := time.Now()
	pids, err := h.PIDs(101)
	must(t, err)
	must(t, memory.Filler{}.Fill(ctx, images, pids))
	t.Logf("restored in %v, filled in %v", restored.Sub(began), time.Since(restored))
	must(t, h.Resume(ctx, s, func() {}))
	for _, i := range []string{"1", "2"} {
		h.run("touch /root/ask." + i)
		h.eventually("process "+i+" answers", func() bool { return file("after."+i) != "" })
		if before, after := strings.Fields(file("before."+i)), strings.Fields(file("after."+i)); before[0] != after[0] {
			t.Errorf("the memory of process %s was %s and is %s", i, before[0], after[0])
		}
		n := file("n." + i)
		h.eventually("process "+i+" goes on", func() bool { return file("n."+i) != n })
	}
	must(t, h.Stop(ctx, 101, false, 20*time.Second))
}
