// Export leases: states, timeout, device URLs and what is served behind them.
package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// HttpNfcLease must have this name: the reference's type on the wire comes from the Go type.
type HttpNfcLease struct {
	mo.HttpNfcLease

	sim     *sim
	v       *vmState
	id      string
	session string
	ctx     *simulator.Context
	files   []*leaseFile

	mu       sync.Mutex
	deadline time.Time
	held     bool
	closed   chan struct{} // closed when the lease is over: transfers stop
}

// leaseFile is one device URL: a disk's frozen image, the NVRAM of an EFI machine, or the ISO in a connected CD-ROM.
type leaseFile struct {
	key, target string
	index       int // of the disk in the VM's inventory entry, -1 for other files
	disk        *disk
	image       *image
	frozen      bool
	small       []byte

	mu       sync.Mutex
	checksum string // type asked for, besides SHA-1
	entry    *types.HttpNfcLeaseManifestEntry
}

func (v *vmState) leaseHeld() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.leases > 0
}

func (m *machine) ExportSnapshot(ctx *simulator.Context, _ *types.ExportSnapshot) soap.HasFault {
	body := &methods.ExportSnapshotBody{}
	ref, fault := m.export(ctx, m.snap)
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.ExportSnapshotResponse{Returnval: ref}
	}
	return body
}

// ExportVm, unlike ExportSnapshot, is refused while the VM runs.
func (m *machine) ExportVm(ctx *simulator.Context, _ *types.ExportVm) soap.HasFault {
	body := &methods.ExportVmBody{}
	if state := m.v.vm.Runtime.PowerState; state != types.VirtualMachinePowerStatePoweredOff {
		body.Fault_ = refuse(&types.InvalidPowerState{RequestedState: "poweredOff", ExistingState: state})
		return body
	}
	ref, fault := m.export(ctx, nil)
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.ExportVmResponse{Returnval: ref}
	}
	return body
}

func (m *machine) export(ctx *simulator.Context, snap *snapshot) (types.ManagedObjectReference, types.BaseMethodFault) {
	v := m.v
	if v.vm.Config.KeyId != nil {
		return types.ManagedObjectReference{}, &types.InvalidState{}
	}
	v.mu.Lock()
	if v.busy != "" {
		defer v.mu.Unlock()
		return types.ManagedObjectReference{}, &types.TaskInProgress{Task: types.ManagedObjectReference{Type: "Task", Value: v.busy}}
	}
	if v.leases > 0 && m.sim.options.LeaseExclusive {
		defer v.mu.Unlock()
		return types.ManagedObjectReference{}, &types.TaskInProgress{Task: types.ManagedObjectReference{Type: "Task", Value: "export-" + v.moref()}}
	}
	v.leases++
	v.mu.Unlock()
	l := &HttpNfcLease{sim: m.sim, v: v, id: uuid.NewString(), session: ctx.Session.Key, held: true, closed: make(chan struct{})}
	l.State = types.HttpNfcLeaseStateInitializing
	l.Mode = string(types.HttpNfcLeaseModePushOrGet)
	l.Capabilities = types.HttpNfcLeaseCapabilities{PullModeSupported: true}
	l.files = v.leaseFiles(snap)
	l.ctx = detach(ctx)
	ctx.Session.Put(l)
	m.sim.addLease(l)
	go l.run()
	return l.Self, nil
}

// leaseFiles lists the files of a lease, in an order that differs from the true order of the disks: a client must use
// the key.
func (v *vmState) leaseFiles(snap *snapshot) []*leaseFile {
	v.mu.Lock()
	defer v.mu.Unlock()
	var files []*leaseFile
	for i := len(v.disks) - 1; i >= 0; i-- {
		d := v.disks[i]
		top := d.tip
		if snap != nil && snap.layers[d.key] != nil {
			top = snap.layers[d.key]
		}
		files = append(files, &leaseFile{frozen: top != d.tip,
			key: fmt.Sprintf("/%s/%s", v.moref(), d.label), target: fmt.Sprintf("disk-%d.vmdk", len(files)),
			index: i, disk: d, image: d.image(top),
		})
	}
	if v.vm.Config.Firmware == "efi" {
		nvram := &leaseFile{key: fmt.Sprintf("/%s/nvram", v.moref()), target: fmt.Sprintf("file-%d.nvram", len(files)), index: -1, small: make([]byte, 8684)}
		files = append([]*leaseFile{nvram}, files...)
	}
	if v.cdromConnected() { // its key has the form of a disk's
		files = append(files, &leaseFile{
			key: fmt.Sprintf("/%s/VirtualIDEController1:0", v.moref()), target: fmt.Sprintf("file-%d.iso", len(files)), index: -1, small: make([]byte, 32768),
		})
	}
	return files
}

