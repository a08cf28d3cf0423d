package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcluster/vzcluster/agent/api"
	"github.com/vzcluster/vzcluster/cluster"
	"github.com/vzcluster/vzcluster/cluster/trust"
)

// Routes between agents that users have no client for.
const (
	routeSync     = "POST /v1/local/containers/{id}/sync" // syncRequest -> {}: returns when the owner has acted
	routeKill     = "POST /v1/local/containers/{id}/kill" // -> {}: end a container's processes at once
	routePoweroff = "POST /v1/local/poweroff"             // -> {}: switch the host off
	routeTurn     = "POST /v1/local/turn"                 // turnHook -> {}: run the hook of a maintenance
	routeBoot     = "GET /v1/local/boot"                  // -> the boot id
	routePing     = "GET /v1/local/ping"                  // -> {}: a sign of life
	routeLeave    = "POST /v1/local/leave"                // -> {}: the host is about to be forgotten

	routeMembership = "/v1/membership" // GET -> membership: also for a host that the cluster has forgotten
)

// maxBody bounds a JSON request, in bytes.
const maxBody = 1 << 20

// handler serves a request on a host of a cluster.
type handler func(m *member, w http.ResponseWriter, r *http.Request)

// answerer returns what is sent as JSON.
type answerer func(m *member, w http.ResponseWriter, r *http.Request) (any, error)

func jsonOf(f answerer) handler {
	return func(m *member, w http.ResponseWriter, r *http.Request) {
		value, err := f(m, w, r)
		respond(w, value, err)
	}
}

