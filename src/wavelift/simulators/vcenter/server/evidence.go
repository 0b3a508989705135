// Evidence: what every snapshot froze, for a checker that does not trust the product.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

type evidenceStore struct {
	on      bool
	dir     string
	mu      sync.Mutex
	records []*evidenceRecord
}

type evidenceRecord struct {
	VM       string          `json:"vm"`
	Moref    string          `json:"moref"`
	Snapshot string          `json:"snapshot"`
	Ref      string          `json:"snapshot_moref"`
	Created  string          `json:"created"`
	Disks    []evidenceImage `json:"disks"`
}

type evidenceImage struct {
	Index    int    `json:"index"`
	Key      int32  `json:"key"`
	Label    string `json:"label"`
	Capacity int64  `json:"capacity"`
	File     string `json:"file"`
	image    *image
}

func (e *evidenceStore) add(v *vmState, s *snapshot) {
	if !e.on {
		return
	}
	r := &evidenceRecord{VM: v.spec.Name, Moref: v.moref(), Snapshot: s.name, Ref: s.ref.Value, Created: s.at}
	for i, d := range v.disks {
		if !d.frozenBy {
			continue
		}
		name := filepath.Join(e.dir, fmt.Sprintf("%s-%s-%d.raw", v.moref(), s.ref.Value, d.key))
		r.Disks = append(r.Disks, evidenceImage{Index: i, Key: d.key, Label: d.label, Capacity: d.capacity, File: name, image: d.image(s.layers[d.key])})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.records = append(e.records, r)
}

// list writes the files that are not written yet. Frozen layers never change, so this can be late.
func (e *evidenceStore) list() ([]*evidenceRecord, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil, err
	}
	for _, r := range e.records {
		for i := range r.Disks {
			if r.Disks[i].image == nil {
				continue
			}
			if err := r.Disks[i].image.export(r.Disks[i].File); err != nil {
				return nil, err
			}
			r.Disks[i].image = nil
		}
	}
	return append([]*evidenceRecord{}, e.records...), nil
}
