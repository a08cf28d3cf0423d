package vzctl

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// defaultSample is the configuration of a container that is created without --config.
const defaultSample = "vswap-256m"

func (t *tool) create(ctx context.Context, ct string, args []string) error {
	var said params
	var sample string
	if err := noMore(parse(args, append(said.options(), text("config", &sample)))); err != nil {
		return err
	}
	p, err := readSample(defaultSample)
	if err != nil {
		return err
	}
	if sample != "" {
		from, err := readSample(sample)
		if err != nil {
			return err
		}
		p.overlay(from)
	}
	p.overlay(said)
	if len(p.ipDel)+len(p.set.NICDel) > 0 {
		p.notes = append(p.notes, "Warning: --ipdel and --netif_del are ignored: a new container has nothing to take away")
	}
	cl, err := t.client()
	if err != nil {
		return err
	}
	r, err := t.request(ctx, ct, p)
	if err != nil {
		return err
	}
	t.warnAll(p.notes)
	t.say("Creating container private area (%s)", r.Template)
	c, err := cl.Create(ctx, r)
	if err != nil {
		return refused(err, p.ipAdd)
	}
	t.say("Performing postcreate actions")
	if r, any := p.later(); any {
		if _, err := cl.Set(ctx, id(c), r); err != nil {
			return fail(exitOf(classify(err, codeSystem), codeSystem), "The container was created, but not all of it was set: %v", err)
		}
	}
	t.say("CT configuration saved to the cluster")
	t.say("Container private area was created")
	if t.verbose > 0 {
		t.say("It is on %s: %s", c.Host, c.Placement)
	}
	return nil
}

// request makes what the cluster is asked for.
func (t *tool) request(ctx context.Context, ct string, p params) (api.CreateRequest, error) {
	r := api.CreateRequest{IP: "none", Limits: p.set.LimitsOver(cluster.Limits{}), NameServers: p.set.NameServers, SearchDomains: p.set.SearchDomains}
	if n, err := strconv.Atoi(ct); err == nil {
		r.ID = n
	} else {
		r.Name = ct
	}
	if p.set.Name != nil {
		r.Name = *p.set.Name
	}
	if p.set.Hostname != nil {
		r.Hostname = *p.set.Hostname
	}
	if len(p.ipAdd) > 0 {
		r.IP = strings.Join(p.ipAdd, ",")
	}
	cs, err := t.cl.Containers(ctx)
	if err != nil {
		return r, classify(err, codeSystem)
	}
	if err := taken(cs, r); err != nil {
		return r, err
	}
	r.Template, err = t.template(ctx, p.template)
	return r, err
}

// taken gives the conflicts that have an exit code of their own.
func taken(cs []api.Container, r api.CreateRequest) error {
	for _, c := range cs {
		switch {
		case c.ID == r.ID:
			return fail(codeExists, "Private area already exists: container %d is on %s", c.ID, c.Host)
		case r.Name != "" && c.Name == r.Name:
			return fail(codeName, "Conflict: name %s already used by container %d", r.Name, c.ID)
		}
		if ip := taking(c, strings.Split(r.IP, ",")); ip != "" {
			return fail(codeIPInUse, "IP address %s is already in use by container %d", ip, c.ID)
		}
	}
	return nil
}

// taking returns that of some addresses which a container has, or "".
func taking(c api.Container, ips []string) string {
	for _, ip := range ips {
		if ip, _, _ = strings.Cut(ip, "/"); slices.Contains(addressesOf(c), ip) {
			return ip
		}
	}
	return ""
}

// template finds the template that a name of OpenVZ means: it may carry the architecture behind it.
func (t *tool) template(ctx context.Context, name string) (string, error) {
	ts, err := t.cl.Templates(ctx)
	if err != nil {
		return "", classify(err, codeSystem)
	}
	if name == "" && len(ts) == 1 {
		return ts[0].Name, nil
	}
	var names []string
	for _, x := range ts {
		names = append(names, x.Name)
	}
	if name == "" {
		return "", fail(codeNoTemplate, "OS template is not specified; write --ostemplate with one of: %s", strings.Join(names, ", "))
	}
	short := name
	for _, suffix := range []string{"-minimal", "-x86_64", "-amd64", "-minimal"} {
		short = strings.TrimSuffix(short, suffix)
	}
	for _, candidate := range []string{name, strings.TrimSuffix(name, "-x86_64"), short} {
		if slices.Contains(names, candidate) {
			return candidate, nil
		}
	}
	return "", fail(codeBadTemplate, "Cached OS template %s not found; `vzcluster template ls` lists what there is", name)
}

// refused gives what the cluster answered to a command with these addresses its exit code.
func refused(err error, ips []string) error {
	for _, ip := range ips {
		ip, _, _ = strings.Cut(ip, "/")
		switch about := strings.Contains(err.Error(), ip); {
		case about && api.CodeOf(err) == api.CodeConflict:
			return fail(codeIPInUse, "%v", err)
		case about && api.CodeOf(err) == api.CodeUsage:
			return fail(codeIPNotOurs, "IP address not available: %v", err)
		}
	}
	return classify(err, codeSystem)
}
