// What leaves one vCenter and appears in another: control calls that add a VM, take it away, and change its cards and
// names. HCX does this to real ones.
package main

import (
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func (s *sim) inventoryCalls(on func(string, func(*http.Request) (any, error))) {
	on("GET /_sim/inventory", func(*http.Request) (any, error) { return s.places(), nil })
	on("POST /_sim/network/add", s.controlAddNetwork)
	on("POST /_sim/network/remove", s.controlRemoveNetwork)
	on("POST /_sim/folder/add", s.controlAddFolder)
	on("POST /_sim/pool/add", s.controlAddPool)
	on("POST /_sim/vm/add", s.controlAddVM)
	on("GET /_sim/vm/get", s.controlGetVM)
	on("POST /_sim/vm/remove", s.controlRemoveVM)
	on("POST /_sim/vm/rename", s.controlRenameVM)
	on("POST /_sim/vm/nic", s.controlNic)
}

func parts(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(part string) bool { return part == "" })
}

func (s *sim) instanceUUID() string { return s.serviceInstance().Content.About.InstanceUuid }

func (s *sim) setInstanceUUID(id string) { s.serviceInstance().Content.About.InstanceUuid = id }

func (s *sim) serviceInstance() *simulator.ServiceInstance {
	return s.model.Map().Get(types.ManagedObjectReference{Type: "ServiceInstance", Value: "ServiceInstance"}).(*simulator.ServiceInstance)
}

// --- places ---

type placeDump struct {
	Moref string `json:"moref"`
	Name  string `json:"name"`
	Path  string `json:"path"`
}

// places are what a VM can be put into.
func (s *sim) places() map[string]any {
	list := func(kind string) []placeDump {
		found := []placeDump{}
		all := s.model.Map().All(kind)
		slices.SortFunc(all, byID)
		for _, e := range all {
			ref := e.Reference()
			found = append(found, placeDump{ref.Value, plain.Replace(e.Entity().Name), s.pathOf(ref)})
		}
		return found
	}
	nets := []networkDump{}
	for _, entity := range s.networks() {
		nets = append(nets, s.dumpNetwork(entity))
	}
	return map[string]any{
		"instance_uuid": s.instanceUUID(), "networks": nets, "datacenters": list("Datacenter"), "clusters": list("ClusterComputeResource"),
		"folders": list("Folder"), "pools": list("ResourcePool"), "datastores": list("Datastore"), "hosts": list("HostSystem"),
	}
}

// poolAt finds or makes a resource pool below the cluster's root pool, by path or id.
func (b *builder) poolAt(name string) (*object.ResourcePool, error) {
	m := b.sim.model.Map()
	if ref := (types.ManagedObjectReference{Type: "ResourcePool", Value: name}); m.Get(ref) != nil {
		return object.NewResourcePool(b.client, ref), nil
	}
	at := b.pool
	for i, part := range parts(name) {
		if i == 0 && part == "Resources" {
			continue
		}
		parent := m.Get(at.Reference()).(*simulator.ResourcePool)
		if child := m.FindByName(part, parent.ResourcePool.ResourcePool); child != nil {
			at = object.NewResourcePool(b.client, child.Reference())
			continue
		}
		if b.strict {
			return nil, badRequest("no resource pool %q", name)
		}
		made, err := at.Create(b.ctx, part, types.DefaultResourceConfigSpec())
		if err != nil {
			return nil, err
		}
		at = made
	}
	return at, nil
}

// datastoreName is the name of a datastore that is given by name or id; "": the first.
func (b *builder) datastoreName(name string) (string, error) {
	if name == "" {
		return b.inv.Datastores[0].Name, nil
	}
	for _, e := range b.sim.model.Map().All("Datastore") {
		if ds := e.(*simulator.Datastore); ds.Name == name || ds.Self.Value == name {
			return ds.Name, nil
		}
	}
	return "", badRequest("no datastore is named %q", name)
}

