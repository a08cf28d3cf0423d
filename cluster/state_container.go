package cluster

import (
	"fmt"
	"maps"
	"slices"
)

// chooseID checks the wanted CTID, or takes the next free one from the counter.
func (s *State) chooseID(ct *Container) error {
	if ct.ID != 0 {
		if ct.ID < FirstCTID || ct.ID > maxCTID {
			return Refuse(ErrInvalid, "%d is no CTID; choose one from %d to %d, or none to get the next free one", ct.ID, FirstCTID, maxCTID)
		}
		if s.containers.get(ct.ID) != nil {
			return Refuse(ErrConflict, "there is a container %d already; choose another CTID, or none to get the next free one", ct.ID)
		}
		return nil
	}
	for range 2*s.containers.len() + 1 {
		if s.nextID > maxCTID {
			s.nextID = FirstCTID
		}
		ct.ID = s.nextID
		s.nextID++
		if s.containers.get(ct.ID) == nil && (ct.Name != "" || s.containers.named(defaultName(ct.ID)) == nil) {
			return nil
		}
	}
	return Refuse(ErrConflict, "all CTIDs are taken")
}

func defaultName(id int) string { return fmt.Sprintf("ct%d", id) }

func (s *State) nameContainer(ct *Container) error {
	if ct.Name == "" {
		ct.Name = defaultName(ct.ID)
	}
	if err := s.checkContainerName(ct.ID, ct.Name); err != nil {
		return err
	}
	if ct.Hostname == "" {
		ct.Hostname = ct.Name
	}
	return checkHostname(ct.Hostname)
}

// checkContainerName says whether a container may have a name; its own is no conflict.
func (s *State) checkContainerName(id int, name string) error {
	if err := CheckName("container", name); err != nil {
		return err
	}
	if o := s.containers.named(name); o != nil && o.ID != id {
		return Refuse(ErrConflict, "the name %q is taken by container %d on %s; choose another name", name, o.ID, o.Host)
	}
	return nil
}

// resolveTemplate pins the container to a digest that the cluster knows.
func (s *State) resolveTemplate(ct *Container) error {
	t := s.templates[ct.Template]
	if ct.Digest != "" && (t == nil || t.Digest != ct.Digest) {
		t = s.TemplateByDigest(ct.Digest)
	}
	if t == nil {
		name := ct.Template
		if ct.Digest != "" {
			name = ct.Digest
		}
		return Refuse(ErrNotFound, "there is no template %q; 'vzcluster template ls' shows the templates", name)
	}
	ct.Template, ct.Digest = t.Name, t.Digest
	return nil
}

// checkRoom says whether a host takes a container that is not there.
func (s *State) checkRoom(host string, c *Container) error {
	h, err := s.mustHost(host)
	if err != nil {
		return err
	}
	if h.State != HostActive {
		return Refuse(ErrNoFit, "host %q is %s and takes nothing new; 'vzcluster host activate %s' opens it", host, h.State, host)
	}
	if why := Admit(s.site(h, c), &c.Rules, c.Need()); why != "" {
		return Refuse(ErrNoFit, "container %d does not fit on host %q: %s; choose another host, or smaller limits or other rules", c.ID, host, why)
	}
	return nil
}

// unlocked returns a container that no migration has locked.
func (s *State) unlocked(id int) (*Container, error) {
	ct, err := s.mustContainer(id)
	if err != nil {
		return nil, err
	}
	return ct, s.locked(ct)
}

// locked says which operation has a container.
func (s *State) locked(c *Container) error {
	if c.Operation == "" {
		return nil
	}
	if op := s.operations[c.Operation]; op != nil && op.Kind.Local() {
		return Refuse(ErrLocked, "a %s of %s is under way (operation %s); try again when that has ended", op.Kind, c.Ref(), c.Operation)
	}
	return Refuse(ErrLocked, "%s is being migrated (operation %s); try again when that has ended", c.Ref(), c.Operation)
}

