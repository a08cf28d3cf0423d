// Package memory copies a container's memory to another host while the container runs, and what has changed since once
// it stands still. Reader reads it in rounds; PageServer takes it from a dumping CRIU, which would write it to files
// otherwise; Sender sends only pages that the target does not have; Store writes them on the target as CRIU's images.
//
// It owns the format of a pass and CRIU's formats of pages, nothing of a stream, a freeze or a restore.
//
// The one rule for callers: what a round has read is a guess, because the container runs meanwhile. Only the last pass
// decides what the memory is: every page that CRIU dumps then is compared with what was sent, by its hash.
package memory

import (
	"errors"
	"fmt"
)

// PageSize is the size of a page.
const PageSize = 4096

// Space names what has pages of its own, a process or a piece of shared memory, as CRIU names it: the kind in the lowest
// byte, above it the process as the container's pid namespace numbers it, or the inode.
type Space uint64

// The kinds of spaces.
const (
	kindProcess = 1
	kindShared  = 2
)

// ProcessSpace is the private memory of a process, by its number inside the container.
func ProcessSpace(pid int) Space { return Space(uint64(pid)<<8 | kindProcess) }

// SharedSpace is memory that processes share, by its inode. Its pages are numbered from its beginning.
func SharedSpace(inode uint64) Space { return Space(inode<<8 | kindShared) }

// Shared says that it is shared memory.
func (s Space) Shared() bool { return uint64(s)&0xff == kindShared }

func (s Space) id() uint64 { return uint64(s) >> 8 }

func (s Space) valid() bool {
	switch uint64(s) & 0xff {
	case kindProcess:
		return s.id() > 0 && s.id() <= maxPID
	case kindShared:
		return true // the first System V segment of a container has number 0
	}
	return false
}

// What a peer can name: pids are below 2^22, and addresses have 57 bits at most.
const (
	maxPID  = 1 << 22
	maxPage = 1 << (57 - 12)
)

// image is the name of the file in which CRIU looks for the list of a space's pages.
func (s Space) image() string {
	if uint64(s)&0xff == kindShared {
		return fmt.Sprintf("pagemap-shmem-%d.img", s.id())
	}
	return fmt.Sprintf("pagemap-%d.img", s.id())
}

// maxRun is how many pages one record may carry.
const maxRun = 256

// Stats say what a pass has moved.
type Stats struct {
	Pages int   // that were looked at
	Sent  int   // that the target did not have
	Bytes int64 // that crossed the wire
}

// ErrProtocol marks what a peer, or a CRIU, must never send.
var ErrProtocol = errors.New("memory: broken protocol")