// make runs f while places may be made.
func (s *sim) make(f func(b *builder) (any, error)) (any, error) {
	s.building.Lock()
	defer s.building.Unlock()
	s.builder.strict = false
	defer func() { s.builder.strict = true }()
	return f(s.builder)
}

func (s *sim) controlAddNetwork(r *http.Request) (any, error) {
	var order networkSpec
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	return s.make(func(b *builder) (any, error) {
		entity, err := b.network(order)
		if err != nil {
			return nil, err
		}
		return s.dumpNetwork(entity), nil
	})
}

func (s *sim) controlRemoveNetwork(r *http.Request) (any, error) {
	var order struct {
		Network string `json:"network"`
	}
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	s.building.Lock()
	defer s.building.Unlock()
	found := s.networksNamed(order.Network)
	if len(found) != 1 {
		return nil, badRequest("%d networks are named %q", len(found), order.Network)
	}
	if d := s.dumpNetwork(found[0]); len(d.VMs) > 0 {
		return nil, badRequest("%s has cards of %s", order.Network, strings.Join(d.VMs, ", "))
	}
	m, ctx, self := s.model.Map(), s.context(), found[0].Reference()
	for _, e := range m.All("Datacenter") {
		dc := e.(*simulator.Datacenter)
		m.RemoveReference(ctx, dc, &dc.Network, self)
	}
	if folder, ok := m.Get(*found[0].Entity().Parent).(*simulator.Folder); ok {
		m.RemoveReference(ctx, folder, &folder.ChildEntity, self)
	}
	m.Remove(ctx, self)
	return struct{}{}, nil
}

func (s *sim) controlAddFolder(r *http.Request) (any, error) {
	var order struct {
		Path string `json:"path"`
	}
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	return s.make(func(b *builder) (any, error) {
		folder, err := b.folder(order.Path)
		if err != nil {
			return nil, err
		}
		ref := folder.Reference()
		return placeDump{ref.Value, path.Base(order.Path), s.pathOf(ref)}, nil
	})
}

func (s *sim) controlAddPool(r *http.Request) (any, error) {
	var order struct {
		Path string `json:"path"`
	}
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	return s.make(func(b *builder) (any, error) {
		pool, err := b.poolAt(order.Path)
		if err != nil {
			return nil, err
		}
		ref := pool.Reference()
		return placeDump{ref.Value, path.Base(order.Path), s.pathOf(ref)}, nil
	})
}

// --- virtual machines ---

type addedVM struct {
	Moref        string    `json:"moref"`
	Path         string    `json:"path"` // of its folder and name, below the data centre's vm folder
	UUID         string    `json:"uuid"`
	InstanceUUID string    `json:"instance_uuid"`
	Nics         []nicDump `json:"nics"`
}

// controlAddVM adds one. Its folder, pool, datastore and networks must be there.
func (s *sim) controlAddVM(r *http.Request) (any, error) {
	var spec vmSpec
	if err := decode(r, &spec); err != nil {
		return nil, err
	}
	if spec.Name == "" || (spec.Template && orElse(spec.Power, "poweredOn") == "poweredOn") {
		return nil, badRequest("a virtual machine has a name, and a template is off")
	}
	s.building.Lock()
	defer s.building.Unlock()
	b := s.builder
	folder, err := b.folder(spec.Folder)
	if err != nil {
		return nil, err
	}
	m := s.model.Map()
	if m.FindByName(stored.Replace(spec.Name), m.Get(folder.Reference()).(*simulator.Folder).ChildEntity) != nil {
		return nil, badRequest("folder %q already has a %q", spec.Folder, spec.Name)
	}
	spec.UUID, spec.InstanceUUID = orElse(spec.UUID, uuid.NewString()), orElse(spec.InstanceUUID, uuid.NewString())
	for _, v := range s.all() {
		if strings.EqualFold(v.vm.Config.InstanceUuid, spec.InstanceUUID) {
			return nil, badRequest("%s has the instance UUID %s", v.spec.Name, spec.InstanceUUID)
		}
	}
	for i := range spec.cards() {
		spec.Nics[i].MAC = orElse(spec.Nics[i].MAC, newMAC())
	}
	v, err := b.vm(&spec)
	if err != nil {
		return nil, badRequest("%s", err)
	}
	var added addedVM
	s.context().WithLock(v.vm, func() {
		added = addedVM{v.moref(), s.entityPath(v.vm) + "/" + v.vm.Name, v.vm.Config.Uuid, v.vm.Config.InstanceUuid, v.dumpNics()}
	})
	return added, nil
}

