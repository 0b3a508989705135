// Our state of one virtual machine, in addition to the simulator's: layers, snapshots that freeze, change tracking.
package main

import (
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// vmState is state that the embedded simulator can't store. Lock order: the VM's simulator lock, then mu.
type vmState struct {
	sim   *sim
	vm    *simulator.VirtualMachine
	spec  *vmSpec
	dir   string
	disks []*disk

	mu        sync.Mutex // guards layers, tracking, busy, snapshots, leases
	busy      string     // the running task that excludes others
	shutting  bool       // the guest was asked to shut down
	waking    bool       // it was started, and its Tools do not report yet. Guarded by the VM's simulator lock
	nextID    int32
	snapshots []*snapshot
	leases    int
}

// snapshot is one instant: per disk the layer it froze and the change id it got.
type snapshot struct {
	ref     types.ManagedObjectReference
	parent  *snapshot
	name    string
	layers  map[int32]*layer
	changes map[int32]int // sequence number per disk, -1 without tracking
	ids     map[int32]string
	power   types.VirtualMachinePowerState
	at      string
}

func (v *vmState) moref() string { return v.vm.Self.Value }

func (v *vmState) running() bool {
	return v.vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
}

func (v *vmState) findSnapshot(ref types.ManagedObjectReference) *snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.snapshots {
		if s.ref == ref {
			return s
		}
	}
	return nil
}

// --- tasks ---

// work is the body of a task; it runs under the VM's simulator lock.
type work func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault)

// exclusive starts a task that no other task of this VM may overlap; rules can slow it or make it fail.
func (v *vmState) exclusive(ctx *simulator.Context, method string, do work) (types.ManagedObjectReference, types.BaseMethodFault) {
	v.mu.Lock()
	if v.busy != "" {
		v.mu.Unlock()
		return types.ManagedObjectReference{}, &types.TaskInProgress{Task: types.ManagedObjectReference{Type: "Task", Value: v.busy}}
	}
	ref := v.sim.nextTask()
	v.busy = ref.Value
	v.mu.Unlock()
	rule := v.sim.rules.take(event{kind: "task", method: method, vm: v})
	v.sim.runTask(ctx, ref, v.vm.Self, method, rule, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		defer func() {
			v.mu.Lock()
			v.busy = ""
			v.mu.Unlock()
		}()
		if rule != nil && rule.Fault != "" && !rule.Applied {
			return nil, rule.fault(v.vm.Self)
		}
		var result types.AnyType
		var fault types.BaseMethodFault
		ctx.WithLock(v.vm, func() { result, fault = do(ctx) })
		if fault == nil && rule != nil && rule.Fault != "" {
			return nil, rule.fault(v.vm.Self)
		}
		return result, fault
	})
	return ref, nil
}

// --- the snapshot operations ---

func (v *vmState) create(ctx *simulator.Context, method, name, description string, memory, quiesce bool) (types.ManagedObjectReference, types.BaseMethodFault) {
	if name == "" {
		return types.ManagedObjectReference{}, &types.InvalidName{Name: name}
	}
	return v.exclusive(ctx, method, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		if fault := v.refuseSnapshot(ctx, memory, quiesce); fault != nil {
			return nil, fault
		}
		return v.snapshotNow(ctx, name, description, quiesce && v.running()).ref, nil
	})
}

// snapshotSpace is what a datastore must have free for a snapshot's first delta.
const snapshotSpace = 16 << 20

func (v *vmState) refuseSnapshot(ctx *simulator.Context, memory, quiesce bool) types.BaseMethodFault {
	if v.spec.FT == "secondary" {
		return &types.NotSupported{} // the primary's copy can't be changed
	}
	for _, d := range v.spec.Disks {
		if d.BusSharing != "" && d.BusSharing != "noSharing" {
			return &types.SnapshotFault{}
		}
		if strings.HasPrefix(d.Mode, "independent") && memory {
			return &types.MemorySnapshotOnIndependentDisk{}
		}
	}
	if ds := ctx.Map.Get(v.vm.Datastore[0]).(*simulator.Datastore); v.sim.freeSpace(ds) < snapshotSpace {
		return &types.NoDiskSpace{FileFault: types.FileFault{File: v.vm.Config.Files.VmPathName}, Datastore: ds.Name}
	}
	if !quiesce || !v.running() {
		return nil
	}
	if rule := v.sim.rules.take(event{kind: "quiesce", vm: v}); rule != nil {
		if rule.Fault != "" {
			return rule.fault(v.vm.Self)
		}
		return &types.ApplicationQuiesceFault{}
	}
	if !v.toolsRunning() {
		return &types.FilesystemQuiesceFault{}
	}
	return nil
}

