package cluster

import (
	"path"
	"slices"
	"time"
)

func (c BeginTask) apply(s *State) (any, error) {
	op := c.Operation
	if op.Task == nil {
		return nil, Refuse(ErrInvalid, "an operation of kind %q needs to know what to do", op.Kind)
	}
	if err := s.checkNewOperation(&op, localKinds()...); err != nil {
		return nil, err
	}
	old, err := s.owned(op.Container, op.From, op.Generation)
	if err != nil {
		return nil, err
	}
	switch {
	case old.Desired == WantDestroyed:
		return nil, Refuse(ErrConflict, "%s is being destroyed", old.Ref())
	case old.InTrash():
		return nil, inTrash(old)
	}
	if err := s.locked(old); err != nil {
		return nil, err
	}
	task := *op.Task
	op.Task, op.To = &task, ""
	if err := s.checkTask(old, op.Kind, &task); err != nil {
		return nil, err
	}
	if op.Kind == OpClone {
		if err := s.beginClone(old, &op, c.Clone, c.IP); err != nil {
			return nil, err
		}
	}
	ct := *old
	ct.Operation = op.ID
	put(s, &s.operations, op.ID, &op)
	s.putContainer(&ct)
	return &op, nil
}

// checkTask says whether a task can be begun, and fills in what follows from the state.
func (s *State) checkTask(ct *Container, kind OperationKind, t *Task) error {
	switch kind {
	case OpSnapshot:
		if err := CheckName("snapshot", t.Snapshot); err != nil {
			return err
		}
		if ct.Snapshot(t.Snapshot) != nil {
			return Refuse(ErrConflict, "%s has a snapshot %q already; choose another name", ct.Ref(), t.Snapshot)
		}
		if len(ct.Snapshots) >= MaxSnapshots {
			return Refuse(ErrConflict, "%s has %d snapshots, no more can be kept; delete one", ct.Ref(), MaxSnapshots)
		}
		if t.Memory && ct.Desired == WantStopped {
			return Refuse(ErrConflict, "%s does not run, so there is no memory to keep", ct.Ref())
		}
	case OpSwitch, OpDropSnapshot, OpClone:
		if kind == OpClone && t.Snapshot == "" {
			return nil
		}
		if ct.Snapshot(t.Snapshot) == nil {
			return Refuse(ErrNotFound, "%s has no snapshot %q; 'vzcluster snapshot ls %s' shows what there is", ct.Ref(), t.Snapshot, ct.Name)
		}
	case OpReinstall:
		for _, p := range t.Keep {
			if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
				return Refuse(ErrInvalid, "%q cannot be kept; name files and folders by their whole path inside, as /var/www", p)
			}
		}
		from := Container{Template: t.Template, Digest: t.Digest}
		if t.Template == "" {
			from.Template, from.Digest = ct.Template, ct.Digest
		}
		if err := s.resolveTemplate(&from); err != nil {
			return err
		}
		t.Template, t.Digest = from.Template, from.Digest
	}
	return nil
}

// beginClone makes the container that a layer is going to be copied into; until that is done it is locked too.
func (s *State) beginClone(from *Container, op *Operation, as Container, ip string) error {
	as.Host, as.Template, as.Digest = from.Host, from.Template, from.Digest
	if snap := from.Snapshot(op.Task.Snapshot); snap != nil {
		as.Digest = snap.Digest
	}
	made, err := CreateContainer{Container: as, IP: ip}.apply(s)
	if err != nil {
		return err
	}
	ct := *made.(*Container)
	ct.Operation = op.ID
	op.Task.Clone = ct.ID
	s.putContainer(&ct)
	return nil
}

