package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// registryPrefix begins the name of an image in a registry.
const registryPrefix = "docker://"

// OpenOptions steer OpenSource. The zero value is right for most.
type OpenOptions struct {
	TempDir   string            // for images while their layers are put together; empty: the system's
	Transport http.RoundTripper // to registries; nil: the usual one
}

// OpenSource opens whatever a template can be made of as an archive for Import: an archive (tar, maybe compressed), the
// directory of a root file system, or an OCI image: the directory or archive of a layout, what `docker save` wrote, or
// docker://NAME of a registry. An image's layers are put together here, which needs root.
func OpenSource(ctx context.Context, source string, o OpenOptions) (io.ReadCloser, error) {
	if ref, is := strings.CutPrefix(source, registryPrefix); is {
		img, err := pull(ctx, ref, o)
		if err != nil {
			return nil, err
		}
		return flatten(ctx, img, o)
	}
	st, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	switch {
	case st.IsDir() && isLayout(source):
		img, err := fromLayout(source)
		if err != nil {
			return nil, err
		}
		return flatten(ctx, img, o)
	case st.IsDir():
		r, w := io.Pipe()
		go func() { w.CloseWithError(TarDir(ctx, source, w)) }()
		return r, nil
	case !st.Mode().IsRegular():
		return nil, errors.New("it is neither a file nor a directory")
	}
	return openFile(ctx, source, o)
}

// openFile looks what an archive is of.
func openFile(ctx context.Context, file string, o OpenOptions) (io.ReadCloser, error) {
	kind, err := kindOf(file)
	if err != nil {
		return nil, err
	}
	switch kind {
	case dockerSave:
		img, err := tarball.Image(func() (io.ReadCloser, error) { return openPlain(file) }, nil)
		if err != nil {
			return nil, fmt.Errorf("read what docker saved: %w", err)
		}
		return flatten(ctx, img, o)
	case ociLayout:
		dir, err := os.MkdirTemp(o.TempDir, "vzcluster-layout-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir) // flatten has read everything when it returns
		img, err := fromLayoutArchive(file, filepath.Join(dir, "layout"))
		if err != nil {
			return nil, err
		}
		return flatten(ctx, img, o)
	}
	return os.Open(file)
}

// archiveKind is what an archive holds.
type archiveKind int

const (
	rootFS archiveKind = iota
	dockerSave
	ociLayout
)

// kindOf reads an archive's names until it is clear what it is. What is no archive at all is Import's to refuse.
func kindOf(file string) (archiveKind, error) {
	f, err := openPlain(file)
	if err != nil {
		return rootFS, nil //nolint:nilerr // Import says what is wrong with it
	}
	defer f.Close()
	layoutOnly := regexp.MustCompile(`^(blobs(/.*)?|index\.json|oci-layout|manifest\.json|repositories|(sha256:)?[0-9a-f]{64}(/.*|\.json|\.tar(\.gz)?)?)$`)
	kind := rootFS
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if err != nil {
			return kind, nil //nolint:nilerr // the same
		}
		switch entry := path.Clean(h.Name); {
		case entry == ".":
		case !layoutOnly.MatchString(entry):
			return rootFS, nil
		case entry == "manifest.json":
			return dockerSave, nil
		case entry == "oci-layout":
			kind = ociLayout // docker writes that too, beside its own manifest
		}
	}
}

// openPlain opens an archive and undoes its compression.
func openPlain(file string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	r, done, err := decompress(bufio.NewReader(f))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &plainFile{r, f, done}, nil
}

type plainFile struct {
	io.Reader
	f    *os.File
	done func()
}

func (p *plainFile) Close() error {
	p.done()
	return p.f.Close()
}

func isLayout(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "oci-layout"))
	return err == nil
}

// fromLayoutArchive unpacks a layout. It holds plain files only, and nothing is written outside.
func fromLayoutArchive(file, dir string) (v1.Image, error) {
	f, err := openPlain(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := unpack(f, dir, ImportOptions{MaxBytes: DefaultMaxBytes, MaxEntries: DefaultMaxEntries}); err != nil {
		return nil, fmt.Errorf("read the OCI layout: %w", err)
	}
	return fromLayout(dir)
}

// fromLayout takes the image for this machine of a layout's directory.
func fromLayout(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("read the OCI layout: %w", err)
	}
	return pick(index, 0)
}

// pick takes the image for this machine; an index may hold others.
func pick(index v1.ImageIndex, depth int) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("read the image's index: %w", err)
	}
	if depth > 3 {
		return nil, errors.New("the image's indexes are nested too deeply")
	}
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsIndex():
			inner, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, fmt.Errorf("read the image's index: %w", err)
			}
			if img, err := pick(inner, depth+1); err == nil {
				return img, nil
			}
		case d.MediaType.IsImage() && (d.Platform == nil || d.Platform.OS == "linux" && d.Platform.Architecture == goruntime.GOARCH):
			return index.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("it holds no image for linux on %s", goruntime.GOARCH)
}

// pull reads an image's manifest from a registry. Its layers come later, and are checked against their digests.
func pull(ctx context.Context, ref string, o OpenOptions) (v1.Image, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("%q names no image: %w", ref, err)
	}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: goruntime.GOARCH}),
	}
	if o.Transport != nil {
		options = append(options, remote.WithTransport(o.Transport))
	}
	img, err := remote.Image(r, options...)
	if err != nil {
		return nil, fmt.Errorf("get the image %s: %w", r, err)
	}
	return img, nil
}

// flatten puts an image's layers together and returns the tree as an archive.
func flatten(ctx context.Context, img v1.Image, o OpenOptions) (io.ReadCloser, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("an image's layers can only be put together by root, because of their owners")
	}
	dir, err := os.MkdirTemp(o.TempDir, "vzcluster-image-")
	if err != nil {
		return nil, err
	}
	if err := unpackLayers(ctx, img, filepath.Join(dir, "tree")); err != nil {
		return nil, errors.Join(fmt.Errorf("read the image: %w", err), os.RemoveAll(dir))
	}
	r, w := io.Pipe()
	go func() {
		err := TarDir(ctx, filepath.Join(dir, "tree"), w)
		w.CloseWithError(errors.Join(err, os.RemoveAll(dir)))
	}()
	return r, nil
}

func unpackLayers(ctx context.Context, img v1.Image, tree string) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	want := config.RootFS.DiffIDs
	if len(layers) == 0 || len(layers) != len(want) || len(layers) > maxLayers {
		return fmt.Errorf("it has %d layers, and digests of %d", len(layers), len(want))
	}
	l, err := newLayering(tree)
	if err != nil {
		return err
	}
	defer l.close()
	for i, layer := range layers {
		r, err := layer.Uncompressed()
		if err == nil {
			err = l.apply(cancellable{ctx, r}, want[i].String())
			err = errors.Join(err, r.Close())
		}
		if err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return l.times()
}

// RegistrySource says whether a source is in a registry, not on this machine.
func RegistrySource(source string) bool { return strings.HasPrefix(source, registryPrefix) }

// maxLayers is more than any image has.
const maxLayers = 256

// whiteouts begin with this.
const whiteout, opaque = ".wh.", ".wh..wh..opq"

// hidden says what an entry of a layer takes away from the layers below: a name, or all that is in a directory.
func hidden(entry string) (dir, name string, all bool) {
	dir, base := path.Split(path.Clean(entry))
	dir = path.Clean(dir)
	if base == opaque {
		return dir, "", true
	}
	if rest, is := strings.CutPrefix(base, whiteout); is && !slices.Contains([]string{"", ".", ".."}, rest) {
		return dir, rest, false
	}
	return "", "", false
}
