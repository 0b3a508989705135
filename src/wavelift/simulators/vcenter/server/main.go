// A vCenter for tests and the demo. It extends govmomi's simulator with snapshots that freeze content, leases with bodies,
// change tracking, privileges, logins for downloads, and fault rules. The Python package starts it.
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator" // serves tags under /rest, once the service registers its endpoints
	"github.com/vmware/govmomi/vim25/types"
)

// crashStatus is the exit status if a rule causes a crash.
const crashStatus = 70

// firstTask keeps our task ids apart from the embedded simulator's.
const firstTask = 100000

// sim is all our state beside the embedded simulator's objects.
type sim struct {
	model      *simulator.Model
	options    options
	users      map[string]userSpec
	work       string // our folder: datastores, layers, bodies
	ca         *authority
	listen     string // host:port of the vCenter
	thumbprint string
	token      string
	started    time.Time
	hostPort   int // the hosts' HTTPS port: one for all, as 443 is on real ones

	builder  *builder
	building sync.Mutex // one at a time adds to the inventory or takes from it

	home       string // the folder for everything that this process writes
	address    string // where the vCenter was told to listen
	stdinExit  bool
	seat       *seat // left by the program before a reset
	generation int   // resets so far
	doors      []door
	leaving    sync.Mutex

	rules     *ruleBook
	counters  counters
	evidence  *evidenceStore
	addresses addressLog
	writer    writer
	transfers atomic.Int64
	tasks     atomic.Int64
	ahead     atomic.Int64 // nanoseconds that vCenter's clock was put forward since the start
	forgotten atomic.Int64 // the instant, in Unix nanoseconds, before which events were lost
	bodies    sync.Mutex
	bodyFiles map[bodyKey]string

	mu      sync.Mutex
	vms     []*vmState
	hosts   []*esxi
	leases  map[string]*HttpNfcLease
	tickets map[string]ticket
	made    map[types.ManagedObjectReference]networkSpec // what networks were ordered as
	free    map[string]int64                             // datastore name: bytes that are truly free; its summary shows them after a refresh
}

// esxi is one host's own HTTPS server and what vCenter says about its certificate.
type esxi struct {
	name, address, thumbprint string
	port                      int
	ref                       types.ManagedObjectReference
}

// now is vCenter's own clock, which can differ from the client's.
func (s *sim) now() time.Time {
	return time.Now().UTC().Add(seconds(s.options.ClockSkew) + time.Duration(s.ahead.Load()))
}

func (s *sim) add(v *vmState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vms = append(s.vms, v)
}

// all lists the machines that still exist. The embedded simulator destroys machines.
func (s *sim) all() []*vmState {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.model.Map()
	s.vms = slices.DeleteFunc(s.vms, func(v *vmState) bool { return m.Get(v.vm.Self) == nil })
	return slices.Clone(s.vms)
}

func (s *sim) byRef(ref types.ManagedObjectReference) *vmState {
	for _, v := range s.all() {
		if v.vm.Self == ref {
			return v
		}
	}
	return nil
}

func (s *sim) addLease(l *HttpNfcLease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases[l.id] = l
}

func (s *sim) dropLease(l *HttpNfcLease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leases, l.id)
}

func (s *sim) leaseByID(id string) *HttpNfcLease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[id]
}

func (s *sim) allLeases() []*HttpNfcLease {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*HttpNfcLease
	for _, l := range s.leases {
		out = append(out, l)
	}
	return out
}

func (s *sim) hostOf(v *vmState) *esxi {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		if v.vm.Runtime.Host != nil && h.ref == *v.vm.Runtime.Host {
			return h
		}
	}
	return nil
}

