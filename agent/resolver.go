package agent

import (
	"context"
	"errors"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime"
)

// unknownDNS is noted of a container that goes on with whatever its files said when it was suspended.
const unknownDNS = "?"

// ownResolver tells the resolvers of containers apart; it is empty for one that has none of its own.
func ownResolver(c *cluster.Container) string {
	if len(c.NameServers)+len(c.SearchDomains) == 0 {
		return ""
	}
	return strings.Join(c.NameServers, " ") + "|" + strings.Join(c.SearchDomains, " ")
}

// resolve has a running container ask other name servers. What is in the way is noted, for whoever waits for the change.
func (r *reconciler) resolve(ctx context.Context, c *cluster.Container, a acted) error {
	spec, err := r.m.spec(c)
	if err != nil {
		return err
	}
	a.DNS, a.Unresolved = ownResolver(c), ""
	err = r.m.deps.Engine.Within(ctx, spec, func(root runtime.Inside) error {
		return root.Edit(runtime.Edits{ResolvConf: spec.ResolvConf()})
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		a.Unresolved = "/etc/resolv.conf cannot be written inside: " + err.Error()
		r.m.log.Warn("a container's resolver could not be changed", "container", c.ID, "error", err)
	}
	return r.note(c.ID, a)
}

// resolving waits until a running container asks the name servers that it should ask now, and puts the old ones back when
// its file cannot be written.
func (m *member) resolving(ctx context.Context, old, now *cluster.Container) error {
	want := ownResolver(now)
	if want == ownResolver(old) {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, defaultWait)
	defer cancel()
	if m.down(wait, now.Host) {
		return errDown(now.Host)
	}
	err := m.callOwner(wait, now, "sync", syncRequest{Epoch: now.Epoch, DNS: &want})
	if api.CodeOf(err) == api.CodeRefused {
		_, undo := applyHere[*cluster.Container](ctx, m, cluster.SetContainer{ID: old.ID, NameServers: wordsOf(old.NameServers), SearchDomains: wordsOf(old.SearchDomains)})
		m.spread()
		return errors.Join(err, undo)
	}
	return err
}

// wordsOf gives back what a container had of its own, or what all have.
func wordsOf(own []string) []string {
	if len(own) == 0 {
		return []string{cluster.DefaultDNS}
	}
	return own
}
