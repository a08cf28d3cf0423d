package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Filler brings memory into processes that CRIU has restored and that have not run yet. CRIU lets each page come by a page
// fault of the process; a write from outside costs the kernel a small part of that. So Split takes most pages out of CRIU's
// images before a restore, and Fill writes them into the processes afterwards. What is in which image is found in
// the images folder: an agent that comes later can go on.
type Filler struct{}

// Files in an images folder, beside CRIU's own. The first two have a process's number behind their name.
const (
	planName     = "fill-"
	wholeName    = "whole-"
	unfilledName = "unfilled" // as long as Fill has something to do
	firstKept    = 1 << 20    // the pages files that Split makes are numbered from here on
)

// Split prepares a restore after which Fill must be called.
func (f Filler) Split(images string) error {
	dir, err := os.OpenRoot(images)
	if err != nil {
		return fmt.Errorf("split the checkpoint: %w", err)
	}
	defer dir.Close()
	if err := join(dir); err != nil {
		return err
	}
	all, err := readProcesses(dir)
	if err != nil {
		return err
	}
	if err := dir.WriteFile(unfilledName, nil, 0o600); err != nil {
		return fmt.Errorf("split the checkpoint: %w", err)
	}
	common := inherited(all)
	for pid, p := range all {
		if err := split(dir, pid, p, common); err != nil {
			return fmt.Errorf("split the checkpoint of process %d: %w", pid, err)
		}
	}
	return nil
}

// mapping names a mapping of a process by its process and its first address.
type mapping struct {
	pid   int
	start uint64
}

// inherited lists the mappings that a parent and its child may have in common since a fork. CRIU restores them so that they
// share pages again.
func inherited(all map[int]*process) map[mapping]bool {
	common := map[mapping]bool{}
	for _, child := range all {
		parent := all[child.parent]
		if parent == nil {
			continue
		}
		ends := map[uint64]uint64{}
		for _, v := range parent.maps {
			ends[v.start] = v.end
		}
		for _, v := range child.maps {
			if ends[v.start] == v.end {
				common[mapping{child.pid, v.start}], common[mapping{parent.pid, v.start}] = true, true
			}
		}
	}
	return common
}

func split(dir *os.Root, pid int, p *process, common map[mapping]bool) error {
	name := ProcessSpace(pid).image()
	number, runs, err := readPagemap(dir, name)
	if err != nil {
		return err
	}
	special, err := p.rseq(dir)
	if err != nil {
		return err
	}
	fill, keep := p.divide(runs, special, common)
	if len(fill) == 0 {
		return nil
	}
	if err := writePlan(dir, pid, number, fill); err != nil {
		return err
	}
	if err := dir.Rename(name, wholeName+strconv.Itoa(pid)); err != nil {
		return err
	}
	return writeKept(dir, name, number, firstKept+uint32(pid), keep)
}

// divide says which pages are written from outside and which ones CRIU restores.
func (p *process) divide(runs []run, special map[uint64]bool, common map[mapping]bool) (fill, keep []run) {
	maps := p.maps
	for _, r := range runs {
		for r.n > 0 {
			for len(maps) > 0 && maps[0].end <= r.page*PageSize {
				maps = maps[1:]
			}
			n, to := r.n, &keep
			if len(maps) > 0 {
				if start, end := maps[0].start/PageSize, maps[0].end/PageSize; r.page < start {
					n = uint32(min(uint64(n), start-r.page))
				} else if n = uint32(min(uint64(n), end-r.page)); maps[0].writable() && !common[mapping{p.pid, maps[0].start}] {
					n, to = upTo(special, r.page, n), &fill
				}
			}
			if special[r.page] {
				n, to = 1, &keep
			}
			*to = appendRun(*to, run{r.page, n, r.at, r.flags})
			r.page, r.at, r.n = r.page+uint64(n), r.at+n, r.n-n
		}
	}
	return fill, keep
}

// upTo returns how many of n pages come before the next special one.
func upTo(special map[uint64]bool, page uint64, n uint32) uint32 {
	for s := range special {
		if s > page && s < page+uint64(n) {
			n = uint32(s - page)
		}
	}
	return n
}

