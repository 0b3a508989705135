// The control endpoint: tests write as the guest, add fault rules and read the remaining state. Plain HTTP on loopback
// with a token.
package main

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// problem is an error of the caller.
type problem struct{ text string }

func (p *problem) Error() string { return p.text }

func badRequest(format string, args ...any) error { return &problem{fmt.Sprintf(format, args...)} }

func (s *sim) controlHandler(ready map[string]any) http.Handler {
	mux := http.NewServeMux()
	guarded := func(pattern string, do http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if subtle.ConstantTimeCompare([]byte(r.Header.Get("X-Sim-Token")), []byte(s.token)) != 1 {
				http.Error(w, "the token is missing or wrong", http.StatusForbidden)
				return
			}
			do(w, r)
		})
	}
	on := func(pattern string, do func(*http.Request) (any, error)) {
		guarded(pattern, func(w http.ResponseWriter, r *http.Request) {
			out, err := do(r)
			w.Header().Set("Content-Type", "application/json")
			if err != nil {
				status := http.StatusInternalServerError
				if _, ok := err.(*problem); ok {
					status = http.StatusBadRequest
				}
				w.WriteHeader(status)
				out = map[string]string{"error": err.Error()}
			}
			_ = json.NewEncoder(w).Encode(out)
		})
	}
	guarded("POST /_sim/reset", s.controlReset)
	on("GET /_sim/ready", func(*http.Request) (any, error) { return ready, nil })
	on("GET /_sim/state", func(*http.Request) (any, error) { return s.state(), nil })
	on("GET /_sim/counters", func(*http.Request) (any, error) { return s.counterState(), nil })
	on("DELETE /_sim/counters", func(*http.Request) (any, error) { s.counters.reset(); return struct{}{}, nil })
	on("GET /_sim/rules", func(*http.Request) (any, error) { return s.rules.list(), nil })
	on("POST /_sim/rules", s.addRule)
	on("DELETE /_sim/rules", func(*http.Request) (any, error) { s.rules.clear(); return struct{}{}, nil })
	on("GET /_sim/evidence", func(*http.Request) (any, error) { return s.evidence.list() })
	on("POST /_sim/guest/write", s.controlWrite)
	on("GET /_sim/guest/read", s.controlRead)
	on("POST /_sim/writer", s.controlWriter)
	on("POST /_sim/sessions/expire", s.controlExpire)
	on("POST /_sim/migrate", s.controlMigrate)
	on("POST /_sim/vm", s.controlVM)
	s.inventoryCalls(on)
	on("POST /_sim/datastore", s.controlDatastore)
	on("POST /_sim/clock", s.controlClock)
	on("POST /_sim/events/forget", s.controlForget)
	on("POST /_sim/crash", func(*http.Request) (any, error) { os.Exit(crashStatus); return nil, nil })
	return mux
}

func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return badRequest("%s", err)
	}
	return nil
}

func (s *sim) addRule(r *http.Request) (any, error) {
	order := &rule{Times: 1}
	if err := decode(r, order); err != nil {
		return nil, err
	}
	if order.VM != "" && s.find(order.VM) == nil {
		return nil, badRequest("no virtual machine is named %q", order.VM)
	}
	if err := s.rules.add(order); err != nil {
		return nil, badRequest("%s", err)
	}
	return map[string]int{"id": order.ID}, nil
}

func (s *sim) find(name string) *vmState {
	for _, v := range s.all() {
		if v.spec.Name == name || v.moref() == name || s.entityPath(v.vm)+"/"+v.vm.Name == name {
			return v
		}
	}
	return nil
}

// place reads vm, disk and offset from the query.
func (s *sim) place(r *http.Request) (*vmState, int, int64, error) {
	q := r.URL.Query()
	v := s.find(q.Get("vm"))
	index, err1 := strconv.Atoi(orElse(q.Get("disk"), "0"))
	offset, err2 := strconv.ParseInt(orElse(q.Get("offset"), "0"), 10, 64)
	if v == nil || err1 != nil || err2 != nil || index < 0 || index >= len(v.disks) {
		return nil, 0, 0, badRequest("no such place: %s", r.URL.RawQuery)
	}
	return v, index, offset, nil
}

func (s *sim) controlWrite(r *http.Request) (any, error) {
	v, index, offset, err := s.place(r)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if err := v.guestWrite(index, offset, data); err != nil {
		return nil, badRequest("%s", err)
	}
	return map[string]int{"written": len(data)}, nil
}

