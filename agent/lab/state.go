package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// state is what lab.json holds. It is written before what it names can outlive its maker.
type state struct {
	Name      string     `json:"name"`
	Root      string     `json:"root"` // the directory of all labs
	Binary    string     `json:"binary"`
	Agent     []string   `json:"agent,omitempty"`
	Faults    bool       `json:"faults,omitempty"`
	CPUs      float64    `json:"cpus"`
	RAM       int64      `json:"ram"`
	Disk      int64      `json:"disk"`
	Storage   []string   `json:"storage,omitempty"`
	LAN       proc       `json:"lan"`
	Machines  []*machine `json:"machines"`
	Partition []string   `json:"partition,omitempty"`

	dir string
	mu  sync.Mutex
}

// machine is one virtual machine.
type machine struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Proc    proc   `json:"proc"` // its PID 1
}

// proc names a process for good: pids are used again, pids with a start time are not.
type proc struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
}

func procOf(pid int) (proc, error) {
	start, _, err := procStat(pid)
	return proc{pid, start}, err
}

// alive reports whether the process still runs; a dead one that nobody has waited for does not.
func (p proc) alive() bool {
	if p.PID == 0 {
		return false
	}
	start, status, err := procStat(p.PID)
	return err == nil && start == p.Start && status != "Z" && status != "X"
}

// kill ends the process with SIGKILL if it is still the one that was named.
func (p proc) kill() {
	if fd, err := unix.PidfdOpen(p.PID, 0); p.PID > 0 && err == nil {
		if p.alive() { // looked at through the open pidfd, so the pid is not used again meanwhile
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		_ = unix.Close(fd)
	}
}

// procStat returns start time and state of a process.
func procStat(pid int) (start uint64, status string, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", err
	}
	_, rest, _ := strings.Cut(string(b), ") ") // fields from the third one on; a name may hold anything but ends last
	if i := strings.LastIndex(string(b), ") "); i >= 0 {
		rest = string(b)[i+2:]
	}
	f := strings.Fields(rest)
	if len(f) < 20 {
		return 0, "", fmt.Errorf("cannot read the state of process %d", pid)
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	return start, f[0], err
}

func newState(dir string, o Options) (*state, error) {
	s := &state{
		Name: o.Name, Root: o.Dir, Binary: o.Binary, Agent: o.Agent, Faults: o.Faults, CPUs: o.CPUs, RAM: o.RAM, Disk: o.Disk, Storage: o.Storage, dir: dir,
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	if err := s.share(o.Hosts); err != nil {
		return nil, err
	}
	for i := range o.Hosts {
		s.Machines = append(s.Machines, &machine{Name: fmt.Sprintf("host%d", i+1), Address: hostAddress(i + 1)})
	}
	s.Machines = append(s.Machines, &machine{Name: Outside, Address: outsideAddress})
	return s, s.save()
}

func loadState(dir string) (*state, error) {
	b, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the lab's state: %w", err)
	}
	s := &state{dir: dir}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("cannot read %s/lab.json: %w", dir, err)
	}
	return s, nil
}

func (s *state) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(s.dir, "lab.json.new")
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(s.dir, "lab.json"))
}

// set changes a process in the state and saves it.
func (s *state) set(at *proc, p proc) error {
	s.mu.Lock()
	*at = p
	s.mu.Unlock()
	return s.save()
}

func (s *state) machine(name string) *machine {
	for _, m := range s.Machines {
		if m.Name == name {
			return m
		}
	}
	return nil
}

func (s *state) anyAlive() bool {
	for _, m := range s.Machines {
		if m.Proc.alive() {
			return true
		}
	}
	return s.LAN.alive()
}

// lock lets one caller at a time, of any process, change a lab. The file goes away with the lab, so a lock on a file that is no longer
// there is none.
func (l *Lab) lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(l.dir), 0o711); err != nil {
		return nil, fmt.Errorf("cannot lock the lab %s: %w", l.name, err)
	}
	for {
		f, err := os.OpenFile(l.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
		if err == nil {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot lock the lab %s: %w", l.name, err)
		}
		mine, err1 := f.Stat()
		there, err2 := os.Stat(l.lockFile())
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return func() { l.unlock(f) }, nil
		}
		f.Close()
	}
}

func (l *Lab) lockFile() string { return l.dir + ".lock" }

// unlock removes the last traces when the lab is gone.
func (l *Lab) unlock(f *os.File) {
	if _, err := os.Stat(l.dir); errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(l.lockFile())
		_ = os.Remove(filepath.Dir(l.dir)) // unless it holds other labs
		removeMountPoints(l.tree)
	}
	f.Close()
}

// remove ends every process and deletes every trace of the lab, needing no state: what is in its cgroup is its own.
func (l *Lab) remove(ctx context.Context) error {
	if s, err := loadState(l.dir); err == nil {
		for _, m := range s.Machines {
			m.Proc.kill()
		}
		s.LAN.kill()
	}
	if err := l.tree.End(ctx, l.group("")); err != nil {
		return fmt.Errorf("cannot end the lab %s: %w", l.name, err)
	}
	if err := removeTree(l.dir); err != nil {
		return fmt.Errorf("cannot remove the lab %s: %w", l.name, err)
	}
	return nil
}

// removeTree removes a folder, what is in it side by side: each host has templates of thousands of files.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var all errgroup.Group
	for _, e := range entries {
		all.Go(func() error { return os.RemoveAll(filepath.Join(dir, e.Name())) })
	}
	return errors.Join(all.Wait(), os.RemoveAll(dir))
}

// groupPrefix begins the names of the cgroups of labs.
const groupPrefix = "vzlab-"

// group is the cgroup of a machine, or of the whole lab.
func (l *Lab) group(machine string) string {
	return filepath.Join("/"+groupPrefix+l.name, machine)
}
