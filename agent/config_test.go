package agent

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExampleIsTheDefault(t *testing.T) {
	c, err := ParseConfig([]byte(ExampleConfig()))
	must(t, err)
	if diff := cmp.Diff(DefaultConfig(), c); diff != "" {
		t.Errorf("what --print-config shows is not the default (-default +read):\n%s", diff)
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, path string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Tag.Get("yaml") == "" || f.Tag.Get("doc") == "" {
				t.Errorf("%s%s lacks its key or what it means", path, f.Name)
			}
			if f.Type.Kind() == reflect.Struct {
				walk(f.Type, path+f.Name+".")
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte("name: host1\ncapacity:\n  ram: 1.5G\n  cpus: 0.5\nnetwork: {pool: 192.0.2.0/24, gateway: 192.0.2.1}\n"))
	must(t, err)
	if r := c.Capacity.Resources(); r.RAM != 3<<29 || r.MilliCPU != 500 {
		t.Errorf("capacity %+v, want 1.5G and half a core", r)
	}
	if c.Listen != ":7443" {
		t.Errorf("listen is %q, want the default", c.Listen)
	}
}

func TestBadConfig(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":           {"name: a\nlisen: :1\n", `unknown key "lisen" in line 2`},
		"unknown nested key":    {"name: a\ngossip:\n  bindd: :1\n", `unknown key "bindd" in line 3`},
		"not YAML":              {"name: [a\n", "line "},
		"wrong type":            {"labels: 3\n", "line 1"},
		"size":                  {"capacity: {ram: lots}\n", `"lots" is not a size`},
		"name":                  {"name: not a name\n", "name: "},
		"no port":               {"listen: 192.0.2.1\n", "listen: "},
		"nobody can reach it":   {"advertise: :7443\n", "names no host"},
		"relative directory":    {"data_dir: data\n", "data_dir: "},
		"pool":                  {"network: {pool: everything}\n", "network.pool: "},
		"gateway not in pool":   {"network: {gateway: 192.0.2.1}\n", "not an address of the pool"},
		"cgroup with a slash":   {"runtime: {cgroup_parent: a/b}\n", "cgroup_parent"},
		"level":                 {"log: {level: loud}\n", "log.level"},
		"address of the host":   {"network: {address: 10.77.0.1}\n", "prefix length"},
		"name server":           {"network: {dns: [dns.example]}\n", "network.dns"},
		"negative":              {"capacity: {cpus: -1}\n", "negative"},
		"bridge missing":        {"network: {bridge: ''}\n", "network.bridge"},
		"gossip without a port": {"gossip: {bind: 192.0.2.1}\n", "gossip.bind"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseConfig([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is more than a sentence:\n%v", err)
			}
		})
	}
}

func TestLoadConfigNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	must(t, os.WriteFile(path, []byte("nam: a\n"), 0o600))
	if _, err := LoadConfig(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
}

func TestResolveFillsInTheMachine(t *testing.T) {
	c := DefaultConfig()
	c.Name, c.Network.Address, c.DataDir = "host1", "10.77.0.9/16", filepath.Join(t.TempDir(), "not", "made")
	c.Listen, c.Gossip.Bind = ":17443", ":17946"
	c, err := c.Resolve()
	must(t, err)
	if c.Advertise != "10.77.0.9:17443" || c.Gossip.Advertise != "10.77.0.9:17946" {
		t.Errorf("advertised are %s and %s", c.Advertise, c.Gossip.Advertise)
	}
	if r := c.Capacity.Resources(); r.MilliCPU < 1000 || r.RAM < 1<<28 || r.Disk <= 0 {
		t.Errorf("capacity of this machine: %+v", r)
	}
	total, err := memTotal()
	must(t, err)
	if int64(c.Capacity.RAM) >= total {
		t.Errorf("%d bytes of %d are offered, want a reserve", c.Capacity.RAM, total)
	}
}
