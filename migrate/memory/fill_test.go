package memory

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
	"unsafe"
)

func writeImage(t *testing.T, dir, name string, messages ...[]byte) {
	t.Helper()
	b := make([]byte, 8)
	for _, m := range messages {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(m))), m...)
	}
	must(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
}

// message makes a message out of numbers and their values.
func message(numbers ...uint64) (b []byte) {
	for i := 0; i < len(numbers); i += 2 {
		b = field(b, int(numbers[i]), numbers[i+1])
	}
	return b
}

// nest appends a message as a field of another one.
func nest(b []byte, number int, content []byte) []byte {
	b = binary.AppendUvarint(b, uint64(number)<<3|2)
	return append(binary.AppendUvarint(b, uint64(len(content))), content...)
}

func mapped(first, n, prot, flags, status uint64) []byte {
	return message(1, first*PageSize, 2, (first+n)*PageSize, 3, 0, 4, 0, 5, prot, 6, flags, 7, status, 8, 1)
}

// checkpoint makes what the store and CRIU make of two processes, the second one forked from the first.
func checkpoint(t *testing.T) (dir string, c content) {
	t.Helper()
	parent, child := ProcessSpace(1), ProcessSpace(2)
	c = content{parent: {}, child: {}}
	for at := uint64(100); at < 700; at++ {
		if at%7 != 0 {
			c[parent][at], c[child][at] = page(1, byte(at), byte(at>>8)), page(2, byte(at), byte(at>>8))
		}
	}
	s := NewSender()
	store, dir := newStore(t, free)
	var wire bytes.Buffer
	s.Begin(&wire, false)
	must(t, c.round(s))
	must(t, store.Receive(&wire, false))
	c[parent][203], c[parent][301] = page(3), page(4) // new ones move others; 203 is divisible by 7
	delete(c[parent], 150)
	s.Begin(&wire, true)
	_, err := serve(t, c, s)
	must(t, err)
	must(t, store.Receive(&wire, true))

	const anon = vmaRegular | vmaAnon
	maps := func(pid int, all ...[]byte) {
		b := message(1, 77)
		for _, m := range append([][]byte{mapped(100, 100, 3, mapPrivate, anon)}, all...) {
			b = nest(b, 14, m)
		}
		writeImage(t, dir, fmt.Sprintf("mm-%d.img", pid), b)
	}
	writeImage(t, dir, "pstree.img", message(1, 1, 2, 0, 5, 1), message(1, 2, 2, 1, 5, 2), message(1, 3, 2, 1, 5, 3)) // 3 has ended
	maps(1, mapped(200, 200, 3, mapPrivate, anon), mapped(400, 100, 1, mapPrivate, anon),
		mapped(500, 100, 3, mapPrivate|mapGrowDown, anon), mapped(600, 100, 3, mapPrivate, vmaRegular|vmaFile))
	maps(2, mapped(200, 300, 3, mapPrivate, anon), mapped(500, 200, 3, mapPrivate, anon|1<<13))
	thread := nest(message(1, 1), threadCore, nest(message(1, 5), threadRseq, message(1, 250*PageSize+100, 2, 32)))
	writeImage(t, dir, "core-1.img", thread)
	writeImage(t, dir, "core-2.img", thread)
	return dir, c
}

