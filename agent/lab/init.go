package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime/cgroup"
)

// What a lab-init is to become.
const (
	roleLAN  = "lan"  // a process that holds a network namespace
	roleHost = "host" // PID 1 of a machine
)

// initConfig is what a lab-init is told.
type initConfig struct {
	Role  string   `json:"role"`
	Name  string   `json:"name"`
	Home  string   `json:"home"` // the machine's directory, on the outside
	Labs  string   `json:"labs"` // the directory of all labs, hidden inside
	Agent []string `json:"agent"`
}

// Init is the hidden command lab-init. It must run on the program's main goroutine, as a fresh process that Up started;
// args are those behind the command's name. It returns only when it fails.
//
// It runs twice. The first time it is told its configuration, builds the machine's mounts and executes itself anew, so
// that all its threads are in the new cgroup namespace; the second time it is the machine's PID 1.
func Init(args []string) error {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "run" {
		return runPID1(args[1:])
	}
	goruntime.LockOSThread()
	tell, outcome := os.NewFile(3, "configuration"), os.NewFile(4, "outcome")
	if tell == nil || outcome == nil {
		return errors.New("lab-init is started by `vzcluster lab up` only")
	}
	unix.CloseOnExec(3)
	unix.CloseOnExec(4) // closed by the last step: everything before it went well
	b, err := io.ReadAll(tell)
	if err != nil || len(b) == 0 {
		return errors.New("the lab was given up before it was made")
	}
	err = become(b)
	fmt.Fprint(outcome, err)
	return err
}

func become(conf []byte) error {
	var c initConfig
	if err := json.Unmarshal(conf, &c); err != nil {
		return err
	}
	if c.Role == roleLAN {
		return syscall.Exec("/bin/sleep", []string{"vzlab-lan", "infinity"}, os.Environ())
	}
	if err := isolate(c); err != nil {
		return err
	}
	return syscall.Exec(binDir+"/vzcluster", append([]string{"vzcluster", "lab-init", "--", "run"}, c.Agent...), os.Environ())
}

// isolate turns a process in fresh namespaces into a machine of its own: its own /proc, /sys, /run and /tmp, its own
// cgroup root under the usual path, its own disk, and nothing of other labs and machines.
func isolate(c initConfig) error {
	self, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	home, err := unix.Open(c.Home, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // it may be hidden by what follows
	if err != nil {
		return err
	}
	hierarchies, err := cgroupMounts()
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cannot make a cgroup namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("cannot make the mounts private: %w", err)
	}
	steps := []mount{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	}
	steps = append(steps, hierarchies...)
	steps = append(
		steps,
		mount{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		mount{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		mount{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		bind(fmt.Sprintf("/proc/self/fd/%d", home), homeDir),
		bind(fmt.Sprintf("/proc/self/fd/%d", self), binDir+"/vzcluster"),
		mount{"tmpfs", c.Labs, "tmpfs", unix.MS_RDONLY, "mode=711"},
		bind(homeDir+"/data", dataDir),
		bind(homeDir+"/etc", configDir),
		bind(homeDir+"/hosts", "/etc/hosts"),
		bind(homeDir+"/hostname", "/etc/hostname"),
	)
	for _, m := range steps {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/run/lock", 0o1777); err != nil {
		return err
	}
	if err := leaveRoot(); err != nil {
		return err
	}
	return unix.Sethostname([]byte(c.Name))
}

// mount is one call of mount(2).
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func bind(source, target string) mount { return mount{source, target, "", unix.MS_BIND, ""} }

// do makes mount points below the machine's own tmpfs; elsewhere what does not exist need not be covered.
func (m mount) do() error {
	if m.fstype == "link" {
		return os.Symlink(m.source, m.target)
	}
	if strings.HasPrefix(m.target, "/run/") || strings.HasPrefix(m.target, cgroup.DefaultRoot+"/") {
		if err := makeTarget(m.source, m.target); err != nil {
			return err
		}
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if errors.Is(err, fs.ErrNotExist) && m.target != dataDir && m.target != configDir {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot mount %s: %w", m.target, err)
	}
	return nil
}

func makeTarget(source, target string) error {
	fi, err := os.Stat(source)
	if err == nil && fi.Mode().IsRegular() {
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, nil, 0o755)
	}
	return os.MkdirAll(target, 0o755)
}

// cgroupMounts lists the mounts that show a new cgroup namespace its own subtree at the places where the machine has
// the hierarchies.
func cgroupMounts() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	ms := []mount{{"tmpfs", cgroup.DefaultRoot, "tmpfs", flags, "mode=755"}}
	for s := bufio.NewScanner(f); s.Scan(); {
		left, right, _ := strings.Cut(s.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 5 || len(r) < 3 || l[4] != cgroup.DefaultRoot && !strings.HasPrefix(l[4], cgroup.DefaultRoot+"/") {
			continue
		}
		switch target := l[4]; {
		case r[0] == "cgroup2" && target == cgroup.DefaultRoot:
			return []mount{{"cgroup2", target, "cgroup2", flags, ""}}, nil
		case r[0] == "cgroup2":
			ms = append(ms, mount{"cgroup2", target, "cgroup2", flags, ""})
		case r[0] == "cgroup":
			ms = append(ms, mount{"cgroup", target, "cgroup", flags, v1Options(r[2])})
		}
	}
	return append(ms, cgroupLinks()...), nil
}

// v1Options keeps of a hierarchy's mount options those that name it.
func v1Options(super string) string {
	other := []string{"rw", "ro", "xattr", "clone_children", "noprefix", "none"}
	var keep []string
	for _, o := range strings.Split(super, ",") {
		if slices.Contains(other, o) || strings.HasPrefix(o, "release_agent=") {
			continue
		}
		if strings.HasPrefix(o, "name=") {
			keep = append(keep, "none")
		}
		keep = append(keep, o)
	}
	return strings.Join(keep, ",")
}

// cgroupLinks repeats links like cpu -> cpu,cpuacct.
func cgroupLinks() []mount {
	var ms []mount
	entries, _ := os.ReadDir(cgroup.DefaultRoot)
	for _, e := range entries {
		name := filepath.Join(cgroup.DefaultRoot, e.Name())
		if to, err := os.Readlink(name); err == nil {
			ms = append(ms, mount{source: to, target: name, fstype: "link"})
		}
	}
	return ms
}

// leaveRoot moves PID 1 of a machine with cgroup v2 into a cgroup below the root: one that has processes cannot hand
// controllers down to the containers.
func leaveRoot() error {
	tree, err := cgroup.OpenTree("")
	if err != nil || !tree.V2() {
		return err
	}
	if err := tree.Make("/init"); err != nil {
		return err
	}
	return tree.Add("/init", 1)
}