// controlRead answers the disk's current bytes in base64, as the guest reads them.
func (s *sim) controlRead(r *http.Request) (any, error) {
	v, index, offset, err := s.place(r)
	if err != nil {
		return nil, err
	}
	length, err := strconv.Atoi(orElse(r.URL.Query().Get("length"), "512"))
	if err != nil || length < 0 || length > 64<<20 {
		return nil, badRequest("a length of %q", r.URL.Query().Get("length"))
	}
	d := v.disks[index]
	v.mu.Lock()
	view := d.image(d.tip)
	v.mu.Unlock()
	data := make([]byte, length)
	n, err := view.ReadAt(data, offset)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return map[string][]byte{"data": data[:n]}, nil
}

func (s *sim) controlExpire(r *http.Request) (any, error) {
	var order struct {
		User string `json:"user"`
	}
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	return map[string]int{"expired": s.expireSessions(order.User)}, nil
}

func (s *sim) controlMigrate(r *http.Request) (any, error) {
	order := struct {
		VM     string `json:"vm"`
		Host   string `json:"host"`
		Leases string `json:"leases"` // break (default) | keep
	}{Leases: "break"}
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	v := s.find(order.VM)
	host := s.hostByName(order.Host)
	if v == nil || host == nil {
		return nil, badRequest("no virtual machine %q or no host %q", order.VM, order.Host)
	}
	return map[string]int{"leases_broken": s.move(v, host, order.Leases == "break")}, nil
}

// move puts the VM on another host; transfers from the old host are cut.
func (s *sim) move(v *vmState, host *esxi, breakLeases bool) int {
	ctx := s.context()
	ctx.WithLock(v.vm, func() { v.moveTo(ctx, host.ref) })
	if !breakLeases {
		return 0
	}
	return s.breakLeases(v)
}

func (s *sim) breakLeases(v *vmState) int {
	broken := 0
	for _, l := range s.allLeases() {
		if l.v == v && l.end(l.ctx, types.HttpNfcLeaseStateError, &types.InvalidState{}) {
			broken++
		}
	}
	return broken
}

// vmOrder is a change of a VM without the API.
type vmOrder struct {
	VM            string    `json:"vm"`
	Power         *string   `json:"power"`
	Tools         *string   `json:"tools"`
	Consolidation *bool     `json:"consolidation_needed"`
	Tracking      *bool     `json:"reset_change_tracking"`
	PowerLoss     bool      `json:"power_loss"`
	Hardware      string    `json:"hardware"`
	Grow          *growth   `json:"grow"`
	AddDisk       *diskSpec `json:"add_disk"`
	RemoveDisk    *int      `json:"remove_disk"`
	Place         *placing  `json:"place"`
	RevertTo      string    `json:"revert_to"` // name or moref of a snapshot
	LeaveDelta    bool      `json:"leave_delta"`
	StartBy       string    `json:"start_by"` // ha | autostart
	Snapshot      string    `json:"snapshot"` // the name of a new one
	NoSnapshots   bool      `json:"remove_snapshots"`
	Cdrom         *string   `json:"cdrom"` // an ISO's datastore path; "": none is mounted
	Template      *bool     `json:"template"`

	Shutdown *shutdownSpec `json:"shutdown"` // from now on
}

func (s *sim) controlVM(r *http.Request) (any, error) {
	var order vmOrder
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	v := s.find(order.VM)
	if v == nil {
		return nil, badRequest("no virtual machine is named %q", order.VM)
	}
	ctx := s.context()
	var err error
	ctx.WithLock(v.vm, func() {
		v.set(ctx, &order)
		err = v.rebuild(ctx, &order)
	})
	return struct{}{}, err
}

func (v *vmState) set(ctx *simulator.Context, order *vmOrder) {
	if order.Tools != nil {
		v.spec.Tools = *order.Tools
		v.guest()
	}
	if order.Shutdown != nil {
		v.mu.Lock()
		v.spec.Shutdown = *order.Shutdown
		v.mu.Unlock()
	}
	if order.Power != nil {
		state := types.VirtualMachinePowerState(*order.Power)
		stun := state == types.VirtualMachinePowerStatePoweredOn && v.vm.Runtime.PowerState != state
		v.setPower(ctx, state)
		if stun {
			v.poweredOn(ctx)
		}
	}
	if order.Consolidation != nil {
		v.setConsolidation(ctx, *order.Consolidation)
	}
	if order.Tracking != nil && *order.Tracking { // as after a hard power-off or a vendor's bug
		v.mu.Lock()
		v.startTracking()
		v.refreshDevices()
		v.mu.Unlock()
	}
	if order.Hardware != "" {
		v.upgrade(ctx, order.Hardware)
	}
}

