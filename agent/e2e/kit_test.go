package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/cluster"
)

// recovery is within which every fault must be over, without a human.
const recovery = 30 * time.Second

// kit is one test's view of a lab.
type kit struct {
	t     *testing.T
	lab   *lab.Lab
	front string // the host that is asked; empty: host1
}

// sharedLab returns the lab that most tests share, with both templates in it.
func sharedLab(t *testing.T) *kit {
	t.Helper()
	skipUnlessAble(t)
	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		shared.lab, shared.err = shared.up(ctx, "", 3)
	})
	if shared.err != nil {
		t.Fatalf("the shared lab: %v", shared.err)
	}
	k := &kit{t: t, lab: shared.lab}
	k.explainFailure()
	return k
}

// ownLab makes a lab for one test, which may destroy it.
func ownLab(t *testing.T, name string, hosts int) *kit {
	t.Helper()
	skipUnlessAble(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l, err := shared.up(ctx, name+"-", hosts)
	if err != nil {
		t.Fatal(err)
	}
	downAfter(t, l)
	k := &kit{t: t, lab: l}
	k.explainFailure()
	return k
}

func downAfter(t *testing.T, l *lab.Lab) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Down(ctx); err != nil {
			t.Errorf("take the lab down: %v", err)
		}
	})
}

func skipUnlessAble(t *testing.T) {
	t.Helper()
	if shared.skip != "" {
		t.Skip(shared.skip)
	}
}

// explainFailure prints what the agents said meanwhile when the test has failed.
func (k *kit) explainFailure() {
	begun := map[string]int64{}
	for _, h := range k.lab.Hosts() {
		if st, err := os.Stat(k.lab.Log(h)); err == nil {
			begun[h] = st.Size()
		}
	}
	k.t.Cleanup(func() {
		if !k.t.Failed() {
			return
		}
		for _, h := range k.lab.Hosts() {
			b, err := os.ReadFile(k.lab.Log(h))
			if err == nil && int64(len(b)) >= begun[h] {
				b = b[begun[h]:]
			}
			lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(b)), "\n"), func(line string) bool {
				return strings.Contains(line, "part=raft") || strings.Contains(line, "part=gossip") // they say much and mean little
			})
			k.t.Logf("%s said:\n  %s", h, strings.Join(lines[max(0, len(lines)-40):], "\n  "))
		}
	})
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

// command prepares the command line against a host's agent.
func (k *kit) command(ctx context.Context, host string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, shared.vzcluster, args...)
	cmd.Env = append(os.Environ(), "VZCLUSTER_HOST="+k.lab.Endpoint(host))
	return cmd
}

// at runs the command line against a host's agent, with nothing or a text as its input.
func (k *kit) at(host string, stdin io.Reader, args ...string) result {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 6*time.Minute)
	defer cancel()
	cmd := k.command(ctx, host, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		k.t.Fatalf("vzcluster %s: %v (%s)", strings.Join(args, " "), errors.Join(err, ctx.Err()), errs.String())
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// try runs the command line against the host that is asked.
func (k *kit) try(args ...string) result {
	k.t.Helper()
	return k.at(cmp.Or(k.front, "host1"), nil, args...)
}

// vz runs a command that must go well and returns its standard output.
func (k *kit) vz(args ...string) string {
	k.t.Helper()
	r := k.try(args...)
	if r.code != 0 {
		k.t.Fatalf("vzcluster %s: %v", strings.Join(args, " "), r)
	}
	return r.stdout
}

// ask runs a command that must go well and reads its JSON.
func ask[T any](k *kit, args ...string) (v T) {
	k.t.Helper()
	out := k.vz(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		k.t.Fatalf("vzcluster %s: %v in %s", strings.Join(args, " "), err, out)
	}
	return v
}

// refused runs a command that must fail with a code and one sentence that has all the words.
func (k *kit) refused(code int, words []string, args ...string) {
	k.t.Helper()
	k.isRefusal(k.try(args...), code, words, strings.Join(args, " "))
}

func (k *kit) isRefusal(r result, code int, words []string, what string) {
	k.t.Helper()
	if r.code != code {
		k.t.Errorf("%s: want exit code %d, got %v", what, code, r)
	}
	if r.stdout != "" {
		k.t.Errorf("%s: want nothing on stdout, got %q", what, r.stdout)
	}
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	said := lines[len(lines)-1]
	if !strings.HasPrefix(said, "vzcluster: ") {
		k.t.Errorf("%s: the last line is no error of ours: %q", what, r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			k.t.Errorf("%s: want %q in %q", what, w, said)
		}
	}
}

// run makes a container and destroys it after the test.
func (k *kit) run(name, template string, flags ...string) api.Container {
	k.t.Helper()
	k.template(template)
	k.destroyAfter(name)
	return ask[api.Container](k, append([]string{"run", name, "--template", template, "--ram", "128M", "--cpus", "0.1"}, flags...)...)
}

func (k *kit) destroyAfter(name string) {
	k.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
		defer cancel()
		cmd := k.command(ctx, "host1", "destroy", "-y", "-f", "--now", name)
		if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), "there is no container") {
			k.t.Errorf("destroy %s: %v: %s", name, err, out)
		}
	})
}

