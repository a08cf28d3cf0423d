package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/migrate/memory"
)

// held stands for a guard: this test does not die.
type held struct{ lost chan struct{} }

func (h held) Hold(int) error        { return nil }
func (h held) Release() error        { return nil }
func (h held) Lost() <-chan struct{} { return h.lost }

// source keeps the memory of processes that have ended, as a frozen source would still have it.
type source struct {
	send  *memory.Sender
	pages map[memory.Space]map[uint64][]byte
}

func (s *source) answer(w memory.Want) ([]byte, error) {
	out := bytes.NewBuffer(w.Encode())
	for page := w.Page; page < w.Page+uint64(w.N); page++ {
		data := s.pages[w.Space][page]
		if data == nil {
			return nil, fmt.Errorf("page %#x of space %#x is asked for, which it has not", page, uint64(w.Space))
		}
		if err := s.send.Answer(out, w.Space, page, data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// TestLazyMemory lets processes go on without their memory, which follows while they use it, fork and change their mappings.
func TestLazyMemory(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/vm/unprivileged_userfaultfd")
	if err != nil || strings.TrimSpace(string(b)) != "1" {
		t.Skip("processes of a container may not use userfaultfd: vm.unprivileged_userfaultfd is not 1")
	}
	h, s := newHost(t)
	s.Limits.RAM = 512 << 20 // pages that processes had in common are each one's own afterwards
	ctx := t.Context()
	must(t, h.Start(ctx, s))
	// Each process has a big variable that never changes, and grows and shrinks a small one. When asked it forks many times, and
	// every child looks at the big one.
	h.run(`cat > /root/hold <<'END'
x=$(head -c 6000000 /dev/urandom | base64)
echo "$x" | md5sum > /root/before.$1
i=0
while :; do
	i=$((i+1)); y=$y$i; [ ${#y} -lt 60000 ] || y=
	if [ -e /root/ask.$1 ]; then rm /root/ask.$1; for j in 1 2 3 4; do (echo "$x" | md5sum) >> /root/after.new.$1 & done; wait; mv /root/after.new.$1 /root/after.$1; fi
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
	rounds := filepath.Join(images, "rounds")
	must(t, os.MkdirAll(rounds, 0o755))
	send, read := memory.NewSender(), memory.NewReader(false)
	store, err := memory.Open(rounds, func(int64) error { return nil })
	must(t, err)
	defer store.Close()
	pids, err := h.PIDs(101)
	must(t, err)
	var wire bytes.Buffer
	send.Begin(&wire, false)
	must(t, read.Round(ctx, pids, func(space memory.Space, page uint64, data []byte) error { return send.Pages(space, page, data, 0) }))
	must(t, store.Receive(&wire, false))

	root, err := h.Root(ctx, s)
	must(t, err)
	must(t, h.PrepareCheckpoint(images))
	must(t, h.Freeze(ctx, 101))
	began := time.Now()
	must(t, h.CheckpointLazily(s, root, images, func() { t.Logf("images complete after %v", time.Since(began)) }))
	t.Logf("dumped in %v", time.Since(began))
	src := &source{send: send, pages: map[memory.Space]map[uint64][]byte{}}
	if pids, err = h.PIDs(101); err != nil {
		t.Fatal(err)
	}
	must(t, memory.NewReader(false).Round(ctx, pids, func(space memory.Space, page uint64, data []byte) error {
		if src.pages[space] == nil {
			src.pages[space] = map[uint64][]byte{}
		}
		for ; len(data) > 0; page, data = page+1, data[memory.PageSize:] {
			src.pages[space][page] = bytes.Clone(data[:memory.PageSize])
		}
		return nil
	}))
	must(t, h.Kill(ctx, 101))
	must(t, h.PrepareRestore(ctx, s, images))

	var lazy *memory.Lazy
	questions := make(chan memory.Want, 1000)
	lazy, err = memory.Begin(images, memory.LazyNeeds{
		Store: store, Guard: held{make(chan struct{})}, Fail: func(err error) { t.Error(err) },
		Ask: func(q []byte) error {
			w, err := memory.DecodeWant(q)
			questions <- w
			return err
		},
	})
	must(t, err)
	var answered int
	go func() {
		for w := range questions {
			b, err := src.answer(w)
			if err = errors.Join(err, err); err == nil {
				err = lazy.Take(b)
			}
			if err != nil {
				lazy.Lose(err)
			}
			answered++
		}
	}()
	began = time.Now()
	must(t, h.RestoreLazily(ctx, s, images))
	t.Logf("restored in %v, %d questions", time.Since(began), answered)
	if whole, err := (memory.Filler{}).Whole(images); err != nil || whole {
		t.Errorf("nothing of it is missing: %v", err)
	}
	must(t, h.Resume(ctx, s, func() {}))
	h.run("touch /root/ask.1 /root/ask.2")
	n := file("n.1")
	h.eventually("it goes on without its memory", func() bool { return file("n.1") != n })
	t.Logf("%d questions until now", answered)
	must(t, lazy.Rest(ctx))
	t.Logf("%d questions, all is there after %v", answered, time.Since(began))
	if whole, err := (memory.Filler{}).Whole(images); err != nil || !whole {
		t.Errorf("all of it is there: %v", err)
	}
	for _, i := range []string{"1", "2"} {
		h.eventually("process "+i+" answers", func() bool { return file("after."+i) != "" })
		before, after := strings.Fields(file("before."+i)), strings.Fields(file("after."+i))
		if len(after) != 8 {
			t.Errorf("process %s answers %q", i, after)
		}
		for j := 0; j < len(after); j += 2 {
			if before[0] != after[j] {
				t.Errorf("the memory of process %s was %s and is %s", i, before[0], after[j])
			}
		}
		n := file("n." + i)
		h.eventually("process "+i+" goes on", func() bool { return file("n."+i) != n })
	}
	must(t, h.Stop(ctx, 101, false, 20*time.Second))
}
