package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// node is everything that a copy must keep of a path.
type node struct {
	Mode     uint32
	UID, GID uint32
	Size     int64
	MTime    int64
	Rdev     uint64
	Link     string
	Sum      string
	Same     string // the first path with the same inode
	Sparse   bool
	Xattrs   map[string]string
}

// snapshot describes a tree completely.
func snapshot(t *testing.T, root string) map[string]node {
	t.Helper()
	all, inodes := map[string]node{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		n := node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, MTime: st.Mtim.Nano(), Rdev: st.Rdev}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			n.Sum, n.Size, n.Sparse = hex.EncodeToString(sum[:]), st.Size, st.Blocks*512 < st.Size/2
		case unix.S_IFLNK:
			n.Link, _ = os.Readlink(p)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if _, ok := inodes[st.Ino]; !ok {
				inodes[st.Ino] = rel
			}
			n.Same = inodes[st.Ino]
		}
		f, err := os.OpenFile(p, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		attrs, err := xattrs(f)
		if err != nil {
			return err
		}
		for k, v := range attrs {
			if n.Xattrs == nil {
				n.Xattrs = map[string]string{}
			}
			n.Xattrs[k] = string(v)
		}
		all[rel] = n
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, p, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(t, os.WriteFile(p, []byte(content), 0o644))
}

// needRoot skips where devices and owners cannot be made.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners, devices and trusted attributes need root")
	}
}

// layers returns an empty source and target on a file system that keeps trusted attributes.
func layers(t *testing.T) (src, dst string) {
	t.Helper()
	dir := t.TempDir()
	src, dst = filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	must(t, os.Mkdir(src, 0o755))
	must(t, os.Mkdir(dst, 0o755))
	return src, dst
}

