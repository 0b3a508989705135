// Networks: standard port groups, distributed port groups, and NSX segments as a vCenter shows them.
package main

import (
	"cmp"
	"fmt"
	"path"
	"slices"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// networkSpec is one network. An NSX segment is a distributed port group of kind nsx on a newer switch, and an opaque
// network on an older one.
type networkSpec struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`    // standard (default) | distributed (or portgroup) | nsx | opaque
	Folder  string `json:"folder"`  // below the data centre's network folder; it is made
	Key     string `json:"key"`     // of a port group; "": its managed object id, as usual
	Segment string `json:"segment"` // path of the NSX segment: /infra/segments/...
	ID      string `json:"id"`      // of the logical switch behind it; "": a new UUID
}

// networkDump is one network as the control endpoint shows it.
type networkDump struct {
	networkSpec
	Moref string   `json:"moref"`
	Path  string   `json:"path"`
	VMs   []string `json:"vms"`
}

// lan is a network as a card sees it.
type lan struct {
	*mo.Network
	entity  mo.Entity
	backing types.BaseVirtualDeviceBackingInfo
}

func networkOf(entity mo.Entity) *mo.Network {
	switch n := entity.(type) {
	case *mo.Network:
		return n
	case *simulator.DistributedVirtualPortgroup:
		return &n.Network
	case *mo.OpaqueNetwork:
		return &n.Network
	}
	return nil
}

// networks are all, by id.
func (s *sim) networks() []mo.Entity {
	var found []mo.Entity
	for _, kind := range []string{"Network", "DistributedVirtualPortgroup", "OpaqueNetwork"} {
		for _, entity := range s.model.Map().All(kind) {
			if networkOf(entity) != nil && entity.Reference().Type == kind {
				found = append(found, entity)
			}
		}
	}
	slices.SortFunc(found, byID)
	return found
}

func byID(a, b mo.Entity) int {
	x, y := a.Reference().Value, b.Reference().Value
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y))
}

// networksNamed are those with this name, path, id, or segment path.
func (s *sim) networksNamed(name string) []mo.Entity {
	return slices.DeleteFunc(s.networks(), func(e mo.Entity) bool {
		n := networkOf(e)
		s.mu.Lock()
		spec := s.made[n.Self]
		s.mu.Unlock()
		return name == "" || !slices.Contains([]string{n.Name, plain.Replace(n.Name), n.Self.Value, s.pathOf(n.Self), spec.Segment}, name)
	})
}

// lan finds a card's network. While the inventory is built it makes it too.
func (b *builder) lan(spec nicSpec) (lan, error) {
	name := orElse(spec.Network, "VM Network")
	found := b.sim.networksNamed(name)
	switch {
	case len(found) > 1:
		return lan{}, badRequest("%d networks are named %q", len(found), name)
	case len(found) == 1:
		return b.sim.lanOf(found[0])
	case b.strict:
		return lan{}, badRequest("no network is named %q", name)
	}
	entity, err := b.network(networkSpec{Name: name, Kind: spec.NetworkKind})
	if err != nil {
		return lan{}, err
	}
	return b.sim.lanOf(entity)
}

func (s *sim) lanOf(entity mo.Entity) (lan, error) {
	switch n := entity.(type) {
	case *mo.Network:
		ref := n.Self
		return lan{n, n, &types.VirtualEthernetCardNetworkBackingInfo{
			VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: n.Name}, Network: &ref,
		}}, nil
	case *simulator.DistributedVirtualPortgroup:
		return lan{&n.Network, n, &types.VirtualEthernetCardDistributedVirtualPortBackingInfo{
			Port: types.DistributedVirtualSwitchPortConnection{SwitchUuid: fakeUUID("dvs"), PortgroupKey: n.Key, PortKey: "8"},
		}}, nil
	case *mo.OpaqueNetwork:
		summary := n.Summary.(*types.OpaqueNetworkSummary)
		return lan{&n.Network, n, &types.VirtualEthernetCardOpaqueNetworkBackingInfo{
			OpaqueNetworkId: summary.OpaqueNetworkId, OpaqueNetworkType: summary.OpaqueNetworkType,
		}}, nil
	}
	return lan{}, fmt.Errorf("%q is no network", entity.Entity().Name)
}

// network makes one. Only NSX allows a name twice in one folder.
func (b *builder) network(spec networkSpec) (mo.Entity, error) {
	m := b.sim.model.Map()
	folder, err := b.networkFolder(spec.Folder)
	if err != nil {
		return nil, err
	}
	spec.Kind = orElse(spec.Kind, "standard")
	if spec.Kind == "portgroup" {
		spec.Kind = "distributed"
	}
	if spec.Name == "" || (spec.Kind != "nsx" && m.FindByName(stored.Replace(spec.Name), folder.ChildEntity) != nil) {
		return nil, badRequest("%q is empty or the name of another network in its folder", spec.Name)
	}
	if spec.Kind == "nsx" || spec.Kind == "opaque" {
		spec.ID = orElse(spec.ID, uuid.NewString())
	} else if spec.Segment != "" || spec.ID != "" {
		return nil, badRequest("a %s network is no NSX segment", spec.Kind)
	}
	entity, err := newNetwork(spec)
	if err != nil {
		return nil, err
	}
	ctx := b.sim.context()
	m.PutEntity(folder, entity)
	self := entity.Reference()
	if group, ok := entity.(*simulator.DistributedVirtualPortgroup); ok {
		group.Key = orElse(spec.Key, self.Value)
		group.Config.Key, spec.Key = group.Key, group.Key
	}
	if opaque, ok := entity.(*mo.OpaqueNetwork); ok {
		opaque.Summary.GetNetworkSummary().Network = &self
	}
	m.AppendReference(ctx, folder, &folder.ChildEntity, self)
	for _, e := range m.All("Datacenter") {
		dc := e.(*simulator.Datacenter)
		m.AppendReference(ctx, dc, &dc.Network, self)
	}
	b.sim.mu.Lock()
	b.sim.made[self] = spec
	b.sim.mu.Unlock()
	return entity, nil
}

func newNetwork(spec networkSpec) (mo.Entity, error) {
	name := stored.Replace(spec.Name)
	var base *mo.Network
	var entity mo.Entity
	var summary types.BaseNetworkSummary = &types.NetworkSummary{Name: name, Accessible: true}
	switch spec.Kind {
	case "standard":
		base = &mo.Network{}
		entity = base
	case "distributed", "nsx":
		group := &simulator.DistributedVirtualPortgroup{}
		group.Config = types.DVPortgroupConfigInfo{Name: name, NumPorts: 8, Type: "earlyBinding", BackingType: "standard"}
		if spec.Kind == "nsx" {
			group.Config.BackingType, group.Config.LogicalSwitchUuid, group.Config.SegmentId = "nsx", spec.ID, spec.Segment
		}
		base, entity = &group.Network, group
	case "opaque":
		opaque := &mo.OpaqueNetwork{}
		summary = &types.OpaqueNetworkSummary{
			NetworkSummary: types.NetworkSummary{Name: name, Accessible: true}, OpaqueNetworkId: spec.ID, OpaqueNetworkType: "nsx.LogicalSwitch",
		}
		base, entity = &opaque.Network, opaque
	default:
		return nil, badRequest("a network is standard, distributed, nsx or opaque, not %q", spec.Kind)
	}
	base.Name, base.ManagedEntity.Name, base.Summary = name, name, summary
	return entity, nil
}

// networkFolder finds or makes a path below the data centre's network folder.
func (b *builder) networkFolder(name string) (*simulator.Folder, error) {
	m := b.sim.model.Map()
	at := m.Get(b.folders.NetworkFolder.Reference()).(*simulator.Folder)
	for _, part := range parts(name) {
		child := m.FindByName(part, at.ChildEntity)
		if child == nil {
			made := &simulator.Folder{}
			made.Name, made.ChildType, made.Namespace = part, at.ChildType, at.Namespace
			m.PutEntity(at, made)
			m.AppendReference(b.sim.context(), at, &at.ChildEntity, made.Self)
			child = made
		}
		folder, ok := child.(*simulator.Folder)
		if !ok {
			return nil, badRequest("%q is no folder", part)
		}
		at = folder
	}
	return at, nil
}

// checkCards refuses what the embedded simulator would not survive, before anything is made.
func (b *builder) checkCards(spec *vmSpec) error {
	for i, nic := range spec.cards() {
		if _, err := b.lan(nic); err != nil {
			return fmt.Errorf("network card %d: %w", i, err)
		}
	}
	return nil
}

// join makes the VM one of the network's.
func (v *vmState) join(on lan) {
	if !slices.Contains(v.vm.Network, on.Self) {
		v.vm.Network = append(v.vm.Network, on.Self)
		v.sim.model.Map().AppendReference(v.sim.context(), on.entity, &on.Vm, v.vm.Self)
	}
}

func (v *vmState) leave(ref types.ManagedObjectReference) {
	m := v.sim.model.Map()
	if entity, ok := m.Get(ref).(mo.Entity); ok {
		n := networkOf(entity)
		m.RemoveReference(v.sim.context(), entity, &n.Vm, v.vm.Self)
	}
}

// onNetwork says whether a card's backing is this network.
func (s *sim) onNetwork(backing types.BaseVirtualDeviceBackingInfo, entity mo.Entity) bool {
	switch b := backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		n, ok := entity.(*mo.Network)
		return ok && (n.Name == b.DeviceName || (b.Network != nil && n.Self == *b.Network))
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		n, ok := entity.(*simulator.DistributedVirtualPortgroup)
		return ok && n.Key == b.Port.PortgroupKey
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		n, ok := entity.(*mo.OpaqueNetwork)
		return ok && n.Summary.(*types.OpaqueNetworkSummary).OpaqueNetworkId == b.OpaqueNetworkId
	}
	return false
}

// networkBehind is where a card is; nil where no network has its backing any more.
func (s *sim) networkBehind(card *types.VirtualEthernetCard) *mo.Network {
	for _, entity := range s.networks() {
		if s.onNetwork(card.Backing, entity) {
			return networkOf(entity)
		}
	}
	return nil
}

// refuseCards refuses a call of a client that makes a card on a network that isn't there: the embedded simulator dies of
// it.
func (s *sim) refuseCards(call *simulator.Method) types.BaseMethodFault {
	var changes []types.BaseVirtualDeviceConfigSpec
	switch body := call.Body.(type) {
	case *types.CreateVM_Task:
		changes = body.Config.DeviceChange
	case *types.CreateChildVM_Task:
		changes = body.Config.DeviceChange
	case *types.CloneVM_Task:
		if body.Spec.Config != nil {
			changes = body.Spec.Config.DeviceChange
		}
		changes = append(slices.Clone(changes), body.Spec.Location.DeviceChange...)
	}
	for i, change := range changes {
		spec := change.GetVirtualDeviceConfigSpec()
		card, ok := spec.Device.(types.BaseVirtualEthernetCard)
		if !ok || spec.Operation == types.VirtualDeviceConfigSpecOperationRemove {
			continue
		}
		if s.networkBehind(card.GetVirtualEthernetCard()) == nil {
			return &types.InvalidDeviceBacking{InvalidDeviceSpec: types.InvalidDeviceSpec{DeviceIndex: int32(i)}}
		}
	}
	return nil
}

func (s *sim) dumpNetwork(entity mo.Entity) networkDump {
	n := networkOf(entity)
	s.mu.Lock()
	d := networkDump{networkSpec: s.made[n.Self], Moref: n.Self.Value, Path: s.pathOf(n.Self), VMs: []string{}}
	s.mu.Unlock()
	if d.Name == "" { // made by the embedded simulator
		d.Name, d.Kind = plain.Replace(n.Name), "standard"
	}
	for _, v := range s.all() {
		for _, card := range ethernet(v.vm.Config.Hardware.Device) {
			if s.onNetwork(card.Backing, entity) && !slices.Contains(d.VMs, v.moref()) {
				d.VMs = append(d.VMs, v.moref())
			}
		}
	}
	d.Folder = path.Dir(d.Path)
	return d
}
