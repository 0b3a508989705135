// Reset: a new vCenter on the same ports, with the same certificates, in the same process.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// seatVariable names the file descriptor that a program finds its seat in.
const seatVariable = "WAVELIFT_VCENTER_SEAT"

// seat is all that outlives a reset: where the process listens and how it proves who it is. A reset replaces the program
// in its process (execve). The kernel then drops the rest, which no list of ours could name completely: sessions,
// tasks, timers, transfers, connections, open files and the embedded simulator's package variables.
type seat struct {
	Token      string            `json:"token"`
	Generation int               `json:"generation"`
	Authority  sealed            `json:"authority"`
	Leaves     map[string]sealed `json:"leaves"`
	Doors      []door            `json:"doors"`
}

// sealed is a certificate with its key, in DER.
type sealed struct {
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
}

// door is a listening socket. A client that connects during a reset waits for the new vCenter.
type door struct {
	Role    string `json:"role"`    // vcenter | control | host
	Address string `json:"address"` // as it was asked for
	FD      int    `json:"fd"`

	listener *net.TCPListener
	taken    bool
}

// takeSeat reads what the program before a reset left; nil: there was none.
func takeSeat() (*seat, error) {
	text := os.Getenv(seatVariable)
	if text == "" {
		return nil, nil
	}
	_ = os.Unsetenv(seatVariable)
	var fd int
	if _, err := fmt.Sscanf(text, "%d", &fd); err != nil {
		return nil, fmt.Errorf("%s=%s: %w", seatVariable, text, err)
	}
	file := os.NewFile(uintptr(fd), "seat")
	defer file.Close()
	s := &seat{}
	if err := json.NewDecoder(file).Decode(s); err != nil {
		return nil, fmt.Errorf("the seat: %w", err)
	}
	for i := range s.Doors {
		d := &s.Doors[i]
		socket := os.NewFile(uintptr(d.FD), d.Role)
		listener, err := net.FileListener(socket)
		_ = socket.Close() // the listener has a descriptor of its own
		if err != nil {
			return nil, fmt.Errorf("the %s's socket: %w", d.Role, err)
		}
		d.listener = listener.(*net.TCPListener)
	}
	return s, nil
}

// inherited takes the first listener that was left for this role and address; nil: there is none.
func (s *seat) inherited(role, address string) *net.TCPListener {
	if s == nil {
		return nil
	}
	for i := range s.Doors {
		if d := &s.Doors[i]; !d.taken && d.Role == role && d.Address == address {
			d.taken = true
			return d.listener
		}
	}
	return nil
}

// closeOthers ends listening where the new vCenter has nothing: a host that is gone refuses.
func (s *seat) closeOthers() {
	if s == nil {
		return
	}
	for _, d := range s.Doors {
		if !d.taken {
			_ = d.listener.Close()
		}
	}
}

// hostPort is the port that the hosts had which are wanted again: 0 where none is.
func (s *seat) hostPort(wanted []hostSpec) int {
	if s == nil {
		return 0
	}
	for _, h := range wanted {
		for _, d := range s.Doors {
			if d.Role == "host" && d.Address == h.Address {
				return d.listener.Addr().(*net.TCPAddr).Port
			}
		}
	}
	return 0
}

// open listens for a role, at the old place where there is one.
func (s *sim) open(role, address, at string) (net.Listener, error) {
	listener := s.seat.inherited(role, address)
	if listener == nil {
		made, err := net.Listen("tcp", at)
		if err != nil {
			return nil, err
		}
		listener = made.(*net.TCPListener)
	}
	s.doors = append(s.doors, door{Role: role, Address: address, listener: listener})
	return listener, nil
}

// --- leaving it ---

// controlReset takes an inventory as the start does. It answers before the program is replaced; the answer to the
// "ready" that is asked for next is the new program's.
func (s *sim) controlReset(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err == nil {
		_, err = parseInventory("the new inventory", raw)
	}
	if err != nil {
		answerJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	file := filepath.Join(s.home, "inventory.json")
	if err = os.WriteFile(file, raw, 0o600); err == nil {
		err = s.startAnew(file, func(generation int) {
			answerJSON(w, http.StatusOK, map[string]int{"generation": generation})
		})
	}
	answerJSON(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
}

// answerJSON answers with a length and at once, on a connection that ends.
func answerJSON(w http.ResponseWriter, status int, body any) {
	var text bytes.Buffer
	_ = json.NewEncoder(&text).Encode(body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(text.Len()))
	w.Header().Set("Connection", "close")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes())
	w.(http.Flusher).Flush()
}

// startAnew replaces this program by a new one with the inventory. It returns only if it fails.
func (s *sim) startAnew(inventory string, tell func(int)) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	s.leaving.Lock() // one at a time: it ends with the program
	defer s.leaving.Unlock()
	syscall.ForkLock.Lock() // no child may get the descriptors that the new program is to have
	defer syscall.ForkLock.Unlock()
	left := seat{Token: s.token, Generation: s.generation + 1, Leaves: map[string]sealed{}}
	if left.Authority, err = seal(s.ca.cert.Raw, s.ca.key); err != nil {
		return err
	}
	for name, leaf := range s.ca.leaves {
		if left.Leaves[name], err = seal(leaf.Certificate[0], leaf.PrivateKey); err != nil {
			return err
		}
	}
	for _, d := range s.doors {
		file, err := d.listener.File()
		if err != nil {
			return err
		}
		fd, err := passOn(file)
		if err != nil {
			return err
		}
		left.Doors = append(left.Doors, door{Role: d.Role, Address: d.Address, FD: fd})
	}
	file, err := os.CreateTemp(s.home, "seat")
	if err != nil {
		return err
	}
	if err = os.Remove(file.Name()); err == nil { // it holds keys
		err = json.NewEncoder(file).Encode(left)
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	fd, err := passOn(file)
	if err != nil {
		return err
	}
	for _, d := range s.doors {
		if d.Role == "control" {
			_ = d.listener.Close() // new clients wait for the new program
		}
	}
	tell(left.Generation)
	arguments := []string{os.Args[0], "-state", s.home, "-inventory", inventory, "-listen", s.address}
	if s.stdinExit {
		arguments = append(arguments, "-stdin-exit")
	}
	environment := append(os.Environ(), fmt.Sprintf("%s=%d", seatVariable, fd))
	log.Fatal("reset: ", syscall.Exec(program, arguments, environment))
	return nil
}

// passOn keeps the descriptor open in the program that follows.
func passOn(file *os.File) (int, error) {
	fd := int(file.Fd())
	if _, _, no := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETFD, 0); no != 0 {
		return 0, no
	}
	kept = append(kept, file)
	return fd, nil
}

// kept holds the files from being closed by the garbage collector.
var kept []*os.File

func seal(certificate []byte, key any) (sealed, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return sealed{Certificate: certificate, Key: der}, err
}

func (s sealed) open() (tls.Certificate, error) {
	key, err := x509.ParsePKCS8PrivateKey(s.Key)
	return tls.Certificate{Certificate: [][]byte{s.Certificate}, PrivateKey: key}, err
}

// leafName identifies a leaf certificate.
func leafName(kind string, names []string) string { return kind + " " + strings.Join(names, " ") }
