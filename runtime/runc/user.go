package runc

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxUsers bounds what is read of a container's lists of users and groups, in bytes.
const maxUsers = 4 << 20

// user is somebody inside a container.
type user struct {
	uid, gid int
	home     string
	groups   []string // ids of others that he is in
}

// lookUp finds a user, "name", "uid", "name:group" or "uid:gid", in the lists that a container has below root. A number
// need not be in them.
func lookUp(root, who string) (user, error) {
	name, group, grouped := strings.Cut(who, ":")
	u := user{home: "/"}
	uid, err := strconv.ParseUint(name, 10, 31)
	numeric := err == nil
	u.uid, u.gid = int(uid), int(uid)
	found := ""
	err = eachLine(root, "etc/passwd", 7, func(f []string) bool {
		if f[0] != name && (!numeric || f[2] != name) {
			return true
		}
		u.uid, u.gid, u.home, found = atoi(f[2]), atoi(f[3]), f[5], f[0]
		return false
	})
	if err != nil && !numeric || found == "" && !numeric || u.uid < 0 || u.gid < 0 {
		return u, fmt.Errorf("there is no user %q in the container", name)
	}
	if grouped {
		return u, u.join(root, group)
	}
	if found == "" {
		return u, nil
	}
	_ = eachLine(root, "etc/group", 4, func(f []string) bool { // who has none is in no other group
		for _, member := range strings.Split(f[3], ",") {
			if member == found && atoi(f[2]) >= 0 {
				u.groups = append(u.groups, f[2])
			}
		}
		return true
	})
	return u, nil
}

// join puts the user into one group.
func (u *user) join(root, group string) error {
	if n := atoi(group); n >= 0 {
		u.gid = n
		return nil
	}
	u.gid = -1
	_ = eachLine(root, "etc/group", 3, func(f []string) bool {
		if f[0] == group {
			u.gid = atoi(f[2])
		}
		return u.gid < 0
	})
	if u.gid < 0 {
		return fmt.Errorf("there is no group %q in the container", group)
	}
	return nil
}

func atoi(s string) int {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}

// eachLine yields the fields of each line that has at least so many. The file is the container's: links in it mean what
// they mean inside.
func eachLine(root, file string, least int, yield func([]string) bool) error {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, file, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Join(root, file), Err: err}
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	s := bufio.NewScanner(io.LimitReader(f, maxUsers))
	for s.Scan() {
		if fields := strings.Split(s.Text(), ":"); len(fields) >= least && !yield(fields) {
			return nil
		}
	}
	return s.Err()
}