func (c SetDesired) apply(s *State) (any, error) {
	old, err := s.mustContainer(c.ID)
	if err != nil {
		return nil, err
	}
	switch {
	case !slices.Contains([]Desired{WantRunning, WantStopped, WantSuspended, WantDestroyed}, c.Desired):
		return nil, Refuse(ErrInvalid, "a container can be wanted %s, %s, %s or %s, not %q", WantRunning, WantStopped, WantSuspended, WantDestroyed, c.Desired)
	case c.Restart && c.Desired != WantRunning:
		return nil, Refuse(ErrInvalid, "a restart leaves a container running, it cannot be wanted %s", c.Desired)
	case c.GraceMS < 0:
		return nil, Refuse(ErrInvalid, "a container cannot be given a negative time to end")
	case c.Desired == old.Desired && !c.Restart:
		return old, nil
	case old.Desired == WantDestroyed:
		return nil, Refuse(ErrConflict, "%s is being destroyed; that cannot be taken back", old.Ref())
	case old.InTrash() && c.Desired != WantDestroyed:
		return nil, inTrash(old)
	case c.Desired == WantSuspended && old.Desired != WantRunning:
		return nil, Refuse(ErrConflict, "%s does not run, so there is nothing to suspend", old.Ref())
	}
	if err := s.locked(old); err != nil {
		return nil, err
	}
	ct := *old
	ct.Desired, ct.GraceMS = c.Desired, c.GraceMS
	if c.Desired == WantDestroyed && old.Waits() { // there is nothing of it anywhere, and nobody to say so
		s.remove(old)
		return &ct, nil
	}
	ct.Epoch++
	s.putContainer(&ct)
	return &ct, nil
}

func (c SetContainer) apply(s *State) (any, error) {
	old, err := s.unlocked(c.ID)
	if err != nil {
		return nil, err
	}
	if old.Desired == WantDestroyed {
		return nil, Refuse(ErrConflict, "%s is being destroyed; it cannot be changed any more", old.Ref())
	}
	if old.InTrash() {
		return nil, inTrash(old)
	}
	ct := *old
	if c.Text != nil {
		ct.Text = *c.Text
	}
	if c.OnBoot != nil {
		ct.OnBoot = *c.OnBoot
	}
	if c.BootOrder != nil {
		ct.BootOrder = *c.BootOrder
	}
	if err := checkBoot(&ct); err != nil {
		return nil, err
	}
	if c.Name != nil {
		ct.Name = *c.Name
		if err := s.checkContainerName(ct.ID, ct.Name); err != nil {
			return nil, err
		}
	}
	if c.Hostname != nil {
		ct.Hostname = *c.Hostname
		if err := checkHostname(ct.Hostname); err != nil {
			return nil, err
		}
	}
	if c.Limits != nil {
		ct.Limits = *c.Limits
	}
	if c.Rules != nil {
		ct.Rules = *c.Rules
	}
	if c.Limits != nil || c.Rules != nil {
		if err := s.checkChange(old, &ct); err != nil {
			return nil, err
		}
	}
	if err := c.setNetwork(s, &ct); err != nil {
		return nil, err
	}
	ct.Labels = mergeLabels(old.Labels, c.Labels)
	if ct.Name == old.Name && ct.Text == old.Text && ct.OnBoot == old.OnBoot && ct.BootOrder == old.BootOrder && ct.Hostname == old.Hostname && ct.Limits == old.Limits && ct.Rules.Equal(old.Rules) && maps.Equal(ct.Labels, old.Labels) && ct.sameNetwork(old) {
		return old, nil
	}
	s.putContainer(&ct)
	return &ct, nil
}

// checkChange says whether a container may have new limits and rules where it is: the owner has room for what they
// add, and new rules allow it there. Shrinking is always possible, also on a host that has less than it promised.
func (s *State) checkChange(old, ct *Container) error {
	if err := ct.Limits.Check(); err != nil {
		return err
	}
	if err := checkRules(&ct.Rules, ct.Limits); err != nil {
		return err
	}
	if err := ct.checkMounts(); err != nil {
		return err
	}
	if old.Waits() {
		return nil // whether a host has room is asked when it gets one
	}
	more := ct.Need().Sub(old.Need()).Positive()
	if free := s.Free(ct.Host).Positive(); !free.Fits(more) {
		return Refuse(ErrNoFit, "host %q cannot give %s that much more: %s; choose smaller limits or move it first",
			ct.Host, ct.Ref(), free.Lacks(more))
	}
	h := s.hosts[ct.Host]
	if h == nil || ct.Rules.Equal(old.Rules) {
		return nil
	}
	why := ct.Rules.Bars(h)
	if why == "" {
		why = ct.Rules.Crowded(s.others(ct, h))
	}
	if why != "" {
		return Refuse(ErrNoFit, "%s is on host %q, where its new rules do not allow it: %s; move it first or choose other rules", ct.Ref(), ct.Host, why)
	}
	return nil
}

