package migrate

import (
	"fmt"
	"slices"
	"sync"

	"github.com/vzcluster/vzcluster/cluster"
)

// Board is where people see how far this host's migrations to others are. It is kept in memory only, for operations that
// the replicated state knows; an agent that takes a migration over shows its own part. A nil Board shows nothing.
type Board struct {
	mu  sync.Mutex
	ops map[string]*track
}

// track is what a board shows of one migration.
type track struct {
	mu     sync.Mutex
	stages []cluster.Stage
}

// maxStages bounds what a migration can show: connections may break and passes follow each other, but not so often.
const maxStages = 64

// begin puts a migration on the board.
func (b *Board) begin(operation string) *track {
	t := &track{}
	if b == nil {
		return t
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ops == nil {
		b.ops = map[string]*track{}
	}
	b.ops[operation] = t
	return t
}

// Progress is how far an operation is; it has no stages if this host is not its source.
func (b *Board) Progress(operation string) cluster.Progress {
	p := cluster.Progress{Stages: []cluster.Stage{}}
	if b == nil {
		return p
	}
	b.mu.Lock()
	t := b.ops[operation]
	b.mu.Unlock()
	if t != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		p.Stages = append(p.Stages, t.stages...)
	}
	return p
}

// forget drops operations that the replicated state does not know any more.
func (b *Board) forget(known func(operation string) bool) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.ops {
		if !known(id) {
			delete(b.ops, id)
		}
	}
}

// stage begins a stage, in which about so many bytes are sent (0: nobody knows).
func (t *track) stage(of int64, format string, args ...any) {
	s := cluster.Stage{Name: fmt.Sprintf(format, args...), Of: of}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.stages); n > 0 && t.stages[n-1].Name == s.Name {
		t.stages[n-1] = s // it is begun again
		return
	}
	t.stages = append(t.stages, s)
	if len(t.stages) > maxStages {
		t.stages = slices.Delete(t.stages, 0, 1)
	}
}

// sent counts bytes to the stage under way.
func (t *track) sent(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := len(t.stages) - 1; last >= 0 {
		t.stages[last].Bytes += int64(n)
	}
}

// nth names repeated stages: the first has no number.
func nth(what string, i int) string {
	if i == 0 {
		return ""
	}
	return fmt.Sprintf(", %s %d", what, i+1)
}