// wholeVM is the VM as it is now, and all that another vCenter needs to have the same VM: spec is an order to add it.
type wholeVM struct {
	addedVM
	Host      string    `json:"host"`
	PoolID    string    `json:"pool_moref"` // "" of a template
	Networks  []string  `json:"networks"`   // morefs
	Addresses []holding `json:"addresses"`  // that are held now
	Spec      vmSpec    `json:"spec"`
}

func (s *sim) controlGetVM(r *http.Request) (any, error) {
	v := s.find(r.URL.Query().Get("vm"))
	if v == nil {
		return nil, badRequest("no virtual machine is named %q", r.URL.Query().Get("vm"))
	}
	whole := wholeVM{Networks: []string{}}
	s.context().WithLock(v.vm, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		vm := v.vm
		whole.addedVM = addedVM{v.moref(), s.entityPath(vm) + "/" + vm.Name, vm.Config.Uuid, vm.Config.InstanceUuid, v.dumpNics()}
		if h := s.hostOf(v); h != nil {
			whole.Host = h.name
		}
		if vm.ResourcePool != nil {
			whole.PoolID = vm.ResourcePool.Value
		}
		for _, ref := range vm.Network {
			whole.Networks = append(whole.Networks, ref.Value)
		}
		whole.Addresses = v.addresses(vm.Runtime.PowerState, vm.Config.Hardware.Device)
		whole.Spec = v.asSpec()
	})
	return whole, nil
}

// asSpec is the VM as it is now. The content of its disks stays behind. Called with both locks held.
func (v *vmState) asSpec() vmSpec {
	vm, s := v.vm, v.sim
	spec := *v.spec
	spec.Name, spec.Folder, spec.Host, spec.IP = plain.Replace(vm.Name), s.entityPath(vm), "", ""
	spec.Power, spec.Hardware, spec.Template = string(vm.Runtime.PowerState), vm.Config.Version, vm.Config.Template
	spec.UUID, spec.InstanceUUID = vm.Config.Uuid, vm.Config.InstanceUuid
	if vm.ResourcePool != nil {
		spec.Pool = s.poolPath(*vm.ResourcePool)
	}
	spec.Consolidation, spec.Tracking, spec.OnDelta = *vm.Runtime.ConsolidationNeeded, *vm.Config.ChangeTrackingEnabled, false
	spec.CdromISO, spec.Annotation = mounted(vm.Config.Hardware.Device), vm.Config.Annotation
	spec.HostName = orElse(spec.HostName, spec.Name)
	spec.Snapshots = []string{}
	for _, snap := range v.snapshots {
		spec.Snapshots = append(spec.Snapshots, snap.name)
	}
	devices := object.VirtualDeviceList(vm.Config.Hardware.Device)
	spec.Disks = []diskSpec{}
	for _, d := range v.disks {
		one := d.spec
		device := devices.FindByKey(d.key).(*types.VirtualDisk)
		one.Raw, one.Capacity, one.Unit = "", d.capacity, *device.UnitNumber
		spec.Disks = append(spec.Disks, one)
	}
	spec.Nics = []nicSpec{}
	for _, card := range ethernet(devices) {
		one := v.spec.Nics[card.Key-firstCard]
		c := *card.Connectable
		one.MAC, one.StartConnected, one.GuestControl, one.Connected = card.MacAddress, &c.StartConnected, &c.AllowGuestControl, nil
		if v.running() {
			one.Connected = &c.Connected
		}
		if n := s.networkBehind(card); n != nil {
			one.Network = plain.Replace(n.Name)
		}
		spec.Nics = append(spec.Nics, one)
	}
	return spec
}

