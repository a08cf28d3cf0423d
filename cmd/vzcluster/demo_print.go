package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// narrator prints the story line by line, each with the time since its beginning.
type narrator struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
	bold  bool // the writer is a terminal
}

func newNarrator(w io.Writer, terminal bool) *narrator {
	return &narrator{w: w, start: time.Now(), bold: terminal}
}

func (n *narrator) elapsed() time.Duration { return time.Since(n.start) }

// step begins a chapter.
func (n *narrator) step(i, of int, title string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	text := fmt.Sprintf("[%d/%d] %s", i, of, title)
	if n.bold {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	fmt.Fprintf(n.w, "\n%s\n", text)
}

// line says that something has happened now.
func (n *narrator) line(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fmt.Fprintf(n.w, "%6.1f s  %s\n", n.elapsed().Seconds(), fmt.Sprintf(format, args...))
}

// block prints a table below the last line.
func (n *narrator) block(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Fprint(n.w, strings.TrimRight(strings.Repeat(" ", 10)+line, " \n"), "\n")
	}
}

// lineWriter says every whole line that is written to it.
type lineWriter struct {
	rest string
	say  func(string)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest += string(p)
	for {
		line, rest, found := strings.Cut(w.rest, "\n")
		if !found {
			return len(p), nil
		}
		w.rest = rest
		if line = strings.TrimSpace(line); line != "" {
			w.say(line)
		}
	}
}

// list joins names as people do: a, b and c.
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// lastLine is what a program says at its end, mostly why it failed.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return dash(strings.TrimSpace(lines[len(lines)-1]))
}

// ago rounds an age to what people say.
func ago(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return number(int(d.Seconds()), "second") + " ago"
	case d < 2*time.Hour:
		return number(int(d.Minutes()), "minute") + " ago"
	}
	return number(int(d.Hours()), "hour") + " ago"
}