// Positive returns r without its negative parts.
func (r Resources) Positive() Resources {
	return Resources{
		max(r.MilliCPU, 0), max(r.RAM, 0), max(r.Disk, 0), max(r.Network, 0), max(r.Containers, 0), max(r.Guaranteed, 0),
	}
}

// mergeLabels returns old with the changes; an empty value removes a label.
func mergeLabels(old, change map[string]string) map[string]string {
	if len(change) == 0 {
		return old
	}
	labels := map[string]string{}
	maps.Copy(labels, old)
	maps.Copy(labels, change)
	maps.DeleteFunc(labels, func(_, v string) bool { return v == "" })
	return labels
}

// owned returns a container if host and generation are its owner's.
func (s *State) owned(id int, host string, generation uint64) (*Container, error) {
	ct, err := s.mustContainer(id)
	if err != nil {
		return nil, err
	}
	if ct.Waits() || ct.Host != host || ct.Generation != generation {
		return nil, Refuse(ErrStale, "container %d belongs to host %q with generation %d, not to %q with %d",
			id, ct.Host, ct.Generation, host, generation)
	}
	return ct, nil
}

// wants is what is wanted of a container after the report.
func (c ReportContainer) wants(old *Container) Desired {
	switch {
	case c.Resumed && old.Desired == WantSuspended, c.Booted && (old.Desired == WantStopped || old.Desired == WantSuspended) && !old.InTrash():
		return WantRunning
	case c.Halted && old.Desired == WantRunning && c.State == Suspended:
		return WantSuspended
	case c.Halted && old.Desired == WantRunning:
		return WantStopped
	}
	return old.Desired
}

func (c ReportContainer) apply(s *State) (any, error) {
	old, err := s.owned(c.ID, c.Host, c.Generation)
	if err != nil {
		return nil, err
	}
	reportable := []ContainerState{Pending, Stopped, Starting, Running, Migrating, Stopping, Failed, Destroying, Suspended}
	if !slices.Contains(reportable, c.State) {
		return nil, Refuse(ErrInvalid, "%q is no state that an owner can report of a container", c.State)
	}
	count := c.Restarted && old.Lost == "" // else a migration has counted the same loss, and its start is still to come
	if c.Operation == "" && c.State == Starting {
		count = count && old.State == Running // once, however often it is reported
	}
	if op := s.operations[c.Operation]; c.Restarted && op != nil {
		count = count && !op.Restarted
		now := *op
		now.Restarted = true
		put(s, &s.operations, op.ID, &now)
	}
	lost := old.Lost
	switch {
	case count && c.State == Starting: // empty when its host went down: it is the host that starts it then
		lost = c.Operation
	case c.Restarted && c.State == Running, c.Operation == "" && (c.State == Starting || c.State == Stopped):
		lost = "" // any other report may be of what the fault has left
	}
	want := c.wants(old)
	same := old.Detail == c.Detail || c.State == Running && c.Detail == "" // why it was restarted stays until its next start
	if old.State == c.State && same && old.Lost == lost && !count && want == old.Desired {
		return old, nil
	}
	ct := *old
	ct.State, ct.Detail, ct.Lost = c.State, c.Detail, lost
	if c.State != Running {
		ct.Verdict = nil
	}
	if want != old.Desired {
		ct.Desired = want
		if !c.Resumed { // it runs on, so that is no other start
			ct.Epoch++
		}
	}
	if count {
		ct.Restarted++
	}
	s.putContainer(&ct)
	return &ct, nil
}

func (c RemoveContainer) apply(s *State) (any, error) {
	ct, err := s.owned(c.ID, c.Host, c.Generation)
	if err != nil {
		return nil, err
	}
	if ct.Desired != WantDestroyed {
		return nil, Refuse(ErrConflict, "container %d is wanted %s; only one that is to be destroyed can be removed", c.ID, ct.Desired)
	}
	if err := s.locked(ct); err != nil {
		return nil, err
	}
	s.remove(ct)
	return nil, nil
}

// remove forgets a container and what only it used.
func (s *State) remove(ct *Container) {
	s.generation = max(s.generation, ct.Generation)
	s.dropContainer(ct)
	if s.moves[ct.ID] != nil {
		drop(s, &s.moves, ct.ID)
	}
	s.dropUnused(ct.Digest)
	for _, snap := range ct.Snapshots {
		s.dropUnused(snap.Digest)
	}
}