// What CRIU restores and what Fill writes are together what was dumped; Fill has only what can be written from outside,
// and nothing that CRIU restores in a way of its own.
func TestSplit(t *testing.T) {
	dir, c := checkpoint(t)
	for range 2 { // it may be repeated
		must(t, Filler{}.Split(dir))
	}
	if whole, err := (Filler{}).Whole(dir); err != nil || whole {
		t.Errorf("whole: %v, %v", whole, err)
	}
	fillable := map[int]func(at uint64) bool{
		1: func(at uint64) bool { return at >= 200 && at < 400 && at != 250 || at >= 600 },
		2: func(at uint64) bool { return at >= 200 && at < 500 && at != 250 },
	}
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	for pid, can := range fillable {
		space := ProcessSpace(pid)
		number, fill, err := readPlan(root, pid)
		must(t, err)
		got := load(t, dir, space)
		for at := range got {
			if can(at) {
				t.Errorf("CRIU restores page %d of process %d", at, pid)
			}
		}
		pages, err := os.ReadFile(filepath.Join(dir, "pages-"+string('0'+byte(number))+".img"))
		must(t, err)
		for _, r := range fill {
			for i := range uint64(r.n) {
				if !can(r.page + i) {
					t.Errorf("page %d of process %d is written from outside", r.page+i, pid)
				}
				at := (uint64(r.at) + i) * PageSize
				got[r.page+i] = pages[at : at+PageSize]
			}
		}
		if len(got) != len(c[space]) {
			t.Errorf("process %d has %d pages, want %d", pid, len(got), len(c[space]))
		}
		for at, want := range c[space] {
			if !bytes.Equal(got[at], want) {
				t.Errorf("page %d of process %d is wrong", at, pid)
			}
		}
	}
	must(t, Filler{}.Join(dir))
	c.same(t, dir)
	if whole, err := (Filler{}).Whole(dir); err != nil || !whole {
		t.Errorf("joined, it is whole: %v, %v", whole, err)
	}
}

// TestFill writes into a process, a copy of this test, which has memory and waits.
func TestFill(t *testing.T) {
	if os.Getenv("FILL_ME") != "" {
		hold := make([]byte, 600*PageSize)
		first := (uintptr(unsafe.Pointer(&hold[0])) + PageSize - 1) / PageSize
		must(t, binary.Write(os.Stdout, binary.NativeEndian, uint64(first)))
		_, _ = os.Stdin.Read(make([]byte, 1))
		off := first*PageSize - uintptr(unsafe.Pointer(&hold[0]))
		_, _ = os.Stdout.Write(hold[off : off+500*PageSize])
		os.Exit(0)
	}
	cmd := exec.Command(os.Args[0], "-test.run=TestFill")
	cmd.Env = append(os.Environ(), "FILL_ME=1")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	stop := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	var first uint64
	must(t, binary.Read(out, binary.NativeEndian, &first))

	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	content, want := make([]byte, 900*PageSize), make([]byte, 500*PageSize)
	for i := range content {
		content[i] = byte(i/PageSize + i%251)
	}
	must(t, os.WriteFile(filepath.Join(dir, "pages-1.img"), content, 0o644))
	var fill []run
	for _, r := range []run{{0, 300, 2, 0}, {310, 1, 310, 0}, {312, 1, 311, 0}, {320, 170, 700, 0}} {
		copy(want[r.page*PageSize:], content[r.at*PageSize:(r.at+r.n)*PageSize])
		r.page += first
		fill = append(fill, r)
	}
	must(t, writePlan(root, cmd.Process.Pid, 1, fill))
	must(t, root.WriteFile(unfilledName, nil, 0o600))
	if err := (Filler{}).Fill(t.Context(), dir, []int{os.Getpid()}); err == nil {
		t.Error("filled a process that is not there")
	}
	must(t, Filler{}.Fill(t.Context(), dir, []int{cmd.Process.Pid}))
	if whole, err := (Filler{}).Whole(dir); err != nil || !whole {
		t.Errorf("filled, it is whole: %v, %v", whole, err)
	}
	must(t, in.Close())
	got := make([]byte, len(want))
	if _, err := out.Read(got[:0]); err != nil {
		t.Fatal(err)
	}
	n := 0
	for n < len(got) {
		k, err := out.Read(got[n:])
		must(t, err)
		n += k
	}
	if !bytes.Equal(got, want) {
		t.Error("the process has other memory than it was filled with")
	}
	must(t, cmd.Wait())
}