// tricky fills a layer with one of everything.
func tricky(t *testing.T, root string) {
	t.Helper()
	in := func(p string) string { return filepath.Join(root, p) }
	write(t, in("etc/plain"), "plain\n")
	write(t, in("empty"), "")
	write(t, in("bin/su"), "set-uid")
	must(t, os.Chown(in("bin/su"), 0, 42))
	must(t, unix.Chmod(in("bin/su"), 0o6755))
	write(t, in("home/user/file"), "owned")
	must(t, os.Chown(in("home/user/file"), 1000, 65534))
	must(t, os.Chown(in("home/user"), 1000, 1000))
	must(t, unix.Chmod(in("home/user"), 0o1770))
	write(t, in("links/a"), "shared")
	must(t, os.Link(in("links/a"), in("links/b")))
	must(t, os.Link(in("links/a"), in("etc/c")))
	must(t, os.Symlink("/etc/shadow", in("links/absolute")))
	must(t, os.Symlink("../../../../outside", in("links/out")))
	must(t, os.Symlink(strings.Repeat("x", 3000), in("links/long")))
	must(t, unix.Mknod(in("whiteout"), unix.S_IFCHR, 0))
	must(t, os.Link(in("whiteout"), in("etc/whiteout2")))
	must(t, unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(in("pipe"), unix.S_IFIFO|0o640, 0))
	must(t, unix.Mknod(in("socket"), unix.S_IFSOCK|0o755, 0))
	write(t, in("names/\xff\xfe latin1 \n newline"), "bytes")
	write(t, in("names/ leading"), "blank")
	write(t, in("names/"+strings.Repeat("n", 255)), "long")
	write(t, in("opaque/x"), "x")
	must(t, unix.Setxattr(in("opaque"), "trusted.overlay.opaque", []byte("y"), 0))
	must(t, unix.Setxattr(in("etc/plain"), "user.note", []byte("binary\x00value"), 0))
	must(t, unix.Setxattr(in("etc/plain"), "user.large", bytes.Repeat([]byte("v"), 2000), 0))
	must(t, unix.Setxattr(in("bin/su"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	setACL(t, in("home/user"), "system.posix_acl_default")
	setACL(t, in("etc/plain"), "system.posix_acl_access")
	sparse(t, in("sparse"), 4<<20, 3<<20)
	sparse(t, in("hole"), 6<<20, -1)
	write(t, in("large"), strings.Repeat("0123456789abcdef", 3<<16)+"tail")
	must(t, os.Chtimes(in("etc/plain"), time.Time{}, time.Unix(1234567890, 123456789)))
	must(t, os.Chtimes(in("links"), time.Time{}, time.Unix(987654321, 1)))
}

// setACL gives read access to group 1234.
func setACL(t *testing.T, p, name string) {
	t.Helper()
	acl := "\x02\x00\x00\x00" +
		"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x04\x00\x04\x00\xff\xff\xff\xff" + "\x08\x00\x04\x00\xd2\x04\x00\x00" +
		"\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	must(t, unix.Setxattr(p, name, []byte(acl), 0))
}

func sparse(t *testing.T, p string, size, at int64) {
	t.Helper()
	f, err := os.Create(p)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	if at >= 0 {
		_, err = f.WriteAt([]byte("island"), at)
		must(t, err)
	}
}

// pass sends one pass from src to dst through memory.
func pass(t *testing.T, src, dst string, prev *Manifest) (*Manifest, Stats) {
	t.Helper()
	var stream bytes.Buffer
	next, sent, err := Send(context.Background(), &stream, src, prev)
	must(t, err)
	stream.WriteString("what follows in the stream")
	_, got, err := Receive(context.Background(), &stream, dst, nil, Limits{})
	must(t, err)
	if got != sent {
		t.Errorf("received %+v, sent %+v", got, sent)
	}
	if stream.String() != "what follows in the stream" {
		t.Errorf("Receive left %q in the stream", stream.String())
	}
	return next, sent
}

func same(t *testing.T, src, dst string) {
	t.Helper()
	if diff := cmp.Diff(snapshot(t, src), snapshot(t, dst)); diff != "" {
		t.Errorf("the copy differs (-source +copy):\n%s", diff)
	}
}

// old makes a manifest believe that its pass began long after everything it saw was done, as it does in a real
// migration, where passes are seconds apart.
func (m *Manifest) old() *Manifest {
	m.started = time.Now().Add(time.Second).UnixNano()
	return m
}

func TestFirstPassCopiesEverything(t *testing.T) {
	needRoot(t)
	src, dst := layers(t)
	tricky(t, src)
	write(t, filepath.Join(dst, "left/from/before"), "gone")
	must(t, unix.Setxattr(filepath.Join(src, "etc"), "trusted.overlay.origin", []byte("lie"), 0))
	_, stats := pass(t, src, dst, nil)
	same(t, src, dst)
	if n, _ := unix.Getxattr(filepath.Join(dst, "etc"), "trusted.overlay.origin", make([]byte, 10)); n > 0 {
		t.Error("trusted.overlay.origin was copied")
	}
	if stats.Bytes > 5<<20 {
		t.Errorf("%d bytes were sent: holes were not left out", stats.Bytes)
	}
}

func TestNothingChangedSendsNothing(t *testing.T) {
	needRoot(t)
	src, dst := layers(t)
	tricky(t, src)
	m, _ := pass(t, src, dst, nil)
	m, stats := pass(t, src, dst, m.old())
	if stats != (Stats{}) {
		t.Errorf("sent %+v of a layer that did not change", stats)
	}
	if m.Len() != len(snapshot(t, src)) {
		t.Errorf("the manifest holds %d paths, the layer %d", m.Len(), len(snapshot(t, src)))
	}
	same(t, src, dst)
}

// Each change, made between two passes, must arrive with the second.
func TestDelta(t *testing.T) {
	needRoot(t)
	changes := map[string]func(t *testing.T, in func(string) string){
		"append":       func(t *testing.T, in func(string) string) { edit(t, in("etc/plain"), 6, "more") },
		"same size":    func(t *testing.T, in func(string) string) { edit(t, in("etc/plain"), 0, "PLAIN") },
		"large middle": func(t *testing.T, in func(string) string) { edit(t, in("large"), 1<<20, "changed") },
		"large append": func(t *testing.T, in func(string) string) { edit(t, in("large"), 3<<20+4, strings.Repeat("z", 300000)) },
		"large shrink": func(t *testing.T, in func(string) string) { must(t, os.Truncate(in("large"), 700001)) },
		"large tiny":   func(t *testing.T, in func(string) string) { must(t, os.Truncate(in("large"), 3)) },
		"large gone and hole": func(t *testing.T, in func(string) string) {
			must(t, os.Truncate(in("large"), 10))
			must(t, os.Truncate(in("large"), 3<<20))
		},
		"large becomes dir": func(t *testing.T, in func(string) string) {
			must(t, os.Remove(in("large")))
			write(t, in("large/now/a/dir"), "x")
		},
		"large twice linked": func(t *testing.T, in func(string) string) { must(t, os.Link(in("large"), in("etc/large2"))) },
		"fill hole":          func(t *testing.T, in func(string) string) { edit(t, in("hole"), 5<<20, "land") },
		"punch":              func(t *testing.T, in func(string) string) { punch(t, in("sparse"), 3<<20, 1<<20) },
		"remove":             func(t *testing.T, in func(string) string) { must(t, os.Remove(in("empty"))) },
		"remove tree":        func(t *testing.T, in func(string) string) { must(t, os.RemoveAll(in("links"))) },
		"rename":             func(t *testing.T, in func(string) string) { must(t, os.Rename(in("etc/plain"), in("names/moved"))) },
		"rename tree":        func(t *testing.T, in func(string) string) { must(t, os.Rename(in("links"), in("home/links2"))) },
		"swap trees": func(t *testing.T, in func(string) string) {
			must(t, unix.Renameat2(-1, in("etc"), -1, in("links"), unix.RENAME_EXCHANGE))
		},
		"dir to file": func(t *testing.T, in func(string) string) {
			must(t, os.RemoveAll(in("home")))
			write(t, in("home"), "a file now")
		},
		"dir to link": func(t *testing.T, in func(string) string) {
			must(t, os.RemoveAll(in("home")))
			must(t, os.Symlink("/", in("home")))
		},
		"file to dir": func(t *testing.T, in func(string) string) {
			must(t, os.Remove(in("empty")))
			write(t, in("empty/not/any/more"), "x")
		},
		"dir made anew": func(t *testing.T, in func(string) string) {
			must(t, os.RemoveAll(in("opaque")))
			write(t, in("opaque/other"), "y")
		},
		"mode":      func(t *testing.T, in func(string) string) { must(t, os.Chmod(in("etc/plain"), 0o600)) },
		"owner":     func(t *testing.T, in func(string) string) { must(t, os.Lchown(in("links/out"), 7, 8)) },
		"dir mode":  func(t *testing.T, in func(string) string) { must(t, os.Chmod(in("etc"), 0o700)) },
		"root mode": func(t *testing.T, in func(string) string) { must(t, os.Chmod(in("."), 0o700)) },
		"time": func(t *testing.T, in func(string) string) {
			must(t, os.Chtimes(in("etc"), time.Time{}, time.Unix(5, 5)))
		},
		"set xattr": func(t *testing.T, in func(string) string) {
			must(t, unix.Setxattr(in("etc"), "user.x", []byte("y"), 0))
		},
		"remove xattr": func(t *testing.T, in func(string) string) {
			must(t, unix.Removexattr(in("opaque"), "trusted.overlay.opaque"))
		},
		"remove acl": func(t *testing.T, in func(string) string) {
			must(t, unix.Removexattr(in("etc/plain"), "system.posix_acl_access"))
		},
		"write linked": func(t *testing.T, in func(string) string) { edit(t, in("links/b"), 0, "SHARED") },
		"new link":     func(t *testing.T, in func(string) string) { must(t, os.Link(in("etc/plain"), in("links/plain2"))) },
		"unlink one":   func(t *testing.T, in func(string) string) { must(t, os.Remove(in("links/a"))) },
		"unlink pair": func(t *testing.T, in func(string) string) {
			must(t, os.Remove(in("links/a")))
			write(t, in("links/a"), "on its own")
		},
		"new whiteout": func(t *testing.T, in func(string) string) { must(t, os.Link(in("whiteout"), in("names/wh"))) },
		"file to whiteout": func(t *testing.T, in func(string) string) {
			must(t, os.Remove(in("etc/plain")))
			must(t, os.Link(in("whiteout"), in("etc/plain")))
		},
		"retarget": func(t *testing.T, in func(string) string) {
			must(t, os.Remove(in("links/out")))
			must(t, os.Symlink("elsewhere", in("links/out")))
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			src, dst := layers(t)
			tricky(t, src)
			m, all := pass(t, src, dst, nil)
			m.old()
			for began := time.Now(); time.Since(began) < slack; { // a change in the same tick could not be told
				time.Sleep(time.Millisecond)
			}
			change(t, func(p string) string { return filepath.Join(src, p) })
			m, delta := pass(t, src, dst, m)
			same(t, src, dst)
			if delta.Files+delta.Deleted == 0 || delta.Files > all.Files/2 {
				t.Errorf("the second pass sent %+v, the first %+v", delta, all)
			}
			_, stats := pass(t, src, dst, m.old())
			if stats != (Stats{}) {
				t.Errorf("a third pass sent %+v", stats)
			}
			same(t, src, dst)
		})
	}
}

func edit(t *testing.T, p string, at int64, s string) {
	t.Helper()
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte(s), at)
	must(t, err)
}

func punch(t *testing.T, p string, at, n int64) {
	t.Helper()
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n))
}

