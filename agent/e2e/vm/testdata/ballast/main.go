// Command ballast holds memory, and writes to little of it:
//
//	ballast ADDR MIB [untracked]
//
// Ten times a second it changes one page. Every connection gets a line with "good" if all other pages are as they were
// written. Untracked opens its own clear_refs, so that a migration must not use the kernel's marks of written pages.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "ballast:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 3 {
		return errors.New("usage: ballast ADDR MIB [untracked]")
	}
	mib, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	memory, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	if len(os.Args) > 3 {
		f, err := os.OpenFile("/proc/self/clear_refs", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
	}
	for at := 0; at < len(memory); at += pageSize {
		binary.NativeEndian.PutUint64(memory[at:], content(at))
	}
	go func() {
		for n := uint64(1); ; n++ { // in the first pages only
			binary.NativeEndian.PutUint64(memory[int(n%64)*pageSize:], n)
			time.Sleep(100 * time.Millisecond)
		}
	}()
	ln, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(conn, check(memory)); err != nil {
			fmt.Fprintln(os.Stderr, "ballast:", err)
		}
		conn.Close()
	}
}

// content is different in every page.
func content(at int) uint64 { return uint64(at)*0x9e3779b97f4a7c15 + 1 }

func check(memory []byte) string {
	for at := 64 * pageSize; at < len(memory); at += pageSize {
		if got := binary.NativeEndian.Uint64(memory[at:]); got != content(at) {
			return fmt.Sprintf("at %#x is %#x", at, got)
		}
	}
	return "good"
}
