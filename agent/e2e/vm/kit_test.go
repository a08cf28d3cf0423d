package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab/vm"
	"github.com/vzcluster/vzcluster/cluster"
)

// kit is one test's view of the lab.
type kit struct {
	t   *testing.T
	lab *vm.Lab
}

func sharedLab(t *testing.T) *kit {
	t.Helper()
	if testing.Short() {
		t.Skip("machines take minutes")
	}
	if err := vm.Able(); err != nil {
		t.Skip(err)
	}
	shared.once.Do(shared.up)
	if errors.Is(shared.err, vm.ErrUnable) {
		t.Skip(shared.err)
	}
	if shared.err != nil {
		t.Fatalf("the lab: %v", shared.err)
	}
	k := &kit{t, shared.lab}
	t.Cleanup(k.explain)
	return k
}

// longOnly skips what only `make test-vm` runs.
func longOnly(t *testing.T) {
	t.Helper()
	if !shared.long {
		t.Skip("only `make test-vm` runs this")
	}
}

// explain prints what the agents and CRIU said when the test has failed.
func (k *kit) explain() {
	if !k.t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, m := range k.lab.Machines() {
		out, err := m.Run(ctx, "journalctl -q -o cat -u vzcluster | grep -v -e part=raft -e part=gossip | tail -n 40", nil)
		k.t.Logf("%s said (%v):\n%s", m.Name, err, out)
	}
}

// command prepares the command line against a host's agent.
func (k *kit) command(ctx context.Context, host int, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, shared.vzcluster, args...)
	cmd.Env = append(os.Environ(), "VZCLUSTER_HOST=unix://"+k.lab.Machines()[host-1].Socket())
	return cmd
}

// try runs the command line against host1's agent.
func (k *kit) try(stdin io.Reader, args ...string) (stdout string, err error) {
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	cmd := k.command(ctx, 1, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("vzcluster %s: %w: %s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// vz runs a command that must go well.
func (k *kit) vz(args ...string) string {
	k.t.Helper()
	out, err := k.try(nil, args...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

func ask[T any](k *kit, args ...string) (v T) {
	k.t.Helper()
	out := k.vz(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		k.t.Fatalf("vzcluster %s: %v in %s", strings.Join(args, " "), err, out)
	}
	return v
}

// run makes a container and destroys it after the test.
func (k *kit) run(name, template string, flags ...string) api.Container {
	k.t.Helper()
	if _, err := k.try(nil, "template", "show", template); err != nil {
		args := []string{"template", "build", template}
		if template == debian {
			args = append(args, "--include", "redis-server,nginx") // as the other end-to-end tests, which have it built already
		}
		k.vz(args...)
	}
	k.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := k.command(ctx, 1, "destroy", "-y", "-f", "--now", name).CombinedOutput(); err != nil {
			k.t.Errorf("destroy %s: %v: %s", name, err, out)
		}
	})
	args := []string{"run", name, "--template", template, "--ram", "128M", "--cpus", "0", "--timeout", "4m"}
	return ask[api.Container](k, append(args, flags...)...)
}

// debian is the template with systemd and real services.
const debian = "debian-12"

func (k *kit) inside(name, script string) string {
	k.t.Helper()
	return strings.TrimSpace(k.vz("exec", name, "--", "sh", "-c", script))
}

// on runs a script on a host.
func (k *kit) on(host, script string) string {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	for _, m := range k.lab.Machines() {
		if m.Name == host {
			out, err := m.Run(ctx, script, nil)
			if err != nil {
				k.t.Fatal(err)
			}
			return strings.TrimSpace(out)
		}
	}
	k.t.Fatalf("there is no host %s", host)
	return ""
}

// until waits for a condition.
func (k *kit) until(what string, met func() error) {
	k.t.Helper()
	deadline := time.After(patience)
	for {
		err := met()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			k.t.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-k.t.Context().Done():
			k.t.Fatalf("%s: %v", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// migrate moves a container live and checks what every move must keep.
func (k *kit) migrate(name string) cluster.MoveResult {
	k.t.Helper()
	before := ask[api.Container](k, "show", name)
	r := k.moved(name)
	after := ask[api.Container](k, "show", name)
	if after.Host != r.To || after.Host == before.Host || after.State != cluster.Running || after.Restarted != 0 || r.Restarted || r.Mode != "live" {
		k.t.Fatalf("%s was on %s, is %s on %s and was restarted %d times; reported was %+v",
			name, before.Host, after.State, after.Host, after.Restarted, r)
	}
	// Nothing of it is left where it was.
	if left := k.on(before.Host, fmt.Sprintf("ls -d /sys/fs/cgroup/vz/%d /var/lib/vzcluster/containers/%[1]d /var/lib/vzcluster/migrations/* 2>/dev/null || true", before.ID)); left != "" {
		k.t.Errorf("%s still has %s", before.Host, left)
	}
	k.t.Logf("%s: %s -> %s, blackout %.0f ms, total %.0f ms", name, r.From, r.To, r.BlackoutMS, r.TotalMS)
	return r
}

// moved migrates. A move that could not begin is asked for again: on a busy machine an emulated host may be too slow to
// answer others, and is down for them meanwhile. One that has begun must not fail.
func (k *kit) moved(name string) (r cluster.MoveResult) {
	k.t.Helper()
	const failed = 1 // exit code
	k.until("the move of "+name, func() error {
		out, err := k.try(nil, "migrate", name, "-o", "json")
		if err == nil {
			return json.Unmarshal([]byte(out), &r)
		}
		k.t.Log(err)
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() == failed {
			k.t.FailNow()
		}
		return err
	})
	return r
}

// put copies a program into a container and starts it there.
func (k *kit) put(name, program, args string) {
	k.t.Helper()
	f, err := os.Open(program)
	if err != nil {
		k.t.Fatal(err)
	}
	defer f.Close()
	if _, err := k.try(f, "exec", name, "--", "sh", "-c", "cat > /bin/program && chmod 755 /bin/program"); err != nil {
		k.t.Fatal(err)
	}
	k.inside(name, "setsid /bin/program "+args+" </dev/null >/dev/null 2>&1 &")
}

func address(c api.Container) string {
	a, _, _ := strings.Cut(c.Addresses[0], "/")
	return a
}
