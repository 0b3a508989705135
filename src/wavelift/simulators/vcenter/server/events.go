// The events of a VM in vCenter's event manager. The embedded simulator has the manager, but most changes made here
// do not reach it.
package main

import (
	"net/http"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// describedAs are vCenter's description ids of tasks; they follow no rule.
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
	if ctx.Session == nil { // our own change: the manager needs a user
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

// postTask posts that a task has begun. Calls that are no tasks post no such event.
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

// oldestEvent is the instant before which vCenter has no event any more: it removes those older than event.maxAge days
// while event.maxAgeEnabled, and may have lost more (its database pruned by size, or restored).
func (s *sim) oldestEvent() time.Time {
	oldest := time.Unix(0, s.forgotten.Load()).UTC()
	if enabled, ok := s.setting("event.maxAgeEnabled").(bool); !ok || !enabled {
		return oldest
	}
	var days int64
	switch age := s.setting("event.maxAge").(type) {
	case int32:
		days = int64(age)
	case int64:
		days = age
	}
	if aged := s.now().Add(-time.Duration(days) * 24 * time.Hour); aged.After(oldest) {
		return aged
	}
	return oldest
}

func (s *sim) setting(key string) types.AnyType {
	for _, setting := range s.model.Map().OptionManager().Setting {
		if option := setting.GetOptionValue(); option.Key == key {
			return option.Value
		}
	}
	return nil
}

// forgetful limits queries to the events that vCenter still has; the embedded simulator keeps all.
func (s *sim) forgetful(call *simulator.Method) {
	var filter *types.EventFilterSpec
	switch body := call.Body.(type) {
	case *types.CreateCollectorForEvents:
		filter = &body.Filter
	case *types.QueryEvents:
		filter = &body.Filter
	default:
		return
	}
	span := types.EventFilterSpecByTime{}
	if filter.Time != nil {
		span = *filter.Time
	}
	if oldest := s.oldestEvent(); span.BeginTime == nil || span.BeginTime.Before(oldest) {
		span.BeginTime = &oldest
	}
	if now := s.now(); span.EndTime == nil || span.EndTime.After(now) {
		span.EndTime = &now
	}
	filter.Time = &span
}

// controlClock moves vCenter's clock forward; events expire by it. It can be set back for
// the next test; the events since it was moved are then not shown.
func (s *sim) controlClock(r *http.Request) (any, error) {
	var order struct {
		Forward float64 `json:"forward"` // seconds
		Reset   bool    `json:"reset"`
	}
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	if order.Forward < 0 {
		return nil, badRequest("no clock here goes back")
	}
	s.ahead.Add(int64(seconds(order.Forward)))
	if order.Reset {
		s.ahead.Store(0)
		s.forgotten.Store(min(s.forgotten.Load(), s.now().UnixNano()))
	}
	return map[string]time.Time{"now": s.now()}, nil
}

// controlForget drops all events.
func (s *sim) controlForget(*http.Request) (any, error) {
	s.forgotten.Store(s.now().UnixNano())
	return struct{}{}, nil
}
