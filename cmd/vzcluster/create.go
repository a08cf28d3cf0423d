package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func createFlags() []cli.Flag {
	return append(append(cliLimits(true), ruleFlags()...),
		&cli.StringFlag{Name: "template", Usage: "start from template `NAME`; needed if there is more than one"},
		&cli.StringFlag{Name: "hostname", Usage: "`NAME` inside; default: the container's name"},
		nameServerFlag(), searchDomainFlag(),
		&cli.StringFlag{Name: "ip", Value: "auto", Usage: "`ADDRS` of the pools between commas, auto, auto4, auto6, or none"},
		&cli.StringFlag{Name: "host", Usage: "put it on `HOST` (the endpoint is -H here); default: the leader chooses"},
		&cli.StringSliceFlag{Name: "bind", Usage: "mount a folder of the host, `FOLDER:PATH[:ro][:shared]`; shared: every host has the same; may be repeated"},
		&cli.StringSliceFlag{Name: "label", Usage: "`K=V`, may be repeated"},
		&cli.StringFlag{Name: "name", Usage: "`NAME`, unique in the cluster; default: ct<CTID>"},
		&cli.IntFlag{Name: "count", Value: 1, Usage: "`N` of them as one plan, named NAME-1 to NAME-N: all or none"},
		&cli.BoolFlag{Name: "wait-for-room", Usage: "if no host has room, let it wait until one has"},
	)
}

func createCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "create a container", ArgsUsage: "[CTID|NAME]", Flags: createFlags(),
		Action: e.with(0, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			r, err := createRequest(ctx, c, cl)
			if err != nil {
				return err
			}
			if r.Count > 1 {
				return e.createMany(ctx, c, cl, r)
			}
			ct, err := e.create(ctx, cl, r)
			if err != nil {
				return err
			}
			return e.showContainer(c, ct)
		}),
	}
}

func runCommand(e *env) *cli.Command {
	timeout := &cli.StringFlag{Name: "timeout", Value: "2m", Usage: "wait until it runs for at most `TIME`"}
	return &cli.Command{
		Name: "run", Usage: "create a container and start it", ArgsUsage: "[CTID|NAME]", Flags: append(createFlags(), timeout),
		Action: e.with(0, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			wait, err := flagValue(c, "timeout", parseDuration)
			if err != nil {
				return err
			}
			r, err := createRequest(ctx, c, cl)
			if err != nil {
				return err
			}
			r.Start = true
			if r.Count > 1 {
				return e.createMany(ctx, c, cl, r)
			}
			ct, err := e.create(ctx, cl, r)
			if err != nil {
				return err
			}
			if ct.Waits() {
				return e.showContainer(c, ct)
			}
			notes := ct.Notes
			if ct, err = e.waitRunning(ctx, cl, ct, wait); err != nil {
				return err
			}
			ct.Notes = notes
			return e.showContainer(c, ct)
		}),
	}
}

func (e *env) create(ctx context.Context, cl *api.Client, r api.CreateRequest) (api.Container, error) {
	ct, err := cl.Create(ctx, r)
	if err != nil {
		return ct, err
	}
	why := ct.Placement
	switch {
	case ct.Waits():
		why = "it waits for room: " + ct.Detail
	case why == "":
		why = "it goes to " + ct.Host
	}
	e.progress("%s (%d): %s", ct.Name, ct.ID, why)
	return ct, nil
}

// waitRunning asks until the container runs or has failed.
func (e *env) waitRunning(ctx context.Context, cl *api.Client, ct api.Container, wait time.Duration) (api.Container, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for ct.State != cluster.Running {
		if ct.State == cluster.Failed {
			return ct, api.Errorf(api.CodeFailed, "`vzcluster logs "+ct.Name+"` shows what it said", "%s (%d) did not start on %s: %s", ct.Name, ct.ID, ct.Host, dash(ct.Detail))
		}
		err := e.pause(waiting, 100*time.Millisecond)
		if err == nil {
			var next api.Container
			if next, err = cl.Container(waiting, strconv.Itoa(ct.ID)); err == nil {
				ct = next
			}
		}
		if waiting.Err() != nil && ctx.Err() == nil {
			return ct, api.Errorf(api.CodeTimeout, "it is still being started: `vzcluster show "+ct.Name+"`", "%s (%d) is %s, not running, after %s", ct.Name, ct.ID, ct.State, wait)
		}
		if err != nil {
			return ct, err
		}
	}
	return ct, nil
}

