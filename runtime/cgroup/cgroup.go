// Package cgroup owns the cgroups of the containers of one host: their limits, their freezer and what they use. The
// controllers are driven through containerd/cgroups; it serves hosts with v1, hybrid and v2 hierarchies and gives
// every operation the same meaning on all of them. It starts no processes and knows no container runtime.
//
// The one rule for callers: paths are those of the mounted hierarchies ("/vz/101" below /sys/fs/cgroup/<controller>),
// never prefixes from /proc/self/cgroup, so that a container has the same path on every host, also where the host
// itself lives in a cgroup namespace.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vzcluster/vzcluster/runtime"
)

// Config says where the containers' cgroups live.
type Config struct {
	Parent string // name of the cgroup above all containers; empty: "vz"
	Root   string // where the hierarchies are mounted; empty: /sys/fs/cgroup
	Disk   string // folder of the private layers: I/O is limited on the disk below it; empty: it cannot be limited
}

// Manager implements runtime.Cgroups. Its methods may be called concurrently for different containers.
type Manager struct {
	tree   Tree
	parent string
	disk   string
	control
}

var _ runtime.Cgroups = (*Manager)(nil)

// control is what differs between v1 and v2. Paths are cgroup paths.
type control interface {
	// prepare makes the limit files of a cgroup appear.
	prepare(path string) error
	// settings translates limits, in the order in which they must be set.
	settings(path string, l runtime.Limits, on machine) ([]setting, error)
	// settled is called when the limits of a cgroup were changed.
	settled(path string) error
	usage(path string) (runtime.Usage, error)
	beans(path string) []runtime.Bean
	// setFrozen asks for the state.
	setFrozen(path string, on bool) error
	// frozen says what was asked for, and whether everything stands still.
	frozen(path string) (asked, still bool, err error)
}

// New looks at the mounted hierarchies and returns the manager for them.
func New(c Config) (*Manager, error) {
	if c.Parent == "" {
		c.Parent = "vz"
	}
	tree, err := OpenTree(c.Root)
	if err != nil {
		return nil, err
	}
	m := &Manager{tree: tree, parent: c.Parent, disk: c.Disk}
	if tree.v2 {
		m.control, err = newV2(tree.root)
	} else {
		m.control, err = newV1(tree.root)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Path is the cgroup path of a container.
func (m *Manager) Path(id int) string { return "/" + m.parent + "/" + strconv.Itoa(id) }

// Create makes the cgroup in every hierarchy, sets the limits and hands the delegated part to uid:uid. Making one that
// exists sets its limits. After an error nothing of a new cgroup is left.
func (m *Manager) Create(id int, l runtime.Limits, uid uint32) (err error) {
	path := m.Path(id)
	isNew := !m.tree.Exists(path)
	defer func() {
		if err != nil && isNew {
			_ = m.tree.Remove(context.Background(), path)
		}
	}()
	if err := m.tree.Make(path); err != nil {
		return err
	}
	if err := m.limit(id, l); err != nil {
		return fmt.Errorf("cannot set the limits of cgroup %s: %w", path, err)
	}
	return m.Delegate(id, uid)
}

// Update changes the limits, all or nothing.
func (m *Manager) Update(id int, l runtime.Limits) error {
	path := m.Path(id)
	if !m.tree.Exists(path) {
		return fmt.Errorf("cgroup %s: %w", path, runtime.ErrNotFound)
	}
	if err := m.limit(id, l); err != nil {
		return fmt.Errorf("cannot change the limits of cgroup %s: %w", path, err)
	}
	return nil
}

func (m *Manager) limit(id int, l runtime.Limits) error {
	path := m.Path(id)
	if err := check(l); err != nil {
		return err
	}
	on, err := m.machine(id, l)
	if err != nil {
		return err
	}
	if err := m.prepare(path); err != nil {
		return err
	}
	ss, err := m.settings(path, l, on)
	if err != nil {
		return err
	}
	if err := change(ss); err != nil {
		return err
	}
	return m.settled(path)
}

// check refuses what the kernel would read as something else.
func check(l runtime.Limits) error {
	for _, n := range []int64{
		l.RAM, l.Swap, l.Guarantee, l.SoftRAM, l.MilliCPU, l.CPUUnits, l.CPUCount, l.PIDs,
		l.IOWeight, l.ReadRate, l.WriteRate, l.ReadIOPS, l.WriteIOPS,
	} {
		if n < 0 {
			return fmt.Errorf("a limit is negative: %+v", l)
		}
	}
	return nil
}

// delegated are the files of a cgroup that its manager inside may write. Those that set limits are not among them.
func delegated() []string {
	return []string{"cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"}
}

// Delegate hands the subtree that systemd inside manages to uid:uid: the container's cgroup itself in part, the ones
// below it (there after a restore) completely.
func (m *Manager) Delegate(id int, uid uint32) error {
	for _, dir := range m.tree.delegable() {
		top := filepath.Join(dir, m.Path(id))
		if err := os.Chown(top, int(uid), int(uid)); err != nil {
			return fmt.Errorf("cannot hand over cgroup %s: %w", top, err)
		}
		for _, f := range delegated() {
			if err := os.Chown(filepath.Join(top, f), int(uid), int(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot hand over cgroup %s: %w", top, err)
			}
		}
		if err := chownBelow(top, int(uid)); err != nil {
			return err
		}
	}
	return nil
}

func chownBelow(top string, uid int) error {
	subs, err := os.ReadDir(top)
	if err != nil {
		return fmt.Errorf("cannot list cgroup %s: %w", top, err)
	}
	for _, s := range subs {
		if !s.IsDir() {
			continue
		}
		err := filepath.WalkDir(filepath.Join(top, s.Name()), func(p string, _ fs.DirEntry, err error) error {
			if err == nil {
				err = os.Lchown(p, uid, uid)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed from inside meanwhile
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("cannot hand over the cgroups below %s: %w", top, err)
		}
	}
	return nil
}

// Add moves a process into the container's cgroup in every hierarchy.
func (m *Manager) Add(id, pid int) error { return m.tree.Add(m.Path(id), pid) }

// PIDs lists the processes of the container; one without a cgroup has none.
func (m *Manager) PIDs(id int) ([]int, error) { return m.tree.Procs(m.Path(id)) }

// Usage says what the container uses now. RAM leaves out page cache that was not used recently.
func (m *Manager) Usage(id int) (runtime.Usage, error) {
	path := m.Path(id)
	if !m.tree.Exists(path) {
		return runtime.Usage{}, fmt.Errorf("cgroup %s: %w", path, runtime.ErrNotFound)
	}
	u, err := m.usage(path)
	if err != nil {
		return runtime.Usage{}, fmt.Errorf("cannot read the usage of cgroup %s: %w", path, err)
	}
	return u, nil
}

// Remove deletes the cgroup, and those below it, in every hierarchy.
func (m *Manager) Remove(id int) error { return m.tree.Remove(context.Background(), m.Path(id)) }
