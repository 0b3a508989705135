// The calls that are answered here instead of in the embedded simulator: one hook before every SOAP call.
package main

import (
	"reflect"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// blockedByLease are the operations that the API reference calls blocked while a lease is held.
var blockedByLease = map[string]bool{
	"PowerOnVM_Task": true, "MigrateVM_Task": true, "RelocateVM_Task": true, "Destroy_Task": true, "UnregisterVM": true,
	"RevertToSnapshot_Task": true, "RevertToCurrentSnapshot_Task": true, "SuspendVM_Task": true, "ReconfigVM_Task": true,
}

// ours are the methods that are answered here.
var ours = map[string]bool{
	"CreateSnapshot_Task": true, "CreateSnapshotEx_Task": true, "RemoveSnapshot_Task": true, "RemoveAllSnapshots_Task": true,
	"RevertToSnapshot_Task": true, "RevertToCurrentSnapshot_Task": true, "ConsolidateVMDisks_Task": true,
	"QueryChangedDiskAreas": true, "ExportVm": true, "ExportSnapshot": true, "ReconfigVM_Task": true,
	"PowerOnVM_Task": true, "PowerOffVM_Task": true, "ShutdownGuest": true, "MigrateVM_Task": true, "RelocateVM_Task": true,
}

// handle is the simulator's hook; it runs before every call, logged in or not.
func (s *sim) handle(ctx *simulator.Context, call *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	user := ""
	if ctx.Session != nil {
		user = ctx.Session.UserName
		if user == "" {
			return nil, nil // no client: our own builder
		}
	}
	s.counters.method(call.Name)
	v, snap := s.target(call.This)
	e := event{method: call.Name, user: user, vm: v}
	if fault := s.disturb(e, call); fault != nil {
		return nil, fault
	}
	if ctx.Session == nil {
		return nil, refuseAnonymous(call)
	}
	if fault := s.permit(user, call); fault != nil {
		return nil, fault
	}
	if call.Name == "CancelTask" {
		return nil, &types.NotSupported{} // snapshot tasks can't be cancelled; the simulator would say yes and go on
	}
	switch call.This.Type {
	case "AuthorizationManager":
		return s.divert(call, &authorization{helper: helper{sim: s}}, "HasPrivilege", "HasUserPrivilege", "FetchUserPrivilege"), nil
	case "EventManager":
		s.forgetful(call)
	case "ServiceInstance":
		return s.divert(call, &clock{helper: helper{sim: s}}, "CurrentTime"), nil
	case "Datastore":
		if ds, ok := ctx.Map.Get(call.This).(*simulator.Datastore); ok {
			return s.divert(call, &store{helper: helper{sim: s}, ds: ds}, "RefreshDatastore"), nil
		}
	case "SessionManager":
		return s.divert(call, &tickets{helper: helper{sim: s}}, "AcquireGenericServiceTicket"), nil
	}
	if v == nil {
		return nil, s.refuseCards(call)
	}
	if v.leaseHeld() && blockedByLease[call.Name] {
		return nil, &types.InvalidState{}
	}
	if !ours[call.Name] {
		return nil, s.refuseCards(call)
	}
	e2 := &machine{helper: helper{sim: s}, v: v, snap: snap}
	return s.divert(call, e2, ""), nil
}

// target finds our state of the VM that a call is about, also through one of its snapshots.
func (s *sim) target(ref types.ManagedObjectReference) (*vmState, *snapshot) {
	switch ref.Type {
	case "VirtualMachine":
		return s.byRef(ref), nil
	case "VirtualMachineSnapshot":
		for _, v := range s.all() {
			if snap := v.findSnapshot(ref); snap != nil {
				return v, snap
			}
		}
	case "HttpNfcLease":
		for _, l := range s.allLeases() {
			if l.Self == ref {
				return l.v, nil
			}
		}
	}
	return nil, nil
}

// disturb applies the fault rules for the call itself.
func (s *sim) disturb(e event, call *simulator.Method) types.BaseMethodFault {
	e.kind = "latency"
	if r := s.rules.take(e); r != nil {
		r.wait()
	}
	e.kind = "fault"
	if r := s.rules.take(e); r != nil {
		return r.fault(call.This)
	}
	return nil
}

// refuseAnonymous allows only what a client may read before login. The embedded simulator would allow every read.
func refuseAnonymous(call *simulator.Method) types.BaseMethodFault {
	switch call.Name {
	case "Fetch", "RetrieveProperties", "RetrievePropertiesEx":
	default:
		return nil // the simulator itself refuses the others
	}
	for _, ref := range readObjects(call) {
		if ref.Type != "ServiceInstance" && ref.Type != "SessionManager" {
			return &types.NotAuthenticated{NoPermission: types.NoPermission{Object: &ref, PrivilegeId: "System.View"}}
		}
	}
	return nil
}

func readObjects(call *simulator.Method) []types.ManagedObjectReference {
	var specs []types.PropertyFilterSpec
	switch body := call.Body.(type) {
	case *types.RetrievePropertiesEx:
		specs = body.SpecSet
	case *types.RetrieveProperties:
		specs = body.SpecSet
	default: // Fetch, whose Go type is internal to govmomi
		this := reflect.ValueOf(call.Body).Elem().FieldByName("This")
		if ref, ok := this.Interface().(types.ManagedObjectReference); ok {
			return []types.ManagedObjectReference{ref}
		}
	}
	var refs []types.ManagedObjectReference
	for _, spec := range specs {
		for _, o := range spec.ObjectSet {
			refs = append(refs, o.Obj)
		}
	}
	return refs
}

// divert makes our object the target of the call. The session's registry is queried after the hook, so the new target
// must not be in that registry.
func (s *sim) divert(call *simulator.Method, h interface {
	mo.Reference
	setSelf(types.ManagedObjectReference)
}, prefixes ...string) mo.Reference {
	for _, prefix := range prefixes {
		if strings.HasPrefix(call.Name, prefix) {
			ref := types.ManagedObjectReference{Type: "WaveliftHelper", Value: call.This.Value}
			h.setSelf(ref)
			call.This = ref
			return h
		}
	}
	return nil
}

type helper struct {
	Self types.ManagedObjectReference
	sim  *sim
}

func (h *helper) Reference() types.ManagedObjectReference  { return h.Self }
func (h *helper) setSelf(ref types.ManagedObjectReference) { h.Self = ref }
func refuse(fault types.BaseMethodFault) *soap.Fault       { return simulator.Fault("", fault) }
func seconds(s float64) time.Duration                      { return time.Duration(s * float64(time.Second)) }

// machine answers the methods of VirtualMachine and VirtualMachineSnapshot that are ours.
type machine struct {
	helper
	v    *vmState
	snap *snapshot
}

// Lock and Unlock disable the simulator's own locking by reference: every helper of a VM has the same reference, and a
// slow lease must not block the others. Code that needs the VM's lock takes it explicitly.
func (m *machine) Lock()   {}
func (m *machine) Unlock() {}

func (m *machine) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	body := &methods.CreateSnapshot_TaskBody{}
	ref, fault := m.v.create(ctx, "CreateSnapshot_Task", req.Name, req.Description, req.Memory, req.Quiesce)
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.CreateSnapshot_TaskResponse{Returnval: ref}
	}
	return body
}

