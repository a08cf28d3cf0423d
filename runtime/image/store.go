// Package image keeps templates: root file systems that containers start from, each known by the digest of its
// archive. It unpacks archives from anywhere, prepares the tree for a container that will be migrated, keeps the
// archive for other hosts to fetch, and builds new archives.
//
// It owns everything under the store's directory and nothing of containers. The one rule for callers: trees are
// shared by all containers of a template and never written to.
//
// Archives are hostile input: they are bounded, and nothing of them is written outside their own tree. The trees hold
// set-uid files of the host's root as they are, therefore only root can enter the store's directory.
package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Parts of a template's directory.
const (
	treeDir     = "rootfs"
	archiveFile = "archive.tar.zst"
	infoFile    = "info.json"
	temporary   = ".new-" // prefix of directories that are not complete, or on their way out
)

// Info describes a template.
type Info struct {
	Digest   string   `json:"digest"`             // "sha256:" and hex, of the uncompressed archive
	Size     int64    `json:"size"`               // bytes of the uncompressed archive
	Init     []string `json:"init"`               // what runs as PID 1
	Systemd  bool     `json:"systemd"`            // PID 1 is systemd
	Prepared []string `json:"prepared,omitempty"` // what was changed in the tree, one sentence each

	Used time.Time `json:"-"` // when it came, or Touch was called last
}

// Store implements runtime.Images. It is safe for concurrent use; one process at a time may have a directory open.
type Store struct {
	dir string
	mu  sync.Mutex // orders the renames that make a template appear or disappear
}

var _ runtime.Images = (*Store)(nil)

// Open opens the store in a directory, makes it when it is missing, and deletes what interrupted imports left.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open the template store: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the template store: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { // a directory needs its x bit
		return nil, fmt.Errorf("close the template store to others: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open the template store: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("delete what an interrupted import left: %w", err)
			}
		}
	}
	return &Store{dir: dir}, nil
}

// home is a template's directory, or ErrNoTemplate when the digest is none.
func (s *Store) home(digest string) (string, error) {
	hex, err := parseDigest(digest)
	if err != nil {
		return "", err
	}
	return filepath.Join(s.dir, hex), nil
}

func parseDigest(digest string) (string, error) {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(hex) {
		return "", fmt.Errorf("%q is no template digest (sha256: and 64 hex digits): %w", digest, runtime.ErrNoTemplate)
	}
	return hex, nil
}

// Has reports whether the template is here.
func (s *Store) Has(digest string) bool {
	_, err := s.Path(digest)
	return err == nil
}

// Path returns the unpacked tree of a template, or ErrNoTemplate.
func (s *Store) Path(digest string) (string, error) {
	home, err := s.home(digest)
	if err != nil {
		return "", err
	}
	tree := filepath.Join(home, treeDir)
	if _, err := os.Lstat(tree); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("template %s: %w", digest, runtime.ErrNoTemplate)
	} else if err != nil {
		return "", fmt.Errorf("template %s: %w", digest, err)
	}
	return tree, nil
}

// Archive opens a template's compressed archive (zstd), for another host to Fetch, and says how many bytes it has.
func (s *Store) Archive(digest string) (io.ReadCloser, int64, error) {
	home, err := s.home(digest)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(filepath.Join(home, archiveFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("template %s: %w", digest, runtime.ErrNoTemplate)
	} else if err != nil {
		return nil, 0, fmt.Errorf("template %s: %w", digest, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("template %s: %w", digest, err), f.Close())
	}
	return f, info.Size(), nil
}

// Info describes a template, or returns ErrNoTemplate.
func (s *Store) Info(digest string) (Info, error) {
	home, err := s.home(digest)
	if err != nil {
		return Info{}, err
	}
	var info Info
	data, err := os.ReadFile(filepath.Join(home, infoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return info, fmt.Errorf("template %s: %w", digest, runtime.ErrNoTemplate)
	}
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if st, serr := os.Stat(filepath.Join(home, infoFile)); serr == nil {
		info.Used = st.ModTime()
	}
	if err != nil {
		return info, fmt.Errorf("template %s: %w", digest, err)
	}
	return info, nil
}

// Touch notes that a template is used now.
func (s *Store) Touch(digest string) error {
	home, err := s.home(digest)
	if err != nil {
		return err
	}
	if err := os.Chtimes(filepath.Join(home, infoFile), time.Time{}, time.Now()); err != nil {
		return fmt.Errorf("template %s: %w", digest, err)
	}
	return nil
}

// List describes every template here, ordered by digest.
func (s *Store) List() ([]Info, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list templates: %w", err)
	}
	var all []Info
	for _, e := range entries {
		info, err := s.Info("sha256:" + e.Name())
		switch {
		case err == nil:
			all = append(all, info)
		case !errors.Is(err, runtime.ErrNoTemplate):
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b Info) int { return cmp.Compare(a.Digest, b.Digest) })
	return all, nil
}

// Remove deletes a template (idempotent). The caller makes sure that no container uses it.
func (s *Store) Remove(digest string) error {
	home, err := s.home(digest)
	if err != nil {
		return err
	}
	gone, err := os.MkdirTemp(s.dir, temporary)
	if err != nil {
		return fmt.Errorf("remove template %s: %w", digest, err)
	}
	s.mu.Lock()
	err = os.Rename(home, filepath.Join(gone, "gone"))
	s.mu.Unlock()
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(err, os.RemoveAll(gone)); err != nil {
		return fmt.Errorf("remove template %s: %w", digest, err)
	}
	return nil
}

// publish makes a complete template appear under its digest, all of it or nothing, also after a power cut. One that
// is there already is left as it is.
func (s *Store) publish(made string, info Info) error {
	home, err := s.home(info.Digest)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(info, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(made, infoFile), data, 0o600); err != nil {
		return err
	}
	if err := syncAll(made); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Has(info.Digest) {
		return nil
	}
	return os.Rename(made, home)
}

// syncAll writes the whole file system of a directory to disk: cheaper than each of ten thousand files by itself.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