func (c EndTask) apply(s *State) (any, error) {
	old, err := s.mustOperation(c.Operation, localKinds()...)
	if err != nil {
		return nil, err
	}
	if old.Final() {
		return old, nil
	}
	op := *old
	op.Status, op.Error, op.Ended = OpDone, c.Error, c.At
	if c.Error != "" {
		op.Status = OpFailed
	}
	var digests []string // that may be needed no more
	s.unlock(&op, func(ct *Container) {
		if c.Error != "" {
			return
		}
		digests = append(digests, ct.Digest)
		if snap := ct.Snapshot(op.Task.Snapshot); snap != nil {
			digests = append(digests, snap.Digest)
		}
		ct.endTask(&op, c)
	})
	for _, d := range digests {
		s.dropUnused(d)
	}
	if made := s.containers.get(op.Task.Clone); op.Kind == OpClone && made != nil && made.Operation == op.ID {
		ct := *made
		ct.Operation = ""
		if c.Error != "" {
			ct.Desired = WantDestroyed // what was made of it goes
			ct.Epoch++
		}
		s.putContainer(&ct)
	}
	s.end(&op)
	return &op, nil
}

// endTask makes a container what a local operation that went well has made of it.
func (c *Container) endTask(op *Operation, end EndTask) {
	t := op.Task
	switch op.Kind {
	case OpSnapshot:
		c.Snapshots = append(slices.Clone(c.Snapshots), Snapshot{
			Name: t.Snapshot, Text: t.Text, Memory: t.Memory, Bytes: end.Bytes, Digest: c.Digest, Created: end.At,
		})
	case OpDropSnapshot:
		c.Snapshots = slices.DeleteFunc(slices.Clone(c.Snapshots), func(s Snapshot) bool { return s.Name == t.Snapshot })
	case OpSwitch:
		snap := c.Snapshot(t.Snapshot)
		c.Digest = snap.Digest
		c.begin(snap.Memory)
	case OpReinstall:
		c.Template, c.Digest = t.Template, t.Digest
		c.begin(false)
	}
}

// begin has a container whose layer was exchanged go on: from memory that lies beside it, or as it was wanted.
func (c *Container) begin(memory bool) {
	c.Epoch++
	c.Detail, c.Verdict, c.State = "", nil, Stopped
	switch {
	case memory:
		c.Desired, c.State = WantRunning, Suspended
	case c.Desired == WantSuspended:
		c.Desired = WantStopped
	}
}

func (c TrashContainer) apply(s *State) (any, error) {
	old, err := s.unlocked(c.ID)
	switch {
	case err != nil:
		return nil, err
	case old.Desired == WantDestroyed:
		return nil, Refuse(ErrConflict, "%s is being destroyed; that cannot be taken back", old.Ref())
	case old.InTrash():
		return old, nil
	case c.At.IsZero():
		return nil, Refuse(ErrInvalid, "what goes to the trash needs a time")
	case old.Waits(): // there is nothing of it that could be kept
		s.remove(old)
		return old, nil
	}
	ct := *old
	ct.Trashed = c.At
	if ct.Desired == WantRunning {
		ct.Desired = WantStopped // one that is suspended keeps its memory
		ct.Epoch++
	}
	s.putContainer(&ct)
	return &ct, nil
}

func (c RestoreContainer) apply(s *State) (any, error) {
	old, err := s.unlocked(c.ID)
	switch {
	case err != nil:
		return nil, err
	case !old.InTrash() && (c.Name == "" || c.Name == old.Name):
		return old, nil
	case !old.InTrash():
		return nil, Refuse(ErrConflict, "%s is not in the trash", old.Ref())
	case old.Desired == WantDestroyed:
		return nil, Refuse(ErrConflict, "%s is being deleted; that cannot be taken back", old.Ref())
	}
	ct := *old
	if c.Name != "" {
		ct.Name = c.Name
	}
	if err := s.checkContainerName(ct.ID, ct.Name); err != nil {
		return nil, err
	}
	ct.Trashed = time.Time{}
	if why := Admit(s.site(s.hosts[ct.Host], old), &ct.Rules, ct.Need().Sub(old.Need()).Positive()); why != "" {
		return nil, Refuse(ErrNoFit, "host %q has no room for %s any more: %s; free some there", ct.Host, ct.Ref(), why)
	}
	s.putContainer(&ct)
	return &ct, nil
}

func inTrash(c *Container) error {
	return Refuse(ErrConflict, "%s is in the trash; 'vzcluster trash restore %d' brings it back", c.Ref(), c.ID)
}
