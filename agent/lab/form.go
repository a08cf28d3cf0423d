package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// formTimeout bounds how long a cluster may take to form.
const formTimeout = 60 * time.Second

// Client returns a client of a host's agent.
func (l *Lab) Client(host string) (*api.Client, error) { return api.NewClient(l.Endpoint(host), nil) }

// form makes one cluster of all hosts and waits until it has its voters.
func (l *Lab) form(ctx context.Context, progress func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, formTimeout)
	defer cancel()
	hosts := l.Hosts()
	progress("agents")
	if err := l.each(hosts, func(h string) error { return l.WaitReady(ctx, h) }); err != nil {
		return err
	}
	progress("cluster")
	first, err := l.Client(hosts[0])
	if err != nil {
		return err
	}
	defer first.Close()
	if _, err := first.Init(ctx, api.InitRequest{}); err != nil {
		return fmt.Errorf("cannot make the cluster on %s: %w", hosts[0], err)
	}
	if err := l.each(hosts[1:], func(h string) error { return l.join(ctx, first, h) }); err != nil {
		return err
	}
	return pollFor(ctx, "the cluster did not get its voters", func() error {
		st, err := first.Status(ctx)
		if err != nil {
			return err
		}
		voters := 0
		for _, h := range st.Hosts {
			if h.Voter && h.Alive {
				voters++
			}
		}
		if len(st.Hosts) != len(hosts) || voters != cluster.VotersFor(len(hosts)) || st.Leader == "" {
			return fmt.Errorf("%d of %d hosts, %d voters, leader %q", len(st.Hosts), len(hosts), voters, st.Leader)
		}
		return nil
	})
}

func (l *Lab) join(ctx context.Context, first *api.Client, host string) error {
	token, err := first.CreateToken(ctx, 10*time.Minute)
	if err != nil {
		return fmt.Errorf("cannot make a token for %s: %w", host, err)
	}
	c, err := l.Client(host)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Join(ctx, api.JoinRequest{Address: l.Address(l.Hosts()[0]) + ":7443", Token: token.Token}); err != nil {
		return fmt.Errorf("%s cannot join: %w", host, err)
	}
	return nil
}

// each does something for all hosts at once.
func (l *Lab) each(hosts []string, f func(host string) error) error {
	var g errgroup.Group
	for _, h := range hosts {
		g.Go(func() error { return f(h) })
	}
	return g.Wait()
}

// WaitReady waits until a host's agent answers.
func (l *Lab) WaitReady(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, formTimeout)
	defer cancel()
	c, err := l.Client(host)
	if err != nil {
		return err
	}
	defer c.Close()
	return pollFor(ctx, fmt.Sprintf("the agent of %s does not answer", host), func() error {
		_, err := c.Status(ctx)
		return err
	})
}

// pollFor asks every 20 ms until there is no error.
func pollFor(ctx context.Context, what string, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: %w", what, ctx.Err()), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// withLogs adds the last words of every agent to an error, as the logs are removed with the lab.
func (l *Lab) withLogs(err error) error {
	for _, h := range l.Hosts() {
		b, _ := os.ReadFile(l.Log(h))
		lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
		if tail := bytes.Join(lines[max(0, len(lines)-5):], []byte("\n  ")); len(tail) > 0 {
			err = fmt.Errorf("%w\n%s:\n  %s", err, h, tail)
		}
	}
	return err
}
