package e2e

import (
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vzcluster/vzcluster/agent/lab"
)

// witness reads on every host, all the time, what the copies of a container write there, and knows from it when two
// copies have run: of the same memory, if the same number was written at two times, of the same disk, if a process
// went on after the next one had begun, or of whatever, if one signed with an older generation after a newer one had.
type witness struct {
	files map[string]string // host -> file
	stop  func()
	ended chan struct{}

	mu     sync.Mutex
	read   map[string]int64
	beats  map[beatKey]int64 // -> when
	lives  map[int64]int64   // process -> its last beat
	copies map[uint64]*signed
	last   signed
	wrongs []string
}

// beatKey names a beat: which process wrote it, and its number.
type beatKey struct{ life, number int64 }

// signed is what was written by the copy with a generation.
type signed struct {
	host        string
	generation  uint64
	first, last int64 // when
}

func (k *kit) watch(id int) *witness {
	ctx, cancel := context.WithCancel(context.Background())
	w := &witness{files: map[string]string{}, stop: cancel, ended: make(chan struct{}), read: map[string]int64{}}
	w.fresh()
	for _, h := range k.lab.Hosts() {
		w.files[h] = filepath.Join(lab.DefaultDir, k.lab.Name(), h, fmt.Sprintf("data/containers/%d/layer/upper/var/log/beat", id))
	}
	go func() {
		defer close(w.ended)
		for ctx.Err() == nil {
			for host := range w.files {
				w.look(host)
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	k.t.Cleanup(func() { cancel(); <-w.ended })
	return w
}

// fresh forgets what was seen; what is still in the files is seen again.
func (w *witness) fresh() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beats, w.lives, w.copies, w.wrongs = map[beatKey]int64{}, map[int64]int64{}, map[uint64]*signed{}, nil
}

// look reads what a host's copy has written since the last look.
func (w *witness) look(host string) {
	f, err := os.Open(w.files[host])
	if err != nil {
		w.read[host] = 0
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return
	}
	if st.Size() < w.read[host] {
		w.read[host] = 0
	}
	b := make([]byte, st.Size()-w.read[host])
	n, _ := f.ReadAt(b, w.read[host])
	whole := strings.LastIndexByte(string(b[:n]), '\n') + 1
	w.read[host] += int64(whole)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range strings.Split(string(b[:whole]), "\n") {
		var k beatKey
		var by signed
		var sum uint32
		text := line[:max(0, strings.LastIndexByte(line, ' '))]
		n, _ := fmt.Sscanf(line, "%d %d %d %s %d %d", &k.life, &k.number, &by.first, &by.host, &by.generation, &sum)
		if n == 6 && sum == crc32.ChecksumIEEE([]byte(text)) { // else it is part of a line, of a file that is being written
			w.beat(host, k, by.first)
			w.sign(by)
		}
	}
}

// beat notes one; the caller holds the lock.
func (w *witness) beat(host string, k beatKey, at int64) {
	if before, seen := w.beats[k]; seen && before != at {
		w.wrongs = append(w.wrongs, fmt.Sprintf("beat %d was written at two times, %s apart, the later known copy on %s", k.number, time.Duration(at-before), host))
	}
	w.beats[k] = at
	w.lives[k.life] = max(w.lives[k.life], at)
	for life := range w.lives {
		if life > k.life && at > life {
			w.wrongs = append(w.wrongs, fmt.Sprintf("on %s the old process ran %s after the new one had begun", host, time.Duration(at-life)))
		}
		if life < k.life && w.lives[life] > k.life {
			w.wrongs = append(w.wrongs, fmt.Sprintf("on %s a new process had begun %s before the old one's end", host, time.Duration(w.lives[life]-k.life)))
		}
	}
}

// sign notes who wrote a beat; the caller holds the lock.
func (w *witness) sign(by signed) {
	at := by.first
	if w.copies[by.generation] == nil {
		by.last = at
		w.copies[by.generation] = &by
	}
	c := w.copies[by.generation]
	if c.host != by.host {
		w.wrongs = append(w.wrongs, fmt.Sprintf("generation %d ran on %s and on %s", by.generation, c.host, by.host))
	}
	c.first, c.last = min(c.first, at), max(c.last, at)
	for older, o := range w.copies {
		for newer, n := range w.copies {
			if older < newer && o.last > n.first {
				w.wrongs = append(w.wrongs, fmt.Sprintf("generation %d ran on %s for %s beside generation %d on %s",
					older, o.host, time.Duration(o.last-n.first), newer, n.host))
			}
		}
	}
	if at >= w.last.last {
		w.last = signed{host: by.host, generation: by.generation, first: at, last: at}
	}
}

// latest returns who wrote last.
func (w *witness) latest() (host string, generation uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last.host, w.last.generation
}

// twice says what proves that two copies have run.
func (w *witness) twice() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrongs[:min(3, len(w.wrongs))]
}

func TestTwoCopiesAreSeen(t *testing.T) {
	for name, c := range map[string]struct {
		here, there string // what was written on two hosts: process, number, time, signature
		seen        bool
		more        string // without a checksum of its own
	}{
		"a move":                            {"1 1 10 h1 1\n", "1 1 10 h1 1\n1 2 20 h2 2\n", false, ""},
		"a restart from disk":               {"1 1 10 h1 1\n15 1 20 h1 1\n", "", false, ""},
		"one number at two times":           {"1 1 10 h1 1\n1 2 20 h1 1\n", "1 1 10 h1 1\n1 2 21 h1 1\n", true, ""},
		"a process beside its follower":     {"1 1 10 h1 1\n1 2 30 h1 1\n", "20 1 21 h2 2\n", true, ""},
		"an old generation beside a newer":  {"1 1 10 h1 1\n1 3 30 h1 1\n", "1 2 20 h2 2\n", true, ""},
		"a generation that two hosts claim": {"1 1 10 h1 1\n", "1 2 20 h2 1\n", true, ""},
		"a part of a line says nothing":     {"1 1 10 h1 1\n", "", false, "1 1 25 h1 1 77\n1 3"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &witness{files: map[string]string{}, read: map[string]int64{}}
			w.fresh()
			for host, text := range map[string]string{"h1": c.here, "h2": c.there} {
				w.files[host] = filepath.Join(t.TempDir(), "beat")
				var sums strings.Builder
				for line := range strings.Lines(text) {
					line = strings.TrimSpace(line)
					fmt.Fprintf(&sums, "%s %d\n", line, crc32.ChecksumIEEE([]byte(line)))
				}
				if err := os.WriteFile(w.files[host], []byte(sums.String()+c.more), 0o600); err != nil {
					t.Fatal(err)
				}
				w.look(host)
			}
			if got := w.twice(); (len(got) > 0) != c.seen {
				t.Errorf("it sees %v", got)
			}
		})
	}
}
