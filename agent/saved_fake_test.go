package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vzcluster/vzcluster/runtime"
)

// What a fake host keeps of its containers are real folders; memory is a file with what runs.

func (e *fakeEngine) Freeze(context.Context, int) error        { return nil }
func (e *fakeEngine) Thaw(context.Context, runtime.Spec) error { return nil }
func (e *fakeEngine) Unmount(int) error                        { return nil }

func (e *fakeEngine) SaveMemory(_ context.Context, spec runtime.Spec, images string) error {
	e.mu.Lock()
	err := e.refuse
	e.mu.Unlock()
	if err != nil {
		return err
	}
	return errors.Join(os.Mkdir(images, 0o755), os.WriteFile(filepath.Join(images, "pages.img"), []byte(spec.Name), 0o600))
}

func (e *fakeEngine) ClearImages(_ context.Context, images string) error { return os.RemoveAll(images) }

func (e *fakeEngine) Layer(id int) (string, error) {
	dir := filepath.Join(e.dir, fmt.Sprint(id), "layer")
	return dir, os.MkdirAll(dir, 0o755)
}

func (e *fakeEngine) Instant() bool               { return false }
func (e *fakeEngine) SaveLayer(int, string) error { return nil }
func (e *fakeEngine) DropSaved(dir string) error  { return os.RemoveAll(dir) }

func (e *fakeEngine) next(id int) string { return filepath.Join(e.dir, fmt.Sprint(id), "layer.new") }

func (e *fakeEngine) NextLayer(spec runtime.Spec, _ string) (string, bool, error) {
	return e.next(spec.ID), false, errors.Join(os.RemoveAll(e.next(spec.ID)), os.MkdirAll(e.next(spec.ID), 0o755))
}

func (e *fakeEngine) DropNextLayer(id int) error { return os.RemoveAll(e.next(id)) }

func (e *fakeEngine) ExchangeLayer(id int) error {
	layer, err := e.Layer(id)
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(layer), os.Rename(e.next(id), layer))
}

func (e *fakeEngine) Saved(id int) string { return filepath.Join(e.dir, fmt.Sprint(id), "saved") }

func (e *fakeEngine) MakeSaved(id int) (string, error) {
	return e.Saved(id), os.MkdirAll(e.Saved(id), 0o700)
}

func (e *fakeEngine) MemoryDir(id int) string { return filepath.Join(e.Saved(id), "memory") }
