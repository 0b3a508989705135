// Access control: the table of users, and the privileges that methods need.
package main

import (
	"reflect"
	"sort"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// needed is the privilege that a method needs, from the vSphere API's own table (pyvmomi's method infos).
var needed = map[string]string{
	"CreateSnapshot_Task":          "VirtualMachine.State.CreateSnapshot",
	"CreateSnapshotEx_Task":        "VirtualMachine.State.CreateSnapshot",
	"RemoveSnapshot_Task":          "VirtualMachine.State.RemoveSnapshot",
	"RemoveAllSnapshots_Task":      "VirtualMachine.State.RemoveSnapshot",
	"ConsolidateVMDisks_Task":      "VirtualMachine.State.RemoveSnapshot",
	"RevertToSnapshot_Task":        "VirtualMachine.State.RevertToSnapshot",
	"RevertToCurrentSnapshot_Task": "VirtualMachine.State.RevertToSnapshot",
	"RenameSnapshot":               "VirtualMachine.State.RenameSnapshot",
	"QueryChangedDiskAreas":        "VirtualMachine.Provisioning.DiskRandomRead",
	"ExportVm":                     "VApp.Export",
	"ExportSnapshot":               "VApp.Export",
	"PowerOnVM_Task":               "VirtualMachine.Interact.PowerOn",
	"PowerOffVM_Task":              "VirtualMachine.Interact.PowerOff",
	"ShutdownGuest":                "VirtualMachine.Interact.PowerOff",
	"SuspendVM_Task":               "VirtualMachine.Interact.Suspend",
	"StandbyGuest":                 "VirtualMachine.Interact.Suspend",
	"ResetVM_Task":                 "VirtualMachine.Interact.Reset",
	"RebootGuest":                  "VirtualMachine.Interact.Reset",
	"MigrateVM_Task":               "Resource.HotMigrate",
	"RelocateVM_Task":              "Resource.ColdMigrate",
	"Destroy_Task":                 "VirtualMachine.Inventory.Delete",
	"UnregisterVM":                 "VirtualMachine.Inventory.Unregister",
	"TerminateSession":             "Sessions.TerminateSession",
	"SearchDatastore_Task":         "Datastore.Browse",
}

// permit checks the user's privileges.
func (s *sim) permit(user string, call *simulator.Method) types.BaseMethodFault {
	privilege := needed[call.Name]
	about := []types.ManagedObjectReference{call.This}
	if call.Name == "Fetch" {
		about = readObjects(call) // its target is the property collector
	}
	for _, ref := range about {
		if s.noAccess(user, ref) {
			return &types.NoPermission{Object: &ref, PrivilegeId: orElse(privilege, "System.View")}
		}
	}
	wanted := []string{privilege}
	if body, ok := call.Body.(*types.ReconfigVM_Task); ok {
		wanted = s.reconfigRights(call.This, &body.Spec)
	}
	for _, privilege := range wanted {
		if privilege != "" && !s.allowed(user, privilege) {
			return &types.NoPermission{Object: &call.This, PrivilegeId: privilege}
		}
	}
	return nil
}

// reconfigRights depend on what is changed.
func (s *sim) reconfigRights(ref types.ManagedObjectReference, spec *types.VirtualMachineConfigSpec) []string {
	var rights []string
	if spec.ChangeTrackingEnabled != nil {
		rights = append(rights, "VirtualMachine.Config.ChangeTracking")
	}
	if v := s.byRef(ref); v != nil {
		rights = append(rights, v.editRights(spec.DeviceChange)...)
	}
	rest := *spec
	rest.ChangeVersion, rest.ChangeTrackingEnabled, rest.DeviceChange = "", nil, nil
	if len(rights) == 0 || !reflect.DeepEqual(rest, types.VirtualMachineConfigSpec{}) {
		rights = append(rights, "VirtualMachine.Config.Settings")
	}
	return rights
}

func (s *sim) allowed(user, privilege string) bool {
	u, ok := s.users[user]
	if !ok || strings.HasPrefix(privilege, "System.") {
		return ok
	}
	for _, p := range u.Without {
		if p == privilege {
			return false
		}
	}
	if u.Privileges == nil {
		return knownPrivileges[privilege]
	}
	for _, p := range u.Privileges {
		if p == privilege {
			return true
		}
	}
	return false
}

// holds is what the authorization manager says of one object.
func (s *sim) holds(user, privilege string, entity types.ManagedObjectReference) bool {
	if s.passes(user, entity) {
		return privilege == "System.View"
	}
	return s.allowed(user, privilege) && !s.noAccess(user, entity)
}

// clock answers CurrentTime from vCenter's own clock.
type clock struct{ helper }

func (c *clock) CurrentTime(_ *simulator.Context, _ *types.CurrentTime) soap.HasFault {
	return &methods.CurrentTimeBody{Res: &types.CurrentTimeResponse{Returnval: c.sim.now()}}
}

// store answers RefreshDatastore. A vCenter shows the free space of some minutes ago until a client calls
// RefreshDatastore. The embedded simulator would show invented sizes.
type store struct {
	helper
	ds *simulator.Datastore
}

func (d *store) RefreshDatastore(ctx *simulator.Context, _ *types.RefreshDatastore) soap.HasFault {
	free := d.sim.freeSpace(d.ds)
	ctx.WithLock(d.ds, func() {
		ctx.Update(d.ds, []types.PropertyChange{{Name: "summary.freeSpace", Val: free}})
		d.ds.Info.GetDatastoreInfo().FreeSpace = free
	})
	return &methods.RefreshDatastoreBody{Res: &types.RefreshDatastoreResponse{}}
}

// freeSpace is the true value; the summary may still show an old one.
func (s *sim) freeSpace(ds *simulator.Datastore) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if free, told := s.free[ds.Name]; told {
		return free
	}
	return ds.Summary.FreeSpace
}

