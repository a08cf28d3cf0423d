package cluster

import (
	"slices"
	"time"
)

// keptEvents is how many events a container remembers.
const keptEvents = 8

// What an event says.
const (
	EventPlaced = "placed" // it had waited for room
	EventMoved  = "moved"
	EventStayed = "stayed" // a move was given up
)

// Event is a decision about where a container is, with its reason. Where it was created and why says Placement.
type Event struct {
	At        time.Time `json:"at"`
	What      string    `json:"what"`
	From      string    `json:"from,omitempty"`
	To        string    `json:"to,omitempty"`
	Why       string    `json:"why,omitempty"`
	Operation string    `json:"operation,omitempty"`
}

// note remembers an event and forgets the oldest beyond keptEvents.
func (c *Container) note(e Event) {
	history := append(slices.Clone(c.History), e)
	c.History = history[max(0, len(history)-keptEvents):]
}

// Waits reports whether the container has no host yet because none has room for it.
func (c *Container) Waits() bool { return c.Host == "" }
