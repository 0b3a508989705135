// Virtual hardware: controllers, disks, CD-ROM and network card with the keys that vSphere gives them.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// controllerKind holds the name of a kind of controller in device keys, and how its keys are numbered.
type controllerKind struct {
	label                       string
	firstKey, firstDisk, perBus int32
	make                        func(types.VirtualController) types.BaseVirtualDevice
}

func scsi(c types.VirtualController) types.VirtualSCSIController {
	hot := true
	return types.VirtualSCSIController{VirtualController: c, HotAddRemove: &hot, SharedBus: types.VirtualSCSISharingNoSharing, ScsiCtlrUnitNumber: 7}
}

var controllerKinds = map[string]controllerKind{
	"pvscsi": {"ParaVirtualSCSIController", 1000, 2000, 16, func(c types.VirtualController) types.BaseVirtualDevice {
		return &types.ParaVirtualSCSIController{VirtualSCSIController: scsi(c)}
	}},
	"lsilogic": {"VirtualLsiLogicController", 1000, 2000, 16, func(c types.VirtualController) types.BaseVirtualDevice {
		return &types.VirtualLsiLogicController{VirtualSCSIController: scsi(c)}
	}},
	"lsisas": {"VirtualLsiLogicSASController", 1000, 2000, 16, func(c types.VirtualController) types.BaseVirtualDevice {
		return &types.VirtualLsiLogicSASController{VirtualSCSIController: scsi(c)}
	}},
	"sata": {"VirtualAHCIController", 15000, 16000, 30, func(c types.VirtualController) types.BaseVirtualDevice {
		return &types.VirtualAHCIController{VirtualSATAController: types.VirtualSATAController{VirtualController: c}}
	}},
	"nvme": {"VirtualNVMEController", 31000, 32000, 15, func(c types.VirtualController) types.BaseVirtualDevice {
		return &types.VirtualNVMEController{VirtualController: c}
	}},
	"ide": {"VirtualIDEController", 200, 3000, 2, nil}, // every VM has both already
}

// hardware collects the device list of one new VM.
type hardware struct {
	spec *vmSpec
	dir  string // [datastore] folder
	list object.VirtualDeviceList
}

func (h *hardware) controller(d diskSpec) (types.BaseVirtualController, controllerKind, error) {
	name := orElse(d.Controller, "pvscsi")
	if name == "lsi" {
		name = "lsilogic"
	}
	kind, ok := controllerKinds[name]
	if !ok {
		return nil, kind, fmt.Errorf("unknown controller %q: pvscsi, lsilogic, lsisas, sata, ide or nvme", d.Controller)
	}
	key := kind.firstKey + d.Bus
	if found := h.list.FindByKey(key); found != nil {
		c, ok := found.(types.BaseVirtualController)
		if !ok || h.list.TypeName(found) != kind.label {
			return nil, kind, fmt.Errorf("bus %d already has a %s", d.Bus, h.list.TypeName(found))
		}
		return c, kind, nil
	}
	if kind.make == nil {
		return nil, kind, fmt.Errorf("there is no IDE bus %d", d.Bus)
	}
	unit := int32(len(h.list))
	c := kind.make(types.VirtualController{BusNumber: d.Bus, VirtualDevice: types.VirtualDevice{
		Key: key, ControllerKey: 100, UnitNumber: &unit,
		DeviceInfo: &types.Description{Label: fmt.Sprintf("%s %d", kind.label, d.Bus), Summary: kind.label},
	}})
	if s, ok := c.(types.BaseVirtualSCSIController); ok && d.BusSharing != "" {
		s.GetVirtualSCSIController().SharedBus = types.VirtualSCSISharing(d.BusSharing)
	}
	h.list = append(h.list, c)
	return c.(types.BaseVirtualController), kind, nil
}

