package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/runtime"
	"github.com/vzcluster/vzcluster/runtime/cgroup"
	"github.com/vzcluster/vzcluster/runtime/rootfs"
	"github.com/vzcluster/vzcluster/runtime/runc"
	"github.com/vzcluster/vzcluster/runtime/storage"
)

// insideArg makes this program carry out one order inside a lab host: JSON on stdin, JSON on stdout.
const insideArg = "inside"

// Where a floor's containers live inside a lab host.
const (
	floorDir    = hostData + "/vzbench" // on the host's own disk
	floorState  = "/run/vzbench-runc"
	floorImages = "/dev/shm/vzbench-images"
	floorParent = "vzbench" // cgroup
	floorID     = 1         // of the container in its roots
	floorName   = "ct"      // and in runc's state
)

//go:embed hook.sh
var hookScript string

// criuConfig is that of the recipe: the network lock that costs least among those that runc can be told of.
const criuConfig = "network-lock nftables\n"

// order is what is to be done inside a host. A place is one of two, A and B: each stands for a host of its own.
type order struct {
	Do     string   `json:"do"`    // one of the verbs below
	Place  string   `json:"place"` // move: from here to the other one
	Tree   string   `json:"tree,omitempty"`
	UID    uint32   `json:"uid,omitempty"`
	Config []byte   `json:"config,omitempty"` // the agent's specification
	NIC    nic      `json:"nic,omitzero"`
	Mounts style    `json:"mounts,omitempty"`
	Copy   bool     `json:"copy,omitempty"`  // again: copy the images, as to another host
	Width  int      `json:"width,omitempty"` // raw: how many at once
	Args   []string `json:"args,omitempty"`  // raw: the program
	Count  int      `json:"count,omitempty"` // raw: how many of it; hash, calls: how often
	Log    string   `json:"log,omitempty"`   // watch: in this file; subvolume: it
	Text   string   `json:"text,omitempty"`  // watch: for this
}

// done is what came of it; the times are nanoseconds since 1970.
type done struct {
	Began int64  `json:"began"`
	Ended int64  `json:"ended"`
	Error string `json:"error,omitempty"`
}

// inside carries out the order on stdin.
func inside(ctx context.Context, in io.Reader, out io.Writer) error {
	var o order
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	verbs := map[string]func(context.Context, order) error{
		"prepare": prepareFloor, "start": startFloor, "move": moveFloor, "again": againFloor, "stop": stopFloor, "watch": watch,
		"raw-start": startRaw, "raw": moveRaw, "raw-stop": stopRaw,
		"delete": deleteFloor, "subvolume": copySubvolume, "hash": hash, "calls": calls,
	}
	do, ok := verbs[o.Do]
	if !ok {
		return fmt.Errorf("there is no order %q", o.Do)
	}
	d := done{Began: time.Now().UnixNano()}
	err := do(ctx, o)
	d.Ended = time.Now().UnixNano()
	if err != nil {
		d.Error = err.Error()
	}
	return json.NewEncoder(out).Encode(d)
}

func bundleOf(at string) string { return filepath.Join(floorDir, at, "bundle") }

