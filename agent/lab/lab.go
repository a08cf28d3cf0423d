// Package lab makes virtual hosts on one machine: each with namespaces, a state directory and a cgroup subtree of its
// own, joined by a LAN in a network namespace of its own. It owns their processes, wiring and removal and the power
// switches that tests and demos need; what a host does is the agent's business.
//
// The one rule for callers: everything a lab makes outside its namespaces is below its directory and below its cgroup
// (/vzlab-NAME), and Down removes both, whatever has crashed before; nothing else of the machine is changed.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime/cgroup"
)

// Defaults of a lab.
const (
	DefaultDir  = "/var/lib/vzcluster-lab"
	DefaultName = "lab"
	Outside     = "outside" // the machine on the LAN that belongs to no cluster
)

// Errors that callers tell apart.
var (
	ErrNotUp     = errors.New("no such lab is up")
	ErrNoMachine = errors.New("no such machine in the lab")
	ErrNoAgent   = errors.New("no agent runs on that machine")
)

// Options describe a lab. The zero value is three hosts that share nine tenths of the machine.
type Options struct {
	Name     string   // one of a kind on the machine, whatever the directory; empty: DefaultName
	Dir      string   // of all labs; empty: DefaultDir
	Hosts    int      // 0: three
	CPUs     float64  // cores that each host offers; 0: its share of the machine
	RAM      int64    // bytes that each host offers; 0: its share
	Disk     int64    // bytes that each host offers; 0: its share
	Storage  []string // driver of each host, the last one of the others too; empty: the default one
	Binary   string   // vzcluster itself, whose lab-init the hosts run; empty: the running program
	Faults   bool     // the agents do the harm that the files in FaultDir ask for
	Agent    []string // what each host runs; empty: the agent, and Up forms the cluster
	Progress func(string)
}

func (o *Options) fill() error {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if err := CheckName(o.Name); err != nil {
		return err
	}
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if o.Hosts == 0 {
		o.Hosts = 3
	}
	if o.Hosts < 1 || o.Hosts > MaxHosts {
		return fmt.Errorf("a lab has between 1 and %d hosts, not %d", MaxHosts, o.Hosts)
	}
	if o.CPUs < 0 || o.RAM < 0 || o.Disk < 0 {
		return errors.New("what a host offers cannot be negative")
	}
	if o.Binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		o.Binary = exe
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return nil
}

// Lab is a set of virtual hosts. Its methods may be called by several processes at once; those that change something
// take turns.
type Lab struct {
	dir   string // of this lab
	name  string
	tree  cgroup.Tree
	state *state // as of Up or Open; methods that look at processes work on a fresh copy
}

// Up makes a lab and, with real agents, forms the cluster. When it fails nothing of the lab is left.
func Up(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a lab needs root; run it with sudo")
	}
	tree, err := cgroup.OpenTree("")
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: filepath.Join(o.Dir, o.Name), name: o.Name, tree: tree}
	unlock, err := l.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if old, err := loadState(l.dir); err == nil && old.anyAlive() {
		return nil, fmt.Errorf("the lab %s is up already; `vzcluster lab down%s` takes it away", o.Name, l.flag())
	}
	if err := l.remove(ctx); err != nil { // what a crash or a reboot left
		return nil, err
	}
	defer func() {
		if err != nil {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			defer cancel()
			err = errors.Join(err, l.remove(clean))
		}
	}()
	if err := l.build(ctx, o); err != nil {
		return nil, err
	}
	if len(o.Agent) == 0 {
		if err := l.form(ctx, o.Progress); err != nil {
			return nil, l.withLogs(err)
		}
	}
	return l, nil
}

