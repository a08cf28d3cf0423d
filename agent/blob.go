package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// A template's archive that stops coming is asked for again from where it stopped: maxResumes times, after a pause.
const (
	maxResumes  = 5
	resumePause = 500 * time.Millisecond
)

// blob reads an archive from another host, across broken connections. Which bytes came is checked by the reader: the archive
// has a digest.
type blob struct {
	ctx   context.Context
	ask   func(ctx context.Context, header http.Header) (*http.Response, error)
	pause time.Duration

	body  io.ReadCloser
	tag   string // of the archive as it was when it began to come
	n     int64  // bytes that came
	of    int64  // -1: nobody knows
	tries int
}

func openBlob(ctx context.Context, pause time.Duration, ask func(context.Context, http.Header) (*http.Response, error)) (*blob, error) {
	res, err := ask(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &blob{ctx: ctx, ask: ask, pause: pause, body: res.Body, tag: res.Header.Get("ETag"), of: res.ContentLength}, nil
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		b.n += int64(n)
		ended := err == io.EOF && (b.of < 0 || b.n >= b.of)
		if n > 0 || err == nil || ended {
			if !ended {
				err = nil // the next call meets it again
			}
			return n, err
		}
		if again := b.resume(); again != nil {
			return 0, fmt.Errorf("the archive broke off after %d bytes: %w", b.n, err)
		}
	}
}

// resume has the rest come, or says why it does not.
func (b *blob) resume() (err error) {
	for b.tag != "" && b.tries < maxResumes {
		b.tries++
		select {
		case <-b.ctx.Done():
			return b.ctx.Err()
		case <-time.After(b.pause):
		}
		var res *http.Response
		res, err = b.ask(b.ctx, http.Header{"Range": {fmt.Sprintf("bytes=%d-", b.n)}, "If-Range": {b.tag}})
		if err != nil {
			continue
		}
		b.body.Close()
		b.body = res.Body
		if res.StatusCode == http.StatusPartialContent {
			return nil
		}
		return fmt.Errorf("the host has another archive now: %s", res.Status)
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Close implements io.Closer.
func (b *blob) Close() error { return b.body.Close() }
