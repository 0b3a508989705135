// Command ovf_importer reads an OVA as govmomi does, which shares no code with wavelift, and says what it found as JSON.
//
//	ovf_importer list FILE             members by archive/tar; reads headers only
//	ovf_importer check FILE            also: every byte against the manifest, the envelope, the machine it describes
//	ovf_importer import FILE CA_FILE   also: CreateImportSpec of the vCenter in OVF_IMPORTER_URL, which has the login
//
// It ends with 1 and one line on standard error at the first thing that is wrong.
package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/ovf"
	"github.com/vmware/govmomi/ovf/importer"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vapi/library"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

type member struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Sha256 string `json:"sha256,omitempty"`
}

type disk struct {
	Capacity   int64  `json:"capacity"`
	Controller string `json:"controller"`
	Unit       int32  `json:"unit"`
}

type machine struct {
	Name       string   `json:"name"`
	CPUs       int32    `json:"cpus"`
	MemoryMiB  int64    `json:"memory_mib"`
	Firmware   string   `json:"firmware"`
	Hardware   string   `json:"hardware"`
	Guest      string   `json:"guest"`
	Disks      []disk   `json:"disks"`
	Cards      []string `json:"cards"`
	Networks   []string `json:"networks"`
	Annotation string   `json:"annotation"`
}

type upload struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

