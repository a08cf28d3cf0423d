package criu

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/cgroup"
	"google.golang.org/protobuf/proto"
)

// image is what CRIU writes for a container with one cgroup.
func image(t *testing.T) []byte {
	t.Helper()
	body, err := proto.Marshal(&cgroup.CgroupEntry{
		Sets:        []*cgroup.CgSetEntry{{Id: proto.Uint32(1), Ctls: []*cgroup.CgMemberEntry{{Name: proto.String(""), Path: proto.String("/vz/101")}}}},
		Controllers: []*cgroup.CgControllerEntry{{Cnames: []string{""}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	head := binary.LittleEndian.AppendUint32(nil, commonMagic)
	head = binary.LittleEndian.AppendUint32(head, cgroupMagic)
	return append(binary.LittleEndian.AppendUint32(head, uint32(len(body))), body...)
}

func TestCriuIsGivenAFreezer(t *testing.T) {
	ct, images := host(t), filepath.Join(t.TempDir(), "images")
	freeze := filepath.Join(ct.Freezer, "cgroup.freeze")
	file := filepath.Join(images, cgroupImage)
	for _, err := range []error{os.Mkdir(images, 0o755), os.WriteFile(file, image(t), 0o644), os.WriteFile(freeze, []byte("0"), 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a restore may be tried twice
		if err := holdAtEnd(ct, images); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := crit.New(f, nil, "", false, false).Decode(&cgroup.CgroupEntry{})
	if err != nil {
		t.Fatal(err)
	}
	entry := got.Entries[0].Message.(*cgroup.CgroupEntry)
	if len(entry.GetSets()) != 1 || len(entry.GetControllers()) != 2 {
		t.Fatalf("the image now says %v", entry)
	}
	c := entry.GetControllers()[1]
	group := c.GetDirs()[0]
	property := group.GetProperties()[0]
	// What CRIU makes of it.
	path := filepath.Join(yardOf(images), c.GetCnames()[0], group.GetDirName(), property.GetName())
	if err := os.WriteFile(path, []byte(property.GetValue()), 0); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(freeze); string(b) != "1" {
		t.Errorf("cgroup.freeze holds %q", b)
	}
	unbind(images)
	if _, err := os.Stat(yardOf(images)); !os.IsNotExist(err) {
		t.Errorf("the yard is still there: %v", err)
	}
	if _, err := os.Stat(freeze); err != nil {
		t.Errorf("the cgroup was removed with it: %v", err)
	}
}

func TestForeignCgroupImage(t *testing.T) {
	good := image(t)
	short, other := good[:len(good)-1], append([]byte{1}, good[1:]...)
	for name, b := range map[string][]byte{"empty": nil, "cut off": short, "of another kind": other} {
		if _, err := withFreezer(b); err == nil {
			t.Errorf("an image that is %s was taken", name)
		}
	}
}
