package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/vzcluster/vzcluster/runtime/image/imagetest"
)

// layersOf makes an image of archives.
func layersOf(t *testing.T, archives ...[]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, a := range archives {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(a)), nil })
		must(t, err)
		img, err = mutate.AppendLayers(img, l)
		must(t, err)
	}
	return img
}

// threeLayers is an image whose upper layers change and hide what is below.
func threeLayers(t *testing.T) v1.Image {
	t.Helper()
	return layersOf(t,
		imagetest.Tiny(imagetest.File("./etc/gone", "x"), imagetest.File("./etc/changed", "old"), imagetest.Dir("./opt/"), imagetest.File("./opt/old", "x"),
			imagetest.Dir("./becomes-file/"), imagetest.File("./becomes-file/x", "x"), imagetest.File("./becomes-dir", "x"), imagetest.Symlink("./link", "etc")),
		imagetest.Tar(imagetest.File("./etc/.wh.gone", ""), imagetest.File("./etc/changed", "new"), imagetest.File("./opt/new", "kept"),
			imagetest.File("./opt/.wh..wh..opq", ""), imagetest.File("./becomes-file", "file"), imagetest.Dir("./becomes-dir/"), imagetest.File("./becomes-dir/y", "y"),
			imagetest.File("./.wh.link", ""), imagetest.Hardlink("./bin/ash", "bin/sh")),
		imagetest.Tar(imagetest.Dir("./link/"), imagetest.File("./link/file", "no link any more")),
	)
}

// imported opens a source and imports it; it returns the tree.
func imported(t *testing.T, source string, o OpenOptions) (string, error) {
	t.Helper()
	o.TempDir = t.TempDir()
	r, err := OpenSource(t.Context(), source, o)
	if err != nil {
		return "", err
	}
	defer r.Close()
	s := open(t)
	info, err := s.Import(t.Context(), r, ImportOptions{})
	if err != nil {
		return "", err
	}
	if left := entries(t, o.TempDir); len(left) != 0 {
		t.Errorf("the temporary folder holds %v", left)
	}
	return s.Path(info.Digest)
}

func TestOpenImages(t *testing.T) {
	needRoot(t)
	dir, img := t.TempDir(), threeLayers(t)
	tag, err := name.NewTag("example.com/three:1")
	must(t, err)
	saved := filepath.Join(dir, "saved.tar")
	must(t, tarball.WriteToFile(saved, tag, img))
	onDisk := filepath.Join(dir, "layout")
	_, err = layout.Write(onDisk, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img}))
	must(t, err)
	packed := filepath.Join(dir, "layout.tar")
	f, err := os.Create(packed)
	must(t, err)
	must(t, errors.Join(TarDir(context.Background(), onDisk, f), f.Close()))
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/some/three:1"
	remoteTag, err := name.NewTag(ref)
	must(t, err)
	must(t, remote.Write(remoteTag, img))
	for what, source := range map[string]string{"docker save": saved, "layout": onDisk, "layout archive": packed, "registry": registryPrefix + ref} {
		t.Run(what, func(t *testing.T) {
			tree, err := imported(t, source, OpenOptions{})
			must(t, err)
			for file, want := range map[string]string{
				"etc/changed": "new", "opt/new": "kept", "becomes-file": "file", "becomes-dir/y": "y", "link/file": "no link any more", "bin/ash": "no real shell",
			} {
				if got, err := os.ReadFile(filepath.Join(tree, file)); err != nil || string(got) != want {
					t.Errorf("%s holds %q: %v", file, got, err)
				}
			}
			if got := entries(t, filepath.Join(tree, "opt")); !slices.Equal(got, []string{"new"}) {
				t.Errorf("/opt holds %v", got)
			}
			if got := entries(t, filepath.Join(tree, "etc")); slices.Contains(got, "gone") || slices.ContainsFunc(got, func(n string) bool { return strings.HasPrefix(n, whiteout) }) {
				t.Errorf("/etc holds %v", got)
			}
		})
	}
	if _, err := imported(t, registryPrefix+ref+"-none", OpenOptions{}); err == nil || !strings.Contains(err.Error(), "get the image") {
		t.Errorf("an image that is not there: %v", err)
	}
}

