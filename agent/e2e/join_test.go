package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
)

// unformed makes a lab whose hosts belong to no cluster yet.
func unformed(t *testing.T, name string, o lab.Options) *kit {
	t.Helper()
	skipUnlessAble(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o.Name, o.Binary, o.Agent = labName(name), shared.vzcluster, []string{"/run/bin/vzcluster", "agent"}
	l, err := lab.Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	downAfter(t, l)
	k := &kit{t: t, lab: l}
	k.explainFailure()
	for _, h := range l.Hosts() {
		if err := l.WaitReady(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func (k *kit) token(host string, flags ...string) api.TokenReply {
	k.t.Helper()
	r := k.at(host, nil, append([]string{"token", "create", "-o", "json"}, flags...)...)
	var token api.TokenReply
	if err := json.Unmarshal([]byte(r.stdout), &token); err != nil || r.code != 0 {
		k.t.Fatalf("token create: %v, %v", err, r)
	}
	return token
}

func (k *kit) statusOf(host string) (st api.Status) {
	k.t.Helper()
	r := k.at(host, nil, "status", "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &st); err != nil || r.code != 0 {
		k.t.Fatalf("status of %s: %v, %v", host, err, r)
	}
	return st
}

func (k *kit) member(host string) string { return k.lab.Address(host) + ":7443" }

func TestJoin(t *testing.T) {
	k := unformed(t, "join", lab.Options{Hosts: 5, CPUs: 8, RAM: 8 << 30, Disk: 100 << 30})
	for _, first := range []string{"host1", "host5"} { // two clusters
		if r := k.at(first, nil, "init"); r.code != 0 {
			t.Fatal(r)
		}
	}
	k.refused(1, []string{"cluster"}, "init")
	used := k.token("host1").Token
	if r := k.at("host2", nil, "join", k.member("host1"), "--token", used); r.code != 0 {
		t.Fatal(r)
	}
	k.badTokens(used)
	for _, h := range []string{"host3", "host4"} {
		if r := k.at(h, nil, "join", k.member("host2"), "--token", k.token("host2").Token); r.code != 0 { // not the first host
			t.Fatal(r)
		}
	}
	k.voters()
	if st := k.statusOf("host5"); len(st.Hosts) != 1 {
		t.Errorf("the other cluster has %d hosts", len(st.Hosts))
	}
	t.Run("a stranger is not served", func(t *testing.T) {
		cli := fmt.Sprintf("VZCLUSTER_HOST=https://%s %s ls", k.member("host1"), shared.vzcluster)
		if out, code := k.on(lab.Outside, cli); code == 0 {
			t.Errorf("without a certificate it was answered %q", out)
		}
	})
}

// badTokens has host3 try every kind of token that must not let it in.
func (k *kit) badTokens(used string) {
	k.t.Helper()
	revoked := k.token("host1")
	k.vz("token", "revoke", revoked.ID)
	expired := k.token("host1", "--ttl", "1ms").Token
	for _, bad := range []struct {
		name, token, says string
		code              int
	}{
		{"used", used, "used", 1},
		{"expired", expired, "expired", 1},
		{"foreign", k.token("host5").Token, "", 1},
		{"revoked", revoked.Token, "does not know", 1},
		{"changed", used[:len(used)-1] + "g", "no join token", 2},
		{"nonsense", "open sesame", "no join token", 2},
	} {
		r := k.at("host3", nil, "join", k.member("host1"), "--token", bad.token)
		k.isRefusal(r, bad.code, []string{bad.says}, "join with a token that is "+bad.name)
		if st := k.statusOf("host3"); st.Joined {
			k.t.Errorf("with a token that is %s it has joined", bad.name)
		}
		if st := k.statusOf("host1"); len(st.Hosts) != 2 {
			k.t.Errorf("with a token that is %s the cluster has %d hosts", bad.name, len(st.Hosts))
		}
	}
	k.isRefusal(k.at("host3", nil, "join", k.member("host1")), 2, []string{"--token"}, "join without a token")
	if r := k.at("host3", nil, "join", "10.77.0.99:7443", "--token", k.token("host1").Token); r.code == 0 {
		k.t.Errorf("joining where nobody is: %v", r)
	}
}

// voters waits until three of the four hosts vote, and not the one that joined last.
func (k *kit) voters() {
	k.t.Helper()
	k.until("three voters, the fourth host none", recovery, func() error {
		var votes []string
		for _, h := range k.statusOf("host4").Hosts {
			if h.Voter {
				votes = append(votes, h.Name)
			}
		}
		slices.Sort(votes)
		if !slices.Equal(votes, []string{"host1", "host2", "host3"}) {
			return fmt.Errorf("these vote: %v", votes)
		}
		return nil
	})
}

func TestAnyAgentAnswers(t *testing.T) {
	k := sharedLab(t)
	k.template("busybox")
	for _, h := range k.lab.Hosts() {
		name := "asked-" + h
		k.destroyAfter(name)
		for _, args := range [][]string{
			{"run", name, "--template", "busybox", "--ram", "64M", "--cpus", "0.1"},
			{"set", name, "--label", "by=" + h},
			{"exec", name, "--", "true"},
			{"logs", name},
			{"migrate", name},
			{"place", "--template", "busybox", "--ram", "64M", "--cpus", "0.1", "--why"},
			{"token", "ls"},
			{"operation", "ls"},
			{"template", "ls"},
			{"host", "ls"},
			{"ls"},
			{"stop", name},
			{"destroy", "-y", "--now", name},
		} {
			if r := k.at(h, nil, args...); r.code != 0 {
				t.Fatalf("%s, asked to %v: %v", h, args, r)
			}
		}
		if st := k.statusOf(h); st.Host != h || !st.Quorum || len(st.Hosts) != 3 {
			t.Errorf("%s knows of itself %+v", h, st)
		}
	}
}
