package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestConnectionAndOpenFilesMove(t *testing.T) {
	k := sharedLab(t)
	c := k.run("moves", "busybox")
	k.serveCounter(c)
	client := k.count(address(c) + ":" + port)
	for range 3 {
		k.migrate("moves")
		client.goesOn()
	}
	seen := client.stop()
	if seen.First != 1 {
		t.Errorf("the first value was %d", seen.First)
	}
	// The file was held open all the time and has every value once, in their order.
	if got := k.inside("moves", "awk '$1 != NR {print \"wrong at \" NR; exit} END {print NR}' /var/log/counter"); got != fmt.Sprint(seen.Last) {
		t.Errorf("the file holds %s values, the client saw %d", got, seen.Last)
	}
}

func TestMigrateReports(t *testing.T) {
	k := sharedLab(t)
	c := k.run("report", "busybox")
	to := k.other(c.Host)
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(k.vz("migrate", "report", to, "-o", "json")), &fields); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"from", "to", "mode", "blackout_ms", "total_ms", "bytes", "phases"} {
		if fields[f] == nil {
			t.Errorf("%s is missing in %v", f, fields)
		}
	}
	r := k.show("report").LastMove
	if r == nil {
		t.Fatal("the container does not show its last move")
	}
	if r.From != c.Host || r.To != to || r.Mode != "live" || r.BlackoutMS <= 0 || r.TotalMS <= r.BlackoutMS || r.Bytes <= 0 || len(r.Phases) < 5 {
		t.Errorf("it was reported %+v", r)
	}
}

// session is a command that is being run in a container by exec.
func (k *kit) session(name string, command ...string) (end func()) {
	k.t.Helper()
	cmd := k.command(k.t.Context(), "host1", append([]string{"exec", name, "--"}, command...)...)
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	end = func() {
		_ = cmd.Process.Kill()
		<-ended
	}
	k.t.Cleanup(end)
	return end
}

func TestAnExecSessionBlocks(t *testing.T) {
	k := sharedLab(t)
	c := k.run("blocked", "busybox")
	end := k.session("blocked", "sleep", "4321")
	k.until("the session runs", recovery, func() error {
		if got := k.inside("blocked", "pidof sleep || true"); got == "" {
			return fmt.Errorf("there is no sleep")
		}
		return nil
	})
	r := k.try("migrate", "blocked", "--check-only", "-o", "json")
	var v api.Verdict
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil || r.code != 7 {
		t.Fatalf("%v: %v", err, r)
	}
	if v.OK || len(v.Blockers) != 1 || !strings.Contains(v.Blockers[0].Process, "sleep") || v.Blockers[0].Remedy == "" {
		t.Errorf("it was judged %+v", v)
	}
	k.refused(7, []string{"sleep", "exec"}, "migrate", "blocked")
	if now := k.show("blocked"); now.Host != c.Host || now.State != cluster.Running || now.Operation != "" {
		t.Errorf("the refused migration has left it %+v", now)
	}
	// Forced, the session is ended and the container moves.
	forced, ended := k.command(t.Context(), "host1", "exec", "blocked", "--", "sleep", "1234"), make(chan error, 1)
	go func() { ended <- forced.Run() }()
	k.until("the other session runs", recovery, func() error {
		if got := k.inside("blocked", "pidof sleep"); len(strings.Fields(got)) != 2 {
			return fmt.Errorf("there is %q", got)
		}
		return nil
	})
	k.migrate("blocked", "--force")
	if <-ended; forced.ProcessState.ExitCode() != 129 {
		t.Errorf("the ended session's exit code is %d", forced.ProcessState.ExitCode())
	}
	end()
	k.until("the session is over", recovery, func() error {
		if r := k.try("migrate", "blocked", "--check-only"); r.code != 0 {
			return fmt.Errorf("%s", r.stderr)
		}
		return nil
	})
	k.migrate("blocked")
}

func TestOfflineMigration(t *testing.T) {
	k := sharedLab(t)
	k.run("offline", "busybox")
	k.inside("offline", "echo kept > /root/file; mkfifo /root/pipe; ln -s file /root/link; chown 33:44 /root/file; echo lost > /run/file; rm /etc/os-release")
	if r := k.migrate("offline", "--offline"); r.Mode != "offline" {
		t.Errorf("its mode was %s", r.Mode)
	}
	got := k.inside("offline", "cat /root/link; stat -c %u:%g:%F /root/file; stat -c %F /root/pipe; ls /etc/os-release /run/file 2>/dev/null | wc -l")
	if got != "kept\n33:44:regular file\nfifo\n0" {
		t.Errorf("after the move there is %q", got)
	}
}

func TestStoppedContainerMoves(t *testing.T) {
	k := sharedLab(t)
	c := k.run("stopped", "busybox")
	k.inside("stopped", "echo kept > /root/file")
	k.vz("stop", "stopped")
	k.migrate("stopped")
	if n := k.copies(c.ID); len(n) != 0 {
		t.Errorf("the move has started it on %v", n)
	}
	k.vz("start", "stopped")
	if got := k.inside("stopped", "cat /root/file"); got != "kept" {
		t.Errorf("its file is %q", got)
	}
}

func TestNoRoomNoMove(t *testing.T) {
	k := sharedLab(t)
	c := k.run("large", "busybox", "--ram", "5G")
	to := k.other(c.Host)
	k.run("filler", "busybox", "--ram", "5G", "--host", to)
	k.refused(4, []string{to, "memory"}, "migrate", "large", to)
	if now := k.show("large"); now.Host != c.Host || now.State != cluster.Running {
		t.Errorf("it is %s on %s", now.State, now.Host)
	}
}

func TestMemoryMoves(t *testing.T) {
	k := sharedLab(t)
	c := k.run("memory", "busybox", "--ram", "256M")
	k.serve(c, "hold :"+port+" 64")
	sum := func() string {
		out, code := k.on("outside", fmt.Sprintf("echo | timeout 10 busybox nc -w 5 %s %s", address(c), port))
		if code != 0 || !strings.HasPrefix(out, ":") {
			t.Fatalf("asked for its checksum it says %q", out)
		}
		return out
	}
	before := sum()
	if r := k.migrate("memory"); r.Bytes < 64<<20 {
		t.Errorf("only %d bytes were moved", r.Bytes)
	}
	if after := sum(); after != before {
		t.Errorf("the memory had the checksum %s and has %s", before, after)
	}
}

func TestTwoMovesOfOneContainer(t *testing.T) {
	k := sharedLab(t)
	c := k.run("contested", "busybox")
	k.serveCounter(c)
	client := k.count(address(c) + ":" + port)
	ended := make(chan int, 3)
	for _, h := range k.lab.Hosts() {
		cmd := k.command(t.Context(), h, "migrate", "contested")
		go func() {
			_ = cmd.Run()
			ended <- cmd.ProcessState.ExitCode()
		}()
	}
	won := 0
	for range 3 {
		if code := <-ended; code == 0 {
			won++
		}
	}
	if won == 0 {
		t.Error("none of three migrations at once went well")
	}
	now := k.show("contested")
	if int(now.Generation-c.Generation) != won || len(k.copies(c.ID)) != 1 || now.Restarted != 0 {
		t.Errorf("%d migrations have made it %+v with copies on %v", won, now, k.copies(c.ID))
	}
	client.goesOn()
	client.stop()
}
