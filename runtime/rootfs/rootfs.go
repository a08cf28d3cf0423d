// Package rootfs makes the roots of one host's containers: a read-only template below, the container's private layer
// above, joined by overlayfs. Both stay unshifted on disk; the container's uid range is put on by idmapped mounts, so
// one template serves containers of any range.
//
// It owns everything under Config.Dir and nothing of templates (runtime/image) or of a running container. The one rule
// for callers: a private layer may be written from outside only while its root is not mounted, and Reset must follow.
//
// The layers hold files of any owner and mode, set-uid root ones too, as they are. They are kept in a directory that
// only root can enter; the directories above Config.Dir must let any uid pass (mode o+x), or the container's root
// cannot reach its own root directory.
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// busyWait bounds how long Mount waits for the kernel to let go of a layer that was mounted a moment ago: the mount
// namespace of a dead container is taken down after its last process is gone.
const busyWait = 5 * time.Second

// removed marks directories on their way out, parked those of layers that were put aside; New deletes what a former
// process left of both.
const (
	removed = ".removed-"
	parked  = ".parked-"
)

// Config says where the roots are.
type Config struct {
	Dir     string          // holds one directory per container, named by its CTID
	Storage runtime.Storage // keeps the private layers, below Dir
	Log     *slog.Logger
}

// Roots implements runtime.Roots.
type Roots struct {
	dir     string
	storage runtime.Storage
	log     *slog.Logger

	mu   sync.Mutex
	maps map[int]mapping // by container, from the first mount of its root on
}

var _ runtime.Roots = (*Roots)(nil)

