// Command load is the process that benchmarks move, and its clients. As PID 1 of a container it holds memory, dirties a
// stated share of it, sends stamps and answers on TCP; outside, its clients notice silence and broken connections.
//
//	load serve PORT MIB          answers commands and echoes on PORT, with so much memory
//	load echo ADDR:PORT          a message every two milliseconds; one record per answer on stdout, as stamp receive writes
//	load ask ADDR:PORT WORDS...  sends one command, and fails if the answer is not ok
//	load hold ADDR:PORT N        N connections; each line on stdin is answered by how many of them still echo
//
// A connection to serve begins with a line. "echo" sends everything back; every other one is a command: "stamp ADDR:PORT",
// "dirty PERMILLE" (of the memory, each second), "once PERMILLE", "write FILES KIB" (into /data), "touch FILES" (the first
// so many of them). A command is answered with "ok" or an error once it has been carried out.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	period  = 2 * time.Millisecond
	dataDir = "/data"
)

func main() {
	err := errors.New("use: load serve PORT MIB, load echo ADDR:PORT, load ask ADDR:PORT WORDS..., or load hold ADDR:PORT N")
	switch {
	case len(os.Args) == 4 && os.Args[1] == "serve":
		err = serve(os.Args[2], os.Args[3])
	case len(os.Args) == 3 && os.Args[1] == "echo":
		err = echo(os.Args[2], os.Stdout)
	case len(os.Args) > 3 && os.Args[1] == "ask":
		if err = ask(os.Args[2], os.Args[3:]); err == nil {
			os.Exit(0)
		}
	case len(os.Args) == 4 && os.Args[1] == "hold":
		err = hold(os.Args[2], os.Args[3])
	}
	fmt.Fprintln(os.Stderr, "load:", err)
	os.Exit(1)
}

// server is the process in the container.
type server struct {
	memory []byte
	dirty  atomic.Int64 // thousandths of the memory each second
}

func serve(port, mib string) error {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	s := &server{}
	// Not the heap: the garbage collector has nothing to do with it.
	s.memory, err = unix.Mmap(-1, 0, n<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("take %d MiB of memory: %w", n, err)
	}
	_, _ = rand.Read(s.memory) // never fails
	go s.keepDirty()
	var config net.ListenConfig
	config.SetMultipathTCP(false) // CRIU does not know it; a bare process has no namespace in which it is off
	l, err := config.Listen(context.Background(), "tcp4", ":"+port)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go s.talk(c)
	}
}

// talk serves one connection.
func (s *server) talk(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 4<<10)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	words := strings.Fields(line)
	if len(words) == 1 && words[0] == "echo" {
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{r}, make([]byte, 4<<10))
		return
	}
	answer := "ok"
	if err := s.command(words); err != nil {
		answer = err.Error()
	}
	_, _ = fmt.Fprintln(c, answer)
}

func (s *server) command(words []string) error {
	numbers := []int{}
	for _, w := range words[min(1, len(words)):] {
		if n, err := strconv.Atoi(w); err == nil {
			numbers = append(numbers, n)
		}
	}
	switch {
	case len(words) == 2 && words[0] == "stamp":
		conn, err := net.Dial("udp4", words[1])
		if err != nil {
			return err
		}
		go stamp(conn)
		return nil
	case len(numbers) == 1 && words[0] == "dirty":
		s.dirty.Store(int64(numbers[0]))
		return nil
	case len(numbers) == 1 && words[0] == "once":
		s.write(len(s.memory) / unix.Getpagesize() * numbers[0] / 1000)
		return nil
	case len(numbers) == 2 && words[0] == "write":
		return writeFiles(numbers[0], numbers[1]<<10)
	case len(numbers) == 1 && words[0] == "touch":
		return touchFiles(numbers[0])
	}
	return fmt.Errorf("there is no command %q", strings.Join(words, " "))
}

// stamp goes on whatever happens to the datagrams.
func stamp(conn net.Conn) {
	var b [8]byte
	for n := uint64(1); ; n++ {
		binary.LittleEndian.PutUint64(b[:], n)
		_, _ = conn.Write(b[:])
		time.Sleep(period)
	}
}

// keepDirty writes to pages all over the memory, at an even pace.
func (s *server) keepDirty() {
	const step = 20 * time.Millisecond
	owed := 0.0
	for range time.Tick(step) {
		owed += float64(s.dirty.Load()) / 1000 * float64(len(s.memory)/unix.Getpagesize()) * step.Seconds()
		s.write(int(owed))
		owed -= float64(int(owed))
	}
}

// write changes so many pages, chosen by chance.
func (s *server) write(pages int) {
	var b [16]byte
	size := unix.Getpagesize()
	for range pages {
		_, _ = rand.Read(b[:])
		page := int(binary.LittleEndian.Uint64(b[:]) % uint64(len(s.memory)/size))
		copy(s.memory[page*size:], b[:])
	}
}

func fileName(n int) string {
	return filepath.Join(dataDir, strconv.Itoa(n/500), strconv.Itoa(n))
}

func writeFiles(files, size int) error {
	content := make([]byte, size)
	for n := range files {
		if err := os.MkdirAll(filepath.Dir(fileName(n)), 0o755); err != nil {
			return err
		}
		_, _ = rand.Read(content)
		if err := os.WriteFile(fileName(n), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func touchFiles(files int) error {
	for n := range files {
		st, err := os.Stat(fileName(n))
		if err != nil {
			return err
		}
		content := make([]byte, st.Size())
		_, _ = rand.Read(content)
		if err := os.WriteFile(fileName(n), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// ask has a command carried out.
func ask(addr string, words []string) error {
	c, err := net.DialTimeout("tcp4", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, strings.Join(words, " ")); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err == nil && string(answer) != "ok\n" {
		err = fmt.Errorf("%s: the answer is %q", words[0], answer)
	}
	return err
}

// dial opens an echo.
func dial(addr string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp4", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(c, "echo\n")
	return c, err
}

// echo sends on, whether answers come or not, and ends when the connection does.
func echo(addr string, out io.Writer) error {
	c, err := dial(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	go func() {
		var b [8]byte
		for n := uint64(1); ; n++ {
			binary.LittleEndian.PutUint64(b[:], n)
			if _, err := c.Write(b[:]); err != nil {
				return
			}
			time.Sleep(period)
		}
	}()
	var b [8]byte
	for want := uint64(1); ; want++ {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return fmt.Errorf("the echo broke off: %w", err)
		}
		if got := binary.LittleEndian.Uint64(b[:]); got != want {
			return fmt.Errorf("answer %d came where %d was due", got, want)
		}
		record := binary.LittleEndian.AppendUint64(b[:], uint64(time.Now().UnixNano()))
		if _, err := out.Write(record); err != nil {
			return err
		}
	}
}

// hold keeps connections open and says how many are whole.
func hold(addr, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	for i := range conns {
		if conns[i], err = dial(addr); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		whole := 0
		for i, c := range conns {
			if echoes(c, byte(i)) {
				whole++
			}
		}
		fmt.Println(whole)
	}
	return errors.New("the input has ended")
}

func echoes(c net.Conn, b byte) bool {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte{b}); err != nil {
		return false
	}
	var got [1]byte
	_, err := io.ReadFull(c, got[:])
	return err == nil && got[0] == b
}
