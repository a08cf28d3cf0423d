package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// plan reads what CRIU has left out of the images of processes.
func (l *Lazy) plan() error {
	entries, err := fs.ReadDir(l.images.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, is := strings.CutPrefix(e.Name(), "pagemap-")
		pid, err := strconv.Atoi(strings.TrimSuffix(name, ".img"))
		if !is || err != nil {
			continue
		}
		if err := l.planProcess(ProcessSpace(pid), e.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lazy) planProcess(space Space, name string) error {
	if !space.valid() {
		return fmt.Errorf("%w: %s is of no process", ErrProtocol, name)
	}
	first, end := true, uint64(0)
	return readImage(l.images, name, func(message []byte) error {
		if first { // the head
			first = false
			return nil
		}
		v, err := values(message)
		page, n := v[1]/PageSize, v[5]
		if err != nil || v[4]&pePresent != 0 || v[4]&peLazy == 0 {
			return err
		}
		if page < end || page > maxPage || n == 0 || n > maxPage {
			return fmt.Errorf("%w: %d pages from page %#x on", ErrProtocol, n, page)
		}
		end = page + n
		l.lacks[space] = append(l.lacks[space], gap{page, n, page})
		for at := page; at < end; at += maxWant {
			l.rest = append(l.rest, Want{space, at, uint32(min(maxWant, end-at))})
		}
		return nil
	})
}

// Take takes an answer.
func (l *Lazy) Take(answer []byte) error {
	w, err := DecodeWant(answer)
	if err != nil {
		return err
	}
	in := bytes.NewReader(answer[wantSize:])
	next, end := w.Page, w.Page+uint64(w.N)
	for next < end {
		r, err := readRecord(in)
		if err == nil && (r.space != w.Space || r.page != next || next+uint64(r.n) > end || r.what == recOpen) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("%w: an answer does not fit to its question: %w", ErrProtocol, err)
		}
		data := l.data[:r.n*PageSize]
		if err := l.content(r, in, data); err != nil {
			return err
		}
		if err := l.bring(r, data); err != nil {
			return fmt.Errorf("bring memory into a process: %w", err)
		}
		next += uint64(r.n)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.asked, w)
	if l.open--; l.open < 0 {
		return fmt.Errorf("%w: an answer without a question", ErrProtocol)
	}
	l.change.Broadcast()
	return nil
}

// content is what a record brings.
func (l *Lazy) content(r record, in io.Reader, data []byte) error {
	switch r.what {
	case recData:
		_, err := io.ReadFull(in, data)
		return err
	case recHave:
		return l.Store.read(r.space, r.page, data)
	case recCopy:
		return l.Store.read(r.from, r.page, data)
	}
	clear(data)
	return nil
}

// bring puts pages into every process that lacks them.
func (l *Lazy) bring(r record, data []byte) error {
	for {
		l.mu.Lock()
		var err error
		for _, p := range l.procs {
			if p.space == r.space && err == nil && !l.over() {
				err = p.bring(r, data)
			}
		}
		l.mu.Unlock()
		if !errors.Is(err, errBusy) {
			return err
		}
		time.Sleep(busyTime) // who changes the memory goes on when the lock is free
	}
}

// bring puts those of the pages into the process that it lacks.
func (p *lazyProcess) bring(r record, data []byte) error {
	for _, g := range p.lacks.of(r.page, r.page+uint64(r.n)) {
		for g.n > 0 {
			at := (g.origin - r.page) * PageSize
			n, err := p.put(g.page, data[at:at+g.n*PageSize])
			if errors.Is(err, unix.ESRCH) { // it has ended
				p.lacks = nil
				return nil
			}
			if err != nil {
				return err
			}
			p.lacks.take(g.page, g.page+uint64(n))
			g = g.cut(g.page+uint64(n), g.page+g.n)
		}
	}
	return nil
}

// put puts some of neighbouring pages, which may lie in several mappings.
func (p *lazyProcess) put(page uint64, data []byte) (n int, err error) {
	n, err = p.copy(page*PageSize, data)
	if errors.Is(err, unix.ENOENT) && len(data) > PageSize {
		n, err = p.copy(page*PageSize, data[:PageSize])
	}
	if errors.Is(err, unix.EEXIST) {
		return 1, p.wake(page * PageSize)
	}
	return n, err
}

// read reads pages as the rounds have left them.
func (s *Store) read(space Space, page uint64, data []byte) error {
	f := s.files[space]
	if f == nil {
		return fmt.Errorf("%w: space %#x was never sent", ErrProtocol, uint64(space))
	}
	if _, err := s.open(space); err != nil {
		return err
	}
	for n := uint64(0); len(data) > 0; data, page = data[n*PageSize:], page+n {
		at := f.where.get(page)
		if at == 0 {
			return fmt.Errorf("%w: page %#x of space %#x was never sent", ErrProtocol, page, uint64(space))
		}
		for n = 1; n < uint64(len(data)/PageSize) && f.where.get(page+n) == at+uint32(n); {
			n++
		}
		if err := readPages(f.file, at-1, data[:n*PageSize]); err != nil {
			return err
		}
	}
	return nil
}

// lazySocket is where CRIU hands over processes: for each its number inside, as four bytes, and then its userfaultfd with one
// byte; for one that has ended only a number, negative.
type lazySocket struct{ *net.UnixListener }

const (
	lazySocketName = "lazy-pages.socket" // in the folder in which CRIU works
	lazyEnd        = 0x52535446          // in place of a number: all were handed over
)

// listenLazy makes the socket. The folder's path may be longer than the address of a socket.
func listenLazy(dir *os.Root) (*lazySocket, error) {
	at, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer at.Close()
	_ = dir.Remove(lazySocketName)
	s, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", at.Fd(), lazySocketName), Net: "unix"})
	if err != nil {
		return nil, err
	}
	s.SetUnlinkOnClose(false) // it goes with its folder
	return &lazySocket{s}, nil
}

func (s *lazySocket) close() error { return s.Close() }

// take calls handed for each process, until CRIU has handed over all or the socket is closed.
func (s *lazySocket) take(handed func(pid, fd int) error) error {
	conn, err := s.AcceptUnix()
	if err != nil {
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		return err
	}
	defer conn.Close()
	for {
		var pid int32
		if err := binary.Read(conn, binary.NativeEndian, &pid); errors.Is(err, io.EOF) {
			return nil // CRIU has failed, and says why itself
		} else if err != nil {
			return err
		}
		if pid == lazyEnd {
			return nil
		}
		if pid <= 0 {
			continue
		}
		fd, err := receiveFD(conn)
		if err != nil {
			return err
		}
		if err := handed(int(pid), fd); err != nil {
			return err
		}
	}
}

func receiveFD(conn *net.UnixConn) (int, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return 0, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return 0, errors.Join(errors.New("no descriptor came"), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return 0, errors.Join(errors.New("no descriptor came"), err)
	}
	return fds[0], nil
}
