// Places that a VM can be put into, and the control calls that make them.
package main

import (
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

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
