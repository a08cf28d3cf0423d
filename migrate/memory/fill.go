package memory

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Pages are written in pieces of about fillPiece; processes with more than fillShare are filled by several threads.
const (
	fillPiece = 256       // pages
	fillShare = 64 << 8   // pages
	maxIovecs = fillPiece // at most one for each page
)

// Fill writes what Split has kept from CRIU into the restored processes, none of which may run before it returns.
func (Filler) Fill(ctx context.Context, images string, pids []int) error {
	dir, err := os.OpenRoot(images)
	if err != nil {
		return fmt.Errorf("fill memory: %w", err)
	}
	defer dir.Close()
	plans, err := planned(dir)
	if err != nil {
		return err
	}
	here := map[int]int{}
	for _, pid := range pids {
		if inside, err := insidePID(pid); err == nil {
			here[inside] = pid
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, pid := range plans {
		if here[pid] == 0 {
			return fmt.Errorf("fill memory: process %d was not restored", pid)
		}
		if err := fillProcess(ctx, group, dir, pid, here[pid]); err != nil {
			return err
		}
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("fill memory: %w", err)
	}
	return filled(dir)
}

func fillProcess(ctx context.Context, group *errgroup.Group, dir *os.Root, inside, pid int) error {
	number, fill, err := readPlan(dir, inside)
	if err != nil {
		return err
	}
	for len(fill) > 0 {
		n, pages := 0, uint32(0)
		for n < len(fill) && pages < fillShare {
			pages, n = pages+fill[n].n, n+1
		}
		share := fill[:n]
		fill = fill[n:]
		group.Go(func() error {
			in, err := dir.Open(fmt.Sprintf("pages-%d.img", number))
			if err != nil {
				return err
			}
			defer in.Close()
			return fillRuns(ctx, in, pid, share)
		})
	}
	return nil
}

// fillRuns writes runs of pages into a process, as many at once as lie close to each other in the file.
func fillRuns(ctx context.Context, in *os.File, pid int, fill []run) error {
	buf := make([]byte, fillPiece*PageSize)
	var local []unix.Iovec
	var remote []unix.RemoteIovec
	for len(fill) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		first := fill[0].at
		local, remote = local[:0], remote[:0]
		size, end := 0, first
		for len(fill) > 0 && fill[0].at >= first && fill[0].at < first+fillPiece && len(local) < maxIovecs {
			r := &fill[0]
			n := min(r.n, first+fillPiece-r.at)
			v := unix.Iovec{Base: &buf[int(r.at-first)*PageSize]}
			v.SetLen(int(n) * PageSize)
			local = append(local, v)
			remote = append(remote, unix.RemoteIovec{Base: uintptr(r.page * PageSize), Len: int(n) * PageSize})
			size, end = size+int(n)*PageSize, r.at+n
			if r.n -= n; r.n == 0 {
				fill = fill[1:]
			} else {
				r.page, r.at = r.page+uint64(n), r.at+n
			}
		}
		if err := readPages(in, first, buf[:int(end-first)*PageSize]); err != nil {
			return err
		}
		got, err := unix.ProcessVMWritev(pid, local, remote, 0)
		if err != nil {
			return fmt.Errorf("write into process %d: %w", pid, err)
		}
		if got != size {
			return fmt.Errorf("write into process %d: %d of %d bytes at %#x", pid, got, size, remote[0].Base)
		}
	}
	return nil
}
