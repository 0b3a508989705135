// The inventory file: what the Python launcher writes and this program builds a vCenter from.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
)

// inventory is the whole input: what the Python launcher writes.
type inventory struct {
	Options    options         `json:"options"`
	Users      []userSpec      `json:"users"`
	Hosts      []hostSpec      `json:"hosts"`
	Datastores []datastoreSpec `json:"datastores"`
	VMs        []vmSpec        `json:"vms"`
}

type options struct {
	Datacenter         string  `json:"datacenter"`
	Body               string  `json:"body"`              // footer | qemu
	LeaseTimeout       float64 `json:"lease_timeout"`     // seconds without progress
	LeaseReady         float64 `json:"lease_ready_after"` // seconds in state initializing
	LeaseHost          string  `json:"lease_host"`        // esxi | * | vcenter
	LeaseBlocksRemoval bool    `json:"lease_blocks_removal"`
	LeaseExclusive     bool    `json:"lease_exclusive"` // a second lease on the VM: TaskInProgress
	ClockSkew          float64 `json:"clock_skew"`      // seconds that vCenter's clock is ahead
	TaskSeconds        float64 `json:"task_seconds"`    // what snapshot tasks take
	SessionTimeout     float64 `json:"session_timeout"`
	VmfsLock           bool    `json:"vmfs_lock"`
	Evidence           bool    `json:"evidence"`
	ChangedAreaWindow  int64   `json:"changed_area_window"`
	TrackingWithSnaps  string  `json:"tracking_with_snapshots"` // refuse | accept
	Certificate        string  `json:"certificate"`             // of the vCenter
	ExtraVMs           int     `json:"extra_vms"`
	ApiVersion         string  `json:"api_version"`
	CacheBodies        bool    `json:"cache_bodies"`  // keep footer-style bodies too: for benchmarks
	InstanceUUID       string  `json:"instance_uuid"` // of the vCenter; "": a new one with every start
}

type userSpec struct {
	Name       string   `json:"name"`
	Password   string   `json:"password"`
	Privileges []string `json:"privileges"` // nil: all
	Without    []string `json:"without"`    // all but these
	Below      string   `json:"below"`      // the one inventory path on which the privileges are held, with propagation; "": the root
	NoAccess   []string `json:"no_access"`  // inventory paths with the role "No access", with propagation
}

type hostSpec struct {
	Name        string `json:"name"`
	Address     string `json:"address"` // where its own HTTPS listens; "": nowhere
	Version     string `json:"version"`
	Build       string `json:"build"`
	Certificate string `json:"certificate"` // ca | self_signed | expired | wrong_name
	Thumbprint  string `json:"thumbprint"`  // reported instead of the true one
	Connection  string `json:"connection"`  // connected | disconnected | notResponding
}

type datastoreSpec struct {
	Name     string `json:"name"`
	Type     string `json:"type"` // VMFS5 | VMFS6 | NFS | vsan
	Capacity int64  `json:"capacity"`
	Free     int64  `json:"free"`
}

type nicSpec struct {
	Kind           string   `json:"kind"`         // vmxnet3 | vmxnet2 | e1000 | e1000e | pcnet32
	Network        string   `json:"network"`      // "": VM Network
	NetworkKind    string   `json:"network_kind"` // standard | distributed | nsx | opaque: of a network that isn't there yet
	MAC            string   `json:"mac"`
	IPs            []string `json:"ips"` // held while the VM runs and the card is connected, with Tools or without
	StartConnected *bool    `json:"start_connected"`
	Connected      *bool    `json:"connected"` // nil: as start_connected
	GuestControl   *bool    `json:"allow_guest_control"`
}

type diskSpec struct {
	Raw        string `json:"raw"`
	Capacity   int64  `json:"capacity"`
	Controller string `json:"controller"` // pvscsi | lsilogic | lsisas | sata | ide | nvme
	Bus        int32  `json:"bus"`
	Unit       int32  `json:"unit"`
	Mode       string `json:"mode"`    // persistent | independent_persistent | independent_nonpersistent
	RDM        string `json:"rdm"`     // virtual | physical
	Sharing    string `json:"sharing"` // sharingMultiWriter
	BusSharing string `json:"bus_sharing"`
	Encrypted  bool   `json:"encrypted"`
	Thick      bool   `json:"thick"`
}

type vmSpec struct {
	Name          string     `json:"name"`
	Folder        string     `json:"folder"`
	GuestID       string     `json:"guest_id"`
	GuestFullName string     `json:"guest_full_name"`
	Firmware      string     `json:"firmware"`
	SecureBoot    bool       `json:"secure_boot"`
	Power         string     `json:"power"` // poweredOn | poweredOff | suspended
	Tools         string     `json:"tools"` // running | not_running | not_installed
	IP            string     `json:"ip"`
	HostName      string     `json:"host_name"`
	Host          string     `json:"host"`
	Datastore     string     `json:"datastore"`
	Cpus          int32      `json:"cpus"`
	MemoryMB      int64      `json:"memory_mb"`
	Hardware      string     `json:"hardware"` // vmx-19
	Template      bool       `json:"template"`
	CdromISO      string     `json:"cdrom"`
	Snapshots     []string   `json:"snapshots"`
	Consolidation bool       `json:"consolidation_needed"`
	Encrypted     bool       `json:"encrypted"`
	Tracking      bool       `json:"change_tracking"`
	Annotation    string     `json:"annotation"`
	FT            string     `json:"ft"`         // primary | secondary, of one name
	ManagedBy     string     `json:"managed_by"` // extension/type
	Product       string     `json:"product"`    // of an appliance
	OnDelta       bool       `json:"on_delta"`   // without a snapshot in its tree
	Disks         []diskSpec `json:"disks"`
	Nics          []nicSpec  `json:"nics"` // nil: one that holds IP

	UUID         string   `json:"uuid"`
	InstanceUUID string   `json:"instance_uuid"`
	Pool         string   `json:"pool"`        // path below the cluster's root pool
	InnerIPs     []string `json:"inner_ips"`   // that Tools report of interfaces inside the guest, which no card has
	ToolsAfter   float64  `json:"tools_after"` // seconds from a start until Tools report

	Shutdown shutdownSpec `json:"shutdown"`

	// Mount point or drive letter, and type, as VMware Tools report them on vSphere 7 and later.
	FileSystems [][2]string `json:"file_systems"`
}

func readInventory(name string) (*inventory, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parseInventory(name, raw)
}

// parseInventory reads the text of the file of that name.
func parseInventory(name string, raw []byte) (*inventory, error) {
	inv := &inventory{Options: options{
		Datacenter: "dc1", Body: "footer", LeaseTimeout: 300, LeaseReady: 0.2, LeaseHost: "esxi",
		LeaseBlocksRemoval: true, TaskSeconds: 0.05, VmfsLock: true, ChangedAreaWindow: 256 << 20,
		TrackingWithSnaps: "refuse", Certificate: "ca", ApiVersion: "8.0.3.0",
	}}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(inv); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(inv.Users) == 0 {
		return nil, fmt.Errorf("%s: the inventory names no user", name)
	}
	if len(inv.Hosts) == 0 {
		inv.Hosts = []hostSpec{{Name: "127.0.0.11", Address: "127.0.0.11"}, {Name: "127.0.0.12", Address: "127.0.0.12"}}
	}
	if len(inv.Datastores) == 0 {
		inv.Datastores = []datastoreSpec{{Name: "datastore1"}}
	}
	return inv, nil
}
