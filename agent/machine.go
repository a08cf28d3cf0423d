package agent

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Resolve fills what the configuration leaves empty from the machine: host name, addresses, capacity, programs.
func (c Config) Resolve() (Config, error) {
	// First, as it cannot fail: the doctor looks at the programs also where no agent could start.
	c.Runtime.Runc = program(c.Runtime.Runc, "runc")
	c.Runtime.CRIU = program(c.Runtime.CRIU, "criu")
	c.Runtime.LXCFS = program(c.Runtime.LXCFS, "lxcfs")
	if c.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("this machine has no host name, set name in the configuration: %w", err)
		}
		name, _, _ = strings.Cut(name, ".")
		c.Name = strings.ToLower(name)
	}
	if c.Advertise == "" {
		host, err := c.ownAddress()
		if err != nil {
			return c, err
		}
		_, port, _ := net.SplitHostPort(c.Listen)
		c.Advertise = net.JoinHostPort(host, port)
	}
	if c.Gossip.Advertise == "" {
		host, _, _ := net.SplitHostPort(c.Advertise)
		_, port, _ := net.SplitHostPort(c.Gossip.Bind)
		c.Gossip.Advertise = net.JoinHostPort(host, port)
	}
	if len(c.Network.DNS) == 0 {
		c.Network.DNS = systemNameServers()
	}
	if err := c.resolveCapacity(); err != nil {
		return c, err
	}
	return c, c.Validate()
}

// ownAddress finds the address that the other hosts most likely reach.
func (c Config) ownAddress() (string, error) {
	if host, _, _ := net.SplitHostPort(c.Listen); host != "" {
		if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() {
			return host, nil
		}
	}
	if p, err := netip.ParsePrefix(c.Network.Address); err == nil {
		return p.Addr().String(), nil
	}
	names := []string{c.Network.Bridge, c.Network.Uplink}
	if all, err := net.Interfaces(); err == nil {
		for _, i := range all {
			names = append(names, i.Name)
		}
	}
	for _, name := range names {
		if host := interfaceAddress(name); host != "" {
			return host, nil
		}
	}
	return "", fmt.Errorf("this machine has no address that other hosts could reach; set advertise in the configuration")
}

func interfaceAddress(name string) string {
	i, err := net.InterfaceByName(name)
	if err != nil || i.Flags&net.FlagLoopback != 0 || i.Flags&net.FlagUp == 0 {
		return ""
	}
	addrs, err := i.Addrs()
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return ""
}

// systemNameServers are those that the machine itself asks; none when it asks none.
func systemNameServers() []string {
	raw, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			out = append(out, a.WithZone("").String())
		}
	}
	return out
}

// program prefers what the set-up step installed, then PATH.
func program(configured, name string) string {
	if configured != "" {
		return configured
	}
	if p := filepath.Join(setupBin, name); isExecutable(p) {
		return p
	}
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	return name
}

func isExecutable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// resolveCapacity measures the parts that are not configured.
func (c *Config) resolveCapacity() error {
	if c.Capacity.CPUs == 0 {
		c.Capacity.CPUs = float64(runtime.NumCPU())
	}
	if c.Capacity.RAM == 0 {
		total, err := memTotal()
		if err != nil {
			return fmt.Errorf("the machine's memory cannot be read, set capacity.ram: %w", err)
		}
		c.Capacity.RAM = Size(total - max(total/16, 256<<20))
	}
	if c.Capacity.Disk == 0 {
		dir := c.DataDir
		for ; dir != "/"; dir = filepath.Dir(dir) { // it may not have been made yet
			if _, err := os.Stat(dir); err == nil {
				break
			}
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			return fmt.Errorf("the space in %s cannot be read, set capacity.disk: %w", dir, err)
		}
		c.Capacity.Disk = Size(int64(fs.Bavail) * fs.Bsize / 10 * 9)
	}
	return nil
}

func memTotal() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) >= 2 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no MemTotal in /proc/meminfo")
}
