package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// keptOperations is how many ended operations are remembered.
const keptOperations = 200

// Modes of a migration. Near-live and offline end the processes and start the container on the target from its disk:
// near-live while most of the layer is there already, offline before anything is copied.
const (
	ModeLive     = "live"
	ModeNearLive = "near-live"
	ModeOffline  = "offline"
	// ModePostCopy is live, and most of the memory follows when the container runs on the target already. Until all is there, the
	// loss of either host loses the memory.
	ModePostCopy = "post-copy"
)

// Alive says whether the container's processes go on in this mode.
func Alive(mode string) bool { return mode == ModeLive || mode == ModePostCopy }

// Modes lists them.
func Modes() []string { return []string{ModeLive, ModePostCopy, ModeNearLive, ModeOffline} }

func (c BeginMigration) apply(s *State) (any, error) {
	op := c.Operation
	if err := s.checkNewOperation(&op, OpMigrate); err != nil {
		return nil, err
	}
	if op.Mode == "" {
		op.Mode = ModeLive
	}
	if !slices.Contains(Modes(), op.Mode) {
		return nil, Refuse(ErrInvalid, "%q is no mode of migration; use %s", op.Mode, strings.Join(Modes(), ", "))
	}
	if op.MaxDowntimeMS < 0 || op.MaxDowntimeMS > 0 && !Alive(op.Mode) {
		return nil, Refuse(ErrInvalid, "a longest downtime can only be kept by a %s migration", ModeLive)
	}
	old, err := s.owned(op.Container, op.From, op.Generation)
	if err != nil {
		return nil, err
	}
	if old.Desired == WantDestroyed {
		return nil, Refuse(ErrConflict, "%s is being destroyed; it cannot be migrated", old.Ref())
	}
	if err := s.locked(old); err != nil {
		return nil, err
	}
	if op.To == op.From {
		return nil, Refuse(ErrInvalid, "%s is on %s already; choose another host", old.Ref(), op.To)
	}
	if err := s.checkRoom(op.To, old); err != nil {
		return nil, err
	}
	ct := *old
	ct.Operation = op.ID
	put(s, &s.operations, op.ID, &op)
	s.putContainer(&ct)
	return &op, nil
}

// checkNewOperation checks what all operations need, and puts the record at its beginning.
func (s *State) checkNewOperation(op *Operation, kinds ...OperationKind) error {
	if op.ID == "" {
		return Refuse(ErrInvalid, "an operation needs an id")
	}
	if s.operations[op.ID] != nil {
		return Refuse(ErrConflict, "there is an operation %q already; choose another id", op.ID)
	}
	if op.Kind == "" && len(kinds) == 1 {
		op.Kind = kinds[0]
	}
	for _, k := range kinds {
		if op.Kind == k {
			op.Status, op.Error, op.Result = OpRunning, "", nil
			return nil
		}
	}
	return Refuse(ErrInvalid, "an operation of kind %q cannot begin this way", op.Kind)
}

func (c CommitMigration) apply(s *State) (any, error) {
	old, err := s.mustOperation(c.Operation, OpMigrate)
	if err != nil {
		return nil, err
	}
	switch old.Status {
	case OpCommitted:
		return s.containers.get(old.Container), nil
	case OpRunning:
	default:
		return nil, Refuse(ErrStale, "the migration %s of container %d is %s; it cannot be committed any more", old.ID, old.Container, old.Status)
	}
	was, err := s.owned(old.Container, old.From, old.Generation)
	if err != nil {
		return nil, err
	}
	if was.Operation != old.ID {
		return nil, Refuse(ErrStale, "container %d is not locked by the migration %s any more", was.ID, old.ID)
	}
	ct, op := *was, *old
	ct.Host = op.To
	ct.Generation++
	ct.Lost = "" // it runs there, by its memory or from disk
	op.Status = OpCommitted
	s.putContainer(&ct)
	put(s, &s.operations, op.ID, &op)
	return &ct, nil
}

func (c AbortMigration) apply(s *State) (any, error) {
	old, err := s.mustOperation(c.Operation, OpMigrate)
	if err != nil {
		return nil, err
	}
	switch old.Status {
	case OpAborted:
		return old, nil
	case OpRunning:
	default:
		return nil, Refuse(ErrStale, "the migration %s of container %d is %s; it cannot be aborted any more", old.ID, old.Container, old.Status)
	}
	op := *old
	op.Status, op.Error, op.Ended, op.Refused = OpAborted, c.Reason, c.At, c.Refused
	s.unlock(&op, func(ct *Container) {
		ct.note(Event{At: c.At, What: EventStayed, From: op.From, To: op.To, Why: c.Reason, Operation: op.ID})
	})
	s.end(&op)
	return &op, nil
}

func (c FinishMigration) apply(s *State) (any, error) {
	old, err := s.mustOperation(c.Operation, OpMigrate)
	if err != nil {
		return nil, err
	}
	switch old.Status {
	case OpDone:
		return old, nil
	case OpCommitted:
	default:
		return nil, Refuse(ErrStale, "the migration %s of container %d is %s, not committed; it cannot be finished", old.ID, old.Container, old.Status)
	}
	op, result := *old, c.Result
	result.Restarted = result.Restarted || old.Restarted
	op.Status, op.Ended, op.Result, op.Restarted = OpDone, c.At, &result, result.Restarted
	s.unlock(&op, func(ct *Container) {
		ct.Lost = ""
		ct.note(Event{At: c.At, What: EventMoved, From: op.From, To: op.To, Why: op.Why, Operation: op.ID})
		if result.Restarted && !old.Restarted {
			ct.Restarted++
		}
		if result.Restarted {
			ct.Detail = fmt.Sprintf("restarted from disk after a fault on the move from %s to %s", op.From, op.To)
		}
	})
	put(s, &s.moves, op.Container, &result)
	s.end(&op)
	return &op, nil
}

// unlock releases the container of a migration.
func (s *State) unlock(op *Operation, change func(*Container)) {
	old := s.containers.get(op.Container)
	if old == nil || old.Operation != op.ID {
		return
	}
	ct := *old
	ct.Operation = ""
	change(&ct)
	s.putContainer(&ct)
}

// end keeps an ended operation and forgets the oldest ended ones beyond keptOperations.
func (s *State) end(op *Operation) {
	put(s, &s.operations, op.ID, op)
	var final []string
	for _, o := range s.Operations() {
		if o.Final() {
			final = append(final, o.ID)
		}
	}
	drop(s, &s.operations, final[:max(0, len(final)-keptOperations)]...)
}
