package vm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"github.com/vzcluster/vzcluster/agent"
)

// start is what a machine runs at boot.
//
//go:embed start.sh
var start string

// setupCache is where set-up has put CRIU and runc. They are found under the same path inside: the private CRIU's loader
// is written into it.
const setupCache = "/var/cache/vzcluster"

// makePayload writes the second disk, which all machines share read-only: our binary, CRIU, runc, keys and every host's
// configuration.
func (l *Lab) makePayload(ctx context.Context, binary string) error {
	dir := filepath.Join(l.dir, "payload")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "hosts"), 0o755), os.MkdirAll(filepath.Join(dir, "cache"), 0o755)); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(setupCache, "criu")); err != nil {
		return fmt.Errorf("%w: there is no CRIU that can be taken along, only `vzcluster setup` makes one: %w", ErrUnable, err)
	}
	for from, to := range map[string]string{binary: "vzcluster", setupCache + "/bin": "cache/bin", setupCache + "/criu": "cache/criu"} {
		if out, err := exec.CommandContext(ctx, "cp", "-a", from, filepath.Join(dir, to)).CombinedOutput(); err != nil {
			return fmt.Errorf("copy %s for the machines: %w: %s", from, err, out)
		}
	}
	for _, key := range []string{filepath.Join(dir, "host_key"), l.key()} {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			return fmt.Errorf("make a key for the machines: %w: %s", err, out)
		}
	}
	public, err := os.ReadFile(l.key() + ".pub")
	if err != nil {
		return err
	}
	host, err := os.ReadFile(filepath.Join(dir, "host_key.pub"))
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"payload/start": []byte(start), "payload/authorized_keys": public,
		"known_hosts": append([]byte("* "), host...), // one key for all machines of this lab
	}
	for _, m := range l.machines {
		if files["payload/hosts/"+m.Name+".yaml"], err = yaml.Marshal(config(m)); err != nil {
			return fmt.Errorf("write the configuration of %s: %w", m.Name, err)
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(l.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", dir, l.payload(), "512M").CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the disk with our programs: %w: %s", err, out)
	}
	return os.RemoveAll(dir)
}

func (l *Lab) payload() string { return filepath.Join(l.dir, "payload.img") }
func (l *Lab) key() string     { return filepath.Join(l.dir, "key") }

// declaredDisk is what each host offers: containers reserve gigabytes that they do not use.
const declaredDisk = 100 << 30

// config is agent.yaml of a host.
func config(m *Machine) agent.Config {
	c := agent.DefaultConfig()
	c.Name, c.Listen, c.Advertise = m.Name, m.Address+":7443", m.Address+":7443"
	c.Gossip = agent.GossipConfig{Bind: m.Address + ":7946", Advertise: m.Address + ":7946"}
	c.SoftDirty = true
	c.Capacity.Disk = agent.Size(declaredDisk)
	c.Network.Uplink, c.Network.Pool, c.Network.Gateway = "eth0", pool, Gateway
	c.Network.PoolFirst, c.Network.PoolLast = poolFirst, poolLast
	return c
}
