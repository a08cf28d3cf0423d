package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestBlobResumes has the connection break after some bytes, again and again: what comes is whole, and no byte comes twice.
func TestBlobResumes(t *testing.T) {
	content := make([]byte, 400_000)
	_, _ = rand.Read(content)
	for what, c := range map[string]struct {
		after int // bytes of each answer
		tags  []string
		whole bool
	}{
		"never": {len(content), []string{`"a"`}, true}, "thrice": {150_000, []string{`"a"`}, true},
		"too often": {1000, []string{`"a"`}, false}, "another archive": {150_000, []string{`"a"`, `"b"`}, false},
		"no tag": {150_000, []string{""}, false},
	} {
		asked, sent := 0, 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", c.tags[min(asked, len(c.tags)-1)])
			asked++
			http.ServeContent(&breaking{w, c.after, &sent}, r, "", time.Time{}, bytes.NewReader(content))
		}))
		b, err := openBlob(t.Context(), time.Millisecond, func(ctx context.Context, h http.Header) (*http.Response, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
			if err != nil {
				return nil, err
			}
			if h != nil {
				req.Header = h
			}
			return http.DefaultTransport.RoundTrip(req)
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(b)
		b.Close()
		server.Close()
		if whole := err == nil && bytes.Equal(got, content); whole != c.whole {
			t.Errorf("%s: %d bytes came, %v", what, len(got), err)
		}
		if !c.whole && (err == nil || !strings.Contains(err.Error(), "broke off")) {
			t.Errorf("%s: the error is %v", what, err)
		}
		if c.whole && sent > len(content) {
			t.Errorf("%s: %d bytes were sent for %d", what, sent, len(content))
		}
	}
}

// breaking cuts the connection after so many bytes.
type breaking struct {
	http.ResponseWriter
	left int
	sent *int
}

func (b *breaking) Write(p []byte) (int, error) {
	if len(p) > b.left {
		n, _ := b.ResponseWriter.Write(p[:b.left])
		*b.sent += n
		b.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	b.left -= len(p)
	*b.sent += len(p)
	return b.ResponseWriter.Write(p)
}
