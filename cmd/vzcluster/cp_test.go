package main

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcluster/vzcluster/agent/api"
)

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
}

// archiveOf makes a tar archive: a name that ends in / is a folder, content that begins with -> a link.
func archiveOf(t *testing.T, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		h := &tar.Header{Name: entries[i], Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(entries[i+1]))}
		if strings.HasSuffix(h.Name, "/") {
			h.Typeflag, h.Mode, h.Size = tar.TypeDir, 0o755, 0
		} else if to, link := strings.CutPrefix(entries[i+1], "->"); link {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, to, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, entries[i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCopyIn(t *testing.T) {
	var query string
	var names []string
	f := newFake(t, map[string]any{api.RouteFilesPut: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query, names = r.URL.RawQuery, nil
		for tr := tar.NewReader(r.Body); ; {
			h, err := tr.Next()
			if err != nil {
				break
			}
			b, _ := io.ReadAll(tr)
			names = append(names, h.Name+"="+string(b)+h.Linkname)
		}
		_, _ = io.WriteString(w, "{}")
	})})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "site/index"), "hello")
	if err := os.Symlink("index", filepath.Join(dir, "site/link")); err != nil {
		t.Fatal(err)
	}
	if r := f.run("cp", filepath.Join(dir, "site"), "web:/var/www"); r.code != 0 {
		t.Fatal(r)
	}
	if got := strings.Join(names, " "); got != "site= site/index=hello site/link=index" || query != "path=%2Fvar%2Fwww&rename=1&root=1" {
		t.Errorf("sent %q with %s", got, query)
	}
	if r := f.run("cp", "-a", filepath.Join(dir, "site/index"), "web:/x"); r.code != 0 || query != "path=%2Fx&rename=1" {
		t.Errorf("%+v with %s", r, query)
	}
	if r := f.runWith(nil, string(archiveOf(t, "a", "b")), "cp", "-", "web:/x"); r.code != 0 || query != "path=%2Fx" || names[0] != "a=b" {
		t.Errorf("%+v with %s: %v", r, query, names)
	}
	for _, bad := range [][]string{{"cp", "a", "b"}, {"cp", "a:/b", "b:/c"}, {"cp", filepath.Join(dir, "nothing"), "web:/"}, {"cp", "web:/x", filepath.Join(dir, "no") + "/"}} {
		if r := f.run(bad...); r.code != 2 {
			t.Errorf("%v: %+v", bad, r)
		}
	}
}

func TestCopyOut(t *testing.T) {
	var archive []byte
	said := ""
	f := newFake(t, map[string]any{api.RouteFiles: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", api.TrailerError)
		_, _ = w.Write(archive)
		w.Header().Set(api.TrailerError, said)
	})})
	dir := t.TempDir()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	archive = archiveOf(t, "etc/", "", "etc/hosts", "one")
	if r := f.run("cp", "web:/etc", dir); r.code != 0 || read("etc/hosts") != "one" {
		t.Errorf("into a folder: %+v, %s", r, read("etc/hosts"))
	}
	if r := f.run("cp", "web:/etc", filepath.Join(dir, "copy")); r.code != 0 || read("copy/hosts") != "one" {
		t.Errorf("with a name: %+v, %s", r, read("copy/hosts"))
	}
	if r := f.run("cp", "web:/etc", "-"); r.code != 0 || r.stdout != string(archive) {
		t.Errorf("as an archive: %+v", r)
	}
	// What a container sends does not get out of the folder.
	write(t, filepath.Join(dir, "victim"), "whole")
	for _, evil := range [][]string{{"../victim", "broken"}, {"/victim", "broken"}, {"d", "->..", "d/victim", "broken"}, {"d", "->" + dir, "d/victim", "broken"}} {
		archive = archiveOf(t, evil...)
		into := filepath.Join(dir, "into")
		if err := os.MkdirAll(into, 0o755); err != nil {
			t.Fatal(err)
		}
		f.run("cp", "web:/x", into)
		if read("victim") != "whole" {
			t.Fatalf("%q got out", evil)
		}
		if err := os.RemoveAll(into); err != nil {
			t.Fatal(err)
		}
	}
	archive, said = archiveOf(t, "a", "b"), "the disk is broken"
	if r := f.run("cp", "web:/a", dir); r.code != 1 || !strings.Contains(r.stderr, "not complete: the disk is broken") {
		t.Errorf("an error on the way: %+v", r)
	}
}
