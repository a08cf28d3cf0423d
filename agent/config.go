package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/vzcluster/vzcluster/cluster"
)

// Config is everything that can be set in agent.yaml. The doc tags are what `vzcluster agent --print-config` shows.
type Config struct {
	Name      string            `yaml:"name" doc:"name of this host in the cluster; empty: the machine's host name"`
	Listen    string            `yaml:"listen" doc:"address of API, raft and migration, one TCP port"`
	Advertise string            `yaml:"advertise" doc:"host:port at which the other hosts reach it; empty: first address of the bridge or the uplink"`
	Gossip    GossipConfig      `yaml:"gossip" doc:"how hosts notice each other, one UDP and TCP port"`
	DataDir   string            `yaml:"data_dir" doc:"replicated state, templates and containers' layers"`
	RunDir    string            `yaml:"run_dir" doc:"agent.sock and what does not outlive a reboot"`
	Group     string            `yaml:"socket_group" doc:"members of this group may use agent.sock, besides root"`
	Labels    map[string]string `yaml:"labels" doc:"labels of this host; the one named zone spreads the voters over zones"`
	Capacity  CapacityConfig    `yaml:"capacity" doc:"what this host offers to containers"`
	SoftDirty bool              `yaml:"soft_dirty" doc:"while containers move, have the kernel mark the pages that they write, if it can; new, therefore off"`
	Keep      KeepConfig        `yaml:"keep" doc:"private layers of containers that have left, kept for a quick return"`
	HooksDir  string            `yaml:"hooks_dir" doc:"programs that switch hosts off and on, or maintain this one, and files of passwords for that"`
	Trash     TrashConfig       `yaml:"trash" doc:"containers that were destroyed, kept in case that was a mistake"`
	Storage   StorageConfig     `yaml:"storage" doc:"where private layers lie; to change the driver, move the containers away first"`
	Shutdown  string            `yaml:"shutdown" doc:"what vzcluster shutdown does to what runs here: suspend, or stop what cannot be; or stop"`
	Network   NetworkConfig     `yaml:"network" doc:"the bridge that containers are plugged into, and their addresses"`
	Runtime   RuntimeConfig     `yaml:"runtime" doc:"programs and cgroup of the containers"`
	Log       LogConfig         `yaml:"log" doc:"the agent's own log, on stderr"`
}

// GossipConfig says where gossip listens.
type GossipConfig struct {
	Bind      string `yaml:"bind" doc:"address to listen on"`
	Advertise string `yaml:"advertise" doc:"host:port for the others; empty: host of advertise, port of bind"`
}

// CapacityConfig is what the host offers; zero parts are taken from the machine minus a reserve.
type CapacityConfig struct {
	CPUs float64 `yaml:"cpus" doc:"cores; 0: all of the machine"`
	RAM  Size    `yaml:"ram" doc:"memory, as 16G; 0: the machine's less 1/16 and at least 256M"`
	Disk Size    `yaml:"disk" doc:"space for private layers, as 200G; 0: nine tenths of what is free in data_dir"`
}

// KeepConfig bounds what is kept of containers that have left this host. It takes its room from the tenth of the disk that is
// not offered to containers.
type KeepConfig struct {
	Minutes int  `yaml:"minutes" doc:"how long; 0: nothing is kept"`
	Disk    Size `yaml:"disk" doc:"space that all of them together may take; the oldest go first"`
}

// TrashConfig bounds how long destroyed containers can be brought back. What counts is that of the host that leads.
type TrashConfig struct {
	Hours int `yaml:"hours" doc:"how long, with their disk still reserved; 0: what is destroyed is gone"`
}

// StorageConfig says how private layers are kept.
type StorageConfig struct {
	Driver string `yaml:"driver" doc:"overlay: folders on any file system, --disk is only reserved; image: an ext4 image for each container, --disk is a limit; btrfs: a pool, --disk is a limit, snapshots and clones are instant"`
	Pool   string `yaml:"pool" doc:"btrfs: device or file that the pool lies in; empty: the file pool.btrfs in data_dir"`
	Size   Size   `yaml:"size" doc:"btrfs: how large the file is made, or grown to, as 200G; 0: nine tenths of what is free"`
}

// NetworkConfig describes the containers' network on this host; the pool is used by init only.
type NetworkConfig struct {
	Bridge    string   `yaml:"bridge" doc:"bridge of the containers; made when absent"`
	Uplink    string   `yaml:"uplink" doc:"interface that is put into the bridge; empty: none"`
	Address   string   `yaml:"address" doc:"CIDR address of this host on the bridge; empty: leave as it is"`
	Pool      string   `yaml:"pool" doc:"init: CIDR that containers' addresses come from"`
	PoolFirst string   `yaml:"pool_first" doc:"init: first address that a container may have; empty: the pool's middle"`
	PoolLast  string   `yaml:"pool_last" doc:"init: the last one; empty: the pool's end"`
	Gateway   string   `yaml:"gateway" doc:"init: default route of containers; empty: none"`
	NAT       bool     `yaml:"nat" doc:"masquerade what containers send beyond the pool"`
	DNS       []string `yaml:"dns" doc:"name servers behind the cluster's own; empty: those of /etc/resolv.conf"`
}

