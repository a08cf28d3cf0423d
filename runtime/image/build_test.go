package image

import (
	"slices"
	"strings"
	"testing"
)

// TestBootstrapCommand shows what mmdebstrap is asked for; the mirrors of Ubuntu need not be there for that.
func TestBootstrapCommand(t *testing.T) {
	line := func(name string) string {
		return strings.Join(mmdebstrap(distributions()[name], []string{"openssh-server", "systemd-sysv"}), " ")
	}
	for name, tail := range map[string]string{
		"debian-13":    "locale.alias trixie -",
		"ubuntu-24.04": "locale.alias --keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg --components=main,universe noble - http://archive.ubuntu.com/ubuntu",
	} {
		got := line(name)
		if !strings.HasSuffix(got, tail) || !strings.HasPrefix(got, "--mode=root --variant=minbase --include=openssh-server,systemd-sysv ") {
			t.Errorf("%s is built with %s", name, got)
		}
	}
	for _, name := range Recipes() {
		if err := CheckBuild(name, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CheckBuild("ubuntu-6.06", nil); err == nil || !strings.Contains(err.Error(), "ubuntu-24.04") || slices.Contains(Recipes(), "ubuntu-6.06") {
		t.Errorf("a recipe that does not exist: %v", err)
	}
}
