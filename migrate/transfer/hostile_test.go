package transfer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stream writes a pass by hand.
func stream(t *testing.T, records ...func(w recordWriter) error) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := recordWriter{newBlockWriter(&b)}
	must(t, w.json(recStart, start{format, false}))
	for _, r := range records {
		must(t, r(w))
	}
	must(t, w.Close())
	return &b
}

func file(p string, mode uint32, change func(*entry)) func(recordWriter) error {
	e := entry{Path: []byte(p), Mode: mode}
	if change != nil {
		change(&e)
	}
	return func(w recordWriter) error { return w.json(recEntry, e) }
}

func raw(kind byte, body string) func(recordWriter) error {
	return func(w recordWriter) error { return w.put(kind, []byte(body)) }
}

func link(to string) func(*entry) { return func(e *entry) { e.Link = []byte(to) } }
func hard(to string) func(*entry) { return func(e *entry) { e.Hard = []byte(to) } }
func size(n int64) func(*entry)   { return func(e *entry) { e.Size = n } }
func device(a, b uint32) func(*entry) {
	return func(e *entry) { e.Rdev = unix.Mkdev(a, b) }
}

func TestHostileStreamIsRefused(t *testing.T) {
	needRoot(t)
	const reg, dirMode, lnk = unix.S_IFREG | 0o644, unix.S_IFDIR | 0o755, unix.S_IFLNK | 0o777
	data := "\x00\x00\x00\x00\x00\x00\x00\x00evil"
	for name, records := range map[string][]func(recordWriter) error{
		"absolute":              {file("/outside/new", reg, nil)},
		"dot dot":               {file("../outside/new", reg, nil)},
		"dot dot inside":        {file("a/../../outside/new", reg, nil)},
		"empty path":            {file("", reg, nil)},
		"double slash":          {file("a//b", reg, nil)},
		"nul":                   {file("a\x00b", reg, nil)},
		"root is a file":        {file(".", reg, nil)},
		"root is a link":        {file(".", lnk, link("/"))},
		"symlink parent":        {file("s", lnk, link("../outside")), file("s/new", reg, nil)},
		"absolute link parent":  {file("s", lnk, link("OUTSIDE")), file("s/new", reg, nil)},
		"deep link parent":      {file("d", dirMode, nil), file("d/s", lnk, link("../../outside")), file("d/s/e", dirMode, nil), file("d/s/e/new", reg, nil)},
		"link above the parent": {file("s", lnk, link("../outside")), file("s/sub/new", reg, nil)},
		"remove through":        {file("s", lnk, link("../outside")), raw(recRemove, "s/sub/kept"), raw(recEnd, `{"files":1}`)},
		"hard link far through": {file("s", lnk, link("../outside")), file("h", reg, hard("s/sub/kept"))},
		"hard link out":         {file("h", reg, hard("../outside/secret"))},
		"hard link through":     {file("s", lnk, link("../outside")), file("h", reg, hard("s/secret"))},
		"patch through link":    {file("s", lnk, link("../outside/secret")), file("s", reg, func(e *entry) { e.Patch = true; e.Size = 4 }), raw(recData, data)},
		"patch of nothing":      {file("none", reg, func(e *entry) { e.Patch = true })},
		"hard link to dir":      {file("d", dirMode, nil), file("h", reg, hard("d"))},
		"remove out":            {raw(recRemove, "../outside/secret")},
		"remove absolute":       {raw(recRemove, "/outside/secret")},
		"remove root":           {raw(recRemove, ".")},
		"disk":                  {file("sda", unix.S_IFBLK|0o666, device(8, 0))},
		"memory":                {file("mem", unix.S_IFCHR|0o666, device(1, 1))},
		"negative size":         {file("f", reg, size(-1))},
		"data beyond":           {file("f", reg, size(3)), raw(recData, data)},
		"negative offset":       {file("f", reg, size(100)), raw(recData, "\xff\xff\xff\xff\xff\xff\xff\xffevil")},
		"data of nothing":       {raw(recData, data)},
		"data of a dir":         {file("d", dirMode, nil), raw(recData, data)},
		"data of a device":      {file("null", unix.S_IFCHR|0o666, device(1, 3)), raw(recData, data)},
		"foreign xattr":         {file("f", reg, nil), raw(recXattr, "\x00\x10trusted.anythingv")},
		"origin":                {file("f", reg, nil), raw(recXattr, "\x00\x16trusted.overlay.originv")},
		"short xattr":           {file("f", reg, nil), raw(recXattr, "\x00\xffuser.x")},
		"set-uid of the host's": {file("f", unix.S_IFREG|0o4755, func(e *entry) { e.UID = 4_000_000 })},
		"unknown type":          {file("f", 0o644, nil)},
		"unknown record":        {raw('?', "x")},
		"no JSON":               {raw(recEntry, "{")},
		"wrong count":           {file("f", reg, nil), raw(recEnd, `{"files":2}`)},
		"no end":                {file("f", reg, nil)},
		"more after the end":    {raw(recEnd, `{}`), file("f", reg, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			outside, root := filepath.Join(dir, "outside"), filepath.Join(dir, "layer")
			write(t, filepath.Join(outside, "secret"), "good")
			write(t, filepath.Join(outside, "sub/kept"), "good")
			must(t, os.Mkdir(root, 0o755))
			before := snapshot(t, outside)
			if name == "absolute link parent" {
				records[0] = file("s", lnk, link(outside))
			}
			_, _, err := Receive(context.Background(), stream(t, records...), root, nil, Limits{})
			if err == nil {
				t.Error("the stream was taken")
			}
			after := snapshot(t, outside)
			if len(after) != len(before) || after["secret"].Sum != before["secret"].Sum || after["secret"].Same+after["sub/kept"].Same != "" {
				t.Errorf("something outside changed: %v", after)
			}
		})
	}
}

