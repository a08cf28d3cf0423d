package agent

import (
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
)

// routeLocalLog asks a host for what CRIU wrote there about an operation.
const routeLocalLog = "GET /v1/local/operations/{id}/log" // -> map[string][]byte

// Logs implements Migrator.
func (mv *mover) Logs(operation string) (map[string][]byte, error) { return mv.moves.Logs(operation) }

func (m *member) handleLocalLog(_ http.ResponseWriter, r *http.Request) (any, error) {
	id := r.PathValue("id")
	if m.migrator == nil || id != filepath.Base(id) { // the leader knows the operation; this replica may be behind
		return map[string][]byte{}, nil
	}
	return m.migrator.Logs(id)
}

// handleOperationLog collects what CRIU wrote on both hosts about a migration that failed.
func (m *member) handleOperationLog(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	op := m.store.State().Operation(id)
	if op == nil {
		respond(w, nil, notFound("operation", id, "vzcluster operation list"))
		return
	}
	if op.Kind != cluster.OpMigrate {
		respond(w, nil, api.Errorf(api.CodeConflict, "ask for that of one of its migrations", "operation %s is a %s, which has no log of its own", id, op.Kind))
		return
	}
	var text []byte
	for _, host := range []string{op.From, op.To} {
		logs := map[string][]byte{}
		if err := m.peers.call(r.Context(), http.MethodGet, host, "/v1/local/operations/"+id+"/log", nil, &logs); err != nil {
			text = fmt.Appendf(text, "== %s cannot be asked: %v ==\n", host, err)
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(logs)) {
			text = fmt.Appendf(text, "== %s: %s ==\n%s\n", host, name, logs[name])
		}
	}
	if len(text) == 0 {
		respond(w, nil, api.Errorf(api.CodeNotFound, "logs are kept of migrations that CRIU failed in", "there is no log of operation %s", id))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(text)
}
