// What vCenter's event manager tells of a VM. The embedded simulator has the manager, but most of what happens here
// passes it by.
package main

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// describedAs are the ids that vCenter files tasks under; they follow no rule.
var describedAs = map[string]string{
	"CreateSnapshot_Task": "VirtualMachine.createSnapshot", "CreateSnapshotEx_Task": "VirtualMachine.createSnapshotEx",
	"RemoveSnapshot_Task": "vm.Snapshot.remove", "RemoveAllSnapshots_Task": "VirtualMachine.removeAllSnapshots",
	"RevertToSnapshot_Task": "vm.Snapshot.revert", "RevertToCurrentSnapshot_Task": "VirtualMachine.revertToCurrentSnapshot",
	"ConsolidateVMDisks_Task": "VirtualMachine.consolidateDisks", "ReconfigVM_Task": "VirtualMachine.reconfigure",
	"PowerOnVM_Task": "VirtualMachine.powerOn", "PowerOffVM_Task": "VirtualMachine.powerOff",
	"MigrateVM_Task": "VirtualMachine.migrate", "RelocateVM_Task": "VirtualMachine.relocate",
}

// post adds an event of the VM to vCenter's history, at vCenter's own time.
func (v *vmState) post(ctx *simulator.Context, event types.BaseEvent) {
	m := v.sim.model.Map()
	manager := m.EventManager()
	e := event.GetEvent()
	e.Vm = &types.VmEventArgument{EntityEventArgument: types.EntityEventArgument{Name: v.vm.Name}, Vm: v.vm.Self}
	e.Host = v.hostArgument()
	for _, dc := range m.All("Datacenter") {
		e.Datacenter = &types.DatacenterEventArgument{EntityEventArgument: types.EntityEventArgument{Name: dc.Entity().Name}, Datacenter: dc.Reference()}
	}
	for _, cluster := range m.All("ClusterComputeResource") {
		e.ComputeResource = &types.ComputeResourceEventArgument{EntityEventArgument: types.EntityEventArgument{Name: cluster.Entity().Name}, ComputeResource: cluster.Reference()}
	}
	ctx = detach(ctx)
	if ctx.Session == nil { // our own doing: the manager wants to know whose
		ctx.Session = &simulator.Session{UserSession: types.UserSession{UserName: "vpxd"}}
	}
	ctx.WithLock(manager, func() {
		manager.PostEvent(ctx, &types.PostEvent{EventToPost: event})
		e.CreatedTime = v.sim.now()
	})
}

func (v *vmState) hostArgument() *types.HostEventArgument {
	h := v.sim.hostOf(v)
	if h == nil {
		return nil
	}
	return &types.HostEventArgument{EntityEventArgument: types.EntityEventArgument{Name: h.name}, Host: h.ref}
}

// postTask tells that a task was begun; what is no task leaves no such event.
func (s *sim) postTask(ctx *simulator.Context, method string, info types.TaskInfo) {
	v := s.byRef(*info.Entity)
	if v == nil || !strings.HasSuffix(method, "_Task") {
		return
	}
	info.DescriptionId = orElse(describedAs[method], info.DescriptionId)
	info.EntityName = v.vm.Name
	v.post(ctx, &types.TaskEvent{Info: info})
}

// postEx adds an event that has no type of its own.
func (v *vmState) postEx(ctx *simulator.Context, id, text string) {
	event := &types.EventEx{EventTypeId: id, Message: text, ObjectId: v.moref(), ObjectType: "VirtualMachine", ObjectName: v.vm.Name}
	event.FullFormattedMessage = text
	v.post(ctx, event)
}

func (v *vmState) postPower(ctx *simulator.Context, method string, to types.VirtualMachinePowerState) {
	switch {
	case to == types.VirtualMachinePowerStatePoweredOn:
		v.post(ctx, &types.VmPoweredOnEvent{})
		return
	case method == "ShutdownGuest":
		v.post(ctx, &types.VmGuestShutdownEvent{})
	}
	v.post(ctx, &types.VmPoweredOffEvent{})
}
