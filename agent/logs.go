package agent

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/vzcluster/vzcluster/agent/api"
)

// logPoll is how often a followed log is looked at.
const logPoll = 250 * time.Millisecond

// handleOwnerLogs sends the boot log of a container of this host; with ?follow=1 it goes on until the container ends.
func (m *member) handleOwnerLogs(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		respond(w, nil, api.Errorf(api.CodeUsage, "", "%q is not a CTID", r.PathValue("id")))
		return
	}
	f, err := m.deps.Engine.Log(id)
	if errors.Is(err, fs.ErrNotExist) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		return // it has not said anything yet
	}
	if err != nil {
		respond(w, nil, err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := http.NewResponseController(w)
	follow := r.URL.Query().Get("follow") == "1"
	for {
		st, statusErr := m.deps.Engine.Status(id) // before the copy, so that the last words are not missed
		if _, err := io.Copy(w, f); err != nil {
			return
		}
		if !follow || statusErr != nil || !st.Running {
			return
		}
		_ = out.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(logPoll):
		}
	}
}
