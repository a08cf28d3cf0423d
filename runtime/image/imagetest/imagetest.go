// Package imagetest makes archives for tests: small good ones, and hostile ones that no import may take. It owns no
// files. The one rule for callers: an import of any Hostile archive must fail, leave nothing in the store and change
// nothing outside it.
package imagetest

import (
	"archive/tar"
	"bytes"
	"strings"
)

// Entry is an archive's entry; a header without a type is a regular file with the content.
type Entry struct {
	tar.Header
	Content string
}

// File is a regular file.
func File(name, content string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

// Dir is a directory.
func Dir(name string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

// Hardlink is another name of a file.
func Hardlink(name, target string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

// Device is a character or block device.
func Device(name string, kind byte, major, minor int64) Entry {
	return Entry{tar.Header{Typeflag: kind, Name: name, Mode: 0o666, Devmajor: major, Devminor: minor}, ""}
}

// Tar packs entries. It panics on one that tar cannot hold: the test is wrong then.
func Tar(entries ...Entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.Content))
		if err := w.WriteHeader(&e.Header); err != nil {
			panic(err)
		}
		if _, err := w.Write([]byte(e.Content)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Tiny is the smallest good root file system, with more entries if given.
func Tiny(more ...Entry) []byte {
	return Tar(append([]Entry{Dir("./"), Dir("./bin/"), File("./bin/sh", "no real shell"), Dir("./etc/")}, more...)...)
}

// Hostile returns archives that must be refused, by what is wrong with them. Those that try to get out aim at a
// directory named "outside" beside the store or above it.
func Hostile() map[string][]byte {
	good := Tiny()
	return map[string][]byte{
		"absolute path":           Tiny(File("/outside/new", "evil")),
		"dot dot":                 Tiny(File("../outside/new", "evil")),
		"dot dot in the middle":   Tiny(File("./etc/../../outside/new", "evil")),
		"dot dot far":             Tiny(File(strings.Repeat("../", 30)+"tmp/outside/new", "evil")),
		"through a link":          Tiny(Symlink("./out", "../../outside"), File("./out/new", "evil")),
		"through an absolute":     Tiny(Symlink("./out", "/tmp"), File("./out/vzcluster-evil", "evil")),
		"through links":           Tiny(Symlink("./a", ".."), Symlink("./b", "a/.."), File("./b/new", "evil")),
		"directory through":       Tiny(Symlink("./out", "../../outside"), Dir("./out/new")),
		"hard link out":           Tiny(Hardlink("./passwd", "../../outside/secret")),
		"hard link absolute":      Tiny(Hardlink("./passwd", "/etc/passwd")),
		"hard link through":       Tiny(Symlink("./out", "/etc"), Hardlink("./passwd", "out/passwd")),
		"hard link to nothing":    Tiny(Hardlink("./passwd", "./none")),
		"hard link to itself":     Tiny(Hardlink("./passwd", "./passwd")),
		"hard link to directory":  Tiny(Hardlink("./passwd", "./etc")),
		"disk":                    Tiny(Device("./disk", tar.TypeBlock, 8, 0)),
		"disk in dev":             Tiny(Dir("./dev/"), Device("./dev/null", tar.TypeBlock, 8, 0)),
		"unknown device in dev":   Tiny(Dir("./dev/"), Device("./dev/mem", tar.TypeChar, 1, 1)),
		"null elsewhere":          Tiny(Device("./etc/null", tar.TypeChar, 1, 3)),
		"root is a file":          Tar(File(".", "x"), File("./bin/sh", "x")),
		"root is a link":          Tar(Symlink(".", "/"), File("./etc/vzcluster-evil", "x")),
		"dev is a link":           Tiny(Symlink("./dev", "/tmp")),
		"etc is a link":           Tar(Dir("./"), Dir("./sbin/"), File("./sbin/init", "x"), Dir("./lib/systemd/"), File("./lib/systemd/systemd", "x"), Symlink("./etc", "../../outside")),
		"file becomes a tree":     Tiny(File("./etc/f", "x"), File("./etc/f/g", "x")),
		"tree becomes a file":     Tiny(File("./etc/d/f", "x"), File("./etc/d", "x")),
		"owner out of range":      Tiny(Entry{tar.Header{Typeflag: tar.TypeReg, Name: "./f", Uid: 65536}, ""}),
		"attribute too large":     Tiny(Entry{tar.Header{Typeflag: tar.TypeReg, Name: "./f", PAXRecords: map[string]string{"SCHILY.xattr.user.big": strings.Repeat("x", 70_000)}}, ""}),
		"no root file system":     Tar(Dir("./"), File("./readme", "x")),
		"no files":                Tar(),
		"nothing":                 {},
		"no archive":              []byte(strings.Repeat("this is no archive\n", 100)),
		"truncated in a header":   good[:700],
		"truncated between files": good[:len(good)-1024],
		"truncated in a file":     Tiny(File("./large", strings.Repeat("x", 100_000)))[:50_000],
		"damaged header":          damaged(good, 600),
		"gzip of nothing":         {0x1f, 0x8b, 8, 0},
		"zstd of nothing":         {0x28, 0xb5, 0x2f, 0xfd, 0},
		"xz of nothing":           {0xfd, '7', 'z', 'X', 'Z', 0, 0},
	}
}

func damaged(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0xff
	return b
}
