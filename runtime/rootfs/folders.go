package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// mountFolders mounts folders of the host beside the root, with the container's ids, so that what its root writes is
// root's on the host's disk (idempotent). A file system that takes no idmapped mount, as NFS, is mounted as it is.
func (r *Roots) mountFolders(spec runtime.Spec) error {
	for i, f := range spec.Folders {
		to := runtime.FolderMount(r.path(spec.ID, "root"), i)
		if err := r.mountFolder(spec, f, to); err != nil {
			return fmt.Errorf("mount %s for container %d: %w", f.Source, spec.ID, err)
		}
	}
	return nil
}

func (r *Roots) mountFolder(spec runtime.Spec, f runtime.Folder, to string) error {
	st, err := os.Stat(f.Source)
	if errors.Is(err, fs.ErrNotExist) {
		return runtime.Unable("this host has no folder " + f.Source)
	}
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return runtime.Unable(f.Source + " is no folder")
	}
	if err := makeDirs(r.path(spec.ID), dir{"folders", 0o711}, dir{filepath.Join("folders", filepath.Base(to)), 0o711}); err != nil {
		return err
	}
	if mounted, err := mountinfo.Mounted(to); err != nil || mounted {
		return err
	}
	ids, err := r.mapOf(spec)
	if err != nil {
		return err
	}
	attributes := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if f.ReadOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	err = bindMapped(f.Source, to, ids, attributes)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		r.log.Info("a folder's file system takes no idmapped mount: files keep the ids of the host", "container", spec.ID, "folder", f.Source)
		err = bindPlain(f.Source, to, attributes)
	}
	return err
}

// unmountFolders takes them away. What is still mounted must never be deleted with the container: an empty folder is all
// that is removed here.
func (r *Roots) unmountFolders(id int) error {
	top := r.path(id, "folders")
	entries, err := os.ReadDir(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := filepath.Join(top, e.Name())
		if err := errors.Join(unmount(at), unix.Rmdir(at)); err != nil {
			return fmt.Errorf("unmount a folder of the host from %s: %w", at, err)
		}
	}
	return unix.Rmdir(top)
}
