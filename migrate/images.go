package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
)

// imageName is what a file of a checkpoint may be called.
var imageName = regexp.MustCompile(`^[a-z][a-zA-Z0-9._-]{0,120}\.img$`)

// A checkpoint has a bounded number of files, and is little larger than the memory that it holds.
const (
	maxImages  = 1 << 16
	imageSlack = 1 << 30 // bytes
)

// budget is what a peer may still send of a checkpoint.
type budget struct {
	files int
	bytes int64
}

func (b *budget) take(size int64) error {
	if b.files--; b.files < 0 {
		return fmt.Errorf("receive the checkpoint: it has more than %d files", maxImages)
	}
	if size < 0 || size > b.bytes {
		return errors.New("receive the checkpoint: it is larger than the container's memory can be")
	}
	b.bytes -= size
	return nil
}

// charge takes room for memory that is no file of its own.
func (b *budget) charge(bytes int64) error {
	b.files++
	return b.take(bytes)
}

// sendImages sends every image of a checkpoint.
func sendImages(s *stream, disk Disk, dir string) error {
	folder, err := disk.Open(dir, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("send the checkpoint: %w", err)
	}
	defer folder.Close()
	entries, err := folder.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("send the checkpoint: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !imageName.MatchString(e.Name()) {
			continue
		}
		if err := sendImage(s, disk, filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("send the checkpoint: %w", err)
		}
	}
	return nil
}

func sendImage(s *stream, disk Disk, file string) error {
	f, err := disk.Open(file, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	head, err := json.Marshal(imageMsg{Name: filepath.Base(file), Size: st.Size()})
	if err != nil {
		return err
	}
	if err := s.frame(msgImage, head); err != nil {
		return err
	}
	w := bulkWriter{s}
	if n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f}, s.copyBuffer); err != nil {
		return err
	} else if n != st.Size() {
		return fmt.Errorf("%s changed its size while it was sent", file)
	}
	return s.frame(msgChunk, nil)
}

// receiveImage writes one image into the folder, which is new and only ours. Names and sizes are checked: what comes is
// hostile until proven.
func receiveImage(s *stream, disk Disk, dir string, body []byte, room *budget) error {
	var head imageMsg
	if err := json.Unmarshal(body, &head); err != nil {
		return fmt.Errorf("receive the checkpoint: %w", err)
	}
	if !imageName.MatchString(head.Name) {
		return fmt.Errorf("receive the checkpoint: %q is no name of an image", head.Name)
	}
	if err := room.take(head.Size); err != nil {
		return err
	}
	f, err := disk.Open(filepath.Join(dir, head.Name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("receive the checkpoint: %w", err)
	}
	defer f.Close()
	in := &bulkReader{s: s}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(in, head.Size+1), s.copyBuffer)
	if err != nil {
		return fmt.Errorf("receive the checkpoint: %w", err)
	}
	if n != head.Size {
		return fmt.Errorf("receive the checkpoint: %s has not the size that was announced", head.Name)
	}
	return in.drain()
}
