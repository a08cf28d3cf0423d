package main

import (
	"context"
	"io"
	"net/url"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/image"
)

func templateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "template", Usage: "root file systems that containers start from",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list templates", Action: e.with(0, 0, e.listTemplates)},
			{
				Name: "show", Usage: "show a template and what was changed to make it migratable", ArgsUsage: "NAME",
				Action: e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
					t, err := cl.Template(ctx, c.Args().First())
					if err != nil {
						return err
					}
					return e.show(c, t, templateRecord(t))
				}),
			},
			{
				Name: "import", Usage: "make a template of an archive, a directory or an OCI image", ArgsUsage: "NAME FILE|DIR|docker://IMAGE|-",
				Description: "It takes a tar of a root file system (plain, gz, xz, zst; a cached template of OpenVZ is one), a directory with\n" +
					"one, stdin (-), and OCI images: what `docker save` wrote, a layout (directory or tar), or one of a registry.\n" +
					"Example: vzcluster template import alpine docker://docker.io/library/alpine:3.22",
				Action: e.with(2, 2, e.importTemplate),
			},
			{
				Name: "build", Usage: "make a template from packages, here, and send it to the cluster", ArgsUsage: "NAME",
				Description: "NAME is " + strings.Join(image.Recipes(), ", ") + ", or a name of your own together with --suite.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "include", Usage: "more `PACKAGES` of the distribution, separated by commas"},
					&cli.StringFlag{Name: "suite", Usage: "build `RECIPE` under the name NAME"},
					&cli.BoolFlag{Name: "fresh", Usage: "build again even if the cache has it"},
				},
				Action: e.buildTemplate,
			},
			{
				Name: "rm", Aliases: []string{"remove"}, Usage: "remove a template that no container uses", ArgsUsage: "NAME",
				Description: "Snapshots and what is in the trash count too. Example: vzcluster template rm debian-11",
				Action:      e.with(1, 1, e.dropTemplate),
			},
			templateGCCommand(e),
		},
	}
}

func (e *env) listTemplates(ctx context.Context, c *cli.Context, cl *api.Client) error {
	ts, err := cl.Templates(ctx)
	if err != nil {
		return err
	}
	return e.show(c, ts, templateView(ts))
}

func (e *env) dropTemplate(ctx context.Context, c *cli.Context, cl *api.Client) error {
	name := c.Args().First()
	if err := cl.DropTemplate(ctx, name); err != nil {
		return err
	}
	return e.show(c, map[string]string{"removed": name}, view{names: []string{name}, text: "removed " + name + "\n"})
}

func (e *env) buildTemplate(c *cli.Context) error {
	name, recipe := c.Args().First(), c.String("suite")
	if recipe == "" {
		recipe = name
	}
	include := strings.FieldsFunc(c.String("include"), func(r rune) bool { return r == ',' || r == ' ' })
	return e.with(1, 1, func(ctx context.Context, c *cli.Context, cl *api.Client) error {
		if err := image.CheckBuild(recipe, include); err != nil {
			return usagef(c, "%v", err)
		}
		if _, err := cl.Status(ctx); err != nil {
			return err // better now than after minutes of building
		}
		file, err := image.Build(ctx, recipe, image.BuildOptions{Include: include, Fresh: c.Bool("fresh"), Log: e.stderr})
		if err != nil {
			return err
		}
		return e.sendTemplate(ctx, c, cl, source{name: name, path: file, says: "built from " + recipe})
	})(c)
}

func (e *env) importTemplate(ctx context.Context, c *cli.Context, cl *api.Client) error {
	path := c.Args().Get(1)
	return e.sendTemplate(ctx, c, cl, source{name: c.Args().First(), path: path, says: "imported from " + path})
}

// source is where a template's archive comes from.
type source struct {
	name string
	path string // a file, a directory, or - for stdin
	says string // kept with the template
}

func (e *env) sendTemplate(ctx context.Context, c *cli.Context, cl *api.Client, s source) error {
	archive, err := e.open(ctx, s.path)
	if err != nil {
		return api.Errorf(api.CodeUsage, "", "%s cannot be read: %v", s.path, err)
	}
	defer archive.Close()
	e.progress("sending %s", s.name)
	t, err := cl.PutTemplate(ctx, s.name, url.Values{"systemd": {"auto"}, "source": {s.says}}, archive)
	if err != nil {
		return err
	}
	for _, p := range t.Prepared {
		e.progress("prepared: %s", p)
	}
	return e.show(c, t, templateView([]cluster.Template{t}))
}

// open opens what a template is made of; - is stdin.
func (e *env) open(ctx context.Context, from string) (io.ReadCloser, error) {
	if from == "-" {
		return io.NopCloser(e.stdin), nil
	}
	if image.RegistrySource(from) {
		e.progress("getting %s", from)
	}
	return image.OpenSource(ctx, from, image.OpenOptions{})
}
