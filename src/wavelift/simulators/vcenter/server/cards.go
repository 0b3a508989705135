// Network cards: which networks they are on, when they are connected, and which addresses they hold then.
package main

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// firstCard is vSphere's device key of a VM's first network card.
const firstCard = 4000

var cardKinds = map[string]func() types.BaseVirtualDevice{
	"vmxnet3": func() types.BaseVirtualDevice { return &types.VirtualVmxnet3{} },
	"vmxnet2": func() types.BaseVirtualDevice { return &types.VirtualVmxnet2{} },
	"e1000":   func() types.BaseVirtualDevice { return &types.VirtualE1000{} },
	"e1000e":  func() types.BaseVirtualDevice { return &types.VirtualE1000e{} },
	"pcnet32": func() types.BaseVirtualDevice { return &types.VirtualPCNet32{} },
}

// cards completes the VM's cards: without an entry in the inventory, one that holds the VM's address.
func (spec *vmSpec) cards() []nicSpec {
	if spec.Nics == nil {
		spec.Nics = []nicSpec{{}}
		if spec.IP != "" {
			spec.Nics[0].IPs = []string{spec.IP}
		}
	}
	return spec.Nics
}

func yes(told *bool) bool { return told == nil || *told }

func (h *hardware) nic(i int, spec nicSpec, on lan) error {
	create, ok := cardKinds[orElse(spec.Kind, "vmxnet3")]
	if !ok {
		return fmt.Errorf("unknown network card %q: vmxnet3, vmxnet2, e1000, e1000e or pcnet32", spec.Kind)
	}
	running := orElse(h.spec.Power, "poweredOn") == "poweredOn"
	connected := yes(spec.StartConnected)
	if spec.Connected != nil {
		connected = *spec.Connected
	}
	device := create()
	card := device.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
	unit := int32(7 + i)
	card.VirtualDevice = types.VirtualDevice{
		Key: firstCard + int32(i), ControllerKey: 100, UnitNumber: &unit,
		DeviceInfo: &types.Description{Label: fmt.Sprintf("Network adapter %d", i+1), Summary: on.Name},
		Connectable: &types.VirtualDeviceConnectInfo{
			StartConnected: yes(spec.StartConnected), AllowGuestControl: yes(spec.GuestControl), Connected: running && connected,
		},
		Backing: on.backing,
	}
	sum := hashID(h.dir)
	if i > 0 {
		sum = hashID(fmt.Sprintf("%s %d", h.dir, i))
	}
	card.AddressType = "assigned"
	card.MacAddress = orElse(spec.MAC, fmt.Sprintf("00:50:56:%02x:%s:%s", sum[0]%0x40, sum[2:4], sum[4:6]))
	h.list = append(h.list, device)
	return nil
}

func cloneCard(device types.BaseVirtualDevice) types.BaseVirtualDevice {
	clone := reflect.New(reflect.TypeOf(device).Elem())
	clone.Elem().Set(reflect.ValueOf(device).Elem())
	card := clone.Interface().(types.BaseVirtualDevice)
	if at := card.GetVirtualDevice(); at.Connectable != nil {
		connectable := *at.Connectable
		at.Connectable = &connectable
	}
	return card
}

func ethernet(devices []types.BaseVirtualDevice) []*types.VirtualEthernetCard {
	var found []*types.VirtualEthernetCard
	for _, device := range devices {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok {
			found = append(found, card.GetVirtualEthernetCard())
		}
	}
	return found
}

// switched is the device list after the VM was powered on or off: only at a power-on does startConnected count.
func (v *vmState) switched(on bool) []types.BaseVirtualDevice {
	list := copyDevices(v.vm.Config.Hardware.Device)
	for _, card := range ethernet(list) {
		card.Connectable.Connected = on && card.Connectable.StartConnected
	}
	return list
}

// editCard changes only how a card is connected; everything else of an edit is not simulated.
func (v *vmState) editCard(device, wanted types.BaseVirtualDevice) types.BaseMethodFault {
	if reflect.TypeOf(device) != reflect.TypeOf(wanted) {
		return &types.InvalidDeviceSpec{}
	}
	is := device.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
	to := wanted.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
	if !reflect.DeepEqual(is.Backing, to.Backing) || orElse(to.MacAddress, is.MacAddress) != is.MacAddress {
		return &types.NotSupported{} // an edit without an address keeps the card's
	}
	connectable := *to.Connectable
	connectable.Connected = connectable.Connected && v.running() // only a running VM has connected cards
	is.Connectable = &connectable
	return nil
}

