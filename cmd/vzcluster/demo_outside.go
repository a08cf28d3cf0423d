package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// counterSession is the client outside that increments the counter. Its methods are for one goroutine.
type counterSession struct {
	in    *os.File // a line asks for a report, the end ends it
	out   *json.Decoder
	ended <-chan error
}

func (d *demo) startCounter(ctx context.Context, addr string) (*counterSession, error) {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, theirOut := io.Pipe()
	s := &counterSession{in: in, out: json.NewDecoder(out)}
	ended := d.startOutside(ctx, theirIn, theirOut, "vzcluster", "demo-client", "count", addr+":6379")
	fate := make(chan error, 1)
	s.ended = fate
	go func() {
		fate <- <-ended
		close(fate)
		theirIn.Close()
		theirOut.Close() // the decoder sees the end
	}()
	return s, nil
}

// lap asks for a report.
func (s *counterSession) lap() (countReport, error) {
	_, err := io.WriteString(s.in, "lap\n")
	return s.read(err)
}

// stop ends the counting after the reply to the last increment.
func (s *counterSession) stop() (countReport, error) {
	return s.read(s.in.Close())
}

func (s *counterSession) read(err error) (r countReport, _ error) {
	if err == nil {
		err = s.out.Decode(&r)
	}
	switch {
	case err != nil:
		if fate := <-s.ended; fate != nil {
			err = fate
		}
		return r, fmt.Errorf("the counting client is gone: %w", err)
	case r.Error != "":
		return r, fmt.Errorf("the counting client failed after %d increments: %s", r.Acked, r.Error)
	}
	return r, nil
}

// progressed waits until so many more increments are acknowledged, and returns the last report with the longest gap of
// all that it asked for.
func (s *counterSession) progressed(ctx context.Context, e *env, from, more int64) (countReport, error) {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	gap := 0.0
	for {
		r, err := s.lap()
		if err != nil {
			return r, err
		}
		gap = max(gap, r.GapMS)
		if r.GapMS = gap; r.Acked >= from+more {
			return r, nil
		}
		if err := e.pause(ctx, 20*time.Millisecond); err != nil {
			return r, fmt.Errorf("redis has not answered for %s: %w", ms(gap), err)
		}
	}
}

// shellSession is the ssh session that prints numbered lines until a file appears.
type shellSession struct {
	lines *lineCheck
	ended <-chan error
}

const shellEnd = "/run/demo-end" // in the container

func (d *demo) startShell(ctx context.Context, key, addr string) *shellSession {
	const loop = "i=0; while [ ! -e " + shellEnd + " ]; do i=$((i+1)); echo $i; sleep 0.02; done; echo end"
	s := &shellSession{lines: newLineCheck(time.Now)}
	s.ended = d.startOutside(ctx, nil, s.lines, "ssh", "-T", "-i", key, "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
		"-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile="+key+".hosts", "root@"+addr, loop)
	return s
}

// check fails when the session has ended or a line is missing, and returns how many there were.
func (s *shellSession) check() (int, error) {
	lines, _, err := s.lines.state()
	select {
	case fate := <-s.ended:
		return lines, fmt.Errorf("the ssh session is gone after %d lines: %v", lines, fate)
	default:
	}
	if err != nil {
		return lines, fmt.Errorf("the ssh session lost something: %w", err)
	}
	return lines, nil
}

// progressed waits for more lines.
func (s *shellSession) progressed(ctx context.Context, e *env, from, more int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	for {
		n, err := s.check()
		if err != nil || n >= from+more {
			return n, err
		}
		if err := e.pause(ctx, 20*time.Millisecond); err != nil {
			return n, fmt.Errorf("the ssh session says nothing after line %d: %w", n, err)
		}
	}
}
