package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// once is a client that makes one connection and no other.
func once() *http.Client {
	var made *watched
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if made != nil {
			return nil, fmt.Errorf("the connection was lost: %v", made.lost.Load())
		}
		conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, addr)
		made = &watched{Conn: conn}
		return made, err
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, MaxConnsPerHost: 1, ResponseHeaderTimeout: patience}}
}

// watched is a connection that remembers why it was lost.
type watched struct {
	net.Conn
	lost atomic.Value
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		w.lost.CompareAndSwap(nil, fmt.Sprintf("%v at %s", err, time.Now().Format(time.TimeOnly)))
	}
	return n, err
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if err != nil {
		w.lost.CompareAndSwap(nil, fmt.Sprintf("%v at %s", err, time.Now().Format(time.TimeOnly)))
	}
	return n, err
}

func (w *watched) Close() error {
	w.lost.CompareAndSwap(nil, fmt.Sprintf("closed here at %s", time.Now().Format(time.TimeOnly)))
	return w.Conn.Close()
}

// get asks again and again. Numbers count up, anything else stays as it is.
func get(url string, count bool, p *progress) error {
	client, first := once(), ""
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

func fetch(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(b), err
}

// download has read a part of the body when it is told to end: the server was sending all the time.
func download(url, sum string, p *progress) error {
	resp, err := once().Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
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
