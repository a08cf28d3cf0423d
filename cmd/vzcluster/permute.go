package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcluster/vzcluster/agent/api"
)

// rawAfter says after how many arguments a command's line belongs to a program that it runs.
func rawAfter(command string) int {
	switch command {
	case "vzcluster exec", "vzcluster lab exec":
		return 1
	case "vzcluster runscript":
		return 2
	}
	return -1
}

// permute brings a command line into the order that cli parses: global flags, command, its flags, "--", arguments.
// cli itself stops at the first argument, so that `create 105 --ram 1G` would silently set nothing. It also refuses
// what it does not know. What follows "--", or the container of exec, is left alone.
func permute(app *cli.App, args []string) ([]string, error) {
	p := &permuter{app: app, path: "vzcluster", commands: app.Commands, rest: args[1:]}
	for len(p.rest) > 0 {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if p.help {
		return append(append(args[:1:1], p.words...), "--help"), nil
	}
	if len(p.words) > 0 && len(p.commands) > 0 {
		return nil, p.usage("%s needs one of: %s", subject(p.path), strings.Join(p.names(), ", "))
	}
	out := slices.Concat(args[:1:1], p.global, p.words, p.flags)
	if len(p.words) > 0 {
		out = append(append(out, "--"), p.args...)
	}
	return out, nil
}

type permuter struct {
	app      *cli.App
	path     string // "vzcluster host drain", as far as it is known
	commands []*cli.Command
	command  *cli.Command
	rest     []string // not looked at yet
	help     bool

	global, words, flags, args []string
}

func (p *permuter) usage(format string, args ...any) error {
	return api.Errorf(api.CodeUsage, fmt.Sprintf("see `%s --help`", p.path), format, args...)
}

// lacks begins the sentence that something is unknown; errors begin with the program's name anyway.
func (p *permuter) lacks() string {
	if p.command == nil {
		return "there is no"
	}
	return subject(p.path) + " has no"
}

func (p *permuter) pop() string {
	word := p.rest[0]
	p.rest = p.rest[1:]
	return word
}

func (p *permuter) next() error {
	word := p.pop()
	switch {
	case word == "--":
		p.args, p.rest = append(p.args, p.rest...), nil
	case len(word) > 1 && word[0] == '-':
		return p.flag(word)
	case len(p.commands) > 0 && word == "help":
		p.help = true
	case len(p.commands) > 0:
		return p.enter(word)
	default:
		p.args = append(p.args, word)
		if len(p.args) == rawAfter(p.path) {
			if len(p.rest) > 0 && p.rest[0] == "--" {
				p.pop()
			}
			p.args, p.rest = append(p.args, p.rest...), nil
		}
	}
	return nil
}

// enter takes a word as the name of a command.
func (p *permuter) enter(word string) error {
	i := slices.IndexFunc(p.commands, func(c *cli.Command) bool { return slices.Contains(c.Names(), word) })
	if i < 0 {
		hint := ""
		if near := nearest(word, p.names()); near != "" {
			hint = fmt.Sprintf(" (did you mean `%s`?)", near)
		}
		return p.usage("%s command `%s`%s", p.lacks(), word, hint)
	}
	p.command = p.commands[i]
	p.commands = p.command.Subcommands
	p.path += " " + p.command.Name
	p.words = append(p.words, p.command.Name)
	return nil
}

func (p *permuter) names() []string {
	var names []string
	for _, c := range p.commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

// flag takes a word that starts with a dash: --name, --name=value, -n value, -nvalue, or several short ones in one.
func (p *permuter) flag(word string) error {
	name, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
	if name == "h" || name == "help" {
		p.help = true
		return nil
	}
	if name == "version" && p.command == nil {
		return p.enter(name)
	}
	if f, global := p.find(name); f != nil {
		return p.take(f, global, word, value, hasValue)
	}
	if short := word[1:]; word[1] != '-' {
		if f, _ := p.find(short[:1]); f != nil {
			return p.shorts(short)
		}
	}
	hint := ""
	if near := nearest(name, p.flagNames()); near != "" {
		hint = fmt.Sprintf(" (did you mean `--%s`?)", near)
	}
	return p.usage("%s flag `%s`%s", p.lacks(), strings.SplitN(word, "=", 2)[0], hint)
}

// shorts takes -itx as -i -t -x; one that wants a value takes the rest of the word.
func (p *permuter) shorts(letters string) error {
	for i := range letters {
		f, global := p.find(letters[i : i+1])
		word := "-" + letters[i:i+1]
		if f == nil {
			return p.usage("%s flag `%s`", p.lacks(), word)
		}
		if rest := letters[i+1:]; !isBool(f) && rest != "" {
			return p.take(f, global, word, strings.TrimPrefix(rest, "="), true)
		}
		if err := p.take(f, global, word, "", false); err != nil {
			return err
		}
	}
	return nil
}

func (p *permuter) take(f cli.Flag, global bool, word, value string, hasValue bool) error {
	if !hasValue && !isBool(f) {
		if len(p.rest) == 0 {
			return p.usage("%s wants a value", word)
		}
		value, hasValue = p.pop(), true
	}
	out := "--" + f.Names()[0]
	if hasValue {
		out += "=" + value
	}
	if global {
		p.global = append(p.global, out)
	} else {
		p.flags = append(p.flags, out)
	}
	return nil
}

// find looks for a flag in the command, then among the global ones.
func (p *permuter) find(name string) (f cli.Flag, global bool) {
	if p.command != nil {
		if f := findFlag(p.command.Flags, name); f != nil {
			return f, false
		}
	}
	return findFlag(p.app.Flags, name), true
}

func (p *permuter) flagNames() []string {
	flags := p.app.Flags
	if p.command != nil {
		flags = slices.Concat(p.command.Flags, flags)
	}
	var names []string
	for _, f := range flags {
		names = append(names, f.Names()[0])
	}
	return names
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func isBool(f cli.Flag) bool {
	_, ok := f.(*cli.BoolFlag)
	return ok
}

// nearest returns the name that the user may have meant, or "".
func nearest(word string, names []string) string {
	best, at := "", 3 // at most two slips
	for _, n := range names {
		d := distance(word, n)
		if len(word) > 2 && strings.HasPrefix(n, word) {
			d = min(d, 1)
		}
		if d < at && d < min(len(n), len(word)) {
			best, at = n, d
		}
	}
	return best
}

// distance counts the letters to insert, remove or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