func TestSetUIDBitOfOwnerInRange(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	in := stream(t, file("su", unix.S_IFREG|0o4755, func(e *entry) { e.UID = 65535 }), raw(recEnd, `{"files":1}`))
	_, _, err := Receive(context.Background(), in, root, nil, Limits{})
	must(t, err)
}

func TestTruncatedStreamIsRefused(t *testing.T) {
	needRoot(t)
	src, dst := layers(t)
	write(t, filepath.Join(src, "a/b"), strings.Repeat("data", 300_000))
	write(t, filepath.Join(src, "c"), "last")
	var whole bytes.Buffer
	_, _, err := Send(context.Background(), &whole, src, nil)
	must(t, err)
	for cut := 0; cut < whole.Len(); cut += 1 + min(cut, whole.Len()-cut-1, 40_000) {
		_, _, err := Receive(context.Background(), bytes.NewReader(whole.Bytes()[:cut]), dst, nil, Limits{})
		if !errors.Is(err, errShort) {
			t.Fatalf("cut after %d of %d bytes: %v", cut, whole.Len(), err)
		}
	}
}

func TestDamagedStreamIsRefused(t *testing.T) {
	needRoot(t)
	src, dst := layers(t)
	write(t, filepath.Join(src, "a"), strings.Repeat("data", 200_000))
	var whole bytes.Buffer
	_, _, err := Send(context.Background(), &whole, src, nil)
	must(t, err)
	for at := 0; at < whole.Len(); at += 19_997 {
		b := bytes.Clone(whole.Bytes())
		b[at] ^= 0x10
		if _, _, err := Receive(context.Background(), bytes.NewReader(b), dst, nil, Limits{}); err == nil {
			t.Fatalf("byte %d of %d was changed, and nobody saw it", at, len(b))
		}
	}
}

func TestLimits(t *testing.T) {
	needRoot(t)
	src, dst := layers(t)
	write(t, filepath.Join(src, "a"), strings.Repeat("data", 100))
	write(t, filepath.Join(src, "b"), "x")
	for name, l := range map[string]Limits{"bytes": {MaxBytes: 399}, "entries": {MaxEntries: 2}} {
		var whole bytes.Buffer
		_, _, err := Send(context.Background(), &whole, src, nil)
		must(t, err)
		if _, _, err := Receive(context.Background(), &whole, dst, nil, l); err == nil {
			t.Errorf("%s: a pass beyond the limit was taken", name)
		}
	}
	var whole bytes.Buffer
	_, _, err := Send(context.Background(), &whole, src, nil)
	must(t, err)
	_, _, err = Receive(context.Background(), &whole, dst, nil, Limits{MaxBytes: 401, MaxEntries: 3})
	must(t, err)
}

func TestCancel(t *testing.T) {
	src, _ := layers(t)
	write(t, filepath.Join(src, "a"), "x")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := Send(ctx, &bytes.Buffer{}, src, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Send after cancel: %v", err)
	}
}
