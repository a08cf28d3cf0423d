package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for what should be there already.
const patience = 5 * time.Second

// underWay returns a check that text which was written before the check can be read, and writes more for the next.
func underWay(w io.Writer, r io.Reader) func() {
	n, buf := 0, make([]byte, 64)
	send := func() { must(fmt.Fprintf(w, "text %07d", n)) }
	send()
	return func() {
		if d, ok := r.(interface{ SetReadDeadline(time.Time) error }); ok {
			_ = d.SetReadDeadline(time.Now().Add(patience)) // a file that cannot be waited for needs none
		}
		expect("text", string(buf[:must(r.Read(buf))]), fmt.Sprintf("text %07d", n))
		n++
		send()
	}
}

// bothWays is underWay in both directions.
func bothWays(a, b io.ReadWriter) func() {
	one, other := underWay(a, b), underWay(b, a)
	return func() { one(); other() }
}

func pipe() func() {
	r, w, err := os.Pipe()
	ok(err)
	return underWay(w, r)
}

func fifo() func() {
	_ = os.Remove("fifo")
	ok(unix.Mkfifo("fifo", 0o600))
	f := must(os.OpenFile("fifo", os.O_RDWR, 0))
	return underWay(f, f)
}

// unixPair is a socket pair with a message under way in both directions.
func unixPair(kind string) func() func() {
	types := map[string]int{"stream": unix.SOCK_STREAM, "datagram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET}
	return func() func() {
		a, b := socketPair(types[kind])
		return bothWays(a, b)
	}
}

func socketPair(kind int) (a, b *os.File) {
	fds := must(unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
	return os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
}

// unixListener has a client that stays, and takes a new one at every check.
func unixListener(name string) func() func() {
	return func() func() {
		if name[0] != '@' {
			_ = os.Remove(name)
		}
		ln := must(net.Listen("unix", name))
		connect := func() (a, b net.Conn) {
			a = must(net.Dial("unix", name))
			return a, must(ln.Accept())
		}
		stays := bothWays(connect())
		return func() {
			stays()
			a, b := connect()
			defer a.Close()
			defer b.Close()
			bothWays(a, b)()
		}
	}
}

// descriptorUnderWay is a pipe's end that was sent over a socket and has not arrived.
func descriptorUnderWay() func() {
	a, b := socketPair(unix.SOCK_STREAM)
	n := 0
	send := func() {
		r, w, err := os.Pipe()
		ok(err)
		must(fmt.Fprint(w, n))
		ok(w.Close())
		ok(unix.Sendmsg(int(a.Fd()), []byte{0}, unix.UnixRights(int(r.Fd())), nil, 0))
		ok(r.Close())
	}
	send()
	return func() {
		oob := make([]byte, unix.CmsgSpace(4))
		_, got, _, _, err := unix.Recvmsg(int(b.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
		ok(err)
		messages := must(unix.ParseSocketControlMessage(oob[:got]))
		f := os.NewFile(uintptr(must(unix.ParseUnixRights(&messages[0]))[0]), "received")
		defer f.Close()
		expect("what is in the pipe", string(must(io.ReadAll(f))), fmt.Sprint(n))
		n++
		send()
	}
}

// loopbackTCP is a connection with both ends here and bytes under way in both directions.
func loopbackTCP(addr string) func() func() {
	return func() func() {
		ln := must(net.Listen("tcp", addr))
		connect := func() (a, b net.Conn) {
			a = must(net.Dial("tcp", ln.Addr().String()))
			return a, must(ln.Accept())
		}
		stays := bothWays(connect())
		return func() {
			stays()
			a, b := connect()
			defer a.Close()
			defer b.Close()
			bothWays(a, b)()
		}
	}
}

// loopbackUDP has nothing under way between checks: datagrams may be lost.
func loopbackUDP(addr string) func() func() {
	return func() func() {
		server := must(net.ListenPacket("udp", addr))
		client := must(net.Dial("udp", server.LocalAddr().String()))
		buf := make([]byte, 16)
		return func() {
			must(client.Write([]byte("there")))
			ok(server.SetReadDeadline(time.Now().Add(patience)))
			n, from, err := server.ReadFrom(buf)
			ok(err)
			expect("request", string(buf[:n]), "there")
			expect("sender", from.String(), client.LocalAddr().String())
			must(server.WriteTo([]byte("back"), from))
			ok(client.SetReadDeadline(time.Now().Add(patience)))
			expect("answer", string(buf[:must(client.Read(buf))]), "back")
		}
	}
}
