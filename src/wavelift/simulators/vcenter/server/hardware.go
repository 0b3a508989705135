// Changes of a VM between two runs: disks grow, are added or removed, hosts lose power, hardware is upgraded.
package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// growth is a disk's new size.
type growth struct {
	Disk     int   `json:"disk"`
	Capacity int64 `json:"capacity"`
}

// grown is the bitmap for a larger disk.
func (b bitmap) grown(blocks int64) bitmap {
	larger := newBitmap(blocks)
	copy(larger, b)
	return larger
}

// grow extends a disk, which vSphere does only without snapshots. Its tracking continues under the same id: only its size
// shows that the disk has changed.
func (v *vmState) grow(ctx *simulator.Context, order growth) error {
	if order.Disk < 0 || order.Disk >= len(v.disks) {
		return badRequest("%s has no disk %d", v.spec.Name, order.Disk)
	}
	d := v.disks[order.Disk]
	if len(v.snapshots) > 0 || order.Capacity <= d.capacity || order.Capacity%sectorSize != 0 {
		return badRequest("disks grow, by whole sectors, and not under snapshots")
	}
	v.mu.Lock()
	d.capacity = order.Capacity
	blocks := d.blocks()
	for l := range v.layersOf(d) {
		l.have = l.have.grown(blocks)
	}
	d.base.alloc = d.base.alloc.grown(blocks)
	d.tracking.blocks = blocks
	for i, period := range d.tracking.periods {
		d.tracking.periods[i] = period.grown(blocks)
	}
	list := copyDevices(v.vm.Config.Hardware.Device)
	device := list.FindByKey(d.key).(*types.VirtualDisk)
	device.CapacityInBytes, device.CapacityInKB = order.Capacity, order.Capacity/1024
	v.vm.Config.Hardware.Device = list
	v.mu.Unlock()
	v.publish(ctx, v.vm.Snapshot)
	return nil
}

// plug adds a disk. As every new disk, it is tracked from the next stun.
func (v *vmState) plug(ctx *simulator.Context, spec diskSpec) error {
	if err := spec.measure(); err != nil {
		return badRequest("%s", err)
	}
	path := v.vm.Config.Files.VmPathName
	h := &hardware{spec: v.spec, dir: path[:strings.LastIndex(path, "/")], list: copyDevices(v.vm.Config.Hardware.Device)}
	device, label, err := h.disk(len(v.spec.Disks), spec) // removed disks count too: no name is used twice
	if err != nil {
		return badRequest("%s", err)
	}
	v.spec.Disks = append(v.spec.Disks, spec)
	v.mu.Lock()
	err = v.addDisk(device, spec, label)
	v.vm.Config.Hardware.Device = h.list
	v.mu.Unlock()
	if err != nil {
		return err
	}
	v.publish(ctx, v.vm.Snapshot)
	return nil
}

// unplug removes a disk. This is simulated only without snapshots, which would keep it.
func (v *vmState) unplug(ctx *simulator.Context, index int) error {
	if index < 0 || index >= len(v.disks) || len(v.snapshots) > 0 {
		return badRequest("%s has no disk %d, or snapshots that hold it", v.spec.Name, index)
	}
	v.mu.Lock()
	gone := v.disks[index]
	v.disks = slices.Delete(slices.Clone(v.disks), index, index+1)
	v.vm.Config.Hardware.Device = slices.DeleteFunc(copyDevices(v.vm.Config.Hardware.Device), func(d types.BaseVirtualDevice) bool {
		return d.GetVirtualDevice().Key == gone.key
	})
	v.mu.Unlock()
	v.publish(ctx, v.vm.Snapshot)
	return nil
}

// placing is a disk's new unit at its controller.
type placing struct {
	Disk int   `json:"disk"`
	Unit int32 `json:"unit"`
}

// place moves a disk to another unit, which changes only its key. A disk at that unit gets the old place.
func (v *vmState) place(ctx *simulator.Context, order placing) error {
	if order.Disk < 0 || order.Disk >= len(v.disks) || len(v.snapshots) > 0 {
		return badRequest("%s has no disk %d, or snapshots that hold it", v.spec.Name, order.Disk)
	}
	v.mu.Lock()
	list := copyDevices(v.vm.Config.Hardware.Device)
	d := v.disks[order.Disk]
	device := list.FindByKey(d.key).(*types.VirtualDisk)
	oldKey, oldUnit := d.key, *device.UnitNumber
	newKey := oldKey - oldUnit + order.Unit
	if there := v.diskByKey(newKey); there != nil && there != d {
		there.moveTo(list.FindByKey(newKey).(*types.VirtualDisk), oldKey, oldUnit)
	} else if c, ok := list.FindByKey(device.ControllerKey).(types.BaseVirtualController); ok {
		keys := c.GetVirtualController().Device
		keys[slices.Index(keys, oldKey)] = newKey
	}
	d.moveTo(device, newKey, order.Unit)
	last := 0
	for _, each := range v.disks {
		last = max(last, each.serial)
	}
	for _, each := range v.disks {
		each.serial = last // layer files are named by key and number: none may come twice
	}
	v.vm.Config.Hardware.Device = list
	v.mu.Unlock()
	v.publish(ctx, v.vm.Snapshot)
	return nil
}

func (d *disk) moveTo(device *types.VirtualDisk, key, unit int32) {
	d.key, d.label = key, d.label[:strings.LastIndex(d.label, ":")+1]+strconv.Itoa(int(unit))
	device.Key, device.UnitNumber = key, &unit
}

// losePower is a failure of the host of a running VM, which HA then starts on another host. The last change map was not
// written: tracking restarts or, with a rule, continues as if nothing were missing.
func (v *vmState) losePower(ctx *simulator.Context) error {
	if !v.running() {
		return badRequest("%s does not run", v.spec.Name)
	}
	stale := v.sim.rules.take(event{kind: "power_loss_keeps_change_id", vm: v}) != nil
	v.mu.Lock()
	for _, d := range v.disks {
		if d.tracking.on && !stale {
			d.tracking.start(uuid.NewString(), d.blocks())
		}
	}
	v.mu.Unlock()
	v.setPower(ctx, types.VirtualMachinePowerStatePoweredOff)
	if h := v.sim.otherHost(v); h != nil {
		v.sim.breakLeases(v)
		v.placeOn(ctx, h.ref)
	}
	v.switchOn(ctx)
	v.postEx(ctx, "com.vmware.vc.ha.VmRestartedByHAEvent", "vSphere HA restarted this virtual machine")
	return nil
}

// upgrade sets the hardware version.
func (v *vmState) upgrade(ctx *simulator.Context, version string) {
	ctx.Update(v.vm, []types.PropertyChange{{Name: "config.version", Val: version}})
}

// revertTo reverts to a snapshot by name or moref, as another administrator does.
func (v *vmState) revertTo(ctx *simulator.Context, name string) error {
	v.mu.Lock()
	at := slices.IndexFunc(v.snapshots, func(s *snapshot) bool { return s.name == name || s.ref.Value == name })
	var to *snapshot
	if at >= 0 {
		to = v.snapshots[at]
	}
	v.mu.Unlock()
	if to == nil {
		return badRequest("%s has no snapshot %q", v.spec.Name, name)
	}
	if fault := v.revert(ctx, to); fault != nil {
		return badRequest("%T", fault)
	}
	return nil
}