type report struct {
	Members  []member `json:"members"`
	Machine  *machine `json:"machine,omitempty"`
	Uploads  []upload `json:"uploads,omitempty"`
	Errors   []string `json:"errors,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

func main() {
	found, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(found)
}

func run(args []string) (*report, error) {
	if len(args) < 2 {
		return nil, errors.New("usage: ovf_importer list|check|import FILE [CA_FILE]")
	}
	what, file := args[0], args[1]
	members, err := list(file, what != "list")
	if err != nil || what == "list" {
		return &report{Members: members}, err
	}
	found := &report{Members: members}
	archive := &importer.TapeArchive{Path: file}
	if err := digests(archive, members); err != nil {
		return nil, err
	}
	text, err := importer.ReadOvf("*.ovf", archive)
	if err != nil {
		return nil, err
	}
	envelope, err := importer.ReadEnvelope(text)
	if err != nil {
		return nil, err
	}
	if found.Machine, err = describe(envelope); err != nil {
		return nil, err
	}
	if what == "import" {
		return found, spec(found, string(text), envelope, args[2])
	}
	return found, nil
}

// list is every member in its order.
func list(file string, hashed bool) ([]member, error) {
	opened, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	var members []member
	for reader := tar.NewReader(opened); ; {
		header, err := reader.Next()
		if err == io.EOF {
			return members, nil
		}
		if err != nil {
			return nil, fmt.Errorf("member %d: %w", len(members), err)
		}
		one := member{Name: header.Name, Size: header.Size}
		if hashed {
			hash := sha256.New()
			if _, err := io.Copy(hash, reader); err != nil {
				return nil, fmt.Errorf("%s: %w", header.Name, err)
			}
			one.Sha256 = hex.EncodeToString(hash.Sum(nil))
		}
		members = append(members, one)
	}
}

// digests compares the manifest with the members: each but itself must be in it, with the digest of its bytes.
func digests(archive importer.Archive, members []member) error {
	reading := importer.Importer{Archive: archive}
	if err := reading.ReadManifest("*.ovf"); err != nil {
		return err
	}
	var told map[string]*library.Checksum = reading.Manifest
	for _, one := range members {
		if strings.HasSuffix(one.Name, ".mf") {
			continue
		}
		sum, ok := told[one.Name]
		if !ok {
			return fmt.Errorf("the manifest does not name %s", one.Name)
		}
		if sum.Algorithm != "SHA256" || sum.Checksum != one.Sha256 {
			return fmt.Errorf("the manifest says %s %s of %s, which is %s", sum.Algorithm, sum.Checksum, one.Name, one.Sha256)
		}
	}
	if len(told) != len(members)-1 {
		return fmt.Errorf("the manifest has %d lines for %d members", len(told), len(members)-1)
	}
	return nil
}

// describe is the machine as govmomi would make it, with everything that it does not know an error.
func describe(envelope *ovf.Envelope) (*machine, error) {
	config, err := envelope.ToConfigSpecWithOptions(ovf.ToConfigSpecOptions{Strict: true})
	if err != nil {
		return nil, err
	}
	system := envelope.VirtualSystem
	made := &machine{
		CPUs: config.NumCPUs, MemoryMiB: config.MemoryMB, Firmware: config.Firmware,
		Hardware: config.Version, Guest: config.GuestId, Disks: []disk{}, Cards: []string{}, Networks: []string{},
	}
	if system.Name != nil {
		made.Name = *system.Name
	}
	if system.Annotation != nil {
		made.Annotation = system.Annotation.Annotation
	}
	for _, network := range envelope.Network.Networks {
		made.Networks = append(made.Networks, network.Name)
	}
	var devices object.VirtualDeviceList
	for _, change := range config.DeviceChange {
		devices = append(devices, change.GetVirtualDeviceConfigSpec().Device)
	}
	for _, device := range devices {
		switch one := device.(type) {
		case *types.VirtualDisk:
			on := devices.FindByKey(one.ControllerKey)
			if on == nil {
				return nil, fmt.Errorf("a disk of %d bytes is on no controller", one.CapacityInBytes)
			}
			made.Disks = append(made.Disks, disk{one.CapacityInBytes, devices.Type(on), *one.UnitNumber})
		case types.BaseVirtualEthernetCard:
			made.Cards = append(made.Cards, devices.TypeName(device))
		}
	}
	return made, nil
}

// spec asks a vCenter what it would import.
func spec(found *report, text string, envelope *ovf.Envelope, ca string) error {
	ctx := context.Background()
	client, err := login(ctx, ca)
	if err != nil {
		return err
	}
	defer func() { _ = session.NewManager(client).Logout(ctx) }()
	finder := find.NewFinder(client)
	datacenter, err := finder.DefaultDatacenter(ctx)
	if err != nil {
		return err
	}
	finder.SetDatacenter(datacenter)
	pools, err := finder.ResourcePoolList(ctx, "*/Resources")
	if err != nil {
		return err
	}
	datastores, err := finder.DatastoreList(ctx, "*")
	if err != nil {
		return err
	}
	networks, err := finder.NetworkList(ctx, "*")
	if err != nil {
		return err
	}
	params := types.OvfCreateImportSpecParams{DiskProvisioning: "thin", EntityName: found.Machine.Name}
	for _, network := range envelope.Network.Networks {
		params.NetworkMapping = append(params.NetworkMapping,
			types.OvfNetworkMapping{Name: network.Name, Network: networks[0].Reference()})
	}
	made, err := ovf.NewManager(client).CreateImportSpec(ctx, text, pools[0], datastores[0], &params)
	if err != nil {
		return err
	}
	for _, fault := range made.Error {
		found.Errors = append(found.Errors, fault.LocalizedMessage)
	}
	for _, fault := range made.Warning {
		found.Warnings = append(found.Warnings, fault.LocalizedMessage)
	}
	for _, item := range made.FileItem {
		found.Uploads = append(found.Uploads, upload{item.Path, item.Size})
	}
	return nil
}

func login(ctx context.Context, ca string) (*vim25.Client, error) {
	address, err := url.Parse(os.Getenv("OVF_IMPORTER_URL"))
	if err != nil {
		return nil, errors.New("OVF_IMPORTER_URL is no address")
	}
	raw := soap.NewClient(&url.URL{Scheme: address.Scheme, Host: address.Host, Path: address.Path}, false)
	if err := raw.SetRootCAs(ca); err != nil {
		return nil, err
	}
	client, err := vim25.NewClient(ctx, raw)
	if err != nil {
		return nil, err
	}
	full := &govmomi.Client{Client: client, SessionManager: session.NewManager(client)}
	return client, full.Login(ctx, address.User)
}