// editRights are the privileges for changing devices: one for their settings, and one more for their connection.
func (v *vmState) editRights(edits []types.BaseVirtualDeviceConfigSpec) []string {
	var rights []string
	for _, edit := range edits {
		spec := edit.GetVirtualDeviceConfigSpec()
		if spec.Operation != types.VirtualDeviceConfigSpecOperationEdit {
			rights = append(rights, "VirtualMachine.Config.AddRemoveDevice")
			continue
		}
		rights = append(rights, "VirtualMachine.Config.EditDevice")
		wanted := spec.Device.GetVirtualDevice()
		for _, device := range v.vm.Config.Hardware.Device {
			is := device.GetVirtualDevice()
			if is.Key == wanted.Key && is.Connectable != nil && wanted.Connectable != nil &&
				is.Connectable.Connected != wanted.Connectable.Connected {
				rights = append(rights, "VirtualMachine.Interact.DeviceConnection")
			}
		}
	}
	return rights
}

// --- addresses ---

// holding is one address that a connected card of a running VM has.
type holding struct {
	VM      string `json:"vm"`
	Moref   string `json:"moref"`
	Key     int32  `json:"key"`
	MAC     string `json:"mac"`
	Address string `json:"address"`
}

// transition is the instant, by the machine's clock, at which an address came up or went down.
type transition struct {
	At time.Time `json:"at"`
	holding
	Up bool `json:"up"`
}

// addressLog remembers since the start which addresses were up, and when.
type addressLog struct {
	mu   sync.Mutex
	held map[string][]holding // by the VM's moref
	log  []transition
}

// addresses are what cards of a VM in this state hold.
func (v *vmState) addresses(power types.VirtualMachinePowerState, devices []types.BaseVirtualDevice) []holding {
	held := []holding{}
	if power != types.VirtualMachinePowerStatePoweredOn {
		return held
	}
	for _, card := range ethernet(devices) {
		if !card.Connectable.Connected {
			continue
		}
		for _, address := range v.ipsOf(card.Key) {
			held = append(held, holding{VM: v.spec.Name, Moref: v.moref(), Key: card.Key, MAC: card.MacAddress, Address: address})
		}
	}
	return held
}

func (v *vmState) ipsOf(key int32) []string {
	if i := int(key) - firstCard; i >= 0 && i < len(v.spec.Nics) {
		return v.spec.Nics[i].IPs
	}
	return nil
}

// record notes what changes. It is called before a client can see the new state: whoever reacts to it comes later.
func (v *vmState) record(power types.VirtualMachinePowerState, devices []types.BaseVirtualDevice) {
	now := v.addresses(power, devices)
	l := &v.sim.addresses
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.held[v.moref()]
	at := time.Now().UTC()
	for _, gone := range before {
		if !slices.Contains(now, gone) {
			l.log = append(l.log, transition{at, gone, false})
		}
	}
	for _, come := range now {
		if !slices.Contains(before, come) {
			l.log = append(l.log, transition{at, come, true})
		}
	}
	l.held[v.moref()] = now
}

func (l *addressLog) list() []transition {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]transition{}, l.log...)
}

type nicDump struct {
	Key            int32    `json:"key"`
	MAC            string   `json:"mac"`
	Network        string   `json:"network"`
	StartConnected bool     `json:"start_connected"`
	Connected      bool     `json:"connected"`
	GuestControl   bool     `json:"allow_guest_control"`
	Addresses      []string `json:"addresses"` // held only while connected
}

func (v *vmState) dumpNics() []nicDump {
	nics := []nicDump{}
	for _, card := range ethernet(v.vm.Config.Hardware.Device) {
		c := card.Connectable
		nics = append(nics, nicDump{
			Key: card.Key, MAC: card.MacAddress, Network: card.DeviceInfo.GetDescription().Summary,
			StartConnected: c.StartConnected, Connected: c.Connected, GuestControl: c.AllowGuestControl,
			Addresses: append([]string{}, v.ipsOf(card.Key)...),
		})
	}
	return nics
}

// guestNet is what VMware Tools report: nothing of a VM that is off, and no addresses of a card without a link.
func (v *vmState) guestNet() []types.GuestNicInfo {
	if !v.toolsRunning() {
		return nil
	}
	var net []types.GuestNicInfo
	if inner := v.spec.InnerIPs; len(inner) > 0 {
		net = append(net, types.GuestNicInfo{Connected: true, DeviceConfigId: -1, IpAddress: append([]string{}, inner...)})
	}
	for _, card := range ethernet(v.vm.Config.Hardware.Device) {
		info := types.GuestNicInfo{
			Network: card.DeviceInfo.GetDescription().Summary, MacAddress: card.MacAddress,
			Connected: card.Connectable.Connected, DeviceConfigId: card.Key,
		}
		if info.Connected {
			info.IpAddress = append([]string{}, v.ipsOf(card.Key)...)
		}
		net = append(net, info)
	}
	return net
}
