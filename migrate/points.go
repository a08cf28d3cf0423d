package migrate

import (
	"io/fs"
)

// Disk returns a disk that passes a point after everything that changes what a loss of power leaves.
func (h Hook) Disk(d Disk) Disk {
	if h == nil {
		return d
	}
	return hookedDisk{d, h}
}

type hookedDisk struct {
	Disk
	hook Hook
}

// done passes a point if a step went well. A disk does not know whose operation it serves.
func (h Hook) done(p Point, err error) error {
	if err != nil {
		return err
	}
	return h.at(p, "")
}

func (d hookedDisk) Open(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := d.Disk.Open(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return hookedFile{f, d.hook}, nil
}

func (d hookedDisk) Rename(from, to string) error {
	return d.hook.done(PointDiskRenamed, d.Disk.Rename(from, to))
}

func (d hookedDisk) RemoveAll(name string) error {
	return d.hook.done(PointDiskRemoved, d.Disk.RemoveAll(name))
}

type hookedFile struct {
	File
	hook Hook
}

func (f hookedFile) Sync() error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	p := PointDiskWritten
	if st.IsDir() {
		p = PointDiskNamed
	}
	return f.hook.done(p, f.File.Sync())
}

func (f hookedFile) SyncAll() error { return f.hook.done(PointDiskSynced, f.File.SyncAll()) }