// RuntimeConfig says which programs make containers.
type RuntimeConfig struct {
	Runc         string `yaml:"runc" doc:"empty: the one that set-up installed, else from PATH"`
	CRIU         string `yaml:"criu" doc:"empty: the one that set-up installed, else from PATH"`
	LXCFS        string `yaml:"lxcfs" doc:"shows containers their own limits in /proc; empty: the one that set-up installed, else from PATH; none: not at all"`
	CgroupParent string `yaml:"cgroup_parent" doc:"containers live in /<cgroup_parent>/<CTID>, the same on every host"`
}

// LogConfig says what is logged.
type LogConfig struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error"`
	Format string `yaml:"format" doc:"text or json"`
}

// minPool is the smallest btrfs pool that is worth it, in bytes.
const minPool = 256 << 20

// StoragePool is the device or file of the btrfs pool.
func (c Config) StoragePool() string {
	if c.Storage.Pool != "" {
		return c.Storage.Pool
	}
	return filepath.Join(c.DataDir, "pool.btrfs")
}

// setupBin is where the set-up step puts runc and CRIU.
const setupBin = "/var/cache/vzcluster/bin"

// DefaultConfig returns every default. Fields left empty are filled from the machine by Resolve.
func DefaultConfig() Config {
	return Config{
		Listen:  ":7443",
		Gossip:  GossipConfig{Bind: ":7946"},
		DataDir: "/var/lib/vzcluster",
		RunDir:  "/run/vzcluster",
		Group:   "vzcluster",
		Labels:  map[string]string{},
		Keep:    KeepConfig{Minutes: 10, Disk: 8 << 30},
		Trash:   TrashConfig{Hours: 24}, Shutdown: shutdownSuspend,
		Storage:  StorageConfig{Driver: "overlay"},
		Network:  NetworkConfig{Bridge: "vzbr0", Pool: "10.77.0.0/16", DNS: []string{}},
		Runtime:  RuntimeConfig{CgroupParent: "vz"},
		Log:      LogConfig{Level: "info", Format: "text"},
		HooksDir: defaultHooks,
	}
}

// LoadConfig reads a file over the defaults. Unknown keys are refused; an absent file is an error.
func LoadConfig(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("the configuration cannot be read: %w", err)
	}
	c, err := ParseConfig(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads YAML over the defaults and checks it. Errors name the key and its line.
func ParseConfig(raw []byte) (Config, error) {
	c := DefaultConfig()
	if len(strings.TrimSpace(string(raw))) > 0 {
		if err := yaml.UnmarshalWithOptions(raw, &c, yaml.DisallowUnknownField()); err != nil {
			return Config{}, configError(err)
		}
	}
	return c, c.Validate()
}

// configError turns what the YAML reader found into one sentence.
func configError(err error) error {
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) && unknown.Token != nil {
		return fmt.Errorf("unknown key %q in line %d; `vzcluster agent --print-config` lists every key",
			unknown.Token.Value, unknown.Token.Position.Line)
	}
	var y yaml.Error
	if errors.As(err, &y) {
		line := 0
		if t := y.GetToken(); t != nil {
			line = t.Position.Line
		}
		return fmt.Errorf("line %d: %s", line, y.GetMessage())
	}
	return err
}

