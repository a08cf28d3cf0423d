package memory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracked is a process whose written pages the kernel marks (soft-dirty), and what the rounds have read of it.
//
// The marks are cleared once, before the first round: what is written between looking at them and clearing them would be
// lost. Marks alone are not enough. When mremap moves a whole page table the kernel forgets to mark its pages, which then
// look like those that were at this address before; so a page must also lie in the same frame as when it was read.
type tracked struct {
	pid     int
	started uint64         // when, in ticks: numbers are given anew
	read    *table[uint64] // mark and frame of what was read; nil: unknown, everything has to be read
}

// Parts of an entry of /proc/PID/pagemap.
const (
	pmWritten = 1 << 55
	pmNumber  = 1<<55 - 1 // of the frame, or where it is swapped to; zero if we may not see it
	pmFrame   = pmNumber | pmPresent | pmSwapped
)

// same says whether a page is as it was read.
func (p *tracked) same(page, entry uint64) bool {
	if p.read == nil {
		return false
	}
	was := p.read.get(page)
	if was&pmFrame != entry&pmFrame || entry&pmNumber == 0 {
		return false
	}
	if was&pmWritten != 0 && entry&pmWritten == 0 { // somebody else has cleared the marks
		p.read = nil
		return false
	}
	return entry&pmWritten == 0
}

// look says whether a round has to read a page, and notes that it does.
func (p *tracked) look(page, entry uint64) bool {
	if p.same(page, entry) {
		return false
	}
	if p.read != nil {
		p.read.set(page, entry&(pmFrame|pmWritten))
	}
	return true
}

// marks says whether this kernel marks pages that are written, by trying it.
func marks() bool {
	page, err := unix.Mmap(-1, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Munmap(page) }()
	at := uint64(uintptr(unsafe.Pointer(&page[0]))) / PageSize
	page[0] = 1
	self := os.Getpid()
	if clearMarks(self) != nil {
		return false
	}
	before, err := entryOf(self, at)
	page[0] = 2
	after, err2 := entryOf(self, at)
	return err == nil && err2 == nil && before&pmWritten == 0 && after&pmWritten != 0
}

func entryOf(pid int, page uint64) (e uint64, err error) {
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return 0, err
	}
	defer pagemap.Close()
	err = entries(pagemap, region{start: page * PageSize, end: (page + 1) * PageSize}, func(_, entry uint64) error {
		e = entry
		return nil
	})
	return e, err
}

func clearMarks(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("4"), 0)
}

// begin clears the marks of all processes, before any of them is read: some may share their memory. Descendants that
// come later have the marks of their parents; those of others are all set.
func (r *Reader) begin(pids []int) error {
	for _, pid := range pids {
		inside, err := insidePID(pid)
		if err == nil && clearsItself(pid) {
			r.seen[ProcessSpace(inside)] = &tracked{pid: pid}
			continue
		}
		if err == nil {
			err = clearMarks(pid)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("track what process %d writes: %w", pid, err)
		}
	}
	return nil
}

// clearsItself says that a process uses marks of its own, as some garbage collectors do. They must not be taken from it.
func clearsItself(pid int) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && strings.HasPrefix(to, "/proc/") && strings.HasSuffix(to, "/clear_refs") {
			return true
		}
	}
	return false
}

// track returns what is known of a process, nil if the kernel does not mark what is written.
func (r *Reader) track(pid int, space Space) (*tracked, error) {
	if !r.marks {
		return nil, nil
	}
	started, err := startOf(pid)
	if err != nil {
		return nil, err
	}
	p := r.seen[space]
	if p == nil || p.pid != pid || p.read != nil && p.started != started {
		p = &tracked{pid: pid, started: started, read: newTable[uint64]()}
		r.seen[space] = p
	}
	return p, nil
}

// startOf is when a process began.
func startOf(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 {
		return 0, errors.New("the kernel does not say when the process began")
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// Tracks says whether the kernel tells which pages were written.
func (r *Reader) Tracks() bool { return r != nil && r.marks }

// unwritten lists the pages of a process that stands still which are as a round has read them; nil: unknown.
func (r *Reader) unwritten(space Space) (*table[bool], error) {
	if !r.Tracks() {
		return nil, nil
	}
	p := r.seen[space]
	if p == nil || p.read == nil {
		return nil, nil
	}
	if started, err := startOf(p.pid); err != nil || started != p.started {
		return nil, nil // it has ended, and another one has its number inside
	}
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", p.pid))
	if err != nil {
		return nil, err
	}
	defer pagemap.Close()
	regions, err := readMaps(p.pid)
	if err != nil {
		return nil, err
	}
	same := newTable[bool]()
	for _, reg := range regions {
		if reg.shared {
			continue
		}
		err := entries(pagemap, reg, func(page, e uint64) error {
			if own(reg, e) && p.same(page, e) {
				same.set(page, true)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if p.read == nil {
		return nil, nil
	}
	return same, nil
}
