package main

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A datagram over loopback carries the kernel's time stamp, and it is right.
func TestArrivalIsTheKernels(t *testing.T) {
	r, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(r)
	if err := unix.SetsockoptInt(r, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(r, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(r)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().UnixNano()
	if err := unix.Sendto(r, []byte("12345678"), 0, at); err != nil {
		t.Fatal(err)
	}
	after := time.Now().UnixNano()
	oob := make([]byte, 128)
	_, n, _, _, err := unix.Recvmsg(r, make([]byte, 64), oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Fatal("no time stamp came")
	}
	// Sent and received within one call, so it lies between the two readings, a little clock noise allowed.
	const noise = int64(time.Millisecond)
	if got := arrival(oob[:n]); got < before-noise || got > after+noise {
		t.Errorf("received %d ns after it was sent", got-before)
	}
}

func TestArrivalOfAMessage(t *testing.T) {
	data := make([]byte, 16)
	binary.NativeEndian.PutUint64(data, 3)
	binary.NativeEndian.PutUint64(data[8:], 7)
	message := make([]byte, unix.CmsgSpace(16))
	binary.NativeEndian.PutUint64(message, uint64(unix.CmsgLen(16)))
	binary.NativeEndian.PutUint32(message[8:], unix.SOL_SOCKET)
	binary.NativeEndian.PutUint32(message[12:], unix.SO_TIMESTAMPNS)
	copy(message[16:], data)
	if got := arrival(message); got != 3_000_000_007 {
		t.Errorf("%d", got)
	}
	if got := arrival(nil); time.Since(time.Unix(0, got)) > time.Minute {
		t.Errorf("without a time stamp: %d", got)
	}
}