// build makes LAN and machines.
func (l *Lab) build(ctx context.Context, o Options) error {
	s, err := newState(l.dir, o)
	if err != nil {
		return err
	}
	l.state = s
	if err := l.tree.Make(l.group("")); err != nil {
		return err
	}
	if err := makeMountPoints(); err != nil {
		return err
	}
	o.Progress("LAN")
	if err := l.startLAN(); err != nil {
		return err
	}
	hosts := "hosts"
	if o.Hosts == 1 {
		hosts = "host"
	}
	o.Progress(fmt.Sprintf("%d %s and %s", o.Hosts, hosts, Outside))
	var g errgroup.Group
	for _, m := range s.Machines {
		g.Go(func() error {
			if err := prepare(l.dir, m, s); err != nil {
				return err
			}
			return l.boot(ctx, m)
		})
	}
	return g.Wait()
}

// Open finds a lab of the default directory that was made before.
func Open(name string) (*Lab, error) { return OpenAt(DefaultDir, name) }

// OpenAt finds a lab below a directory.
func OpenAt(dir, name string) (*Lab, error) {
	if name == "" {
		name = DefaultName
	}
	l := &Lab{dir: filepath.Join(dir, name), name: name}
	var err error
	if l.tree, err = cgroup.OpenTree(""); err != nil {
		return nil, err
	}
	if l.state, err = loadState(l.dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, l.notUp()
		}
		return nil, err
	}
	return l, nil
}

// Name returns the lab's name.
func (l *Lab) Name() string { return l.name }

// Hosts returns the names of the hosts, without Outside.
func (l *Lab) Hosts() []string {
	var names []string
	for _, m := range l.state.Machines {
		if m.Name != Outside {
			names = append(names, m.Name)
		}
	}
	return names
}

// Address returns a machine's address on the LAN, without a port.
func (l *Lab) Address(host string) string {
	if m := l.state.machine(host); m != nil {
		return m.Address
	}
	return ""
}

// Socket returns the path of a host's agent socket as seen from outside the lab.
func (l *Lab) Socket(host string) string { return filepath.Join(l.dir, host, "agent.sock") }

// Endpoint is Socket in the form that the CLI and the client read.
func (l *Lab) Endpoint(host string) string { return "unix://" + l.Socket(host) }

// Log returns the path of a host's agent log.
func (l *Lab) Log(host string) string { return filepath.Join(l.dir, host, "agent.log") }

// FaultDir returns the folder that tells a host's agent which harm to do, see package runtime/fault.
func (l *Lab) FaultDir(host string) string { return filepath.Join(l.dir, host, faultsDir) }

// MachineStatus says how a machine of the lab is.
type MachineStatus struct {
	Name        string `json:"name"`
	Address     string `json:"address"`
	On          bool   `json:"on"`
	Init        int    `json:"init,omitempty"`  // pid of its PID 1, on the outside
	Agent       int    `json:"agent,omitempty"` // pid of its agent, on the outside; 0: none runs
	Partitioned bool   `json:"partitioned"`     // cut off by Partition
}

// Status looks at every machine.
func (l *Lab) Status() ([]MachineStatus, error) {
	now, err := l.fresh()
	if err != nil {
		return nil, err
	}
	var all []MachineStatus
	for _, m := range now.state.Machines {
		st := MachineStatus{Name: m.Name, Address: m.Address, On: m.Proc.alive(), Partitioned: slices.Contains(now.state.Partition, m.Name)}
		if st.On {
			st.Init, st.Agent = m.Proc.PID, l.agentPID(m)
		}
		all = append(all, st)
	}
	return all, nil
}

// InitPID returns the pid of a host's PID 1 on the outside, 0 when it is switched off.
func (l *Lab) InitPID(host string) (int, error) {
	_, m, err := l.find(host)
	if err != nil || !m.Proc.alive() {
		return 0, err
	}
	return m.Proc.PID, nil
}

// AgentPID returns the pid of a host's agent on the outside, 0 when none runs.
func (l *Lab) AgentPID(host string) (int, error) {
	_, m, err := l.find(host)
	if err != nil {
		return 0, err
	}
	return l.agentPID(m), nil
}

