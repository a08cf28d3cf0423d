package fault

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vzcluster/vzcluster/runtime"
)

// Mark is a file in the root of a container that says which copy of it a process is in: host and generation. It is
// written before anything of the copy runs, so that a witness inside can sign with it.
const Mark = "run/copy"

// mark writes the marks of one host.
type mark struct {
	host string
	mu   sync.Mutex
	due  map[int]runtime.Spec // of copies that are going to be restored
}

// expect notes what a container that is going to be restored is.
func (m *mark) expect(s runtime.Spec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.due == nil {
		m.due = map[int]runtime.Spec{}
	}
	m.due[s.ID] = s
}

// restored marks a copy that was restored and is held.
func (m *mark) restored(id, pid int) error {
	m.mu.Lock()
	s, ok := m.due[id]
	delete(m.due, id)
	m.mu.Unlock()
	if !ok {
		return fmt.Errorf("mark the copy of container %d: it was not prepared here", id)
	}
	return m.put(fmt.Sprintf("/proc/%d/root", pid), s)
}

// put replaces the mark below a root; no link of the container's is followed out of it.
func (m *mark) put(path string, s runtime.Spec) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return fmt.Errorf("mark the copy of container %d: %w", s.ID, err)
	}
	defer root.Close()
	err = root.RemoveAll(Mark)
	if err == nil {
		err = root.WriteFile(Mark, fmt.Appendf(nil, "%s %d\n", m.host, s.Generation), 0o644)
	}
	if err == nil {
		err = errors.Join(root.Chmod(Mark, 0o644), root.Lchown(Mark, int(s.UIDBase), int(s.UIDBase)))
	}
	if err != nil {
		return fmt.Errorf("mark the copy of container %d: %w", s.ID, err)
	}
	return nil
}