// TestOpenOther has what is no image go on as it was.
func TestOpenOther(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "rootfs.tar")
	must(t, os.WriteFile(plain, imagetest.Tiny(imagetest.File("./oci-layout", "x")), 0o600))
	r, err := OpenSource(t.Context(), plain, OpenOptions{})
	must(t, err)
	got, err := io.ReadAll(r)
	if want, _ := os.ReadFile(plain); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the archive was changed: %v", err)
	}
	r.Close()
	for _, source := range []string{filepath.Join(dir, "none"), "/dev/null", registryPrefix + "Not A Name"} {
		if _, err := OpenSource(t.Context(), source, OpenOptions{}); err == nil {
			t.Errorf("%s was opened", source)
		}
	}
}

// TestHostileLayers has the second layer of an image try to get out.
func TestHostileLayers(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	outside := filepath.Join(top, "outside")
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("good"), 0o600))
	layers := imagetest.Hostile()
	for _, harmless := range []string{"no root file system", "no files", "nothing", "dev is a link", "etc is a link", "no archive", "gzip of nothing", "zstd of nothing", "xz of nothing"} {
		delete(layers, harmless) // as a layer above a good one they are none, or no layer at all
	}
	delete(layers, "tree becomes a file") // in one layer only it is odd
	for _, truncated := range []string{"truncated between files"} {
		delete(layers, truncated) // its digest is of what it is
	}
	link := imagetest.Symlink("./out", "../../../outside")
	for what, entry := range map[string]imagetest.Entry{
		"whiteout through a link": imagetest.File("./out/.wh.secret", ""), "opaque through a link": imagetest.File("./out/.wh..wh..opq", ""),
		"whiteout of dots": imagetest.File("./.wh...", "x"),
	} {
		layers[what] = imagetest.Tar(link, entry)
	}
	for what, layer := range layers {
		dir, err := os.MkdirTemp(top, "x")
		must(t, err)
		err = unpackLayers(t.Context(), layersOf(t, imagetest.Tiny(), layer), filepath.Join(dir, "tree"))
		if err == nil && what != "whiteout of dots" {
			t.Errorf("%s: it was taken", what)
		}
		if got := entries(t, outside); !slices.Equal(got, []string{"secret"}) {
			t.Fatalf("%s: outside there are %v", what, got)
		}
	}
}

// A layer that is not the one of the image's configuration is refused.
func TestLayerDigest(t *testing.T) {
	needRoot(t)
	l, err := newLayering(filepath.Join(t.TempDir(), "tree"))
	must(t, err)
	defer l.close()
	if err := l.apply(bytes.NewReader(imagetest.Tiny()), "sha256:"+strings.Repeat("0", 64)); !errors.Is(err, ErrDigest) {
		t.Errorf("a layer with another digest: %v", err)
	}
}

// FuzzImport has no archive panic, or leave anything outside of its tree.
func FuzzImport(f *testing.F) {
	f.Add(imagetest.Tiny())
	for _, a := range imagetest.Hostile() {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		needRoot(t)
		top := t.TempDir()
		s, err := Open(filepath.Join(top, "store"))
		must(t, err)
		_, err = s.Import(t.Context(), bytes.NewReader(archive), ImportOptions{MaxBytes: 1 << 20, MaxEntries: 100})
		if got := entries(t, top); !slices.Equal(got, []string{"store"}) {
			t.Fatalf("beside the store there are %v", got)
		}
		if got := entries(t, filepath.Join(top, "store")); err != nil && len(got) != 0 {
			t.Fatalf("a refused archive leaves %v", got)
		}
	})
}

// FuzzLayers has no second layer panic or get out.
func FuzzLayers(f *testing.F) {
	f.Add(imagetest.Tar(imagetest.File("./etc/.wh.x", ""), imagetest.File("./.wh..wh..opq", "")))
	f.Add(imagetest.Tar(imagetest.Symlink("./bin", "../.."), imagetest.File("./bin/.wh.x", "")))
	for _, a := range imagetest.Hostile() {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, layer []byte) {
		needRoot(t)
		top := t.TempDir()
		l, err := newLayering(filepath.Join(top, "tree"))
		must(t, err)
		defer l.close()
		in := tar.NewReader(bytes.NewReader(imagetest.Tiny()))
		for {
			h, err := in.Next()
			if err != nil {
				break
			}
			must(t, l.layerEntry(h, in))
		}
		l.own, l.limits = map[string]bool{}, ImportOptions{MaxBytes: 1 << 20, MaxEntries: 100}
		_ = l.apply(bytes.NewReader(layer), "")
		if got := entries(t, top); !slices.Equal(got, []string{"tree"}) {
			t.Fatalf("beside the tree there are %v", got)
		}
	})
}
