package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Need is what a container takes with it: its private layer with the device files in it, and of a running one its
// memory, open devices and mounted file systems.
func (e *Engine) Need(id int) (n runtime.Need, err error) {
	layer, err := e.Layer(id)
	if err != nil {
		return n, err
	}
	devices, systems := drivers("/proc", modulesDir())
	uses := func(path, device string) {
		d := runtime.Device{Path: path, Are: driversOf(devices, device)}
		if len(d.Are) > 0 && !slices.ContainsFunc(n.Devices, func(o runtime.Device) bool { return slices.Equal(o.Are, d.Are) }) {
			n.Devices = append(n.Devices, d)
		}
	}
	err = filepath.WalkDir(layer, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was deleted meanwhile
		}
		n.Disk += st.Blocks * 512
		if kind := st.Mode & unix.S_IFMT; (kind == unix.S_IFCHR || kind == unix.S_IFBLK) && st.Rdev != 0 { // else it is a whiteout
			uses(strings.TrimPrefix(path, layer), deviceName(kind == unix.S_IFBLK, st.Rdev))
		}
		return err
	})
	if err != nil {
		return n, fmt.Errorf("measure the private layer of container %d: %w", id, err)
	}
	saved, err := diskUse(e.Saved(id))
	if err != nil {
		return n, fmt.Errorf("measure what container %d keeps: %w", id, err)
	}
	n.Disk += saved
	scan, err := e.Scan(id)
	if errors.Is(err, runtime.ErrNotRunning) {
		return n, nil
	}
	if err != nil {
		return n, err
	}
	for _, p := range scan.Processes {
		for _, f := range p.Files {
			if f.Device != "" {
				uses(f.Target, f.Device)
			}
		}
	}
	for _, m := range scan.Mounts {
		if m.Type == "fuse.lxcfs" {
			continue // a host without it has /proc in its place
		}
		kind, _, _ := strings.Cut(m.Type, ".") // "fuse.sshfs" is fuse for the kernel
		if slices.Contains(systems, kind) && !slices.Contains(n.FileSystems, kind) {
			n.FileSystems = append(n.FileSystems, kind)
		}
	}
	if u, err := e.Cgroups.Usage(id); err == nil { // else it has just ended
		n.RAM = u.RAM
	}
	return n, nil
}

// diskUse is how many bytes a folder takes; none if it does not exist.
func diskUse(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		n += st.Blocks * 512
		return err
	})
	return n, err
}

func deviceName(block bool, rdev uint64) string {
	kind := "char"
	if block {
		kind = "block"
	}
	return fmt.Sprintf("%s %d:%d", kind, unix.Major(rdev), unix.Minor(rdev))
}

// driversOf returns those of a kernel's devices that a device file may stand for, given as "char 10:229".
func driversOf(devices []string, device string) []string {
	major, _, _ := strings.Cut(device, ":")
	match := func(prefix string) (out []string) {
		for _, d := range devices {
			if strings.HasPrefix(d, prefix+" ") {
				out = append(out, d)
			}
		}
		return out
	}
	if exact := match(device); len(exact) > 0 || major == miscDevices {
		return exact
	}
	return match(major)
}

// miscDevices share a major number without sharing a driver.
const miscDevices = "char 10"

// drivers reads which devices and file systems a kernel has, and which it would load a module for. A file that is missing
// says nothing.
func drivers(proc, modules string) (devices, systems []string) {
	kind := "char"
	for f := range fields(filepath.Join(proc, "devices")) {
		switch {
		case f[0] == "Block":
			kind = "block"
		case len(f) == 2 && f[1] != "devices:":
			devices = append(devices, kind+" "+f[0]+" "+f[1])
		}
	}
	for f := range fields(filepath.Join(proc, "misc")) {
		if len(f) == 2 {
			devices = append(devices, miscDevices+":"+f[0]+" "+f[1])
		}
	}
	for f := range fields(filepath.Join(modules, "modules.devname")) { // module, node, c10:229
		if len(f) < 3 || f[0] == "#" || len(f[2]) < 2 {
			continue
		}
		number := strings.NewReplacer("c", "char ", "b", "block ").Replace(f[2][:1]) + f[2][1:]
		for _, name := range []string{path.Base(f[1]), strings.ReplaceAll(f[0], "_", "-")} {
			devices = append(devices, number+" "+name)
		}
	}
	for f := range fields(filepath.Join(proc, "filesystems")) {
		systems = append(systems, f[len(f)-1])
	}
	for f := range fields(filepath.Join(modules, "modules.alias")) { // alias fs-xfs xfs
		if len(f) == 3 && strings.HasPrefix(f[1], "fs-") {
			systems = append(systems, strings.TrimPrefix(f[1], "fs-"))
		}
	}
	slices.Sort(devices)
	slices.Sort(systems)
	return slices.Compact(devices), slices.Compact(systems)
}

// modulesDir is where the running kernel's modules are.
func modulesDir() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
}

// fields yields the fields of each line that has any.
func fields(file string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 0 && !yield(f) {
				return
			}
		}
	}
}
