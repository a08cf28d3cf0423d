package cluster

import (
	"slices"
	"strings"
)

// plans are the kinds of operation that have steps.
func plans() []OperationKind {
	return []OperationKind{OpDrain, OpConsolidate, OpRebalance, OpMaintain, OpPreempt}
}

// IsPlan reports whether the operation has steps that are migrations of their own.
func (o *Operation) IsPlan() bool { return slices.Contains(plans(), o.Kind) }

// Active reports whether a plan may have moves under way.
func (o *Operation) Active() bool { return o.Status == OpRunning || o.Status == OpPaused }

func (c BeginPlan) apply(s *State) (any, error) {
	op := c.Operation
	proposed := op.Status == OpProposed
	if err := s.checkNewOperation(&op, plans()...); err != nil {
		return nil, err
	}
	if op.Kind == OpDrain {
		if _, err := s.mustHost(op.Host); err != nil {
			return nil, err
		}
	}
	if op.Kind == OpPreempt {
		if err := s.checkPreempt(&op); err != nil {
			return nil, err
		}
	}
	if proposed {
		op.Status = OpProposed
	} else if err := s.checkAlone(&op); err != nil {
		return nil, err
	}
	op.Steps = slices.Clone(op.Steps)
	put(s, &s.operations, op.ID, &op)
	s.forgetProposals()
	return &op, nil
}

// checkPreempt refuses to make room for what does not wait for any, and to move what is as important.
func (s *State) checkPreempt(op *Operation) error {
	if _, err := s.mustHost(op.Host); err != nil {
		return err
	}
	c, err := s.mustContainer(op.Container)
	if err != nil {
		return err
	}
	if !c.Waits() {
		return Refuse(ErrStale, "%s does not wait for room any more, it is on %s", c.Ref(), c.Host)
	}
	for _, step := range op.Steps {
		if o := s.containers.get(step.Container); o != nil && o.Rules.Priority >= c.Rules.Priority {
			return Refuse(ErrConflict, "%s has a priority of %d, it does not make room for %s with %d", o.Ref(), o.Rules.Priority, c.Ref(), c.Rules.Priority)
		}
	}
	return nil
}

// Preemptions returns the plans under way that make room for a container which waits.
func (s *State) Preemptions() (plans []*Operation) {
	for _, o := range s.operations {
		if o.Kind == OpPreempt && o.Active() {
			plans = append(plans, o)
		}
	}
	slices.SortFunc(plans, func(a, b *Operation) int { return strings.Compare(a.ID, b.ID) })
	return plans
}

// PreemptionFor returns the plan under way that makes room for a container, nil when there is none.
func (s *State) PreemptionFor(id int) *Operation {
	for _, o := range s.Preemptions() {
		if o.Container == id {
			return o
		}
	}
	return nil
}

// keptProposals is how many plans may wait for approval; the oldest goes when there is one more.
const keptProposals = 50

func (s *State) forgetProposals() {
	var ids []string
	for _, o := range s.Operations() {
		if o.Status == OpProposed {
			ids = append(ids, o.ID)
		}
	}
	drop(s, &s.operations, ids[:max(0, len(ids)-keptProposals)]...)
}

// checkAlone refuses a plan beside which another one is under way. Different hosts may be drained at the same time: what
// each move needs is checked when it begins.
func (s *State) checkAlone(op *Operation) error {
	for _, o := range s.Operations() {
		if !o.IsPlan() || !o.Active() || o.ID == op.ID {
			continue
		}
		if o.Kind == OpDrain && op.Kind == OpDrain && o.Host != op.Host {
			continue
		}
		what := "a " + string(o.Kind)
		switch o.Kind {
		case OpDrain:
			what = "the drain of host " + o.Host
		case OpPreempt:
			what = "a plan that makes room on host " + o.Host
		}
		return Refuse(ErrConflict, "%s is under way (operation %s, %s); wait until it has ended, or end it with 'vzcluster plan stop %s'", what, o.ID, o.Status, o.ID)
	}
	return nil
}

func (c SetPlan) apply(s *State) (any, error) {
	old, err := s.mustOperation(c.Operation, plans()...)
	if err != nil {
		return nil, err
	}
	op := *old
	op.Status, op.Error = c.Status, c.Why
	switch {
	case old.Status == c.Status:
		return old, nil
	case old.Final():
		return nil, Refuse(ErrStale, "the %s %s is %s; make a new plan", old.Kind, old.ID, old.Status)
	case c.Status == OpRunning:
		if err := s.checkAlone(&op); err != nil {
			return nil, err
		}
	case c.Status == OpPaused && old.Status == OpRunning:
	default:
		return nil, Refuse(ErrConflict, "the %s %s is %s, it cannot be made %s", old.Kind, old.ID, old.Status, c.Status)
	}
	put(s, &s.operations, op.ID, &op)
	return &op, nil
}

// activePlan returns a plan whose steps may change.
func (s *State) activePlan(id string) (*Operation, error) {
	op, err := s.mustOperation(id, plans()...)
	if err != nil {
		return nil, err
	}
	if !op.Active() {
		return nil, Refuse(ErrStale, "the %s %s is %s; its steps cannot change now", op.Kind, op.ID, op.Status)
	}
	return op, nil
}

func (c StepPlan) apply(s *State) (any, error) {
	old, err := s.activePlan(c.Operation)
	if err != nil {
		return nil, err
	}
	if c.Step < 0 || c.Step >= len(old.Steps) {
		return nil, Refuse(ErrInvalid, "the %s %s has %d steps, there is no step %d", old.Kind, old.ID, len(old.Steps), c.Step)
	}
	op := *old
	op.Steps = slices.Clone(old.Steps)
	step := &op.Steps[c.Step]
	set(&step.Operation, c.Migration)
	set(&step.Status, c.Status)
	set(&step.Reason, c.Reason)
	if *step == old.Steps[c.Step] {
		return old, nil
	}
	put(s, &s.operations, op.ID, &op)
	return &op, nil
}

func (c ExtendPlan) apply(s *State) (any, error) {
	old, err := s.activePlan(c.Operation)
	if err != nil {
		return nil, err
	}
	if c.Known != len(old.Steps) {
		return nil, Refuse(ErrStale, "the %s %s has %d steps, not %d", old.Kind, old.ID, len(old.Steps), c.Known)
	}
	op := *old
	op.Steps = append(slices.Clone(old.Steps), c.Steps...)
	if c.Round != nil {
		round := *c.Round
		op.Round = &round
	}
	put(s, &s.operations, op.ID, &op)
	return &op, nil
}

func (c EndPlan) apply(s *State) (any, error) {
	old, err := s.mustOperation(c.Operation, plans()...)
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
	op.Steps = slices.Clone(old.Steps)
	for i := range op.Steps {
		if step := &op.Steps[i]; step.Status == "" {
			step.Status, step.Reason = StepWithdrawn, "the plan had ended before"
		}
	}
	s.end(&op)
	return &op, nil
}