func (m *machine) CreateSnapshotExTask(ctx *simulator.Context, req *types.CreateSnapshotEx_Task) soap.HasFault {
	body := &methods.CreateSnapshotEx_TaskBody{}
	ref, fault := m.v.create(ctx, "CreateSnapshotEx_Task", req.Name, req.Description, req.Memory, req.QuiesceSpec != nil)
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.CreateSnapshotEx_TaskResponse{Returnval: ref}
	}
	return body
}

// removal starts the task that removes snapshots; which ones is decided when it runs.
func (m *machine) removal(ctx *simulator.Context, method string, merge *bool, which func() []*snapshot) (types.ManagedObjectReference, types.BaseMethodFault) {
	v := m.v
	if v.leaseHeld() && m.sim.options.LeaseBlocksRemoval {
		return types.ManagedObjectReference{}, &types.TaskInProgress{Task: types.ManagedObjectReference{Type: "Task", Value: "export-" + v.moref()}}
	}
	return v.exclusive(ctx, method, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		v.mu.Lock()
		gone := which()
		v.mu.Unlock()
		keep := m.sim.rules.take(event{kind: "consolidation", method: method, vm: v}) != nil
		return nil, v.remove(ctx, gone, !keep && (merge == nil || *merge))
	})
}

func (m *machine) RemoveSnapshotTask(ctx *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	body := &methods.RemoveSnapshot_TaskBody{}
	ref, fault := m.removal(ctx, "RemoveSnapshot_Task", req.Consolidate, func() []*snapshot {
		if req.RemoveChildren {
			return m.v.subtree(m.snap)
		}
		return []*snapshot{m.snap}
	})
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.RemoveSnapshot_TaskResponse{Returnval: ref}
	}
	return body
}

