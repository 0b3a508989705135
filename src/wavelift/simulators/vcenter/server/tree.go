// The snapshot tree as vSphere shows it: copies, because it must not change while a client reads it.
package main

import (
	"github.com/vmware/govmomi/vim25/types"
)

func copyTree(list []types.VirtualMachineSnapshotTree) []types.VirtualMachineSnapshotTree {
	out := append([]types.VirtualMachineSnapshotTree(nil), list...)
	for i := range out {
		out[i].ChildSnapshotList = copyTree(out[i].ChildSnapshotList)
	}
	return out
}

func findTree(list []types.VirtualMachineSnapshotTree, ref types.ManagedObjectReference) *types.VirtualMachineSnapshotTree {
	for i := range list {
		if list[i].Snapshot == ref {
			return &list[i]
		}
		if found := findTree(list[i].ChildSnapshotList, ref); found != nil {
			return found
		}
	}
	return nil
}

func pruneTree(list []types.VirtualMachineSnapshotTree, drop map[types.ManagedObjectReference]*snapshot) []types.VirtualMachineSnapshotTree {
	var out []types.VirtualMachineSnapshotTree
	for _, item := range list {
		children := pruneTree(item.ChildSnapshotList, drop)
		if drop[item.Snapshot] != nil {
			out = append(out, children...)
			continue
		}
		item.ChildSnapshotList = children
		out = append(out, item)
	}
	return out
}

// subtree is the snapshot with everything above it. Called with mu held.
func (v *vmState) subtree(root *snapshot) []*snapshot {
	var out []*snapshot
	for _, s := range v.snapshots {
		for at := s; at != nil; at = at.parent {
			if at == root {
				out = append(out, s)
				break
			}
		}
	}
	return out
}
