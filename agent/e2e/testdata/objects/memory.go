package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const shared = 16 << 12 // pages enough that not all are written at once

// mappedFile is a file that is written through memory only, all the time: nobody tells the file system.
func mappedFile() func() {
	f := must(os.OpenFile("mapped", os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600))
	ok(f.Truncate(shared))
	mem := must(unix.Mmap(int(f.Fd()), 0, shared, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	var mu sync.Mutex
	want := make([]byte, shared) // the same in private memory
	go func() {
		for n := uint64(1); ; n++ {
			mu.Lock()
			at := int(n*4096+n*8) % shared &^ 7
			binary.LittleEndian.PutUint64(mem[at:], n)
			binary.LittleEndian.PutUint64(want[at:], n)
			mu.Unlock()
			time.Sleep(time.Millisecond)
		}
	}()
	return func() {
		mu.Lock()
		defer mu.Unlock()
		expect("what is mapped is what was written", string(mem) == string(want), true)
		expect("the file is what is mapped", content(f) == string(mem), true)
		expect("the file of this name is what is mapped", string(must(os.ReadFile("mapped"))) == string(mem), true)
	}
}

// counts returns a check that every byte of some memory has been incremented once per check.
func counts(mem []byte) func() {
	n := byte(0)
	return func() {
		for i := range mem {
			expect(fmt.Sprintf("byte %d", i), mem[i], n)
			mem[i]++
		}
		n++
	}
}

func sharedAnonymous() func() {
	return counts(must(unix.Mmap(-1, 0, shared, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)))
}

// memfd is mapped and sealed.
func memfd() func() {
	fd := must(unix.MemfdCreate("objects", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING))
	ok(unix.Ftruncate(fd, shared))
	mem := must(unix.Mmap(fd, 0, shared, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	seals := must(unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK))
	expect("seals", seals, 0)
	check, b := counts(mem), make([]byte, 1)
	return func() {
		check()
		must(unix.Pread(fd, b, 100))
		expect("what is read is what is mapped", b[0], mem[100])
		expect("seals", must(unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)), unix.F_SEAL_GROW|unix.F_SEAL_SHRINK)
		expect("grow", unix.Ftruncate(fd, 2*shared), error(unix.EPERM))
	}
}

// posixShm is what shm_open makes, and is unlinked after that, as most do.
func posixShm() func() {
	f := must(os.OpenFile("/dev/shm/objects", os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600))
	ok(f.Truncate(shared))
	mem := must(unix.Mmap(int(f.Fd()), 0, shared, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	ok(os.Remove("/dev/shm/objects"))
	return counts(mem)
}

// sysvShm is attached twice, and has a key by which it is found.
func sysvShm() func() {
	const key = 0x0b1ec7
	id := must(unix.SysvShmGet(key, shared, unix.IPC_CREAT|0o600))
	mem := must(unix.SysvShmAttach(id, 0, 0))
	again := must(unix.SysvShmAttach(id, 0, unix.SHM_RDONLY))
	check := counts(mem)
	return func() {
		check()
		expect("the other mapping", again[shared-1], mem[shared-1])
		expect("id", must(unix.SysvShmGet(key, shared, 0o600)), id)
	}
}

func ipc(trap uintptr, a ...uintptr) int {
	a = append(a, 0, 0, 0, 0, 0)
	n, _, errno := unix.Syscall6(trap, a[0], a[1], a[2], a[3], a[4], 0)
	if errno != 0 {
		panic(errno)
	}
	return int(n)
}

func sysvSemaphore() func() {
	id := ipc(unix.SYS_SEMGET, unix.IPC_PRIVATE, 1, 0o600)
	n := 0
	return func() {
		const getval = 12
		expect("value", ipc(unix.SYS_SEMCTL, uintptr(id), 0, getval), n)
		up := struct {
			num     uint16
			op, flg int16
		}{op: 1}
		ipc(unix.SYS_SEMOP, uintptr(id), uintptr(unsafe.Pointer(&up)), 1)
		n++
	}
}

// sysvMessages always has one message waiting.
func sysvMessages() func() {
	id := ipc(unix.SYS_MSGGET, unix.IPC_PRIVATE, 0o600)
	type message struct {
		kind int64
		text [8]byte
	}
	n := 0
	send := func() {
		m := message{kind: 1}
		copy(m.text[:], fmt.Sprintf("%07d", n))
		ipc(unix.SYS_MSGSND, uintptr(id), uintptr(unsafe.Pointer(&m)), 8)
	}
	send()
	return func() {
		var m message
		ipc(unix.SYS_MSGRCV, uintptr(id), uintptr(unsafe.Pointer(&m)), 8, 0, unix.IPC_NOWAIT)
		expect("message", string(m.text[:7]), fmt.Sprintf("%07d", n))
		n++
		send()
	}
}
