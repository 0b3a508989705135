// The HTTP handlers in front of the embedded simulator's, on vCenter's port and on every ESXi host's port.
package main

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/soap"
)

// counters: calls per SOAP method, requests and body bytes per first path element.
type counters struct {
	mu      sync.Mutex
	Methods map[string]int64        `json:"methods"`
	Paths   map[string]*pathCounter `json:"paths"`
}

type pathCounter struct {
	Requests int64 `json:"requests"`
	Bytes    int64 `json:"bytes"`
}

func (c *counters) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Methods, c.Paths = map[string]int64{}, map[string]*pathCounter{}
}

func (c *counters) method(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Methods[name]++
}

func (c *counters) path(p string, requests, n int64) {
	first := "/" + strings.SplitN(strings.TrimPrefix(p, "/"), "/", 2)[0]
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.Paths[first]
	if at == nil {
		at = &pathCounter{}
		c.Paths[first] = at
	}
	at.Requests += requests
	at.Bytes += n
}

// front serves vCenter's port; inner is the embedded simulator.
func (s *sim) front(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.counters.path(r.URL.Path, 1, 0)
		switch {
		case strings.HasPrefix(r.URL.Path, "/nfc/"):
			s.nfc(w, r, false)
		case strings.HasPrefix(r.URL.Path, "/folder"):
			s.folder(w, r, inner, false)
		case r.URL.Path == "/sdk" || r.URL.Path == "/sdk/vimService":
			s.sdk(w, r, inner)
		default:
			inner.ServeHTTP(w, r)
		}
	})
}

// hostFront serves an ESXi host's own port: transfers only.
func (s *sim) hostFront() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.counters.path(r.URL.Path, 1, 0)
		switch {
		case strings.HasPrefix(r.URL.Path, "/nfc/"):
			s.nfc(w, r, true)
		case strings.HasPrefix(r.URL.Path, "/folder"):
			s.folder(w, r, http.NotFoundHandler(), true)
		default:
			http.NotFound(w, r)
		}
	})
}

// answer buffers a SOAP answer so that it can be corrected.
type answer struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

const emptyFetch = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body><FetchResponse xmlns="urn:vim25"></FetchResponse></soapenv:Body></soapenv:Envelope>`

func (s *sim) sdk(w http.ResponseWriter, r *http.Request, inner http.Handler) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	name := soapMethod(body)
	drop := s.rules.take(event{kind: "drop", method: name})
	if drop != nil && drop.Action != "after" {
		panic(http.ErrAbortHandler)
	}
	a := &answer{ResponseWriter: w, status: http.StatusOK}
	inner.ServeHTTP(a, r)
	if drop != nil {
		panic(http.ErrAbortHandler)
	}
	out := s.hide(s.userOf(r), body, a.body.Bytes())
	if name == "Fetch" && nilRead(body, a.status, out) {
		a.status, out = http.StatusOK, []byte(emptyFetch)
	}
	w.Header().Set("Content-Type", `text/xml; charset="utf-8"`)
	w.WriteHeader(a.status)
	n, _ := w.Write(out)
	s.counters.path(r.URL.Path, 0, int64(n))
}

// nilRead detects the wrong answers of the embedded simulator to a read of an unset property: it uses another element
// name, and refuses currentSession to clients that are not logged in. A real vCenter sends an empty answer.
func nilRead(request []byte, status int, out []byte) bool {
	if bytes.Contains(out, []byte("<RetrievePropertiesExResponse")) {
		return true
	}
	return status != http.StatusOK && bytes.Contains(request, []byte(">currentSession<")) && bytes.Contains(out, []byte("NotAuthenticated"))
}

// soapMethod is the first element in the body.
func soapMethod(body []byte) string {
	at := bytes.Index(body, []byte("Body>"))
	if at < 0 {
		return ""
	}
	rest := bytes.TrimLeft(body[at+len("Body>"):], " \r\n\t<")
	end := bytes.IndexAny(rest, " />\r\n\t")
	if end < 0 {
		return ""
	}
	name := string(rest[:end])
	if colon := strings.IndexByte(name, ':'); colon >= 0 {
		name = name[colon+1:]
	}
	return name
}

// loggedIn checks the session cookie, as a real host does before it serves anything.
func (s *sim) loggedIn(r *http.Request) bool {
	cookie, err := r.Cookie(soap.SessionCookieName)
	return err == nil && s.sessionAlive(strings.Trim(cookie.Value, `"`))
}

// --- /nfc ---