func (s *sim) poolPath(ref types.ManagedObjectReference) string {
	_, below, _ := strings.Cut(s.pathOf(ref), "/Resources/")
	return below
}

// controlRemoveVM takes a VM away at once, also one that runs: it lives on elsewhere.
func (s *sim) controlRemoveVM(r *http.Request) (any, error) {
	v, err := s.ordered(r, &struct {
		VM string `json:"vm"`
	}{})
	if err != nil {
		return nil, err
	}
	s.building.Lock()
	defer s.building.Unlock()
	v.mu.Lock()
	busy := v.busy
	v.mu.Unlock()
	if busy != "" {
		return nil, badRequest("%s works on %s", busy, v.spec.Name)
	}
	return struct{}{}, v.takeAway()
}

// takeAway leaves nothing of the VM but its events.
func (v *vmState) takeAway() error {
	s := v.sim
	s.breakLeases(v)
	ctx := s.context()
	var fault error
	ctx.WithLock(v.vm, func() {
		v.record(types.VirtualMachinePowerStatePoweredOff, nil)
		was := v.vm.Runtime.PowerState
		v.vm.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOff // or it could not be unregistered
		if body := v.vm.UnregisterVM(ctx, &types.UnregisterVM{This: v.vm.Self}); body.Fault() != nil {
			v.vm.Runtime.PowerState = was
			fault = badRequest("%s", body.Fault().String)
		}
	})
	if fault != nil {
		return fault
	}
	for _, ref := range v.vm.Network {
		v.leave(ref)
	}
	v.mu.Lock()
	snapshots := slices.Clone(v.snapshots)
	v.mu.Unlock()
	for _, snap := range snapshots {
		ctx.Map.Remove(ctx, snap.ref)
		s.forget(snap)
	}
	return v.removeFiles()
}

// removeFiles removes its layers, and its folder on the datastore.
func (v *vmState) removeFiles() error {
	where := v.vm.Config.Files.VmPathName
	_ = os.RemoveAll(v.dir)
	var p object.DatastorePath
	p.FromString(where)
	delete(v.sim.builder.taken, p.Datastore+"/"+path.Dir(p.Path))
	return os.RemoveAll(filepath.Dir(v.localPath(where)))
}

// ordered reads an order whose field VM names a virtual machine.
func (s *sim) ordered(r *http.Request, into *struct {
	VM string `json:"vm"`
}) (*vmState, error) {
	if err := decode(r, into); err != nil {
		return nil, err
	}
	if v := s.find(into.VM); v != nil {
		return v, nil
	}
	return nil, badRequest("no virtual machine is named %q", into.VM)
}

func (s *sim) controlRenameVM(r *http.Request) (any, error) {
	var order struct {
		VM   string `json:"vm"`
		Name string `json:"name"`
	}
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	v := s.find(order.VM)
	if v == nil || order.Name == "" {
		return nil, badRequest("no virtual machine %q, or no new name", order.VM)
	}
	m := s.model.Map()
	parent, ok := m.Get(*v.vm.Parent).(*simulator.Folder)
	name := stored.Replace(order.Name)
	if ok {
		if other := m.FindByName(name, parent.ChildEntity); other != nil && other.Reference() != v.vm.Self {
			return nil, badRequest("its folder already has a %q", order.Name)
		}
	}
	ctx := s.context()
	ctx.WithLock(v.vm, func() {
		v.spec.HostName = orElse(v.spec.HostName, v.spec.Name) // the guest does not know
		v.spec.Name = order.Name
		ctx.Update(v.vm, []types.PropertyChange{
			{Name: "name", Val: name}, {Name: "config.name", Val: name}, {Name: "summary.config.name", Val: name},
		})
	})
	return struct{}{}, nil
}