// authorization answers from the table of users; the embedded simulator grants everything.
type authorization struct{ helper }

func (a *authorization) userOf(session string) string {
	for _, s := range a.sim.sessions() {
		if s.Key == session {
			return s.UserName
		}
	}
	return ""
}

func (a *authorization) answer(user string, entities []types.ManagedObjectReference, privileges []string) []types.EntityPrivilege {
	var out []types.EntityPrivilege
	for _, entity := range entities {
		p := types.EntityPrivilege{Entity: entity}
		for _, id := range privileges {
			granted := a.sim.holds(user, id, entity)
			p.PrivAvailability = append(p.PrivAvailability, types.PrivilegeAvailability{PrivId: id, IsGranted: granted})
		}
		out = append(out, p)
	}
	return out
}

func (a *authorization) HasPrivilegeOnEntities(req *types.HasPrivilegeOnEntities) soap.HasFault {
	return &methods.HasPrivilegeOnEntitiesBody{Res: &types.HasPrivilegeOnEntitiesResponse{
		Returnval: a.answer(a.userOf(req.SessionId), req.Entity, req.PrivId),
	}}
}

func (a *authorization) HasUserPrivilegeOnEntities(req *types.HasUserPrivilegeOnEntities) soap.HasFault {
	return &methods.HasUserPrivilegeOnEntitiesBody{Res: &types.HasUserPrivilegeOnEntitiesResponse{
		Returnval: a.answer(req.UserName, req.Entities, req.PrivId),
	}}
}

func (a *authorization) HasPrivilegeOnEntity(req *types.HasPrivilegeOnEntity) soap.HasFault {
	user := a.userOf(req.SessionId)
	var out []bool
	for _, id := range req.PrivId {
		out = append(out, a.sim.holds(user, id, req.Entity))
	}
	return &methods.HasPrivilegeOnEntityBody{Res: &types.HasPrivilegeOnEntityResponse{Returnval: out}}
}

// named finds a user as vCenter does: without regard to case, and by user@domain or DOMAIN\user.
func (s *sim) named(name string) (string, bool) {
	plain := func(name string) string {
		name = strings.ToLower(name)
		if domain, user, ok := strings.Cut(name, "\\"); ok {
			return user + "@" + domain
		}
		return name
	}
	for known := range s.users {
		if plain(known) == plain(name) {
			return known, true
		}
	}
	return "", false
}

func (a *authorization) FetchUserPrivilegeOnEntities(req *types.FetchUserPrivilegeOnEntities) soap.HasFault {
	user, ok := a.sim.named(req.UserName)
	if !ok {
		fault := &types.UserNotFound{Principal: req.UserName, Unresolved: false}
		return &methods.FetchUserPrivilegeOnEntitiesBody{Fault_: simulator.Fault("", fault)}
	}
	granted := []string{"System.Anonymous", "System.Read", "System.View"}
	for id := range knownPrivileges {
		if a.sim.allowed(user, id) {
			granted = append(granted, id)
		}
	}
	sort.Strings(granted)
	var out []types.UserPrivilegeResult
	for _, entity := range req.Entities {
		held := granted
		switch {
		case a.sim.noAccess(user, entity):
			held = nil
		case a.sim.passes(user, entity):
			held = []string{"System.View"}
		}
		out = append(out, types.UserPrivilegeResult{Entity: entity, Privileges: held})
	}
	return &methods.FetchUserPrivilegeOnEntitiesBody{Res: &types.FetchUserPrivilegeOnEntitiesResponse{Returnval: out}}
}

// knownPrivileges is what "all privileges" means. A name that vSphere does not have is never granted.
var knownPrivileges = func() map[string]bool {
	all := map[string]bool{}
	for _, p := range needed {
		all[p] = true
	}
	for _, p := range []string{
		"Datastore.AllocateSpace", "Datastore.Browse", "Datastore.FileManagement", "Global.CancelTask", "Global.DisableMethods",
		"Global.EnableMethods", "Global.Licenses", "Host.Config.NetService", "Host.Config.Storage", "Network.Assign",
		"Resource.AssignVMToPool", "StorageProfile.View", "VApp.ApplicationConfig", "VApp.Import",
		"VirtualMachine.Config.AddExistingDisk", "VirtualMachine.Config.AddNewDisk", "VirtualMachine.Config.AddRemoveDevice",
		"VirtualMachine.Config.AdvancedConfig", "VirtualMachine.Config.ChangeTracking", "VirtualMachine.Config.DiskLease",
		"VirtualMachine.Config.EditDevice", "VirtualMachine.Config.RemoveDisk", "VirtualMachine.Config.Settings",
		"VirtualMachine.Interact.DeviceConnection", "VirtualMachine.Inventory.Create", "VirtualMachine.Inventory.Register",
		"VirtualMachine.Provisioning.DiskRandomAccess", "VirtualMachine.Provisioning.FileRandomAccess",
		"VirtualMachine.Provisioning.GetVmFiles", "VirtualMachine.Provisioning.Clone", "VirtualMachine.Provisioning.MarkAsTemplate",
		"VirtualMachine.State.RenameSnapshot", "Cryptographer.Access", "Cryptographer.Read",
	} {
		all[p] = true
	}
	return all
}()
