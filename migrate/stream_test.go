package migrate

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pair returns a stream that reads what the other one writes.
func pair() (w, r *stream) {
	var b bytes.Buffer
	return newStream(&b), newStream(&b)
}

func TestBulk(t *testing.T) {
	w, r := pair()
	data := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // 3.2 MB: several frames
	if _, err := (bulkWriter{w}).Write(data); err != nil {
		t.Fatal(err)
	}
	if err := (bulkWriter{w}).Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.send(msgRestore, struct{}{}); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(&bulkReader{s: r})
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes arrived of %d, %v", len(got), len(data), err)
	}
	if err := r.expect(msgRestore, nil, "b"); err != nil {
		t.Fatalf("what follows the transfer: %v", err)
	}
}

func TestBrokenStreams(t *testing.T) {
	w, r := pair()
	_, _ = (bulkWriter{w}).Write([]byte("half"))
	_ = w.w.Flush()
	if _, err := io.ReadAll(&bulkReader{s: r}); err == nil {
		t.Error("a truncated transfer was taken for a whole one")
	}
	w, r = pair()
	_ = w.send(msgAllow, struct{}{})
	if _, err := io.ReadAll(&bulkReader{s: r}); err == nil {
		t.Error("a message inside a transfer was taken for data")
	}
	huge := newStream(bytes.NewBuffer([]byte{byte(msgHello), 0xff, 0xff, 0xff, 0xff}))
	if _, _, err := huge.receive(); err == nil || !strings.Contains(err.Error(), "never sent") {
		t.Errorf("a frame of 4 GiB: %v", err)
	}
	w, r = pair()
	_ = w.send(msgError, errorMsg{"no room"})
	if err := r.expect(msgReady, nil, "host2"); err == nil || err.Error() != "host2: no room" {
		t.Errorf("the other host's reason came out as %v", err)
	}
}

// sendOne sends one image under a name and with an announced size of the sender's choice.
func sendOne(w *stream, name string, size int64, body string) {
	head, _ := json.Marshal(imageMsg{Name: name, Size: size})
	_ = w.frame(msgImage, head)
	_, _ = (bulkWriter{w}).Write([]byte(body))
	_ = (bulkWriter{w}).Close()
}

func TestImagesAreHostile(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int64
		ok   bool
	}{
		{"pages-1.img", 4, true},
		{"tmpfs-dev-85.tar.gz.img", 4, true},
		{"../pages-1.img", 4, false},
		{"/etc/passwd.img", 4, false},
		{"a/b.img", 4, false},
		{".img", 4, false},
		{"dump.log", 4, false},
		{"pages-2.img", 3, false}, // more than announced
		{"pages-3.img", 9, false}, // less
		{"there.img", 4, false},   // a second time
		{"huge.img", 1 << 40, false},
		{"minus.img", -1, false},
		{"link.img", 4, false}, // a link that leads out
	} {
		t.Run(tt.name, func(t *testing.T) {
			outside := t.TempDir()
			dir := t.TempDir()
			_ = os.WriteFile(filepath.Join(dir, "there.img"), nil, 0o600)
			_ = os.Symlink(filepath.Join(outside, "x"), filepath.Join(dir, "link.img"))
			w, r := pair()
			sendOne(w, tt.name, tt.size, "data")
			k, body, err := r.receive()
			if err != nil || k != msgImage {
				t.Fatal(k, err)
			}
			if err := receiveImage(r, LocalDisk{}, dir, body, &budget{files: 10, bytes: 1 << 20}); (err == nil) != tt.ok {
				t.Fatalf("got %v", err)
			}
			if left, _ := os.ReadDir(outside); len(left) > 0 {
				t.Error("something was written outside")
			}
		})
	}
}

func TestSendImages(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	files := map[string]string{"inventory.img": "a", "pages-1.img": strings.Repeat("x", 700_000), "dump.log": "no", "stats-dump": "no", "criu.pid": "no"}
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(from, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w, r := pair()
	if err := sendImages(w, LocalDisk{}, from); err != nil {
		t.Fatal(err)
	}
	_ = w.send(msgRestore, struct{}{})
	for {
		k, body, err := r.receive()
		if err != nil {
			t.Fatal(err)
		}
		if k == msgRestore {
			break
		}
		if err := receiveImage(r, LocalDisk{}, to, body, &budget{files: 10, bytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range files {
		got, err := os.ReadFile(filepath.Join(to, name))
		if strings.HasSuffix(name, ".img") != (err == nil) || err == nil && string(got) != body {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	if _, ok, err := loadJournal(LocalDisk{}, dir, "op"); ok || err != nil {
		t.Fatal("there is a journal before there is one", err)
	}
	want := journal{Operation: "op", Container: 101, Stage: stagePrepared}
	if err := want.save(LocalDisk{}, dir); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := loadJournal(LocalDisk{}, dir, "op"); !ok || err != nil || got != want {
		t.Fatalf("got %+v, %v, %v", got, ok, err)
	}
	if err := os.WriteFile(journalFile(dir, "op"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := loadJournal(LocalDisk{}, dir, "op"); err == nil {
		t.Fatal("half a journal was read")
	}
	if !(&Target{Disk: LocalDisk{}, Dir: dir}).Left("op") {
		t.Error("a broken journal was taken for none")
	}
}
