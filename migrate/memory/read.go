package memory

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Reader reads the memory of running processes for one migration. On kernels that mark written pages a round reads only
// what was written since the first one began.
type Reader struct {
	marks bool
	begun bool
	seen  map[Space]*tracked
}

// NewReader returns a reader that has read nothing yet. Track says that the kernel shall mark written pages, if it can.
func NewReader(track bool) *Reader {
	return &Reader{marks: track && marks(), seen: map[Space]*tracked{}}
}

// Visit takes neighbouring pages of a space; data is valid until it returns.
type Visit func(space Space, first uint64, data []byte) error

// Round reads the memory that the processes have now, the pages of each space in ascending order. What changes or goes
// away meanwhile is read as it is met, or left out.
func (r *Reader) Round(ctx context.Context, pids []int, visit Visit) error {
	if r.marks && !r.begun {
		r.begun = true
		if err := r.begin(pids); err != nil {
			return err
		}
	}
	seen := map[Space]bool{}
	shared := map[Space]map[uint64]source{}
	buf := make([]byte, maxRun*PageSize)
	for _, pid := range pids {
		inside, err := insidePID(pid)
		if space := ProcessSpace(inside); err == nil && !seen[space] { // a number may be given anew meanwhile
			seen[space] = true
			err = r.readProcess(ctx, pid, space, buf, shared, visit)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("read the memory of process %d: %w", pid, err)
		}
	}
	for _, space := range slices.Sorted(maps.Keys(shared)) {
		if err := readShared(ctx, space, shared[space], buf, visit); err != nil {
			return err
		}
	}
	return nil
}

// gone says that a process has ended.
func gone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) }

// source is where a page of shared memory can be read.
type source struct {
	pid  int
	addr uint64
}

// region is a mapping that can have pages of its own.
type region struct {
	start, end uint64
	shared     bool
	inode      uint64
	offset     uint64
}

