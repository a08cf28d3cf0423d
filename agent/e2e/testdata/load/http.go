package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// once is a client that has one connection and never another. Go's own closes one by itself if it does not come to note
// within 50 ms that a request was sent, as on a loaded machine.
type once struct {
	conn net.Conn
	in   *bufio.Reader
}

func dial(address string) (*once, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(u.Hostname(), port), 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &once{conn, bufio.NewReader(conn)}, nil
}

// get asks and returns when the answer begins.
func (o *once) get(url string) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if err := o.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if err := req.Write(o.conn); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(o.in, req)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err == nil && resp.Close {
		err = errors.New("the server is going to close the connection")
	}
	return resp, err
}

// get asks again and again. Numbers count up, anything else stays as it is.
func get(url string, count bool, p *progress) error {
	client, err := dial(url)
	if err != nil {
		return err
	}
	first := ""
	for ; p.goesOn(); time.Sleep(pause) {
		body, err := fetch(client, url)
		if err != nil {
			return fmt.Errorf("after %d answers: %w", p.done(), err)
		}
		if first == "" {
			first = body
		}
		want := first
		if count {
			want = strconv.FormatInt(p.done()+1, 10)
		}
		if body != want || body == "" {
			return fmt.Errorf("answer %d was %q, not %q", p.done()+1, body, want)
		}
		if err := p.did(1); err != nil {
			return err
		}
	}
	return nil
}

func fetch(client *once, url string) (string, error) {
	resp, err := client.get(url)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// download has read a part of the body when it is told to end: the server was sending all the time.
func download(url, sum string, p *progress) error {
	client, err := dial(url)
	if err != nil {
		return err
	}
	resp, err := client.get(url)
	if err != nil {
		return err
	}
	if err := client.conn.SetDeadline(time.Time{}); err != nil { // it takes as long as it is wanted to
		return err
	}
	const piece = 16 << 10
	hash := sha256.New()
	for ; p.goesOn(); time.Sleep(50 * time.Millisecond) {
		n, err := io.CopyN(hash, resp.Body, piece)
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", p.done()+n, resp.ContentLength, err)
		}
		if err := p.did(n); err != nil {
			return err
		}
	}
	rest, err := io.Copy(hash, resp.Body)
	if err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", p.done()+rest, resp.ContentLength, err)
	}
	if rest < 16<<20 {
		return fmt.Errorf("only %d bytes were left: the server may have sent all of it long ago", rest)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
		return fmt.Errorf("the checksum of what came is %s, not %s", got, sum)
	}
	return p.did(rest)
}
