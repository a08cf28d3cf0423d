package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/agent/lab"
)

// echoPeriod is the pause between two lines sent over the ssh session.
const echoPeriod = 5 * time.Millisecond

// receive notes when stamps arrive outside, until the context ends.
func (b *bench) receive(ctx context.Context, port string) *series {
	return b.records(ctx, outsideStamp, "receive", port)
}

// records notes what a program outside reports: records of a number and nanoseconds since 1970.
func (b *bench) records(ctx context.Context, command ...string) *series {
	s := &series{}
	r, w, err := os.Pipe()
	if err != nil {
		s.end(err)
		return s
	}
	go func() {
		defer r.Close()
		var record [16]byte
		for {
			if _, err := io.ReadFull(r, record[:]); err != nil {
				return
			}
			s.add(int64(binary.LittleEndian.Uint64(record[8:])))
		}
	}()
	go func() {
		defer w.Close()
		code, err := b.lab.Exec(ctx, lab.Outside, command, nil, w, os.Stderr)
		if err == nil {
			err = fmt.Errorf("%s ended with code %d", strings.Join(command, " "), code)
		}
		s.end(err)
	}()
	return s
}

// ssh opens a session from outside that sends every line back, and notes when the answers come.
func (b *bench) ssh(ctx context.Context, address string) *series {
	s := &series{}
	ctx, cancel := context.WithCancel(ctx)
	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		s.end(err)
		cancel()
		return s
	}
	command := []string{
		"ssh", "-i", keyFile, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=QUIET",
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "root@" + address, "cat",
	}
	go func() {
		defer inR.Close()
		defer outW.Close()
		code, err := b.lab.Exec(ctx, lab.Outside, command, inR, outW, nil)
		if err == nil {
			err = fmt.Errorf("the ssh session ended with code %d", code)
		}
		s.end(err)
	}()
	go func() {
		defer cancel()
		defer inW.Close()
		defer outR.Close()
		s.end(pingPong(ctx, inW, outR, s))
	}()
	return s
}

// pingPong sends lines and waits for each to come back.
func pingPong(ctx context.Context, w io.Writer, r io.Reader, s *series) error {
	lines := bufio.NewReader(r)
	for n := 0; ; n++ {
		sent := fmt.Sprintln(n)
		if _, err := io.WriteString(w, sent); err != nil {
			return err
		}
		got, err := lines.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the echo broke off: %w", err)
		}
		if got != sent {
			return fmt.Errorf("the echo of %q is %q", sent, got)
		}
		s.add(time.Now().UnixNano())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(echoPeriod):
		}
	}
}
