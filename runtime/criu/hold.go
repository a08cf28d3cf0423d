package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vzcluster/vzcluster/runtime"
)

// Whatever happens to us, CRIU lets no copy run that is not frozen: the last thing it does before it lets the processes
// go is to restore the state of their v1 freezer. On v1 that is in the images, since the source was frozen. On v2 it
// knows no freezer, so it is given one: a "hierarchy" in its cgroup yard whose only file is a link to the container's
// cgroup.freeze, and an entry in the image that says what is to be written there.
const (
	freezerName  = "freezer" // as CRIU calls that hierarchy
	freezerGroup = "hold"
	freezerFile  = "freezer.state"
)

// cgroupImage is CRIU's file of cgroups: two magic numbers, a length, and one message.
const (
	cgroupImage  = "cgroup.img"
	imageHead    = 12
	commonMagic  = 0x54564319
	cgroupMagic  = 0x59383330
	maxCgroupImg = 16 << 20
)

// holdAtEnd makes both. Images that were changed before stay as they are: a restore may be tried twice.
func holdAtEnd(ct runtime.Checkpoint, images string) error {
	if !isUnified(ct) {
		return nil
	}
	dir := filepath.Join(yardOf(images), freezerName, freezerGroup)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the freezer for a restore: %w", err)
	}
	err := os.Symlink(filepath.Join(ct.Freezer, "cgroup.freeze"), filepath.Join(dir, freezerFile))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the freezer for a restore: %w", err)
	}
	file := filepath.Join(images, cgroupImage)
	if st, err := os.Stat(file); err != nil || st.Size() > maxCgroupImg {
		return errors.Join(fmt.Errorf("the checkpoint has no usable %s", cgroupImage), err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the checkpoint's cgroups: %w", err)
	}
	if b, err = withFreezer(b); err != nil {
		return err
	}
	if err := os.WriteFile(file+".tmp", b, 0o644); err != nil {
		return fmt.Errorf("change the checkpoint's cgroups: %w", err)
	}
	return os.Rename(file+".tmp", file)
}

// withFreezer adds the freezer to an image. A message may be extended by what is written behind it.
func withFreezer(image []byte) ([]byte, error) {
	if len(image) < imageHead || binary.LittleEndian.Uint32(image) != commonMagic || binary.LittleEndian.Uint32(image[4:]) != cgroupMagic ||
		uint64(binary.LittleEndian.Uint32(image[8:])) != uint64(len(image)-imageHead) {
		return nil, fmt.Errorf("%s is none of CRIU's", cgroupImage)
	}
	// cgroup_entry{controllers: {cnames: "freezer", dirs: {dir_name: "hold", properties: {name: "freezer.state", value: "1"}}}}
	property := append(field(1, []byte(freezerFile)), field(2, []byte("1"))...)
	group := append(field(1, []byte(freezerGroup)), field(3, property)...)
	controller := append(field(1, []byte(freezerName)), field(2, group)...)
	more := field(2, controller)
	if len(image) > imageHead+len(more) && string(image[len(image)-len(more):]) == string(more) {
		return image, nil
	}
	image = append(image[:len(image):len(image)], more...)
	binary.LittleEndian.PutUint32(image[8:], uint32(len(image)-imageHead))
	return image, nil
}

// field is one length-delimited field of a protobuf message.
func field(number byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{number<<3 | 2}, uint64(len(body))), body...)
}