func appendRun(to []run, r run) []run {
	if n := len(to); n > 0 {
		if l := &to[n-1]; l.page+uint64(l.n) == r.page && l.at+l.n == r.at && l.flags == r.flags {
			l.n += r.n
			return to
		}
	}
	return append(to, r)
}

// writeKept makes the image of the pages that CRIU restores.
func writeKept(dir *os.Root, name string, from, number uint32, keep []run) (err error) {
	in, err := dir.Open(fmt.Sprintf("pages-%d.img", from))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := dir.OpenFile(fmt.Sprintf("pages-%d.img", number), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	list, err := createPagemap(dir, name, number)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, list.close()) }()
	buf, end := make([]byte, maxRun*PageSize), uint32(0)
	for _, r := range keep {
		list.add(r.page, uint64(r.n), r.flags)
		for r.n > 0 {
			n := min(r.n, maxRun)
			if err := errors.Join(readPages(in, r.at, buf[:n*PageSize]), writePages(out, end, buf[:n*PageSize])); err != nil {
				return err
			}
			r.at, r.n, end = r.at+n, r.n-n, end+n
		}
	}
	return nil
}

// writePlan notes what Fill has to write into a process, and from which pages file.
func writePlan(dir *os.Root, pid int, number uint32, fill []run) error {
	b := binary.LittleEndian.AppendUint32(nil, number)
	for _, r := range fill {
		b = binary.LittleEndian.AppendUint64(b, r.page)
		b = binary.LittleEndian.AppendUint32(b, r.n)
		b = binary.LittleEndian.AppendUint32(b, r.at)
	}
	return dir.WriteFile(planName+strconv.Itoa(pid), b, 0o600)
}

func readPlan(dir *os.Root, pid int) (number uint32, fill []run, err error) {
	b, err := dir.ReadFile(planName + strconv.Itoa(pid))
	if err != nil || len(b)%16 != 4 {
		return 0, nil, fmt.Errorf("read what process %d is filled with: %w", pid, err)
	}
	in := bytes.NewBuffer(b)
	number = binary.LittleEndian.Uint32(in.Next(4))
	for in.Len() > 0 {
		fill = append(fill, run{binary.LittleEndian.Uint64(in.Next(8)), binary.LittleEndian.Uint32(in.Next(4)), binary.LittleEndian.Uint32(in.Next(4)), 0})
	}
	return number, fill, nil
}

// Join undoes Split: CRIU restores everything.
func (Filler) Join(images string) error {
	dir, err := os.OpenRoot(images)
	if err != nil {
		return fmt.Errorf("join the checkpoint: %w", err)
	}
	defer dir.Close()
	return join(dir)
}

func join(dir *os.Root) error {
	pids, err := planned(dir)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		err := dir.Rename(wholeName+strconv.Itoa(pid), ProcessSpace(pid).image())
		if errors.Is(err, fs.ErrNotExist) { // a split that was not finished
			err = nil
		}
		if err := errors.Join(err, dir.Remove(planName+strconv.Itoa(pid))); err != nil {
			return fmt.Errorf("join the checkpoint: %w", err)
		}
	}
	return filled(dir)
}

// filled notes that there is nothing to do for Fill.
func filled(dir *os.Root) error {
	if err := dir.Remove(unfilledName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("fill memory: %w", err)
	}
	return nil
}

// planned lists the processes that Fill has to do with.
func planned(dir *os.Root) (pids []int, err error) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("read the checkpoint: %w", err)
	}
	for _, e := range entries {
		if after, ok := strings.CutPrefix(e.Name(), planName); ok {
			pid, err := strconv.Atoi(after)
			if err != nil {
				return nil, fmt.Errorf("read the checkpoint: %w", err)
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Whole says whether a copy that was restored from a folder has all of its memory. Where there is no folder any more, it has.
func (Filler) Whole(images string) (bool, error) {
	dir, err := os.OpenRoot(images)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the checkpoint: %w", err)
	}
	defer dir.Close()
	_, err = dir.Stat(unfilledName)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}
