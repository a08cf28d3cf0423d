package cluster

import "slices"

func (c BeginPlan) apply(s *State) (any, error) {
	op := c.Operation
	if err := s.checkNewOperation(&op, OpDrain, OpConsolidate); err != nil {
		return nil, err
	}
	if op.Kind == OpDrain {
		if _, err := s.mustHost(op.Host); err != nil {
			return nil, err
		}
	}
	for _, o := range s.Operations() {
		if o.Final() || o.Kind != op.Kind {
			continue
		}
		if op.Kind == OpConsolidate {
			return nil, Refuse(ErrConflict, "the cluster is being consolidated already (operation %s); wait until that has ended", o.ID)
		}
		if o.Host == op.Host {
			return nil, Refuse(ErrConflict, "host %q is being drained already (operation %s); wait until that has ended", o.Host, o.ID)
		}
	}
	op.Steps = slices.Clone(op.Steps)
	put(s, &s.operations, op.ID, &op)
	return &op, nil
}

func (c StepPlan) apply(s *State) (any, error) {
	old, err := s.mustOperation(c.Operation, OpDrain, OpConsolidate)
	if err != nil {
		return nil, err
	}
	if old.Final() {
		return nil, Refuse(ErrStale, "the %s %s is %s; its steps cannot change any more", old.Kind, old.ID, old.Status)
	}
	if c.Step < 0 || c.Step >= len(old.Steps) {
		return nil, Refuse(ErrInvalid, "the %s %s has %d steps, there is no step %d", old.Kind, old.ID, len(old.Steps), c.Step)
	}
	op := *old
	op.Steps = slices.Clone(old.Steps)
	step := &op.Steps[c.Step]
	set(&step.Operation, c.Migration)
	set(&step.Status, c.Status)
	if *step == old.Steps[c.Step] {
		return old, nil
	}
	put(s, &s.operations, op.ID, &op)
	return &op, nil
}

func (c EndPlan) apply(s *State) (any, error) {
	old, err := s.mustOperation(c.Operation, OpDrain, OpConsolidate)
	if err != nil {
		return nil, err
	}
	op := *old
	op.Status, op.Error, op.Ended = c.Status, c.Error, c.At
	if !op.Final() {
		return nil, Refuse(ErrInvalid, "a plan cannot end as %q; use %s, %s or %s", c.Status, OpDone, OpFailed, OpAborted)
	}
	if old.Final() {
		if old.Status == c.Status {
			return old, nil
		}
		return nil, Refuse(ErrStale, "the %s %s has ended as %s already", old.Kind, old.ID, old.Status)
	}
	s.end(&op)
	return &op, nil
}
