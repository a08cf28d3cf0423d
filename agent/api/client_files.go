package api

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
)

// TrailerError says, behind an archive, what went wrong after it had begun.
const TrailerError = "X-Vz-Error"

// OneLine makes a text fit for a header.
func OneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
}

// Files hands a file or folder of a container to read, as a tar archive whose names begin with the path's last part.
func (c *Client) Files(ctx context.Context, ct, path string, read func(archive io.Reader) error) error {
	resp, err := c.do(ctx, request{route: RouteFiles, path: []string{ct}, query: url.Values{"path": {path}}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = read(resp.Body)
	if _, rest := io.Copy(io.Discard, resp.Body); rest != nil && err == nil {
		err = c.failure(ctx, fmt.Errorf("the copy broke off: %w", rest))
	}
	if said := resp.Trailer.Get(TrailerError); said != "" {
		return Errorf(CodeFailed, "", "the copy is not complete: %s", said)
	}
	return err
}

// InsideRequest changes files inside a container, which are kept nowhere else.
type InsideRequest struct {
	Passwords map[string]string `json:"passwords,omitempty"` // hashes, as crypt(5) has them, by user
	Keys      map[string]string `json:"keys,omitempty"`      // lines that are added to authorized_keys, by user
	TimeZone  string            `json:"time_zone,omitempty"`
}

// Inside changes files inside a container, running or not.
func (c *Client) Inside(ctx context.Context, ct string, r InsideRequest) error {
	return c.Call(ctx, RouteInside, r, nil, ct)
}

// PutFiles unpacks a tar archive below a folder of a container. Rename: a path that is no folder is the new name of what the
// archive begins with. AsRoot: all of it belongs to root inside.
func (c *Client) PutFiles(ctx context.Context, ct, path string, archive io.Reader, rename, asRoot bool) error {
	q := url.Values{"path": {path}}
	if rename {
		q.Set("rename", "1")
	}
	if asRoot {
		q.Set("root", "1")
	}
	return c.send(ctx, request{RouteFilesPut, []string{ct}, q, archive, "application/x-tar"}, nil)
}
