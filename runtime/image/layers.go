package image

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// layering unpacks one layer of an image over the other. Layers are as hostile as any archive: entries are written by
// the unpacker, and what they take away is taken from inside the tree only.
type layering struct {
	*unpacker
	tree *os.Root
	own  map[string]bool // names of the layer under way, their parents included
}

func newLayering(tree string) (*layering, error) {
	if err := os.Mkdir(tree, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(tree)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		f.Close()
		return nil, err
	}
	u := &unpacker{root: f, dirs: map[string]time.Time{}, limits: ImportOptions{MaxBytes: DefaultMaxBytes, MaxEntries: DefaultMaxEntries}}
	return &layering{unpacker: u, tree: root, own: map[string]bool{}}, f.Chmod(0o755)
}

func (l *layering) close() {
	l.forget()
	l.root.Close()
	l.tree.Close()
}

// apply unpacks one layer, whose uncompressed archive must have a digest.
func (l *layering) apply(r io.Reader, digest string) error {
	l.own = map[string]bool{}
	sum := sha256.New()
	all := bufio.NewReaderSize(io.TeeReader(r, sum), 256<<10)
	for in := tar.NewReader(all); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := l.layerEntry(h, in); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, all); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != digest {
		return fmt.Errorf("%w: %s, not %s", ErrDigest, got, digest)
	}
	return nil
}

func (l *layering) layerEntry(h *tar.Header, r io.Reader) error {
	name, err := l.check(h)
	if err != nil {
		return err
	}
	if strings.HasPrefix(path.Base(name), whiteout) {
		return l.hide(name)
	}
	if name != "." && !strings.HasPrefix(name, "dev/") {
		if err := l.makeWay(name, h.Typeflag == tar.TypeDir); err != nil {
			return err
		}
	}
	for up := name; up != "." && !l.own[up]; up = path.Dir(up) {
		l.own[up] = true
	}
	l.entries, l.bytes = l.entries-1, l.bytes-h.Size // entry counts it again
	return l.entry(h, r)
}

// makeWay removes what a layer below has under the name of an entry, unless both are directories.
func (l *layering) makeWay(name string, dir bool) error {
	if l.own[name] {
		return nil // of the same layer: what holds for every archive holds here
	}
	st, err := l.at(name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("entry %q: %w", name, err)
	}
	if is := st.Mode&unix.S_IFMT == unix.S_IFDIR; is && !dir {
		return l.remove(name)
	}
	return nil
}

// at looks at a name without following any link.
func (l *layering) at(name string) (st unix.Stat_t, err error) {
	dir, err := openBeneath(l.root, path.Dir(name))
	if err != nil {
		return st, err
	}
	defer dir.Close()
	return st, unix.Fstatat(int(dir.Fd()), path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW)
}

// hide does what a whiteout says. What is not there is hidden already.
func (l *layering) hide(entry string) error {
	dir, name, all := hidden(entry)
	if name != "" {
		return l.remove(path.Join(dir, name))
	}
	if !all {
		return nil // a mark of some builder's, for itself
	}
	f, err := openBeneath(l.root, dir)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("whiteout %q leads through a link or a file", entry)
	}
	names, err := f.Readdirnames(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, n := range names {
		if n = path.Join(dir, n); !l.own[n] {
			if err := l.remove(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove deletes a name and all below it, inside the tree and through no link.
func (l *layering) remove(name string) error {
	_, err := l.at(name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("whiteout of %q leads through a link or a file", name)
	}
	l.forget()
	return l.tree.RemoveAll(name)
}
