package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/cluster"
)

// planned is how long a plan of ten moves may take on a machine that does much else.
const planned = 5 * time.Minute

// fleet is a lab with systemd containers, each with a client outside that counts in its redis.
type fleet struct {
	*kit
	all []service
}

type service struct {
	name   string
	client *counter
	begun  string // when init and redis were started: what a restart would change
}

// newFleet makes a cluster of three hosts, with a fourth one that belongs to no cluster yet, and hooks that this test answers.
func newFleet(t *testing.T, containers int, on string) *fleet {
	t.Helper()
	k := unformed(t, "plans", lab.Options{Hosts: 4, CPUs: 4, RAM: 4 << 30, Disk: 50 << 30})
	if r := k.at("host1", nil, "init"); r.code != 0 {
		t.Fatal(r)
	}
	k.joins("host2")
	k.joins("host3")
	f := &fleet{kit: k}
	f.answerHooks()
	for i := range containers {
		k.run(fmt.Sprintf("deb%d", i), debian, "--ram", "256M", "--host", on)
	}
	for i := range containers {
		f.all = append(f.all, f.serves(fmt.Sprintf("deb%d", i)))
	}
	return f
}

func (k *kit) joins(host string) {
	k.t.Helper()
	if r := k.at(host, nil, "join", k.member("host1"), "--token", k.token("host1").Token); r.code != 0 {
		k.t.Fatal(r)
	}
}

// whenBegun says when init and redis were started.
const whenBegun = `systemctl show --value -p UserspaceTimestampMonotonic && systemctl show --value -p MainPID -p ExecMainStartTimestampMonotonic redis-server`

// serves waits until a container has booted and has a client count in it.
func (f *fleet) serves(name string) service {
	f.t.Helper()
	const open = `systemctl is-system-running --wait >/dev/null && redis-cli config set protected-mode no >/dev/null && redis-cli config set bind '* -::*' >/dev/null && `
	var begun string
	f.until("systemd and redis of "+name, 2*recovery, func() error {
		r := f.try("exec", name, "--", "sh", "-c", open+whenBegun) // fails at once before the bus is there
		begun = strings.TrimSpace(r.stdout)
		if r.code != 0 || len(strings.Fields(begun)) != 3 {
			return errors.New(r.String())
		}
		return nil
	})
	return service{name, f.countAtRest(address(f.show(name))+":6379", 50*time.Millisecond), begun}
}

// unharmed checks that no client has lost its connection and no container was started again.
func (f *fleet) unharmed(after string) {
	f.t.Helper()
	for _, s := range f.all {
		s.client.goesOn()
		if c := f.show(s.name); c.State != cluster.Running || c.Restarted != 0 || c.Operation != "" {
			f.t.Errorf("after %s %s is %s (%s), operation %q, was restarted %d times", after, s.name, c.State, c.Detail, c.Operation, c.Restarted)
		}
	}
}

// end ends every client, which has seen every acknowledged value exactly once.
func (f *fleet) end() {
	f.t.Helper()
	for _, s := range f.all {
		if now := f.inside(s.name, whenBegun); now != s.begun {
			f.t.Errorf("in %s init and redis were started at %q, and now %q: something was started again", s.name, s.begun, now)
		}
		s.client.stop()
	}
}

// spread says how many containers each host has.
func (f *fleet) spread() map[string]int {
	f.t.Helper()
	on := map[string]int{}
	for _, h := range ask[[]api.Host](f.kit, "host", "ls") {
		on[h.Name] = h.Containers
	}
	return on
}

// plan reads a plan from whichever agent answers.
func (f *fleet) plan(id string) (op cluster.Operation, err error) {
	f.t.Helper()
	for _, h := range f.lab.Hosts() {
		r := f.at(h, nil, "plan", "show", id, "-o", "json")
		if r.code == 0 {
			return op, json.Unmarshal([]byte(r.stdout), &op)
		}
		err = errors.New(r.stderr)
	}
	return op, err
}

// Roles of the host whose agent leads while a plan is carried out, and is killed.
const (
	source  = "a source"
	target  = "a target"
	neither = "neither source nor target"
)

// led makes a voter lead that has a role in a plan, if there is one; who leads at last is told.
func (f *fleet) led(role string, steps []cluster.Move) string {
	f.t.Helper()
	from, to := map[string]bool{}, map[string]bool{}
	for _, s := range steps {
		from[s.From], to[s.To] = true, true
	}
	var fit []string
	for _, h := range f.statusOf(f.leader()).Hosts {
		is := map[string]bool{source: from[h.Name], target: to[h.Name], neither: !from[h.Name] && !to[h.Name]}[role]
		if is && h.Voter {
			fit = append(fit, h.Name)
		}
	}
	now := f.leader()
	for tries := 0; len(fit) > 0 && !slices.Contains(fit, now) && tries < 20; tries++ {
		now = f.deposed(now)
	}
	if !slices.Contains(fit, now) {
		f.t.Logf("no leader that is %s can be had: %s leads", role, now)
	}
	return now
}

