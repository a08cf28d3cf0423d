package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

// The kernel of the machines marks written pages. What is read and sent because of these marks must be what reading all of the
// memory finds: the tests of migrate/memory, of which those skip themselves elsewhere.
func TestWrittenPagesAreTracked(t *testing.T) {
	longOnly(t)
	k := sharedLab(t)
	f, err := os.Open(shared.memory)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	out, err := k.lab.Machines()[0].Run(ctx, `cd "$(mktemp -d)" && cat > memory.test && chmod +x memory.test && TMPDIR=$PWD ./memory.test -test.v -test.run 'Tracked|LeftOut'; code=$?; rm -r "$PWD"; exit $code`, f)
	if err != nil || strings.Contains(out, "SKIP") || !strings.Contains(out, "--- PASS: TestTrackedRoundsAgreeWithReadingAll") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
}

// Two programs hold as much memory and write to little of it. One has its written pages tracked by the kernel, so that little
// is read while it stands still.
func TestTrackedMemoryShortensTheBlackout(t *testing.T) {
	longOnly(t)
	k := sharedLab(t)
	const mib, moves = 256, 3
	blackout := map[string]float64{}
	for _, how := range []string{"tracked", "untracked"} {
		c := k.run(how, "busybox", "--ram", "384M")
		args := fmt.Sprintf(":9000 %d", mib)
		if how == "untracked" {
			args += " untracked"
		}
		k.put(how, shared.ballast, args)
		k.isWhole(c)
		var all []float64
		for range moves {
			r := k.migrate(how)
			k.isWhole(c)
			if r.Bytes > (mib+64)<<20 {
				t.Errorf("%s: %d bytes were sent: the rounds do not end", how, r.Bytes)
			}
			t.Logf("%s: %v", how, r.Phases)
			all = append(all, r.BlackoutMS)
		}
		slices.Sort(all)
		blackout[how] = all[moves/2]
		k.vz("stop", how)
	}
	if with, without := blackout["tracked"], blackout["untracked"]; with > without*0.9 {
		t.Errorf("the blackout is %.0f ms with tracked pages and %.0f ms without", with, without)
	} else {
		t.Logf("%.0f ms with tracked pages, %.0f ms without", with, without)
	}
}

// isWhole waits until ballast answers, and checks that its memory is what it wrote.
func (k *kit) isWhole(c api.Container) {
	k.t.Helper()
	var line []byte
	k.until("ballast answers", func() error {
		conn, err := k.lab.Dial(k.t.Context(), address(c)+":9000")
		if err != nil {
			return err
		}
		defer conn.Close()
		line, err = io.ReadAll(conn)
		return err
	})
	if string(line) != "good\n" {
		k.t.Fatalf("the memory of %s is wrong: %s", c.Name, line)
	}
}