// nfc serves a lease's URLs. An ESXi host identifies them by the lease in their path and does not use vCenter's session.
// A client that sends that cookie exposes the session to every host; such requests are counted.
func (s *sim) nfc(w http.ResponseWriter, r *http.Request, onHost bool) {
	if onHost && s.loggedIn(r) {
		s.counters.path("/vcenter-cookie-sent-to-a-host", 1, 0)
	}
	if !onHost && !s.loggedIn(r) {
		http.Error(w, "login required", http.StatusUnauthorized)
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/nfc/"), "/")
	l := s.leaseByID(parts[0])
	if l == nil || len(parts) != 2 || !l.isReady() {
		http.NotFound(w, r)
		return
	}
	f := l.byURL(r.URL.Path)
	if f == nil {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet {
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
		return
	}
	s.transfer(w, r, l, f)
}

// transfer sends one disk: chunked, without a length, and from the beginning, whatever range is asked for.
func (s *sim) transfer(w http.ResponseWriter, r *http.Request, l *HttpNfcLease, f *leaseFile) {
	if f.disk == nil {
		_, _ = w.Write(f.small) // rules are about disks
		return
	}
	e := event{kind: "nfc", vm: l.v, disk: f.index, actions: []string{"status"}}
	if rule := s.rules.take(e); rule != nil {
		http.Error(w, "as ordered", orElse(rule.Status, 503))
		return
	}
	out := s.throttled(w, r, e, l.closed)
	w.Header().Set("Content-Type", "application/x-vnd.vmware-streamVmdk")
	sums := &digest{sha1: sha1.New(), out: out}
	f.mu.Lock()
	if f.checksum == "sha256" {
		sums.sha256 = sha256.New()
	}
	f.mu.Unlock()
	s.transfers.Add(1)
	defer s.transfers.Add(-1)
	err := s.body(sums, e, l, f)
	if out.done {
		return // a rule ended it cleanly: the client sees a complete, short body
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	f.finish(sums)
}

// throttledWriter applies the rules that act on a body's bytes.
type throttledWriter struct {
	w        http.ResponseWriter
	count    func(int64)
	closed   <-chan struct{}
	gone     <-chan struct{}
	cut      *rule
	truncate *rule
	slow     *rule
	trigger  *rule
	pull     func(*rule)
	sent     int64
	started  time.Time
	done     bool
}

func (s *sim) throttled(w http.ResponseWriter, r *http.Request, e event, closed <-chan struct{}) *throttledWriter {
	take := func(action string) *rule {
		e.actions = []string{action}
		return s.rules.take(e)
	}
	return &throttledWriter{
		w: w, closed: closed, gone: r.Context().Done(), started: time.Now(),
		count: func(n int64) { s.counters.path(r.URL.Path, 0, n) },
		cut:   take("cut"), truncate: take("truncate"), slow: take("slow"),
		trigger: s.rules.take(event{kind: e.kind, vm: e.vm, disk: e.disk, actions: []string{"expire", "crash", "migrate"}}),
		pull:    func(r *rule) { s.pull(r, e.vm) },
	}
}

// pull applies a trigger rule in the middle of a transfer.
func (s *sim) pull(r *rule, v *vmState) {
	switch r.Action {
	case "expire":
		s.expireSessions("")
	case "crash":
		os.Exit(crashStatus)
	case "migrate":
		if h := s.otherHost(v); h != nil {
			s.move(v, h, true)
		}
	}
}

// otherHost is a host on which the VM does not run; nil if there is none.
func (s *sim) otherHost(v *vmState) *esxi {
	at := s.hostOf(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		if h != at {
			return h
		}
	}
	return nil
}

// chunkSize is small enough that interruptions and throttling can occur inside a grain.
const chunkSize = 32 << 10

func (t *throttledWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), chunkSize)
		stop := false
		for _, r := range []*rule{t.cut, t.truncate} {
			if r != nil && t.sent+int64(n) >= r.Bytes {
				n, stop = int(max(r.Bytes-t.sent, 0)), true
				t.done = r == t.truncate
			}
		}
		if err := t.send(p[:n]); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
		if stop {
			return written, io.ErrClosedPipe
		}
	}
	return written, nil
}

func (t *throttledWriter) send(p []byte) error {
	select {
	case <-t.closed:
		return io.ErrClosedPipe
	case <-t.gone:
		return io.ErrClosedPipe
	default:
	}
	n, err := t.w.Write(p)
	t.sent += int64(n)
	if t.trigger != nil && t.sent >= t.trigger.Bytes {
		t.pull(t.trigger)
		t.trigger = nil
	}
	t.count(int64(n))
	if err != nil {
		return err
	}
	if t.slow != nil && t.slow.Rate > 0 && t.sent > t.slow.Bytes {
		due := t.started.Add(time.Duration(float64(t.sent-t.slow.Bytes) / float64(t.slow.Rate) * float64(time.Second)))
		t.w.(http.Flusher).Flush()
		select {
		case <-time.After(time.Until(due)):
		case <-t.closed:
		case <-t.gone:
		}
	}
	return nil
}