func TestLargeFileIsPatched(t *testing.T) {
	src, dst := layers(t)
	write(t, filepath.Join(src, "db"), strings.Repeat("0123456789abcdef", 1<<20))
	m, _ := pass(t, src, dst, nil)
	edit(t, filepath.Join(src, "db"), 5<<20, "one page")
	_, stats := pass(t, src, dst, m.old())
	if stats.Bytes != chunk {
		t.Errorf("a write of 8 bytes into 16 MiB sent %d bytes, want %d", stats.Bytes, chunk)
	}
	same(t, src, dst)
}

// A page that is mapped writable takes writes of which no file time tells, until it was written out.
func TestWriteThroughMapping(t *testing.T) {
	src, dst := layers(t)
	p := filepath.Join(src, "mapped")
	write(t, p, strings.Repeat("m", 8192))
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	page, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(page) // the test is over
	page[0] = 'A'
	m, _ := pass(t, src, dst, nil)
	for i := range 5 {
		page[0] = byte('B' + i)
		page[5000] = byte('b' + i)
		m, _ = pass(t, src, dst, m)
		same(t, src, dst)
	}
	page[1] = '!'
	var stream bytes.Buffer
	_, _, err = SendFinal(context.Background(), &stream, src, m)
	must(t, err)
	_, _, err = Receive(context.Background(), &stream, dst, nil, Limits{})
	must(t, err)
	same(t, src, dst)
}

