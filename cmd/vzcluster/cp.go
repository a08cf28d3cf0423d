package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

func cpCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "cp", Usage: "copy files and folders into and out of a container, which may be stopped", ArgsUsage: "CT:PATH TO | FROM CT:PATH",
		Description: "A folder that is there is copied into, any other name is what the copy is called. - is a tar archive on the standard output or input. " +
			"Copies inside belong to root, copies here to you. Links are copied as links, and inside lead nowhere out of the container. " +
			"Example: vzcluster cp ./site web:/var/www",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "archive", Aliases: []string{"a"}, Usage: "keep the numbers of owners, as they are inside; an archive on the standard input does"}},
		Action: e.with(2, 2, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
			from, to := c.Args().Get(0), c.Args().Get(1)
			ct, path, out := remotePath(from)
			ct2, path2, in := remotePath(to)
			switch {
			case out && !in:
				return e.copyOut(ctx, c, cl, ct, path, to)
			case in && !out:
				return e.copyIn(ctx, c, cl, from, ct2, path2)
			case in:
				return usagef(c, "both %s and %s are in containers; copy by way of this machine, or with -: cp %s - | cp - %s", from, to, from, to)
			}
			return usagef(c, "neither %s nor %s is in a container, write for example web:/etc/hosts", from, to)
		}),
	}
}

// remotePath takes "web:/etc/hosts" apart. A path of this machine with a colon is written with a slash before it: ./a:b.
func remotePath(arg string) (ct, path string, is bool) {
	ct, path, is = strings.Cut(arg, ":")
	if !is || ct == "" || strings.Contains(ct, "/") {
		return "", "", false
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return ct, path, true
}

func (e *env) copyOut(ctx context.Context, c *cli.Context, cl *api.Client, ct, path, to string) error {
	if to == "-" {
		return cl.Files(ctx, ct, path, func(archive io.Reader) error {
			_, err := io.Copy(e.stdout, archive)
			return err
		})
	}
	dir, name := to, ""
	if st, err := os.Stat(to); err != nil || !st.IsDir() {
		if strings.HasSuffix(to, "/") {
			return usagef(c, "there is no folder %s", to)
		}
		dir, name = filepath.Dir(to), filepath.Base(to)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return usagef(c, "there is no folder to copy into: %v", err)
	}
	defer root.Close()
	return cl.Files(ctx, ct, path, func(archive io.Reader) error { return unpackTree(root, name, archive, c.Bool("archive")) })
}

func (e *env) copyIn(ctx context.Context, c *cli.Context, cl *api.Client, from, ct, path string) error {
	if from == "-" {
		return cl.PutFiles(ctx, ct, path, e.stdin, false, false)
	}
	if _, err := os.Lstat(from); err != nil {
		return usagef(c, "it cannot be copied: %v", err)
	}
	archive, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := packTree(from, w)
		w.CloseWithError(err)
		packed <- err
	}()
	err := cl.PutFiles(ctx, ct, path, archive, true, !c.Bool("archive"))
	archive.CloseWithError(io.ErrClosedPipe) // the agent may have refused before it has read all
	if why := <-packed; why != nil && why != io.ErrClosedPipe {
		return api.Errorf(api.CodeFailed, "", "the copy is not complete: %v", why)
	}
	return err
}
