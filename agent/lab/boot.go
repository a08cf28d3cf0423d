package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/agent"
)

// Where things are inside a host.
const (
	dataDir   = "/var/lib/vzcluster"
	configDir = "/etc/vzcluster"
	runDir    = "/run/vzcluster"
	homeDir   = "/run/lab" // the machine's own directory of the lab
	faultsDir = "faults"   // below homeDir
	binDir    = "/run/bin"
	stayFile  = "stay"      // while it exists init does not start the agent
	pidFile   = "agent.pid" // in the machine's pid namespace
)

// searchPath finds what set-up fetched before what the machine has.
const searchPath = binDir + ":/var/cache/vzcluster/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// leastCPUs is what each host offers at least, though a small machine has less: CPU time is shared out by weight, and
// a container asks for one core unless told otherwise.
const leastCPUs = 4

// share fills in what each host offers: its part of nine tenths of the machine, and leastCPUs at least.
func (s *state) share(hosts int) error {
	const tenths = 0.9
	if s.CPUs == 0 {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			return fmt.Errorf("cannot count the CPUs: %w", err)
		}
		s.CPUs = max(leastCPUs, float64(int(float64(set.Count())*tenths/float64(hosts)*100))/100)
	}
	if s.RAM == 0 {
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			return fmt.Errorf("cannot read the memory's size: %w", err)
		}
		s.RAM = int64(float64(info.Totalram)*float64(info.Unit)*tenths) / int64(hosts)
	}
	if s.Disk == 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(s.dir, &st); err != nil {
			return fmt.Errorf("cannot read the disk's free space: %w", err)
		}
		s.Disk = int64(float64(st.Bavail)*float64(st.Bsize)*tenths) / int64(hosts)
	}
	return nil
}

