package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func statusCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show the cluster on one screen",
		Action: e.with(0, 0, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			st, err := cl.Status(ctx)
			if err != nil {
				return err
			}
			return e.showStatus(c, st)
		}),
	}
}

func (e *env) showStatus(c *cli.Context, st api.Status) error {
	return e.show(c, st, view{text: statusText(st, c.String("output") == "wide"), names: []string{st.Host}})
}

func statusText(st api.Status, wide bool) string {
	if !st.Joined {
		return fmt.Sprintf("%s belongs to no cluster yet: run `vzcluster init` here, or `vzcluster join ADDR --token T`\n", st.Host)
	}
	parts := []string{headline(st), hostBars(st.Hosts).table()}
	cs := containerView(st.Containers)
	if wide {
		cs.wide = 0
	}
	if len(cs.rows) > 0 {
		parts = append(parts, cs.table())
	}
	if len(st.Operations) > 0 {
		parts = append(parts, operationView(st.Operations).cut(!wide).table())
	}
	return strings.Join(parts, "\n")
}

// headline is the state of the cluster in one line.
func headline(st api.Status) string {
	running, down := 0, 0
	for _, c := range st.Containers {
		if c.State == cluster.Running {
			running++
		}
	}
	for _, h := range st.Hosts {
		if !h.Alive {
			down++
		}
	}
	leader, quorum := "leader "+st.Leader, "quorum"
	if st.Leader == "" {
		leader = "no leader"
	}
	if !st.Quorum {
		quorum = "NO QUORUM: nothing can be changed until more hosts are back"
	}
	hosts := number(len(st.Hosts), "host")
	if down > 0 {
		hosts += fmt.Sprintf(" (%d down)", down)
	}
	return fmt.Sprintf("%s, %s, %s, %s (%d running), asked %s\n", leader, quorum, hosts, number(len(st.Containers), "container"), running, st.Host)
}

// hostBars shows how much of every host is reserved.
func hostBars(hs []api.Host) view {
	v := view{head: []string{"HOST", "STATE", "ROLE", "RAM", "", "CPUS", "", "DISK", "", "CONTAINERS"}}
	for _, h := range hs {
		r, c := h.Reserved, h.Capacity
		v.rows = append(v.rows, []string{
			h.Name, hostState(h), role(h), bar(r.RAM, c.RAM), cluster.Bytes(r.RAM) + "/" + cluster.Bytes(c.RAM), bar(r.MilliCPU, c.MilliCPU),
			cluster.Cores(r.MilliCPU) + "/" + cluster.Cores(c.MilliCPU), bar(r.Disk, c.Disk), cluster.Bytes(r.Disk) + "/" + cluster.Bytes(c.Disk), strconv.Itoa(h.Containers),
		})
	}
	return v
}

// bar draws a part of a whole in ten steps; something is never drawn as nothing.
func bar(part, whole int64) string {
	const width = 10
	filled := 0
	if whole > 0 && part > 0 {
		filled = int(min(width, max(1, part*width/whole)))
	}
	return "[" + strings.Repeat("#", filled) + strings.Repeat(".", width-filled) + "]"
}
