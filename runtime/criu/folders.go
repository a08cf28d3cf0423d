package criu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vzcluster/vzcluster/runtime"
)

// foldersImage is a file of ours among CRIU's: the cgroups below the container's, with their limits. CRIU makes only those
// again that have processes, but systemd watches the empty ones too, and it forgets the limits of cgroup v2.
const foldersImage = "vz-cgroups.img"

// folder is one cgroup.
type folder struct {
	Name        string            `json:"name"`                  // below the container's; "." is that itself
	Limits      map[string]string `json:"limits,omitempty"`      // of files below, where they are not the kernel's defaults
	Controllers string            `json:"controllers,omitempty"` // that it hands down
}

// limits are the files that systemd inside sets limits in, with what the kernel has in them at first.
func limits() map[string]string {
	return map[string]string{
		"cpu.max": "max 100000", "cpu.weight": "100", "io.weight": "default 100", "pids.max": "max",
		"memory.high": "max", "memory.max": "max", "memory.swap.max": "max", "memory.low": "0", "memory.min": "0", "memory.oom.group": "0",
	}
}

const controllersFile = "cgroup.subtree_control"

// What a container may have of them; more is nobody's systemd.
const (
	maxFolders     = 4096
	maxFoldersSize = 1 << 20 // bytes of the image
)

// isUnified says whether the container's cgroup is on a host with cgroup v2 only.
func isUnified(ct runtime.Checkpoint) bool {
	_, err := os.Stat(filepath.Join(strings.TrimSuffix(ct.Freezer, ct.Cgroup), "cgroup.controllers"))
	return err == nil
}

// dumpFolders writes foldersImage. On hosts with cgroup v1 nothing watches cgroups.
func dumpFolders(ct runtime.Checkpoint, images string) error {
	if !isUnified(ct) {
		return nil
	}
	var folders []folder
	err := filepath.WalkDir(ct.Freezer, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if len(folders) > maxFolders {
			return fmt.Errorf("there are more than %d", maxFolders)
		}
		rel, err := filepath.Rel(ct.Freezer, path)
		if err != nil {
			return err
		}
		f, err := describeFolder(path, rel)
		folders = append(folders, f)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the container's cgroups: %w", err)
	}
	b, err := json.Marshal(folders)
	if err != nil {
		return fmt.Errorf("note the container's cgroups: %w", err)
	}
	if err := os.WriteFile(filepath.Join(images, foldersImage), b, 0o644); err != nil {
		return fmt.Errorf("note the container's cgroups: %w", err)
	}
	return nil
}

// describeFolder reads what is set in one cgroup. The limits of the container's own are not its business.
func describeFolder(path, name string) (f folder, err error) {
	f = folder{Name: name}
	if f.Controllers, err = readSetting(path, controllersFile); err != nil || name == "." {
		return f, err
	}
	for file, usual := range limits() {
		v, err := readSetting(path, file)
		if err != nil {
			return f, err
		}
		if v != "" && v != usual {
			if f.Limits == nil {
				f.Limits = map[string]string{}
			}
			f.Limits[file] = v
		}
	}
	return f, nil
}

// readSetting reads a file of a cgroup; it is empty if there is none, because its controller is not on.
func readSetting(path, file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(path, file))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// readNote reads what the source has noted beside CRIU's images, up to so many bytes; found is false where there is nothing.
func readNote(path string, limit int64, v any) (found bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return true, json.NewDecoder(io.LimitReader(f, limit)).Decode(v)
}

// restoreFolders makes the cgroups that dumpFolders has noted, parents first. The list comes from another host.
func restoreFolders(ct runtime.Checkpoint, images string) error {
	var folders []folder
	found, err := readNote(filepath.Join(images, foldersImage), maxFoldersSize, &folders)
	if err != nil {
		return fmt.Errorf("read the container's cgroups: %w", err)
	}
	if !found {
		return nil
	}
	if len(folders) > maxFolders+1 || !isUnified(ct) {
		return fmt.Errorf("the checkpoint has %d cgroups of a host with cgroup v2, which cannot be made here", len(folders))
	}
	root, err := os.OpenRoot(ct.Freezer)
	if err != nil {
		return fmt.Errorf("make the container's cgroups: %w", err)
	}
	defer root.Close()
	for _, f := range folders {
		if err := makeFolder(root, f); err != nil {
			return fmt.Errorf("make the container's cgroup %q: %w", f.Name, err)
		}
	}
	return nil
}

// makeFolder makes one cgroup, below one that was made before.
func makeFolder(root *os.Root, f folder) error {
	if !filepath.IsLocal(f.Name) {
		return errors.New("that is no name of one")
	}
	if err := root.Mkdir(f.Name, 0o755); f.Name != "." && err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	known := limits()
	for file, v := range f.Limits {
		if _, ok := known[file]; !ok || f.Name == "." {
			return fmt.Errorf("%q is no limit of it", file)
		}
		if err := root.WriteFile(filepath.Join(f.Name, file), []byte(v), 0); err != nil {
			return fmt.Errorf("limit it: %w", err)
		}
	}
	var on []string
	for _, c := range strings.Fields(f.Controllers) {
		on = append(on, "+"+c)
	}
	if len(on) == 0 {
		return nil
	}
	if err := root.WriteFile(filepath.Join(f.Name, controllersFile), []byte(strings.Join(on, " ")), 0); err != nil {
		return fmt.Errorf("switch %s on: %w", f.Controllers, err)
	}
	return nil
}
