package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/agent/lab"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/runtime/image"
)

// The load program: as PID 1 of a container, on the hosts, and outside.
const (
	loadPath    = "/bin/load"
	outsideLoad = "/run/vzbench-load"
	loadPort    = "7000"
)

// loadTemplate makes a template of busybox and the load program as its only process, which holds so much memory.
func (b *bench) loadTemplate(ctx context.Context, mib int) (string, error) {
	name := fmt.Sprintf("load-%d", mib)
	if _, err := b.client().Template(ctx, name); err == nil {
		return name, nil
	}
	program, err := b.buildProgram(ctx, "load")
	if err != nil {
		return "", err
	}
	if err := b.put(ctx, lab.Outside, program, outsideLoad); err != nil {
		return "", err
	}
	base, err := image.Build(ctx, "busybox", image.BuildOptions{Log: os.Stderr})
	if err != nil {
		return "", err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(withProgram(w, base, program)) }()
	defer r.Close()
	init := strings.Join([]string{loadPath, "serve", loadPort, strconv.Itoa(mib)}, " ")
	_, err = b.client().PutTemplate(ctx, name, url.Values{"init": {init}, "source": {"vzbench"}}, r)
	memory[name] = int64(mib)<<20*5/4 + 64<<20
	return name, err
}

// withProgram copies a template's archive and adds the program.
func withProgram(w io.Writer, archive, program string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return err
	}
	defer z.Close()
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	if err := out.WriteHeader(&tar.Header{Name: strings.TrimPrefix(loadPath, "/"), Mode: 0o755, Size: int64(len(content))}); err != nil {
		return err
	}
	if _, err := out.Write(content); err != nil {
		return err
	}
	return out.Close()
}

// ask has the load program in the container with an address carry out a command.
func (b *bench) ask(ctx context.Context, address string, words ...string) error {
	return b.askAt(ctx, address+":"+loadPort, words...)
}

func (b *bench) askAt(ctx context.Context, at string, words ...string) error {
	_, err := b.exec(ctx, lab.Outside, nil, append([]string{outsideLoad, "ask", at}, words...)...)
	return err
}

// answers waits until the load program at ADDRESS:PORT does.
func (b *bench) answers(ctx context.Context, at string) error {
	return waitUntil(ctx, "the load program to answer", 20*time.Millisecond, func() (bool, error) {
		return b.askAt(ctx, at, "dirty", "0") == nil, ctx.Err()
	})
}

// loaded is a container of the load program, ours.
type loaded struct {
	api.Container
	address     string
	here, there string
	results     []*cluster.MoveResult
}

// createLoaded creates a container that holds so much memory, and waits until its program answers.
func (b *bench) createLoaded(ctx context.Context, mib int) (*loaded, error) {
	name, err := b.loadTemplate(ctx, mib)
	if err != nil {
		return nil, err
	}
	if _, err := b.prepare(ctx, b.roles.asked, name); err != nil {
		return nil, err
	}
	c, err := b.create(ctx, b.roles.owner, name)
	if err != nil {
		return nil, err
	}
	address, _, _ := strings.Cut(c.Addresses[0], "/")
	l := &loaded{Container: c, address: address, here: b.roles.owner, there: b.roles.asked}
	return l, b.answers(ctx, address+":"+loadPort)
}

// move moves it to the other one of two hosts.
func (l *loaded) move(ctx context.Context, b *bench) error {
	r, err := b.migrate(ctx, l.ID, l.there)
	if err != nil {
		return err
	}
	l.here, l.there = l.there, l.here
	l.results = append(l.results, r)
	b.say("the migration itself says: blackout %.0f ms, %.0f ms in all, %.1f MiB;%s", r.BlackoutMS, r.TotalMS, float64(r.Bytes)/(1<<20), phases(r.Phases))
	return nil
}

// bytes is what each of its moves sent, in MiB.
func (l *loaded) bytes() []float64 {
	var all []float64
	for _, r := range l.results {
		all = append(all, float64(r.Bytes)/(1<<20))
	}
	return all
}

// watched lets the load program at an address send stamps, and opens an echo to it.
func (b *bench) watched(ctx context.Context, m moved, address, port string) (*moved, error) {
	stamp, err := b.buildProgram(ctx, "stamp")
	if err != nil {
		return nil, err
	}
	if err := b.put(ctx, lab.Outside, stamp, outsideStamp); err != nil {
		return nil, err
	}
	m.stamps = b.receive(ctx, port)
	if err := b.ask(ctx, address, "stamp", b.lab.Address(lab.Outside)+":"+port); err != nil {
		return nil, err
	}
	m.open = func() *series { return b.records(ctx, outsideLoad, "echo", address+":"+loadPort) }
	m.echo = m.open()
	now := time.Now().UnixNano()
	return &m, errors.Join(m.stamps.waitFor(ctx, "stamps of "+m.name, now), m.echo.waitFor(ctx, "the echo of "+m.name, now))
}

// loadedFloor starts the same load by hand on the leader's host, and watches it.
func (b *bench) loadedFloor(ctx context.Context, what string, mib int, copies bool) (*floor, *moved, error) {
	name, err := b.loadTemplate(ctx, mib)
	if err != nil {
		return nil, nil, err
	}
	f, err := b.newFloor(ctx, b.roles.leader, name, plain)
	if err != nil {
		return nil, nil, err
	}
	f.order.Copy = copies
	if _, err := f.start(ctx); err != nil {
		return f, nil, err
	}
	if err := b.answers(ctx, floorAddress+":"+loadPort); err != nil {
		return f, nil, err
	}
	m, err := b.watched(ctx, moved{what: what, name: "floor", drop: f.stop, move: func(ctx context.Context) error {
		_, err := f.do(ctx, "again")
		return err
	}}, floorAddress, floorPort)
	return f, m, err
}
