package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent"
	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/migrate"
	"github.com/vzcluster/vzcluster/runtime"
	"github.com/vzcluster/vzcluster/runtime/cgroup"
	"github.com/vzcluster/vzcluster/runtime/criu"
	"github.com/vzcluster/vzcluster/runtime/engine"
	"github.com/vzcluster/vzcluster/runtime/fault"
	"github.com/vzcluster/vzcluster/runtime/image"
	"github.com/vzcluster/vzcluster/runtime/inside"
	"github.com/vzcluster/vzcluster/runtime/lxcfs"
	"github.com/vzcluster/vzcluster/runtime/network"
	"github.com/vzcluster/vzcluster/runtime/orphans"
	"github.com/vzcluster/vzcluster/runtime/rootfs"
	"github.com/vzcluster/vzcluster/runtime/runc"
	"github.com/vzcluster/vzcluster/runtime/storage"
)

const defaultConfig = "/etc/vzcluster/agent.yaml"

// The agent holds little that lives long, so a small heap costs little time.
const (
	gcPercent   = 50
	memoryLimit = 56 << 20 // bytes, soft
)

func agentCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "agent", Usage: "run the agent of this host",
		Description: "It runs until it is told to end (SIGTERM); containers go on without it.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: defaultConfig, Usage: "read `FILE`; the default one may be absent"},
			&cli.StringFlag{Name: "fault-dir", Hidden: true, Usage: "for tests: do at each step what the files in `DIR` say"},
			&cli.BoolFlag{Name: "print-config", Usage: "print every key with its default and what it means, and exit"},
		},
		Action: func(c *cli.Context) error {
			if err := countArgs(c, 0, 0); err != nil {
				return err
			}
			if c.Bool("print-config") {
				fmt.Fprint(e.stdout, agent.ExampleConfig())
				return nil
			}
			cfg, err := agentConfig(c)
			if err != nil {
				return err
			}
			for {
				err := runAgent(c.Context, cfg, c.String("config"), c.String("fault-dir"))
				if !errors.Is(err, agent.ErrLeft) || c.Context.Err() != nil {
					return err
				}
			}
		},
	}
}

// agentConfig reads the file and fills in what it leaves to the machine.
func agentConfig(c *cli.Context) (agent.Config, error) {
	cfg, err := agent.LoadConfig(c.String("config"))
	if errors.Is(err, fs.ErrNotExist) && !c.IsSet("config") {
		cfg, err = agent.DefaultConfig(), nil
	}
	if err == nil {
		cfg, err = cfg.Resolve()
	}
	if err != nil {
		return cfg, api.Errorf(api.CodeUsage, "", "%v", err)
	}
	return cfg, nil
}

// runAgent runs the agent of this host with a configuration; file is where that came from. Faults is the folder of a
// fault.Injector, empty outside of tests.
func runAgent(ctx context.Context, cfg agent.Config, file, faults string) error {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	if os.Geteuid() != 0 {
		return api.Errorf(api.CodeDenied, "run it as root", "the agent makes containers, which only root can")
	}
	log := cfg.Log.Logger()
	var harm *fault.Injector
	if faults != "" {
		var err error
		if harm, err = fault.New(faults); err != nil {
			return err
		}
		harm.Host = cfg.Name
	}
	deps, err := agentDeps(cfg, log, harm)
	if err != nil {
		return err
	}
	deps.Doctor = hostDoctor(cfg, file)
	a, err := agent.New(cfg, deps)
	if err != nil {
		return err
	}
	go func() {
		<-a.Ready()
		_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // without systemd nobody wants to know
	}()
	if err := orphans.Adopt(); err != nil {
		return err
	}
	go new(orphans.Reaper).Run(ctx)
	log.Info("the agent begins", "host", cfg.Name, "advertise", cfg.Advertise, "version", deps.Version)
	return a.Run(ctx)
}

// agentDeps is where an agent gets the real host under it; harm is nil outside of tests.
func agentDeps(cfg agent.Config, log *slog.Logger, harm *fault.Injector) (agent.Deps, error) {
	// Containers' users must be able to pass through it to their roots.
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return agent.Deps{}, fmt.Errorf("the agent's directory cannot be made: %w", err)
	}
	images, err := image.Open(filepath.Join(cfg.DataDir, "templates"))
	if err != nil {
		return agent.Deps{}, err
	}
	e, err := newEngine(cfg, images, log)
	if err != nil {
		return agent.Deps{}, err
	}
	deps := agent.Deps{
		Engine: e, Templates: images, Resolver: resolver(cfg), Log: log, Version: version().Version,
	}
	var hook migrate.Hook
	if harm != nil {
		hook = func(p migrate.Point, _ string) error { return harm.At(string(p)) }
		deps.Raft.At = harm.At
		e.Roots, e.Network, e.Cgroups, e.OCI = harm.Roots(e.Roots), harm.Network(e.Network), harm.Cgroups(e.Cgroups), harm.OCI(e.OCI)
		e.Checkpoints = &criu.Criu{Binary: cfg.Runtime.CRIU, At: harm.At}
	}
	deps.Migrator = agent.NewMigrator(e, hook)
	if f := figures(cfg, e, log); f != nil {
		deps.Figures = f
	}
	return deps, nil
}

