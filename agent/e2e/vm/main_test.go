package vm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/lab/vm"
)

// long, in the environment, asks for all tests; `make test-vm` sets it.
const long = "VZCLUSTER_TEST_VM"

// patience is for what an emulated machine does, on a host that may have other work: a boot takes minutes then.
const patience = 5 * time.Minute

// world is what all tests share. It is filled by TestMain, before the first test.
type world struct {
	dir                                 string
	vzcluster, traffic, clocks, ballast string // programs
	memory                              string // tests, of migrate/memory
	long                                bool

	once sync.Once
	lab  *vm.Lab
	err  error
}

var shared world

func TestMain(m *testing.M) {
	flag.Parse()
	code := 1
	if err := shared.prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	} else {
		code = m.Run()
	}
	if err := shared.remove(); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = 1
	}
	os.Exit(code)
}

func (w *world) prepare() (err error) {
	w.long = os.Getenv(long) != ""
	if vm.Able() != nil || testing.Short() {
		return nil // every test says so
	}
	if w.dir, err = os.MkdirTemp("/var/tmp", "vzcluster-vm-"); err != nil {
		return err
	}
	for _, p := range []struct {
		program *string
		name    string
		args    []string
	}{
		{&w.vzcluster, "vzcluster", []string{"build", "../../../cmd/vzcluster"}},
		{&w.traffic, "traffic", []string{"build", "../testdata/traffic"}},
		{&w.clocks, "clocks", []string{"build", "./testdata/clocks"}},
		{&w.ballast, "ballast", []string{"build", "./testdata/ballast"}},
		{&w.memory, "memory.test", []string{"test", "-c", "../../../migrate/memory"}},
	} {
		*p.program = filepath.Join(w.dir, p.name)
		last := len(p.args) - 1
		build := exec.Command("go", append(slices.Clone(p.args[:last]), "-o", *p.program, p.args[last])...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", p.name, err, out)
		}
	}
	return nil
}

func (w *world) remove() error {
	var errs []error
	if w.lab != nil {
		errs = append(errs, w.lab.Down())
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}

// up makes the lab. The second host's wall clock is ahead of the others'.
func (w *world) up() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	began := time.Now()
	w.lab, w.err = vm.Up(ctx, vm.Options{
		Hosts: 2, Binary: w.vzcluster, Memory: 1536 << 20, Ahead: []time.Duration{0, 20 * time.Minute},
		Tell: func(step string) { fmt.Fprintf(os.Stderr, "vm: %5.1f s %s\n", time.Since(began).Seconds(), step) },
	})
	fmt.Fprintf(os.Stderr, "vm: %5.1f s up\n", time.Since(began).Seconds())
}
