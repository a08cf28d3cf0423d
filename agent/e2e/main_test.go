package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/lab"
)

const criuBinary = "/var/cache/vzcluster/bin/criu"

// world is what all tests share.
type world struct {
	dir, vzcluster, traffic string
	load, objects           string // for the workloads, see testdata
	skip                    string // why nothing can be tested here; empty: everything can
	begun                   time.Time
	seed                    uint64 // unless another one is given

	once sync.Once
	lab  *lab.Lab
	err  error
}

// It is filled by TestMain, before the first test.
var shared world

func TestMain(m *testing.M) {
	flag.Parse()
	code := 1
	if err := shared.prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	} else {
		code = m.Run()
	}
	if err := shared.remove(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// prepare builds the programs where the lab's hosts, each with a /tmp of its own, see them too.
func (w *world) prepare() error {
	w.begun, w.seed = time.Now(), 1 // a run that fails shall say something about the change
	if wholeCampaign() {
		w.seed = uint64(w.begun.Unix())
	}
	if os.Geteuid() != 0 {
		w.skip = "a lab needs root"
		return nil
	}
	if _, err := os.Stat(criuBinary); err != nil {
		w.skip = "there is no CRIU; `make setup` installs it"
		return nil
	}
	var err error
	if w.dir, err = os.MkdirTemp("/var/tmp", "vzcluster-e2e-"); err != nil {
		return err
	}
	if err := os.Chmod(w.dir, 0o755); err != nil {
		return err
	}
	w.vzcluster, w.traffic = filepath.Join(w.dir, "vzcluster"), filepath.Join(w.dir, "traffic")
	w.load, w.objects = filepath.Join(w.dir, "load"), filepath.Join(w.dir, "objects")
	for program, source := range map[string]string{
		w.vzcluster: "../../cmd/vzcluster", w.traffic: "./testdata/traffic", w.load: "./testdata/load", w.objects: "./testdata/objects",
	} {
		build := exec.Command("go", "build", "-o", program, source)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", source, err, out)
		}
	}
	return nil
}

func (w *world) remove() error {
	if w.lab != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.lab.Down(ctx); err != nil {
			return err
		}
	}
	if w.dir == "" {
		return nil
	}
	return os.RemoveAll(w.dir)
}

// up makes a lab whose hosts have room for many small containers.
func (w *world) up(ctx context.Context, name string, hosts int) (*lab.Lab, error) {
	return lab.Up(ctx, w.options(name, hosts))
}

func (w *world) options(name string, hosts int) lab.Options {
	return lab.Options{Name: labName(name), Hosts: hosts, Binary: w.vzcluster, CPUs: 8, RAM: 8 << 30, Disk: 100 << 30}
}

// labName makes a name that no other lab of this machine has.
func labName(name string) string { return fmt.Sprintf("e2e-%s%d", name, os.Getpid()) }
