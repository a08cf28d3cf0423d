package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// features tries what the agent will do. What only root can try is left out for others.
func features(c Config) map[Feature]string {
	fs := map[Feature]string{
		CgroupNamespace: namespace("cgroup"), TimeNamespace: namespace("time"), UserNamespace: namespace("user"),
		PidFD: reason(pidfd()), Userfault: reason(userfaultfd()), SoftDirty: reason(softDirty()),
	}
	if os.Geteuid() != 0 {
		return fs
	}
	ids, err := userNamespace()
	fs[UserNamespace] = reason(err)
	dir := existing(c.DataDir)
	if err == nil {
		defer ids.Close()
		fs[IDMap] = reason(idmapped(dir, ids))
	}
	fs[Overlay] = reason(overlay(dir))
	for feature, err := range inNetwork(c.NAT) {
		fs[feature] = reason(err)
	}
	return fs
}

func namespace(kind string) string {
	if _, err := os.Stat("/proc/self/ns/" + kind); err != nil {
		return "not in this kernel"
	}
	return ""
}

func pidfd() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func userfaultfd() error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1 /* UFFD_USER_MODE_ONLY */, 0, 0)
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

// softDirty looks at the bit of a page that was just written; a kernel without the feature never sets it.
func softDirty() error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(page) //nolint:errcheck // it was mapped
	page[0] = 1
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return err
	}
	defer f.Close()
	var entry [8]byte
	at := uintptr(unsafe.Pointer(&page[0])) / uintptr(os.Getpagesize())
	if _, err := f.ReadAt(entry[:], int64(at)*8); err != nil {
		return err
	}
	if binary.NativeEndian.Uint64(entry[:])&(1<<55) == 0 {
		return errors.New("not in this kernel")
	}
	return nil
}

// userNamespace makes one with ids far from any container's.
func userNamespace() (*os.File, error) {
	wait, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer wait.Close()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1 << 30, Size: 65536}}
	child := exec.Command("cat") // it ends when hold is closed
	child.Stdin = wait
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		hold.Close()
		return nil, fmt.Errorf("cannot make one: %w", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Process.Pid))
	hold.Close()
	_ = child.Wait()
	return ns, err
}

// idmapped clones a directory's mount and maps its ids; the clone is never attached anywhere.
func idmapped(dir string, ids *os.File) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ids.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("not on the file system of %s (%w)", dir, err)
	}
	return nil
}

// overlay makes an overlay of empty directories with the agent's options, attached nowhere.
func overlay(dir string) (err error) {
	top, err := os.MkdirTemp(dir, ".vzcluster-doctor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(top)) }()
	options := map[string]string{"lowerdir": "lower", "upperdir": "upper", "workdir": "work"}
	for key, name := range options {
		options[key] = filepath.Join(top, name)
		if err := os.Mkdir(options[key], 0o700); err != nil {
			return err
		}
	}
	options["index"], options["nfs_export"], options["redirect_dir"] = "on", "on", "nofollow"
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for key, value := range options {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return fmt.Errorf("option %s: %w", key, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("not on the file system of %s (%w)", dir, err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(mount)
}

// existing is the nearest directory above that exists.
func existing(dir string) string {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			break
		}
	}
	return dir
}

// inNetwork tries links and firewall rules in a network namespace that vanishes with its thread.
func inNetwork(nat bool) map[Feature]error {
	done := make(chan map[Feature]error)
	go tryNetwork(nat, done)
	return <-done
}

// tryNetwork ends its thread, which must not be the main one: Go keeps that, and /proc/self would show its namespace.
func tryNetwork(nat bool, done chan<- map[Feature]error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		another := make(chan map[Feature]error)
		go tryNetwork(nat, another) // cannot get the main thread, as it is held here
		found := <-another
		runtime.UnlockOSThread()
		done <- found
		return
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		err = fmt.Errorf("no network namespace: %w", err)
		done <- map[Feature]error{Bridge: err, Veth: err, NFTables: err}
		return
	}
	found := map[Feature]error{Bridge: tryBridge(), Veth: tryVeth(), NFTables: tryGuard()}
	if nat {
		found[NAT] = tryNAT()
	}
	done <- found
}

func tryBridge() error {
	return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "vzdoctor0"}})
}

func tryVeth() error {
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vzdoctor1"}, PeerName: "vzdoctor2"})
}

// tryGuard lays down a rule like the guard's: a map of ports to verdicts in the bridge family.
func tryGuard() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyBridge, Name: "vzdoctor"})
	ports := &nftables.Set{Table: t, Name: "ports", IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict}
	if err := c.AddSet(ports, nil); err != nil {
		return err
	}
	first := nftables.ChainPriority(-300)
	ch := c.AddChain(&nftables.Chain{
		Name: "prerouting", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: &first,
	})
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: ports.Name},
	}})
	return c.Flush()
}

func tryNAT() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "vzdoctor"})
	ch := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{&expr.Masq{}}})
	return c.Flush()
}