// disk returns the device, and the part of its key that a lease uses.
func (h *hardware) disk(n int, d diskSpec) (*types.VirtualDisk, string, error) {
	c, kind, err := h.controller(d)
	if err != nil {
		return nil, "", err
	}
	stem := onDisk(h.spec.Name)
	name := stem + ".vmdk"
	if n > 0 {
		name = fmt.Sprintf("%s_%d.vmdk", stem, n)
	}
	unit := d.Unit
	device := &types.VirtualDisk{
		CapacityInBytes: d.Capacity, CapacityInKB: d.Capacity / 1024,
		VirtualDevice: types.VirtualDevice{
			Key: kind.firstDisk + d.Bus*kind.perBus + unit, ControllerKey: c.GetVirtualController().Key, UnitNumber: &unit,
			DeviceInfo: &types.Description{Label: fmt.Sprintf("Hard disk %d", n+1), Summary: fmt.Sprintf("%d KB", d.Capacity/1024)},
		},
		DiskObjectId: fmt.Sprintf("%d-%d", n+1, kind.firstDisk+d.Bus*kind.perBus+unit),
	}
	if h.list.FindByKey(device.Key) != nil {
		return nil, "", fmt.Errorf("two disks at %s %d:%d", kind.label, d.Bus, unit)
	}
	device.Backing = h.backing(n, d, h.dir+"/"+name)
	c.GetVirtualController().Device = append(c.GetVirtualController().Device, device.Key)
	h.list = append(h.list, device)
	return device, fmt.Sprintf("%s%d:%d", kind.label, d.Bus, unit), nil
}

func (h *hardware) backing(n int, d diskSpec, name string) types.BaseVirtualDeviceBackingInfo {
	file := types.VirtualDeviceFileBackingInfo{FileName: name, BackingObjectId: ""}
	id := fakeUUID(fmt.Sprintf("%s %d", name, n))
	mode := orElse(d.Mode, "persistent")
	if d.RDM != "" {
		return &types.VirtualDiskRawDiskMappingVer1BackingInfo{
			VirtualDeviceFileBackingInfo: file, DiskMode: mode, Uuid: id, LunUuid: hashID(id)[:40],
			DeviceName: "vml." + hashID(id)[:32], CompatibilityMode: d.RDM + "Mode",
		}
	}
	yes, no := true, false
	b := &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: file, DiskMode: mode, Uuid: id, ContentId: hashID(name)[:32],
		ThinProvisioned: &yes, EagerlyScrub: &no, WriteThrough: &no, Split: &no, DigestEnabled: &no,
		Sharing: orElse(d.Sharing, "sharingNone"),
	}
	if d.Thick {
		b.ThinProvisioned = &no
	}
	if d.Encrypted || h.spec.Encrypted {
		b.KeyId = &types.CryptoKeyId{KeyId: hashID(h.spec.Name)[:32], ProviderId: &types.KeyProviderId{Id: "kms1"}}
	}
	return b
}

func (h *hardware) cdrom() {
	unit := int32(0)
	connected := h.spec.CdromISO != ""
	drive := &types.VirtualCdrom{VirtualDevice: types.VirtualDevice{
		Key: 3002, ControllerKey: 201, UnitNumber: &unit,
		DeviceInfo:  &types.Description{Label: "CD/DVD drive 1", Summary: "Remote device"},
		Backing:     &types.VirtualCdromRemotePassthroughBackingInfo{},
		Connectable: &types.VirtualDeviceConnectInfo{StartConnected: connected, AllowGuestControl: true, Connected: connected},
	}}
	if connected {
		drive.DeviceInfo = &types.Description{Label: "CD/DVD drive 1", Summary: "ISO " + h.spec.CdromISO}
		drive.Backing = &types.VirtualCdromIsoBackingInfo{VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: h.spec.CdromISO}}
	}
	h.list = append(h.list, drive)
}

