// The role "No access": what a user sees of the folders and data centres on which it lies, which is nothing.
package main

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

var (
	objectsOf = regexp.MustCompile(`(?s)<objects>.*?</objects>`)
	objectOf  = regexp.MustCompile(`<obj type="([^"]+)"[^>]*>([^<]+)</obj>`)
	listed    = regexp.MustCompile(`<ManagedObjectReference type="([^"]+)"[^>]*>([^<]+)</ManagedObjectReference>`)
)

// pathOf is the inventory path of a managed entity, "/dc1/vm/prod/web01"; "" for the root and for all else.
func (s *sim) pathOf(ref types.ManagedObjectReference) string {
	path := ""
	for at := &ref; at != nil; {
		entity, ok := s.model.Map().Get(*at).(mo.Entity)
		if !ok {
			return ""
		}
		e := entity.Entity()
		if e.Parent != nil {
			path = "/" + e.Name + path
		}
		at = e.Parent
	}
	return path
}

// noAccess says whether a user has the role "No access" on an object, or on something above it. Snapshots and leases
// are their VM's.
func (s *sim) noAccess(user string, ref types.ManagedObjectReference) bool {
	u := s.users[user]
	denied := u.NoAccess
	if len(denied) == 0 && u.Below == "" {
		return false
	}
	if v, _ := s.target(ref); v != nil {
		ref = v.vm.Self
	}
	path := s.pathOf(ref)
	if u.Below != "" && path != "" && !strings.HasPrefix(path+"/", u.Below+"/") && !strings.HasPrefix(u.Below, path+"/") {
		return true
	}
	for _, top := range denied {
		if path == top || strings.HasPrefix(path, top+"/") {
			return true
		}
	}
	return false
}

// passes says whether an object only lies above what a user has a role on: he sees that it is there.
func (s *sim) passes(user string, ref types.ManagedObjectReference) bool {
	below := s.users[user].Below
	if below == "" {
		return false
	}
	path := s.pathOf(ref)
	_, managed := s.model.Map().Get(ref).(mo.Entity)
	return managed && path != below && strings.HasPrefix(below, path+"/")
}

func (s *sim) userOf(r *http.Request) string {
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return ""
	}
	for _, u := range s.sessions() {
		if u.Key == strings.Trim(cookie.Value, `"`) {
			return u.UserName
		}
	}
	return ""
}

// hide takes what a user may not see out of an answer. As in a vCenter, objects that a traversal or a view finds are
// left out, and an object that was asked for by its id comes without properties, with the reason.
func (s *sim) hide(user string, request, answer []byte) []byte {
	if len(s.users[user].NoAccess) == 0 && s.users[user].Below == "" {
		return answer
	}
	hidden := func(found [][]byte) bool {
		return len(found) == 3 && s.noAccess(user, types.ManagedObjectReference{Type: string(found[1]), Value: string(found[2])})
	}
	answer = objectsOf.ReplaceAllFunc(answer, func(block []byte) []byte {
		found := objectOf.FindSubmatch(block)
		switch {
		case !hidden(found):
			return block
		case bytes.Contains(request, []byte(fmt.Sprintf(">%s</", found[2]))):
			return []byte(fmt.Sprintf(withoutAccess, found[0], found[1], found[2]))
		}
		return nil
	})
	return listed.ReplaceAllFunc(answer, func(ref []byte) []byte {
		if hidden(listed.FindSubmatch(ref)) {
			return nil
		}
		return ref
	})
}

const withoutAccess = `<objects>%s<missingSet><path>name</path><fault><fault xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="NoPermission"><object type="%s">%s</object><privilegeId>System.View</privilegeId></fault><localizedMessage>Permission to perform this operation was denied.</localizedMessage></fault></missingSet></objects>`
