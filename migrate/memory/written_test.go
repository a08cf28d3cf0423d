package memory

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestMarksAndFramesDecide(t *testing.T) {
	const frame, other = pmPresent | 7, pmPresent | 8
	for name, tt := range map[string]struct {
		was, is uint64
		same    bool
		unknown bool
	}{
		"as it was read":            {frame, frame, true, false},
		"written":                   {frame, frame | pmWritten, false, false},
		"written before and since":  {frame | pmWritten, frame | pmWritten, false, false},
		"moved, as mremap does it":  {frame, other, false, false},
		"swapped out":               {frame, pmSwapped | 7, false, false},
		"never read":                {0, frame, false, false},
		"we may not see the frame":  {pmPresent, pmPresent, false, false},
		"somebody cleared the mark": {frame | pmWritten, frame, false, true},
	} {
		p := &tracked{read: newTable[uint64]()}
		p.read.set(5, tt.was)
		if got := p.same(5, tt.is); got != tt.same || (p.read == nil) != tt.unknown {
			t.Errorf("%s: same %v, unknown %v", name, got, p.read == nil)
		}
	}
}

// anonymous maps pages; at zero the kernel chooses where.
func anonymous(at uintptr, pages int) uintptr {
	flags := uintptr(unix.MAP_PRIVATE | unix.MAP_ANONYMOUS)
	if at != 0 {
		flags |= unix.MAP_FIXED
	}
	at, _, errno := unix.Syscall6(unix.SYS_MMAP, at, uintptr(pages*PageSize), unix.PROT_READ|unix.PROT_WRITE, flags, ^uintptr(0), 0)
	if errno != 0 {
		panic(errno)
	}
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, at, uintptr(pages*PageSize), unix.MADV_NOHUGEPAGE)
	return at
}

// poke writes to a page outside of Go's heap.
func poke(at uintptr, page int, v byte) {
	*(*byte)(unsafe.Add(*(*unsafe.Pointer)(unsafe.Pointer(&at)), page*PageSize)) = v
}

// CRIU may leave out what was read and not written since. What it leaves out and was never read, or lies in another frame
// by now, is read when it is left out.
func TestLeftOutPagesAreCheckedByFrame(t *testing.T) {
	const pages = 600
	at := anonymous(0, pages)
	for i := range pages {
		poke(at, i, byte(i)|1)
	}
	must(t, clearMarks(os.Getpid()))
	pid, first := os.Getpid(), uint64(at/PageSize)
	inside, err := insidePID(pid)
	must(t, err)
	space := ProcessSpace(inside)
	started, err := startOf(pid)
	must(t, err)
	p := &tracked{pid: pid, started: started, read: newTable[uint64]()}
	r := &Reader{marks: true, begun: true, seen: map[Space]*tracked{space: p}}
	send, c := NewSender(), content{space: {}}
	store, dir := newStore(t, free)
	var wire bytes.Buffer
	send.Begin(&wire, false)
	for i := range pages { // the round has not seen every page
		c[space][first+uint64(i)] = page(byte(i) | 1)
		if i%7 != 0 {
			e, err := entryOf(pid, first+uint64(i))
			must(t, err)
			p.look(first+uint64(i), e)
			must(t, send.Pages(space, first+uint64(i), c[space][first+uint64(i)], 0))
		}
	}
	must(t, store.Receive(&wire, false))
	for i := 100; i < 200; i++ { // other memory comes in its place, unmarked as after a move of page tables
		c[space][first+uint64(i)] = page(250)
	}
	anonymous(at+100*PageSize, 100)
	for i := 100; i < 200; i++ {
		poke(at, i, 250)
	}
	must(t, clearMarks(pid))
	send.Begin(&wire, true)
	must(t, leaveOut(send, r, space, first, pages))
	if got := send.Stats(); got.Pages != pages || got.Sent > 100+pages/7+1 {
		t.Errorf("the last pass: %+v", got)
	}
	must(t, store.Receive(&wire, true))
	c.same(t, dir)
}

// leaveOut is a CRIU that leaves out all pages.
func leaveOut(send *Sender, r *Reader, space Space, first uint64, pages int) error {
	theirs, ours := net.Pipe()
	done := make(chan error, 1)
	go func() {
		defer theirs.Close()
		parent, err := say(theirs, psOpen2, 0, 0, space)
		if err == nil && !parent {
			err = errors.New("nothing may be left out")
		}
		if err == nil {
			_, err = say(theirs, psAddFlags|peParent<<psFlagShift, uint64(pages), first*PageSize, space)
		}
		if err == nil {
			_, err = say(theirs, psForceClose, 0, 0, 0)
		}
		done <- err
	}()
	err := Serve(ours, send, r)
	ours.Close()
	return errors.Join(err, <-done)
}

