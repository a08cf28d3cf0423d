package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// The files of the busybox template. Its init runs rc once and then only reaps: a container that does nothing.
var busyboxFiles = []struct {
	name, content string
	mode          int64
}{
	{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644},
	{"etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n", 0o644},
	{"etc/inittab", "::sysinit:/etc/rc\n::ctrlaltdel:/bin/true\n::shutdown:/bin/true\n", 0o644},
	{"etc/rc", "#!/bin/sh\necho \"$(date) $(hostname) booted\" >> /var/log/boot.log\n", 0o755},
	{"etc/os-release", "ID=busybox\nNAME=BusyBox\nPRETTY_NAME=\"BusyBox (vzcluster)\"\n", 0o644},
}

// busybox packs this machine's static busybox.
func busybox(ctx context.Context, o BuildOptions) (string, error) {
	binary, err := staticBusybox()
	if err != nil {
		return "", err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return "", err
	}
	list, err := exec.CommandContext(ctx, binary, "--list-full").Output()
	if err != nil {
		return "", fmt.Errorf("list the applets of %s: %w", binary, err)
	}
	sum := sha256.Sum256(content)
	file := cached(o.CacheDir, "busybox", string(sum[:]), fmt.Sprint(busyboxFiles), recipe)
	if _, err := os.Stat(file); err == nil && !o.Fresh {
		fmt.Fprintf(o.Log, "busybox: using %s\n", file)
		return file, nil
	}
	fmt.Fprintf(o.Log, "busybox: packing %s\n", binary)
	return file, save(file, func(w io.Writer) error { return packBusybox(w, content, strings.Fields(string(list))) })
}

// staticBusybox finds a busybox that needs no library.
func staticBusybox() (string, error) {
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox", "/bin/busybox-static"} {
		f, err := elf.Open(p)
		if err != nil {
			continue
		}
		dynamic := slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
		f.Close()
		if !dynamic {
			return p, nil
		}
	}
	return "", errors.New("this machine has no static busybox: apt-get install busybox-static")
}

func packBusybox(w io.Writer, binary []byte, applets []string) error {
	out := tar.NewWriter(w)
	put := func(h tar.Header, content []byte) error {
		h.Size, h.ModTime, h.Format = int64(len(content)), epoch(), tar.FormatPAX
		if err := out.WriteHeader(&h); err != nil {
			return err
		}
		_, err := out.Write(content)
		return err
	}
	for _, d := range []string{"", "bin", "sbin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "usr/sbin", "var", "var/log"} {
		mode := int64(0o755)
		switch d {
		case "tmp":
			mode = 0o1777
		case "root":
			mode = 0o700
		}
		if err := put(tar.Header{Typeflag: tar.TypeDir, Name: "./" + d, Mode: mode}, nil); err != nil {
			return err
		}
	}
	if err := put(tar.Header{Typeflag: tar.TypeReg, Name: "./bin/busybox", Mode: 0o755}, binary); err != nil {
		return err
	}
	slices.Sort(applets)
	for _, a := range slices.Compact(append(applets, "sbin/init")) {
		if a = path.Clean("/" + a)[1:]; a == "bin/busybox" || a == "linuxrc" {
			continue
		}
		if err := put(tar.Header{Typeflag: tar.TypeSymlink, Name: "./" + a, Linkname: "/bin/busybox", Mode: 0o777}, nil); err != nil {
			return err
		}
	}
	for _, f := range busyboxFiles {
		if err := put(tar.Header{Typeflag: tar.TypeReg, Name: "./" + f.name, Mode: f.mode}, []byte(f.content)); err != nil {
			return err
		}
	}
	return out.Close()
}
