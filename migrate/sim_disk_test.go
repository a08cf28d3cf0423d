package migrate

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// simDisk is a host's disk for journals and checkpoints. A loss of power keeps what was synced, and of the rest what
// the dice say.
type simDisk struct {
	h       *simHost
	names   map[string]*inode
	durable map[string]*inode         // as of the last sync of a folder
	changes []func(map[string]*inode) // of names since then, in their order
}

type inode struct {
	dir          bool
	data, synced []byte
}

func newSimDisk(h *simHost) *simDisk {
	return &simDisk{h: h, names: map[string]*inode{}, durable: map[string]*inode{}}
}

// change changes names now, and on disk at the next sync of a folder.
func (d *simDisk) change(f func(map[string]*inode)) {
	f(d.names)
	d.changes = append(d.changes, f)
}

func (d *simDisk) syncNames() {
	for _, f := range d.changes {
		f(d.durable)
	}
	d.changes = nil
}

func (d *simDisk) syncAll() {
	d.syncNames()
	for _, i := range d.names {
		i.synced = slices.Clone(i.data)
	}
	if l := d.h.layer; l != nil {
		l.baseDurable = l.base
		l.durable, l.durableN = l.base, l.n
	}
}

// powerLoss keeps the changes of names up to some moment, and for each file what was synced, or what was written, or
// nothing of it.
func (d *simDisk) powerLoss() {
	s := d.h.s
	for _, f := range d.changes[:s.rng.IntN(len(d.changes)+1)] {
		f(d.durable)
	}
	d.changes, d.names = nil, maps.Clone(d.durable)
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		if i := d.names[name]; !bytes.Equal(i.data, i.synced) && s.chance(60) {
			i.data = slices.Clone(i.synced)
		}
	}
}

// left names what is there besides the folder itself.
func (d *simDisk) left() string {
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		if name != simDir {
			return name
		}
	}
	return ""
}

const (
	simDir       = "/migrations"
	simLayerPath = "/layer"
)

// agentDisk is the disk as one life of an agent sees it: what changes it is an event, what only reads it is not.
type agentDisk struct{ a *simAgent }

func (d agentDisk) disk() *simDisk { return d.a.h.disk }

func (d agentDisk) Boot() string { return d.a.h.bootID }

func (d agentDisk) Open(name string, flag int, _ fs.FileMode) (File, error) {
	disk, s := d.disk(), d.a.h.s
	if flag&os.O_CREATE != 0 {
		var f *simFile
		err := d.a.do("create "+name, func() error {
			i := disk.names[name]
			if i != nil && flag&os.O_EXCL != 0 {
				return fs.ErrExist
			}
			if i == nil {
				if disk.names[filepath.Dir(name)] == nil {
					return fs.ErrNotExist
				}
				i = &inode{}
				disk.change(func(n map[string]*inode) { n[name] = i })
			}
			if flag&os.O_TRUNC != 0 {
				i.data = nil
			}
			f = &simFile{d: d, name: name, i: i}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.a.dead {
		return nil, errDead
	}
	i := disk.names[name]
	if name == simLayerPath {
		i = &inode{dir: true}
	}
	if i == nil {
		return nil, fs.ErrNotExist
	}
	return &simFile{d: d, name: name, i: i, r: bytes.NewReader(slices.Clone(i.data))}, nil
}

func (d agentDisk) Rename(from, to string) error {
	return d.a.do("rename "+from, func() error {
		if d.disk().names[from] == nil {
			return fs.ErrNotExist
		}
		d.disk().change(func(n map[string]*inode) {
			if i := n[from]; i != nil {
				n[to] = i
				delete(n, from)
			}
		})
		return nil
	})
}

func (d agentDisk) MkdirAll(name string, _ fs.FileMode) error {
	return d.a.do("mkdir "+name, func() error {
		if d.disk().names[name] == nil {
			d.disk().change(func(n map[string]*inode) { n[name] = &inode{dir: true} })
		}
		return nil
	})
}

func (d agentDisk) RemoveAll(name string) error {
	return d.a.do("remove "+name, func() error {
		d.disk().change(func(n map[string]*inode) {
			maps.DeleteFunc(n, func(p string, _ *inode) bool { return p == name || strings.HasPrefix(p, name+"/") })
		})
		return nil
	})
}

// simFile is an open file or folder.
type simFile struct {
	d    agentDisk
	name string
	i    *inode
	r    *bytes.Reader
}

func (f *simFile) Read(p []byte) (int, error) {
	if f.r == nil {
		return 0, io.EOF
	}
	return f.r.Read(p)
}

func (f *simFile) Write(p []byte) (int, error) {
	b := slices.Clone(p)
	err := f.d.a.do("write "+f.name, func() error {
		f.i.data = append(f.i.data, b...)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *simFile) Close() error { return nil }

func (f *simFile) Sync() error {
	return f.d.a.do("sync "+f.name, func() error {
		if f.i.dir {
			f.d.disk().syncNames()
		} else {
			f.i.synced = slices.Clone(f.i.data)
		}
		return nil
	})
}

func (f *simFile) SyncAll() error {
	return f.d.a.do("sync all", func() error {
		f.d.disk().syncAll()
		return nil
	})
}

func (f *simFile) Stat() (fs.FileInfo, error) { return simInfo{f.name, f.i}, nil }

func (f *simFile) ReadDir(int) ([]fs.DirEntry, error) {
	s := f.d.a.h.s
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(f.d.disk().names)) {
		if filepath.Dir(name) == f.name {
			out = append(out, fs.FileInfoToDirEntry(simInfo{name, f.d.disk().names[name]}))
		}
	}
	return out, nil
}

type simInfo struct {
	name string
	i    *inode
}

func (i simInfo) Name() string       { return filepath.Base(i.name) }
func (i simInfo) Size() int64        { return int64(len(i.i.data)) }
func (i simInfo) ModTime() time.Time { return time.Time{} }
func (i simInfo) IsDir() bool        { return i.i.dir }
func (i simInfo) Sys() any           { return nil }
func (i simInfo) Mode() fs.FileMode {
	if i.i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}
