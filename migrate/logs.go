package migrate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vzcluster/vzcluster/cluster"
)

// maxLog is how much is kept of one log of CRIU, in bytes: its beginning and its end.
const maxLog = 1 << 20

// Which of CRIU's logs there are; each is kept as Dir/<operation>.<name>.
const (
	dumpLog    = "dump.log"
	restoreLog = "restore.log"
)

// keepLog keeps what CRIU wrote about a migration that failed, when the checkpoint that it lies in is about to be removed.
func keepLog(d Disk, dir, operation, name string) error {
	from, err := d.Open(filepath.Join(dir, operation, name), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // CRIU has not come to it
	}
	if err != nil {
		return fmt.Errorf("keep the log of CRIU: %w", err)
	}
	defer from.Close()
	text, err := io.ReadAll(from)
	if err != nil {
		return fmt.Errorf("keep the log of CRIU: %w", err)
	}
	if left := len(text) - maxLog; left > 0 {
		half := maxLog / 2
		text = fmt.Appendf(text[:half:half], "\n... %d bytes are left out ...\n%s", left, text[len(text)-half:])
	}
	to, err := d.Open(filepath.Join(dir, operation+"."+name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keep the log of CRIU: %w", err)
	}
	_, err = to.Write(text)
	return errors.Join(err, to.Close())
}

// Logs are what CRIU wrote on this host about an operation that failed, by the name of the log.
func (mv *Mover) Logs(operation string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range []string{dumpLog, restoreLog} {
		text, err := readFile(mv.source.Disk, filepath.Join(mv.source.Dir, operation+"."+name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the log of CRIU: %w", err)
		}
		out[name] = text
	}
	return out, nil
}

// youngLog protects logs of operations that a replica which is behind does not know yet.
const youngLog = time.Hour

// pruneLogs removes the logs of operations that are not remembered any more.
func (mv *Mover) pruneLogs(s *cluster.State) {
	dir, err := mv.source.Disk.Open(mv.source.Dir, os.O_RDONLY, 0)
	if err != nil {
		return // there are none
	}
	defer dir.Close()
	files, _ := dir.ReadDir(-1)
	for _, f := range files {
		operation, name, _ := strings.Cut(f.Name(), ".")
		info, err := f.Info()
		if name != dumpLog && name != restoreLog || s.Operation(operation) != nil || err != nil || time.Since(info.ModTime()) < youngLog {
			continue
		}
		if err := mv.source.Disk.RemoveAll(filepath.Join(mv.source.Dir, f.Name())); err != nil {
			mv.log.Warn("an old log of CRIU cannot be removed", "file", f.Name(), "error", err)
		}
	}
}
