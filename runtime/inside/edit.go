package inside

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// account is a user as the container's /etc/passwd has it.
type account struct {
	name, home string
	uid, gid   int
}

// Edit implements runtime.Inside. The files are the same in Debian, Ubuntu, Alpine and Red Hat. Everything is looked up before
// anything is written.
func (r *Root) Edit(e runtime.Edits) error {
	var users []account
	for _, name := range slices.Sorted(maps.Keys(e.Passwords)) {
		if _, err := r.account(name); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Keys)) {
		u, err := r.account(name)
		if err != nil {
			return err
		}
		users = append(users, u)
	}
	var zone []byte
	if e.TimeZone != "" {
		var err error
		if zone, err = r.zone(e.TimeZone); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Passwords)) {
		if err := r.setPassword(name, e.Passwords[name], time.Now()); err != nil {
			return err
		}
	}
	for _, u := range users {
		if err := r.addKeys(u, e.Keys[u.name]); err != nil {
			return err
		}
	}
	if e.ResolvConf != "" {
		if err := r.replace("/etc/resolv.conf", []byte(e.ResolvConf), 0o644, 0, 0); err != nil {
			return err
		}
	}
	if zone == nil {
		return nil
	}
	// A copy, no link: a checkpoint of systemd's watch of the link may not be restorable.
	return errors.Join(r.replace("/etc/localtime", zone, 0o644, 0, 0), r.replace("/etc/timezone", []byte(e.TimeZone+"\n"), 0o644, 0, 0))
}

func (r *Root) account(name string) (account, error) {
	b, _, err := r.read("/etc/passwd")
	if err != nil {
		return account{}, err
	}
	return findAccount(b, name)
}

// findAccount looks a user up in the content of a passwd file.
func findAccount(passwd []byte, name string) (account, error) {
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 6 || f[0] != name || name == "" {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 16)
		gid, err2 := strconv.ParseUint(f[3], 10, 16)
		if err1 == nil && err2 == nil {
			return account{name, f[5], int(uid), int(gid)}, nil
		}
	}
	return account{}, fmt.Errorf("there is no user %q in the container", name)
}

// setPassword writes the hash of a password into shadow, or into passwd where there is no shadow.
func (r *Root) setPassword(name, hash string, now time.Time) error {
	file := "/etc/shadow"
	b, st, err := r.read(file)
	if errors.Is(err, fs.ErrNotExist) {
		file = "/etc/passwd"
		b, st, err = r.read(file)
	}
	if err != nil {
		return err
	}
	b = withPassword(b, name, hash, now)
	return r.replace(file, b, os.FileMode(st.Mode&0o777), r.inner(st.Uid), r.inner(st.Gid))
}

// withPassword is the content of a shadow or passwd file with another password for a user; shadow also says on which day
// that was set.
func withPassword(content []byte, name, hash string, now time.Time) []byte {
	const shadowFields = 9
	day := strconv.FormatInt(now.Unix()/(24*60*60), 10)
	var out strings.Builder
	found := false
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSuffix(line, "\n")
		if f := strings.Split(line, ":"); len(f) > 2 && f[0] == name {
			f[1], found = hash, true
			if len(f) == shadowFields {
				f[2] = day
			}
			line = strings.Join(f, ":")
		}
		out.WriteString(line + "\n")
	}
	if !found {
		out.WriteString(name + ":" + hash + ":" + day + ":0:99999:7:::\n")
	}
	return []byte(out.String())
}

// addKeys lets the holders of ssh keys in. The user owns the folder, so no link in it is followed: it might lead to another
// user's.
func (r *Root) addKeys(u account, keys string) error {
	home, err := r.folder(clean(u.home), false)
	if err != nil {
		return fmt.Errorf("the home of %s: %w", u.name, err)
	}
	defer home.Close()
	uid, gid := r.outer(u.uid), r.outer(u.gid)
	switch err := unix.Mkdirat(int(home.Fd()), ".ssh", 0o700); err {
	case nil:
		if err := unix.Fchownat(int(home.Fd()), ".ssh", uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "chown", Path: ".ssh", Err: err}
		}
	case unix.EEXIST:
	default:
		return &os.PathError{Op: "mkdir", Path: ".ssh", Err: err}
	}
	fd, err := unix.Openat(int(home.Fd()), ".ssh", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s/.ssh is no folder: %w", u.home, err)
	}
	dir := os.NewFile(uintptr(fd), ".ssh")
	defer dir.Close()
	var old []byte
	f, _, err := regular(dir, "authorized_keys")
	if err == nil {
		old, err = io.ReadAll(io.LimitReader(f, maxFile))
		f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.replaceIn(dir, "authorized_keys", withKeys(old, keys), 0o600, u.uid, u.gid)
}

// withKeys adds those lines that are not there yet.
func withKeys(old []byte, keys string) []byte {
	out := bytes.TrimRight(old, "\n")
	if len(out) > 0 {
		out = append(out, '\n')
	}
	have := map[string]bool{}
	for line := range strings.Lines(string(old)) {
		have[strings.TrimSpace(line)] = true
	}
	for line := range strings.Lines(keys) {
		if line = strings.TrimSpace(line); line != "" && !have[line] {
			have[line] = true
			out = append(out, line+"\n"...)
		}
	}
	return out
}

// zone reads a time zone of the container.
func (r *Root) zone(name string) ([]byte, error) {
	if path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), "..") || strings.ContainsAny(name, "\n\x00") {
		return nil, fmt.Errorf("%q is no time zone, write for example Europe/Berlin", name)
	}
	f, err := r.at(clean("/usr/share/zoneinfo/"+name), unix.O_PATH, 0) // zones are often links to others
	if err != nil {
		return nil, fmt.Errorf("there is no time zone %q in the container (its package tzdata has them): %w", name, err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() { // a pipe would be read for ever
		return nil, fmt.Errorf("the time zone %q of the container is not a file", name)
	}
	z, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	b, err := io.ReadAll(io.LimitReader(z, maxFile))
	if err == nil && !bytes.HasPrefix(b, []byte("TZif")) {
		err = fmt.Errorf("%q is no time zone, write for example Europe/Berlin", name)
	}
	return b, err
}