// deposed keeps a leader's agent down until another one leads, which it returns.
func (f *fleet) deposed(leader string) (next string) {
	f.t.Helper()
	if err := f.lab.Kill(f.t.Context(), leader, true); err != nil {
		f.t.Fatal(err)
	}
	f.until("another host leads", 2*recovery, func() error {
		if next = f.leader(); next == leader {
			return fmt.Errorf("it is %s still", next)
		}
		return nil
	})
	if err := errors.Join(f.lab.Start(f.t.Context(), leader), f.lab.WaitReady(f.t.Context(), leader)); err != nil {
		f.t.Fatal(err)
	}
	return next
}

// kill ends an agent with SIGKILL and waits until it answers again.
func (f *fleet) kill(host string) {
	f.t.Helper()
	if err := f.lab.Kill(f.t.Context(), host, false); err != nil {
		f.t.Fatal(err)
	}
	if err := f.lab.WaitReady(f.t.Context(), host); err != nil {
		f.t.Fatal(err)
	}
}

// carriedOut makes a plan and approves it, kills the leader's agent in the middle, when one move has ended and another
// is under way, and returns the plan when it has ended.
func (f *fleet) carriedOut(role string, args ...string) cluster.Operation {
	f.t.Helper()
	what := strings.Join(args, " ")
	if role == neither {
		defer f.setAside(args)()
	}
	op := ask[cluster.Operation](f.kit, append(args, "--save", "--parallel", "2")...)
	leader := f.led(role, op.Steps)
	f.leader()
	f.vz("plan", "approve", op.ID)
	f.until(what+" is in the middle", planned, func() (err error) {
		ended, running := 0, 0
		if op, err = f.plan(op.ID); err != nil {
			return err
		}
		for _, s := range op.Steps {
			if s.Status == cluster.StepDone {
				ended++
			} else if s.Status == cluster.StepRunning {
				running++
			}
		}
		if op.Final() {
			f.t.Fatalf("%s has ended before its leader was killed: %s, %s, %+v", what, op.Status, op.Error, op.Steps)
		}
		if ended == 0 || running == 0 {
			return fmt.Errorf("%d moves have ended, %d are under way", ended, running)
		}
		return nil
	})
	killed := time.Now()
	f.kill(leader)
	f.until(what+" has ended", planned, func() (err error) {
		if op, err = f.plan(op.ID); err == nil && !op.Final() {
			err = fmt.Errorf("it is %s: %s", op.Status, op.Error)
		}
		return err
	})
	f.t.Logf("%s: %d moves; %s led and was killed, %s leads %.1f s later", what, len(op.Steps), leader, f.leader(), time.Since(killed).Seconds())
	if op.Status != cluster.OpDone || op.Error != "" {
		f.t.Errorf("%s is %s: %s, %+v", what, op.Status, op.Error, op.Steps)
	}
	f.unharmed(what)
	return op
}

// setAside keeps the leader out of a plan that is about to be made.
func (f *fleet) setAside(args []string) (activate func()) {
	f.t.Helper()
	leader := f.leader()
	for slices.Contains(args, leader) {
		leader = f.deposed(leader)
	}
	f.vz("host", "cordon", leader)
	return func() { f.vz("host", "activate", leader) }
}

// hookScript tells this test what it was asked for; the power of a virtual host is switched from the outside.
const hookScript = `#!/bin/sh
echo "$1 $2" >>/etc/vzcluster/hooks/asked
[ "$1" != maintain ] || sleep 60 # the reboot ends it
`

