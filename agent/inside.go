package agent

import (
	"context"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"

	"golang.org/x/crypto/ssh"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/runtime"
)

// handleInside passes changes of files inside a container on to the container's owner. They go into no log.
func (m *member) handleInside(w http.ResponseWriter, r *http.Request) {
	m.toOwner(w, r, "inside", jsonHandler(m, (*member).handleOwnerInside))
}

func jsonHandler(m *member, f answerer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { jsonOf(f)(m, w, r) }
}

// handleOwnerInside changes files inside a container of this host, running or not.
func (m *member) handleOwnerInside(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%q is not a CTID", r.PathValue("id"))
	}
	var req api.InsideRequest
	if err := readJSON(r, &req); err != nil {
		return nil, err
	}
	if err := checkInside(req); err != nil {
		return nil, err
	}
	c := m.store.State().Container(id)
	if c == nil || c.Host != m.name {
		return nil, api.Errorf(api.CodeConflict, "try again", "container %d is not on %s any more", id, m.name)
	}
	return nil, m.withRoot(r.Context(), c, true, func(_ context.Context, root runtime.Inside) error {
		return root.Edit(runtime.Edits{Passwords: req.Passwords, Keys: req.Keys, TimeZone: req.TimeZone})
	})
}

// checkInside refuses what could be more than one field, or line, of a file. The hash itself is not repeated.
func checkInside(r api.InsideRequest) error {
	hash := regexp.MustCompile(`^\$[0-9a-z]+\$[./0-9A-Za-z$=,]+$`)
	for _, user := range slices.Sorted(maps.Keys(r.Passwords)) {
		if !hash.MatchString(r.Passwords[user]) {
			return api.Errorf(api.CodeUsage, "see crypt(5)", "what is given for %q is no hash of a password", user)
		}
	}
	for _, user := range slices.Sorted(maps.Keys(r.Keys)) {
		rest, n := []byte(r.Keys[user]), 0
		for {
			_, _, _, next, err := ssh.ParseAuthorizedKey(rest)
			if err != nil {
				break
			}
			rest, n = next, n+1
		}
		if n == 0 {
			return api.Errorf(api.CodeUsage, "for example what is in ~/.ssh/id_ed25519.pub", "what is given for %q has no public ssh key", user)
		}
	}
	return nil
}
