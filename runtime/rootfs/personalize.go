package rootfs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"github.com/vzcluster/vzcluster/runtime"
)

// maxRead bounds what is read of a file that the container may have written.
const maxRead = 1 << 20

// Personalize gives a mounted root what must be its own: hostname, hosts and resolv.conf at each start, machine-id and
// ssh host keys when it has none (templates come without, and a container that moved keeps the ones it has). The
// container may have written anything into its root: no link is followed out of it.
func (r *Roots) Personalize(spec runtime.Spec, root string) error {
	if strings.ContainsFunc(spec.Hostname+strings.Join(spec.Search, "")+strings.Join(spec.DNS, ""), func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return fmt.Errorf("container %d: hostname, name servers or search domain hold a blank or control character", spec.ID)
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("personalize container %d: %w", spec.ID, err)
	}
	defer dir.Close()
	p := personal{dir, spec}
	if err := errors.Join(p.network(), p.machineID(), p.hostKeys()); err != nil {
		return fmt.Errorf("personalize container %d: %w", spec.ID, err)
	}
	return nil
}

type personal struct {
	*os.Root
	spec runtime.Spec
}

// network writes the files that say who the container is on its network.
func (p personal) network() error {
	const header = "# Written by vzcluster at each start.\n"
	var hosts strings.Builder
	hosts.WriteString(header + "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, nic := range p.spec.NICs {
		for _, a := range nic.Addresses {
			fmt.Fprintf(&hosts, "%s\t%s\n", a.Addr(), p.spec.Hostname)
		}
	}
	return errors.Join(
		p.put("etc/hostname", []byte(p.spec.Hostname+"\n"), 0o644),
		p.put("etc/hosts", []byte(hosts.String()), 0o644),
		p.put("etc/resolv.conf", []byte(p.spec.ResolvConf()), 0o644))
}

// machineID writes a random machine-id when there is none yet.
func (p personal) machineID() error {
	if old, err := p.get("etc/machine-id"); err == nil && len(bytes.TrimSpace(old)) == 32 {
		return nil
	}
	var id [16]byte
	rand.Read(id[:]) // never fails
	return p.put("etc/machine-id", []byte(hex.EncodeToString(id[:])+"\n"), 0o444)
}

// hostKeys makes the ssh host keys that are missing, if there is an ssh server.
func (p personal) hostKeys() error {
	if _, err := p.Stat("usr/sbin/sshd"); err != nil {
		return nil
	}
	if info, err := p.Stat("etc/ssh"); err != nil || !info.IsDir() {
		return nil
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return errors.Join(
		p.hostKey("etc/ssh/ssh_host_ed25519_key", ed, ed.Public()),
		p.hostKey("etc/ssh/ssh_host_ecdsa_key", ec, ec.Public()))
}

func (p personal) hostKey(name string, private, public any) error {
	if old, err := p.get(name); err == nil && len(old) > 0 {
		return nil
	}
	comment := "root@" + p.spec.Hostname
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return fmt.Errorf("ssh host key: %w", err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return fmt.Errorf("ssh host key: %w", err)
	}
	line := append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)), " "+comment+"\n"...)
	// The public half first: the private one is what says that the pair is there.
	return errors.Join(p.put(name+".pub", line, 0o644), p.put(name, pem.EncodeToMemory(block), 0o600))
}

// get reads a regular file, at most maxRead of it.
func (p personal) get(name string) ([]byte, error) {
	info, err := p.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fs.ErrInvalid
	}
	f, err := p.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// put replaces whatever has the name by a regular file of the container's root. A file that is already right is left
// alone, so that a start changes nothing in the layer.
func (p personal) put(name string, content []byte, mode os.FileMode) error {
	if info, err := p.Lstat(name); err == nil && info.Mode() == mode && info.Sys().(*syscall.Stat_t).Uid == p.spec.UIDBase {
		if old, err := p.get(name); err == nil && bytes.Equal(old, content) {
			return nil
		}
	}
	if err := p.directory(path.Dir(name)); err != nil {
		return err
	}
	temporary := name + ".vzcluster-new"
	if err := p.RemoveAll(temporary); err != nil {
		return err
	}
	f, err := p.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	// We write as the host's root: the file must become the container's.
	if err := errors.Join(err, f.Chown(int(p.spec.UIDBase), int(p.spec.UIDBase)), f.Chmod(mode), f.Close()); err != nil {
		return errors.Join(err, p.Remove(temporary))
	}
	if info, err := p.Lstat(name); err == nil && info.IsDir() {
		if err := p.RemoveAll(name); err != nil {
			return err
		}
	}
	return p.Rename(temporary, name)
}

// directory makes a missing directory, owned by the container's root.
func (p personal) directory(name string) error {
	if _, err := p.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := p.Mkdir(name, 0o755); err != nil {
		return err
	}
	return p.Chown(name, int(p.spec.UIDBase), int(p.spec.UIDBase))
}
