package gossip

import (
	"bytes"
	"context"
	"log/slog"

	"github.com/hashicorp/memberlist"
)

// events and delegate are how memberlist calls us; they are no part of Gossip's own methods.
type (
	events   struct{ g *Gossip }
	delegate struct{ g *Gossip }
)

func (e *events) NotifyJoin(n *memberlist.Node)   { e.g.note(n, true) }
func (e *events) NotifyUpdate(n *memberlist.Node) { e.g.note(n, true) }
func (e *events) NotifyLeave(n *memberlist.Node)  { e.g.note(n, false) }

// NodeMeta returns what SetMeta was given; memberlist panics when it is longer than limit, which encode has checked.
func (d *delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return bytes.Clone(d.g.meta)
}

func (*delegate) NotifyMsg([]byte)                {}
func (*delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (*delegate) LocalState(bool) []byte          { return nil }
func (*delegate) MergeRemoteState([]byte, bool)   {}

// logWriter turns memberlist's lines, "date time [LEVEL] memberlist: text", into records. Unreachable hosts are
// everyday life, so nothing is more than a warning.
type logWriter struct{ log *slog.Logger }

func (w *logWriter) Write(line []byte) (int, error) {
	level, text := slog.LevelDebug, line
	if _, rest, ok := bytes.Cut(line, []byte("[")); ok {
		name, message, _ := bytes.Cut(rest, []byte("]"))
		text = bytes.TrimPrefix(bytes.TrimSpace(message), []byte("memberlist: "))
		switch string(name) {
		case "INFO":
			level = slog.LevelInfo
		case "WARN", "ERR", "ERROR":
			level = slog.LevelWarn
		}
	}
	w.log.Log(context.Background(), level, string(bytes.TrimSpace(text)))
	return len(line), nil
}