func (v *vmState) cdromConnected() bool {
	for _, device := range v.vm.Config.Hardware.Device {
		if cdrom, ok := device.(*types.VirtualCdrom); ok && cdrom.Connectable != nil && cdrom.Connectable.Connected {
			_, iso := cdrom.Backing.(*types.VirtualCdromIsoBackingInfo)
			return iso
		}
	}
	return false
}

// run takes the lease through its states until it is over.
func (l *HttpNfcLease) run() {
	rules := l.sim.rules
	dies := rules.take(event{kind: "lease", vm: l.v, actions: []string{"dies"}})
	switch r := rules.take(event{kind: "lease", vm: l.v, actions: []string{"never_ready", "error"}}); {
	case r == nil:
		if l.wait(seconds(l.sim.options.LeaseReady)) {
			return
		}
		l.ready()
	case r.Action == "error":
		l.fail(r.fault(l.v.vm.Self))
		return
	default:
		l.touch()
	}
	var death <-chan time.Time
	if dies != nil {
		death = time.After(seconds(dies.Delay))
	}
	l.watch(death, dies)
}

// wait reports whether the lease ended meanwhile.
func (l *HttpNfcLease) wait(d time.Duration) bool {
	select {
	case <-time.After(d):
		return false
	case <-l.closed:
		return true
	}
}

func (l *HttpNfcLease) watch(death <-chan time.Time, dies *rule) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-l.closed:
			return
		case <-death:
			l.fail(dies.fault(l.v.vm.Self))
			return
		case <-tick.C:
		}
		l.mu.Lock()
		late := time.Now().After(l.deadline)
		l.mu.Unlock()
		if late {
			l.fail(&types.Timedout{})
			return
		}
		if !l.sim.sessionAlive(l.session) { // a lease belongs to its session
			l.end(l.ctx, types.HttpNfcLeaseStateError, nil)
			return
		}
	}
}

func (l *HttpNfcLease) touch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline = time.Now().Add(seconds(l.sim.options.LeaseTimeout))
}

func (l *HttpNfcLease) ready() {
	l.touch()
	info := &types.HttpNfcLeaseInfo{Lease: l.Self, Entity: l.v.vm.Self, LeaseTimeout: int32(max(l.sim.options.LeaseTimeout, 1))}
	host := l.sim.hostOf(l.v)
	base, thumbprint := l.sim.nfcBase(host)
	for _, f := range l.files {
		u := types.HttpNfcLeaseDeviceUrl{
			Key: f.key, ImportKey: strings.Replace(f.key, l.v.moref(), l.v.spec.Name, 1), TargetId: f.target,
			Url: fmt.Sprintf("%s/nfc/%s/%s", base, l.id, f.target), SslThumbprint: thumbprint,
		}
		switch {
		case f.disk == nil && strings.HasSuffix(f.target, ".nvram"): // "set to true for disks": the others may leave it out
			u.FileSize = int64(len(f.small))
		case f.disk == nil:
			u.FileSize, u.Disk = int64(len(f.small)), types.NewBool(false)
		default:
			u.Disk = types.NewBool(true)
			info.TotalDiskCapacityInKB += f.disk.capacity / 1024
		}
		info.DeviceUrl = append(info.DeviceUrl, u)
	}
	l.ctx.WithLock(l, func() {
		l.ctx.Update(l, []types.PropertyChange{
			{Name: "initializeProgress", Val: int32(100)},
			{Name: "state", Val: types.HttpNfcLeaseStateReady},
			{Name: "info", Val: info},
		})
	})
}

func (l *HttpNfcLease) fail(fault types.BaseMethodFault) {
	l.end(l.ctx, types.HttpNfcLeaseStateError, fault)
}

// end closes the lease once. The object stays readable, as on a real vCenter. Lock order: the lease's simulator lock
// (which a calling method already has through ctx), then mu.
func (l *HttpNfcLease) end(ctx *simulator.Context, state types.HttpNfcLeaseState, fault types.BaseMethodFault) bool {
	l.mu.Lock()
	if !l.held {
		l.mu.Unlock()
		return false
	}
	l.held = false
	close(l.closed)
	l.mu.Unlock()
	l.sim.dropLease(l)
	l.v.mu.Lock()
	l.v.leases--
	l.v.mu.Unlock()
	changes := []types.PropertyChange{{Name: "state", Val: state}}
	if fault != nil {
		changes = append(changes, types.PropertyChange{Name: "error", Val: &types.LocalizedMethodFault{
			Fault: fault, LocalizedMessage: "The lease ended: " + strings.TrimPrefix(fmt.Sprintf("%T", fault), "*types."),
		}})
	}
	ctx.WithLock(l, func() { ctx.Update(l, changes) })
	return true
}

