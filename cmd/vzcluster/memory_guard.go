package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/migrate/memory"
	"github.com/vzcluster/vzcluster/runtime/cgroup"
)

// memoryGuardCommand is what an agent starts for a container whose memory is not complete yet (post-copy).
func memoryGuardCommand() *cli.Command {
	return &cli.Command{Name: "memory-guard", Hidden: true, ArgsUsage: "CGROUP CTID", Action: func(c *cli.Context) error {
		id, err := strconv.Atoi(c.Args().Get(1))
		if err != nil {
			return fmt.Errorf("guard the memory of a container: %w", err)
		}
		groups, err := cgroup.New(cgroup.Config{Parent: c.Args().First()})
		if err != nil {
			return err
		}
		return memory.Watch(func() error { return endContainer(groups, id) })
	}}
}

// endTries is how often it is tried to end a container. Its processes wait for memory meanwhile.
const endTries = 100

func endContainer(groups *cgroup.Manager, id int) error {
	var failed error
	for range endTries {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := groups.KillAll(ctx, id)
		cancel()
		if err == nil {
			return nil
		}
		fmt.Fprintln(os.Stderr, err)
		failed = err
	}
	return errors.Join(errors.New("a container that lacks memory could not be ended"), failed)
}