// rebuild does the part of an order that can be refused.
func (v *vmState) rebuild(ctx *simulator.Context, order *vmOrder) error {
	switch {
	case order.PowerLoss:
		return v.losePower(ctx)
	case order.Grow != nil:
		return v.grow(ctx, *order.Grow)
	case order.AddDisk != nil:
		return v.plug(ctx, *order.AddDisk)
	case order.RemoveDisk != nil:
		return v.unplug(ctx, *order.RemoveDisk)
	case order.Place != nil:
		return v.place(ctx, *order.Place)
	case order.RevertTo != "":
		return v.revertTo(ctx, order.RevertTo)
	case order.LeaveDelta:
		return v.leaveDelta(ctx)
	case order.StartBy != "":
		return v.startByItself(ctx, order.StartBy)
	case order.Snapshot != "":
		v.snapshotNow(ctx, order.Snapshot, "made by the control endpoint", false)
	case order.NoSnapshots:
		return v.dropSnapshots(ctx)
	case order.Cdrom != nil:
		v.mount(ctx, *order.Cdrom)
	case order.Template != nil:
		return v.markTemplate(ctx, *order.Template)
	}
	return nil
}

func (s *sim) controlDatastore(r *http.Request) (any, error) {
	var order struct {
		Name string `json:"name"`
		Free int64  `json:"free"`
	}
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	for _, e := range s.model.Map().All("Datastore") {
		ds := e.(*simulator.Datastore)
		if ds.Name != order.Name {
			continue
		}
		s.mu.Lock()
		s.free[ds.Name] = order.Free
		s.mu.Unlock()
		return struct{}{}, nil
	}
	return nil, badRequest("no datastore is named %q", order.Name)
}

// --- the background guest: writes into every running VM ---

type writer struct {
	mu      sync.Mutex
	stop    chan struct{}
	done    chan struct{}
	Running bool  `json:"running"`
	Rate    int64 `json:"rate"`
	Written int64 `json:"written"`
	Writes  int64 `json:"writes"`
}

const writerTick = 50 * time.Millisecond

func (s *sim) controlWriter(r *http.Request) (any, error) {
	order := struct {
		Action string `json:"action"` // start | stop
		Rate   int64  `json:"rate"`   // bytes per second over all disks
		Blocks int64  `json:"blocks"` // distinct places per disk: bounds how much the layers grow
		Size   int    `json:"size"`   // bytes per write
		Seed   int64  `json:"seed"`
	}{Rate: 1 << 20, Blocks: 256, Size: 4096, Seed: 1}
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	w := &s.writer
	w.mu.Lock()
	stop, done := w.stop, w.done
	w.stop, w.done, w.Running = nil, nil, false
	w.mu.Unlock()
	if stop != nil {
		close(stop)
		<-done
	}
	switch order.Action {
	case "stop":
	case "start":
		if order.Size <= 0 || order.Size > blockSize || order.Blocks <= 0 || order.Rate <= 0 {
			return nil, badRequest("size 1..%d, blocks and rate above 0", blockSize)
		}
		w.mu.Lock()
		w.stop, w.done, w.Running, w.Rate = make(chan struct{}), make(chan struct{}), true, order.Rate
		go s.writeOn(w.stop, w.done, rand.New(rand.NewSource(order.Seed)), order.Rate, order.Blocks, order.Size)
		w.mu.Unlock()
	default:
		return nil, badRequest("action start or stop")
	}
	return s.writerState(), nil
}

func (s *sim) writeOn(stop, done chan struct{}, random *rand.Rand, rate, blocks int64, size int) {
	defer close(done)
	tick := time.NewTicker(writerTick)
	defer tick.Stop()
	var debt float64
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		for debt += float64(rate) * writerTick.Seconds(); debt >= float64(size); debt -= float64(size) {
			s.writeOnce(random, blocks, size)
		}
	}
}

// writeOnce writes at one place of one disk of one running VM. Half of the places hold data in the base, so a reader that
// ignores the snapshot reads wrong data.
func (s *sim) writeOnce(random *rand.Rand, places int64, size int) {
	var running []*vmState
	for _, v := range s.all() {
		if v.running() && len(v.disks) > 0 {
			running = append(running, v)
		}
	}
	if len(running) == 0 {
		return
	}
	v := running[random.Intn(len(running))]
	index := random.Intn(len(v.disks))
	d := v.disks[index]
	place := random.Int63n(places)
	block := place * 2654435761 % d.blocks()
	for i := int64(0); place%2 == 0 && i < d.blocks() && i < 4096; i++ {
		if at := (block + i) % d.blocks(); d.base.alloc.has(at) {
			block = at
			break
		}
	}
	data := make([]byte, min(int64(size), d.capacity-block*blockSize))
	random.Read(data)
	if err := v.guestWrite(index, block*blockSize, data); err != nil {
		panic(err)
	}
	s.writer.mu.Lock()
	s.writer.Written += int64(len(data))
	s.writer.Writes++
	s.writer.mu.Unlock()
}

