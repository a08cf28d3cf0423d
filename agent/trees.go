package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/migrate"
	"github.com/vzcluster/vzcluster/migrate/transfer"
)

// passes copies a folder on this host as a migration does from host to host: first while it is being written to, then
// what has changed since.
type passes struct {
	from, to   string
	sent, have *transfer.Manifest
}

// copy makes one pass; last says that nobody writes any more.
func (p *passes) copy(ctx context.Context, last bool) error {
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		var err error
		p.sent, _, err = migrate.Layers{}.Send(ctx, w, p.from, p.sent, last)
		w.CloseWithError(err)
		sent <- err
	}()
	var err error
	p.have, _, err = migrate.Layers{}.Receive(ctx, r, p.to, p.have)
	r.CloseWithError(errors.New("the copy has ended"))
	if sendErr := <-sent; err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		err = sendErr
	}
	if err != nil {
		return fmt.Errorf("copy the layer: %w", err)
	}
	return nil
}

// copyTree copies a folder that nobody writes to into a new one.
func copyTree(ctx context.Context, from, to string) error {
	st, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("copy a folder: %w", err)
	}
	if err := os.MkdirAll(to, st.Mode().Perm()); err != nil {
		return fmt.Errorf("copy a folder: %w", err)
	}
	return (&passes{from: from, to: to}).copy(ctx, true)
}

// keepPath copies a file or folder, given by its path in a layer, from one layer into another. What is a link on the way
// is refused: the container has made it. What is not there was not changed by the container, and need not be kept.
func keepPath(ctx context.Context, from, to, name string) error {
	old, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer old.Close()
	fresh, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer fresh.Close()
	parts := strings.Split(name, "/")
	for i := range parts {
		at := path.Join(parts[:i+1]...)
		st, err := old.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case st.Mode().IsRegular() && i == len(parts)-1:
			return keepFile(old, fresh, at, st)
		case !st.IsDir():
			return fmt.Errorf("/%s is neither a folder nor a plain file", at)
		}
		if err := fresh.Mkdir(at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := own(fresh, at, st); err != nil {
			return err
		}
	}
	return (&passes{from: filepath.Join(from, name), to: filepath.Join(to, name)}).copy(ctx, true)
}

func keepFile(old, fresh *os.Root, name string, st fs.FileInfo) error {
	in, err := old.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := fresh.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(), own(fresh, name, st))
}

// own gives a file the owner and the mode of another one.
func own(root *os.Root, name string, like fs.FileInfo) error {
	st := like.Sys().(*syscall.Stat_t)
	return errors.Join(root.Lchown(name, int(st.Uid), int(st.Gid)), root.Chmod(name, like.Mode()))
}

// treeSize is how much room a folder takes, in bytes.
func treeSize(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measure a folder: %w", err)
	}
	return n, nil
}

// putInPlace gives a complete folder its name, with its content and the name on disk when it returns.
func putInPlace(from, to string) error {
	if err := syncTree(from); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("put a folder in its place: %w", err)
	}
	return syncTree(filepath.Dir(to))
}

// syncTree puts the file system of a folder on disk.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("put a folder on disk: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("put a folder on disk: %w", err)
	}
	return nil
}
