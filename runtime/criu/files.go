package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
)

// filesImage is CRIU's file of open files: two magic numbers, then messages, each behind its length.
const (
	filesImage  = "files.img"
	filesHead   = 8
	filesMagic  = 0x56303138
	filesTimer  = 12 // the field of a message that is a timer
	maxFilesImg = 256 << 20
)

// dumpedFiles is where filesImage is kept as it came, once it was changed: a restore may be tried twice.
const dumpedFiles = "vz-files.img"

// mendFiles changes in filesImage what CRIU would restore as something else than it was.
func mendFiles(images string) error {
	file, kept := filepath.Join(images, filesImage), filepath.Join(images, dumpedFiles)
	from := kept
	st, err := os.Stat(kept)
	if errors.Is(err, fs.ErrNotExist) {
		from = file
		st, err = os.Stat(file)
	}
	if err != nil || st.Size() > maxFilesImg {
		return errors.Join(fmt.Errorf("the checkpoint has no usable %s", filesImage), err)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read the checkpoint's open files: %w", err)
	}
	b, changed, err := withTimers(b)
	if err != nil {
		return err
	}
	if !changed && from == file {
		return nil
	}
	if from == file {
		if err := os.Rename(file, kept); err != nil {
			return fmt.Errorf("change the checkpoint's open files: %w", err)
		}
	}
	if err := os.WriteFile(file, b, 0o644); err != nil {
		return fmt.Errorf("change the checkpoint's open files: %w", err)
	}
	return nil
}

// withTimers mends the timers of an image.
func withTimers(image []byte) (out []byte, changed bool, err error) {
	broken := fmt.Errorf("%s is none of CRIU's", filesImage)
	if len(image) < filesHead || binary.LittleEndian.Uint32(image) != commonMagic || binary.LittleEndian.Uint32(image[4:]) != filesMagic {
		return nil, false, broken
	}
	out = make([]byte, 0, len(image))
	out = append(out, image[:filesHead]...)
	for rest := image[filesHead:]; len(rest) > 0; {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.LittleEndian.Uint32(rest)) {
			return nil, false, broken
		}
		n := binary.LittleEndian.Uint32(rest)
		message := rest[4 : 4+n]
		rest = rest[4+n:]
		message, mended, ok := mendEntry(message)
		if !ok {
			return nil, false, broken
		}
		changed = changed || mended
		out = binary.LittleEndian.AppendUint32(out, uint32(len(message)))
		out = append(out, message...)
	}
	return out, changed, nil
}

// mendEntry mends an open file, if that is a timer.
func mendEntry(message []byte) (out []byte, mended, ok bool) {
	ok = eachField(message, func(number protowire.Number, kind protowire.Type, whole, value []byte) bool {
		if number != filesTimer || kind != protowire.BytesType {
			out = append(out, whole...)
			return true
		}
		body, _ := protowire.ConsumeBytes(value)
		body, changed, ok := mendTimer(body)
		mended = mended || changed
		out = protowire.AppendBytes(protowire.AppendTag(out, number, kind), body)
		return ok
	})
	return out, mended, ok
}

// mendTimer mends a timer's message.
func mendTimer(body []byte) (out []byte, mended, ok bool) {
	var t timer
	fields := map[protowire.Number]*uint64{5: &t.ticks, 6: &t.flags, 7: &t.vsec, 8: &t.vnsec, 9: &t.isec, 10: &t.insec}
	ok = eachField(body, func(number protowire.Number, kind protowire.Type, whole, value []byte) bool {
		if field := fields[number]; field != nil && kind == protowire.VarintType {
			*field, _ = protowire.ConsumeVarint(value)
		} else {
			out = append(out, whole...)
		}
		return true
	})
	if !ok || !t.mend() {
		return body, false, ok
	}
	for number := range protowire.Number(11) {
		if field := fields[number]; field != nil {
			out = protowire.AppendVarint(protowire.AppendTag(out, number, protowire.VarintType), *field)
		}
	}
	return out, true, true
}

// eachField visits the fields of a message: each as a whole, and what is behind its tag. It says whether it is a message.
func eachField(b []byte, visit func(number protowire.Number, kind protowire.Type, whole, value []byte) bool) bool {
	for len(b) > 0 {
		number, kind, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return false
		}
		n := protowire.ConsumeFieldValue(number, kind, b[tag:])
		if n < 0 || !visit(number, kind, b[:tag+n], b[tag:tag+n]) {
			return false
		}
		b = b[tag+n:]
	}
	return true
}
