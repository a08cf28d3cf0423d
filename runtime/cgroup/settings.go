package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/runtime"
)

// setting is one value of a limit file.
type setting struct {
	file  string
	key   string // of a file with several values: the device, or "default"
	value string
	none  string // the value that limits nothing: it need not be set where the file is missing
	what  string // is limited, for people
}

// text is what is written to set a value.
func (s setting) text(value string) string {
	switch {
	case s.key != "":
		return s.key + " " + value
	case value == "": // an empty write is none
		return "\n"
	}
	return value
}

// now reads the value that is set.
func (s setting) now() (string, error) {
	b, err := os.ReadFile(s.file)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(b))
	if s.key == "" {
		return text, nil
	}
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, s.key+" "); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return s.none, nil
}

// change makes all the settings or none of them.
func change(ss []setting) error {
	var undo []func() error
	for _, s := range ss {
		old, err := s.now()
		if errors.Is(err, fs.ErrNotExist) && s.none == s.value {
			continue
		}
		if err == nil && old == s.value {
			continue
		}
		if err == nil {
			err = os.WriteFile(s.file, []byte(s.text(s.value)), 0)
		}
		if err != nil {
			return errors.Join(s.refusal(err), undone(undo))
		}
		undo = append(undo, func() error { return os.WriteFile(s.file, []byte(s.text(old)), 0) })
	}
	return nil
}

func (s setting) refusal(err error) error {
	if errors.Is(err, fs.ErrNotExist) && s.what != "" {
		return runtime.Unable(fmt.Sprintf("%s cannot be limited on this host: its kernel has no %s", s.what, s.file))
	}
	return err
}

func undone(undo []func() error) error {
	var errs []error
	for _, u := range slices.Backward(undo) {
		if err := u(); err != nil {
			errs = append(errs, fmt.Errorf("cannot put a limit back: %w", err))
		}
	}
	return errors.Join(errs...)
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// orMax is a number as v2 writes it: zero is no limit.
func orMax(n int64) string {
	if n == 0 {
		return "max"
	}
	return number(n)
}

// ioWeight is the weight of I/O, 100 being normal.
func ioWeight(l runtime.Limits) int64 {
	if l.IOWeight == 0 {
		return 100
	}
	return l.IOWeight
}

// readNumber reads a file that holds one number; "max" is the largest.
func readNumber(name string) (int64, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(b))
	if text == "max" {
		return unlimited, nil
	}
	return strconv.ParseInt(text, 10, 64)
}