func (s *sim) writerState() map[string]any {
	s.writer.mu.Lock()
	defer s.writer.mu.Unlock()
	return map[string]any{"running": s.writer.Running, "rate": s.writer.Rate, "written": s.writer.Written, "writes": s.writer.Writes}
}

// --- the state dump ---

type vmDump struct {
	Name          string         `json:"name"`
	Moref         string         `json:"moref"`
	Path          string         `json:"path"`
	Power         string         `json:"power"`
	Host          string         `json:"host"`
	Busy          string         `json:"busy"`
	Leases        int            `json:"leases"`
	Consolidation bool           `json:"consolidation_needed"`
	Tracking      bool           `json:"change_tracking"`
	Snapshots     []snapshotDump `json:"snapshots"`
	Disks         []diskDump     `json:"disks"`
	Nics          []nicDump      `json:"nics"`
	Addresses     []holding      `json:"addresses"` // held by connected cards of a running VM
}

type snapshotDump struct {
	Name    string `json:"name"`
	Moref   string `json:"moref"`
	Created string `json:"created"`
}

type diskDump struct {
	Index    int    `json:"index"`
	Key      int32  `json:"key"`
	Label    string `json:"label"`
	Capacity int64  `json:"capacity"`
	File     string `json:"file"`
	Layers   int    `json:"layers"`
	ChangeID string `json:"change_id"`
}

func (s *sim) state() map[string]any {
	vms := []vmDump{}
	for _, v := range s.all() {
		vms = append(vms, v.dump())
	}
	leases := []map[string]any{}
	for _, l := range s.allLeases() {
		l.mu.Lock()
		if l.held {
			leases = append(leases, map[string]any{"id": l.id, "vm": l.v.spec.Name, "moref": l.Self.Value, "session": l.session})
		}
		l.mu.Unlock()
	}
	sessions := []map[string]any{}
	for _, u := range s.sessions() {
		sessions = append(sessions, map[string]any{"key": u.Key, "user": u.UserName, "agent": u.UserAgent, "last_active": u.LastActiveTime})
	}
	return map[string]any{
		"vms": vms, "leases": leases, "sessions": sessions, "transfers": s.transfers.Load(), "writer": s.writerState(), "rules": s.rules.list(),
		"address_log": s.addresses.list(),
	}
}

func (v *vmState) dump() vmDump {
	d := vmDump{
		Name: v.spec.Name, Moref: v.moref(), Path: v.sim.entityPath(v.vm) + "/" + v.vm.Name,
		Snapshots: []snapshotDump{}, Disks: []diskDump{},
	}
	ctx := v.sim.context()
	ctx.WithLock(v.vm, func() {
		d.Power = string(v.vm.Runtime.PowerState)
		d.Consolidation = *v.vm.Runtime.ConsolidationNeeded
		d.Tracking = *v.vm.Config.ChangeTrackingEnabled
		if h := v.sim.hostOf(v); h != nil {
			d.Host = h.name
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		d.Busy, d.Leases = v.busy, v.leases
		d.Nics, d.Addresses = v.dumpNics(), v.addresses(v.vm.Runtime.PowerState, v.vm.Config.Hardware.Device)
		for _, s := range v.snapshots {
			d.Snapshots = append(d.Snapshots, snapshotDump{Name: s.name, Moref: s.ref.Value, Created: s.at})
		}
		for i, disk := range v.disks {
			d.Disks = append(d.Disks, diskDump{
				Index: i, Key: disk.key, Label: disk.label, Capacity: disk.capacity, File: disk.tip.name,
				Layers: len(v.layersOf(disk)), ChangeID: disk.tracking.id(),
			})
		}
	})
	return d
}

func (s *sim) counterState() any {
	s.counters.mu.Lock()
	defer s.counters.mu.Unlock()
	methods, paths := map[string]int64{}, map[string]pathCounter{}
	for k, n := range s.counters.Methods {
		methods[k] = n
	}
	for k, p := range s.counters.Paths {
		paths[k] = *p
	}
	return map[string]any{"methods": methods, "paths": paths}
}
