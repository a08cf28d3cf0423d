package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// attach opens a block device that shows a file; the kernel lets go of the device when nobody has it open or mounted any
// more. A file that is attached already, by whoever came before us, gets the same device: two devices would be two file
// systems on the same bytes.
func attach(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		dev, err := attached(f)
		if dev != nil || err != nil {
			return dev, err
		}
		dev, err = configure(f)
		switch {
		case err == nil:
			return dev, nil
		case !errors.Is(err, unix.EBUSY) && !errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline):
			return nil, fmt.Errorf("show %s as a block device: %w", file, err)
		}
		time.Sleep(5 * time.Millisecond) // another host of this kernel took the device, or udev is about to make its file
	}
}

// configure gives a file a free device.
func configure(f *os.File) (*os.File, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("this kernel has no loop devices: %w", err)
	}
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, err
	}
	dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	c := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	copy(c.Info.File_name[:len(c.Info.File_name)-1], f.Name())
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &c); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

// attached opens the device that shows a file already; nil: there is none.
func attached(f *os.File) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		// The path may be one of another mount namespace, or an old one: only its last part says something, and quickly.
		b, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(filepath.Base(strings.TrimSpace(string(b))), filepath.Base(f.Name())) {
			continue
		}
		dev, err := os.OpenFile("/dev/"+strings.Split(name, "/")[3], os.O_RDWR, 0)
		if err != nil {
			continue
		}
		// Asked with the device open: from now on it stays attached.
		info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
		if err == nil && info.Device == st.Dev && info.Inode == st.Ino {
			return dev, nil
		}
		dev.Close()
	}
	return nil, nil
}

// detached returns when no device shows the file any more.
func detached(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	deadline := time.Now().Add(5 * time.Second)
	for {
		dev, err := attached(f)
		if dev == nil || err != nil {
			return err
		}
		dev.Close()
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is still in use", file)
		}
		time.Sleep(20 * time.Millisecond) // the mount namespace of a dead container is taken down after its last process
	}
}

// mountFile mounts the file system in a file.
func mountFile(file, dir, kind, options string) error {
	dev, err := attach(file)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := unix.Mount(dev.Name(), dir, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s: %w", file, err)
	}
	return nil
}

// unmount takes away every mount on a directory; nothing mounted, or nothing there, is fine. One in use goes with its
// last user.
func unmount(dir string) error {
	for {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return &os.PathError{Op: "unmount", Path: dir, Err: err}
		}
	}
}