// snapshotNow freezes all disks at one instant and moves the VM onto fresh layers.
func (v *vmState) snapshotNow(ctx *simulator.Context, name, description string, quiesced bool) *snapshot {
	vm := v.vm
	s := &snapshot{
		name: name, layers: map[int32]*layer{}, changes: map[int32]int{}, ids: map[int32]string{},
		power: vm.Runtime.PowerState, at: v.sim.now().Format("2006-01-02T15:04:05.000Z"),
	}
	v.mu.Lock()
	v.applyTracking()
	for _, d := range v.disks {
		s.layers[d.key] = d.tip
		s.changes[d.key] = -1
		if d.frozenBy {
			if s.ids[d.key] = d.tracking.mark(); d.tracking.on {
				s.changes[d.key] = len(d.tracking.periods) - 1
			}
			d.tip = d.newLayer(d.tip, v.freeName(d))
		}
	}
	s.parent = v.current()
	v.nextID++
	id := v.nextID
	v.mu.Unlock()

	object := &simulator.VirtualMachineSnapshot{}
	object.Vm = vm.Self
	object.Config = *vm.Config
	object.Config.Hardware.Device = v.devicesOf(s)
	object.Config.ExtraConfig = append([]types.BaseOptionValue(nil), vm.Config.ExtraConfig...)
	s.ref = ctx.Map.Put(object).Reference()
	v.mu.Lock()
	v.snapshots = append(v.snapshots, s)
	v.mu.Unlock()
	v.sim.evidence.add(v, s)

	item := types.VirtualMachineSnapshotTree{
		Snapshot: s.ref, Vm: vm.Self, Name: name, Description: description, Id: id, CreateTime: v.sim.now(),
		State: types.VirtualMachinePowerStatePoweredOff, Quiesced: quiesced, ReplaySupported: types.NewBool(false),
	}
	info := types.VirtualMachineSnapshotInfo{CurrentSnapshot: &s.ref}
	if vm.Snapshot != nil {
		info.RootSnapshotList = copyTree(vm.Snapshot.RootSnapshotList)
	}
	if s.parent == nil {
		info.RootSnapshotList = append(info.RootSnapshotList, item)
	} else {
		at := findTree(info.RootSnapshotList, s.parent.ref)
		at.ChildSnapshotList = append(at.ChildSnapshotList, item)
		parent := ctx.Map.Get(s.parent.ref).(*simulator.VirtualMachineSnapshot)
		ctx.WithLock(parent, func() { parent.ChildSnapshot = append(parent.ChildSnapshot, s.ref) })
	}
	v.publish(ctx, &info)
	return s
}

// current is the snapshot above which the VM runs. Called with mu held.
func (v *vmState) current() *snapshot {
	if v.vm.Snapshot == nil || v.vm.Snapshot.CurrentSnapshot == nil {
		return nil
	}
	for _, s := range v.snapshots {
		if s.ref == *v.vm.Snapshot.CurrentSnapshot {
			return s
		}
	}
	return nil
}

// devicesOf is the VM's device list with every disk at the layer that the snapshot froze.
func (v *vmState) devicesOf(s *snapshot) []types.BaseVirtualDevice {
	list := copyDevices(v.vm.Config.Hardware.Device)
	for _, device := range list {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		if l := s.layers[disk.Key]; l != nil {
			point(disk, l, s.ids[disk.Key])
		}
	}
	return list
}

