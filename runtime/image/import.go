package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Bounds of an archive that are taken when ImportOptions has none.
const (
	DefaultMaxBytes   = 64 << 30
	DefaultMaxEntries = 4_000_000
)

// ErrDigest says that an archive is not the one that was asked for.
var ErrDigest = errors.New("the archive has another digest")

// ImportOptions bound and steer an import. The zero value is right for most.
type ImportOptions struct {
	Init       []string // PID 1; empty: found by looking into the tree
	MaxBytes   int64    // of the uncompressed archive, and of the files in it; 0: DefaultMaxBytes
	MaxEntries int      // 0: DefaultMaxEntries
}

// Import reads an archive (tar, or a tar compressed with gzip, xz or zstd, told apart by looking), unpacks and
// prepares it, and keeps it under its digest. An error is one sentence about what is wrong with the archive, and
// leaves nothing behind. Importing what is there already changes nothing.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (Info, error) {
	info, err := s.take(ctx, r, "", o)
	if err != nil {
		return Info{}, fmt.Errorf("import template: %w", err)
	}
	return info, nil
}

// Fetch is Import of an archive that must have a digest, usually another host's Archive; any other is refused with
// ErrDigest and leaves nothing behind. What is here already is not read again.
func (s *Store) Fetch(ctx context.Context, digest string, r io.Reader) (Info, error) {
	if _, err := parseDigest(digest); err != nil {
		return Info{}, err
	}
	if info, err := s.Info(digest); err == nil {
		return info, nil
	}
	info, err := s.take(ctx, r, digest, ImportOptions{})
	if err != nil {
		return Info{}, fmt.Errorf("fetch template %s: %w", digest, err)
	}
	return info, nil
}

// take unpacks into a directory aside and publishes it when everything is right. An empty want takes any digest.
func (s *Store) take(ctx context.Context, r io.Reader, want string, o ImportOptions) (info Info, err error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = DefaultMaxEntries
	}
	made, err := os.MkdirTemp(s.dir, temporary)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(made)) }()
	info.Digest, info.Size, err = copyArchive(ctx, r, made, o)
	if err != nil {
		return info, err
	}
	if want != "" && info.Digest != want {
		return info, fmt.Errorf("%w: %s", ErrDigest, info.Digest)
	}
	if err := prepare(filepath.Join(made, treeDir), &info, o.Init); err != nil {
		return info, err
	}
	return info, s.publish(made, info)
}

// copyArchive unpacks the archive into made and keeps a compressed copy beside it, reading it once.
func copyArchive(ctx context.Context, r io.Reader, made string, o ImportOptions) (digest string, size int64, err error) {
	plain, closePlain, err := decompress(cancellable{ctx, r})
	if err != nil {
		return "", 0, err
	}
	defer closePlain()
	kept, err := os.OpenFile(filepath.Join(made, archiveFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, kept.Close()) }()
	packed, err := zstd.NewWriter(kept, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, packed.Close()) }()
	sum, tail := sha256.New(), &tail{}
	seen := &bounded{r: plain, left: o.MaxBytes}
	all := bufio.NewReaderSize(io.TeeReader(seen, io.MultiWriter(sum, packed, tail)), 256<<10)

	err = unpack(all, filepath.Join(made, treeDir), o)
	if err == nil {
		_, err = io.Copy(io.Discard, all) // what pads the archive is part of the digest
	}
	switch {
	case ctx.Err() != nil:
		return "", 0, ctx.Err()
	case errors.Is(err, io.ErrUnexpectedEOF), err == nil && !tail.zero():
		return "", 0, fmt.Errorf("the archive is truncated after %d bytes: get it again", seen.n)
	case err != nil:
		return "", 0, err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), seen.n, nil
}

// decompress looks at the first bytes and undoes the compression that they speak of.
func decompress(r io.Reader) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(r, 256<<10)
	nothing := func() {}
	magic, err := in.Peek(265)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nothing, err
	}
	switch {
	case len(magic) == 0:
		return nil, nothing, errors.New("the archive is empty")
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		return z, nothing, err
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		z, err := xz.NewReader(in)
		return z, nothing, err
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, nothing, err
		}
		return z, z.Close, nil
	case len(magic) >= 262 && string(magic[257:262]) == "ustar":
		return in, nothing, nil
	}
	return nil, nothing, errors.New("this is no tar archive, neither a plain one nor one compressed with gzip, xz or zstd")
}

// cancellable ends a read loop when the context ends.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// bounded counts what is read, and refuses more than a limit.
type bounded struct {
	r       io.Reader
	n, left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	if b.n > b.left {
		return n, fmt.Errorf("the archive is larger than %d bytes", b.left)
	}
	return n, err
}

// tail remembers whether a stream ends with a block of zeros, as every complete tar archive does. Without it an
// archive that was cut between two files would look complete.
type tail struct{ zeros int }

func (t *tail) Write(p []byte) (int, error) {
	rest := bytes.TrimRight(p, "\x00")
	if len(rest) == 0 {
		t.zeros += len(p)
	} else {
		t.zeros = len(p) - len(rest)
	}
	return len(p), nil
}

func (t *tail) zero() bool { return t.zeros >= 512 }
