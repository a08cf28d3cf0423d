package main

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// appended is a file that is open for appending while its offset is elsewhere.
func appended() func() {
	f := must(os.OpenFile("appended", os.O_CREATE|os.O_RDWR|os.O_APPEND|os.O_TRUNC, 0o600))
	n := 0
	return func() {
		n++
		must(fmt.Fprintf(f, "%d\n", n))
		expect("size", must(f.Stat()).Size(), int64(2*n))
		expect("offset", must(f.Seek(0, io.SeekCurrent)), int64(2*n))
		expect("flags", must(unix.FcntlInt(f.Fd(), unix.F_GETFL, 0))&unix.O_APPEND, unix.O_APPEND)
	}
}

// deletedFile is a file without a name that still grows.
func deletedFile() func() {
	f := must(os.OpenFile("deleted", os.O_CREATE|os.O_RDWR, 0o600))
	ok(os.Remove("deleted"))
	return grows(f)
}

// nameless is a file that never had a name.
func nameless() func() {
	return grows(os.NewFile(uintptr(must(unix.Open(".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600))), "nameless"))
}

func grows(f *os.File) func() {
	want := ""
	return func() {
		expect("content", content(f), want)
		must(f.WriteAt([]byte("more "), int64(len(want))))
		want += "more "
		var st unix.Stat_t
		ok(unix.Fstat(int(f.Fd()), &st))
		expect("number of names", st.Nlink, 0)
	}
}

func content(f *os.File) string {
	return string(must(io.ReadAll(io.NewSectionReader(f, 0, 1<<30))))
}

func deletedLarge() func() {
	f := must(os.OpenFile("large", os.O_CREATE|os.O_RDWR, 0o600))
	b := make([]byte, 8<<20)
	must(rand.Read(b))
	must(f.Write(b))
	ok(os.Remove("large"))
	sum := sha256.Sum256(b)
	return func() { expect("checksum", sha256.Sum256([]byte(content(f))), sum) }
}

// directory is an open directory and a path-only descriptor.
func directory() func() {
	ok(os.MkdirAll("directory", 0o700))
	fd := must(unix.Open("directory", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0))
	path := must(unix.Open("directory", unix.O_PATH|unix.O_CLOEXEC, 0))
	return func() {
		for _, at := range []int{fd, path} {
			f := must(unix.Openat(at, "file", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600))
			ok(unix.Close(f))
			ok(unix.Unlinkat(fd, "file", 0))
		}
	}
}

func flocked() func() {
	f := must(os.Create("flocked"))
	ok(unix.Flock(int(f.Fd()), unix.LOCK_EX))
	return func() { isHeld(f, "flock") }
}

func recordLock() func() {
	f := must(os.Create("recorded"))
	ok(unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 20}))
	return func() { isHeld(f, "record") }
}

func openFileLock() func() {
	f := must(os.Create("open-locked"))
	ok(unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 20}))
	return func() { isHeld(f, "open") }
}

// isHeld asks by another process, because one that holds a record lock never waits for itself.
func isHeld(f *os.File, kind string) {
	if out, err := exec.Command("/proc/self/exe", "held", f.Name(), kind).CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
}

// held succeeds when a lock cannot be had, but one beside it can.
func held(file, kind string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	lock := func(start int64) error {
		l := unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: 5}
		switch kind {
		case "flock":
			return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		case "record":
			return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &l)
		}
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
	}
	if err := lock(12); err != unix.EAGAIN && err != unix.EACCES {
		return fmt.Errorf("the lock was to be had: %v", err)
	}
	if kind == "flock" {
		return nil
	}
	return lock(40)
}