func (s *sim) hostByName(name string) *esxi {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

// nfcBase is where a lease's URLs point, and the thumbprint that goes with it.
func (s *sim) nfcBase(h *esxi) (string, string) {
	_, port, _ := net.SplitHostPort(s.listen)
	switch {
	case s.options.LeaseHost == "*":
		return "https://*:" + port, s.thumbprint
	case s.options.LeaseHost == "esxi" && h != nil && h.port != 0:
		return fmt.Sprintf("https://%s", net.JoinHostPort(h.name, fmt.Sprint(h.port))), h.thumbprint
	}
	return "https://" + s.listen, s.thumbprint
}

// startHost gives the host its certificate and, where it has an address, its own HTTPS server.
func (s *sim) startHost(host *simulator.HostSystem, spec hostSpec) error {
	names := []string{spec.Name}
	if spec.Address != "" && spec.Address != spec.Name {
		names = append(names, spec.Address)
	}
	cert, err := s.ca.leaf(spec.Certificate, names...)
	if err != nil {
		return err
	}
	h := &esxi{name: spec.Name, address: spec.Address, ref: host.Self, thumbprint: orElse(spec.Thumbprint, thumbprint(cert))}
	host.Summary.Config.SslThumbprint = h.thumbprint
	host.Config.Certificate = pemOf(cert.Certificate[0])
	if spec.Address != "" {
		listener, err := s.open("host", spec.Address, net.JoinHostPort(spec.Address, fmt.Sprint(s.hostPort)))
		if err != nil { // taken: hosts that share an address have ports of their own
			listener, err = s.open("host", spec.Address, net.JoinHostPort(spec.Address, "0"))
		}
		if err != nil {
			return err
		}
		h.port = listener.Addr().(*net.TCPAddr).Port
		host.Summary.Config.Port = int32(h.port)
		s.hostPort = orElse(s.hostPort, h.port)
		server := &http.Server{Handler: s.hostFront(), TLSConfig: tlsConfig(cert)}
		go func() { log.Print(server.ServeTLS(listener, "", "")) }()
	}
	s.hosts = append(s.hosts, h)
	return nil
}

// --- sessions ---

// context makes a new context for our own work. The simulator's locks identify their holder by its address.
func (s *sim) context() *simulator.Context { return detach(s.model.Service.Context) }

func detach(ctx *simulator.Context) *simulator.Context {
	clone := *ctx
	clone.Context = context.Background()
	return &clone
}

// sessions lists who is logged in, through the view that the simulator shows to a session.
func (s *sim) sessions() []types.UserSession {
	m := s.model.Map()
	view := &simulator.Session{Registry: simulator.NewRegistry(), Map: m}
	manager, ok := view.Get(m.SessionManager().Self).(*simulator.SessionManager)
	if !ok {
		return nil
	}
	return manager.SessionList
}

func (s *sim) sessionAlive(key string) bool {
	for _, u := range s.sessions() {
		if u.Key == key {
			return true
		}
	}
	return false
}

func (s *sim) expireSessions(user string) int {
	expired := 0
	for _, u := range s.sessions() {
		if user != "" && u.UserName != user {
			continue
		}
		s.model.Map().SessionManager().TerminateSession(s.context(), &types.TerminateSession{SessionId: []string{u.Key}})
		expired++
	}
	return expired
}

// --- tasks ---

func (s *sim) nextTask() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Task", Value: fmt.Sprintf("task-%d", firstTask+s.tasks.Add(1))}
}

