package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime/cgroup"
)

// TestMain also is the lab-init of the labs that the tests make: they run without the product's binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "lab-init" {
		if err := Init(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// up makes a lab whose agents are stand-ins that do nothing.
func up(t *testing.T, hosts int) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a lab needs root")
	}
	o := Options{Name: fmt.Sprintf("t%d", os.Getpid()), Dir: t.TempDir(), Hosts: hosts, Agent: []string{"/bin/sleep", "1000"}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	t.Cleanup(func() { down(t, o) })
	start := time.Now()
	l, err := Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("up in %v", time.Since(start))
	return l
}

// down removes the lab and looks for what it should have taken along.
func down(t *testing.T, o Options) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for range 2 {
		if err := Down(ctx, o.Dir, o.Name); err != nil {
			t.Error(err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(o.Dir, "*"))
	tree, err := cgroup.OpenTree("")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range tree.Dirs() {
		groups, _ := filepath.Glob(filepath.Join(dir, groupPrefix+o.Name))
		left = append(left, groups...)
	}
	if len(left) > 0 {
		t.Errorf("the lab left %v", left)
	}
}

// sh runs a script on a machine and returns its output; the script must succeed.
func (l *Lab) sh(t *testing.T, host, script string) string {
	t.Helper()
	out, code := l.try(t, host, script)
	if code != 0 {
		t.Fatalf("on %s: %s: exit code %d: %s", host, script, code, out)
	}
	return strings.TrimSpace(out)
}

func (l *Lab) try(t *testing.T, host, script string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	code, err := l.Exec(ctx, host, []string{"sh", "-c", script}, nil, &out, &out)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), code
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := pollFor(ctx, what, func() error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func pings(l *Lab, t *testing.T, from, to string) bool {
	_, code := l.try(t, from, "ping -c1 -W1 "+to+" || busybox ping -c1 -W1 "+to)
	return code == 0
}

func TestMachinesAreApart(t *testing.T) {
	l := up(t, 2)
	if got := l.sh(t, "host1", "hostname; cat /etc/hostname"); got != "host1\nhost1" {
		t.Errorf("host name is %q", got)
	}
	if got := l.sh(t, "host1", "cat /proc/1/comm; echo $(ls -d /proc/[0-9]* | wc -l)"); !strings.Contains(got, "vzcluster") && !strings.Contains(got, "lab") {
		t.Errorf("PID 1 is %q", got)
	}
	l.sh(t, "host1", "echo mine > /var/lib/vzcluster/x && echo mine > /run/x && echo mine > /tmp/x && echo mine > /dev/shm/x")
	for _, dir := range []string{"/var/lib/vzcluster", "/run", "/tmp", "/dev/shm"} {
		if out, code := l.try(t, "host2", "cat "+dir+"/x"); code == 0 {
			t.Errorf("host2 sees host1's %s: %s", dir, out)
		}
		if _, err := os.Stat(dir + "/x"); err == nil {
			t.Errorf("the machine sees host1's %s", dir)
		}
	}
	if got := l.sh(t, "host1", "ls /sys/class/net"); got != "eth0\nlo" {
		t.Errorf("interfaces are %q", got)
	}
	if got := l.sh(t, "host1", "grep '^name: host1' /etc/vzcluster/agent.yaml; ls -A "+filepath.Dir(l.dir)+" 2>&1 || true"); !strings.HasPrefix(got, "name: host1") ||
		strings.Contains(got, "host2") {
		t.Errorf("configuration and labs' directory: %q", got)
	}
}

func TestCgroupsAreTheMachinesOwn(t *testing.T) {
	l := up(t, 1)
	tree, err := cgroup.OpenTree("")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range tree.Dirs() {
		l.sh(t, "host1", "mkdir -p "+dir+"/vz/101")
		if _, err := os.Stat(filepath.Join(dir, l.group("host1"), "vz/101")); err != nil {
			t.Errorf("what host1 makes in %s is not in its own subtree: %v", dir, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "vz/101")); err == nil {
			t.Errorf("host1 made a cgroup in the machine's root of %s", dir)
		}
	}
	want := "/"
	if tree.V2() {
		want = "/init"
	}
	for _, line := range strings.Split(l.sh(t, "host1", "cat /proc/1/cgroup /proc/self/cgroup"), "\n") {
		if _, path, _ := strings.Cut(line, ":"); !strings.HasSuffix(path, ":"+want) {
			t.Errorf("a process of host1 sees its cgroup as %s", line)
		}
	}
}

func TestExec(t *testing.T) {
	l := up(t, 1)
	var out, errOut bytes.Buffer
	code, err := l.Exec(t.Context(), Outside, []string{"sh", "-c", "cat; echo oops >&2; exit 7"}, strings.NewReader("hello"), &out, &errOut)
	if err != nil || code != 7 || out.String() != "hello" || errOut.String() != "oops\n" {
		t.Errorf("Exec = %d, %v, %q, %q", code, err, out.String(), errOut.String())
	}
	if _, code := l.try(t, Outside, "kill -9 $$"); code != 128+9 {
		t.Errorf("a killed command gave %d", code)
	}
	if _, err := l.Exec(t.Context(), Outside, []string{"no-such-command"}, nil, nil, nil); err == nil {
		t.Error("a command that does not exist ran")
	}
	if _, err := l.Exec(t.Context(), "host9", []string{"true"}, nil, nil, nil); !errors.Is(err, ErrNoMachine) {
		t.Errorf("Exec on an absent machine = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code, err := l.Exec(ctx, Outside, []string{"sleep", "1000"}, nil, nil, nil); err == nil && code == 0 {
		t.Error("a command outlived its context")
	}
}

func TestAgentComesBack(t *testing.T) {
	l := up(t, 1)
	pid := func() int {
		p, err := l.AgentPID("host1")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	eventually(t, "the agent does not start", func() bool { return pid() != 0 })
	first := pid()
	start := time.Now()
	if err := l.Kill(t.Context(), "host1", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the agent does not come back", func() bool { p := pid(); return p != 0 && p != first })
	if d := time.Since(start); d > time.Second {
		t.Errorf("the agent took %v to come back", d)
	}
	if err := l.Kill(t.Context(), "host1", true); err != nil {
		t.Fatal(err)
	}
	// Its init has taken notice when the pid file is gone; the pause before a restart is over with the next Exec and more.
	eventually(t, "the pid file stays", func() bool { _, err := os.Stat(filepath.Join(l.dir, "host1", pidFile)); return err != nil })
	l.sh(t, "host1", "sleep 0.5")
	if p := pid(); p != 0 {
		t.Errorf("an agent that shall stay down runs as %d", p)
	}
	if err := l.Start(t.Context(), "host1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the agent does not start again", func() bool { return pid() != 0 })
}

func TestOrphansOutliveTheAgent(t *testing.T) {
	l := up(t, 1)
	orphan := l.sh(t, "host1", "setsid sleep 1000 >/dev/null 2>&1 & echo $!")
	if err := l.Kill(t.Context(), "host1", false); err != nil {
		t.Fatal(err)
	}
	l.sh(t, "host1", "kill -0 "+orphan+" && kill -9 "+orphan)
	eventually(t, "init does not wait for orphans", func() bool { _, code := l.try(t, "host1", "test -e /proc/"+orphan); return code != 0 })
}

func TestPowerOff(t *testing.T) {
	l := up(t, 2)
	l.sh(t, "host1", "echo kept > /var/lib/vzcluster/x; echo lost > /run/x")
	// A container that is frozen must not keep the machine up.
	freezer := ""
	if tree, _ := cgroup.OpenTree(""); !tree.V2() {
		freezer = cgroup.DefaultRoot + "/freezer/vz/101"
		// Frozen before it has let go of our pipe, it would keep us waiting for its end.
		l.sh(t, "host1", "mkdir -p "+freezer+"; sleep 1000 >/dev/null 2>&1 & p=$!; until grep -q sleep /proc/$p/comm; do :; done; "+
			"echo $p > "+freezer+"/cgroup.procs && echo FROZEN > "+freezer+"/freezer.state")
	}
	if err := l.PowerOff(t.Context(), "host1"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Exec(t.Context(), "host1", []string{"true"}, nil, nil, nil); err == nil {
		t.Error("a command ran on a machine that is off")
	}
	if pings(l, t, "host2", l.Address("host1")) {
		t.Error("a machine that is off answers")
	}
	if err := l.PowerOff(t.Context(), "host1"); err == nil {
		t.Error("switched off what was off")
	}
	if err := l.Start(t.Context(), "host1"); err != nil {
		t.Fatal(err)
	}
	if got := l.sh(t, "host1", "cat /var/lib/vzcluster/x; ls /run/x 2>/dev/null || true"); got != "kept" {
		t.Errorf("after a power cut: %q", got)
	}
	if freezer != "" {
		if _, code := l.try(t, "host1", "test -e "+freezer); code == 0 {
			t.Error("a cgroup outlived the power cut")
		}
	}
	eventually(t, "the machine is back on the LAN", func() bool { return pings(l, t, "host2", l.Address("host1")) })
}

func TestPartition(t *testing.T) {
	l := up(t, 3)
	reach := func(from, to string, want bool) {
		t.Helper()
		if want { // who asked for a neighbour in vain asks again a second later
			eventually(t, from+" reaches "+to, func() bool { return pings(l, t, from, l.Address(to)) })
		} else if pings(l, t, from, l.Address(to)) {
			t.Errorf("%s reaches %s", from, to)
		}
	}
	reach("outside", "host1", true)
	if err := l.Partition("host1", "host2"); err != nil {
		t.Fatal(err)
	}
	reach("host1", "host2", true)
	reach("host1", "host3", false)
	reach("outside", "host3", true)
	if err := errors.Join(l.PowerOff(t.Context(), "host1"), l.Start(t.Context(), "host1")); err != nil {
		t.Fatal(err)
	}
	reach("host1", "host3", false)
	if st, err := l.Status(); err != nil || !st[0].Partitioned || st[2].Partitioned {
		t.Errorf("Status = %+v, %v", st, err)
	}
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	reach("host1", "host3", true)
	if !pings(l, t, "host1", "192.0.2.1") {
		t.Error("the gateway does not lead beyond the LAN")
	}
	if err := l.Partition("nosuch"); !errors.Is(err, ErrNoMachine) {
		t.Errorf("partitioned an absent machine: %v", err)
	}
}

func TestDownAfterCrashes(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, l *Lab)
	}{
		{"no state", func(t *testing.T, l *Lab) {
			if err := os.Remove(filepath.Join(l.dir, "lab.json")); err != nil {
				t.Fatal(err)
			}
		}},
		{"LAN and an init killed", func(t *testing.T, l *Lab) {
			l.state.LAN.kill()
			l.state.machine("host1").Proc.kill()
		}},
		{"state names others' processes", func(t *testing.T, l *Lab) {
			l.state.machine("host1").Proc = proc{os.Getpid(), 1}
			if err := l.state.save(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := up(t, 1)
			c.damage(t, l)
		})
	}
}

func TestUpTwice(t *testing.T) {
	l := up(t, 1)
	o := Options{Name: l.name, Dir: filepath.Dir(l.dir), Hosts: 1, Agent: []string{"/bin/sleep", "1000"}}
	if _, err := Up(t.Context(), o); err == nil {
		t.Fatal("a lab was made over a living one")
	}
	l.sh(t, "host1", "true")
	again, err := OpenAt(o.Dir, o.Name)
	if err != nil || len(again.Hosts()) != 1 {
		t.Fatalf("OpenAt = %v, %v", again, err)
	}
	if _, err := OpenAt(o.Dir, "nosuch"); !errors.Is(err, ErrNotUp) {
		t.Errorf("OpenAt of an absent lab = %v", err)
	}
}

func TestGivenUpInitEnds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{state: &state{Binary: exe}}
	c, err := l.spawn(initConfig{Role: roleHost}, unix.CLONE_NEWPID, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.close() // as when the maker dies
	eventually(t, "an init without a maker stays", func() bool { return !c.proc.alive() })
}

func TestBadOptions(t *testing.T) {
	for _, o := range []Options{{Name: "../x"}, {Hosts: -1}, {Hosts: 1000}, {RAM: -1}} {
		if err := o.fill(); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestV1Options(t *testing.T) {
	for in, want := range map[string]string{
		"rw,cpu,cpuacct": "cpu,cpuacct", "rw,xattr,name=systemd": "none,name=systemd", "rw,release_agent=/x,memory": "memory",
	} {
		if got := v1Options(in); got != want {
			t.Errorf("v1Options(%q) = %q, want %q", in, got, want)
		}
	}
}
