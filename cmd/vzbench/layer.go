package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vzcluster/vzcluster/migrate/transfer"
)

// A private layer of 1 GiB.
const (
	layerFiles  = 20_000
	layerFile   = 1 << 30 / layerFiles // bytes
	goalLayer   = 1.0                  // time over that of tar to tar
	goalSecond  = 1000.0               // ms for a pass in which nothing has changed
	goalFlat    = 1.5                  // frozen pass of all files over that of a tenth of them
	frozenFiles = layerFiles / 10
)

// layer: a layer of 1 GiB in 20,000 files between two folders, by our passes and by tar to tar, in turns. Both write to
// the same disk, whose caches are empty of what is written before each.
func layer(ctx context.Context, b *bench, runs int) (_ []result, err error) {
	dir, err := os.MkdirTemp("/var/tmp", "vzbench-layer-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the layer: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	large, small := filepath.Join(dir, "large"), filepath.Join(dir, "small")
	if err := errors.Join(makeLayer(large, layerFiles), makeLayer(small, frozenFiles)); err != nil {
		return nil, err
	}
	var ours, floor, second, frozen, few []float64
	for range runs {
		to := filepath.Join(dir, "to")
		p, err := passes(ctx, large, to)
		if err != nil {
			return nil, err
		}
		s, err := passes(ctx, small, to)
		if err != nil {
			return nil, err
		}
		took, err := tarToTar(ctx, large, to)
		if err != nil {
			return nil, err
		}
		ours, floor = append(ours, p.first), append(floor, took)
		second, frozen, few = append(second, p.second), append(frozen, p.last), append(few, s.last)
		b.say("layer: first pass %.0f ms, tar %.0f ms, second pass %.0f ms, frozen pass %.0f ms, of a tenth of the files %.0f ms", p.first, took, p.second, p.last, s.last)
	}
	goal, flat := goalLayer, goalFlat
	return []result{
		compare("layer", ours, floor, &goal),
		absolute("layer-second-pass", "ms", second, goalSecond),
		compare("layer-frozen-pass", frozen, few, &flat),
	}, nil
}

func makeLayer(dir string, files int) error {
	content := make([]byte, layerFile)
	for n := range files {
		folder := filepath.Join(dir, strconv.Itoa(n/200))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		_, _ = rand.Read(content) // never fails
		if err := os.WriteFile(filepath.Join(folder, strconv.Itoa(n)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// passTimes are in milliseconds.
type passTimes struct{ first, second, last float64 }

// passes copies a layer as a migration does: everything, then what has changed, then what has changed while it stands
// still. Nothing changes here.
func passes(ctx context.Context, from, to string) (t passTimes, err error) {
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(to, 0o755), flush()); err != nil {
		return t, err
	}
	var manifest, have *transfer.Manifest
	for i, took := range []*float64{&t.first, &t.second, &t.last} {
		r, w := io.Pipe()
		received := make(chan error, 1)
		go func() {
			var err error
			have, _, err = transfer.Receive(ctx, r, to, have, transfer.Limits{})
			r.CloseWithError(err)
			received <- err
		}()
		begin := time.Now()
		if i == 2 {
			_, _, err = transfer.SendFinal(ctx, w, from, manifest)
		} else {
			manifest, _, err = transfer.Send(ctx, w, from, manifest)
		}
		w.CloseWithError(err)
		if err := errors.Join(err, <-received); err != nil {
			return t, err
		}
		*took = ms(time.Since(begin))
	}
	return t, nil
}

func tarToTar(ctx context.Context, from, to string) (float64, error) {
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(to, 0o755), flush()); err != nil {
		return 0, err
	}
	begin := time.Now()
	out, err := exec.CommandContext(ctx, "sh", "-c", `tar -C "$0" -c . | tar -C "$1" -x`, from, to).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("tar to tar: %w: %s", err, out)
	}
	return ms(time.Since(begin)), nil
}

// flush puts what was written before on disk, so that nobody pays for another one's writes.
func flush() error {
	if out, err := exec.Command("sync").CombinedOutput(); err != nil {
		return fmt.Errorf("sync: %w: %s", err, out)
	}
	return nil
}
