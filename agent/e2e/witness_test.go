package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vzcluster/vzcluster/agent/lab"
)

// witness reads on every host, all the time, what the copies of a container write there, and knows from it when two
// copies have run: of the same memory, if the same number was written at two times, or of the same disk, if a process
// went on after the next one had begun.
type witness struct {
	files map[string]string // host -> file
	stop  func()
	ended chan struct{}

	mu     sync.Mutex
	read   map[string]int64
	beats  map[beatKey]int64 // -> when
	lives  map[int64]int64   // process -> its last beat
	wrongs []string
}

// beatKey names a beat: which process wrote it, and its number.
type beatKey struct{ life, number int64 }

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
			case <-time.After(5 * time.Millisecond):
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
	w.beats, w.lives, w.wrongs = map[beatKey]int64{}, map[int64]int64{}, nil
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
		var at int64
		if n, _ := fmt.Sscanf(line, "%d %d %d", &k.life, &k.number, &at); n == 3 {
			w.beat(host, k, at)
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

// twice says what proves that two copies have run.
func (w *witness) twice() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrongs[:min(3, len(w.wrongs))]
}