// newMAC is one that no other vCenter gives.
func newMAC() string {
	id := uuid.New()
	return fmt.Sprintf("00:50:56:%02x:%02x:%02x", id[0]&0x3f, id[1], id[2])
}

// nicOrder changes one card, which is named by its key or MAC, or adds one.
type nicOrder struct {
	VM        string   `json:"vm"`
	Key       int32    `json:"key"`
	MAC       string   `json:"mac"`
	Add       *nicSpec `json:"add"`
	Remove    bool     `json:"remove"`
	Network   string   `json:"network"`
	Connected *bool    `json:"connected"` // of a VM that runs; startConnected follows
	IPs       []string `json:"ips"`       // nil: they stay
}

func (s *sim) controlNic(r *http.Request) (any, error) {
	var order nicOrder
	if err := decode(r, &order); err != nil {
		return nil, err
	}
	v := s.find(order.VM)
	if v == nil {
		return nil, badRequest("no virtual machine is named %q", order.VM)
	}
	s.building.Lock()
	defer s.building.Unlock()
	ctx := s.context()
	var nics []nicDump
	var err error
	ctx.WithLock(v.vm, func() {
		if err = v.changeNic(ctx, &order); err == nil {
			nics = v.dumpNics()
		}
	})
	return map[string]any{"nics": nics}, err
}

