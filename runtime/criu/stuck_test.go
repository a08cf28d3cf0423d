package criu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
)

// A criu that gets nothing done is ended; one that works is waited for, also if others do its work.
func TestAStuckCriuIsEnded(t *testing.T) {
	scripts := map[string]string{
		"stuck": "exec sleep 60",
		"works": `(end=$(($(date +%s) + 4)); while [ $(date +%s) -lt $end ]; do :; done)`,
	}
	dir := t.TempDir()
	for name, script := range scripts { // all of them before any runs: a file that is open for writing anywhere cannot be run
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name := range scripts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			binary := filepath.Join(dir, name)
			s, err := (&Criu{Binary: binary, Patience: time.Second}).start()
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_, err = s.do(rpc.CriuReqType_DUMP, &rpc.CriuOpts{ImagesDirFd: ptr(int32(0))}, nil)
			s.close()
			ended := s.killed()
			if err == nil || strings.Contains(err.Error(), "nothing done") != (name == "stuck") || ended != (name == "stuck") {
				t.Errorf("after %s: killed %v, %v", time.Since(began), ended, err)
			}
		})
	}
}
