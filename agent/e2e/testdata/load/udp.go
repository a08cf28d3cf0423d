package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// udp sends numbered datagrams. The server's answer counts the different ones it has seen since it was started.
func udp(addr string, p *progress) error {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	for n := 1; p.goesOn(); n++ {
		if err := request(conn, fmt.Sprint("datagram ", n), fmt.Sprintf("%d datagram %d", n, n)); err != nil {
			return err
		}
		if err := p.did(1); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return nil
}

func request(conn net.Conn, text, want string) error {
	buf := make([]byte, 2048)
	for give := time.Now().Add(patience); time.Now().Before(give); {
		if _, err := conn.Write([]byte(text)); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		for { // late answers to what was repeated come first
			n, err := conn.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			if string(buf[:n]) == want {
				return nil
			}
		}
	}
	return fmt.Errorf("nobody answers %q with %q", text, want)
}
