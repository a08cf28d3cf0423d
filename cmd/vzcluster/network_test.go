package main

import (
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func TestNetworkCommands(t *testing.T) {
	ct := web()
	ct.Firewall = &cluster.Firewall{In: cluster.Deny, Rules: []cluster.FirewallRule{{Action: cluster.Allow, Proto: "tcp", First: 80, Last: 80}}}
	f := newFake(t, map[string]any{
		api.RouteContainer: ct, api.RouteSet: ct,
		api.RouteNetworks: []cluster.Network{{Name: "default", Kind: cluster.NetworkLAN}}, api.RouteNetworkPool: cluster.Network{Name: "default"},
	})
	for args, want := range map[string]string{
		"network add-pool default fd00::/64":            `{"prefix":"fd00::/64","first":"","last":""}`,
		"set web --ip-add auto6 --ip-del 10.77.1.1":     `{"ip_add":["auto6"],"ip_del":["10.77.1.1"]}`,
		"set web --ip 10.77.1.2,fd00::2":                `{"ip":"10.77.1.2,fd00::2"}`,
		"firewall deny web udp/53-54 --peer 10.0.0.0/8": `{"firewall":{"in":"deny","rules":[{"action":"allow","proto":"tcp","first":80,"last":80},{"action":"deny","proto":"udp","first":53,"last":54,"peer":"10.0.0.0/8"}]}}`,
		"firewall allow web icmp --at 1 --out":          `{"firewall":{"in":"deny","rules":[{"action":"allow","out":true,"proto":"icmp"},{"action":"allow","proto":"tcp","first":80,"last":80}]}}`,
		"firewall policy web --in allow --out deny":     `{"firewall":{"in":"allow","out":"deny","rules":[{"action":"allow","proto":"tcp","first":80,"last":80}]}}`,
		"firewall rm web 1":                             `{"firewall":{"in":"deny"}}`,
		"firewall clear web":                            `{"firewall":{}}`,
	} {
		if r := f.run(strings.Fields(args)...); r.code != 0 || f.last() != want {
			t.Errorf("%s sends\n  %s, want\n  %s (%+v)", args, f.last(), want, r)
		}
	}
	asked := len(f.asked)
	for _, args := range []string{
		"set web --ip nonsense", "set web --ip-add none", "firewall allow web sctp/5", "firewall allow web tcp/0", "firewall policy web",
		"firewall policy web --in maybe", "firewall allow web tcp/80 --peer x",
	} {
		if r := f.run(strings.Fields(args)...); r.code != 2 || len(f.asked) != asked {
			t.Errorf("%s: %+v, want it refused before the cluster is asked", args, r)
		}
	}
	if r := f.run("firewall", "ls", "web"); !strings.Contains(r.stdout, "tcp/80") || !strings.Contains(r.stdout, "else") {
		t.Errorf("firewall ls shows %s", r.stdout)
	}
	if r := f.run("firewall", "rm", "web", "2"); r.code != 2 {
		t.Errorf("a rule that is not there: %+v", r)
	}
}

func TestResolverFlags(t *testing.T) {
	f := newFake(t, map[string]any{api.RouteSet: api.Container{}, api.RouteCreate: api.Container{}})
	for args, want := range map[string]string{
		"set web --nameserver 10.0.0.1 --nameserver 10.0.0.2":  `{"name_servers":["10.0.0.1","10.0.0.2"]}`,
		"set web --searchdomain a.org --searchdomain b.org":    `{"search_domains":["a.org","b.org"]}`,
		"create web --template t --nameserver default":         `"name_servers":["default"]`,
		"create web --template t --searchdomain a.org --ip no": ``,
	} {
		n := len(f.asked)
		r := f.run(strings.Fields(args)...)
		if want == "" {
			if r.code != 2 || len(f.asked) != n {
				t.Errorf("%s: %+v, asked %q", args, r, f.asked[n:])
			}
			continue
		}
		if r.code != 0 || !strings.Contains(strings.Join(f.asked[n:], "\n"), want) {
			t.Errorf("%s: %+v, asked %q", args, r, f.asked[n:])
		}
	}
}
