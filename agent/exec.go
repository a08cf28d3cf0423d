package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/runtime"
)

// Exec sessions on the owner.
const (
	execFirst = 10 * time.Second       // for the first message
	execDrain = 200 * time.Millisecond // for output behind the end of a process whose children keep the terminal
	execChunk = 32 << 10
)

// handleExec passes an exec session on to the container's owner.
func (m *member) handleExec(w http.ResponseWriter, r *http.Request) {
	m.toOwner(w, r, "exec", m.handleOwnerExec)
}

// handleLogs passes a request for a log on to the container's owner.
func (m *member) handleLogs(w http.ResponseWriter, r *http.Request) {
	m.toOwner(w, r, "logs", m.handleOwnerLogs)
}

// toOwner has a request answered by the container's owner, whom this replica or else the leader knows. While there is no
// leader an unknown container may just not have come to this replica, as after a restart of the agent: that is waited for.
func (m *member) toOwner(w http.ResponseWriter, r *http.Request, what string, here http.HandlerFunc) {
	ctx, cancel := context.WithTimeout(r.Context(), m.timing.Quorum)
	defer cancel()
	c, err := m.find(r.PathValue("ct"))
	for err != nil {
		leader, mine := m.leader()
		if mine || r.Header.Get(headerHops) != "" {
			respond(w, nil, err)
			return
		}
		if leader != "" && leader != m.name && m.passOn(leader, w, r) {
			return
		}
		if m.pause(ctx) != nil {
			respond(w, nil, errNoQuorum())
			return
		}
		c, err = m.find(r.PathValue("ct"))
	}
	if c.Host == m.name {
		r.SetPathValue("id", strconv.Itoa(c.ID))
		here(w, r)
		return
	}
	m.passToOwner(c, what, w, r)
}

// handleOwnerExec runs a command in a container of this host.
func (m *member) handleOwnerExec(w http.ResponseWriter, r *http.Request) {
	id, err := m.running(r)
	if err != nil {
		respond(w, nil, err)
		return
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	defer ws.CloseNow()
	ws.SetReadLimit(api.MaxExecMessage)
	s := &session{ws: ws, signals: make(chan os.Signal, 8)}
	exit := api.ExecExit{}
	m.survey.hurry(id)
	defer m.survey.hurry(id)
	if exit.Code, err = s.run(r.Context(), m.deps.Engine, id); err != nil {
		exit.Error = toAPI(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), execFirst)
	defer cancel()
	if raw, err := json.Marshal(exit); err == nil && s.send(ctx, api.ExecDone, raw) == nil {
		_ = ws.Close(websocket.StatusNormalClosure, "")
	}
}

// running returns the CTID of a request when that container runs here.
func (m *member) running(r *http.Request) (int, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return 0, api.Errorf(api.CodeUsage, "", "%q is not a CTID", r.PathValue("id"))
	}
	st, err := m.deps.Engine.Status(id)
	if err != nil {
		return 0, err
	}
	if !st.Running {
		name, ref := strconv.Itoa(id), fmt.Sprintf("container %d", id)
		if c := m.store.State().Container(id); c != nil {
			name, ref = c.Name, c.Ref()
		}
		return 0, api.Errorf(api.CodeConflict, "'vzcluster start "+name+"' starts it", "%s does not run", ref)
	}
	return id, nil
}

// session is one exec over a websocket.
type session struct {
	ws      *websocket.Conn
	stdin   io.WriteCloser // where channel ExecStdin goes
	tty     *os.File       // the master of the terminal, nil without one
	signals chan os.Signal // for the command; never closed
}

// run reads what to run, runs it and returns its exit code. It ends the command when the client goes away.
func (s *session) run(ctx context.Context, e Engine, id int) (int, error) {
	first, cancel := context.WithTimeout(ctx, execFirst)
	defer cancel()
	_, raw, err := s.ws.Read(first)
	if err != nil {
		return 0, err
	}
	var req api.Exec
	if err := json.Unmarshal(raw, &req); err != nil || len(req.Args) == 0 {
		return 0, api.Errorf(api.CodeUsage, "", "the session does not begin with a command")
	}
	// Reading goes on until the session is closed: ending it earlier would close the connection before the last word.
	reading := ctx
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	o := runtime.ExecOptions{Args: req.Args, Env: req.Env, User: req.User, Dir: req.Dir, Signal: s.signals}
	if req.TTY {
		return s.runTTY(ctx, req, func(tty *os.File) (int, error) {
			go s.receive(reading, stop)
			o.TTY = tty
			return e.Exec(ctx, id, o)
		})
	}
	in, out := io.Pipe()
	defer in.Close()
	s.stdin = out
	o.Stdin, o.Stdout, o.Stderr = in, &channel{s, ctx, api.ExecStdout}, &channel{s, ctx, api.ExecStderr}
	go s.receive(reading, stop)
	return e.Exec(ctx, id, o)
}

// runTTY gives the command a terminal and copies what it prints there.
func (s *session) runTTY(ctx context.Context, req api.Exec, exec func(tty *os.File) (int, error)) (int, error) {
	master, slave, err := openPTY()
	if err != nil {
		return 0, fmt.Errorf("no terminal can be had: %w", err)
	}
	defer master.Close()
	s.tty, s.stdin = master, &ttyInput{master}
	if req.Rows > 0 && req.Cols > 0 {
		_ = resizePTY(master, req.Rows, req.Cols) // only looks worse without
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.CopyBuffer(&channel{s, ctx, api.ExecStdout}, onlyReader{master}, make([]byte, execChunk))
	}()
	code, err := exec(slave)
	slave.Close()
	_ = master.SetReadDeadline(time.Now().Add(execDrain))
	<-copied
	return code, err
}

// receive takes what the client sends until the session ends; stop ends the command when the client is gone.
func (s *session) receive(ctx context.Context, stop func()) {
	for {
		kind, msg, err := s.ws.Read(ctx)
		if err != nil {
			stop()
			s.stdin.Close()
			return
		}
		if kind != websocket.MessageBinary || len(msg) == 0 {
			continue
		}
		switch msg[0] {
		case api.ExecStdin:
			_, _ = s.stdin.Write(msg[1:]) // a command need not read its input
		case api.ExecStdinEnd:
			s.stdin.Close()
		case api.ExecSignal:
			if n, err := strconv.ParseUint(string(msg[1:]), 10, 7); err == nil && n > 0 && n <= 64 {
				select {
				case s.signals <- syscall.Signal(n):
				default: // it takes none
				}
			}
		case api.ExecResize:
			var size api.Resize
			if s.tty != nil && json.Unmarshal(msg[1:], &size) == nil {
				_ = resizePTY(s.tty, size.Rows, size.Cols)
			}
		}
	}
}

func (s *session) send(ctx context.Context, ch byte, data []byte) error {
	return s.ws.Write(ctx, websocket.MessageBinary, append([]byte{ch}, data...))
}

// channel is one output of a session.
type channel struct {
	s   *session
	ctx context.Context
	ch  byte
}

func (c *channel) Write(p []byte) (n int, err error) {
	for n < len(p) {
		part := p[n:min(n+execChunk, len(p))]
		if err := c.s.send(c.ctx, c.ch, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// onlyReader keeps io.Copy from taking short cuts that want a file descriptor.
type onlyReader struct{ io.Reader }

// ttyInput writes to a terminal; the end of the input is the key that means it.
type ttyInput struct{ master *os.File }

func (t *ttyInput) Write(p []byte) (int, error) { return t.master.Write(p) }

func (t *ttyInput) Close() error {
	const endOfTransmission = 4
	_, err := t.master.Write([]byte{endOfTransmission})
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