// addHardware gives the new VM its devices and opens its disks' files.
func (v *vmState) addHardware(dir string, find func(nicSpec) (lan, error)) error {
	vm := v.vm
	h := &hardware{spec: v.spec, dir: dir, list: copyDevices(vm.Config.Hardware.Device)}
	for i := range v.spec.Disks {
		d := &v.spec.Disks[i]
		if err := d.measure(); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
		device, label, err := h.disk(i, *d)
		if err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
		if err := v.addDisk(device, *d, label); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
	}
	h.cdrom()
	for i, spec := range v.spec.cards() {
		on, err := find(spec)
		if err == nil {
			err = h.nic(i, spec, on)
		}
		if err != nil {
			return fmt.Errorf("network card %d: %w", i, err)
		}
		v.join(on)
	}
	vm.Config.Hardware.Device = h.list
	vm.Summary.Config.NumVirtualDisks = int32(len(v.disks))
	vm.Summary.Config.NumEthernetCards = int32(len(v.spec.Nics))
	v.refreshDevices()
	return nil
}

// measure sets the capacity: as given, or the raw file's size.
func (d *diskSpec) measure() error {
	if d.Raw != "" && d.Capacity == 0 {
		info, err := os.Stat(d.Raw)
		if err != nil {
			return err
		}
		d.Capacity = info.Size()
	}
	if d.Capacity <= 0 || d.Capacity%sectorSize != 0 {
		return fmt.Errorf("a capacity of %d bytes: disks have whole sectors", d.Capacity)
	}
	return nil
}

func (v *vmState) addDisk(device *types.VirtualDisk, spec diskSpec, label string) error {
	from, err := openBase(spec.Raw, blocksOf(spec.Capacity))
	if err != nil {
		return err
	}
	name := device.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName
	d := &disk{
		spec: spec, key: device.Key, label: label, capacity: spec.Capacity, base: from, raw: spec.Raw, descriptor: name, dir: v.dir, guard: &v.mu, thick: spec.Thick,
		frozenBy: orElse(spec.Mode, "persistent") == "persistent" && spec.RDM != "physical",
	}
	d.tip = d.newLayer(nil, name)
	v.disks = append(v.disks, d)
	return v.descriptorFile(name)
}

// descriptorFile writes the small descriptor that a datastore browser finds; content is served from the layers.
func (v *vmState) descriptorFile(name string) error {
	path := v.localPath(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte("# Disk DescriptorFile\nversion=1\ncreateType=\"vmfs\"\n"), 0o600)
}

// localPath is the place of a datastore path in our folder.
func (v *vmState) localPath(name string) string {
	var p object.DatastorePath
	p.FromString(name)
	return filepath.Join(v.sim.work, "datastores", p.Datastore, filepath.FromSlash(p.Path))
}

// copyDevices copies every device and, for disks, the backing with its chain of parents: a snapshot must not see
// what happens to the VM's devices later.
func copyDevices(list []types.BaseVirtualDevice) object.VirtualDeviceList {
	out := make(object.VirtualDeviceList, 0, len(list))
	for _, device := range list {
		switch d := device.(type) {
		case *types.VirtualDisk:
			clone := *d
			clone.Backing = copyBacking(d.Backing)
			out = append(out, &clone)
		case *types.VirtualCdrom:
			clone := *d
			if d.Connectable != nil {
				connectable := *d.Connectable
				clone.Connectable = &connectable
			}
			out = append(out, &clone)
		case types.BaseVirtualEthernetCard:
			out = append(out, cloneCard(device))
		default:
			out = append(out, device)
		}
	}
	return out
}

func copyBacking(b types.BaseVirtualDeviceBackingInfo) types.BaseVirtualDeviceBackingInfo {
	switch b := b.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		clone := *b
		if b.Parent != nil {
			clone.Parent = copyBacking(b.Parent).(*types.VirtualDiskFlatVer2BackingInfo)
		}
		return &clone
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		clone := *b
		if b.Parent != nil {
			clone.Parent = copyBacking(b.Parent).(*types.VirtualDiskRawDiskMappingVer1BackingInfo)
		}
		return &clone
	}
	return b
}

