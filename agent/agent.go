// Package agent is one host's daemon: it joins the host to a cluster, answers the API, places containers while it is
// the leader, and makes the containers that the replicated state gives to this host real.
//
// It owns every goroutine of the daemon and the wiring of all other packages; it owns no decision about placement
// (scheduler), no rule of the cluster (cluster) and nothing of the kernel (runtime). The one rule for callers: what
// reads or writes the cluster goes through Apply, Read and State, never around them.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/cluster/trust"
)

// Agent is the daemon of one host.
type Agent struct {
	cfg  Config
	deps Deps
	log  *slog.Logger

	ready  chan struct{} // closed by Run when the socket answers
	done   chan struct{} // closed by Run when everything has ended
	cancel context.CancelFunc

	ctx    context.Context // of everything that Run started
	group  *errgroup.Group
	member atomic.Pointer[member] // nil: this host belongs to no cluster
	enter  sync.Mutex             // held while this host makes or joins a cluster
	left   atomic.Bool            // this host has left its cluster
}

// New makes an agent from a resolved configuration; nothing is started or written yet.
func New(cfg Config, deps Deps) (*Agent, error) {
	if cfg.Name == "" || cfg.Advertise == "" || cfg.Gossip.Advertise == "" {
		return nil, errors.New("the configuration lacks name or addresses; call Resolve first")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Engine == nil || deps.Templates == nil {
		return nil, errors.New("an agent needs an engine and a template store")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	deps.Timing = deps.Timing.withDefaults()
	a := &Agent{
		cfg: cfg, deps: deps, log: deps.Log.With("host", cfg.Name),
		ready: make(chan struct{}), done: make(chan struct{}),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a, nil
}

// Run serves until ctx ends, Close is called or something vital fails, and returns when all of the agent has ended.
// Containers go on running. It may be called once. ErrLeft: the host has left its cluster, and another agent is to run on.
func (a *Agent) Run(ctx context.Context) error {
	defer close(a.done)
	defer a.cancel()
	stop := context.AfterFunc(ctx, a.cancel)
	defer stop()
	for _, dir := range []string{a.cfg.DataDir, a.cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("the agent's directory cannot be made: %w", err)
		}
	}
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.deps.Engine.Setup(a.ctx); err != nil {
		return fmt.Errorf("this host cannot be prepared for containers: %w", err)
	}
	if err := a.forgetCluster(a.ctx); err != nil {
		return err
	}
	a.group, a.ctx = errgroup.WithContext(a.ctx)
	if f := a.deps.Figures; f != nil {
		if err := f.Ensure(a.ctx); err != nil {
			a.log.Warn("containers will see the host's figures in /proc", "error", err)
		}
		a.spawn("figures", f.Run)
	}
	socket, err := a.listenSocket()
	if err != nil {
		return err
	}
	a.serveHTTP(socket)
	if err := a.resume(); err != nil {
		a.cancel()
		return errors.Join(err, ignoreCanceled(a.group.Wait()))
	}
	close(a.ready)
	err = ignoreCanceled(a.group.Wait())
	if a.left.Load() {
		return errors.Join(ErrLeft, err)
	}
	return err
}

// Close ends a running agent and waits until it has.
func (a *Agent) Close() {
	a.cancel()
	<-a.done
}

// Ready is closed when the local socket answers and an agent with an identity serves its cluster again.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Name returns the host's name.
func (a *Agent) Name() string { return a.cfg.Name }

// Config returns the agent's configuration.
func (a *Agent) Config() Config { return a.cfg }

// Engine returns what makes this host's containers real.
func (a *Agent) Engine() Engine { return a.deps.Engine }

// Log returns the agent's logger.
func (a *Agent) Log() *slog.Logger { return a.log }

// SocketPath is where the agent answers locally.
func (a *Agent) SocketPath() string { return filepath.Join(a.cfg.RunDir, "agent.sock") }

// spawn runs something of the agent until its context ends; an error ends the agent.
func (a *Agent) spawn(what string, f func(ctx context.Context) error) {
	a.group.Go(func() error {
		if err := f(a.ctx); err != nil && a.ctx.Err() == nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

// resume makes an agent that has an identity a member again.
func (a *Agent) resume() error {
	id, err := trust.LoadIdentity(a.identityDir())
	if errors.Is(err, fs.ErrNotExist) {
		a.log.Info("this host belongs to no cluster yet", "next", "vzcluster init, or vzcluster join")
		return nil
	}
	if err != nil {
		return fmt.Errorf("this host's identity cannot be read: %w", err)
	}
	if id.Name != a.cfg.Name {
		return fmt.Errorf("this host joined its cluster as %q, not as %q; set name: %s in the configuration", id.Name, a.cfg.Name, id.Name)
	}
	m, err := a.startMember(id)
	if err != nil {
		return err
	}
	return m.resumeInit()
}

func (a *Agent) identityDir() string { return filepath.Join(a.cfg.DataDir, "identity") }

// lock keeps a second agent off the same data.
func (a *Agent) lock() (unlock func(), err error) {
	path := filepath.Join(a.cfg.DataDir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the agent's lock cannot be made: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another agent uses %s already; stop it or choose another data_dir", a.cfg.DataDir)
	}
	return func() { f.Close() }, nil
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
