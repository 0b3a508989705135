// Virtual machines that are not servers of a customer: the secondary of a fault-tolerant pair, and VMs that vSphere
// manages itself. Also a VM whose snapshot was removed but whose delta still exists.
package main

import (
	"fmt"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// stored is a name as vSphere stores it: these three characters are escaped.
var stored = strings.NewReplacer("%", "%25", "/", "%2f", `\`, "%5c")

// plain decodes the escapes of a stored name.
var plain = strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`, "%25", "%")

// onDisk is what a datastore's folder and files are called: a name there holds no separators.
func onDisk(name string) string { return strings.NewReplacer("/", "_", `\`, "_").Replace(name) }

// manage shows who owns the VM, where the inventory says so.
func (v *vmState) manage() error {
	vm, spec := v.vm, v.spec
	vm.Summary.Config.Annotation = spec.Annotation
	if spec.ManagedBy != "" {
		key, kind, ok := strings.Cut(spec.ManagedBy, "/")
		if !ok {
			return fmt.Errorf("managed_by is extension/type, not %q", spec.ManagedBy)
		}
		vm.Config.ManagedBy = &types.ManagedByInfo{ExtensionKey: key, Type: kind}
		vm.Summary.Config.ManagedBy = vm.Config.ManagedBy
	}
	if spec.Product != "" {
		vm.Summary.Config.Product = &types.VAppProductInfo{Name: spec.Product, Vendor: "VMware Inc."}
	}
	switch spec.FT {
	case "", "primary", "secondary":
	default:
		return fmt.Errorf("ft is primary or secondary, not %q", spec.FT)
	}
	if spec.FT != "" { // the guest's identity is one; vCenter's own id of each is not
		vm.Config.Uuid = fakeUUID("fault tolerant" + spec.Name)
		vm.Summary.Config.Uuid = vm.Config.Uuid
	}
	return nil
}

// pairUp links both halves of each fault-tolerant pair. They have the same name.
func (s *sim) pairUp() error {
	for _, primary := range s.all() {
		if primary.spec.FT != "primary" {
			continue
		}
		secondary := s.half(primary.spec.Name)
		if secondary == nil {
			return fmt.Errorf("the fault-tolerant %s has no secondary", primary.spec.Name)
		}
		info := func(role int32) types.FaultToleranceConfigInfo {
			return types.FaultToleranceConfigInfo{
				Role:          role,
				InstanceUuids: []string{primary.vm.Config.InstanceUuid, secondary.vm.Config.InstanceUuid},
				ConfigPaths:   []string{primary.vm.Config.Files.VmPathName, secondary.vm.Config.Files.VmPathName},
			}
		}
		primary.fault(&types.FaultTolerancePrimaryConfigInfo{
			FaultToleranceConfigInfo: info(1), Secondaries: []types.ManagedObjectReference{secondary.vm.Self},
		})
		secondary.fault(&types.FaultToleranceSecondaryConfigInfo{FaultToleranceConfigInfo: info(2), PrimaryVM: primary.vm.Self})
	}
	return nil
}

func (s *sim) half(name string) *vmState {
	for _, v := range s.all() {
		if v.spec.FT == "secondary" && v.spec.Name == name {
			return v
		}
	}
	return nil
}

func (v *vmState) fault(info types.BaseFaultToleranceConfigInfo) {
	v.vm.Config.FtInfo, v.vm.Summary.Config.FtInfo = info, info
}

// leaveDelta leaves the VM on a delta without a snapshot in its tree, as a removal whose merge failed does. As can happen
// in this case, vCenter does not report that consolidation is needed.
func (v *vmState) leaveDelta(ctx *simulator.Context) error {
	if fault := v.remove(ctx, []*snapshot{v.snapshotNow(ctx, "left behind", "", false)}, false); fault != nil {
		return fmt.Errorf("%T", fault)
	}
	v.setConsolidation(ctx, false)
	return nil
}