// Without the sync before a pass, a page that a process keeps writable would stay so, and no time would tell of writes.
func TestWriteToPageThatStaysWritable(t *testing.T) {
	src, dst := layers(t)
	p := filepath.Join(src, "mapped")
	write(t, p, strings.Repeat("m", 4096))
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	page, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(page) // the test is over
	page[0] = 'A'
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	for time.Since(time.Unix(st.Ctim.Unix())) < 2*slack { // the write must be older than what is sent in any case
		time.Sleep(time.Millisecond)
	}
	m, _ := pass(t, src, dst, nil)
	page[0] = 'B'
	pass(t, src, dst, m)
	same(t, src, dst)
}

func TestChangeWithinThePreviousPassIsNoProof(t *testing.T) {
	now := time.Now().UnixNano()
	for age, want := range map[time.Duration]bool{-time.Second: false, 0: false, slack / 2: false, slack + 1: true, time.Hour: true} {
		seen := &meta{ino: inode{number: 1}, ctime: now - int64(age)}
		m := &Manifest{started: now, files: map[string]*meta{"f": seen}}
		if got := m.unchanged("f", seen); got != want {
			t.Errorf("a file that changed %v before the pass: unchanged %v, want %v", age, got, want)
		}
		other := *seen
		other.mtime++
		if m.unchanged("f", &other) || m.unchanged("g", seen) {
			t.Error("another file counts as unchanged")
		}
	}
}

// A tree that changes all the time must neither fail a pass nor leave anything behind once it stands still.
func TestLivePasses(t *testing.T) {
	src, dst := layers(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			churn(src, i)
		}
	}()
	var m *Manifest
	for range 12 {
		m, _ = pass(t, src, dst, m)
	}
	close(stop)
	<-stopped
	var stream bytes.Buffer
	_, _, err := SendFinal(context.Background(), &stream, src, m)
	must(t, err)
	_, _, err = Receive(context.Background(), &stream, dst, nil, Limits{})
	must(t, err)
	same(t, src, dst)
}

// churn does a step of a restless container; errors are part of it.
func churn(root string, i int) {
	dir := filepath.Join(root, fmt.Sprint("d", i%7))
	file := filepath.Join(dir, fmt.Sprint("f", i%13))
	switch i % 9 {
	case 0:
		os.RemoveAll(dir)
	case 1:
		os.Rename(dir, filepath.Join(root, fmt.Sprint("d", (i+3)%7)))
	case 2:
		os.Symlink("/etc", dir)
	case 3:
		os.Link(file, filepath.Join(dir, "linked"))
	case 4:
		os.Truncate(file, int64(i%5)*200_000)
	default:
		os.MkdirAll(dir, 0o755)
		os.WriteFile(file, bytes.Repeat([]byte{byte(i)}, i%5*300_000), 0o644)
	}
}
