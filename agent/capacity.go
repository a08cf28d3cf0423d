package agent

import (
	"net/http"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/scheduler"
)

// handleCapacity counts how many more containers of a shape fit, now and with any one host dead.
func (m *member) handleCapacity(_ http.ResponseWriter, r *http.Request) (any, error) {
	var req api.CreateRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	if err := req.Limits.Check(); err != nil {
		return nil, err
	}
	if err := req.Rules.Check(); err != nil {
		return nil, err
	}
	c := cluster.Container{Limits: req.Limits, Rules: req.Rules}
	room := scheduler.Capacity(m.snapshot(""), scheduler.Request{Need: c.Need(), Rules: req.Rules})
	return api.CapacityReply{Now: room.Now, AfterLoss: room.AfterAny, Worst: room.Worst}, nil
}

// handleWhatIf says what the loss of a host would mean: it is a question only, and nothing is moved.
func (m *member) handleWhatIf(_ http.ResponseWriter, r *http.Request) (any, error) {
	host := r.PathValue("host")
	if m.store.State().Host(host) == nil {
		return nil, notFound("host", host, "vzcluster host ls")
	}
	loss, moves := scheduler.WhatIf(m.snapshot(""), host)
	reply := api.WhatIfReply{Host: host, Why: loss.String(), Protected: loss.Protects, Homes: moves, Unplaced: []api.Unplaced{}}
	for _, u := range loss.Unplaced {
		reply.Unplaced = append(reply.Unplaced, api.Unplaced{Container: u.Container, Name: u.Name, Why: u.Why})
	}
	return reply, nil
}