// debian is the template with systemd and real services.
const debian = "debian-12"

// template sees to it that the cluster has a template.
func (k *kit) template(name string) {
	k.t.Helper()
	if r := k.try("template", "show", name); r.code == 0 {
		return
	}
	args := []string{"template", "build", name}
	if name == debian {
		args = append(args, "--include", "redis-server,nginx")
	}
	k.vz(args...)
}

func (k *kit) show(name string) api.Container {
	k.t.Helper()
	return ask[api.Container](k, "show", name)
}

func (k *kit) status() api.Status {
	k.t.Helper()
	return ask[api.Status](k, "status")
}

func (k *kit) host(name string) api.Host {
	k.t.Helper()
	for _, h := range ask[[]api.Host](k, "host", "ls") {
		if h.Name == name {
			return h
		}
	}
	k.t.Fatalf("there is no host %s", name)
	return api.Host{}
}

// other returns a host that is none of these.
func (k *kit) other(not ...string) string {
	for _, h := range k.lab.Hosts() {
		if !strings.Contains(" "+strings.Join(not, " ")+" ", " "+h+" ") {
			return h
		}
	}
	k.t.Fatalf("all hosts are among %v", not)
	return ""
}

// inside runs a shell command in a container and returns its output.
func (k *kit) inside(name, script string) string {
	k.t.Helper()
	return strings.TrimSpace(k.vz("exec", name, "--", "sh", "-c", script))
}

// on runs a shell command on a machine of the lab and returns its output and exit code.
func (k *kit) on(machine, script string) (string, int) {
	k.t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Minute)
	defer cancel()
	code, err := k.lab.Exec(ctx, machine, []string{"sh", "-c", script}, nil, &out, &out)
	if err != nil {
		k.t.Fatalf("%s: %s: %v", machine, script, err)
	}
	return strings.TrimSpace(out.String()), code
}

// until waits for a condition.
func (k *kit) until(what string, within time.Duration, met func() error) {
	k.t.Helper()
	deadline := time.After(within)
	for {
		err := met()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			k.t.Fatalf("%s: not within %s: %v", what, within, err)
		case <-k.t.Context().Done():
			k.t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// leader waits until there is a leader and returns it.
func (k *kit) leader() (name string) {
	k.t.Helper()
	k.until("a leader", recovery, func() error {
		for _, h := range k.lab.Hosts() {
			r := k.at(h, nil, "status", "-o", "json")
			var st api.Status
			if r.code == 0 && json.Unmarshal([]byte(r.stdout), &st) == nil && st.Leader != "" && st.Quorum {
				name = st.Leader
				return nil
			}
		}
		return errors.New("no agent knows one")
	})
	return name
}

// migrate moves a container and checks what every move must keep.
func (k *kit) migrate(name string, args ...string) cluster.MoveResult {
	k.t.Helper()
	before := k.show(name)
	r := ask[cluster.MoveResult](k, append([]string{"migrate", name}, args...)...)
	after := k.show(name)
	if after.Host != r.To || after.Host == before.Host || after.Generation != before.Generation+1 || after.State != before.State {
		k.t.Fatalf("%s was %s on %s with generation %d, is %s on %s with %d, and %+v was reported",
			name, before.State, before.Host, before.Generation, after.State, after.Host, after.Generation, r)
	}
	if after.MAC != before.MAC || fmt.Sprint(after.Addresses) != fmt.Sprint(before.Addresses) || after.UIDBase != before.UIDBase {
		k.t.Errorf("a move has changed addresses of %s: %+v, %+v", name, before, after)
	}
	if after.Restarted != 0 || r.Restarted {
		k.t.Errorf("%s was restarted by its move", name)
	}
	k.noTraces(before.Host, before.ID)
	return r
}

func address(c api.Container) string {
	a, _, _ := strings.Cut(c.Addresses[0], "/")
	return a
}
