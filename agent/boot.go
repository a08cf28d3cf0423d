package agent

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// bootWait bounds how long a container waits for those that come before it when its host boots.
const bootWait = 2 * time.Minute

// bootFile tells which containers the boot of the host has found, until each has had what follows from that: an agent that is
// killed before leaves them to the next one. Its name is no container's.
const bootFile = "booted"

// bootRecord is what the file tells.
type bootRecord struct {
	Boot  string `json:"boot"`
	Found []int  `json:"found,omitempty"`
}

// readBoot finds out whether an agent knew already, since the host booted, what the boot has found.
func (r *reconciler) readBoot() {
	var b bootRecord
	raw, err := os.ReadFile(filepath.Join(r.dir, bootFile))
	if err != nil || json.Unmarshal(raw, &b) != nil || b.Boot != r.boot {
		r.booted = newOperationID()
		return
	}
	r.found = map[int]bool{}
	for _, id := range b.Found {
		if _, did := r.acted[id]; !did {
			r.found[id] = true
		}
	}
}

func (r *reconciler) writeBoot(found map[int]bool) {
	raw, err := json.Marshal(bootRecord{Boot: r.boot, Found: slices.Sorted(maps.Keys(found))})
	file := filepath.Join(r.dir, bootFile)
	if err == nil {
		err = errors.Join(os.WriteFile(file+".new", raw, 0o600), os.Rename(file+".new", file))
	}
	if err != nil {
		r.m.log.Error("what the boot of this host has found cannot be kept", "error", err)
	}
}

// findBooted takes down which containers the boot of the host has found. The replica fills slowly when an agent begins:
// it is known when that boot, which was committed after it, is in it.
func (r *reconciler) findBooted(s *cluster.State) {
	r.mu.Lock()
	known := r.found != nil
	r.mu.Unlock()
	if h := s.Host(r.m.name); known || h == nil || h.Boot != r.booted {
		return
	}
	found := map[int]bool{}
	for _, c := range s.On(r.m.name) {
		found[c.ID] = true
	}
	r.writeBoot(found)
	r.mu.Lock()
	r.found = found
	r.mu.Unlock()
	for id := range found {
		r.poke(id)
	}
}

// settle notes that a container has had what follows from the boot; r.mu is held.
func (r *reconciler) settle(id int) {
	if !r.found[id] {
		return
	}
	if delete(r.found, id); len(r.found) == 0 {
		r.writeBoot(nil)
	}
}

// unsure says whether it is not known yet what a boot means for the containers. r.mu is held.
func (r *reconciler) unsure() bool { return r.found == nil }

// fresh says whether a container is as the boot of the host has found it: nothing was done or decided for it since. r.mu is
// held.
func (r *reconciler) fresh(id int) bool { return r.found[id] }

// turn waits until the containers that are to be started before this one, when the host boots, have been.
func (r *reconciler) turn(ctx context.Context, c *cluster.Container) {
	ctx, cancel := context.WithTimeout(ctx, bootWait)
	defer cancel()
	for {
		noted := r.watchActed()
		if !r.mustWait(c) {
			return
		}
		select {
		case <-noted:
		case <-time.After(10 * r.m.timing.Retry): // what is not wanted any more is not noted
		case <-ctx.Done():
			return
		}
	}
}

func (r *reconciler) mustWait(c *cluster.Container) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fresh(c.ID) && slices.ContainsFunc(r.m.store.State().On(r.m.name), func(o *cluster.Container) bool {
		return o.BootOrder > c.BootOrder && o.Operation == "" && o.Desired == cluster.WantRunning && r.fresh(o.ID)
	})
}

// halt reports that a container is not to run any more, by its own will or because its host has booted.
func (r *reconciler) halt(ctx context.Context, c *cluster.Container, state cluster.ContainerState, detail string) error {
	_, err := r.send(ctx, cluster.ReportContainer{
		ID: c.ID, Host: r.m.name, Generation: c.Generation, State: state, Detail: detail, Halted: true,
	})
	if err == nil {
		err = r.note(c.ID, acted{Generation: c.Generation, Epoch: c.Epoch + 1})
	}
	return err
}

// wake reports that a container is to be started because its host has booted.
func (r *reconciler) wake(ctx context.Context, c *cluster.Container) error {
	state := c.State
	if state == cluster.Running { // it was not, or its boot would start it anyway
		state = cluster.Stopped
	}
	_, err := r.send(ctx, cluster.ReportContainer{ID: c.ID, Host: r.m.name, Generation: c.Generation, State: state, Booted: true})
	return err
}

// bury frees what is left of a container whose init has ended by itself. One that wanted to be started again is, one that was
// switched off from inside stays off.
func (r *reconciler) bury(ctx context.Context, c *cluster.Container) error {
	end := r.endOf(ctx, c.ID)
	if end == "" {
		var err error
		if end, err = r.m.deps.Engine.LastWords(c.ID); err != nil { // the log is the container's: it may be anything
			r.m.log.Warn("what a container's init said last cannot be read", "container", c.ID, "error", err)
		}
	}
	if err := r.m.deps.Engine.Stop(ctx, c.ID, false, 0); err != nil {
		return err
	}
	switch end {
	case runtime.Rebooted:
		r.m.log.Info("a container reboots", "container", c.ID)
		a := r.actedOn(c.ID)
		a.Epoch--
		return r.note(c.ID, a)
	case runtime.Halted:
		r.m.log.Info("a container was switched off from inside", "container", c.ID)
		return r.halt(ctx, c, cluster.Stopped, "it was switched off from inside")
	}
	a := r.actedOn(c.ID)
	a.Failed = "its init ended by itself; 'vzcluster logs' may tell why"
	return r.note(c.ID, a)
}

// endTime is how long it may take to learn how a container has ended.
const endTime = 2 * time.Second

// endOf returns how the container has ended that was waited for, and forgets it.
func (r *reconciler) endOf(ctx context.Context, id int) runtime.End {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	for {
		noted := r.watchActed()
		r.mu.Lock()
		end, waiting := r.ends[id], r.waiting[id]
		if !waiting {
			delete(r.ends, id)
		}
		r.mu.Unlock()
		if !waiting {
			return end
		}
		select {
		case <-noted:
		case <-ctx.Done():
			return ""
		}
	}
}
