package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/image"
	"github.com/vzcluster/vzcluster/runtime/image/imagetest"
)

// busyboxTar returns the uncompressed archive of the busybox template.
func busyboxTar(t *testing.T) []byte {
	t.Helper()
	path, err := image.Build(t.Context(), "busybox", image.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unpacked is busybox as a directory, with a file that tells it from other templates.
func unpacked(t *testing.T, mark string) string {
	t.Helper()
	dir := t.TempDir()
	tar := exec.Command("tar", "-x", "-C", dir)
	tar.Stdin = bytes.NewReader(busyboxTar(t))
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/mark"), []byte(mark), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (k *kit) dropAfter(template string) {
	k.t.Cleanup(func() {
		_ = k.command(context.Background(), "host1", "template", "rm", template).Run() // the lab goes anyway
	})
}

func TestTemplateIsFetchedFromAPeer(t *testing.T) {
	k := sharedLab(t)
	k.dropAfter("peer")
	if r := k.at("host2", nil, "template", "import", "peer", unpacked(t, "from a directory")); r.code != 0 {
		t.Fatal(r)
	}
	has := func() []string { return ask[cluster.Template](k, "template", "show", "peer").Hosts }
	if got := has(); len(got) != 1 {
		t.Fatalf("after the import it is on %v", got)
	}
	to := k.other(has()...)
	k.run("fetched", "peer", "--host", to)
	if got := k.inside("fetched", "cat /etc/mark"); got != "from a directory" {
		t.Errorf("inside is %q", got)
	}
	k.until("the cluster knows of the copy", recovery, func() error {
		if got := has(); !slices.Contains(got, to) {
			return fmt.Errorf("it is on %v", got)
		}
		return nil
	})
	k.refused(1, []string{"peer"}, "template", "rm", "peer") // in use
}

func TestImportOfEveryCompression(t *testing.T) {
	k := sharedLab(t)
	plain := busyboxTar(t)
	pack := func(name string, args ...string) []byte {
		cmd := exec.Command(name, args...)
		cmd.Stdin = bytes.NewReader(plain)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return out
	}
	var zst bytes.Buffer
	z, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	digests := map[string]bool{}
	for name, archive := range map[string][]byte{
		"tar": plain, "gz": pack("gzip", "-c"), "xz": pack("xz", "-1", "-c"), "zst": zst.Bytes(),
	} {
		k.dropAfter("of-" + name)
		if r := k.at("host1", bytes.NewReader(archive), "template", "import", "of-"+name, "-"); r.code != 0 {
			t.Errorf("%s: %v", name, r)
			continue
		}
		digests[ask[cluster.Template](k, "template", "show", "of-"+name).Digest] = true
	}
	if len(digests) != 1 {
		t.Errorf("the same archive has the digests %v", digests)
	}
	k.run("of", "of-xz")
	k.inside("of", "test -x /bin/busybox")
}

// storeOf lists what a host has of templates, unfinished ones too.
func (k *kit) storeOf(host string) []string {
	k.t.Helper()
	found, err := filepath.Glob(k.under(host, "/var/lib/vzcluster/templates/*"))
	if err != nil {
		k.t.Fatal(err)
	}
	more, err := filepath.Glob(k.under(host, "/var/lib/vzcluster/templates/.*"))
	if err != nil {
		k.t.Fatal(err)
	}
	return append(found, more...)
}

func TestBadArchivesAreRefused(t *testing.T) {
	k := sharedLab(t)
	k.template("busybox")
	bad := imagetest.Hostile()
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write(busyboxTar(t)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	bad["truncated gzip"] = gz.Bytes()[:gz.Len()/2]
	templates, store := k.vz("template", "ls", "-o", "json"), map[string][]string{}
	for _, h := range k.lab.Hosts() {
		store[h] = k.storeOf(h)
	}
	for what, archive := range bad {
		t.Run(what, func(t *testing.T) {
			r := k.at("host1", bytes.NewReader(archive), "template", "import", "hostile", "-")
			if r.code == 0 || r.stdout != "" || !strings.Contains(r.stderr, "vzcluster: ") {
				t.Errorf("it was taken: %v", r)
			}
		})
	}
	if got := k.vz("template", "ls", "-o", "json"); got != templates {
		t.Errorf("the templates were %s and are %s", templates, got)
	}
	for _, h := range k.lab.Hosts() {
		if got := k.storeOf(h); !slices.Equal(got, store[h]) {
			t.Errorf("%s had %v and has %v", h, store[h], got)
		}
		for _, evil := range []string{"/tmp/vzcluster-evil", "/etc/vzcluster-evil", "/tmp/outside", "/outside", "/var/lib/vzcluster/outside", "/var/lib/vzcluster/templates/outside"} {
			if _, err := os.Lstat(k.under(h, evil)); err == nil {
				t.Errorf("an archive has written %s on %s", evil, h)
			}
		}
	}
}

func TestTemplateShowListsPreparations(t *testing.T) {
	k := sharedLab(t)
	k.template(debian)
	tm := ask[cluster.Template](k, "template", "show", debian)
	if len(tm.Prepared) < 2 || !tm.Systemd {
		t.Errorf("it is shown as %+v", tm)
	}
	text := strings.Join(strings.Fields(k.vz("template", "show", debian)), " ") // it is wrapped
	for _, p := range tm.Prepared {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in %s", p, text)
		}
	}
}
