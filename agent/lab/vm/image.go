package vm

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// recipe makes the disk that all machines boot from.
//
//go:embed image.sh
var recipe string

// DefaultCache is where the image is kept; `vzcluster setup remove` deletes what is above it.
const DefaultCache = "/var/cache/vzcluster/vm"

// Image is what a machine boots. Its files are never written to.
type Image struct{ Kernel, Initrd, Root string }

// programs are what making and running machines needs, and their Debian packages.
func programs() map[string]string {
	return map[string]string{
		"qemu-system-x86_64": "qemu-system-x86", "mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "busybox": "busybox-static",
		"ssh": "openssh-client", "ssh-keygen": "openssh-client",
	}
}

// ErrUnable says that this host cannot run such machines, and why.
var ErrUnable = errors.New("this host cannot run machines")

// Able says what is missing here, as an ErrUnable.
func Able() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: it needs root", ErrUnable)
	}
	for program, pkg := range programs() {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: %s is missing: apt-get install %s", ErrUnable, program, pkg)
		}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("%w: the kernel has no tun devices: %w", ErrUnable, err)
	}
	return nil
}

// Ensure returns the image, and makes it first if the cache has none of this recipe: that takes some minutes and
// downloads about 100 MB of packages. Images of other recipes are removed.
func Ensure(ctx context.Context, cache string) (Image, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Image{}, fmt.Errorf("make the cache of machine images: %w", err)
	}
	lock, err := os.Open(cache) // of two that need it one makes it
	if err != nil {
		return Image{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return Image{}, fmt.Errorf("lock the cache of machine images: %w", err)
	}
	sum := sha256.Sum256([]byte(recipe))
	dir := filepath.Join(cache, hex.EncodeToString(sum[:6]))
	image := Image{filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd"), filepath.Join(dir, "root.img")}
	if _, err := os.Stat(dir); err == nil {
		return image, nil
	}
	old, err := os.ReadDir(cache)
	if err != nil {
		return Image{}, err
	}
	for _, e := range old {
		if err := os.RemoveAll(filepath.Join(cache, e.Name())); err != nil {
			return Image{}, fmt.Errorf("remove an old machine image: %w", err)
		}
	}
	if err := build(ctx, dir+".new"); err != nil {
		return Image{}, errors.Join(err, os.RemoveAll(dir+".new"))
	}
	return image, os.Rename(dir+".new", dir)
}

func build(ctx context.Context, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "sh", "-c", recipe, "image.sh", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the image of the machines: %w: %s", err, tail(out))
	}
	return nil
}

// tail is the end of a program's output.
func tail(out []byte) []byte { return out[max(0, len(out)-2000):] }
