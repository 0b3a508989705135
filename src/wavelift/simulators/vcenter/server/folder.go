// Datastore downloads: logins, one-time tickets, ranges, and the lock of a running VM.
package main

import (
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ticketLife: a ticket is good for one URL, one method, once, for a short time.
const ticketLife = 30 * time.Second

type ticket struct {
	path, method string
	expires      time.Time
}

// tickets answers the session manager's service tickets.
type tickets struct{ helper }

func (t *tickets) AcquireGenericServiceTicket(req *types.AcquireGenericServiceTicket) soap.HasFault {
	body := &methods.AcquireGenericServiceTicketBody{}
	spec, ok := req.Spec.(*types.SessionManagerHttpServiceRequestSpec)
	if !ok {
		body.Fault_ = refuse(&types.InvalidArgument{InvalidProperty: "spec"})
		return body
	}
	id := uuid.NewString()
	u := spec.Url
	if at := strings.Index(u, "/folder"); at >= 0 {
		u = u[at:]
	}
	s := t.sim
	s.mu.Lock()
	s.tickets[id] = ticket{path: u, method: strings.ToUpper(strings.TrimPrefix(strings.ToLower(orElse(spec.Method, "httpGet")), "http")), expires: time.Now().Add(ticketLife)}
	s.mu.Unlock()
	body.Res = &types.AcquireGenericServiceTicketResponse{Returnval: types.SessionManagerGenericServiceTicket{Id: id, HostName: s.listen, SslThumbprint: s.thumbprint}}
	return body
}

func (s *sim) ticketed(r *http.Request) bool {
	cookie, err := r.Cookie("vmware_cgi_ticket")
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tickets[cookie.Value]
	delete(s.tickets, cookie.Value)
	return ok && time.Now().Before(t.expires) && t.method == r.Method && t.path == r.URL.RequestURI()
}

// folder serves a datastore's files. A host does not accept vCenter's sessions: it requires a ticket.
func (s *sim) folder(w http.ResponseWriter, r *http.Request, inner http.Handler, onHost bool) {
	if onHost && s.loggedIn(r) {
		s.counters.path("/vcenter-cookie-sent-to-a-host", 1, 0)
	}
	if (onHost || !s.loggedIn(r)) && !s.ticketed(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		http.Error(w, "login required", http.StatusUnauthorized)
		return
	}
	datastore := r.URL.Query().Get("dsName")
	if user := s.userOf(r); !onHost && user != "" && !s.readsFiles(user, datastore) {
		http.Error(w, "no right to read files of the datastore", http.StatusUnauthorized)
		return
	}
	name := fmt.Sprintf("[%s] %s", datastore, strings.TrimPrefix(path.Clean(r.URL.Path), "/folder/"))
	v, d, l := s.extent(name)
	if d == nil {
		if r.Method == http.MethodDelete {
			http.Error(w, "not simulated", http.StatusMethodNotAllowed)
			return
		}
		inner.ServeHTTP(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "the disk belongs to a virtual machine", http.StatusForbidden)
		return
	}
	e := event{kind: "folder", vm: v, disk: v.diskIndex(d), actions: []string{"status"}}
	if rule := s.rules.take(e); rule != nil {
		http.Error(w, "as ordered", orElse(rule.Status, 503))
		return
	}
	if s.refused(v, datastore, e, onHost) {
		http.Error(w, "file is locked", http.StatusInternalServerError)
		return
	}
	if l.parent != nil {
		http.NotFound(w, r) // a delta's own format is not simulated
		return
	}
	e.actions = []string{"no_range"}
	if s.rules.take(e) != nil {
		r.Header.Del("Range")
	}
	out := &rangeWriter{ResponseWriter: w, out: s.throttled(w, r, e, nil)}
	http.ServeContent(out, r, path.Base(name), v.sim.started, io.NewSectionReader(d.image(l), 0, d.capacity))
	if out.broken {
		panic(http.ErrAbortHandler)
	}
}

// readsFiles says whether a user may read a datastore's files. A vCenter answers 401 without the right, as without a login.
func (s *sim) readsFiles(user, datastore string) bool {
	if !s.allowed(user, "Datastore.Browse") || !s.allowed(user, "Datastore.FileManagement") {
		return false
	}
	for _, e := range s.model.Map().All("Datastore") {
		if ds := e.(*simulator.Datastore); ds.Name == datastore {
			return !s.noAccess(user, ds.Self)
		}
	}
	return true
}

// rangeWriter lets ServeContent write through the throttle.
type rangeWriter struct {
	http.ResponseWriter
	out    *throttledWriter
	broken bool
}

func (w *rangeWriter) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	if err != nil {
		w.broken = true
	}
	return n, err
}

// refused says whether a lock refuses the read. With the rule host_only, the VM's own host can still read.
func (s *sim) refused(v *vmState, datastore string, e event, onHost bool) bool {
	e.actions = []string{"host_only"}
	if s.rules.take(e) != nil {
		return !onHost || s.hostOf(v) == nil
	}
	e.actions = []string{"unlocked"}
	return s.locked(v, datastore) && s.rules.take(e) == nil
}

// locked is the behaviour of VMFS6: while the VM runs, others can't read any file of the chain.
func (s *sim) locked(v *vmState, datastore string) bool {
	if !s.options.VmfsLock || !v.running() {
		return false
	}
	for _, e := range s.model.Map().All("Datastore") {
		ds := e.(*simulator.Datastore)
		if info, ok := ds.Info.(*types.VmfsDatastoreInfo); ok && ds.Name == datastore {
			return info.Vmfs.MajorVersion >= 6
		}
	}
	return false
}

// extent finds the disk and layer whose bytes a file name stands for.
func (s *sim) extent(name string) (*vmState, *disk, *layer) {
	var p object.DatastorePath
	if !p.FromString(name) {
		return nil, nil, nil
	}
	for _, v := range s.all() {
		if v.objects() {
			continue // vSAN keeps objects, no flat files
		}
		v.mu.Lock()
		for _, d := range v.disks {
			for l := range v.layersOf(d) {
				if extentName(l) == name {
					v.mu.Unlock()
					return v, d, l
				}
			}
		}
		v.mu.Unlock()
	}
	return nil, nil, nil
}

// objects says whether the VM's storage holds objects in place of extent files (vSAN).
func (v *vmState) objects() bool {
	ds, ok := v.sim.model.Map().Get(v.vm.Datastore[0]).(*simulator.Datastore)
	return ok && ds.Summary.Type == "vsan"
}

func (v *vmState) onVMFS() bool {
	ds, ok := v.sim.model.Map().Get(v.vm.Datastore[0]).(*simulator.Datastore)
	return ok && ds.Summary.Type == "VMFS"
}

func (v *vmState) diskIndex(d *disk) int {
	for i := range v.disks {
		if v.disks[i] == d {
			return i
		}
	}
	return -1
}