// runTask starts a task that holds no lock during its delay, unlike the embedded simulator's tasks.
func (s *sim) runTask(ctx *simulator.Context, ref, entity types.ManagedObjectReference, method string, slow *rule, do work) {
	name := strings.TrimSuffix(method, "_Task")
	task := simulator.CreateTask(entity, strings.ToLower(name[:1])+name[1:]+"Task", nil)
	task.Self, task.Info.Task, task.Info.Key = ref, ref, ref.Value
	task.Info.Cancelable = false
	if ctx.Session != nil {
		task.Info.Reason = &types.TaskReasonUser{UserName: ctx.Session.UserName}
	}
	inner := detach(ctx)
	inner.Map.Put(task)
	s.postTask(ctx, method, task.Info)
	update := func(changes ...types.PropertyChange) { inner.Map.AtomicUpdate(inner, task, changes) }
	go func() {
		pause := seconds(s.options.TaskSeconds)
		time.Sleep(pause / 4) // tasks queue first: no start, no progress
		update(types.PropertyChange{Name: "info.startTime", Val: s.now()}, types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateRunning})
		const steps = 4
		for i := int32(1); i <= steps; i++ {
			time.Sleep(pause / steps)
			update(types.PropertyChange{Name: "info.progress", Val: i * 90 / steps})
			if i == steps/2 && slow != nil {
				slow.wait()
			}
		}
		result, fault := do(inner)
		done := []types.PropertyChange{{Name: "info.completeTime", Val: s.now()}}
		if fault != nil {
			done = append(done, types.PropertyChange{Name: "info.error", Val: types.LocalizedMethodFault{Fault: fault, LocalizedMessage: fmt.Sprintf("%T", fault)}},
				types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateError})
		} else {
			done = append(done, types.PropertyChange{Name: "info.result", Val: result}, types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateSuccess})
		}
		update(done...)
	}()
}

// --- start and stop ---