// say is one command of CRIU and what is answered.
func say(conn net.Conn, cmd uint32, pages, addr uint64, space Space) (parent bool, err error) {
	var b [psSize]byte
	binary.NativeEndian.PutUint32(b[:], cmd)
	binary.NativeEndian.PutUint64(b[8:], pages)
	binary.NativeEndian.PutUint64(b[16:], addr)
	binary.NativeEndian.PutUint64(b[24:], uint64(space))
	if _, err := conn.Write(b[:]); err != nil {
		return false, err
	}
	switch cmd {
	case psOpen2:
		answer := make([]byte, 1)
		_, err = io.ReadFull(conn, answer)
		return answer[0] != 0, err
	case psForceClose:
		var status int32
		if err = binary.Read(conn, binary.NativeEndian, &status); err == nil && status != 0 {
			err = fmt.Errorf("status %d", status)
		}
	}
	return false, err
}

// Processes write, map, unmap, move, give up and fork all the time, while rounds read them. In the end they are stopped:
// the images must hold what reading all of it finds.
func TestTrackedRoundsAgreeWithReadingAll(t *testing.T) {
	if !marks() {
		t.Skip("this kernel does not mark written pages")
	}
	for seed := range uint64(6) {
		restless := startRestless(t, seed)
		read, send := NewReader(true), NewSender()
		store, dir := newStore(t, func(int64) error { return nil })
		var all, last int
		for i := range 4 {
			var wire bytes.Buffer
			send.Begin(&wire, false)
			must(t, read.Round(t.Context(), restless.pids(t), func(space Space, first uint64, data []byte) error {
				return send.Pages(space, first, data, 0)
			}))
			if last = send.Stats().Pages; i == 0 {
				all = last
			}
			must(t, store.Receive(&wire, false))
			if seed%3 == 1 && i == 2 {
				must(t, clearMarks(restless.pids(t)[0])) // somebody who should not
			}
			restless.goesOn(t)
		}
		pids := restless.stop(t)
		want := content{}
		must(t, (&Reader{}).Round(t.Context(), pids, func(space Space, first uint64, data []byte) error {
			if want[space] == nil {
				want[space] = map[uint64][]byte{}
			}
			for i := 0; i < len(data); i += PageSize {
				want[space][first+uint64(i/PageSize)] = bytes.Clone(data[i : i+PageSize])
			}
			return nil
		}))
		var wire bytes.Buffer
		send.Begin(&wire, true)
		left, err := dumpMarked(pids, send, read)
		must(t, err)
		must(t, store.Receive(&wire, true))
		want.same(t, dir)
		t.Logf("seed %d: %d processes; %d pages in the first round, %d in the last; of %d in the end %d were left out",
			seed, len(pids), all, last, send.Stats().Pages, left)
		if seed%3 != 1 && left == 0 {
			t.Error("nothing was left out")
		}
		if t.Failed() {
			return
		}
	}
}

// dumpMarked dumps stopped processes as CRIU does: of those that may be, it leaves out pages that are not marked.
func dumpMarked(pids []int, send *Sender, r *Reader) (left int, err error) {
	theirs, ours := net.Pipe()
	done := make(chan error, 1)
	go func() {
		defer theirs.Close()
		for _, pid := range pids {
			n, err := dumpProcess(theirs, pid)
			left += n
			if err != nil {
				done <- err
				return
			}
		}
		_, err := say(theirs, psForceClose, 0, 0, 0)
		done <- err
	}()
	err = Serve(ours, send, r)
	ours.Close()
	return left, errors.Join(err, <-done)
}

func dumpProcess(conn net.Conn, pid int) (left int, err error) {
	inside, err := insidePID(pid)
	if err != nil {
		return 0, err
	}
	space := ProcessSpace(inside)
	parent, err := say(conn, psOpen2, 0, 0, space)
	if err != nil {
		return 0, err
	}
	regions, err := readMaps(pid)
	if err != nil {
		return 0, err
	}
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return 0, err
	}
	defer pagemap.Close()
	buf := make([]byte, PageSize)
	for _, reg := range regions {
		err := entries(pagemap, reg, func(page, e uint64) error {
			if reg.shared || !own(reg, e) {
				return nil
			}
			if parent && e&pmWritten == 0 {
				left++
				_, err := say(conn, psAddFlags|peParent<<psFlagShift, 1, page*PageSize, space)
				return err
			}
			return readRun(pid, page*PageSize, 1, buf, func(addr uint64, data []byte) error {
				if _, err := say(conn, psAddFlags|pePresent<<psFlagShift, 1, addr, space); err != nil {
					return err
				}
				_, err := conn.Write(data)
				return err
			})
		})
		if err != nil {
			return left, err
		}
	}
	return left, nil
}

// restless is a process that changes its memory, with its descendants.
type restless struct {
	cmd  *exec.Cmd
	file string // its first page counts what it does
}

const restlessSeed = "VZCLUSTER_TEST_RESTLESS"

