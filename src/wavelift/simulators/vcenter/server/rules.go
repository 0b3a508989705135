// Fault rules, which a test adds over the control endpoint.
package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// rule is one fault rule. Kind says which events it matches; the next fields narrow it; the rest is the effect.
type rule struct {
	ID   int    `json:"id"`
	Kind string `json:"kind"` // see ruleKinds

	Method string `json:"method,omitempty"` // SOAP method
	VM     string `json:"vm,omitempty"`     // name or moref
	Disk   *int   `json:"disk,omitempty"`   // index of the disk in the VM's inventory entry
	User   string `json:"user,omitempty"`
	Times  int    `json:"times"` // how often, 0: for ever
	Skip   int    `json:"skip,omitempty"`

	Fault   string          `json:"fault,omitempty"` // a vim fault's type name
	Args    json.RawMessage `json:"args,omitempty"`  // its fields
	Delay   float64         `json:"delay,omitempty"` // seconds
	Applied bool            `json:"applied,omitempty"`
	Action  string          `json:"action,omitempty"`
	Bytes   int64           `json:"bytes,omitempty"`
	Rate    int64           `json:"rate,omitempty"` // bytes per second
	Grain   int64           `json:"grain,omitempty"`
	Status  int             `json:"status,omitempty"`

	Hits    int      `json:"hits"`
	Details []string `json:"details,omitempty"` // what it did: the damaged grain's disk offset, for example
	skipped int
	cleared chan struct{}
}

// wait waits for the Delay, or until the rule is dropped, so that a test need not guess how long something takes.
func (r *rule) wait() {
	select {
	case <-time.After(seconds(r.Delay)):
	case <-r.cleared:
	}
}

// ruleKinds are the kinds of rules, for the error message.
var ruleKinds = map[string]string{
	"fault":                  "the call of Method raises Fault",
	"latency":                "the call of Method waits Delay, or until the rules are cleared",
	"drop":                   "the connection is cut: Action before (default) or after the call of Method",
	"task":                   "the task of Method waits Delay (or until the rules are cleared), then fails with Fault (Applied: after its work was done)",
	"quiesce":                "a quiesced snapshot fails with Fault (ApplicationQuiesceFault)",
	"lease":                  "Action never_ready | dies (after Delay, with Fault) | error (instead of ready)",
	"nfc":                    "Action cut | truncate (after Bytes) | corrupt (Grain) | slow (Rate, once Bytes were sent) | status (Status) | qemu | footer; expire, migrate or crash once Bytes were sent",
	"folder":                 "Action unlocked | host_only (vCenter's port is refused, the host's serves) | no_range (200 and the whole file) | cut (after Bytes) | slow (Rate, once Bytes were sent) | status (Status); expire, migrate or crash once Bytes were sent",
	"cbt":                    "Action fault (Fault) | few_areas | whole_disk | full_window",
	"consolidation":          "removing a snapshot leaves its layers and sets consolidationNeeded",
	"revert_keeps_change_id": "a revert keeps the change id's lineage, as a corrupt change map would",

	"power_loss_keeps_change_id": "so does a host's failure (control's power_loss)",
}

// event is something that a rule can match, before it happens.
type event struct {
	kind, method, user string
	vm                 *vmState
	disk               int
	actions            []string
}

type ruleBook struct {
	mu    sync.Mutex
	rules []*rule
	last  int
}

func (b *ruleBook) add(r *rule) error {
	if _, ok := ruleKinds[r.Kind]; !ok {
		return fmt.Errorf("no kind of rule is named %q: %v", r.Kind, reflect.ValueOf(ruleKinds).MapKeys())
	}
	if r.Fault != "" {
		if _, err := makeFault(r.Fault, r.Args, types.ManagedObjectReference{}); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	r.ID, r.cleared = b.last, make(chan struct{})
	b.rules = append(b.rules, r)
	return nil
}

func (b *ruleBook) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.rules {
		close(r.cleared)
	}
	b.rules = nil
}

// list copies the rules with their hits.
func (b *ruleBook) list() []rule {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []rule{}
	for _, r := range b.rules {
		clone := *r
		clone.Details = append([]string(nil), r.Details...)
		out = append(out, clone)
	}
	return out
}

func (r *rule) matches(e event) bool {
	switch {
	case r.Kind != e.kind:
		return false
	case r.Method != "" && r.Method != e.method:
		return false
	case r.User != "" && r.User != e.user:
		return false
	case r.VM != "" && (e.vm == nil || (r.VM != e.vm.spec.Name && r.VM != e.vm.moref())):
		return false
	case r.Disk != nil && *r.Disk != e.disk:
		return false
	case len(e.actions) > 0:
		for _, action := range e.actions {
			if r.Action == action {
				return true
			}
		}
		return false
	}
	return true
}

// take returns the first rule that matches and counts the hit.
func (b *ruleBook) take(e event) *rule {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.rules {
		if !r.matches(e) || (r.Times > 0 && r.Hits >= r.Times) {
			continue
		}
		if r.skipped < r.Skip {
			r.skipped++
			continue
		}
		r.Hits++
		return r
	}
	return nil
}

func (b *ruleBook) note(r *rule, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.Details = append(r.Details, fmt.Sprintf(format, args...))
}

func (r *rule) fault(self types.ManagedObjectReference) types.BaseMethodFault {
	fault, err := makeFault(orElse(r.Fault, "GenericVmConfigFault"), r.Args, self)
	if err != nil {
		return &types.SystemError{Reason: err.Error()}
	}
	return fault
}

// makeFault builds a vim fault by type name. References that a client can't decode when empty get the object's own.
func makeFault(name string, args json.RawMessage, self types.ManagedObjectReference) (types.BaseMethodFault, error) {
	kind, ok := types.TypeFunc()(name)
	if !ok {
		return nil, fmt.Errorf("no vim type is named %q", name)
	}
	value := reflect.New(kind)
	fault, ok := value.Interface().(types.BaseMethodFault)
	if !ok {
		return nil, fmt.Errorf("%s is not a fault", name)
	}
	fillReferences(value.Elem(), self)
	if len(args) > 0 {
		if err := json.Unmarshal(args, value.Interface()); err != nil {
			return nil, fmt.Errorf("fields of %s: %w", name, err)
		}
	}
	return fault, nil
}

func fillReferences(v reflect.Value, self types.ManagedObjectReference) {
	for i := 0; i < v.NumField(); i++ {
		f := v.Field(i)
		switch {
		case f.Type() == reflect.TypeOf(self):
			f.Set(reflect.ValueOf(self))
		case f.Type() == reflect.TypeOf(types.VirtualMachinePowerState("")):
			f.SetString("poweredOn")
		case f.Kind() == reflect.Struct && v.Type().Field(i).Anonymous:
			fillReferences(f, self)
		}
	}
}
