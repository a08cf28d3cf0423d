package memory

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Memory that comes back costs what has changed and the hashes, whatever has come and gone meanwhile.
func TestMemoryThatComesBack(t *testing.T) {
	c := content{ProcessSpace(1): {}, ProcessSpace(5): {}, SharedSpace(9): {}}
	for space := range c {
		for i := range uint64(1000) {
			c[space][7000+i+i/300] = page(byte(space), byte(i), byte(i>>8), 1)
		}
	}
	dir := filepath.Join(t.TempDir(), "kept")
	k, err := Keep(dir, 1<<30, c.visit)
	must(t, err)
	if k.Bytes() < 3000*PageSize {
		t.Errorf("3000 pages take %d bytes", k.Bytes())
	}

	one := c[ProcessSpace(1)]
	for i := range uint64(10) { // one of them, 7300, is new
		one[7000+i*50] = page(9, byte(i))
	}
	delete(one, 7500)
	delete(c, ProcessSpace(5))

	s := NewSender()
	var hashes bytes.Buffer
	must(t, k.Hashes(&hashes))
	if n := hashes.Len(); n > 3000*17 {
		t.Errorf("the hashes of 3000 pages take %d bytes", n)
	}
	must(t, s.Learn(&hashes))
	images := t.TempDir()
	store, err := k.Resume(images, free)
	must(t, err)
	defer store.Close()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	var wire bytes.Buffer
	s.Begin(&wire, false)
	must(t, c.round(s))
	if sent := s.Stats().Sent; sent != 10 {
		t.Errorf("%d pages were sent, 10 had changed", sent)
	}
	must(t, store.Receive(&wire, false))
	s.Begin(&wire, true)
	_, err = serve(t, c, s)
	must(t, err)
	if sent := s.Stats().Sent; sent != 0 {
		t.Errorf("%d pages were sent once more", sent)
	}
	must(t, store.Receive(&wire, true))
	c.same(t, images)
}

func (c content) visit(visit Visit) error {
	for space, pages := range c {
		if err := ascending(pages, func(first uint64, data []byte) error { return visit(space, first, data) }); err != nil {
			return err
		}
	}
	return nil
}

func TestKeptMemoryIsBounded(t *testing.T) {
	c := content{ProcessSpace(1): {}}
	for i := range uint64(1000) {
		c[ProcessSpace(1)][i] = page(byte(i), 1)
	}
	if _, err := Keep(filepath.Join(t.TempDir(), "kept"), 100*PageSize, c.visit); err == nil {
		t.Error("1000 pages were kept where 100 may be")
	}
}

func TestHostileHashes(t *testing.T) {
	for name, b := range map[string][]byte{
		"cut off in the seed":  {1, 2, 3},
		"cut off in a head":    make([]byte, 8+5),
		"no such space":        append(make([]byte, 8), append([]byte{3}, make([]byte, 19)...)...),
		"cut off in the pages": append(make([]byte, 8), append([]byte{1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0}, make([]byte, 17)...)...),
	} {
		if err := NewSender().Learn(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}