func (m *machine) RemoveAllSnapshotsTask(ctx *simulator.Context, req *types.RemoveAllSnapshots_Task) soap.HasFault {
	body := &methods.RemoveAllSnapshots_TaskBody{}
	ref, fault := m.removal(ctx, "RemoveAllSnapshots_Task", req.Consolidate, func() []*snapshot { return m.v.snapshots })
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.RemoveAllSnapshots_TaskResponse{Returnval: ref}
	}
	return body
}

func (m *machine) ConsolidateVMDisksTask(ctx *simulator.Context, _ *types.ConsolidateVMDisks_Task) soap.HasFault {
	body := &methods.ConsolidateVMDisks_TaskBody{}
	v := m.v
	ref, fault := v.exclusive(ctx, "ConsolidateVMDisks_Task", func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		if err := v.consolidate(); err != nil {
			return nil, &types.GenericVmConfigFault{Reason: err.Error()}
		}
		v.publish(ctx, v.vm.Snapshot)
		v.refreshSnapshots(ctx)
		v.setConsolidation(ctx, false)
		return nil, nil
	})
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.ConsolidateVMDisks_TaskResponse{Returnval: ref}
	}
	return body
}

func (m *machine) RevertToSnapshotTask(ctx *simulator.Context, _ *types.RevertToSnapshot_Task) soap.HasFault {
	body := &methods.RevertToSnapshot_TaskBody{}
	ref, fault := m.v.exclusive(ctx, "RevertToSnapshot_Task", func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		return nil, m.v.revert(ctx, m.snap)
	})
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.RevertToSnapshot_TaskResponse{Returnval: ref}
	}
	return body
}

func (m *machine) RevertToCurrentSnapshotTask(ctx *simulator.Context, _ *types.RevertToCurrentSnapshot_Task) soap.HasFault {
	body := &methods.RevertToCurrentSnapshot_TaskBody{}
	m.v.mu.Lock()
	current := m.v.current()
	m.v.mu.Unlock()
	if current == nil {
		body.Fault_ = refuse(&types.NotFound{})
		return body
	}
	ref, fault := m.v.exclusive(ctx, "RevertToCurrentSnapshot_Task", func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		return nil, m.v.revert(ctx, current)
	})
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.RevertToCurrentSnapshot_TaskResponse{Returnval: ref}
	}
	return body
}

// ReconfigVMTask handles change tracking, and specs on which the embedded simulator panics: it knows only flat disks.
func (m *machine) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	body := &methods.ReconfigVM_TaskBody{}
	v := m.v
	ref, fault := v.exclusive(ctx, "ReconfigVM_Task", func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		return nil, v.reconfigure(ctx, &req.Spec)
	})
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.ReconfigVM_TaskResponse{Returnval: ref}
	}
	return body
}