// prepare writes a machine's disk: an empty data directory and its configuration.
func prepare(dir string, m *machine, s *state) error {
	home := filepath.Join(dir, m.Name)
	for _, d := range []string{"data", "etc"} {
		if err := os.MkdirAll(filepath.Join(home, d), 0o711); err != nil {
			return err
		}
	}
	hosts := "127.0.0.1 localhost\n"
	for _, other := range s.Machines {
		hosts += other.Address + " " + other.Name + "\n"
	}
	files := map[string]string{"hosts": hosts, "hostname": m.Name + "\n"}
	if m.Name != Outside {
		conf, err := yaml.Marshal(config(m, s))
		if err != nil {
			return fmt.Errorf("cannot write the configuration of %s: %w", m.Name, err)
		}
		files["etc/agent.yaml"] = string(conf)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(home, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// config is agent.yaml of a host.
func config(m *machine, s *state) agent.Config {
	c := agent.DefaultConfig()
	c.Name, c.Listen, c.Advertise = m.Name, m.Address+":7443", m.Address+":7443"
	c.Gossip = agent.GossipConfig{Bind: m.Address + ":7946", Advertise: m.Address + ":7946"}
	c.DataDir, c.RunDir = dataDir, runDir
	c.Capacity = agent.CapacityConfig{CPUs: s.CPUs, RAM: agent.Size(s.RAM), Disk: agent.Size(s.Disk)}
	if len(s.Storage) > 0 {
		c.Storage.Driver = s.Storage[min(slices.Index(s.Machines, m), len(s.Storage)-1)]
		c.Storage.Size = agent.Size(max(s.Disk, 1<<30))
	}
	c.Network.Uplink, c.Network.Pool, c.Network.Gateway = "eth0", pool, gateway
	c.Network.PoolFirst, c.Network.PoolLast = poolFirst, poolLast
	return c
}

// startLAN starts the process that holds the LAN's network namespace, and wires it.
func (l *Lab) startLAN() error {
	c, err := l.spawn(initConfig{Role: roleLAN}, unix.CLONE_NEWNET, l.dir)
	if err != nil {
		return fmt.Errorf("cannot start the LAN: %w", err)
	}
	defer c.close()
	if err := l.state.set(&l.state.LAN, c.proc); err != nil {
		return err
	}
	if err := l.enterGroup("lan", c.proc.PID); err != nil {
		return err
	}
	if err := wireLAN(c.proc.PID); err != nil {
		return fmt.Errorf("cannot wire the LAN: %w", err)
	}
	return c.release()
}

// boot switches a machine on.
func (l *Lab) boot(ctx context.Context, m *machine) error {
	if err := l.tree.End(ctx, l.group(m.Name)); err != nil { // of an earlier life
		return err
	}
	home := filepath.Join(l.dir, m.Name)
	conf := initConfig{Role: roleHost, Name: m.Name, Home: home, Labs: l.state.Root}
	if m.Name != Outside {
		conf.Agent = l.state.Agent
		if len(conf.Agent) == 0 {
			conf.Agent = []string{binDir + "/vzcluster", "agent"}
			if l.state.Faults {
				conf.Agent = append(conf.Agent, "--fault-dir", filepath.Join(homeDir, faultsDir))
			}
		}
	}
	const spaces = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	c, err := l.spawn(conf, spaces, home)
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", m.Name, err)
	}
	defer c.close()
	if err := l.state.set(&m.Proc, c.proc); err != nil {
		return err
	}
	if err := l.enterGroup(m.Name, c.proc.PID); err != nil {
		return err
	}
	if err := l.plug(m); err != nil {
		return fmt.Errorf("cannot plug %s into the LAN: %w", m.Name, err)
	}
	// The socket is on the machine's own /run; a link through /proc reaches it from outside.
	link := l.Socket(m.Name)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(fmt.Sprintf("/proc/%d/root%s/agent.sock", m.Proc.PID, runDir), link); err != nil {
		return err
	}
	if err := c.release(); err != nil {
		return fmt.Errorf("cannot start %s: %w", m.Name, err)
	}
	return nil
}

// enterGroup makes a cgroup of the lab and moves a process there.
func (l *Lab) enterGroup(name string, pid int) error {
	path := l.group(name)
	if err := l.tree.Make(path); err != nil {
		return err
	}
	if l.tree.V2() {
		if err := delegateControllers(l.tree.Dirs()[0], path); err != nil {
			return err
		}
	}
	return l.tree.Add(path, pid)
}

// delegateControllers switches on, from the root down to the machine, what containers use and the root offers; the
// others stay as they are, because nobody switches them off again.
func delegateControllers(root, path string) error {
	b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cannot list the cgroup controllers: %w", err)
	}
	for at := root; ; {
		for _, c := range strings.Fields(string(b)) {
			if !slices.Contains([]string{"cpu", "cpuset", "io", "memory", "pids"}, c) {
				continue
			}
			err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+"+c), 0)
			if err != nil && c != "cpuset" && c != "io" { // those may be tied to the root
				return fmt.Errorf("cannot hand down the cgroup controller %s: %w", c, err)
			}
		}
		rest, _ := strings.CutPrefix(filepath.Join(root, path), at+"/")
		next, _, more := strings.Cut(rest, "/")
		if !more {
			return nil
		}
		at = filepath.Join(at, next)
	}
}

// child is a started init that waits until it is released.
type child struct {
	proc    proc
	conf    initConfig
	tell    *os.File // its configuration; end of file without one tells it to give up
	outcome *os.File // what went wrong, or end of file when it is ready
}

// spawn starts lab-init in new namespaces. It does nothing until release, and ends by itself when this process dies
// before that.
func (l *Lab) spawn(conf initConfig, namespaces uintptr, logDir string) (*child, error) {
	logFile, err := os.OpenFile(filepath.Join(logDir, "init.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	toR, toW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer toR.Close()
	fromR, fromW, err := os.Pipe()
	if err != nil {
		toW.Close()
		return nil, err
	}
	defer fromW.Close()
	cmd := exec.Command(l.state.Binary, "lab-init")
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + searchPath, "HOME=/root", "LANG=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{toR, fromW} // 3 and 4
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true}
	c := &child{conf: conf, tell: toW, outcome: fromR}
	if err := cmd.Start(); err != nil {
		c.close()
		return nil, err
	}
	go func() { _ = cmd.Wait() }() // leave no zombie when this process lives longer
	if c.proc, err = procOf(cmd.Process.Pid); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// release lets the child go on and waits until it is what it should become.
func (c *child) release() error {
	b, err := json.Marshal(c.conf)
	if err != nil {
		return err
	}
	if _, err := c.tell.Write(b); err != nil {
		return err
	}
	if err := c.tell.Close(); err != nil {
		return err
	}
	if msg, err := io.ReadAll(c.outcome); err != nil || len(msg) > 0 {
		return errors.Join(err, errors.New(string(msg)))
	}
	if !c.proc.alive() {
		return errors.New("its init ended at once")
	}
	return nil
}

func (c *child) close() {
	c.tell.Close()
	c.outcome.Close()
}

// end cuts a machine's power and removes its cgroups. Its cable goes first: a machine without power says no goodbye,
// but a kernel whose processes are killed closes their connections.
func (l *Lab) end(ctx context.Context, m *machine) error {
	l.unplug(m)
	m.Proc.kill() // and with PID 1 its whole pid namespace
	if err := l.tree.End(ctx, l.group(m.Name)); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(l.dir, m.Name, pidFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// agentPID translates the pid that init wrote down to the outside's.
func (l *Lab) agentPID(m *machine) int {
	inside, err := os.ReadFile(filepath.Join(l.dir, m.Name, pidFile))
	if err != nil {
		return 0
	}
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", m.Proc.PID))
	for _, name := range threads {
		b, _ := os.ReadFile(name)
		for _, f := range strings.Fields(string(b)) {
			pid, _ := strconv.Atoi(f)
			if _, status, err := procStat(pid); err == nil && status != "Z" && innerPID(pid) == string(inside) {
				return pid
			}
		}
	}
	return 0
}

// innerPID is a process's pid in its own pid namespace.
func innerPID(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "NSpid:" {
			return f[len(f)-1]
		}
	}
	return ""
}
