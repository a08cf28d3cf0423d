package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// demoResult is what the demo measured; -o json prints it.
type demoResult struct {
	LabSeconds   float64      `json:"lab_up_s"`
	Template     demoTemplate `json:"template"`
	Create       demoCreate   `json:"create"`
	Moves        []demoMove   `json:"moves"`
	Count        countReport  `json:"count"`
	SSHLines     int          `json:"ssh_lines"`
	SSHGapMS     float64      `json:"ssh_longest_gap_ms"`
	Agent        demoFault    `json:"agent_killed"`
	Leader       demoFault    `json:"leader_killed"`
	Destroyed    int          `json:"destroyed"`
	Consolidated []demoMove   `json:"consolidated"`
	Freed        []string     `json:"freed"`
	TotalSeconds float64      `json:"total_s"`
}

type demoTemplate struct {
	Bytes       int64   `json:"bytes"`
	BuildS      float64 `json:"build_s"`
	AgeSeconds  float64 `json:"age_s"` // of the cached tree; 0: built now
	SendSeconds float64 `json:"send_s"`
}

type demoCreate struct {
	Containers int     `json:"containers"`
	RunningS   float64 `json:"all_running_s"`
	MedianS    float64 `json:"median_s"`
	ServingS   float64 `json:"all_serving_s"`
}

type demoMove struct {
	Container string  `json:"container"`
	From      string  `json:"from"`
	To        string  `json:"to"`
	Blackout  float64 `json:"blackout_ms"`
	Total     float64 `json:"total_ms"`
	Bytes     int64   `json:"bytes"`
	ClientGap float64 `json:"client_gap_ms,omitempty"` // the longest wait for one reply
	Counted   int64   `json:"counted,omitempty"`       // increments acknowledged from the request to the end of the move
}

func newDemoMove(ct string, r cluster.MoveResult) demoMove {
	return demoMove{Container: ct, From: r.From, To: r.To, Blackout: r.BlackoutMS, Total: r.TotalMS, Bytes: r.Bytes}
}

func (m demoMove) String() string {
	return fmt.Sprintf("%s -> %s: blackout %s, %s sent, %s in all", m.From, m.To, ms(m.Blackout), cluster.Bytes(m.Bytes), ms(m.Total))
}

type demoFault struct {
	Host       string  `json:"host"`
	Successor  string  `json:"successor,omitempty"`
	Seconds    float64 `json:"back_after_s"` // agent: answers again; leader: a create is accepted by the others
	Containers int     `json:"containers"`   // that kept running on the host meanwhile
}

// view is the closing table.
func (r demoResult) view() view {
	v := view{head: []string{"WHAT", "MEASURED"}}
	add := func(what, format string, args ...any) {
		v.rows = append(v.rows, []string{what, fmt.Sprintf(format, args...)})
	}
	built := fmt.Sprintf("built in %.1f s", r.Template.BuildS)
	if r.Template.AgeSeconds > 0 {
		built = "tree built " + ago(time.Duration(r.Template.AgeSeconds*float64(time.Second)))
	}
	add("lab of three hosts up", "%.1f s", r.LabSeconds)
	add("template, "+cluster.Bytes(r.Template.Bytes), "%s, sent in %.1f s", built, r.Template.SendSeconds)
	add(number(r.Create.Containers, "container")+" created and running", "%.1f s in all, median %.1f s", r.Create.RunningS, r.Create.MedianS)
	add("  all of them serve HTTP", "after %.1f s", r.Create.ServingS)
	for i, m := range r.Moves {
		add(fmt.Sprintf("move %d, %s -> %s", i+1, m.From, m.To), "blackout %s, client's longest wait %s, %s sent, %s in all",
			ms(m.Blackout), ms(m.ClientGap), cluster.Bytes(m.Bytes), ms(m.Total))
	}
	add("increments, one connection", "%d sent, %d acknowledged, %d in redis: %d lost, %d doubled",
		r.Count.Sent, r.Count.Acked, r.Count.Counter, r.Count.Lost, r.Count.Doubled)
	add("ssh session", "%d lines, all there and in order, longest gap %s", r.SSHLines, ms(r.SSHGapMS))
	add("agent of "+r.Agent.Host+" killed -9", "back in %.1f s, its %s kept running", r.Agent.Seconds, number(r.Agent.Containers, "container"))
	add("leader "+r.Leader.Host+" killed", "%s leads, a create is accepted after %.1f s, %s kept running",
		r.Leader.Successor, r.Leader.Seconds, number(r.Leader.Containers, "container"))
	var blackouts []string
	for _, m := range r.Consolidated {
		blackouts = append(blackouts, ms(m.Blackout))
	}
	add("consolidation after "+number(r.Destroyed, "destroy"), "%s freed by %s, blackout %s",
		list(r.Freed), moves(len(r.Consolidated)), strings.Join(blackouts, ", "))
	add("everything, lab down included", "%.1f s", r.TotalSeconds)
	return v
}

// median of some durations, in seconds; 0 of none.
func median(ds []time.Duration) float64 {
	if len(ds) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(ds))
	return (s[(len(s)-1)/2] + s[len(s)/2]).Seconds() / 2
}
