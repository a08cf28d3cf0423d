// Command stamp measures silence: inside a container it sends a numbered datagram every two milliseconds, on another
// machine it writes down when the kernel received each. It is a program of its own, small, because it is checkpointed
// with the container that it runs in.
//
//	stamp send ADDR:PORT       until it is killed
//	stamp receive PORT         one record per datagram on stdout: number and nanoseconds since 1970, little endian
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

const period = 2 * time.Millisecond

func main() {
	err := errors.New("use: stamp send ADDR:PORT, or: stamp receive PORT")
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case "send":
			err = send(os.Args[2])
		case "receive":
			err = receive(os.Args[2])
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// send goes on whatever happens to the datagrams.
func send(address string) error {
	conn, err := net.Dial("udp4", address)
	if err != nil {
		return err
	}
	var stamp [8]byte
	for n := uint64(1); ; n++ {
		binary.LittleEndian.PutUint64(stamp[:], n)
		_, _ = conn.Write(stamp[:])
		time.Sleep(period)
	}
}

// receive takes the kernel's time stamps: on a busy machine this process runs some time after a datagram came.
func receive(port string) error {
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: n}); err != nil {
		return err
	}
	data, control := make([]byte, 64), make([]byte, 128)
	for {
		size, oob, _, _, err := unix.Recvmsg(fd, data, control, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if size != 8 {
			continue
		}
		var record [16]byte
		copy(record[:], data[:8])
		binary.LittleEndian.PutUint64(record[8:], uint64(arrival(control[:oob])))
		if _, err := os.Stdout.Write(record[:]); err != nil {
			return err
		}
	}
}

// arrival is the kernel's time stamp, or now without one.
func arrival(control []byte) int64 {
	messages, err := unix.ParseSocketControlMessage(control)
	if err == nil {
		for _, m := range messages {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
				return int64(binary.NativeEndian.Uint64(m.Data))*1e9 + int64(binary.NativeEndian.Uint64(m.Data[8:]))
			}
		}
	}
	return time.Now().UnixNano()
}