// newEngine puts the adapters of this host together.
func newEngine(cfg agent.Config, images *image.Store, log *slog.Logger) (*engine.Engine, error) {
	containers := filepath.Join(cfg.DataDir, "containers")
	store, err := storage.Open(storage.Config{
		Driver: cfg.Storage.Driver, Dir: containers, Pool: cfg.StoragePool(), Size: int64(cfg.Storage.Size),
	})
	if err != nil {
		return nil, err
	}
	roots, err := rootfs.New(rootfs.Config{Dir: containers, Storage: store, Log: log})
	if err != nil {
		return nil, err
	}
	pool, err := netip.ParsePrefix(cfg.Network.Pool)
	if err != nil {
		return nil, err
	}
	nics, err := network.New(network.Config{
		Bridge: cfg.Network.Bridge, Uplink: cfg.Network.Uplink, Address: cfg.Network.Address,
		Local: localAddress(cfg), Pool: pool, NAT: cfg.Network.NAT, Log: log,
	})
	if err != nil {
		return nil, err
	}
	cgroups, err := cgroup.New(cgroup.Config{Parent: cfg.Runtime.CgroupParent, Disk: cfg.DataDir})
	if err != nil {
		return nil, err
	}
	tree, err := cgroup.OpenTree("")
	if err != nil {
		return nil, err
	}
	return &engine.Engine{
		Images: images, Roots: roots, Network: nics, Cgroups: cgroups, Dir: containers,
		OCI: runc.New(runc.Config{
			Binary: cfg.Runtime.Runc, State: filepath.Join(cfg.RunDir, "runc"), Bundles: containers, Unified: tree.V2(),
			Figures: runc.Figures{Dir: figuresDir(cfg), Files: lxcfs.Files()},
		}),
		Checkpoints: &criu.Criu{Binary: cfg.Runtime.CRIU},
		Inside:      func(root string, uids uint32) (runtime.Inside, error) { return inside.Open(root, uids) },
	}, nil
}

// figures shows containers their own limits, if there is a program for it.
func figures(cfg agent.Config, e *engine.Engine, log *slog.Logger) *lxcfs.LXCFS {
	if _, err := exec.LookPath(cfg.Runtime.LXCFS); err != nil {
		log.Warn("there is no lxcfs: containers see the host's figures in /proc", "remedy", "vzcluster setup")
		return nil
	}
	return &lxcfs.LXCFS{
		Binary: cfg.Runtime.LXCFS, Dir: figuresDir(cfg), Log: log,
		Adopt: func(pid int) error {
			tree, err := cgroup.OpenTree("")
			if err != nil {
				return err
			}
			path := "/" + cfg.Runtime.CgroupParent + "/lxcfs" // not the agent's: systemd ends that with it
			return errors.Join(tree.Make(path), tree.Add(path, pid))
		},
		Inits: e.Inits,
	}
}

func figuresDir(cfg agent.Config) string { return filepath.Join(cfg.RunDir, "lxcfs") }

// localAddress is where other hosts send what goes through an overlay.
func localAddress(cfg agent.Config) netip.Addr {
	host, _, err := net.SplitHostPort(cfg.Advertise)
	if err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{} // a name: the kernel chooses
	}
	return a.Unmap()
}

// resolver serves the containers' names on the bridge's address.
func resolver(cfg agent.Config) agent.Resolver {
	host, _, _ := net.SplitHostPort(cfg.Advertise)
	if p, err := netip.ParsePrefix(cfg.Network.Address); err == nil {
		host = p.Addr().String()
	}
	return func(ctx context.Context, lookup func(string) []string) error {
		return network.ServeDNS(ctx, network.DNS{
			Addr: net.JoinHostPort(host, "53"), Domain: agent.DNSDomain, Upstream: cfg.Network.DNS,
			Lookup: func(name string) (found []netip.Addr) {
				for _, text := range lookup(name) {
					if a, err := netip.ParseAddr(text); err == nil {
						found = append(found, a)
					}
				}
				return found
			},
		})
	}
}
