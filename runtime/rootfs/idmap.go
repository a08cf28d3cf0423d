package rootfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// mounterID stands on disk for the host's root. Overlayfs does its own housekeeping as the one who mounted it, which
// is uid 0 of the host and no member of the container's range; without an id on disk it could write nothing. Nothing
// of the container ever has this owner.
const mounterID = 4_000_000

// mapping is what a container's root is mounted with. It is kept: to make it takes a process, and a root that moves here
// is mounted once more while its container stands still.
type mapping struct {
	base uint32
	ns   *os.File
}

// mapOf returns the user namespace whose ids a container's layers are mounted with.
func (r *Roots) mapOf(spec runtime.Spec) (*os.File, error) {
	r.mu.Lock()
	m, ok := r.maps[spec.ID]
	r.mu.Unlock()
	if ok && m.base == spec.UIDBase {
		return m.ns, nil
	}
	ns, err := idmap(spec.UIDBase)
	if err != nil {
		return nil, err
	}
	r.forgetMap(spec.ID)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.maps[spec.ID] = mapping{spec.UIDBase, ns}
	return ns, nil
}

// forgetMap closes what mapOf keeps of a container.
func (r *Roots) forgetMap(id int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m, ok := r.maps[id]; ok {
		m.ns.Close()
		delete(r.maps, id)
	}
}

// idmap opens a user namespace that maps ids on disk to ids seen: 0..65535 to the range from base, mounterID to 0.
// The namespace needs a process to be made, which is gone when idmap returns.
func idmap(base uint32) (*os.File, error) {
	wait, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer wait.Close()
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(base), Size: runtime.UIDs}, {ContainerID: mounterID, HostID: 0, Size: 1}}
	child := exec.Command("cat")
	child.Stdin = wait
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: maps, GidMappings: maps, Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		hold.Close()
		return nil, fmt.Errorf("make a user namespace for ids from %d: %w", base, err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Process.Pid))
	hold.Close() // cat reads its end of file and ends
	child.Wait() // how it ends does not matter, the namespace is open
	if err != nil {
		return nil, fmt.Errorf("open the user namespace for ids from %d: %w", base, err)
	}
	return ns, nil
}

// bindMapped mounts the directory from at to, with the ids of a user namespace and more mount attributes.
func bindMapped(from, to string, ids *os.File, attributes uint64) error {
	return bind(from, to, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | attributes, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(ids.Fd())})
}

// bindPlain mounts it with the ids that it has.
func bindPlain(from, to string, attributes uint64) error {
	return bind(from, to, unix.MountAttr{Attr_set: attributes, Propagation: unix.MS_PRIVATE})
}

func bind(from, to string, attr unix.MountAttr) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: from, Err: err}
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("the file system of %s takes no idmapped mount (kernel 5.12 and ext4, btrfs or xfs are needed): %w", from, err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: to, Err: err}
	}
	return nil
}

// unmount takes away every mount on path; nothing mounted, or nothing there, is fine.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}
