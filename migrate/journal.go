package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// stage is how far the target's copy is; it is what a restarted agent must know to never run the same memory twice.
type stage string

const (
	stageReceiving stage = "receiving"
	stagePrepared  stage = "prepared" // nothing of the copy has run
	stageResuming  stage = "resuming" // the copy may have run
)

// journal is the target's record of a migration, on disk before the step that it announces.
type journal struct {
	Operation string `json:"operation"`
	Container int    `json:"container"`
	Boot      string `json:"boot"` // the kernel's boot id: images of another boot may not be on disk
	Stage     stage  `json:"stage"`
}

func journalFile(dir, operation string) string { return filepath.Join(dir, operation+".json") }

// save writes the journal and has it on disk when it returns.
func (j journal) save(disk Disk, dir string) error {
	b, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	file := journalFile(dir, j.Operation)
	f, err := disk.Open(file+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	if err := disk.Rename(file+".new", file); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	d, err := disk.Open(dir, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// loadJournal reads an operation's journal; ok is false when there is none.
func loadJournal(disk Disk, dir, operation string) (j journal, ok bool, err error) {
	b, err := readFile(disk, journalFile(dir, operation))
	if errors.Is(err, fs.ErrNotExist) {
		return j, false, nil
	}
	if err != nil {
		return j, false, fmt.Errorf("read the journal: %w", err)
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return j, false, fmt.Errorf("read the journal: %w", err)
	}
	return j, true, nil
}
