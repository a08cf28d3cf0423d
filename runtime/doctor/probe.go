package doctor

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// programTimeout bounds each program that is asked.
const programTimeout = 10 * time.Second

// Probe looks at this host. It needs root for half of it and leaves the rest out without.
func Probe(ctx context.Context, c Config) Facts {
	f := Facts{
		Root: os.Geteuid() == 0, Caps: effectiveCaps(), Release: kernelRelease(), Features: features(c),
		CRIU: ask(ctx, c.CRIU, "--version"), Runc: ask(ctx, c.Runc, "--version"),
		Cgroup: cgroupMode("/sys/fs/cgroup"), RunFS: fileSystem("/run"), Sysctls: map[string]int64{},
		Closed: closed(filepath.Join(c.DataDir, "containers")), Bridge: link(c.Bridge), Uplink: link(c.Uplink), LAN: defaultRoute(),
	}
	if f.Root && f.CRIU.Path != "" && f.CRIU.Error == "" {
		f.Check = criuCheck(ctx, f.CRIU.Path)
	}
	if path, err := exec.LookPath(c.LXCFS); err == nil {
		f.LXCFS = path
	}
	for _, p := range optionalPrograms() {
		if _, err := exec.LookPath(p.name); err != nil {
			f.Missing = append(f.Missing, p.name)
		}
	}
	for _, p := range storagePrograms() {
		if _, err := exec.LookPath(p); err != nil {
			f.Missing = append(f.Missing, p)
		}
	}
	for _, l := range append(limits(), limit{key: forwarding}, limit{key: postCopy}) {
		if n, ok := sysctl(l.key); ok {
			f.Sysctls[l.key] = n
		}
	}
	_, err := user.LookupGroup(c.Group)
	f.Group = err == nil
	return f
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func effectiveCaps() uint64 {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, _ := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return caps
		}
	}
	return 0
}

// ask finds a program and what it says of its version, the first line with a digit.
func ask(ctx context.Context, program, flag string) Program {
	path, err := exec.LookPath(program)
	if err != nil {
		return Program{}
	}
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, flag).CombinedOutput()
	if err != nil {
		return Program{Path: path, Error: firstLine(string(out), err)}
	}
	for line := range strings.Lines(string(out)) {
		if _, ok := parseVersion(line); ok {
			_, v, found := strings.Cut(strings.TrimSpace(line), "ersion")
			if !found {
				v = line
			}
			return Program{Path: path, Version: strings.Trim(v, ": \n")}
		}
	}
	return Program{Path: path, Version: "of unknown version"}
}

func firstLine(out string, err error) string {
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return err.Error()
}

// criuCheck returns the errors of `criu check`, empty when it looks good.
func criuCheck(ctx context.Context, path string) string {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "check").CombinedOutput()
	if err == nil {
		return ""
	}
	var said []string
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(line, "Error "); ok {
			if _, after, found := strings.Cut(text, "): "); found {
				text = after
			}
			said = append(said, strings.TrimSpace(text))
		}
	}
	if len(said) == 0 {
		return firstLine(string(out), err)
	}
	return strings.Join(said, "; ")
}

// cgroupMode finds how cgroups are mounted below top, and which controllers are missing that the agent needs.
func cgroupMode(top string) Cgroup {
	has := func(name ...string) bool {
		_, err := os.Stat(filepath.Join(append([]string{top}, name...)...))
		return err == nil
	}
	if raw, err := os.ReadFile(filepath.Join(top, "cgroup.controllers")); err == nil {
		have := strings.Fields(string(raw))
		c := Cgroup{Mode: "v2"}
		for _, need := range []string{"cpu", "memory", "pids"} {
			if !slices.Contains(have, need) {
				c.Lacking = append(c.Lacking, need)
			}
		}
		return c
	}
	c := Cgroup{}
	for _, need := range []string{"freezer", "memory", "cpu", "cpuacct", "pids", "systemd"} {
		if has(need, "cgroup.procs") {
			c.Mode = "v1"
		} else {
			c.Lacking = append(c.Lacking, need)
		}
	}
	if c.Mode == "v1" && has("unified", "cgroup.procs") {
		c.Mode = "hybrid"
	}
	return c
}

func sysctl(key string) (int64, bool) {
	raw, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	return n, err == nil
}

func fileSystem(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return "absent"
	}
	if st.Type == unix.TMPFS_MAGIC {
		return "tmpfs"
	}
	return "on disk"
}

// closed finds the first directory above and including dir that lets others not pass; those that do not exist yet are
// made by the agent.
func closed(dir string) string {
	found := ""
	for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
			found = dir
		}
	}
	return found
}

// link describes an interface; the zero Link when there is none.
func link(name string) Link {
	dir := filepath.Join("/sys/class/net", name)
	if _, err := os.Stat(dir); name == "" || err != nil {
		return Link{}
	}
	l := Link{Kind: "device"}
	raw, _ := os.ReadFile(filepath.Join(dir, "uevent"))
	for line := range strings.Lines(string(raw)) {
		if kind, ok := strings.CutPrefix(line, "DEVTYPE="); ok {
			l.Kind = strings.TrimSpace(kind)
		}
	}
	if master, err := os.Readlink(filepath.Join(dir, "master")); err == nil {
		l.Master = filepath.Base(master)
	}
	ports, _ := os.ReadDir(filepath.Join(dir, "brif"))
	for _, p := range ports {
		if !ours(p.Name()) {
			l.Ports++
		}
	}
	return l
}

// ours reports whether a port is that of a container, vz101.
func ours(port string) bool {
	digits, ok := strings.CutPrefix(port, "vz")
	_, err := strconv.Atoi(digits)
	return ok && err == nil
}

func defaultRoute() string {
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 1 && fields[1] == "00000000" {
			return fields[0]
		}
	}
	return ""
}

// reason is why something does not work, empty when it does.
func reason(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EAFNOSUPPORT):
		return "not in this kernel (" + err.Error() + ")"
	}
	return err.Error()
}
