package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestPark(t *testing.T) {
	dir := t.TempDir()
	dir = filepath.Join(dir, "containers")
	r := open(t, dir)
	file := func() string { return filepath.Join(r.Layer(101), "file") }
	if err := errors.Join(r.Create(101), os.WriteFile(file(), []byte("kept"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(filepath.Dir(r.Layer(101)), "work", "index"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.Park(101); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "101")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a container that was put aside is still there: %v", err)
	}
	if err := errors.Join(r.Create(101), r.Unpark(101)); err != nil {
		t.Fatal(err)
	}
	index := filepath.Join(filepath.Dir(r.Layer(101)), "work")
	if left, err := os.ReadDir(index); err != nil || len(left) != 0 {
		t.Errorf("the work directory holds %v: %v", left, err)
	}
	if got, err := os.ReadFile(file()); err != nil || string(got) != "kept" {
		t.Errorf("the layer that came back holds %q: %v", got, err)
	}
	if err := errors.Join(r.Reset(101), r.Park(101)); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the next process leaves %v: %v", left, err)
	}
	if err := errors.Join(r.DropParked(101), r.DropParked(101)); err != nil {
		t.Errorf("dropping what is not there: %v", err)
	}
}
