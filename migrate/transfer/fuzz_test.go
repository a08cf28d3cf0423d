package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzReceive gives the receiver passes whose blocks are sound and whose records are anything. It may refuse them or
// not; it must not touch anything outside the layer, and what it says it has must be there.
func FuzzReceive(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("devices and owners need root")
	}
	for _, seed := range seeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, records []byte) {
		dir := t.TempDir()
		root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
		must(t, os.Mkdir(root, 0o755))
		must(t, os.Mkdir(outside, 0o755))
		must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("as it was"), 0o600))
		must(t, os.Symlink("../outside", filepath.Join(root, "out")))
		var in bytes.Buffer
		w := newBlockWriter(&in)
		_, _ = w.Write(records)
		_ = w.Close()
		have, _, err := Receive(context.Background(), &in, root, nil, Limits{MaxBytes: 1 << 20, MaxEntries: 100})
		if got, _ := os.ReadFile(filepath.Join(outside, "secret")); string(got) != "as it was" {
			t.Fatal("a file outside was changed")
		}
		for _, d := range []string{dir, outside} {
			if entries, _ := os.ReadDir(d); len(entries) != map[string]int{dir: 2, outside: 1}[d] {
				t.Fatalf("something was made in %s: %v", d, entries)
			}
		}
		if err != nil {
			return
		}
		for p := range have.files {
			if _, err := os.Lstat(filepath.Join(root, p)); err != nil {
				t.Errorf("the receiver says that it has %q: %v", p, err)
			}
		}
	})
}

// seeds are the records of passes, sound and hostile ones.
func seeds() [][]byte {
	const reg, dirMode, lnk = unix.S_IFREG | 0o644, unix.S_IFDIR | 0o755, unix.S_IFLNK | 0o777
	data := append(make([]byte, 8), "data"...)
	var all [][]byte
	for _, records := range [][]func(recordWriter) error{
		{file(".", dirMode, nil), file("a", dirMode, nil), file("a/f", reg, size(4)), raw(recData, string(data))},
		{file("f", reg, size(4)), raw(recData, string(data)), file("g", reg, hard("f")), raw(recRemove, "f")},
		{file("s", lnk, link("../outside")), file("s/new", reg, nil)},
		{file("out/new", reg, nil)},
		{file("out", dirMode, nil), file("out/secret", reg, nil)},
		{file("g", reg, hard("out/secret"))},
		{file("../outside/new", reg, nil), raw(recRemove, "../outside/secret")},
		{file("f", reg, func(e *entry) { e.Size, e.Patch = 1<<20, true }), raw(recHole, string(make([]byte, 16)))},
		{file("f", reg, size(1<<40)), raw(recXattr, "\x00\x04user.x")},
		{file("d", unix.S_IFCHR, device(8, 0)), file("p", unix.S_IFIFO|0o600, nil), file("k", unix.S_IFSOCK, nil)},
	} {
		var b bytes.Buffer
		w := recordWriter{newBlockWriter(&b)}
		var s Stats
		for _, r := range append([]func(recordWriter) error{func(w recordWriter) error { return w.json(recStart, start{format, false}) }}, records...) {
			_ = r(w)
		}
		s.Files, s.Bytes = int64(len(records)), 4
		_ = w.json(recEnd, s)
		_ = w.Close()
		plain, _ := io.ReadAll(&blockReader{r: &b})
		all = append(all, plain)
	}
	return all
}

// FuzzBlocks gives the receiver anything at all.
func FuzzBlocks(f *testing.F) {
	for _, s := range seeds() {
		var b bytes.Buffer
		w := newBlockWriter(&b)
		_, _ = w.Write(s)
		_ = w.Close()
		f.Add(b.Bytes())
	}
	end, _ := json.Marshal(Stats{})
	f.Add(end)
	f.Fuzz(func(t *testing.T, stream []byte) {
		dir := t.TempDir()
		root := filepath.Join(dir, "root")
		must(t, os.Mkdir(root, 0o755))
		_, _, _ = Receive(context.Background(), bytes.NewReader(stream), root, nil, Limits{MaxBytes: 1 << 20, MaxEntries: 100})
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Fatalf("something was made outside: %v", entries)
		}
	})
}
