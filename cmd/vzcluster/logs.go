package main

import (
	"bytes"
	"context"
	"io"
	"regexp"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func logsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "logs", Aliases: []string{"console"}, Usage: "show what a container wrote to its console", ArgsUsage: "CT",
		Description: "That is its boot log. One of busybox is empty: its init writes nothing.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on as it writes more"},
			&cli.BoolFlag{Name: "raw", Usage: "leave the kernel's priorities, as <30>, before the lines"},
		},
		Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			if c.Bool("raw") {
				return cl.Logs(ctx, c.Args().First(), c.Bool("follow"), e.stdout)
			}
			w := &plainLog{to: e.stdout, begins: true}
			err := cl.Logs(ctx, c.Args().First(), c.Bool("follow"), w)
			if flushed := w.flush(); err == nil {
				err = flushed
			}
			return err
		}),
	}
}

// plainLog passes a log on without the kernel's priorities at the beginnings of lines.
type plainLog struct {
	to     io.Writer
	begins bool   // the next byte is a line's first
	held   []byte // the beginning of a line that may be a priority
}

// Write passes on all but the beginning of a priority, which a later call may complete.
func (l *plainLog) Write(p []byte) (int, error) {
	var out bytes.Buffer
	for _, b := range p {
		if l.begins {
			l.held = append(l.held, b)
			switch {
			case wholePriority(l.held):
				l.held, l.begins = nil, false
				continue
			case partPriority(l.held):
				continue
			}
			out.Write(l.held)
			l.held = nil
		} else {
			out.WriteByte(b)
		}
		l.begins = b == '\n'
	}
	if _, err := l.to.Write(out.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (l *plainLog) flush() error {
	_, err := l.to.Write(l.held)
	l.held = nil
	return err
}

func wholePriority(b []byte) bool { return regexp.MustCompile(`^<[0-9]{1,3}>$`).Match(b) }
func partPriority(b []byte) bool  { return regexp.MustCompile(`^<[0-9]{0,3}$`).Match(b) }