func rootsOf(at string) (*rootfs.Roots, error) {
	dir := filepath.Join(floorDir, at, "roots")
	store, err := storage.Open(storage.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	return rootfs.New(rootfs.Config{Dir: dir, Storage: store})
}

func rootPath(at string) string {
	return filepath.Join(floorDir, at, "roots", fmt.Sprint(floorID), "root")
}

// floorLog is where PID 1 of a floor's container with our mounts leaves its log.
func floorLog(at string) string {
	return filepath.Join(floorDir, at, "roots", fmt.Sprint(floorID), "layer", "upper", "dev", "kmsg")
}

func specOf(o order) runtime.Spec {
	return runtime.Spec{ID: floorID, Name: floorName, Hostname: floorName, UIDBase: o.UID}
}

// prepareFloor makes both bundles, and in the order's place everything that a container needs before runc is called.
func prepareFloor(ctx context.Context, o order) error {
	for _, at := range []string{"A", "B"} {
		if err := writeBundle(o, at); err != nil {
			return err
		}
	}
	roots, err := rootsOf(o.Place)
	if err != nil {
		return err
	}
	root, err := roots.Mount(ctx, specOf(o), o.Tree)
	if err != nil {
		return err
	}
	if err := roots.Personalize(specOf(o), root); err != nil {
		return err
	}
	if err := clean(root, int(o.UID)); err != nil {
		return err
	}
	groups, err := cgroup.New(cgroup.Config{Parent: floorParent})
	if err != nil {
		return err
	}
	return groups.Create(floorID, runtime.Limits{}, o.UID)
}

func writeBundle(o order, at string) error {
	dir := bundleOf(at)
	if err := os.MkdirAll(dir, 0o711); err != nil { // the container's root must be able to pass
		return err
	}
	p := place{
		root: rootPath(at), cgroup: fmt.Sprintf("/%s/%d", floorParent, floorID),
		hook: filepath.Join(dir, "hook.sh"), criu: filepath.Join(dir, "criu.conf"),
	}
	if _, err := exec.LookPath("iptables-restore"); err == nil && o.Mounts == plain {
		p.criu = "" // CRIU's defaults; without iptables they do not work, and nftables is the quicker way anyhow
	}
	config, err := adapt(o.Config, p, o.NIC, o.Mounts)
	if err != nil {
		return err
	}
	if p.criu != "" {
		if err := os.WriteFile(p.criu, []byte(criuConfig), 0o600); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600),
		os.WriteFile(p.hook, []byte(hookScript), 0o700))
}

// clean empties what a reboot empties and begins a boot log, as our agent does before a start.
func clean(path string, owner int) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, d := range runc.New(runc.Config{}).Volatile() {
		err := errors.Join(root.RemoveAll(d.Path), root.Mkdir(d.Path, 0o700), root.Chmod(d.Path, d.Mode), root.Lchown(d.Path, owner, owner))
		if err != nil {
			return err
		}
	}
	if err := root.RemoveAll("dev/kmsg"); err != nil {
		return err
	}
	if err := root.WriteFile("dev/kmsg", nil, 0o640); err != nil {
		return err
	}
	return root.Lchown("dev/kmsg", owner, owner)
}

// plainRunc calls runc with nothing on its standard streams; they become the container's.
func plainRunc(ctx context.Context, at string, args ...string) error {
	log := filepath.Join(bundleOf(at), "runc.log")
	if err := os.Remove(log); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all := append([]string{"--root", filepath.Join(floorState, at), "--log", log}, args...)
	if err := exec.CommandContext(ctx, "runc", all...).Run(); err != nil {
		text, _ := os.ReadFile(log)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		return fmt.Errorf("runc %s: %w: %s", args[0], err, lines[len(lines)-1])
	}
	return nil
}

// startFloor is what is timed: a container of a prepared root, by hand.
func startFloor(ctx context.Context, o order) error {
	return plainRunc(ctx, o.Place, "run", "-d", "--bundle", bundleOf(o.Place), floorName)
}

