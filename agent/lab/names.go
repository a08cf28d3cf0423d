package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/vzcluster/vzcluster/runtime/cgroup"
)

// CheckName says what is wrong with the name of a lab.
func CheckName(name string) error {
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`).MatchString(name) {
		return fmt.Errorf("%q cannot name a lab: use small letters, digits and hyphens", name)
	}
	return nil
}

// Exists reports whether anything is left of a lab, also of one that is broken or half made. An empty dir means
// DefaultDir.
func Exists(dir, name string) (bool, error) {
	if dir == "" {
		dir = DefaultDir
	}
	tree, err := cgroup.OpenTree("")
	if err != nil {
		return false, err
	}
	l := &Lab{dir: filepath.Join(dir, name), name: name, tree: tree}
	traces := []string{l.dir}
	for _, d := range tree.Dirs() {
		traces = append(traces, filepath.Join(d, l.group("")))
	}
	return slices.ContainsFunc(traces, func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}), nil
}

// List returns the names of the labs that are up, as far as the caller may know. An empty dir means DefaultDir.
func List(dir string) []string {
	if dir == "" {
		dir = DefaultDir
	}
	names := []string{DefaultName} // can be looked for also by those who may not list the directory
	if entries, err := os.ReadDir(dir); err == nil {
		names = nil
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	return slices.DeleteFunc(names, func(name string) bool {
		s, err := loadState(filepath.Join(dir, name))
		return err != nil || !s.anyAlive()
	})
}

func (l *Lab) errOff(host string) error {
	return fmt.Errorf("%s is switched off; `vzcluster lab start%s %s` switches it on", host, l.flag(), host)
}

func (l *Lab) notUp() error {
	return fmt.Errorf("%s: %w; `vzcluster lab up%s` makes it", l.name, ErrNotUp, l.flag())
}

func (l *Lab) noMachine(host string) error {
	return fmt.Errorf("%s: %w; `vzcluster lab status%s` lists them", host, ErrNoMachine, l.flag())
}

// flag is what a command line needs to mean this lab.
func (l *Lab) flag() string {
	if l.name == DefaultName {
		return ""
	}
	return " --name " + l.name
}