// answerHooks gives every host a hook and does what the hooks are asked for, as a power controller would.
func (f *fleet) answerHooks() {
	f.t.Helper()
	asked := map[string]string{}
	for _, h := range f.lab.Hosts() {
		dir := filepath.Join(lab.DefaultDir, f.lab.Name(), h, "etc/hooks")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			f.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "switch"), []byte(hookScript), 0o755); err != nil {
			f.t.Fatal(err)
		}
		asked[filepath.Join(dir, "asked")] = ""
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for f.t.Context().Err() == nil {
			for file, before := range asked {
				b, _ := os.ReadFile(file)
				asked[file] = string(b)
				for line := range strings.Lines(strings.TrimPrefix(string(b), before)) {
					f.answer(strings.TrimSpace(line))
				}
			}
			select {
			case <-f.t.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	f.t.Cleanup(func() { <-ended })
}

func (f *fleet) answer(line string) {
	verb, host, _ := strings.Cut(line, " ")
	f.t.Logf("the hook was asked to %s", line)
	var err error
	if verb != "wake" {
		err = f.lab.PowerOff(f.t.Context(), host)
	}
	if verb != "park" {
		err = errors.Join(err, f.lab.Start(f.t.Context(), host))
	}
	if err != nil && f.t.Context().Err() == nil {
		f.t.Errorf("%s: %v", line, err)
	}
}

// TestPlansOutliveTheirLeaders carries out every plan with systemd containers under load from outside. In the middle of each
// the leader's agent is killed; the next one finishes the plan, and nobody notices.
func TestPlansOutliveTheirLeaders(t *testing.T) {
	f := newFleet(t, 10, "host1")
	if op := f.carriedOut(source, "host", "drain", "host1"); len(op.Steps) < 10 || f.spread()["host1"] != 0 {
		t.Errorf("the drain has made %d moves, and left %v", len(op.Steps), f.spread())
	}
	f.vz("host", "activate", "host1")
	f.joins("host4")
	f.carriedOut(source, "rebalance")
	for h, n := range f.spread() {
		if n < 1 || n > 4 {
			t.Errorf("after the rebalancing %s has %d of ten containers", h, n)
		}
	}
	f.maintained(neither)
	f.parkedAndWoken(target)
	f.end()
}

// TestPlansWithEveryLeader is the long form: the leader that is killed is a source, a target and neither, for every plan.
func TestPlansWithEveryLeader(t *testing.T) {
	if os.Getenv("VZCLUSTER_PLANS") == "" {
		t.Skip("it takes minutes: make test-plans")
	}
	f := newFleet(t, 10, "host1")
	f.joins("host4")
	for _, role := range []string{source, target, neither} {
		full := f.fullest()
		f.carriedOut(role, "host", "drain", full)
		f.vz("host", "activate", full)
		f.carriedOut(role, "rebalance")
		f.maintained(role)
		f.carriedOut(role, "consolidate")
		f.nothingToDo("consolidate")
		f.carriedOut(role, "rebalance")
	}
	f.parkedAndWoken(neither)
	for i := range burst {
		f.vz("destroy", "-y", "--now", fmt.Sprintf("burst-%d", i+1))
	}
	leaving := f.fullest()
	f.carriedOut(source, "host", "leave", leaving)
	f.until("the host that has left belongs to no cluster", planned, func() error {
		if st := f.statusOf(leaving); st.Joined {
			return errors.New("it does")
		}
		return nil
	})
	f.end()
}

func (f *fleet) fullest() (name string) {
	f.t.Helper()
	most := -1
	for h, n := range f.spread() {
		if n > most {
			name, most = h, n
		}
	}
	return name
}

// nothingToDo checks that the same plan right after it was carried out has no moves.
func (f *fleet) nothingToDo(args ...string) {
	f.t.Helper()
	if again := ask[cluster.Operation](f.kit, append(args, "--dry-run")...); len(again.Steps) != 0 {
		f.t.Errorf("right after %v there is still to do: %+v", args, again.Steps)
	}
}

// maintained has a host emptied, switched off and on by its hook, and filled again.
func (f *fleet) maintained(role string) {
	f.t.Helper()
	const host = "host3"
	before := f.spread()
	op := f.carriedOut(role, "maintain", host, "--hook", "switch")
	if after := f.spread(); fmt.Sprint(after) != fmt.Sprint(before) {
		f.t.Errorf("before the maintenance hosts had %v, after it %v", before, after)
	}
	if h := f.host(host); h.State != cluster.HostActive {
		f.t.Errorf("after the maintenance %s is %s", host, h.State)
	}
	if len(op.Steps) < 2*before[host] { // more, if the fault has ended one
		f.t.Errorf("%d moves were made to empty and to fill %s with its %d containers", len(op.Steps), host, before[host])
	}
}

// stayer is the host that a consolidation would fill: it is not switched off.
func (f *fleet) stayer() string {
	f.t.Helper()
	plan := ask[cluster.Operation](f.kit, "consolidate", "--dry-run")
	if len(plan.Steps) == 0 {
		f.t.Fatalf("there is nothing to consolidate: %v", f.spread())
	}
	return plan.Steps[0].To
}

// burst is how many containers come at once: three hosts have room for five.
const burst = 7

// parkedAndWoken frees hosts, of which one is switched off; more containers than there is room for wake it.
func (f *fleet) parkedAndWoken(role string) {
	f.t.Helper()
	for _, h := range f.lab.Hosts() {
		f.vz("host", "set", h, "--power", "command", "--power-hook", "switch")
	}
	f.front = f.stayer()
	f.carriedOut(role, "consolidate", "--park")
	f.nothingToDo("consolidate")
	var parked string
	f.until("a freed host is off", planned, func() error {
		for _, h := range ask[[]api.Host](f.kit, "host", "ls") {
			if h.State == cluster.HostParked && !h.Alive {
				parked = h.Name
				return nil
			}
		}
		return fmt.Errorf("they are %v", ask[[]api.Host](f.kit, "host", "ls"))
	})
	f.front = f.other(parked)
	f.vz("settings", "set", "--park", "--idle", "1h")
	f.template("busybox")
	for i := range burst {
		f.destroyAfter(fmt.Sprintf("burst-%d", i+1))
	}
	f.vz("create", "burst", "--count", fmt.Sprint(burst), "--template", "busybox", "--ram", "1536M", "--cpus", "0.1", "--wait-for-room")
	f.until("it is woken and has containers", planned, func() error {
		if h := f.host(parked); h.State != cluster.HostActive || h.Containers == 0 {
			return fmt.Errorf("%s is %s with %d containers", parked, h.State, h.Containers)
		}
		return nil
	})
	f.unharmed("the burst")
}