func (l *HttpNfcLease) isReady() bool {
	ready := false
	ctx := detach(l.ctx)
	ctx.WithLock(l, func() { ready = l.State == types.HttpNfcLeaseStateReady })
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held && ready
}

// over is the fault for a call on a lease that has ended.
func (l *HttpNfcLease) over() types.BaseMethodFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held {
		return nil
	}
	if l.Error != nil {
		if _, timedout := l.Error.Fault.(*types.Timedout); timedout {
			return &types.Timedout{}
		}
	}
	return &types.InvalidState{}
}

func (l *HttpNfcLease) HttpNfcLeaseProgress(ctx *simulator.Context, req *types.HttpNfcLeaseProgress) soap.HasFault {
	body := &methods.HttpNfcLeaseProgressBody{}
	if fault := l.over(); fault != nil {
		body.Fault_ = refuse(fault)
		return body
	}
	if req.Percent < 0 || req.Percent > 100 {
		body.Fault_ = refuse(&types.InvalidArgument{InvalidProperty: "percent"})
		return body
	}
	l.touch()
	ctx.Update(l, []types.PropertyChange{{Name: "transferProgress", Val: req.Percent}})
	body.Res = &types.HttpNfcLeaseProgressResponse{}
	return body
}

func (l *HttpNfcLease) HttpNfcLeaseComplete(ctx *simulator.Context, _ *types.HttpNfcLeaseComplete) soap.HasFault {
	body := &methods.HttpNfcLeaseCompleteBody{}
	if l.State != types.HttpNfcLeaseStateReady {
		body.Fault_ = refuse(orFault(l.over()))
		return body
	}
	l.end(ctx, types.HttpNfcLeaseStateDone, nil)
	body.Res = &types.HttpNfcLeaseCompleteResponse{}
	return body
}

func orFault(fault types.BaseMethodFault) types.BaseMethodFault {
	if fault == nil {
		return &types.InvalidState{}
	}
	return fault
}

func (l *HttpNfcLease) HttpNfcLeaseAbort(ctx *simulator.Context, req *types.HttpNfcLeaseAbort) soap.HasFault {
	body := &methods.HttpNfcLeaseAbortBody{}
	if fault := l.over(); fault != nil {
		body.Fault_ = refuse(fault)
		return body
	}
	var cause types.BaseMethodFault = &types.RequestCanceled{}
	if req.Fault != nil && req.Fault.Fault != nil {
		cause = req.Fault.Fault
	}
	l.end(ctx, types.HttpNfcLeaseStateError, cause)
	body.Res = &types.HttpNfcLeaseAbortResponse{}
	return body
}

func (l *HttpNfcLease) HttpNfcLeaseGetManifest(ctx *simulator.Context, _ *types.HttpNfcLeaseGetManifest) soap.HasFault {
	body := &methods.HttpNfcLeaseGetManifestBody{}
	if fault := l.over(); fault != nil {
		body.Fault_ = refuse(fault)
		return body
	}
	body.Res = &types.HttpNfcLeaseGetManifestResponse{}
	for _, f := range l.files {
		f.mu.Lock()
		if f.entry != nil { // only what was sent whole
			body.Res.Returnval = append(body.Res.Returnval, *f.entry)
		}
		f.mu.Unlock()
	}
	return body
}

// HttpNfcLeaseSetManifestChecksumType takes device URL -> checksum type ("sha1" or "sha256"), before the transfer.
func (l *HttpNfcLease) HttpNfcLeaseSetManifestChecksumType(ctx *simulator.Context, req *types.HttpNfcLeaseSetManifestChecksumType) soap.HasFault {
	body := &methods.HttpNfcLeaseSetManifestChecksumTypeBody{}
	if fault := l.over(); fault != nil {
		body.Fault_ = refuse(fault)
		return body
	}
	for _, pair := range req.DeviceUrlsToChecksumTypes {
		f := l.byURL(pair.Key)
		kind := strings.ToLower(pair.Value)
		if f == nil || (kind != "sha1" && kind != "sha256") {
			body.Fault_ = refuse(&types.InvalidArgument{InvalidProperty: "deviceUrlsToChecksumTypes"})
			return body
		}
		f.mu.Lock()
		f.checksum = kind
		f.mu.Unlock()
	}
	body.Res = &types.HttpNfcLeaseSetManifestChecksumTypeResponse{}
	return body
}

func (l *HttpNfcLease) byURL(url string) *leaseFile {
	for _, f := range l.files {
		if strings.HasSuffix(url, "/"+f.target) {
			return f
		}
	}
	return nil
}