func startRestless(t *testing.T, seed uint64) *restless {
	t.Helper()
	r := &restless{cmd: exec.Command(os.Args[0], "-test.run=^TestBeRestless$"), file: filepath.Join(t.TempDir(), "count")}
	must(t, os.WriteFile(r.file, make([]byte, PageSize), 0o600))
	r.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", restlessSeed, seed, r.file), "GODEBUG=asyncpreemptoff=1")
	r.cmd.Stderr = os.Stderr
	must(t, r.cmd.Start())
	t.Cleanup(func() {
		for _, pid := range r.pids(t) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = r.cmd.Wait()
	})
	r.goesOn(t)
	return r
}

func (r *restless) count(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile(r.file)
	must(t, err)
	return binary.NativeEndian.Uint64(b)
}

// goesOn waits until it has done a few dozen more things.
func (r *restless) goesOn(t *testing.T) {
	t.Helper()
	until(t, func(from uint64) bool { return r.count(t) > from+40 }, r.count(t))
}

func until[T any](t *testing.T, met func(T) bool, v T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for !met(v) {
		select {
		case <-ctx.Done():
			t.Fatal("it has not come about within two minutes")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// pids are the process and its descendants.
func (r *restless) pids(t *testing.T) []int {
	t.Helper()
	all := []int{r.cmd.Process.Pid}
	for i := 0; i < len(all); i++ {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		for _, file := range tasks {
			b, _ := os.ReadFile(file)
			for _, f := range strings.Fields(string(b)) {
				pid, err := strconv.Atoi(f)
				must(t, err)
				all = append(all, pid)
			}
		}
	}
	return all
}

// stop returns when all stand still.
func (r *restless) stop(t *testing.T) (pids []int) {
	t.Helper()
	must(t, unix.Kill(r.cmd.Process.Pid, unix.SIGSTOP)) // it forks no more
	stopped := func(pid int) bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, file := range tasks {
			if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), ") T ") {
				return false
			}
		}
		return len(tasks) > 0
	}
	until(t, stopped, r.cmd.Process.Pid)
	for _, pid := range r.pids(t) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			continue
		}
		must(t, unix.Kill(pid, unix.SIGSTOP))
		until(t, stopped, pid)
		pids = append(pids, pid)
	}
	return pids
}

// TestBeRestless is that process.
func TestBeRestless(t *testing.T) {
	var seed uint64
	var file string
	if _, err := fmt.Sscan(os.Getenv(restlessSeed), &seed, &file); err != nil {
		t.Skip("only for the test above")
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	must(t, err)
	count, err := unix.Mmap(int(f.Fd()), 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	r := rand.New(rand.NewPCG(seed, 4))
	// A few areas of 2 MiB, as large as a page table, at places that keep coming back.
	const areas, pages = 4, 512
	base := (anonymous(0, (areas+1)*pages) + pages*PageSize - 1) &^ (pages*PageSize - 1)
	at := func(area int) uintptr { return base + uintptr(area*pages*PageSize) }
	for i := range areas * pages {
		poke(base, i, byte(r.Uint32())|1)
	}
	forks := 0
	for n := uint64(1); ; n++ {
		area, other := r.IntN(areas), r.IntN(areas)
		from, length := r.IntN(pages), uintptr(r.IntN(40)+1)
		switch r.IntN(12) {
		case 0:
			anonymous(at(area), pages)
		case 1:
			if area != other { // whole page tables
				_, _, _ = unix.Syscall6(unix.SYS_MREMAP, at(area), pages*PageSize, pages*PageSize, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, at(other), 0)
				anonymous(at(area), pages)
				poke(at(area), from, byte(n)|1)
			}
		case 2:
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, at(area)+uintptr(from*PageSize), min(length, uintptr(pages-from))*PageSize, unix.MADV_DONTNEED)
		case 3:
			_, _, _ = unix.Syscall(unix.SYS_MPROTECT, at(area)+uintptr(from*PageSize), PageSize, unix.PROT_READ)
			_, _, _ = unix.Syscall(unix.SYS_MPROTECT, at(area), pages*PageSize, unix.PROT_READ|unix.PROT_WRITE)
		case 4:
			if forks < 4 && n > 30 {
				forks++
				forkRestless(base, areas*pages, uint32(n))
			}
		default:
			for i := range r.IntN(20) {
				poke(at(area), (from+i*7)%pages, byte(n)|1)
			}
		}
		binary.NativeEndian.PutUint64(count, n)
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
	}
}

// forkRestless forks a process that writes for ever, with nothing but system calls: Go's runtime has only one thread there.
func forkRestless(base uintptr, pages int, x uint32) {
	pid, _, _ := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid != 0 {
		return
	}
	pause := unix.Timespec{Nsec: 2e6}
	for {
		x = x*1664525 + 1013904223
		poke(base, int(x>>8)%pages, byte(x>>4)|1)
		_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
	}
}
