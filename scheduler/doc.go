// Package scheduler decides which host takes a container, where the containers of a drained host go, and which hosts
// can be freed. Every decision explains itself.
//
// It is pure: it takes a Snapshot and returns values, and the same snapshot always gives the same answer. It carries
// nothing out and reserves nothing. The one rule for callers: a decision is a proposal made on a snapshot; the state
// asks the same question (cluster.Resources.Fits) again at commit and may refuse.
package scheduler
