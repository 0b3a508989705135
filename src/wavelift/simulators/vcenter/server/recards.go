// Changes of a VM's cards by the control endpoint.
package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

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
