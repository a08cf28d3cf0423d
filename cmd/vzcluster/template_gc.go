package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

func templateGCCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "gc", Usage: "delete the copies of templates that their hosts do not need",
		Description: "A copy stays while a container, a snapshot or something in the trash of its host lies on it, while a container or a\n" +
			"template is on its way there, and when it is the last one of a template; -o wide shows them too.\n" +
			"Example: vzcluster template gc --older 24h --dry-run",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "older", Value: "720h", Usage: "only copies that were not used for `TIME`"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show them, and delete nothing"},
		},
		Action: e.with(0, 0, e.collectTemplates),
	}
}

func (e *env) collectTemplates(ctx context.Context, c *cli.Context, cl *api.Client) error {
	older, err := flagValue(c, "older", parseDuration)
	if err != nil {
		return err
	}
	res, err := cl.Collect(ctx, api.CollectRequest{OlderMS: older.Milliseconds(), DryRun: c.Bool("dry-run")})
	if err != nil {
		return err
	}
	if err := e.show(c, res, collectView(res, c.Bool("dry-run"), c.String("output") == "wide")); err != nil || len(res.Failed) == 0 {
		return err
	}
	var failed []string
	for _, f := range res.Failed {
		failed = append(failed, f.Host+": "+f.Error)
	}
	return api.Errorf(api.CodeFailed, "repeat it when they are back", "not done on %s", strings.Join(failed, "; "))
}

// collectView shows the copies that are gone, or would be; on demand those that stay too.
func collectView(res api.CollectResult, dry, all bool) view {
	v := view{head: []string{"HOST", "TEMPLATE", "SIZE", "USED", "WHAT"}}
	word := "deleted"
	if dry {
		word = "would be deleted"
	}
	var n, bytes int64
	for _, t := range res.Copies {
		what, name := word, t.Name
		if name == "" {
			name = t.Digest
		}
		if t.Kept == "" {
			n, bytes = n+1, bytes+t.Bytes
			v.names = append(v.names, t.Host+"/"+name)
		} else if what = "stays: " + t.Kept; !all {
			continue
		}
		v.rows = append(v.rows, []string{t.Host, name, cluster.Bytes(t.Bytes), moment(t.Used), what})
	}
	v.text = fmt.Sprintf("%d of %d copies %s, about %s\n", n, len(res.Copies), word, cluster.Bytes(bytes))
	if len(v.rows) > 0 {
		v.text = v.table() + v.text
	}
	return v
}