// routes is the API: the same on the socket and on the port. Who may use what is decided by caller.
func (a *Agent) routes() http.Handler {
	mux := http.NewServeMux()
	local := func(route string, f func(http.ResponseWriter, *http.Request) (any, error)) {
		mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
			if who(r).remote {
				respond(w, nil, api.Errorf(api.CodeDenied, "use the agent's socket on that host", "%s is only answered locally", r.URL.Path))
				return
			}
			value, err := f(w, r)
			respond(w, value, err)
		})
	}
	local(api.RouteInit, a.handleInit)
	local(api.RouteJoinCluster, a.handleJoin)
	local(api.RouteShutdown, a.handleShutdown)
	mux.HandleFunc(api.RouteDoctor, func(w http.ResponseWriter, r *http.Request) { respond(w, a.doctor(r.Context()), nil) })
	mux.HandleFunc(api.RouteStatus, a.handleStatus)

	for route, f := range map[string]answerer{
		api.RouteEnroll:        (*member).handleEnroll,
		api.RouteTokens:        (*member).handleTokens,
		api.RouteTokenCreate:   (*member).handleTokenCreate,
		api.RouteTokenRevoke:   (*member).handleTokenRevoke,
		api.RouteHosts:         (*member).handleHosts,
		api.RouteHostState:     (*member).handleHostState,
		api.RouteDrain:         (*member).handleDrain,
		api.RouteLeave:         (*member).handleLeave,
		api.RouteConsolidate:   (*member).handleConsolidate,
		api.RouteRebalance:     (*member).handleRebalance,
		api.RouteMaintain:      (*member).handleMaintain,
		api.RoutePlanAction:    (*member).handlePlanAction,
		api.RouteHostSet:       (*member).handleHostSet,
		api.RouteHostRemove:    (*member).handleHostRemove,
		api.RouteHostPower:     (*member).handleHostPower,
		api.RouteSettings:      (*member).handleSettings,
		api.RouteSettingsWrite: (*member).handleSettingsWrite,
		api.RouteStop:          (*member).handleStop,
		api.RoutePlace:         (*member).handlePlace,
		api.RouteCapacity:      (*member).handleCapacity,
		api.RouteWhatIf:        (*member).handleWhatIf,
		api.RouteContainers:    (*member).handleContainers,
		api.RouteCreate:        (*member).handleCreate,
		api.RouteCreateMany:    (*member).handleCreateMany,
		api.RouteContainer:     (*member).handleContainer,
		api.RouteSet:           (*member).handleSet,
		api.RouteAction:        (*member).handleAction,
		api.RouteMigrate:       (*member).handleMigrate,
		api.RouteTrash:         (*member).handleTrash,
		api.RouteSnapshot:      (*member).handleSnapshot,
		api.RouteSwitch:        (*member).handleSwitch,
		api.RouteSnapshotDrop:  (*member).handleSnapshotDrop,
		api.RouteClone:         (*member).handleClone,
		api.RouteReinstall:     (*member).handleReinstall,
		api.RouteRestore:       (*member).handleRestore,
		api.RouteTemplates:     (*member).handleTemplates,
		api.RouteTemplate:      (*member).handleTemplate,
		api.RouteTemplateDrop:  (*member).handleTemplateDrop,
		api.RouteOperations:    (*member).handleOperations,
		api.RouteOperation:     (*member).handleOperation,
		api.RouteNetworks:      (*member).handleNetworks,
		api.RouteNetworkAdd:    (*member).handleNetworkAdd,
		api.RouteNetworkDrop:   (*member).handleNetworkDrop,
		api.RouteNetworkPool:   (*member).handleNetworkPool,
	} {
		mux.HandleFunc(route, a.onLeader(jsonOf(f)))
	}
	mux.HandleFunc(api.RouteOperationLog, a.onLeader((*member).handleOperationLog))
	mux.HandleFunc(api.RouteTemplatePut, a.joined(jsonOf((*member).handleTemplatePut)))
	mux.HandleFunc(api.RouteExec, a.joined((*member).handleExec))
	mux.HandleFunc(api.RouteLogs, a.joined((*member).handleLogs))
	mux.HandleFunc(api.RouteFiles, a.joined((*member).handleFiles))
	mux.HandleFunc(api.RouteFilesPut, a.joined((*member).handleFilesPut))
	mux.HandleFunc(api.RouteInside, a.joined((*member).handleInside))
	mux.HandleFunc(api.RouteProcesses, a.joined((*member).handleProcesses))
	mux.HandleFunc(api.RouteWhich, a.joined(jsonOf((*member).handleWhich)))
	mux.HandleFunc(api.RouteEvents, a.joined(jsonOf((*member).handleEvents)))
	mux.HandleFunc(api.RouteCollect, a.joined(jsonOf((*member).handleCollect)))
	mux.HandleFunc(api.RouteStats, a.joined(jsonOf((*member).handleStats)))
	mux.HandleFunc(api.RouteBeans, a.joined((*member).handleBeans))
	for route, h := range map[string]handler{
		api.RouteBlob:        (*member).handleBlob,
		api.RouteApply:       jsonOf((*member).handleApply),
		api.RouteRead:        jsonOf((*member).handleRead),
		api.RouteOwnerExec:   (*member).handleOwnerExec,
		api.RouteOwnerLogs:   (*member).handleOwnerLogs,
		api.RouteOwnerInside: jsonOf((*member).handleOwnerInside),
		api.RouteOwnerProcs:  jsonOf((*member).handleOwnerProcesses),
		api.RouteOwnerFiles:  (*member).handleOwnerFiles,
		api.RouteOwnerPut:    (*member).handleOwnerFilesPut,
		api.RouteOwnerCheck:  jsonOf((*member).handleOwnerCheck),
		api.RouteOwnerEvents: jsonOf((*member).handleLocalEvents),
		api.RouteOwnerStats:  jsonOf((*member).handleOwnerStats),
		api.RouteOwnerGC:     jsonOf((*member).handleOwnerCollect),
		api.RouteOwnerBeans:  jsonOf((*member).handleOwnerBeans),
		routeLocalLog:        jsonOf((*member).handleLocalLog),
		routeProgress:        jsonOf((*member).handleProgress),
		routeOffer:           jsonOf((*member).handleOffer),
		routeFit:             jsonOf((*member).handleFit),
		routeSync:            jsonOf((*member).handleSync),
		routeKill:            jsonOf((*member).handleKill),
		routePoweroff:        jsonOf((*member).handlePoweroff),
		routeTurn:            jsonOf((*member).handleTurn),
		routeBoot:            jsonOf((*member).handleBoot),
		routePing:            jsonOf((*member).handlePing),
		routeLeave:           jsonOf((*member).handleLocalLeave),
	} {
		mux.HandleFunc(route, a.joined(hostsOnly(h)))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		respond(w, nil, api.Errorf(api.CodeNotFound, "is the client of the same version?", "%s %s is not known", r.Method, r.URL.Path))
	})
	return a.identify(mux)
}