// publish shows the new tree, devices and layout to property collectors. Called under the VM's simulator lock.
func (v *vmState) publish(ctx *simulator.Context, info *types.VirtualMachineSnapshotInfo) {
	v.mu.Lock()
	devices := v.refreshDevices()
	v.layout()
	v.mu.Unlock()
	changes := []types.PropertyChange{
		{Name: "config.hardware.device", Val: devices},
		{Name: "layoutEx", Val: v.vm.LayoutEx},
	}
	if info == nil || len(info.RootSnapshotList) == 0 {
		changes = append(changes, types.PropertyChange{Name: "snapshot", Val: nil}, types.PropertyChange{Name: "rootSnapshot", Val: nil})
	} else {
		var roots []types.ManagedObjectReference
		for _, root := range info.RootSnapshotList {
			roots = append(roots, root.Snapshot)
		}
		changes = append(changes, types.PropertyChange{Name: "snapshot", Val: info}, types.PropertyChange{Name: "rootSnapshot", Val: roots})
	}
	ctx.Update(v.vm, changes)
}

// freeName is the lowest disk-00000N.vmdk that no layer uses. Called with mu held.
func (v *vmState) freeName(d *disk) string {
	used := map[string]bool{d.tip.name: true}
	for l := range v.layersOf(d) {
		used[l.name] = true
	}
	stem := strings.TrimSuffix(d.descriptor, ".vmdk")
	for n := 1; ; n++ {
		if name := fmt.Sprintf("%s-%06d.vmdk", stem, n); !used[name] {
			return name
		}
	}
}

// layersOf returns every layer that is still part of the disk, with the number of layers directly above it.
func (v *vmState) layersOf(d *disk) map[*layer]int {
	above := map[*layer]int{}
	walk := func(l *layer) {
		for ; l != nil; l = l.parent {
			if _, seen := above[l]; seen {
				return
			}
			above[l] = 0
		}
	}
	walk(d.tip)
	for _, s := range v.snapshots {
		walk(s.layers[d.key])
	}
	for l := range above {
		if l.parent != nil {
			above[l.parent]++
		}
	}
	return above
}

// consolidate merges every layer that neither a snapshot nor the VM needs any more.
func (v *vmState) consolidate() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range v.disks {
		for v.mergeOne(d) {
		}
	}
	return nil
}

func (v *vmState) mergeOne(d *disk) bool {
	above := v.layersOf(d)
	held := map[*layer]bool{d.tip: true}
	for _, s := range v.snapshots {
		held[s.layers[d.key]] = true
	}
	for child := range above {
		parent := child.parent
		if parent == nil || held[parent] || above[parent] != 1 {
			continue
		}
		if err := d.absorb(child); err != nil {
			panic(err) // our own disk is full: no state is reliable after that
		}
		return true
	}
	return false
}

// remove drops snapshots and, by default, merges their layers.
func (v *vmState) remove(ctx *simulator.Context, gone []*snapshot, merge bool) types.BaseMethodFault {
	v.mu.Lock()
	drop := map[types.ManagedObjectReference]*snapshot{}
	for _, s := range gone {
		drop[s.ref] = s
	}
	survivor := func(s *snapshot) *snapshot {
		for s != nil && drop[s.ref] != nil {
			s = s.parent
		}
		return s
	}
	current := survivor(v.current())
	var left []*snapshot
	for _, s := range v.snapshots {
		if drop[s.ref] == nil {
			s.parent = survivor(s.parent)
			left = append(left, s)
		}
	}
	orphans := v.orphans(left)
	v.snapshots = left
	v.mu.Unlock()
	for _, l := range orphans {
		l.unlink()
	}
	info := &types.VirtualMachineSnapshotInfo{}
	if v.vm.Snapshot != nil {
		info.RootSnapshotList = pruneTree(v.vm.Snapshot.RootSnapshotList, drop)
	}
	if current != nil {
		info.CurrentSnapshot = &current.ref
	}
	if merge {
		if err := v.consolidate(); err != nil {
			return &types.GenericVmConfigFault{Reason: err.Error()}
		}
	}
	v.publish(ctx, info)
	v.refreshSnapshots(ctx)
	for ref, s := range drop {
		ctx.Map.Remove(ctx, ref)
		v.sim.forget(s)
	}
	v.setConsolidation(ctx, !merge)
	return nil
}

