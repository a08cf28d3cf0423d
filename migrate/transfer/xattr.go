package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// origin is where overlay notes the file of the template that a file was copied from.
const origin = "trusted.overlay.origin"

// carried reports whether an extended attribute belongs to the copy: what a container can set, and overlay's marks.
// Its origin names an inode of the source's disk and would be a lie on any other.
func carried(name string) bool {
	if strings.HasPrefix(name, "trusted.overlay.") {
		return name != origin
	}
	return name == "security.capability" || strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_")
}

// xattrs reads the attributes that are carried, of whatever f is open on (O_PATH too).
func xattrs(f *os.File) (map[string][]byte, error) {
	p := itself(f)
	list, err := grow(func(b []byte) (int, error) { return unix.Listxattr(p, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var all map[string][]byte
	for raw := range bytes.SplitSeq(list, []byte{0}) {
		name := string(raw)
		if name == "" || !carried(name) {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Getxattr(p, name, b) })
		if errors.Is(err, unix.ENODATA) { // removed meanwhile
			continue
		} else if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		if all == nil {
			all = map[string][]byte{}
		}
		all[name] = value
	}
	return all, nil
}

// grow calls get with a buffer that is large enough.
func grow(get func([]byte) (int, error)) ([]byte, error) {
	small := make([]byte, 512)
	n, err := get(small)
	if errors.Is(err, unix.ERANGE) {
		small = make([]byte, maxXattr)
		n, err = get(small)
	}
	if err != nil {
		return nil, err
	}
	return small[:n], nil
}

// setXattrs makes the carried attributes of f exactly the wanted ones.
func setXattrs(f *os.File, want map[string][]byte) error {
	have, err := xattrs(f)
	if err != nil {
		return err
	}
	p := itself(f)
	for name := range have {
		if _, ok := want[name]; ok {
			continue
		}
		if err := unix.Removexattr(p, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove attribute %s: %w", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if old, ok := have[name]; ok && bytes.Equal(old, want[name]) {
			continue
		}
		if err := unix.Setxattr(p, name, want[name], 0); err != nil {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return nil
}
