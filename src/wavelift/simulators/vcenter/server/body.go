// Bodies of leases: encoded while they are sent, or made by qemu-img, with the checksums for the manifest.
package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/vim25/types"
)

func (f *leaseFile) finish(sums *digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	entry := &types.HttpNfcLeaseManifestEntry{
		Key: f.key, Sha1: hex.EncodeToString(sums.sha1.Sum(nil)), Size: sums.size, Disk: true,
		Capacity: f.disk.capacity, PopulatedSize: sums.size,
	}
	switch {
	case f.checksum == "sha1":
		entry.Checksum, entry.ChecksumType = entry.Sha1, "sha1"
	case sums.sha256 != nil:
		entry.Checksum, entry.ChecksumType = hex.EncodeToString(sums.sha256.Sum(nil)), "sha256"
	}
	f.entry = entry
}

type digest struct {
	sha1, sha256 hash.Hash
	size         int64
	out          io.Writer
}

func (d *digest) Write(p []byte) (int, error) {
	d.sha1.Write(p)
	if d.sha256 != nil {
		d.sha256.Write(p)
	}
	n, err := d.out.Write(p)
	d.size += int64(n)
	return n, err
}

// body writes the disk in the format that the rules or the options set.
func (s *sim) body(out io.Writer, e event, l *HttpNfcLease, f *leaseFile) error {
	style := s.options.Body
	e.actions = []string{"qemu", "footer"}
	if rule := s.rules.take(e); rule != nil {
		style = rule.Action
	}
	e.actions = []string{"corrupt"}
	corrupt := s.rules.take(e)
	if style == "qemu" {
		return s.qemuBody(out, corrupt, f)
	}
	if corrupt == nil && f.frozen && s.options.CacheBodies {
		return s.cachedBody(out, f)
	}
	encoder := newStreamEncoder(out)
	if corrupt != nil {
		encoder.touch = func(ordinal, offset int64, packed []byte) {
			if ordinal == corrupt.Grain {
				packed[len(packed)/2] ^= 0x55
				s.rules.note(corrupt, "%d", offset)
			}
		}
	}
	return encoder.encode(f.image)
}

// bodyKey identifies a finished body: of a frozen layer, in one format.
type bodyKey struct {
	top   *layer
	style string
}

// cachedBody encodes a frozen disk once and sends the same file afterwards.
func (s *sim) cachedBody(out io.Writer, f *leaseFile) error {
	key := bodyKey{f.image.top, "footer"}
	s.bodies.Lock()
	name := s.bodyFiles[key]
	s.bodies.Unlock()
	if name != "" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(out, file)
		return err
	}
	name = filepath.Join(s.work, "bodies", uuid.NewString()+".vmdk")
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := newStreamEncoder(io.MultiWriter(file, out)).encode(f.image); err != nil {
		_ = os.Remove(name)
		return err
	}
	s.bodies.Lock()
	defer s.bodies.Unlock()
	s.bodyFiles[key] = name
	return nil
}

// qemuBody sends what qemu-img made of the frozen state, made once per layer.
func (s *sim) qemuBody(out io.Writer, corrupt *rule, f *leaseFile) error {
	name, err := s.converted(f)
	if err != nil {
		return err
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if !f.frozen {
		_ = os.Remove(name) // the open file is enough
	}
	var reader io.Reader = file
	if corrupt != nil {
		at, offset, length, err := findGrain(file, corrupt.Grain)
		if err != nil {
			return err
		}
		flipped := make([]byte, 1)
		if _, err := file.ReadAt(flipped, at+length/2); err != nil {
			return err
		}
		flipped[0] ^= 0x55
		s.rules.note(corrupt, "%d", offset)
		reader = io.MultiReader(io.LimitReader(file, at+length/2), bytes.NewReader(flipped), &after{file, at + length/2 + 1})
	}
	_, err = io.Copy(out, reader)
	return err
}

// after reads a file from an offset on.
type after struct {
	file *os.File
	at   int64
}

func (a *after) Read(p []byte) (int, error) {
	n, err := a.file.ReadAt(p, a.at)
	a.at += int64(n)
	if n > 0 {
		return n, nil
	}
	return n, err
}

// forget drops the cached bodies of a snapshot that is gone.
func (s *sim) forget(snap *snapshot) {
	s.bodies.Lock()
	defer s.bodies.Unlock()
	for _, l := range snap.layers {
		for _, style := range []string{"footer", "qemu"} {
			if name := s.bodyFiles[bodyKey{l, style}]; name != "" {
				_ = os.Remove(name)
				delete(s.bodyFiles, bodyKey{l, style})
			}
		}
	}
}

// converted returns qemu-img's file of the image; only a frozen layer's is kept for the next time.
func (s *sim) converted(f *leaseFile) (string, error) {
	s.bodies.Lock()
	defer s.bodies.Unlock()
	key := bodyKey{f.image.top, "qemu"}
	if name := s.bodyFiles[key]; name != "" {
		return name, nil
	}
	name := filepath.Join(s.work, "bodies", uuid.NewString()+".vmdk")
	raw := name + ".raw"
	defer os.Remove(raw)
	if err := f.image.export(raw); err != nil {
		return "", err
	}
	cmd := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, name)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("qemu-img: %w: %s", err, text)
	}
	if f.frozen {
		s.bodyFiles[key] = name
	}
	return name, nil
}