func (v *vmState) reconfigure(ctx *simulator.Context, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	if version := spec.ChangeVersion; version != "" && version != v.vm.Config.ChangeVersion {
		return &types.ConcurrentAccess{}
	}
	if !reflect.DeepEqual(unsupported(*spec), types.VirtualMachineConfigSpec{}) {
		return &types.NotSupported{} // rather than success without a change
	}
	var changes []types.PropertyChange
	if want := spec.ChangeTrackingEnabled; want != nil {
		v.mu.Lock()
		standing := len(v.snapshots) > 0
		v.mu.Unlock()
		if *want && standing && v.sim.options.TrackingWithSnaps == "refuse" {
			return &types.InvalidState{}
		}
		changes = append(changes, types.PropertyChange{Name: "config.changeTrackingEnabled", Val: *want})
	}
	if spec.Annotation != "" {
		changes = append(changes, types.PropertyChange{Name: "config.annotation", Val: spec.Annotation})
	}
	devices, fault := v.reconnect(spec.DeviceChange)
	if fault != nil {
		return fault
	}
	if devices != nil {
		v.record(v.vm.Runtime.PowerState, devices)
		changes = append(changes, types.PropertyChange{Name: "config.hardware.device", Val: devices})
	}
	changes = append(changes, types.PropertyChange{Name: "config.changeVersion", Val: v.sim.now().Format(time.RFC3339Nano)})
	ctx.Update(v.vm, changes)
	v.guest()
	return nil
}

// unsupported is the rest of a spec, without the parts that reconfigure handles.
func unsupported(spec types.VirtualMachineConfigSpec) types.VirtualMachineConfigSpec {
	spec.ChangeVersion, spec.ChangeTrackingEnabled, spec.Annotation, spec.DeviceChange = "", nil, "", nil
	return spec
}

// reconnect edits the connection of CD-ROMs and network cards; other device changes are not simulated.
func (v *vmState) reconnect(edits []types.BaseVirtualDeviceConfigSpec) ([]types.BaseVirtualDevice, types.BaseMethodFault) {
	if len(edits) == 0 {
		return nil, nil
	}
	list := copyDevices(v.vm.Config.Hardware.Device)
	for _, edit := range edits {
		spec := edit.GetVirtualDeviceConfigSpec()
		wanted := spec.Device.GetVirtualDevice()
		device := list.FindByKey(wanted.Key)
		if device == nil || spec.Operation != types.VirtualDeviceConfigSpecOperationEdit || wanted.Connectable == nil {
			return nil, &types.NotSupported{}
		}
		switch d := device.(type) {
		case *types.VirtualCdrom:
			d.Connectable, d.Backing = wanted.Connectable, wanted.Backing
		case types.BaseVirtualEthernetCard:
			if fault := v.editCard(device, spec.Device); fault != nil {
				return nil, fault
			}
		default:
			return nil, &types.NotSupported{}
		}
	}
	return list, nil
}

func (m *machine) MigrateVMTask(ctx *simulator.Context, req *types.MigrateVM_Task) soap.HasFault {
	body := &methods.MigrateVM_TaskBody{}
	ref, fault := m.migrate(ctx, "MigrateVM_Task", req.Host)
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.MigrateVM_TaskResponse{Returnval: ref}
	}
	return body
}

func (m *machine) RelocateVMTask(ctx *simulator.Context, req *types.RelocateVM_Task) soap.HasFault {
	body := &methods.RelocateVM_TaskBody{}
	ref, fault := m.migrate(ctx, "RelocateVM_Task", req.Spec.Host)
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.RelocateVM_TaskResponse{Returnval: ref}
	}
	return body
}

func (m *machine) migrate(ctx *simulator.Context, method string, host *types.ManagedObjectReference) (types.ManagedObjectReference, types.BaseMethodFault) {
	if host == nil {
		return types.ManagedObjectReference{}, &types.NotSupported{}
	}
	return m.v.exclusive(ctx, method, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		m.v.moveTo(ctx, *host)
		return nil, nil
	})
}

func (v *vmState) moveTo(ctx *simulator.Context, host types.ManagedObjectReference) {
	from := v.hostArgument()
	v.placeOn(ctx, host)
	if from != nil {
		v.post(ctx, &types.VmMigratedEvent{SourceHost: *from})
	}
}

func (v *vmState) placeOn(ctx *simulator.Context, host types.ManagedObjectReference) {
	ctx.Update(v.vm, []types.PropertyChange{
		{Name: "runtime.host", Val: &host},
		{Name: "summary.runtime.host", Val: &host},
	})
}
