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

// foldersImage is a file of ours among CRIU's: the cgroups below the container's. CRIU makes only those again that have
// processes, but systemd watches the empty ones too.
const foldersImage = "vz-cgroups.img"

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
	var folders []string
	err := filepath.WalkDir(ct.Freezer, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == ct.Freezer {
			return err
		}
		if len(folders) == maxFolders {
			return fmt.Errorf("there are more than %d", maxFolders)
		}
		rel, err := filepath.Rel(ct.Freezer, path)
		folders = append(folders, rel)
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

// restoreFolders makes the cgroups that dumpFolders has noted, parents first. The list comes from another host.
func restoreFolders(ct runtime.Checkpoint, images string) error {
	f, err := os.Open(filepath.Join(images, foldersImage))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the container's cgroups: %w", err)
	}
	defer f.Close()
	var folders []string
	if err := json.NewDecoder(io.LimitReader(f, maxFoldersSize)).Decode(&folders); err != nil {
		return fmt.Errorf("read the container's cgroups: %w", err)
	}
	if len(folders) > maxFolders || !isUnified(ct) {
		return fmt.Errorf("the checkpoint has %d cgroups of a host with cgroup v2, which cannot be made here", len(folders))
	}
	root, err := os.OpenRoot(ct.Freezer)
	if err != nil {
		return fmt.Errorf("make the container's cgroups: %w", err)
	}
	defer root.Close()
	for _, name := range folders {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%q is no name of a cgroup", name)
		}
		if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the container's cgroup %s: %w", name, err)
		}
	}
	return nil
}
