package runc

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcluster/vzcluster/runtime"
)

// Prepare implements runtime.OCI. It lets runc create the container and takes the waiting init away again: what stays
// is runc's own record of it and a cgroup set up by runc, and the certainty that this host can make such a container.
func (r *Runc) Prepare(ctx context.Context, s runtime.Spec, root, cgroup string) error {
	pid, err := r.Create(ctx, s, root, cgroup)
	if err != nil {
		return err
	}
	if err := endProcess(ctx, pid); err != nil {
		return fmt.Errorf("end the stand-in of container %d: %w", s.ID, err)
	}
	return nil
}

// endProcess kills a process and returns when it is gone.
func endProcess(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		switch {
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// nsNames are runc's names of the namespaces, with the kernel's.
var nsNames = map[string]string{
	"NEWCGROUP": "cgroup", "NEWIPC": "ipc", "NEWNET": "net", "NEWNS": "mnt",
	"NEWPID": "pid", "NEWTIME": "time", "NEWUSER": "user", "NEWUTS": "uts",
}

// Adopt implements runtime.OCI: the record that Prepare left is made to name the restored init.
func (r *Runc) Adopt(id, pid int) error {
	start, alive := startTime(pid)
	if !alive {
		return fmt.Errorf("adopt container %d: its init (pid %d) is gone", id, pid)
	}
	dir := filepath.Join(r.cfg.State, strconv.Itoa(id))
	file := filepath.Join(dir, "state.json")
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("adopt container %d: %w", id, err)
	}
	var record map[string]any
	if err := json.Unmarshal(b, &record); err != nil {
		return fmt.Errorf("adopt container %d: read %s: %w", id, file, err)
	}
	paths := map[string]string{}
	for name, ns := range nsNames {
		paths[name] = fmt.Sprintf("/proc/%d/ns/%s", pid, ns)
	}
	record["init_process_pid"] = pid
	record["init_process_start"] = start
	record["created"] = time.Now().UTC().Format(time.RFC3339Nano)
	record["namespace_paths"] = paths
	if config, ok := record["config"].(map[string]any); ok { // CRIU restores into a time namespace
		if list, ok := config["namespaces"].([]any); ok {
			config["namespaces"] = append(list, map[string]any{"type": "NEWTIME", "path": ""})
		}
	}
	if b, err = json.Marshal(record); err != nil {
		return fmt.Errorf("adopt container %d: %w", id, err)
	}
	if err := os.WriteFile(file+".tmp", b, 0o600); err != nil {
		return fmt.Errorf("adopt container %d: %w", id, err)
	}
	// The fifo on which a created container waits says "created" as long as it exists.
	if err := os.Remove(r.fifo(id)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("adopt container %d: %w", id, err)
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		return fmt.Errorf("adopt container %d: %w", id, err)
	}
	return nil
}