// Validate checks relations between the fields; it looks at nothing outside.
func (c Config) Validate() error {
	if c.Name != "" {
		if err := cluster.CheckName("host", c.Name); err != nil {
			return fmt.Errorf("name: %w", err)
		}
	}
	for key, addr := range map[string]string{
		"listen": c.Listen, "advertise": c.Advertise, "gossip.bind": c.Gossip.Bind, "gossip.advertise": c.Gossip.Advertise,
	} {
		if err := checkAddress(key, addr); err != nil {
			return err
		}
	}
	for key, dir := range map[string]string{"data_dir": c.DataDir, "run_dir": c.RunDir, "hooks_dir": c.HooksDir} {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("%s: %q is not an absolute path", key, dir)
		}
	}
	if c.Capacity.CPUs < 0 || c.Capacity.RAM < 0 || c.Capacity.Disk < 0 {
		return errors.New("capacity: no part may be negative")
	}
	if !slices.Contains([]string{"overlay", "image", "btrfs"}, c.Storage.Driver) {
		return fmt.Errorf("storage.driver: %q is none of overlay, image, btrfs", c.Storage.Driver)
	}
	if c.Storage.Pool != "" && !filepath.IsAbs(c.Storage.Pool) {
		return fmt.Errorf("storage.pool: %q is not an absolute path", c.Storage.Pool)
	}
	if c.Storage.Size < 0 || c.Storage.Size > 0 && c.Storage.Size < minPool {
		return fmt.Errorf("storage.size: a pool needs %s at least", cluster.Bytes(minPool))
	}
	if c.Keep.Minutes < 0 || c.Keep.Disk < 0 {
		return errors.New("keep: no part may be negative")
	}
	if c.Trash.Hours < 0 {
		return errors.New("trash.hours must not be negative")
	}
	if c.Shutdown != shutdownSuspend && c.Shutdown != shutdownStop {
		return fmt.Errorf("shutdown: %q is neither suspend nor stop", c.Shutdown)
	}
	if c.Network.Bridge == "" {
		return errors.New("network.bridge must not be empty")
	}
	if c.Runtime.CgroupParent == "" || strings.ContainsAny(c.Runtime.CgroupParent, "/.") {
		return fmt.Errorf("runtime.cgroup_parent: %q must be one plain name without slashes and dots", c.Runtime.CgroupParent)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		return fmt.Errorf("log.level: %q is none of debug, info, warn, error", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return fmt.Errorf("log.format: %q is neither text nor json", c.Log.Format)
	}
	if c.Network.Address != "" {
		if _, err := netip.ParsePrefix(c.Network.Address); err != nil {
			return fmt.Errorf("network.address: %q is not an address with prefix length, as 10.77.0.1/16", c.Network.Address)
		}
	}
	return checkPool(c.Network)
}

func checkAddress(key, addr string) error {
	if addr == "" {
		if key == "listen" || key == "gossip.bind" {
			return fmt.Errorf("%s must not be empty", key)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s: %q is not host:port", key, addr)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("%s: %q has no port between 1 and 65535", key, addr)
	}
	if strings.HasSuffix(key, "advertise") && host == "" {
		return fmt.Errorf("%s: %q names no host; the others must be able to reach it", key, addr)
	}
	return nil
}

func checkPool(n NetworkConfig) error {
	pool, err := netip.ParsePrefix(n.Pool)
	if err != nil {
		return fmt.Errorf("network.pool: %q is not a CIDR, as 10.77.0.0/16", n.Pool)
	}
	for key, s := range map[string]string{"pool_first": n.PoolFirst, "pool_last": n.PoolLast, "gateway": n.Gateway} {
		if s == "" {
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil || !pool.Contains(a) {
			return fmt.Errorf("network.%s: %q is not an address of the pool %s", key, s, n.Pool)
		}
	}
	for _, s := range n.DNS {
		if _, err := netip.ParseAddr(s); err != nil {
			return fmt.Errorf("network.dns: %q is not an address", s)
		}
	}
	return nil
}

// Logger makes the agent's logger.
func (l LogConfig) Logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // checked by Validate
	o := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

// Resources returns the configured capacity.
func (c CapacityConfig) Resources() cluster.Resources {
	return cluster.Resources{MilliCPU: int64(c.CPUs * 1000), RAM: int64(c.RAM), Disk: int64(c.Disk)}
}

// ExampleConfig returns every key with its default and what it means, as a file that ParseConfig reads.
func ExampleConfig() string {
	var b strings.Builder
	b.WriteString("# /etc/vzcluster/agent.yaml: every key with its default. An unknown key is refused.\n")
	printConfig(&b, reflect.ValueOf(DefaultConfig()), "")
	return b.String()
}

func printConfig(b *strings.Builder, v reflect.Value, indent string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		fmt.Fprintf(b, "%s# %s\n%s%s:", indent, f.Tag.Get("doc"), indent, f.Tag.Get("yaml"))
		switch fv := v.Field(i); fv.Kind() {
		case reflect.Struct:
			b.WriteString("\n")
			printConfig(b, fv, indent+"  ")
		case reflect.Map:
			b.WriteString(" {}\n")
		case reflect.Slice:
			b.WriteString(" []\n")
		case reflect.String:
			fmt.Fprintf(b, " %q\n", fv.String())
		default:
			fmt.Fprintf(b, " %v\n", fv.Interface())
		}
	}
}

// Size is an amount of bytes that is written with K, M, G or T (powers of 1024) or as a plain number.
type Size int64

// UnmarshalYAML reads "512M" or 536870912.
func (s *Size) UnmarshalYAML(raw []byte) error {
	text := strings.Trim(strings.TrimSpace(string(raw)), `"'`)
	unit := int64(1)
	if n := len(text); n > 0 {
		if p := strings.IndexByte("KMGT", text[n-1]&^0x20); p >= 0 {
			unit, text = 1<<(10*(p+1)), text[:n-1]
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < 0 || f*float64(unit) > 1<<62 {
		return fmt.Errorf("%q is not a size, as 512M or 4G", strings.TrimSpace(string(raw)))
	}
	*s = Size(f * float64(unit))
	return nil
}
