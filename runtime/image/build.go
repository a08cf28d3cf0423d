package image

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
)

// DefaultCacheDir is where Build keeps what it built.
const DefaultCacheDir = "/var/cache/vzcluster/templates"

// base is what a system container needs beyond a minimal Debian.
var base = []string{"systemd-sysv", "dbus", "iproute2", "procps", "openssh-server"}

// distribution is what can be built from packages.
type distribution struct {
	title, suite        string
	mirror              string // empty: that of mmdebstrap, Debian's
	keyring, components string // of another distribution than Debian
}

func distributions() map[string]distribution {
	ubuntu := func(version, suite string) distribution {
		return distribution{
			"Ubuntu " + version, suite, "http://archive.ubuntu.com/ubuntu", "/usr/share/keyrings/ubuntu-archive-keyring.gpg", "main,universe",
		}
	}
	return map[string]distribution{
		"debian-12": {title: "Debian bookworm", suite: "bookworm"}, "debian-13": {title: "Debian trixie", suite: "trixie"},
		"ubuntu-22.04": ubuntu("22.04", "jammy"), "ubuntu-24.04": ubuntu("24.04", "noble"),
	}
}

// Recipes are the names that Build knows.
func Recipes() []string {
	return append(slices.Sorted(maps.Keys(distributions())), "busybox")
}

// recipe changes when the same packages are to give another archive; it is part of the cache's key.
const recipe = "1"

// BuildOptions steer Build. The zero value is right for most.
type BuildOptions struct {
	Include  []string  // more packages
	Fresh    bool      // build even if the cache has it
	CacheDir string    // "": DefaultCacheDir
	Log      io.Writer // gets lines for people; nil: nobody does
}

// Build makes the archive of a known template on this machine and returns its path: Debian and Ubuntu with
// mmdebstrap from the network, "busybox" from this machine's static busybox. A result that is cached is used again,
// and the log says how old it is.
func Build(ctx context.Context, name string, o BuildOptions) (string, error) {
	o.CacheDir = cmp.Or(o.CacheDir, DefaultCacheDir)
	if o.Log == nil {
		o.Log = io.Discard
	}
	if err := CheckBuild(name, o.Include); err != nil {
		return "", err
	}
	if err := os.MkdirAll(o.CacheDir, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	var path string
	var err error
	if name == "busybox" {
		path, err = busybox(ctx, o)
	} else {
		path, err = bootstrap(ctx, name, distributions()[name], o)
	}
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return path, nil
}

// CheckBuild says what is wrong with a recipe's name and the packages to include, as far as that is known beforehand.
func CheckBuild(name string, include []string) error {
	_, known := distributions()[name]
	switch {
	case known:
	case name != "busybox":
		return fmt.Errorf("there is no recipe named %q: %s can be built, anything else can be imported from a file or an OCI image", name, strings.Join(Recipes(), ", "))
	case len(include) > 0:
		return errors.New("busybox has no packages, so nothing can be included")
	}
	for _, p := range include {
		if !regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`).MatchString(p) {
			return fmt.Errorf("%q is no package name", p)
		}
	}
	return nil
}

// bootstrap builds a distribution with its packages.
func bootstrap(ctx context.Context, name string, d distribution, o BuildOptions) (string, error) {
	packages := append(slices.Clone(base), o.Include...)
	slices.Sort(packages)
	packages = slices.Compact(packages)
	path := cached(o.CacheDir, name, append(packages, d.suite, recipe)...)
	if info, err := os.Stat(path); err == nil && !o.Fresh {
		fmt.Fprintf(o.Log, "%s: using %s, built %s ago (--fresh builds it anew)\n", name, path, age(time.Since(info.ModTime())))
		return path, nil
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return "", errors.New("mmdebstrap is not installed: apt-get install mmdebstrap")
	}
	if _, err := os.Stat(d.keyring); d.keyring != "" && err != nil {
		return "", fmt.Errorf("the keys of %s are not here: apt-get install ubuntu-archive-keyring (in Ubuntu: ubuntu-keyring)", d.title)
	}
	fmt.Fprintf(o.Log, "%s: building %s with mmdebstrap from %s\n", name, d.suite, strings.Join(packages, ", "))
	return path, save(path, func(w io.Writer) error {
		var said bytes.Buffer
		cmd := exec.CommandContext(ctx, "mmdebstrap", mmdebstrap(d, packages)...)
		cmd.Stdout, cmd.Stderr = w, &said
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it cleans up after itself
		cmd.WaitDelay = 10 * time.Second
		defer patience(o.Log, 10*time.Second)()
		if err := cmd.Run(); err != nil {
			if missing := unknownPackages(said.String()); len(missing) > 0 {
				return fmt.Errorf("%s has no package %s", d.title, strings.Join(missing, ", "))
			}
			return fmt.Errorf("mmdebstrap failed (%w): %s", err, complaint(said.String()))
		}
		return nil
	})
}

// mmdebstrap is its command line for a distribution.
func mmdebstrap(d distribution, packages []string) []string {
	args := []string{"--mode=root", "--variant=minbase", "--include=" + strings.Join(packages, ",")}
	for _, dir := range []string{"man", "info", "locale", "doc"} { // nobody reads them in a container; licences stay
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+dir+"/*")
	}
	args = append(args, "--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=path-include=/usr/share/locale/locale.alias")
	if d.keyring != "" {
		args = append(args, "--keyring="+d.keyring)
	}
	if d.components != "" {
		args = append(args, "--components="+d.components)
	}
	args = append(args, d.suite, "-")
	if d.mirror != "" {
		args = append(args, d.mirror)
	}
	return args
}

// patience says again and again that the work goes on, until the returned function is called.
func patience(w io.Writer, every time.Duration) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		start, tick := time.Now(), time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				fmt.Fprintf(w, "still building, %.0f s\n", time.Since(start).Seconds())
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// unknownPackages are those that apt said it could not find.
func unknownPackages(said string) []string {
	var names []string
	for _, found := range regexp.MustCompile(`(?m)^E: (?:Unable to locate package (\S+)|Package '([^']+)' has no installation candidate)`).FindAllStringSubmatch(said, -1) {
		if name := found[1] + found[2]; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// complaint picks what matters out of mmdebstrap's and apt's output.
func complaint(said string) string {
	var lines []string
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "E: ") {
			line = strings.TrimPrefix(line, "E: ")
			if len(line) > 200 { // a command with all its packages
				line = line[:200] + "…"
			}
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return "it gave no reason"
	}
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// cached is the path of an archive that was built from some ingredients.
func cached(dir, name string, ingredients ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(ingredients, "\n")))
	return filepath.Join(dir, name+"-"+hex.EncodeToString(sum[:6])+".tar.zst")
}

// save writes a compressed archive under its name, all of it or nothing.
func save(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	defer f.Close()
	z, err := zstd.NewWriter(f)
	if err != nil {
		return err
	}
	if err := write(z); err != nil {
		return errors.Join(err, z.Close())
	}
	if err := errors.Join(z.Close(), f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// age rounds a duration to what people say.
func age(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