// Kill ends a host's agent with SIGKILL and returns when it is gone. The host's init starts it again within a second,
// unless stay is set: then Start does.
func (l *Lab) Kill(ctx context.Context, host string, stay bool) error {
	if host == Outside {
		return fmt.Errorf("%s: %w", host, ErrNoAgent)
	}
	unlock, _, m, err := l.on(host)
	if err != nil {
		return err
	}
	defer unlock()
	pid := l.agentPID(m)
	if stay {
		if err := os.WriteFile(filepath.Join(l.dir, host, stayFile), nil, 0o644); err != nil {
			return err
		}
	}
	if pid == 0 {
		return nil // or about to be started again, which stay has prevented
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // gone
	}
	defer unix.Close(fd)
	if err := unix.Kill(m.Proc.PID, unix.SIGUSR1); err != nil {
		return fmt.Errorf("cannot signal %s: %w", host, err)
	}
	return waitEnd(ctx, fd)
}

// Start switches a machine on after PowerOff, or starts its agent after Kill with stay; it returns when the agent
// answers.
func (l *Lab) Start(ctx context.Context, host string) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	now, m, err := l.find(host)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(l.dir, host, stayFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if m.Proc.alive() {
		if err := unix.Kill(m.Proc.PID, unix.SIGUSR2); err != nil {
			return fmt.Errorf("cannot signal %s: %w", host, err)
		}
	} else if err := now.boot(ctx, m); err != nil {
		return err
	}
	if len(l.state.Agent) > 0 || host == Outside {
		return nil
	}
	return l.WaitReady(ctx, host)
}

// PowerOff cuts a machine's power: all its processes and mounts are gone at once, its disk stays.
func (l *Lab) PowerOff(ctx context.Context, host string) error {
	unlock, now, m, err := l.on(host)
	if err != nil {
		return err
	}
	defer unlock()
	return now.end(ctx, m)
}

// Partition cuts the machines off from the rest of the LAN; they still see each other. What was cut off before and is
// not named is back.
func (l *Lab) Partition(hosts ...string) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	now, err := l.fresh()
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if now.state.machine(h) == nil {
			return l.noMachine(h)
		}
	}
	now.state.Partition = hosts
	if err := now.state.save(); err != nil {
		return err
	}
	return now.rewire()
}

// Heal undoes Partition.
func (l *Lab) Heal() error { return l.Partition() }

// Down removes the lab and everything in it.
func (l *Lab) Down(ctx context.Context) error { return Down(ctx, filepath.Dir(l.dir), l.name) }

// Down removes a lab, also one that is broken or half made. An absent one is no error. An empty dir means DefaultDir.
func Down(ctx context.Context, dir, name string) error {
	if dir == "" {
		dir = DefaultDir
	}
	tree, err := cgroup.OpenTree("")
	if err != nil {
		return err
	}
	l := &Lab{dir: filepath.Join(dir, name), name: name, tree: tree}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return l.remove(ctx)
}

// fresh returns the lab with its state as it is now.
func (l *Lab) fresh() (*Lab, error) {
	s, err := loadState(l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, l.notUp()
	}
	return &Lab{dir: l.dir, name: l.name, tree: l.tree, state: s}, err
}

// find returns the fresh lab and a machine of it.
func (l *Lab) find(host string) (*Lab, *machine, error) {
	now, err := l.fresh()
	if err != nil {
		return nil, nil, err
	}
	if m := now.state.machine(host); m != nil {
		return now, m, nil
	}
	return nil, nil, l.noMachine(host)
}

// on locks the lab and finds a machine that must be switched on.
func (l *Lab) on(host string) (unlock func(), now *Lab, m *machine, err error) {
	unlock, err = l.lock()
	if err != nil {
		return nil, nil, nil, err
	}
	if now, m, err = l.find(host); err == nil && !m.Proc.alive() {
		err = l.errOff(host)
	}
	if err != nil {
		unlock()
		return nil, nil, nil, err
	}
	return unlock, now, m, nil
}