func (r *Reader) readProcess(ctx context.Context, pid int, space Space, buf []byte, shared map[Space]map[uint64]source, visit Visit) error {
	p, err := r.track(pid, space)
	if err != nil {
		return err
	}
	regions, err := readMaps(pid)
	if err != nil {
		return err
	}
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return err
	}
	defer pagemap.Close()
	for _, r := range regions {
		if err := ctx.Err(); err != nil {
			return err
		}
		wanted := func(page, entry uint64) bool { return own(r, entry) && (r.shared || p == nil || p.look(page, entry)) }
		err := runs(pagemap, r, wanted, func(first, n uint64) error {
			if !r.shared {
				return readRun(pid, first*PageSize, n, buf, func(addr uint64, data []byte) error {
					return visit(space, addr/PageSize, data)
				})
			}
			s := SharedSpace(r.inode)
			if shared[s] == nil {
				shared[s] = map[uint64]source{}
			}
			for page := first; page < first+n; page++ {
				shared[s][page-r.start/PageSize+r.offset/PageSize] = source{pid, page * PageSize}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// insidePID is a process's number in its own pid namespace.
func insidePID(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(v)
			return strconv.Atoi(f[len(f)-1])
		}
	}
	return 0, errors.New("the kernel does not say what number the process has inside")
}

// readMaps lists what CRIU will dump pages of. Memory that nobody may touch is left for the dump.
func readMaps(pid int) ([]region, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	var all []region
	for line := range bytes.Lines(b) {
		if r, ok := parseMap(string(line)); ok {
			all = append(all, r)
		}
	}
	return all, nil
}

func parseMap(line string) (r region, ok bool) {
	f := strings.Fields(line)
	if len(f) < 5 || len(f[1]) < 4 || strings.HasPrefix(f[1], "---") {
		return r, false
	}
	name := strings.Join(f[5:], " ")
	r.shared = f[1][3] == 's'
	anonymous := strings.HasPrefix(name, "/dev/zero (deleted)") || strings.HasPrefix(name, "/SYSV") || strings.HasPrefix(name, "/memfd:")
	if r.shared && !anonymous || strings.HasPrefix(name, "[v") { // a file's, or the kernel's own: vvar, vsyscall
		return r, false
	}
	start, end, _ := strings.Cut(f[0], "-")
	var errs [4]error
	r.start, errs[0] = strconv.ParseUint(start, 16, 64)
	r.end, errs[1] = strconv.ParseUint(end, 16, 64)
	r.offset, errs[2] = strconv.ParseUint(f[2], 16, 64)
	r.inode, errs[3] = strconv.ParseUint(f[4], 10, 64)
	return r, errors.Join(errs[:]...) == nil && r.start < r.end
}

// Bits of an entry of /proc/PID/pagemap.
const (
	pmPresent = 1 << 63
	pmSwapped = 1 << 62
	pmFile    = 1 << 61 // a page of a file, or of shared memory
	pmGuard   = 1 << 58
)

// own says whether a region has the page of an entry for itself.
func own(r region, entry uint64) bool {
	return entry&(pmPresent|pmSwapped) != 0 && entry&pmGuard == 0 && (r.shared || entry&pmFile == 0)
}

// entries calls f for every page of a region.
func entries(pagemap *os.File, r region, f func(page, entry uint64) error) error {
	in := bufio.NewReaderSize(io.NewSectionReader(pagemap, int64(r.start/PageSize*8), int64((r.end-r.start)/PageSize*8)), 64<<10)
	var entry [8]byte
	for page := r.start / PageSize; page < r.end/PageSize; page++ {
		if _, err := io.ReadFull(in, entry[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // beyond what has a page table
		} else if err != nil {
			return err
		}
		if err := f(page, binary.NativeEndian.Uint64(entry[:])); err != nil {
			return err
		}
	}
	return nil
}

// runs calls f for each run of pages of a region that are wanted.
func runs(pagemap *os.File, r region, wanted func(page, entry uint64) bool, f func(first, n uint64) error) error {
	var first, n uint64
	flush := func() error {
		if n == 0 {
			return nil
		}
		defer func() { n = 0 }()
		return f(first, n)
	}
	err := entries(pagemap, r, func(page, entry uint64) error {
		if !wanted(page, entry) {
			return flush()
		}
		if n == 0 {
			first = page
		}
		n++
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// readRun reads pages of a process in pieces. Those that went away meanwhile are left out.
func readRun(pid int, addr, n uint64, buf []byte, visit func(addr uint64, data []byte) error) error {
	for n > 0 {
		want := min(n, uint64(len(buf)/PageSize))
		local := unix.Iovec{Base: &buf[0]}
		local.SetLen(int(want * PageSize))
		got, err := unix.ProcessVMReadv(pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(addr), Len: int(want * PageSize)}}, 0)
		if errors.Is(err, unix.EFAULT) {
			got, err = 0, nil
		}
		if err != nil {
			return err
		}
		pages := uint64(got) / PageSize
		if pages == 0 { // the first one is gone
			addr, n = addr+PageSize, n-1
			continue
		}
		if err := visit(addr, buf[:pages*PageSize]); err != nil {
			return err
		}
		addr, n = addr+pages*PageSize, n-pages
	}
	return nil
}

// readShared reads shared memory through whichever process has a page of it mapped.
func readShared(ctx context.Context, space Space, at map[uint64]source, buf []byte, visit Visit) error {
	pages := slices.Sorted(maps.Keys(at))
	for len(pages) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		first, from, n := pages[0], at[pages[0]], 1
		for n < len(pages) && pages[n] == first+uint64(n) && at[pages[n]] == (source{from.pid, from.addr + uint64(n)*PageSize}) {
			n++
		}
		err := readRun(from.pid, from.addr, uint64(n), buf, func(addr uint64, data []byte) error {
			return visit(space, first+(addr-from.addr)/PageSize, data)
		})
		if err != nil && !gone(err) {
			return fmt.Errorf("read shared memory: %w", err)
		}
		pages = pages[n:]
	}
	return nil
}
