// Power: on, off, the guest's own shutdown, and what starts a VM without being asked.
package main

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// power is the common part of power on and off.
func (m *machine) power(ctx *simulator.Context, method string, to types.VirtualMachinePowerState) (types.ManagedObjectReference, types.BaseMethodFault) {
	v := m.v
	if v.vm.Config.Template && to == types.VirtualMachinePowerStatePoweredOn {
		return types.ManagedObjectReference{}, &types.InvalidState{}
	}
	return v.exclusive(ctx, method, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		if v.vm.Runtime.PowerState == to {
			return nil, &types.InvalidPowerState{RequestedState: to, ExistingState: to}
		}
		if to == types.VirtualMachinePowerStatePoweredOn {
			v.switchOn(ctx)
		} else {
			v.setPower(ctx, to)
		}
		v.postPower(ctx, method, to)
		return nil, nil
	})
}

func (m *machine) PowerOnVMTask(ctx *simulator.Context, _ *types.PowerOnVM_Task) soap.HasFault {
	body := &methods.PowerOnVM_TaskBody{}
	ref, fault := m.power(ctx, "PowerOnVM_Task", types.VirtualMachinePowerStatePoweredOn)
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.PowerOnVM_TaskResponse{Returnval: ref}
	}
	return body
}

func (m *machine) PowerOffVMTask(ctx *simulator.Context, _ *types.PowerOffVM_Task) soap.HasFault {
	body := &methods.PowerOffVM_TaskBody{}
	ref, fault := m.power(ctx, "PowerOffVM_Task", types.VirtualMachinePowerStatePoweredOff)
	if fault != nil {
		body.Fault_ = refuse(fault)
	} else {
		body.Res = &types.PowerOffVM_TaskResponse{Returnval: ref}
	}
	return body
}

// shutdownSpec is how a guest takes a shutdown request. It doesn't tell the client.
type shutdownSpec struct {
	After float64 `json:"after"` // seconds
	How   string  `json:"how"`   // off (default) | ignore | reboot: off, and on again by itself
	Back  float64 `json:"back"`  // seconds until it is on again
}

// ShutdownGuest starts a guest shutdown. It needs VMware Tools, and answers before the VM is off.
func (m *machine) ShutdownGuest(ctx *simulator.Context, _ *types.ShutdownGuest) soap.HasFault {
	body := &methods.ShutdownGuestBody{}
	v := m.v
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case !v.running():
		body.Fault_ = refuse(&types.InvalidPowerState{RequestedState: "poweredOn", ExistingState: v.vm.Runtime.PowerState})
	case !v.toolsRunning():
		body.Fault_ = refuse(&types.ToolsUnavailable{})
	case v.shutting:
		body.Fault_ = refuse(&types.TaskInProgress{Task: types.ManagedObjectReference{Type: "Task", Value: "shutdown-" + v.moref()}})
	default:
		v.shutting = true
		go v.shutDown(detach(ctx), v.spec.Shutdown, v.vm.Runtime.BootTime)
		body.Res = &types.ShutdownGuestResponse{}
	}
	return body
}

// shutDown is what the guest that was booted then does about it. A rule of kind task can hold it up.
func (v *vmState) shutDown(ctx *simulator.Context, how shutdownSpec, booted *time.Time) {
	time.Sleep(seconds(orElse(how.After, v.sim.options.TaskSeconds)))
	if r := v.sim.rules.take(event{kind: "task", method: "ShutdownGuest", vm: v}); r != nil {
		r.wait()
	}
	stopped := false
	ctx.WithLock(v.vm, func() {
		if v.vm.Runtime.BootTime != booted {
			return // somebody was quicker
		}
		v.mu.Lock()
		v.shutting = false
		v.mu.Unlock()
		if stopped = how.How != "ignore"; stopped {
			v.setPower(ctx, types.VirtualMachinePowerStatePoweredOff)
			v.postPower(ctx, "ShutdownGuest", types.VirtualMachinePowerStatePoweredOff)
		}
	})
	if !stopped || how.How != "reboot" {
		return
	}
	time.Sleep(seconds(orElse(how.Back, v.sim.options.TaskSeconds)))
	ctx.WithLock(v.vm, func() {
		if v.vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff {
			v.switchOn(ctx)
			v.post(ctx, &types.VmPoweredOnEvent{})
		}
	})
}

func (v *vmState) switchOn(ctx *simulator.Context) {
	v.setPower(ctx, types.VirtualMachinePowerStatePoweredOn)
	v.poweredOn(ctx)
}

// startByItself powers on a VM that is off, as vSphere HA does after a host's failure, or a host that autostarts its VMs.
func (v *vmState) startByItself(ctx *simulator.Context, by string) error {
	if v.vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff || v.vm.Config.Template {
		return badRequest("%s is not off, or a template", v.spec.Name)
	}
	switch by {
	case "ha":
		if h := v.sim.otherHost(v); h != nil {
			v.placeOn(ctx, h.ref)
		}
		v.switchOn(ctx)
		v.postEx(ctx, "com.vmware.vc.ha.VmRestartedByHAEvent", "vSphere HA restarted this virtual machine")
	case "autostart":
		v.switchOn(ctx)
		v.post(ctx, &types.VmPoweredOnEvent{})
	default:
		return badRequest("a VM is started by ha or autostart, not by %q", by)
	}
	return nil
}