// point sets the disk's backing to a layer: its file name, the chain below it, and the change id of the instant.
func point(device *types.VirtualDisk, top *layer, changeID string) {
	switch b := device.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		b.FileName, b.ChangeId, b.Parent = top.name, changeID, nil
		at := b
		for l := top.parent; l != nil; l = l.parent {
			parent := *b
			parent.FileName, parent.ChangeId, parent.Parent = l.name, "", nil
			at.Parent = &parent
			at = &parent
		}
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		b.FileName, b.ChangeId, b.Parent = top.name, changeID, nil
		at := b
		for l := top.parent; l != nil; l = l.parent {
			parent := *b
			parent.FileName, parent.ChangeId, parent.Parent = l.name, "", nil
			at.Parent = &parent
			at = &parent
		}
	}
}

func (v *vmState) diskByKey(key int32) *disk {
	for _, d := range v.disks {
		if d.key == key {
			return d
		}
	}
	return nil
}

// refreshDevices gives the VM a fresh device list whose disks show the current layers.
func (v *vmState) refreshDevices() []types.BaseVirtualDevice {
	list := copyDevices(v.vm.Config.Hardware.Device)
	for _, device := range list.SelectByType((*types.VirtualDisk)(nil)) {
		if d := v.diskByKey(device.GetVirtualDevice().Key); d != nil {
			point(device.(*types.VirtualDisk), d.tip, d.tracking.id())
		}
	}
	v.vm.Config.Hardware.Device = list
	return list
}

// layout fills layout, layoutEx and the storage summary from the layers.
func (v *vmState) layout() {
	vm := v.vm
	ex := &types.VirtualMachineFileLayoutEx{Timestamp: v.sim.now()}
	file := func(name, kind string, size int64) int32 {
		for _, f := range ex.File {
			if f.Name == name {
				return f.Key
			}
		}
		key := int32(len(ex.File))
		ex.File = append(ex.File, types.VirtualMachineFileLayoutExFileInfo{Key: key, Name: name, Type: kind, Size: size, UniqueSize: size})
		return key
	}
	file(vm.Config.Files.VmPathName, "config", 2048)
	objects := v.objects()
	vm.Layout.Disk = nil
	for _, d := range v.disks {
		entry := types.VirtualMachineFileLayoutExDiskLayout{Key: d.key}
		plain := types.VirtualMachineFileLayoutDiskLayout{Key: d.key}
		for l := d.tip; l != nil; l = l.parent {
			size := l.have.count() * blockSize
			if l.parent == nil {
				size += d.base.alloc.count() * blockSize
			}
			keys := []int32{file(l.name, "diskDescriptor", 512)}
			if !objects {
				keys = append(keys, file(extentName(l), "diskExtent", size))
			}
			entry.Chain = append([]types.VirtualMachineFileLayoutExDiskUnit{{FileKey: keys}}, entry.Chain...)
			plain.DiskFile = append([]string{l.name}, plain.DiskFile...)
		}
		ex.Disk = append(ex.Disk, entry)
		vm.Layout.Disk = append(vm.Layout.Disk, plain)
	}
	vm.LayoutEx = ex
	v.storage()
}

func (v *vmState) storage() {
	var committed, capacity int64
	for _, f := range v.vm.LayoutEx.File {
		committed += f.Size
	}
	for _, d := range v.disks {
		capacity += d.capacity
	}
	summary := &types.VirtualMachineStorageSummary{Committed: committed, Unshared: committed, Uncommitted: max(capacity-committed, 0), Timestamp: v.sim.now()}
	v.vm.Summary.Storage = summary
	v.vm.Storage = &types.VirtualMachineStorageInfo{Timestamp: v.sim.now(), PerDatastoreUsage: []types.VirtualMachineUsageOnDatastore{{
		Datastore: v.vm.Datastore[0], Committed: committed, Uncommitted: summary.Uncommitted, Unshared: committed,
	}}}
}

// extentName is the file that holds the bytes behind a descriptor.
func extentName(l *layer) string {
	stem := l.name[:len(l.name)-len(".vmdk")]
	if l.parent == nil {
		return stem + "-flat.vmdk"
	}
	return stem + "-sesparse.vmdk"
}
