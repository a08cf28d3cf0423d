package criu

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// afterFault cleans up behind a criu that did not end well, once it has ended.
func afterFault(err error, images string) error {
	if err == nil {
		return nil
	}
	return errors.Join(err, clearMounts(images))
}

// clearMounts takes away what a criu that was killed has left mounted in its working directory. Cgroup hierarchies are
// among it: whoever deleted that directory together with them would delete cgroups.
func clearMounts(images string) error {
	all, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, images+"/"), false
	})
	if err != nil {
		return fmt.Errorf("look for what criu has left mounted: %w", err)
	}
	for _, m := range slices.Backward(all) { // what was mounted last lies on top
		err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // gone with the one above it
			return fmt.Errorf("unmount %s, which criu has left: %w", m.Mountpoint, err)
		}
	}
	return nil
}