// caller is who sent a request.
type caller struct {
	remote bool   // over the port, not the socket
	peer   string // the host whose certificate was shown, empty on the socket
}

type callerKey struct{}

func who(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

func peerOf(r *http.Request) string { return who(r).peer }

// identify finds out who calls. Over the port that must be a host of the cluster, with the certificate that the
// cluster issued to it last; only a joining host comes without.
func (a *Agent) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var c caller
		if r.TLS != nil {
			c.remote = true
			name, serial, ok := trust.PeerOf(*r.TLS)
			m := a.member.Load()
			if ok && m != nil && r.Method == http.MethodGet && r.URL.Path == routeMembership {
				m.handleMembership(w, r)
				return
			}
			if ok && m != nil && m.mayAsk(name, serial) {
				c.peer = name
			} else if r.Method+" "+r.URL.Path != api.RouteEnroll {
				respond(w, nil, api.Errorf(api.CodeDenied, "use the agent's socket, or join the cluster",
					"only hosts of this cluster may ask from afar"))
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// joined makes a handler that needs a cluster.
func (a *Agent) joined(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		m := a.member.Load()
		if m == nil {
			respond(w, nil, errNoCluster())
			return
		}
		h(m, w, r)
	}
}

// hostsOnly refuses users.
func hostsOnly(h handler) handler {
	return func(m *member, w http.ResponseWriter, r *http.Request) {
		if peerOf(r) == "" {
			respond(w, nil, api.Errorf(api.CodeDenied, "", "%s is for the agents of this cluster", r.URL.Path))
			return
		}
		h(m, w, r)
	}
}

// readJSON reads a request's body; an absent one leaves the zero value. Unknown fields are refused.
func readJSON(r *http.Request, to any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil && !errors.Is(err, io.EOF) {
		return api.Errorf(api.CodeUsage, "is the client of the same version?", "the request cannot be read: %v", err)
	}
	return nil
}

func (a *Agent) doctor(ctx context.Context) []api.Finding {
	found := []api.Finding{}
	if a.deps.Doctor != nil {
		found = append(found, a.deps.Doctor(ctx)...)
	}
	if m := a.member.Load(); m != nil && m.migrator != nil {
		found = append(found, keptFinding(m.migrator.Kept()))
	}
	return found
}

// keptFinding accounts for what this host keeps of containers that have left.
func keptFinding(kept []api.KeptLayer) api.Finding {
	var total int64
	names := make([]string, 0, len(kept))
	for _, k := range kept {
		total += k.Disk
		names = append(names, strconv.Itoa(k.Container))
	}
	slices.Sort(names)
	text := "none"
	if len(kept) > 0 {
		text = fmt.Sprintf("%s of %s", cluster.Bytes(total), strings.Join(names, ", "))
	}
	return api.Finding{Name: "layers kept for a return", OK: true, Found: text}
}

func notFound(what, name, list string) error {
	return api.Errorf(api.CodeNotFound, "'"+list+"' shows what there is", "there is no %s %q", what, name)
}