// moveFloor moves the container to the other place, as one does by hand: checkpoint, copy of the layer, restore.
func moveFloor(ctx context.Context, o order) error {
	src, dst := o.Place, map[string]string{"A": "B", "B": "A"}[o.Place]
	if err := errors.Join(os.RemoveAll(floorImages), os.MkdirAll(floorImages, 0o755)); err != nil {
		return err
	}
	from, err := rootsOf(src)
	if err != nil {
		return err
	}
	to, err := rootsOf(dst)
	if err != nil {
		return err
	}
	if err := errors.Join(to.Remove(floorID), to.Create(floorID)); err != nil {
		return err
	}
	flags := []string{"--file-locks", "--tcp-established", "--ext-unix-sk", "--manage-cgroups-mode", "full", "--image-path", floorImages}
	err = plainRunc(ctx, src, append(append([]string{"checkpoint"}, flags...), "--work-path", bundleOf(src), floorName)...)
	if err != nil {
		return criuError(err, filepath.Join(bundleOf(src), "dump.log"))
	}
	const copyLayer = `tar -C "$0" --xattrs --xattrs-include='*' --xattrs-exclude=trusted.overlay.origin --numeric-owner -cf - . |
		tar -C "$1" --xattrs --xattrs-include='*' --numeric-owner -xf -`
	if text, err := exec.CommandContext(ctx, "sh", "-c", copyLayer, from.Layer(floorID), to.Layer(floorID)).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the layer: %w: %s", err, text)
	}
	if _, err := to.Mount(ctx, specOf(o), o.Tree); err != nil {
		return err
	}
	restore := append(append([]string{"restore", "-d"}, flags...), "--bundle", bundleOf(dst), "--work-path", bundleOf(dst), floorName)
	if err := plainRunc(ctx, dst, restore...); err != nil {
		return criuError(err, filepath.Join(bundleOf(dst), "restore.log"))
	}
	return nil
}

// againFloor checkpoints the container and restores it in the same place, with nothing but what it takes for connections:
// the plain way on one host. With Copy the images go to another folder in between, as they must on the way to another host.
func againFloor(ctx context.Context, o order) error {
	images := filepath.Join(floorDir, "images")
	use := images
	if err := errors.Join(os.RemoveAll(images), os.RemoveAll(images+".copy"), os.MkdirAll(images, 0o755)); err != nil {
		return err
	}
	at := bundleOf(o.Place)
	err := plainRunc(ctx, o.Place, "checkpoint", "--tcp-established", "--image-path", images, "--work-path", at, floorName)
	if err != nil {
		return criuError(err, filepath.Join(at, "dump.log"))
	}
	if o.Copy {
		use = images + ".copy"
		if text, err := exec.CommandContext(ctx, "cp", "-a", images, use).CombinedOutput(); err != nil {
			return fmt.Errorf("copy the images: %w: %s", err, text)
		}
	}
	err = plainRunc(ctx, o.Place, "restore", "-d", "--tcp-established", "--image-path", use, "--work-path", at, "--bundle", at, floorName)
	if err != nil {
		return criuError(err, filepath.Join(at, "restore.log"))
	}
	return errors.Join(os.RemoveAll(images), os.RemoveAll(images+".copy"))
}

// criuError adds the first error of CRIU's log.
func criuError(err error, log string) error {
	text, _ := os.ReadFile(log)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "Error (") && !strings.Contains(line, "rlimit: ") {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(line))
		}
	}
	return err
}

// stopFloor takes away what is left of a floor's container, in both places.
func stopFloor(ctx context.Context, _ order) error {
	var errs []error
	for _, at := range []string{"A", "B"} {
		if _, err := os.Stat(filepath.Join(floorState, at, floorName)); err == nil {
			errs = append(errs, plainRunc(ctx, at, "delete", "--force", floorName))
		}
		if _, err := os.Stat(filepath.Join(floorDir, at)); err == nil {
			roots, err := rootsOf(at)
			if err == nil {
				err = roots.Remove(floorID)
			}
			errs = append(errs, err)
		}
	}
	groups, err := cgroup.New(cgroup.Config{Parent: floorParent})
	if err == nil {
		err = errors.Join(groups.KillAll(ctx, floorID), groups.Remove(floorID))
	}
	return errors.Join(append(errs, err, os.RemoveAll(floorImages))...)
}

// watch returns as soon as a text is in a file, which need not exist yet.
func watch(ctx context.Context, o order) error {
	return waitUntil(ctx, fmt.Sprintf("%q in %s", o.Text, o.Log), 2*time.Millisecond, func() (bool, error) {
		text, err := os.ReadFile(o.Log)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return strings.Contains(string(text), o.Text), nil
	})
}
