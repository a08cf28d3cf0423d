package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// Options says which lab to make.
type Options struct {
	Hosts  int
	Binary string            // vzcluster, to be taken along
	Memory int64             // of each machine
	Cache  string            // of the image; empty: DefaultCache
	Ahead  []time.Duration   // how far each host's wall clock is ahead of this machine's
	Tell   func(step string) // progress; may be nil
}

// Lab is a cluster of machines.
type Lab struct {
	dir      string
	lock     *os.File // of the folder, as long as the lab is in use
	lan      *lan
	machines []*Machine
}

// Up boots the machines and makes one cluster of them. The first host is switched on first, and alone until it answers,
// so that the kernels' clocks differ.
func Up(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := Able(); err != nil {
		return nil, err
	}
	if o.Cache == "" {
		o.Cache = DefaultCache
	}
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	o.Tell("image")
	image, err := Ensure(ctx, o.Cache)
	if err != nil {
		return nil, err
	}
	l := &Lab{}
	if l.dir, l.lock, err = newDir(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Down())
		}
	}()
	for n := 1; n <= o.Hosts; n++ {
		m := &Machine{Name: "host" + strconv.Itoa(n), Address: hostAddress(n), index: n}
		m.dir = filepath.Join(l.dir, m.Name)
		if n <= len(o.Ahead) {
			m.ahead = o.Ahead[n-1]
		}
		if err := os.Mkdir(m.dir, 0o700); err != nil {
			return nil, err
		}
		l.machines = append(l.machines, m)
	}
	o.Tell("programs")
	if err := l.makePayload(ctx, o.Binary); err != nil {
		return nil, err
	}
	if l.lan, err = newLAN(); err != nil {
		return nil, err
	}
	o.Tell("boot")
	if err := l.bootAll(ctx, image, o.Memory); err != nil {
		return nil, err
	}
	o.Tell("cluster")
	return l, l.form(ctx)
}

// newDir makes a lab's folder, and removes those that labs have left whose process was killed.
func newDir() (string, *os.File, error) {
	const pattern = "/var/tmp/vzvm-*"
	old, err := filepath.Glob(pattern)
	if err != nil {
		return "", nil, err
	}
	for _, dir := range old {
		if lock, err := lockDir(dir); err == nil {
			err = os.RemoveAll(dir)
			lock.Close()
			if err != nil {
				return "", nil, fmt.Errorf("remove what a former lab left: %w", err)
			}
		}
	}
	dir, err := os.MkdirTemp(filepath.Dir(pattern), filepath.Base(pattern))
	if err != nil {
		return "", nil, err
	}
	lock, err := lockDir(dir)
	return dir, lock, err
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// bootAll switches the first machine on, and the others when it can be reached: so its clocks are far ahead of theirs,
// and a host of few cores emulates not all at once.
func (l *Lab) bootAll(ctx context.Context, image Image, memory int64) error {
	for n, m := range l.machines {
		if err := m.boot(image, l.payload(), memory, l.lan); err != nil {
			return err
		}
		if n == 0 {
			if err := m.connect(ctx, l.dir, l.lan); err != nil {
				return err
			}
		}
	}
	var g errgroup.Group
	for _, m := range l.machines[1:] {
		g.Go(func() error { return m.connect(ctx, l.dir, l.lan) })
	}
	return g.Wait()
}

// Machines are the hosts, host1 first.
func (l *Lab) Machines() []*Machine { return l.machines }

// Dial opens a TCP connection from a third place: neither host, on their LAN.
func (l *Lab) Dial(ctx context.Context, address string) (net.Conn, error) {
	return l.lan.dial(ctx, address)
}

// Client returns a client of a machine's agent.
func (m *Machine) Client() (*api.Client, error) { return api.NewClient("unix://"+m.Socket(), nil) }

// form makes one cluster of all hosts and waits until it has its voters.
func (l *Lab) form(ctx context.Context) error {
	first, err := l.machines[0].Client()
	if err != nil {
		return err
	}
	defer first.Close()
	for _, m := range l.machines {
		if err := m.ready(ctx); err != nil {
			return err
		}
	}
	if _, err := first.Init(ctx, api.InitRequest{}); err != nil {
		return fmt.Errorf("make the cluster: %w", err)
	}
	for _, m := range l.machines[1:] {
		if err := l.join(ctx, first, m); err != nil {
			return err
		}
	}
	return l.machines[0].until(ctx, func(st api.Status) bool {
		voters := 0
		for _, h := range st.Hosts {
			if h.Voter && h.Alive {
				voters++
			}
		}
		return len(st.Hosts) == len(l.machines) && voters == cluster.VotersFor(len(l.machines)) && st.Leader != ""
	})
}

// join tries again: on a busy machine an emulated host may be too slow for what an agent waits for.
func (l *Lab) join(ctx context.Context, first *api.Client, m *Machine) error {
	c, err := m.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		token, err := first.CreateToken(ctx, 10*time.Minute)
		if err == nil {
			_, err = c.Join(ctx, api.JoinRequest{Address: l.machines[0].Address + ":7443", Token: token.Token})
		}
		if err == nil {
			return nil
		}
		if st, serr := c.Status(ctx); serr == nil && st.Leader != "" {
			return nil // it had only taken longer
		}
		if perr := m.pause(ctx, time.Second); perr != nil {
			return errors.Join(fmt.Errorf("%s cannot join: %w", m.Name, err), perr)
		}
	}
}

// ready waits until the agent answers.
func (m *Machine) ready(ctx context.Context) error {
	return m.until(ctx, func(api.Status) bool { return true })
}

func (m *Machine) until(ctx context.Context, ok func(api.Status) bool) error {
	c, err := m.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		st, err := c.Status(ctx)
		if err == nil && ok(st) {
			return nil
		}
		if perr := m.pause(ctx, 100*time.Millisecond); perr != nil {
			return errors.Join(perr, err)
		}
	}
}

// Down ends the machines and removes everything of the lab but the image.
func (l *Lab) Down() error {
	var errs []error
	for _, m := range l.machines {
		errs = append(errs, m.end())
	}
	if l.lan != nil {
		errs = append(errs, l.lan.close())
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir), l.lock.Close())...)
}