func (v *vmState) changeNic(ctx *simulator.Context, order *nicOrder) error {
	list := copyDevices(v.vm.Config.Hardware.Device)
	if order.Add != nil {
		order.Add.MAC = orElse(order.Add.MAC, newMAC())
		on, err := v.sim.builder.lan(*order.Add)
		if err != nil {
			return err
		}
		spec := *v.spec
		spec.Power = string(v.vm.Runtime.PowerState)
		path := v.vm.Config.Files.VmPathName
		h := &hardware{spec: &spec, dir: path[:strings.LastIndex(path, "/")], list: list}
		if err := h.nic(len(v.spec.Nics), *order.Add, on); err != nil { // a removed card's key is not used again
			return badRequest("%s", err)
		}
		v.spec.Nics = append(slices.Clone(v.spec.Nics), *order.Add)
		v.showCards(ctx, h.list)
		return nil
	}
	at := slices.IndexFunc(list, func(device types.BaseVirtualDevice) bool {
		card, ok := device.(types.BaseVirtualEthernetCard)
		if !ok {
			return false
		}
		c := card.GetVirtualEthernetCard()
		return c.Key == order.Key || (order.MAC != "" && strings.EqualFold(c.MacAddress, order.MAC))
	})
	if at < 0 {
		return badRequest("%s has no card %d %s", v.spec.Name, order.Key, order.MAC)
	}
	if order.Remove {
		v.showCards(ctx, slices.Delete(list, at, at+1))
		return nil
	}
	card := list[at].(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
	if order.Network != "" { // its MAC stays
		on, err := v.sim.builder.lan(nicSpec{Network: order.Network})
		if err != nil {
			return err
		}
		card.Backing = on.backing
		card.DeviceInfo = &types.Description{Label: card.DeviceInfo.GetDescription().Label, Summary: on.Name}
	}
	if order.Connected != nil {
		card.Connectable.StartConnected = *order.Connected
		card.Connectable.Connected = *order.Connected && v.running()
	}
	if order.IPs != nil {
		v.spec.Nics = slices.Clone(v.spec.Nics)
		v.spec.Nics[card.Key-firstCard].IPs = order.IPs
	}
	v.showCards(ctx, list)
	return nil
}

// showCards publishes new cards, and which networks they are on.
func (v *vmState) showCards(ctx *simulator.Context, list []types.BaseVirtualDevice) {
	v.record(v.vm.Runtime.PowerState, list)
	before := v.vm.Network
	v.vm.Network = nil
	for _, card := range ethernet(list) {
		if n := v.sim.networkBehind(card); n != nil && !slices.Contains(v.vm.Network, n.Self) {
			v.vm.Network = append(v.vm.Network, n.Self)
		}
	}
	after := v.vm.Network
	for _, ref := range before {
		if !slices.Contains(after, ref) {
			v.leave(ref)
		}
	}
	for _, ref := range after {
		if !slices.Contains(before, ref) {
			n := networkOf(ctx.Map.Get(ref).(mo.Entity))
			ctx.Map.AppendReference(ctx, ctx.Map.Get(ref), &n.Vm, v.vm.Self)
		}
	}
	ctx.Update(v.vm, []types.PropertyChange{
		{Name: "config.hardware.device", Val: list}, {Name: "network", Val: after},
		{Name: "summary.config.numEthernetCards", Val: int32(len(ethernet(list)))},
	})
	v.guest()
}

// --- facts of a VM ---

// mounted is the ISO in a VM's drive.
func mounted(devices []types.BaseVirtualDevice) string {
	for _, device := range devices {
		if drive, ok := device.(*types.VirtualCdrom); ok {
			if iso, ok := drive.Backing.(*types.VirtualCdromIsoBackingInfo); ok {
				return iso.FileName
			}
		}
	}
	return ""
}

func (v *vmState) mount(ctx *simulator.Context, iso string) {
	spec := *v.spec
	spec.CdromISO = iso
	h := &hardware{spec: &spec}
	h.cdrom()
	list := copyDevices(v.vm.Config.Hardware.Device)
	for i, device := range list {
		if _, ok := device.(*types.VirtualCdrom); ok {
			list[i] = h.list[0]
		}
	}
	v.spec.CdromISO = iso
	ctx.Update(v.vm, []types.PropertyChange{{Name: "config.hardware.device", Val: []types.BaseVirtualDevice(list)}})
}

func (v *vmState) dropSnapshots(ctx *simulator.Context) error {
	v.mu.Lock()
	all := slices.Clone(v.snapshots)
	v.mu.Unlock()
	if fault := v.remove(ctx, all, true); fault != nil {
		return fmt.Errorf("%T", fault)
	}
	return nil
}

func (v *vmState) markTemplate(ctx *simulator.Context, template bool) error {
	if template && v.vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return badRequest("%s is not off", v.spec.Name)
	}
	ctx.Update(v.vm, []types.PropertyChange{
		{Name: "config.template", Val: template}, {Name: "summary.config.template", Val: template},
	})
	if template {
		v.leavePool()
	} else if v.vm.ResourcePool == nil {
		ref := v.sim.builder.pool.Reference()
		pool := ctx.Map.Get(ref).(*simulator.ResourcePool)
		ctx.Map.AppendReference(ctx, pool, &pool.Vm, v.vm.Self)
		ctx.Update(v.vm, []types.PropertyChange{{Name: "resourcePool", Val: &ref}})
	}
	return nil
}

// leavePool: a template is in no resource pool.
func (v *vmState) leavePool() {
	if v.vm.ResourcePool == nil {
		return
	}
	ctx := v.sim.context()
	if pool, ok := ctx.Map.Get(*v.vm.ResourcePool).(*simulator.ResourcePool); ok {
		ctx.Map.RemoveReference(ctx, pool, &pool.Vm, v.vm.Self)
	}
	v.vm.ResourcePool = nil
}

// wake lets some seconds pass after a start before Tools report. Called under the VM's simulator lock.
func (v *vmState) wake() {
	v.waking = v.running() && v.spec.ToolsAfter > 0
	if !v.waking {
		return
	}
	booted := v.vm.Runtime.BootTime
	time.AfterFunc(seconds(v.spec.ToolsAfter), func() {
		v.sim.context().WithLock(v.vm, func() {
			if v.vm.Runtime.BootTime == booted {
				v.waking = false
				v.guest()
			}
		})
	})
}