// idOrName reads the argument, a CTID or a name, or else the flag for the name.
func idOrName(c *cli.Context, word string) (id int, name string, err error) {
	name = c.String("name")
	if word == "" {
		return 0, name, nil
	}
	if id, err = strconv.Atoi(word); err == nil {
		if id <= 0 {
			return 0, "", usagef(c, "%s is not a CTID, they go from 101 up", word)
		}
		return id, name, nil
	}
	if name != "" && name != word {
		return 0, "", usagef(c, "it cannot be named both %s and %s", word, name)
	}
	return 0, word, nil
}

// createRequest reads the flags and the argument, a CTID or a name.
func createRequest(ctx context.Context, c *cli.Context, cl *api.Client) (api.CreateRequest, error) {
	r := api.CreateRequest{Name: c.String("name"), Hostname: c.String("hostname"), Host: c.String("host"), Template: c.String("template")}
	r.NameServers, r.SearchDomains = c.StringSlice("nameserver"), c.StringSlice("searchdomain")
	var err error
	if r.ID, r.Name, err = idOrName(c, c.Args().First()); err != nil {
		return r, err
	}
	r.WaitForRoom = c.Bool("wait-for-room")
	if r.Count = c.Int("count"); r.Count < 1 || r.Count > api.MaxCreate {
		return r, usagef(c, "count: %d containers cannot be created at once, write a number from 1 to %d", r.Count, api.MaxCreate)
	} else if r.Count == 1 {
		r.Count = 0
	}
	if r.Rules, err = readRules(c, cluster.Rules{}); err != nil {
		return r, err
	}
	if r.Limits, err = limits(c); err != nil {
		return r, err
	}
	if r.IP, err = flagValue(c, "ip", parseIP); err != nil {
		return r, err
	}
	if r.Mounts, err = parseBinds(c.StringSlice("bind")); err != nil {
		return r, usagef(c, "bind: %v", err)
	}
	if r.Labels, err = parseLabels(c.StringSlice("label")); err != nil {
		return r, usagef(c, "label: %v", err)
	}
	if r.Template == "" {
		r.Template, err = onlyTemplate(ctx, c, cl)
	}
	return r, err
}

// onlyTemplate returns the cluster's template when there is exactly one.
func onlyTemplate(ctx context.Context, c *cli.Context, cl *api.Client) (string, error) {
	ts, err := cl.Templates(ctx)
	if err != nil {
		return "", err
	}
	switch len(ts) {
	case 1:
		return ts[0].Name, nil
	case 0:
		return "", usagef(c, "the cluster has no template yet; make one with `vzcluster template build debian-12`")
	}
	return "", usagef(c, "which template? write --template with one of: %s", strings.Join(templateView(ts).names, ", "))
}

func placeCommand(e *env) *cli.Command {
	why := &cli.BoolFlag{Name: "why", Usage: "show every host and its reason"}
	return &cli.Command{
		Name: "place", Usage: "show where a container would be created, and why", ArgsUsage: "[CTID|NAME]", Flags: append(createFlags(), why),
		Action: e.with(0, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			r, err := createRequest(ctx, c, cl)
			if err != nil {
				return err
			}
			p, err := cl.Place(ctx, r)
			if err != nil {
				return err
			}
			if err := e.show(c, p, placeView(p, c.Bool("why"))); err != nil {
				return err
			}
			if p.RoomOn != "" {
				return e.showRoomMaking(p)
			}
			if p.Host == "" {
				return api.Errorf(api.CodeNoFit, "", "%s", p.Why)
			}
			e.progress("%s", p.Why)
			return nil
		}),
	}
}

// showRoomMaking prints what would be moved so that the container has room.
func (e *env) showRoomMaking(p api.PlaceReply) error {
	e.progress("%s", p.Why)
	for i, m := range p.Moves {
		e.progress("[%d/%d] %s: %s -> %s, %s", i+1, len(p.Moves), m.Name, m.From, m.To, m.Why)
	}
	e.progress("then it goes to %s", p.RoomOn)
	return nil
}

func placeView(p api.PlaceReply, why bool) view {
	v := view{head: []string{"HOST", "FITS", "SCORE", "FREE RAM", "FREE CPUS", "FREE DISK", "REASON"}, most: lineMost}
	if p.Host != "" {
		v.names = []string{p.Host}
	}
	if !why && p.Host != "" {
		v.text = p.Host + "\n"
	}
	for _, h := range p.Hosts {
		name := h.Host
		if name == p.Host {
			name += " *"
		}
		v.rows = append(v.rows, []string{
			name, yes(h.Fits), strconv.FormatFloat(h.Score, 'f', 3, 64), cluster.Bytes(h.Free.RAM), cluster.Cores(h.Free.MilliCPU), cluster.Bytes(h.Free.Disk), h.Reason,
		})
	}
	return v
}
