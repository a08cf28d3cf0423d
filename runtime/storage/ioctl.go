package storage

import (
	"fmt"
	"os"
	"reflect"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// Requests to file systems, numbered as the kernel's headers do.
const (
	ext4Resize = 1<<30 | 8<<16 | 'f'<<8 | 16

	btrfs         = 0x94 << 8
	btrfsResize   = 1<<30 | 4096<<16 | btrfs | 3
	btrfsCreate   = 1<<30 | 4096<<16 | btrfs | 14
	btrfsDestroy  = 1<<30 | 4096<<16 | btrfs | 15
	btrfsLookup   = 3<<30 | 4096<<16 | btrfs | 18
	btrfsSnapshot = 1<<30 | 4096<<16 | btrfs | 23
	btrfsInfo     = 2<<30 | 1024<<16 | btrfs | 31
	btrfsQuota    = 3<<30 | 16<<16 | btrfs | 40
	btrfsGroup    = 1<<30 | 16<<16 | btrfs | 42
	btrfsLimit    = 2<<30 | 48<<16 | btrfs | 43

	btrfsTop        = 256 // inode number of the top of each subvolume
	quotaEnable     = 1
	quotaReferenced = 1 // what a limit is about
)

// What goes with the requests, as the kernel lays it out.
type (
	volume struct {
		FD   int64
		Name [4088]byte
	}
	snapshot struct {
		Source  int64
		TransID uint64
		Flags   uint64
		Unused  [4]uint64
		Name    [4040]byte
	}
	lookup struct {
		Tree, Object uint64
		Name         [4080]byte
	}
	fsInfo struct {
		MaxID, Devices uint64
		ID             [16]byte
		Rest           [992]byte
	}
	quota      struct{ Command, Status uint64 }
	quotaGroup struct{ Create, Group uint64 }
	quotaLimit struct{ Group, Flags, Referenced, Exclusive, ReservedReferenced, ReservedExclusive uint64 }
)

// ioctl asks a file system something; arg points to what goes with it.
func ioctl(f *os.File, request uintptr, arg any) error {
	v := reflect.ValueOf(arg)
	if size := v.Elem().Type().Size(); size != request>>16&0x3fff {
		return fmt.Errorf("request %#x takes %d bytes, not %d", request, request>>16&0x3fff, size)
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(v.UnsafePointer()))
	goruntime.KeepAlive(arg)
	if errno != 0 {
		return errno
	}
	return nil
}
