package migrate

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/cluster"
)

// What a migration does is shown stage by stage, with what each has sent, and forgotten with the operation.
func TestProgress(t *testing.T) {
	for mode, want := range map[string][]string{
		cluster.ModeLive: {
			"looking for what is in the way", "asking b", "b gets the template, 180M", "copying the layer", "making b ready", "copying the memory",
			"frozen, the rest is sent", "frozen, restored on b", "on b, clearing up",
		},
		cluster.ModeNearLive: {
			"asking b", "b gets the template, 180M", "copying the layer", "stopping the container", "copying the rest of the layer", "starting on b", "on b, clearing up",
		},
	} {
		t.Run(mode, func(t *testing.T) {
			r := newRun(t, mode)
			ctx := bounded(t)
			r.start(ctx)
			r.settle(ctx, "")
			var got []string
			for _, s := range r.board.Progress(operation).Stages {
				if !strings.Contains(s.Name, ", pass") && !strings.Contains(s.Name, ", round") { // there may be more of them
					got = append(got, s.Name)
				}
				if strings.HasPrefix(s.Name, "copying the layer") && s.Bytes == 0 {
					t.Errorf("%s has sent nothing", s.Name)
				}
			}
			if strings.Join(got, "; ") != strings.Join(want, "; ") {
				t.Errorf("the stages were\n%s\nwant\n%s", strings.Join(got, "; "), strings.Join(want, "; "))
			}
			r.board.forget(func(id string) bool { return id != operation })
			if p := r.board.Progress(operation); len(p.Stages) > 0 {
				t.Errorf("forgotten, it shows %v", p)
			}
		})
	}
}

// However often something is begun again, what is shown stays bounded.
func TestProgressIsBounded(t *testing.T) {
	var none *Board
	track := none.begin("x")
	for i := range 1000 {
		track.stage(0, "stage %d", i)
		track.stage(0, "stage %d", i)
	}
	track.sent(5)
	if n := len(track.stages); n != maxStages || track.stages[n-1] != (cluster.Stage{Name: "stage 999", Bytes: 5}) {
		t.Errorf("%d stages are kept, the last is %+v", n, track.stages[n-1])
	}
}
