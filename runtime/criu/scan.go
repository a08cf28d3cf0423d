package criu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/runtime"
)

// namespaceKinds are the namespaces that a scan tells apart.
var namespaceKinds = []string{"cgroup", "ipc", "net", "pid", "time", "user", "uts"}

// passing is how long what may pass by itself is given to do so: a wait in the kernel, a message that is not read yet.
// A database that writes is in such a wait most of the time, but not all the time.
const passing = time.Second

// Scan implements runtime.Checkpointer. Processes that end meanwhile are left out. It asks no file system that the
// container may serve itself: such a question might never be answered.
func (*Criu) Scan(init int, pids []int) (runtime.Scan, error) {
	s := scanner{pids: pids, mounts: map[int]string{}, seen: map[string]bool{}, masters: map[int]int{}}
	s.scan.Init = init
	if err := s.readMounts(init); err != nil {
		return s.scan, err
	}
	for _, pid := range pids {
		if id, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err == nil && !s.seen[id] {
			_ = s.readMounts(pid) // it has ended
		}
	}
	for _, pid := range pids {
		if p, err := s.process(pid); err == nil { // else it has ended
			s.scan.Processes = append(s.scan.Processes, p)
		}
	}
	s.terminals()
	s.connections(init)
	s.lookAgain()
	return s.scan, nil
}

// Outsiders implements runtime.Checkpointer.
func (*Criu) Outsiders(init int, pids []int) []runtime.Process {
	var out []runtime.Process
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d", pid)
		st, err := readStatus(dir)
		if err == nil && pid != init && !slices.Contains(pids, st.parent) {
			out = append(out, runtime.Process{PID: pid, Name: st.name, Unit: unit(dir), Foreign: true})
		}
	}
	return out
}

// scanner reads one container.
type scanner struct {
	scan   runtime.Scan
	pids   []int
	mounts map[int]string  // mount id -> type of file system, in all the container's mount namespaces
	seen   map[string]bool // mount namespaces that were read

	masters map[int]int // number of a pseudo-terminal -> a process that holds its master
}

func (s *scanner) process(pid int) (runtime.Process, error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	st, err := readStatus(dir)
	if err != nil {
		return runtime.Process{}, err
	}
	p := runtime.Process{
		PID: pid, Name: st.name, Unit: unit(dir), Namespaces: map[string]string{}, Traced: st.traced, Stuck: st.state == 'D',
		Foreign: pid != s.scan.Init && !slices.Contains(s.pids, st.parent),
	}
	if st.state == 'Z' {
		p.Headless = st.threads > 1
		return p, nil
	}
	p.Stopped = st.threads > 1 && partlyStopped(dir)
	for _, kind := range namespaceKinds {
		if id, err := os.Readlink(dir + "/ns/" + kind); err == nil {
			p.Namespaces[kind] = id
		}
	}
	if p.Files, err = s.files(dir); err != nil {
		return p, err
	}
	p.Mapped, err = mapped(dir)
	return p, err
}

// status is what /proc/PID/status says.
type status struct {
	name            string
	state           byte
	parent, threads int
	traced          bool
}

func readStatus(dir string) (st status, err error) {
	b, err := os.ReadFile(dir + "/status")
	if err != nil {
		return st, err
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			st.name = value
		case "State":
			st.state = (value + "?")[0]
		case "PPid":
			st.parent, err = strconv.Atoi(value)
		case "TracerPid":
			st.traced = value != "0"
		case "Threads":
			st.threads, _ = strconv.Atoi(value)
		}
	}
	if st.state == 0 || err != nil {
		return st, errors.Join(fmt.Errorf("%s/status cannot be understood", dir), err)
	}
	return st, nil
}

// partlyStopped says whether some threads of a process are stopped and others are not.
func partlyStopped(dir string) bool {
	threads, _ := filepath.Glob(dir + "/task/*")
	stopped := 0
	for _, t := range threads {
		if st, err := readStatus(t); err == nil && st.state == 'T' {
			stopped++
		}
	}
	return stopped > 0 && stopped < len(threads)
}

// mapped lists what memory is mapped from, as far as it may be something that no checkpoint knows.
func mapped(dir string) ([]string, error) {
	b, err := os.ReadFile(dir + "/maps")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range bytes.Lines(b) {
		i := bytes.IndexAny(line, "/[")
		if j := bytes.Index(line, []byte("anon_inode:")); j >= 0 {
			i = j
		}
		if i < 0 {
			continue
		}
		from := line[i : len(line)-1]
		odd := bytes.HasPrefix(from, []byte("anon_inode:")) || string(from) == "[uprobes]" || bytes.HasPrefix(from, []byte("/secretmem")) ||
			bytes.HasPrefix(from, []byte("/dev/")) && !bytes.HasPrefix(from, []byte("/dev/zero")) && !bytes.HasPrefix(from, []byte("/dev/shm/"))
		if odd && !slices.Contains(out, string(from)) {
			out = append(out, string(from))
		}
	}
	return out, nil
}

// lookAgain gives what may pass by itself the time to do so.
func (s *scanner) lookAgain() {
	for end := time.Now().Add(passing); s.waits() && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		unread := s.unread()
		for i := range s.scan.Processes {
			p := &s.scan.Processes[i]
			if p.Stuck {
				st, err := readStatus(fmt.Sprintf("/proc/%d", p.PID))
				p.Stuck = err == nil && st.state == 'D'
			}
			for j := range p.Files {
				p.Files[j].Unread = p.Files[j].Unread && unread[inode(p.Files[j].Target)]
			}
		}
	}
}

// waits says whether something is in the way that may pass by itself.
func (s *scanner) waits() bool {
	return slices.ContainsFunc(s.scan.Processes, func(p runtime.Process) bool {
		return p.Stuck || slices.ContainsFunc(p.Files, func(f runtime.File) bool { return f.Unread })
	})
}

// unit is the systemd unit that a process belongs to: the last part of its cgroup path that looks like one.
func unit(dir string) string {
	b, err := os.ReadFile(dir + "/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[1] != "" && f[1] != "name=systemd" {
			continue
		}
		for _, part := range slices.Backward(strings.Split(f[2], "/")) {
			if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
				return part
			}
		}
	}
	return ""
}
