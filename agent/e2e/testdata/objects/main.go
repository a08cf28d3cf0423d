// Command objects holds one of every kind of kernel object that programs keep across years of uptime, and checks on
// demand that each is still what it was. It is a plain net/http server besides.
//
//	objects serve ADDR [NAME...]   makes the objects (all, or these) and serves HTTP and UDP on ADDR
//	  GET /check                   a line "OK name" or "FAIL name: why" for each
//	  GET /count                   counts in memory and says how far
//	  a datagram                   is answered by the number of different datagrams so far, and its text
//	objects held FILE KIND         succeeds if another process holds a lock of this kind on the file
//
// A check leaves behind what the next check must find: data under way, a signal pending, a timer running.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// object makes one in the current directory, and returns what checks it. Both panic when something is wrong.
type object struct {
	name string
	make func() (check func())
}

var objects = []object{
	{"append", appended},
	{"deleted file", deletedFile},
	{"deleted file of 8 MiB", deletedLarge},
	{"nameless file", nameless},
	{"directory", directory},
	{"flock", flocked},
	{"fcntl lock", recordLock},
	{"open file lock", openFileLock},
	{"pipe", pipe},
	{"fifo", fifo},
	{"unix stream", unixPair("stream")},
	{"unix datagram", unixPair("datagram")},
	{"unix seqpacket", unixPair("seqpacket")},
	{"unix listener", unixListener("objects.sock")},
	{"unix listener, abstract", unixListener("@objects")},
	{"descriptor under way", descriptorUnderWay},
	{"tcp 127.0.0.1", loopbackTCP("127.0.0.1:0")},
	{"tcp ::1", loopbackTCP("[::1]:0")},
	{"udp 127.0.0.1", loopbackUDP("127.0.0.1:0")},
	{"udp ::1", loopbackUDP("[::1]:0")},
	{"shared mapping of a file", mappedFile},
	{"shared anonymous memory", sharedAnonymous},
	{"memfd", memfd},
	{"posix shm", posixShm},
	{"sysv shm", sysvShm},
	{"sysv semaphore", sysvSemaphore},
	{"sysv messages", sysvMessages},
	{"eventfd", eventfd},
	{"epoll", epoll},
	{"signalfd", signalfd},
	{"timerfd, periodic", timerfdPeriodic(unix.CLOCK_MONOTONIC, 0)},
	{"timerfd, periodic, from a moment", timerfdPeriodic(unix.CLOCK_MONOTONIC, unix.TFD_TIMER_ABSTIME)},
	{"timerfd, periodic, wall clock", timerfdPeriodic(unix.CLOCK_REALTIME, unix.TFD_TIMER_ABSTIME)},
	{"timerfd, once", timerfdOnce(unix.CLOCK_MONOTONIC, 0)},
	{"timerfd, at a moment", timerfdOnce(unix.CLOCK_MONOTONIC, unix.TFD_TIMER_ABSTIME)},
	{"timerfd, wall clock", timerfdOnce(unix.CLOCK_REALTIME, unix.TFD_TIMER_ABSTIME)},
	{"timerfd, a year", timerfdYear},
	{"setitimer", intervalTimer},
	{"posix timer, periodic", posixTimer(unix.SIGUSR1, true)},
	{"posix timer, once", posixTimer(unix.SIGVTALRM, false)},
	{"inotify", inotify},
	{"pseudo-terminal", pseudoTerminal},
	{"child with pipes", childWithPipes},
	{"stopped child", stoppedChild("cat")},
	{"stopped child with threads", stoppedChild("/proc/self/exe", "serve", "127.0.0.1:0", "pipe")},
	{"zombie child", zombieChild},
}

func main() {
	err := errors.New("usage: objects serve ADDR [NAME...] | held FILE KIND")
	switch {
	case len(os.Args) >= 3 && os.Args[1] == "serve":
		err = serve(os.Args[2], os.Args[3:])
	case len(os.Args) == 4 && os.Args[1] == "held":
		err = held(os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "objects:", err)
		os.Exit(1)
	}
}

func serve(addr string, names []string) error {
	wanted := objects
	if len(names) > 0 {
		wanted = slices.DeleteFunc(slices.Clone(objects), func(o object) bool { return !slices.Contains(names, o.name) })
	}
	type made struct {
		name  string
		check func()
	}
	var all []made
	for _, o := range wanted {
		var check func()
		if err := try(func() { check = o.make() }); err != nil {
			return fmt.Errorf("make %s: %w", o.name, err)
		}
		all = append(all, made{o.name, check})
	}
	var mu sync.Mutex // one round of checks at a time
	http.HandleFunc("/check", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		for _, o := range all {
			if err := try(o.check); err != nil {
				fmt.Fprintf(w, "FAIL %s: %v\n", o.name, err)
			} else {
				fmt.Fprintf(w, "OK %s\n", o.name)
			}
		}
	})
	var n atomic.Int64
	http.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, n.Add(1)) })
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	go answer(conn)
	return http.ListenAndServe(addr, nil)
}

// answer answers every datagram with the number of different ones so far, and its text.
func answer(conn net.PacketConn) {
	seen, buf := map[string]bool{}, make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			fmt.Fprintln(os.Stderr, "objects:", err)
			os.Exit(1)
		}
		text := string(buf[:n])
		seen[text] = true
		_, _ = conn.WriteTo(fmt.Appendf(nil, "%d %s", len(seen), text), from) // who got no answer asks again
	}
}

// try turns a panic into an error.
func try(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New(strings.TrimSpace(fmt.Sprint(p)))
		}
	}()
	f()
	return nil
}

func must[T any](v T, err error) T {
	ok(err)
	return v
}

func ok(err error) {
	if err != nil {
		panic(err)
	}
}

func expect[T comparable](what string, got, want T) {
	if got != want {
		panic(fmt.Sprintf("%s: %v, not %v", what, got, want))
	}
}