// orphans finds layers that only removed snapshots used: a branch on which no VM runs.
func (v *vmState) orphans(left []*snapshot) []*layer {
	var orphans []*layer
	for _, d := range v.disks {
		all := v.layersOf(d)
		keep := map[*layer]bool{}
		mark := func(l *layer) {
			for ; l != nil && !keep[l]; l = l.parent {
				keep[l] = true
			}
		}
		mark(d.tip)
		for _, s := range left {
			mark(s.layers[d.key])
		}
		for l := range all {
			if !keep[l] {
				orphans = append(orphans, l)
			}
		}
	}
	return orphans
}

// refreshSnapshots shows the merged layers' names in the configs of the snapshots that are left.
func (v *vmState) refreshSnapshots(ctx *simulator.Context) {
	v.mu.Lock()
	left := append([]*snapshot(nil), v.snapshots...)
	v.mu.Unlock()
	for _, s := range left {
		if object, ok := ctx.Map.Get(s.ref).(*simulator.VirtualMachineSnapshot); ok {
			v.mu.Lock()
			list := copyDevices(object.Config.Hardware.Device)
			for _, device := range list {
				if disk, ok := device.(*types.VirtualDisk); ok && s.layers[disk.Key] != nil {
					point(disk, s.layers[disk.Key], s.ids[disk.Key])
				}
			}
			v.mu.Unlock()
			ctx.WithLock(object, func() { object.Config.Hardware.Device = list })
		}
	}
}

func (v *vmState) setConsolidation(ctx *simulator.Context, needed bool) {
	if *v.vm.Runtime.ConsolidationNeeded == needed {
		return
	}
	ctx.Update(v.vm, []types.PropertyChange{
		{Name: "runtime.consolidationNeeded", Val: needed},
		{Name: "summary.runtime.consolidationNeeded", Val: needed},
	})
}

// revert puts the VM on a new layer above the snapshot. Later writes are lost.
func (v *vmState) revert(ctx *simulator.Context, s *snapshot) types.BaseMethodFault {
	stale := v.sim.rules.take(event{kind: "revert_keeps_change_id", vm: v}) != nil
	v.mu.Lock()
	for _, d := range v.disks {
		if !d.frozenBy {
			continue
		}
		old := d.tip
		d.tip = d.newLayer(s.layers[d.key], "")
		d.tip.name = v.freeNameAbove(d, s)
		old.unlink()
		if d.tracking.on && !stale {
			d.tracking.start(uuid.NewString(), d.blocks())
		}
	}
	v.mu.Unlock()
	info := &types.VirtualMachineSnapshotInfo{CurrentSnapshot: &s.ref, RootSnapshotList: copyTree(v.vm.Snapshot.RootSnapshotList)}
	v.publish(ctx, info)
	v.setPower(ctx, types.VirtualMachinePowerStatePoweredOff) // snapshots here are without memory
	v.postEx(ctx, "com.vmware.vc.vm.VmStateRevertedToSnapshot", "The execution state has been reverted to the state of snapshot "+s.name)
	return nil
}

func (v *vmState) freeNameAbove(d *disk, s *snapshot) string {
	tip := d.tip
	d.tip = s.layers[d.key]
	name := v.freeName(d)
	d.tip = tip
	return name
}

// setPower connects or disconnects the cards too. Called under the VM's simulator lock.
func (v *vmState) setPower(ctx *simulator.Context, state types.VirtualMachinePowerState) {
	if v.vm.Runtime.PowerState == state {
		return
	}
	var booted types.AnyType
	if state == types.VirtualMachinePowerStatePoweredOn {
		booted = v.sim.now()
	}
	v.mu.Lock()
	v.shutting = false
	devices := v.switched(state == types.VirtualMachinePowerStatePoweredOn)
	v.mu.Unlock()
	v.record(state, devices)
	ctx.Update(v.vm, []types.PropertyChange{
		{Name: "config.hardware.device", Val: devices},
		{Name: "runtime.bootTime", Val: booted},
		{Name: "runtime.powerState", Val: state},
		{Name: "summary.runtime.bootTime", Val: booted},
		{Name: "summary.runtime.powerState", Val: state},
	})
	v.wake()
	v.guest()
}

// --- guest writes ---

func (v *vmState) guestWrite(index int, off int64, data []byte) error {
	if index < 0 || index >= len(v.disks) {
		return fmt.Errorf("%s has %d disks, no disk %d", v.spec.Name, len(v.disks), index)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.disks[index].write(off, data)
}
