package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// load reads the records of what an earlier agent did since the machine booted.
func (r *reconciler) load() error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("the containers' records cannot be kept: %w", err)
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("the containers' records cannot be read: %w", err)
	}
	for _, e := range entries {
		id, err := strconv.Atoi(strings.TrimSuffix(e.Name(), ".json"))
		if err != nil {
			continue
		}
		var a acted
		raw, err := os.ReadFile(r.path(id))
		if err == nil && json.Unmarshal(raw, &a) == nil && a.Boot == r.boot {
			r.acted[id] = a
		}
	}
	return nil
}

func (r *reconciler) path(id int) string { return filepath.Join(r.dir, strconv.Itoa(id)+".json") }

func (r *reconciler) actedOn(id int) acted {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acted[id]
}

// note keeps what was done for a container. The file is replaced as a whole; it need not survive a power cut, since a
// reboot makes it worthless.
func (r *reconciler) note(id int, a acted) error {
	a.Boot = r.boot
	raw, err := json.Marshal(a)
	if err != nil {
		return err
	}
	next := r.path(id) + ".new"
	if err := errors.Join(os.WriteFile(next, raw, 0o600), os.Rename(next, r.path(id))); err != nil {
		return fmt.Errorf("what was done for container %d cannot be kept: %w", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acted[id], r.traces[id] = a, true
	r.settle(id)
	r.announce()
	return nil
}

// forget drops what was kept of a container that is not here any more.
func (r *reconciler) forget(id int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.acted, id)
	delete(r.traces, id)
	r.settle(id)
	r.announce()
	if err := os.Remove(r.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// settleBoot notes that the boot of the host means nothing for a container.
func (r *reconciler) settleBoot(id int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settle(id)
	r.announce()
}

// announce wakes those who wait for a record to change; r.mu is held.
func (r *reconciler) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// watchActed returns a channel that is closed when a record changes next.
func (r *reconciler) watchActed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}
