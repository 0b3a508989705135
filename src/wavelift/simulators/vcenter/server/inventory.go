// Builds the vCenter from an inventory.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// builder makes the inventory through the simulator's own API, in process.
type builder struct {
	sim     *sim
	ctx     context.Context
	client  *vim25.Client
	inv     *inventory
	cluster *object.ClusterComputeResource
	pool    *object.ResourcePool
	folders *object.DatacenterFolders
	hosts   map[string]types.ManagedObjectReference
	taken   map[string]bool // directories on datastores
	strict  bool            // places and networks must be there already
}

func (s *sim) build(inv *inventory) error {
	ctx := context.Background()
	client, err := vim25.NewClient(ctx, s.model.Service)
	if err != nil {
		return err
	}
	b := &builder{sim: s, ctx: ctx, client: client, inv: inv, hosts: map[string]types.ManagedObjectReference{}, taken: map[string]bool{}}
	s.builder = b
	dc, err := object.NewRootFolder(client).CreateDatacenter(ctx, inv.Options.Datacenter)
	if err != nil {
		return err
	}
	if b.folders, err = dc.Folders(ctx); err != nil {
		return err
	}
	if b.cluster, err = b.folders.HostFolder.CreateCluster(ctx, "cluster1", types.ClusterConfigSpecEx{}); err != nil {
		return err
	}
	if b.pool, err = b.cluster.ResourcePool(ctx); err != nil {
		return err
	}
	for _, h := range inv.Hosts {
		if err := b.host(h); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	for _, h := range inv.Hosts {
		b.product(h)
	}
	for _, d := range inv.Datastores {
		if err := b.datastore(d); err != nil {
			return fmt.Errorf("datastore %s: %w", d.Name, err)
		}
	}
	for i := range inv.VMs {
		if _, err := b.vm(&inv.VMs[i]); err != nil {
			return fmt.Errorf("virtual machine %s: %w", inv.VMs[i].Name, err)
		}
	}
	if err := s.pairUp(); err != nil {
		return err
	}
	for _, d := range inv.Datastores {
		b.fillDatastore(d)
	}
	for _, v := range s.all() {
		v.layout() // once more, now that it shows what its datastore is
	}
	err = b.extraVMs(inv.Options.ExtraVMs)
	b.strict = true
	return err
}

func (b *builder) host(spec hostSpec) error {
	task, err := b.cluster.AddHost(b.ctx, types.HostConnectSpec{HostName: spec.Name}, true, nil, nil)
	if err != nil {
		return err
	}
	info, err := task.WaitForResult(b.ctx, nil)
	if err != nil {
		return err
	}
	ref := info.Result.(types.ManagedObjectReference)
	b.hosts[spec.Name] = ref
	host := b.sim.model.Map().Get(ref).(*simulator.HostSystem)
	if spec.Connection != "" {
		host.Runtime.ConnectionState = types.HostSystemConnectionState(spec.Connection)
		host.Summary.Runtime.ConnectionState = host.Runtime.ConnectionState
	}
	return b.sim.startHost(host, spec)
}

// product runs after all hosts are there: adding one parses the others' versions, and doesn't know all of them.
func (b *builder) product(spec hostSpec) {
	host := b.sim.model.Map().Get(b.hosts[spec.Name]).(*simulator.HostSystem)
	version, build := orElse(spec.Version, "8.0.3"), orElse(spec.Build, "24022510")
	product := *host.Summary.Config.Product
	product.Version, product.Build = version, build
	product.FullName = fmt.Sprintf("VMware ESXi %s build-%s", version, build)
	host.Summary.Config.Product = &product
	host.Config.Product = product
}

func (b *builder) datastore(spec datastoreSpec) error {
	dir := filepath.Join(b.sim.work, "datastores", spec.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, ref := range b.hosts {
		system, err := object.NewHostSystem(b.client, ref).ConfigManager().DatastoreSystem(b.ctx)
		if err != nil {
			return err
		}
		if _, err := system.CreateLocalDatastore(b.ctx, spec.Name, dir); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) findDatastore(name string) *simulator.Datastore {
	for _, e := range b.sim.model.Map().All("Datastore") {
		if ds := e.(*simulator.Datastore); ds.Name == name {
			return ds
		}
	}
	return nil
}

// fillDatastore runs after the VMs: creating a disk subtracts from the free space, at its full size.
func (b *builder) fillDatastore(spec datastoreSpec) {
	ds := b.findDatastore(spec.Name)
	kind := orElse(spec.Type, "VMFS6")
	info := types.DatastoreInfo{Name: spec.Name, Url: ds.Summary.Url, MaxFileSize: 64 << 40}
	ds.Summary.Type = map[string]string{"VMFS5": "VMFS", "VMFS6": "VMFS"}[kind]
	switch kind {
	case "VMFS5", "VMFS6":
		major := int32(kind[4] - '0')
		ds.Info = &types.VmfsDatastoreInfo{DatastoreInfo: info, Vmfs: &types.HostVmfsVolume{
			HostFileSystemVolume: types.HostFileSystemVolume{Type: "VMFS", Name: spec.Name},
			MajorVersion:         major, Version: map[int32]string{5: "5.81", 6: "6.82"}[major], BlockSizeMb: 1,
			Uuid: hashID(spec.Name)[:8] + "-" + hashID(spec.Name)[8:16],
		}}
	default:
		ds.Summary.Type = kind
	}
	ds.Summary.Capacity = orElse(spec.Capacity, 16<<40)
	ds.Summary.FreeSpace = orElse(spec.Free, ds.Summary.Capacity/2)
	shared := true
	ds.Summary.MultipleHostAccess = &shared
	ds.Info.GetDatastoreInfo().FreeSpace = ds.Summary.FreeSpace
}

func orElse[T comparable](value, other T) T {
	var zero T
	if value == zero {
		return other
	}
	return value
}

func hashID(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// folder finds or makes a path below the datacenter's vm folder; its parts are names as vSphere stores them. An id of a
// folder is one too.
func (b *builder) folder(name string) (*object.Folder, error) {
	at := b.folders.VmFolder
	if ref := (types.ManagedObjectReference{Type: "Folder", Value: name}); b.sim.model.Map().Get(ref) != nil {
		return object.NewFolder(b.client, ref), nil
	}
	for _, part := range strings.Split(strings.Trim(name, "/"), "/") {
		if part == "" {
			continue
		}
		m := b.sim.model.Map()
		parent := m.Get(at.Reference()).(*simulator.Folder)
		if child := m.FindByName(part, parent.ChildEntity); child != nil {
			if child.Reference().Type != "Folder" {
				return nil, badRequest("%q is no folder", part)
			}
			at = object.NewFolder(b.client, child.Reference())
			continue
		}
		if b.strict {
			return nil, badRequest("no folder %q", name)
		}
		child, err := at.CreateFolder(b.ctx, plain.Replace(part)) // which escapes it again
		if err != nil {
			return nil, err
		}
		at = child
	}
	return at, nil
}

// directory is the VM's folder on its datastore; the second VM of a name gets another, as on a real one.
func (b *builder) directory(datastore, name string) string {
	for n := 0; ; n++ {
		dir := name
		if n > 0 {
			dir = fmt.Sprintf("%s_%d", name, n)
		}
		if key := datastore + "/" + dir; !b.taken[key] {
			b.taken[key] = true
			return dir
		}
	}
}

func (b *builder) vm(spec *vmSpec) (*vmState, error) {
	folder, err := b.folder(spec.Folder)
	if err != nil {
		return nil, err
	}
	pool, err := b.poolAt(spec.Pool)
	if err != nil {
		return nil, err
	}
	if spec.Datastore, err = b.datastoreName(spec.Datastore); err != nil {
		return nil, err
	}
	if err := b.checkCards(spec); err != nil {
		return nil, err
	}
	hostName := orElse(spec.Host, b.inv.Hosts[len(b.sim.vms)%len(b.inv.Hosts)].Name)
	hostRef, ok := b.hosts[hostName]
	if !ok {
		return nil, badRequest("no host is named %s", hostName)
	}
	dir := b.directory(spec.Datastore, onDisk(spec.Name))
	config := types.VirtualMachineConfigSpec{
		Name: spec.Name, GuestId: orElse(spec.GuestID, "otherGuest"), Firmware: orElse(spec.Firmware, "bios"),
		Annotation: spec.Annotation, NumCPUs: orElse(spec.Cpus, 2), MemoryMB: orElse(spec.MemoryMB, 2048),
		Version: orElse(spec.Hardware, "vmx-19"),
		Files:   &types.VirtualMachineFileInfo{VmPathName: fmt.Sprintf("[%s] %s/%s.vmx", spec.Datastore, dir, onDisk(spec.Name))},
	}
	if spec.SecureBoot {
		config.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(true)}
	}
	task, err := folder.CreateVM(b.ctx, config, pool, object.NewHostSystem(b.client, hostRef))
	if err != nil {
		return nil, err
	}
	info, err := task.WaitForResult(b.ctx, nil)
	if err != nil {
		return nil, err
	}
	vm := b.sim.model.Map().Get(info.Result.(types.ManagedObjectReference)).(*simulator.VirtualMachine)
	var v *vmState
	b.sim.context().WithLock(vm, func() { v, err = b.adopt(vm, spec, fmt.Sprintf("[%s] %s", spec.Datastore, dir)) })
	if err != nil {
		half := &vmState{sim: b.sim, vm: vm, spec: spec, dir: filepath.Join(b.sim.work, "layers", vm.Self.Value)}
		return nil, errors.Join(err, half.takeAway())
	}
	return v, nil
}

// adopt sets values that the simulator's API can't set, and registers our state of the VM.
func (b *builder) adopt(vm *simulator.VirtualMachine, spec *vmSpec, dir string) (*vmState, error) {
	v := &vmState{sim: b.sim, vm: vm, spec: spec, dir: filepath.Join(b.sim.work, "layers", vm.Self.Value)}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return nil, err
	}
	vm.Config.GuestFullName = orElse(spec.GuestFullName, vm.Config.GuestId)
	vm.Summary.Config.GuestFullName = vm.Config.GuestFullName
	vm.Config.Uuid = orElse(spec.UUID, vm.Config.Uuid)
	vm.Summary.Config.Uuid = vm.Config.Uuid
	vm.Config.InstanceUuid = orElse(spec.InstanceUUID, vm.Config.InstanceUuid)
	vm.Summary.Config.InstanceUuid = vm.Config.InstanceUuid
	vm.Config.Template = spec.Template
	vm.Summary.Config.Template = spec.Template
	// ctx.Update of an unset pointer panics, so these are set from the start
	vm.Runtime.ConsolidationNeeded = types.NewBool(spec.Consolidation)
	vm.Summary.Runtime.ConsolidationNeeded = vm.Runtime.ConsolidationNeeded
	vm.Config.ChangeTrackingEnabled = types.NewBool(spec.Tracking)
	vm.Capability.ChangeTrackingSupported = types.NewBool(true)
	vm.Capability.SnapshotOperationsSupported = true
	vm.Runtime.PowerState = types.VirtualMachinePowerState(orElse(spec.Power, "poweredOn"))
	if v.running() {
		booted := b.sim.now()
		vm.Runtime.BootTime = &booted
	}
	vm.Summary.Runtime = vm.Runtime
	if spec.Encrypted {
		vm.Config.KeyId = &types.CryptoKeyId{KeyId: hashID(spec.Name)[:32], ProviderId: &types.KeyProviderId{Id: "kms1"}}
	}
	if err := v.manage(); err != nil {
		return nil, err
	}
	if err := v.addHardware(dir, b.lan); err != nil {
		return nil, err
	}
	if spec.Template {
		v.leavePool()
	}
	v.record(vm.Runtime.PowerState, vm.Config.Hardware.Device)
	v.wake()
	v.guest()
	if spec.Tracking {
		v.startTracking()
		v.refreshDevices()
	}
	b.sim.add(v)
	for _, name := range spec.Snapshots {
		v.snapshotNow(b.sim.context(), name, "made with the inventory", false)
	}
	if spec.OnDelta {
		if err := v.leaveDelta(b.sim.context()); err != nil {
			return nil, err
		}
	}
	v.layout()
	return v, nil
}

// guest fills what VMware Tools would report.
func (v *vmState) guest() {
	vm, spec := v.vm, v.spec
	running := vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
	tools := orElse(spec.Tools, "running")
	g := vm.Guest
	g.GuestId = vm.Config.GuestId
	g.GuestFullName = vm.Config.GuestFullName
	g.GuestState = string(types.VirtualMachineGuestStateNotRunning)
	if running {
		g.GuestState = string(types.VirtualMachineGuestStateRunning)
	}
	switch {
	case tools == "not_installed":
		g.ToolsStatus = types.VirtualMachineToolsStatusToolsNotInstalled
		g.ToolsVersionStatus2 = string(types.VirtualMachineToolsVersionStatusGuestToolsNotInstalled)
	case tools == "running" && running && !v.waking:
		g.ToolsStatus = types.VirtualMachineToolsStatusToolsOk
		g.ToolsVersionStatus2 = string(types.VirtualMachineToolsVersionStatusGuestToolsCurrent)
	default:
		g.ToolsStatus = types.VirtualMachineToolsStatusToolsNotRunning
		g.ToolsVersionStatus2 = string(types.VirtualMachineToolsVersionStatusGuestToolsCurrent)
	}
	g.ToolsVersion = map[bool]string{true: "0", false: "12389"}[tools == "not_installed"]
	g.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
	g.Disk = nil
	if v.toolsRunning() {
		for _, fs := range spec.FileSystems {
			g.Disk = append(g.Disk, types.GuestDiskInfo{DiskPath: fs[0], FilesystemType: fs[1]})
		}
		g.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
		g.HostName = orElse(spec.HostName, spec.Name)
	}
	g.Net, g.IpAddress = v.guestNet(), ""
	for _, card := range g.Net {
		if g.IpAddress == "" && len(card.IpAddress) > 0 {
			g.IpAddress = card.IpAddress[0]
		}
	}
	vm.Summary.Guest = &types.VirtualMachineGuestSummary{
		GuestId: g.GuestId, GuestFullName: g.GuestFullName, ToolsStatus: g.ToolsStatus,
		ToolsVersionStatus2: g.ToolsVersionStatus2, ToolsRunningStatus: g.ToolsRunningStatus,
		HostName: g.HostName, IpAddress: g.IpAddress,
	}
}

func (v *vmState) toolsRunning() bool {
	return v.vm.Guest.ToolsStatus == types.VirtualMachineToolsStatusToolsOk
}

// extraVMs copies one VM many times: enough for inventory tests, and a thousand take milliseconds instead of the
// half minute that creating them one by one takes.
func (b *builder) extraVMs(n int) error {
	if n == 0 {
		return nil
	}
	folder, err := b.folder("bulk")
	if err != nil {
		return err
	}
	template := vmSpec{Name: "bulk-0000", Folder: "bulk", Power: "poweredOff", Tools: "not_running", Disks: []diskSpec{{Capacity: 16 << 30}}}
	if _, err := b.vm(&template); err != nil {
		return err
	}
	m := b.sim.model.Map()
	first := b.sim.vms[len(b.sim.vms)-1]
	parent := m.Get(folder.Reference()).(*simulator.Folder)
	host := m.Get(*first.vm.Runtime.Host).(*simulator.HostSystem)
	datastore := m.Get(first.vm.Datastore[0]).(*simulator.Datastore)
	pool := m.Get(*first.vm.ResourcePool).(*simulator.ResourcePool)
	for i := 1; i < n; i++ {
		vm := b.copyVM(first.vm, fmt.Sprintf("bulk-%04d", i))
		m.PutEntity(parent, vm)
		vm.Summary.Vm = &vm.Self
		parent.ChildEntity = append(parent.ChildEntity, vm.Self)
		host.Vm = append(host.Vm, vm.Self)
		datastore.Vm = append(datastore.Vm, vm.Self)
		pool.Vm = append(pool.Vm, vm.Self)
	}
	return nil
}

func (b *builder) copyVM(from *simulator.VirtualMachine, name string) *simulator.VirtualMachine {
	vm := &simulator.VirtualMachine{VirtualMachine: from.VirtualMachine}
	vm.Self = types.ManagedObjectReference{}
	vm.RecentTask, vm.Snapshot, vm.RootSnapshot = nil, nil, nil
	config, guest := *from.Config, *from.Guest
	vm.Config, vm.Guest = &config, &guest
	config.Hardware.Device = copyDevices(from.Config.Hardware.Device)
	vm.Name, config.Name, vm.Summary.Config.Name = name, name, name
	config.Uuid, config.InstanceUuid = fakeUUID("bios"+name), fakeUUID("instance"+name)
	vm.Summary.Config.Uuid, vm.Summary.Config.InstanceUuid = config.Uuid, config.InstanceUuid
	guest.HostName = name
	config.Files.VmPathName = strings.ReplaceAll(config.Files.VmPathName, from.Name, name)
	vm.Summary.Config.VmPathName = config.Files.VmPathName
	for _, d := range config.Hardware.Device {
		if disk, ok := d.(*types.VirtualDisk); ok {
			backing := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			backing.FileName = strings.ReplaceAll(backing.FileName, from.Name, name)
		}
	}
	return vm
}

func fakeUUID(text string) string {
	h := hashID(text)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:32]}, "-")
}

// entityPath is the inventory path below the datacenter's vm folder, for messages and the state dump.
func (s *sim) entityPath(e mo.Entity) string {
	var parts []string
	m := s.model.Map()
	for parent := e.Entity().Parent; parent != nil; {
		p, ok := m.Get(*parent).(mo.Entity)
		if !ok || p.Entity().Parent == nil || p.Entity().Parent.Type == "Datacenter" {
			break
		}
		parts = append([]string{p.Entity().Name}, parts...)
		parent = p.Entity().Parent
	}
	return path.Join(parts...)
}