func newSim(state string, inv *inventory, left *seat) (*sim, error) {
	s := &sim{
		home: state, seat: left, hostPort: left.hostPort(inv.Hosts),
		options: inv.Options, users: map[string]userSpec{}, work: filepath.Join(state, "vcenter"), started: time.Now(),
		rules: &ruleBook{}, leases: map[string]*HttpNfcLease{}, tickets: map[string]ticket{}, made: map[types.ManagedObjectReference]networkSpec{}, free: map[string]int64{}, bodyFiles: map[bodyKey]string{},
	}
	s.counters.reset()
	s.addresses.held = map[string][]holding{}
	s.evidence = &evidenceStore{on: inv.Options.Evidence, dir: filepath.Join(state, "evidence")}
	for _, u := range inv.Users {
		s.users[u.Name] = u
	}
	s.removeFiles() // left by the program before a reset, which can no longer write
	for _, dir := range []string{"datastores", "layers", "bodies", "tmp"} {
		if err := os.MkdirAll(filepath.Join(s.work, dir), 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.Setenv("TMPDIR", filepath.Join(s.work, "tmp")); err != nil { // the simulator makes its folders there
		return nil, err
	}
	if left != nil {
		s.token, s.generation = left.Token, left.Generation
		var err error
		s.ca, err = openAuthority(left)
		return s, err
	}
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	s.token = hex.EncodeToString(secret)
	var err error
	s.ca, err = newAuthority(filepath.Join(state, "ca.pem"))
	return s, err
}

func (s *sim) serve(address string, inv *inventory) error {
	s.model = simulator.VPX()
	s.model.Datacenter, s.model.Host, s.model.Cluster, s.model.Datastore, s.model.Machine = 0, 0, 0, 0, 0
	s.model.ServiceContent.About.ApiVersion = inv.Options.ApiVersion
	s.model.ServiceContent.About.Version = "8.0.3"
	s.model.ServiceContent.About.Build = "24022515"
	s.model.ServiceContent.About.FullName = "VMware vCenter Server 8.0.3 build-24022515"
	if err := s.model.Create(); err != nil {
		return err
	}
	if inv.Options.InstanceUUID != "" {
		s.setInstanceUUID(inv.Options.InstanceUUID)
	}
	if err := s.build(inv); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	cert, err := s.ca.leaf(inv.Options.Certificate, host, "localhost", "127.0.0.1")
	if err != nil {
		return err
	}
	s.thumbprint = thumbprint(cert)
	listener, err := s.open("vcenter", address, address)
	if err != nil {
		return err
	}
	s.listen = listener.Addr().String()
	service := s.model.Service
	service.TLS = tlsConfig(cert)
	service.RegisterEndpoints = true
	service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword("nobody", s.token)}
	manager := s.model.Map().SessionManager()
	manager.ValidLogin = func(login *types.Login) bool {
		u, ok := s.users[login.UserName]
		return ok && u.Password == login.Password
	}
	if timeout := inv.Options.SessionTimeout; timeout > 0 {
		s.model.Map().OptionManager().UpdateOptions(&types.UpdateOptions{ChangedValue: []types.BaseOptionValue{
			&types.OptionValue{Key: "config.vmacore.soap.sessionTimeout", Value: seconds(timeout).String()},
		}})
	}
	inner := service.NewServer() // it opens a port of its own; ours stays after a reset
	inner.Close()
	s.rename(inner.Listener.Addr().String())
	s.model.Map().Handler = s.handle
	server := &http.Server{Handler: s.front(inner.Config.Handler)}
	go func() { log.Print(server.Serve(tls.NewListener(listener, inner.TLS))) }()
	return nil
}

// rename replaces the address of the embedded simulator by our address where it stands for the vCenter's.
func (s *sim) rename(inner string) {
	m := s.model.Map()
	s.model.Service.Listen.Host = s.listen
	m.SessionManager().ServiceHostName = s.listen
	for _, setting := range m.OptionManager().Setting {
		option := setting.GetOptionValue()
		if text, ok := option.Value.(string); ok {
			option.Value = strings.ReplaceAll(text, inner, s.listen)
		}
	}
}

// ready is the content of the first line on standard output, and of the control endpoint's answer after a reset.
func (s *sim) ready(control net.Addr, inv *inventory) map[string]any {
	hosts := map[string]any{}
	for _, h := range s.hosts {
		hosts[h.name] = map[string]any{"address": h.address, "port": h.port, "thumbprint": h.thumbprint}
	}
	return map[string]any{
		"url": "https://" + s.listen + "/sdk", "control": "http://" + control.String() + "/_sim", "token": s.token,
		"ca_file": filepath.Join(s.home, "ca.pem"), "username": inv.Users[0].Name, "password": inv.Users[0].Password,
		"instance_uuid": s.instanceUUID(), "pid": os.Getpid(), "thumbprint": s.thumbprint, "hosts": hosts, "esxi_port": s.hostPort, "generation": s.generation,
	}
}

func run() error {
	state := flag.String("state", "", "folder for everything that this process writes")
	inventoryFile := flag.String("inventory", "", "JSON inventory")
	listen := flag.String("listen", "127.0.0.1:0", "address of the vCenter's HTTPS")
	stdinExit := flag.Bool("stdin-exit", false, "stop when standard input ends: with the process that started this one")
	flag.Parse()
	folder, err := filepath.Abs(*state)
	if *state == "" || err != nil {
		return fmt.Errorf("-state FOLDER is needed")
	}
	inv, err := readInventory(*inventoryFile)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	left, err := takeSeat()
	if err != nil {
		return err
	}
	s, err := newSim(folder, inv, left)
	if err != nil {
		return err
	}
	defer s.clean()
	s.address, s.stdinExit = *listen, *stdinExit
	if err := s.serve(*listen, inv); err != nil {
		return err
	}
	control, err := s.open("control", "127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		return err
	}
	left.closeOthers()
	ready := s.ready(control.Addr(), inv)
	go func() {
		if err := http.Serve(control, s.controlHandler(ready)); !errors.Is(err, net.ErrClosed) { // a reset closes it
			log.Print(err)
		}
	}()
	if left == nil { // after a reset nobody reads there
		line, err := json.Marshal(ready)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	if *stdinExit {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop <- syscall.SIGTERM
		}()
	}
	<-stop
	return nil
}

// clean removes what this process made in the state folder.
func (s *sim) clean() {
	s.removeFiles()
	_ = os.Remove(filepath.Join(s.home, "ca.pem"))
}

// removeFiles removes the files of one vCenter.
func (s *sim) removeFiles() {
	_ = os.RemoveAll(s.work)
	_ = os.RemoveAll(s.evidence.dir)
}

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // small and short-lived: a third of a start's time was the collector's
	}
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vcenter simulator:", err)
		os.Exit(1)
	}
}
