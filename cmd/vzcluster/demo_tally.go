package main

import (
	"bytes"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// tally keeps the books of a client that alone increments a counter from 0: the n-th reply must be n.
type tally struct {
	sent, acked int64
	last        time.Time // of the last reply, at first of the start
	gap         time.Duration
}

// ask notes that an increment is about to be sent.
func (t *tally) ask() { t.sent++ }

// reply notes a reply; any other than the one before plus 1 is an error, which says what it means.
func (t *tally) reply(value int64, at time.Time) error {
	t.gap = max(t.gap, at.Sub(t.last))
	t.last = at
	switch want := t.acked + 1; {
	case value > want:
		return fmt.Errorf("the reply to increment %d is %d: %d counted twice", want, value, value-want)
	case value < want:
		return fmt.Errorf("the reply to increment %d is %d: %d were lost", want, value, want-value)
	}
	t.acked++
	return nil
}

// lap returns the longest wait for a reply since the last lap, the one under way included.
func (t *tally) lap(now time.Time) time.Duration {
	gap := max(t.gap, now.Sub(t.last))
	t.gap = 0
	return gap
}

// compare says how many acknowledged increments a counter lacks, and how many it has that were never sent.
func (t *tally) compare(counter int64) (lost, doubled int64) {
	return max(0, t.acked-counter), max(0, counter-t.sent)
}

// lineCheck reads numbered lines, 1, 2, 3 and so on, then "end", and notes the first one that is not what it should be.
// It is safe for concurrent use.
type lineCheck struct {
	mu    sync.Mutex
	rest  []byte
	last  int
	ended bool
	wrong error
	at    time.Time // of the last line
	gap   time.Duration
	now   func() time.Time
}

func newLineCheck(now func() time.Time) *lineCheck { return &lineCheck{now: now, at: now()} }

// Write takes a piece of the stream; it never fails, see state.
func (c *lineCheck) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = append(c.rest, p...)
	for {
		i := bytes.IndexByte(c.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		c.take(string(c.rest[:i]))
		c.rest = c.rest[i+1:]
	}
}

func (c *lineCheck) take(line string) {
	now := c.now()
	if c.last > 0 {
		c.gap = max(c.gap, now.Sub(c.at))
	}
	c.at = now
	switch {
	case c.wrong != nil:
	case c.ended:
		c.wrong = fmt.Errorf("%q came after the end", line)
	case line == "end":
		c.ended = true
	case line == strconv.Itoa(c.last+1):
		c.last++
	default:
		c.wrong = fmt.Errorf("after line %d came %q", c.last, line)
	}
}

// state returns how many lines there were, whether the end was among them, and what was wrong with them.
func (c *lineCheck) state() (lines int, ended bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.ended, c.wrong
}

// longest returns the longest time between two lines.
func (c *lineCheck) longest() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gap
}