// New opens the directory of roots, makes it when it is missing, and deletes what an interrupted Remove left behind.
func New(c Config) (*Roots, error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the directory for container roots: %w", err)
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Roots{dir: dir, storage: c.Storage, log: log, maps: map[int]mapping{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list container roots: %w", err)
	}
	for _, e := range entries {
		var err error
		switch name := filepath.Join(dir, e.Name()); {
		case strings.HasPrefix(e.Name(), removed):
			err = r.discard(name)
		case strings.HasPrefix(e.Name(), parked):
			err = r.storage.Remove(name)
		}
		if err != nil {
			log.Warn("cannot delete what is left of a removed container", "dir", e.Name(), "error", err)
		}
	}
	return r, nil
}

// discard deletes what was a container's directory.
func (r *Roots) discard(dir string) error {
	return errors.Join(r.storage.Remove(filepath.Join(dir, "layer")), r.storage.Remove(filepath.Join(dir, filled)), r.storage.Remove(dir))
}

// path of a part of a container's directory.
func (r *Roots) path(id int, part ...string) string {
	return filepath.Join(append([]string{r.dir, strconv.Itoa(id)}, part...)...)
}

// Layer returns the directory of the private layer, the overlay's upper one.
func (r *Roots) Layer(id int) string { return r.path(id, "layer", "upper") }

// Create makes an empty private layer (idempotent; a layer that exists is opened and kept as it is).
func (r *Roots) Create(id int) error { return r.create(id, runtime.Space{}) }

func (r *Roots) create(id int, limit runtime.Space) error {
	if err := makeDirs(r.path(id), dir{"", 0o700}, dir{"root", 0o755}, dir{"lower", 0o755}, dir{"up", 0o755}); err != nil {
		return fmt.Errorf("make the directory of container %d: %w", id, err)
	}
	if err := r.finishFill(id); err != nil {
		return err
	}
	err := r.storage.Create(r.path(id, "layer"), limit)
	if err == nil {
		err = makeDirs(r.path(id, "layer"), dir{"upper", 0o755}, dir{"work", 0o755})
	}
	if err != nil {
		return fmt.Errorf("make the private layer of container %d: %w", id, err)
	}
	return nil
}

type dir struct {
	name string
	mode os.FileMode
}

// makeDirs makes those that are missing, with their mode whatever the umask is.
func makeDirs(at string, dirs ...dir) error {
	for _, d := range dirs {
		err := os.Mkdir(filepath.Join(at, d.name), d.mode)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = os.Chmod(filepath.Join(at, d.name), d.mode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Mount mounts the root over the template's tree and returns its path; a mounted root is left as it is. It makes the
// private layer when there is none, and waits a few seconds for a layer that is still in use by a dead container.
func (r *Roots) Mount(ctx context.Context, spec runtime.Spec, template string) (string, error) {
	root := r.path(spec.ID, "root")
	if err := r.Create(spec.ID); err != nil {
		return "", err
	}
	if mounted, err := mountinfo.Mounted(root); err != nil {
		return "", fmt.Errorf("look at the root of container %d: %w", spec.ID, err)
	} else if mounted {
		return root, r.mountFolders(spec)
	}
	if spec.UIDBase < runtime.UIDs {
		return "", fmt.Errorf("container %d: uid base %d overlaps the host's own users; give it a range from %d up", spec.ID, spec.UIDBase, runtime.UIDs)
	}
	if err := r.guard(spec); err != nil {
		return "", err
	}
	if err := r.bind(spec, template); err != nil {
		return "", errors.Join(fmt.Errorf("map the layers of container %d: %w", spec.ID, err), r.unbind(spec.ID))
	}
	err := r.overlay(ctx, spec.ID)
	// The overlay holds its own clones of both mounts: nobody needs to see them from now on.
	if err := errors.Join(err, r.unbind(spec.ID)); err != nil {
		return "", err
	}
	if err := r.mountFolders(spec); err != nil {
		return "", errors.Join(err, r.Unmount(spec.ID))
	}
	return root, nil
}

// guard lets only the container's root (and the host's) reach the container's directory: set-uid files in the mounted
// root are nothing for other users of the host.
func (r *Roots) guard(spec runtime.Spec) error {
	dir := r.path(spec.ID)
	if err := os.Chown(dir, int(spec.UIDBase), int(spec.UIDBase)); err != nil {
		return fmt.Errorf("guard the root of container %d: %w", spec.ID, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("guard the root of container %d: %w", spec.ID, err)
	}
	return nil
}

// bind mounts template and layer with the container's ids.
func (r *Roots) bind(spec runtime.Spec, template string) error {
	if err := r.unbind(spec.ID); err != nil { // left by a crash
		return err
	}
	ids, err := r.mapOf(spec)
	if err != nil {
		return err
	}
	if err := bindMapped(template, r.path(spec.ID, "lower"), ids, unix.MOUNT_ATTR_RDONLY); err != nil {
		return err
	}
	return bindMapped(r.path(spec.ID, "layer"), r.path(spec.ID, "up"), ids, 0)
}

// unbind takes both away again (idempotent).
func (r *Roots) unbind(id int) error {
	return errors.Join(unmount(r.path(id, "lower")), unmount(r.path(id, "up")))
}

// overlay mounts the two layers. index, nfs_export and redirect_dir make file handles stable, without which CRIU
// cannot dump an inotify watch.
func (r *Roots) overlay(ctx context.Context, id int) error {
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`)
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,index=on,nfs_export=on,redirect_dir=nofollow",
		escape.Replace(r.path(id, "lower")), escape.Replace(r.path(id, "up", "upper")), escape.Replace(r.path(id, "up", "work")))
	deadline, fresh := time.Now().Add(busyWait), false
	for {
		err := unix.Mount("overlay", r.path(id, "root"), "overlay", 0, options)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.ESTALE) && !fresh:
			// The template was removed and fetched again since the layer was made: its index speaks of another tree.
			r.log.Info("the template's tree is a new one, the layer's index is made anew", "container", id)
			fresh = true
			if err := r.reset(id); err != nil {
				return err
			}
		case errors.Is(err, unix.EBUSY) && time.Now().Before(deadline):
			select {
			case <-ctx.Done():
				return fmt.Errorf("mount the root of container %d: the layer is still in use: %w", id, ctx.Err())
			case <-time.After(20 * time.Millisecond):
			}
		default:
			return fmt.Errorf("mount the root of container %d with overlayfs: %w", id, err)
		}
	}
}

// Unmount unmounts the root (idempotent). A root that is busy is detached: it goes when its last user does.
func (r *Roots) Unmount(id int) error {
	if err := errors.Join(r.unbind(id), r.unmountFolders(id), unmount(r.path(id, "root")), r.storage.Close(r.path(id, "layer"))); err != nil {
		return fmt.Errorf("unmount the root of container %d: %w", id, err)
	}
	return nil
}

// Reset makes a layer that was written from outside mountable: an empty work directory, and no trace of the template
// that the layer lay on before. It refuses a root that is mounted.
func (r *Roots) Reset(id int) error {
	if mounted, err := mountinfo.Mounted(r.path(id, "root")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at the root of container %d: %w", id, err)
	} else if mounted {
		return fmt.Errorf("the root of container %d is mounted: unmount it before its layer is reset", id)
	}
	if err := r.Create(id); err != nil {
		return err
	}
	return r.reset(id)
}

func (r *Roots) reset(id int) error {
	work := r.path(id, "layer", "work")
	if err := os.RemoveAll(work); err != nil {
		return fmt.Errorf("empty the work directory of container %d: %w", id, err)
	}
	err := unix.Lremovexattr(r.Layer(id), "trusted.overlay.origin")
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("reset the layer of container %d: %w", id, err)
	}
	return r.Create(id)
}

// Remove unmounts and deletes the root with its layer (idempotent). What a crash leaves of it is deleted by New.
func (r *Roots) Remove(id int) error {
	if err := r.Unmount(id); err != nil {
		return err
	}
	r.forgetMap(id)
	gone := filepath.Join(r.dir, fmt.Sprintf("%s%d-%d", removed, id, time.Now().UnixNano()))
	err := os.Rename(r.path(id), gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = r.discard(gone)
	}
	if err != nil {
		return fmt.Errorf("delete the root of container %d: %w", id, err)
	}
	return nil
}
