// Change tracking: the write log behind changeId, and the queries of changed areas.
package main

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// tracking is the write log behind changeId: one bitmap per period between two snapshots. It outlives the layers,
// as the ids stay usable after their snapshot is gone.
type tracking struct {
	on      bool
	deaf    bool // begun above a delta: it misses what is written, and no error says so (Veritas KB 100033481)
	uuid    string
	periods []bitmap // periods[n]: blocks written between sequence number n and n+1
	blocks  int64
}

func (t *tracking) start(uuid string, blocks int64) {
	*t = tracking{on: true, uuid: uuid, blocks: blocks, periods: []bitmap{newBitmap(blocks)}}
}

func (t *tracking) stop() { *t = tracking{} }

func (t *tracking) written(block int64) {
	if t.on && !t.deaf {
		t.periods[len(t.periods)-1].set(block)
	}
}

// mark opens a new period and returns the id of this instant.
func (t *tracking) mark() string {
	if !t.on {
		return ""
	}
	t.periods = append(t.periods, newBitmap(t.blocks))
	return t.id()
}

func (t *tracking) id() string {
	if !t.on {
		return ""
	}
	return fmt.Sprintf("%s/%d", t.uuid, len(t.periods)-1)
}

// since returns the blocks written in the periods [from, to).
func (t *tracking) since(from, to int) bitmap {
	changed := newBitmap(t.blocks)
	for _, period := range t.periods[from:to] {
		changed.add(period)
	}
	return changed
}

// startTracking gives every tracked disk a new lineage.
func (v *vmState) startTracking() {
	for _, d := range v.disks {
		if d.frozenBy {
			d.tracking.start(uuid.NewString(), d.blocks())
		}
	}
}

// applyTracking runs at a stun (power on, snapshot): only then does the flag take effect. Called with mu held.
func (v *vmState) applyTracking() {
	wanted := v.vm.Config.ChangeTrackingEnabled != nil && *v.vm.Config.ChangeTrackingEnabled
	for _, d := range v.disks {
		switch {
		case wanted && !d.tracking.on && d.frozenBy:
			d.tracking.start(uuid.NewString(), d.blocks())
			d.tracking.deaf = d.tip.parent != nil
		case !wanted:
			d.tracking.stop()
		}
	}
}

// poweredOn is the stun of a power-on, seen from the control of the power task.
func (v *vmState) poweredOn(ctx *simulator.Context) {
	ctx.WithLock(v.vm, func() {
		v.mu.Lock()
		v.applyTracking()
		devices := v.refreshDevices()
		v.mu.Unlock()
		ctx.Update(v.vm, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
		v.guest()
	})
}

// QueryChangedDiskAreas answers from the write log. Each answer covers less than the whole disk.
func (m *machine) QueryChangedDiskAreas(ctx *simulator.Context, req *types.QueryChangedDiskAreas) soap.HasFault {
	body := &methods.QueryChangedDiskAreasBody{}
	info, fault := m.changed(req)
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.QueryChangedDiskAreasResponse{Returnval: *info}
	}
	return body
}

func (m *machine) changed(req *types.QueryChangedDiskAreas) (*types.DiskChangeInfo, types.BaseMethodFault) {
	v := m.v
	rules := m.sim.rules
	if r := rules.take(event{kind: "cbt", vm: v, actions: []string{"fault"}}); r != nil {
		return nil, r.fault(v.vm.Self)
	}
	d := v.diskByKey(req.DeviceKey)
	if d == nil {
		return nil, &types.InvalidArgument{InvalidProperty: "deviceKey"}
	}
	if req.StartOffset < 0 || req.StartOffset >= d.capacity {
		return nil, &types.InvalidArgument{InvalidProperty: "startOffset"}
	}
	var snap *snapshot
	if req.Snapshot != nil {
		if snap = v.findSnapshot(*req.Snapshot); snap == nil {
			return nil, &types.ManagedObjectNotFound{Obj: *req.Snapshot}
		}
	} else if v.running() {
		return nil, &types.InvalidArgument{InvalidProperty: "snapshot"} // optional only for a VM that is off
	}
	blocks, unit, fault := v.changedBlocks(d, snap, req.ChangeId)
	if fault != nil {
		return nil, fault
	}
	window := m.sim.options.ChangedAreaWindow
	if rules.take(event{kind: "cbt", vm: v, actions: []string{"full_window"}}) != nil {
		window = d.capacity
	}
	info := &types.DiskChangeInfo{StartOffset: req.StartOffset, Length: min(window, d.capacity-req.StartOffset)}
	if rules.take(event{kind: "cbt", vm: v, actions: []string{"whole_disk"}}) != nil {
		info.ChangedArea = []types.DiskChangeExtent{{Start: info.StartOffset, Length: info.Length}}
		return info, nil
	}
	info.ChangedArea = extents(blocks, unit, info.StartOffset, info.StartOffset+info.Length, d.capacity)
	if r := rules.take(event{kind: "cbt", vm: v, actions: []string{"few_areas"}}); r != nil && len(info.ChangedArea) > 0 {
		rules.note(r, "withheld %d bytes at %d", info.ChangedArea[0].Length, info.ChangedArea[0].Start)
		info.ChangedArea = info.ChangedArea[1:]
	}
	return info, nil
}

// changedBlocks resolves a change id, or "*" for the areas in use.
func (v *vmState) changedBlocks(d *disk, snap *snapshot, id string) (func(int64) bool, int64, types.BaseMethodFault) {
	v.mu.Lock()
	defer v.mu.Unlock()
	file := types.FileFault{File: d.descriptor}
	if !d.tracking.on {
		return nil, 0, &file
	}
	to := len(d.tracking.periods)
	top := d.tip
	if snap != nil {
		if to = snap.changes[d.key]; to < 0 {
			return nil, 0, &file
		}
		top = snap.layers[d.key]
	}
	if id == "*" && !v.onVMFS() {
		return func(int64) bool { return true }, allocationUnit, nil // one extent over everything (KB 320557)
	}
	if id == "*" {
		view := d.image(top)
		used := newBitmap(d.blocks())
		for i := int64(0); i < d.blocks(); i++ {
			if view.allocated(i) {
				used.set(i)
			}
		}
		return used.has, allocationUnit, nil
	}
	lineage, number, ok := strings.Cut(id, "/")
	var from int
	if _, err := fmt.Sscanf(number, "%d", &from); !ok || err != nil {
		return nil, 0, &types.InvalidArgument{InvalidProperty: "changeId"}
	}
	if lineage != d.tracking.uuid || from < 0 || from > to || from >= len(d.tracking.periods) {
		return nil, 0, &file
	}
	return d.tracking.since(from, to).has, blockSize, nil
}

// extents joins neighbouring blocks and rounds out to the unit, inside the window.
func extents(has func(int64) bool, unit, from, to, capacity int64) []types.DiskChangeExtent {
	var out []types.DiskChangeExtent
	for at := from / unit * unit; at < to; at += unit {
		used := false
		for i := at / blockSize; i*blockSize < min(at+unit, capacity) && !used; i++ {
			used = has(i)
		}
		if !used {
			continue
		}
		start, end := max(at, from), min(at+unit, to)
		if n := len(out); n > 0 && out[n-1].Start+out[n-1].Length == start {
			out[n-1].Length += end - start
		} else {
			out = append(out, types.DiskChangeExtent{Start: start, Length: end - start})
		}
	}
	return out
}
