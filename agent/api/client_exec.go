package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"github.com/coder/websocket"
)

// MaxExecMessage bounds one message of an exec session, in bytes with its channel byte; both sides enforce it.
const MaxExecMessage = 1 << 20

// execChunk is how much of stdin one message carries.
const execChunk = 32 << 10

// Streams are the ends of an exec session on the caller's side.
type Streams struct {
	Stdin          io.Reader // nil: the process sees the end of its input at once
	Stdout, Stderr io.Writer
	Resize         <-chan Resize    // of the terminal; may be nil
	Signals        <-chan os.Signal // for the process; may be nil
}

// Exec runs a process in a container and returns its exit code. The error is for sessions that could not start or
// broke, never for what the process returned. It returns as soon as the process has ended; a Read of Stdin that is
// under way then is abandoned.
func (c *Client) Exec(ctx context.Context, ct string, e Exec, s Streams) (int, error) {
	_, target := c.target(request{route: RouteExec, path: []string{ct}})
	ws, resp, err := websocket.Dial(ctx, target, &websocket.DialOptions{HTTPClient: c.http})
	if err != nil {
		if resp != nil && resp.StatusCode/100 != 2 && resp.StatusCode != 101 {
			return 0, c.refusal(resp)
		}
		return 0, c.failure(ctx, err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(MaxExecMessage)
	first, err := json.Marshal(e)
	if err != nil {
		return 0, Errorf(CodeFailed, "", "the command cannot be written as JSON: %v", err)
	}
	if err := ws.Write(ctx, websocket.MessageText, first); err != nil {
		return 0, c.broken(ctx, err)
	}
	sending, stop := context.WithCancel(ctx)
	defer stop()
	go sendStdin(sending, ws, s.Stdin)
	go sendResizes(sending, ws, s.Resize)
	go sendSignals(sending, ws, s.Signals)
	code, err := receive(ctx, ws, s)
	if err != nil {
		return 0, c.broken(ctx, err)
	}
	_ = ws.Close(websocket.StatusNormalClosure, "")
	return code, nil
}

func (c *Client) broken(ctx context.Context, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return c.failure(ctx, fmt.Errorf("the exec session broke: %w", err))
}

// receive copies output until the process has ended.
func receive(ctx context.Context, ws *websocket.Conn, s Streams) (int, error) {
	for {
		kind, msg, err := ws.Read(ctx)
		if err != nil && ctx.Err() == nil {
			return 0, Errorf(CodeFailed, "see 'vzcluster status'", "the exec session broke off: the container's host cannot be reached any more")
		}
		if err != nil {
			return 0, err
		}
		if kind != websocket.MessageBinary || len(msg) == 0 {
			return 0, errors.New("the agent sent something that is no message of a session")
		}
		data := msg[1:]
		switch msg[0] {
		case ExecStdout:
			_, err = s.Stdout.Write(data)
		case ExecStderr:
			_, err = s.Stderr.Write(data)
		case ExecDone:
			var exit ExecExit
			if err := json.Unmarshal(data, &exit); err != nil {
				return 0, fmt.Errorf("its end cannot be read: %w", err)
			}
			if exit.Error != nil {
				return 0, exit.Error
			}
			return exit.Code, nil
		}
		if err != nil {
			return 0, fmt.Errorf("its output cannot be written: %w", err)
		}
	}
}

// sendStdin copies the input and then half-closes. Errors end it silently: receive sees the broken session too.
func sendStdin(ctx context.Context, ws *websocket.Conn, stdin io.Reader) {
	buf := make([]byte, 1+execChunk)
	buf[0] = ExecStdin
	for stdin != nil {
		n, err := stdin.Read(buf[1:])
		if n > 0 && ws.Write(ctx, websocket.MessageBinary, buf[:1+n]) != nil {
			return
		}
		if err != nil {
			break
		}
	}
	_ = ws.Write(ctx, websocket.MessageBinary, []byte{ExecStdinEnd})
}

func sendSignals(ctx context.Context, ws *websocket.Conn, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-signals:
			n, known := s.(syscall.Signal)
			if !ok || known && ws.Write(ctx, websocket.MessageBinary, append([]byte{ExecSignal}, strconv.Itoa(int(n))...)) != nil {
				return
			}
		}
	}
}

func sendResizes(ctx context.Context, ws *websocket.Conn, sizes <-chan Resize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			b, err := json.Marshal(size)
			if err != nil || ws.Write(ctx, websocket.MessageBinary, append([]byte{ExecResize}, b...)) != nil {
				return
			}
		}
	}
}
