package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// storage says what becomes of --disk here, and what the driver lacks.
func storage(c Config, f Facts) Finding {
	const name = "storage"
	needs, gives := []string(nil), ""
	switch c.Storage {
	case "image":
		needs, gives = []string{"mkfs.ext4", "resize2fs", "e2fsck"}, "image: --disk and --inodes are limits"
		if f.Caps&(1<<capSysResource) == 0 {
			gives += "; without CAP_SYS_RESOURCE that of a running container cannot grow"
		}
	case "btrfs":
		needs, gives = []string{"mkfs.btrfs"}, "btrfs: --disk is a limit, snapshots and clones are instant"
	default:
		return good(name, "overlay: --disk is reserved, not enforced")
	}
	missing := slices.DeleteFunc(needs, func(p string) bool { return !slices.Contains(f.Missing, p) })
	if len(missing) > 0 {
		return bad(name, fmt.Sprintf("%s is not installed", strings.Join(missing, ", ")), "containers with the storage driver "+c.Storage, setup)
	}
	return good(name, gives)
}

// storagePrograms are what the drivers run.
func storagePrograms() []string { return []string{"mkfs.ext4", "resize2fs", "e2fsck", "mkfs.btrfs"} }
