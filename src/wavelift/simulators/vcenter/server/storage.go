// Disk contents: one immutable base file, redo layers above it, and the write log that change tracking reads.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// blockSize is the unit of redo layers and of change tracking. Real change tracking is also coarser than the write
// itself, so a reported area may cover bytes that did not change.
const blockSize = 64 << 10

// allocationUnit is what a thin VMFS disk grows by; the areas that "*" reports are rounded out to it.
const allocationUnit = 1 << 20

const (
	seekData = 3
	seekHole = 4
)

// bitmap says which blocks of a disk something holds for.
type bitmap []uint64

func newBitmap(blocks int64) bitmap { return make(bitmap, (blocks+63)/64) }

func (b bitmap) has(i int64) bool { return b[i>>6]&(1<<(uint(i)&63)) != 0 }
func (b bitmap) set(i int64)      { b[i>>6] |= 1 << (uint(i) & 63) }

func (b bitmap) add(other bitmap) {
	for i, word := range other {
		b[i] |= word
	}
}

func (b bitmap) count() int64 {
	var n int64
	for _, word := range b {
		for ; word != 0; word &= word - 1 {
			n++
		}
	}
	return n
}

// base is the raw file a disk starts with. It is only ever read, so the caller's file stays as it was.
type base struct {
	file  *os.File // nil: a disk without content
	alloc bitmap
}

func openBase(name string, blocks int64) (*base, error) {
	b := &base{alloc: newBitmap(blocks)}
	if name == "" {
		return b, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	b.file = f
	var off int64
	for {
		data, err := f.Seek(off, seekData)
		if err != nil {
			if e, ok := err.(*os.PathError); ok && e.Err == syscall.ENXIO {
				return b, nil // no data beyond off
			}
			return nil, err
		}
		if off, err = f.Seek(data, seekHole); err != nil {
			return nil, err
		}
		for i := data / blockSize; i*blockSize < off && i < blocks; i++ {
			b.alloc.set(i)
		}
	}
}

// layer is one redo log. Frozen layers never change again: a merge moves their blocks into the child and drops them,
// so a reader that still holds an old chain goes on reading the old bytes.
type layer struct {
	parent *layer // nil: directly on the base
	name   string // datastore path of the descriptor this layer is shown as
	file   *os.File
	have   bitmap
}

// disk is one virtual disk. Its owner's mutex guards everything but frozen layers.
type disk struct {
	spec       diskSpec // as it was made
	key        int32
	label      string // ParaVirtualSCSIController0:0
	capacity   int64
	base       *base
	tip        *layer
	raw        string
	descriptor string // datastore path of the base descriptor
	thick      bool   // zeros that were written are sent as grains of zeros
	frozenBy   bool   // false for independent disks and physical RDMs: snapshots pass them by
	dir        string
	serial     int         // for names of layer files
	guard      sync.Locker // the owner's mutex
	tracking   tracking
}

func blocksOf(capacity int64) int64 { return (capacity + blockSize - 1) / blockSize }

func (d *disk) blocks() int64 { return blocksOf(d.capacity) }

func (d *disk) newLayer(parent *layer, name string) *layer {
	return &layer{parent: parent, name: name, have: newBitmap(d.blocks())}
}

// backing creates the layer's file on its first write: a snapshot stays O(1) however many disks there are.
func (d *disk) backing(l *layer) (*os.File, error) {
	if l.file != nil {
		return l.file, nil
	}
	d.serial++
	name := filepath.Join(d.dir, fmt.Sprintf("%d-%d.layer", d.key, d.serial))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	l.file = f
	return f, nil
}

// write is a guest's write: into the top layer, blocks filled up from below, noted for change tracking.
func (d *disk) write(off int64, data []byte) error {
	if off < 0 || off+int64(len(data)) > d.capacity {
		return fmt.Errorf("write of %d bytes at %d is beyond the disk's %d bytes", len(data), off, d.capacity)
	}
	f, err := d.backing(d.tip)
	if err != nil {
		return err
	}
	block := make([]byte, blockSize)
	for len(data) > 0 {
		index := off / blockSize
		in := off % blockSize
		n := min(int64(len(data)), blockSize-in)
		if err := d.image(d.tip).readBlock(index, block); err != nil {
			return err
		}
		copy(block[in:], data[:n])
		if _, err := f.WriteAt(block, index*blockSize); err != nil {
			return err
		}
		d.tip.have.set(index)
		d.tracking.written(index)
		data, off = data[n:], off+n
	}
	return nil
}

// absorb merges the frozen parent into its only child: the child takes what it does not have itself.
func (d *disk) absorb(child *layer) error {
	parent := child.parent
	if parent.file != nil {
		f, err := d.backing(child)
		if err != nil {
			return err
		}
		block := make([]byte, blockSize)
		for i := int64(0); i < d.blocks(); i++ {
			if !parent.have.has(i) || child.have.has(i) {
				continue
			}
			if _, err := parent.file.ReadAt(block, i*blockSize); err != nil {
				return err
			}
			if _, err := f.WriteAt(block, i*blockSize); err != nil {
				return err
			}
			child.have.set(i)
		}
	}
	child.parent, child.name = parent.parent, parent.name
	parent.unlink()
	return nil
}

// unlink removes the layer's name; readers keep the open file.
func (l *layer) unlink() {
	if l.file != nil {
		_ = os.Remove(l.file.Name())
	}
}

// image is the disk as one layer and everything below it shows it.
type image struct {
	base     *base
	top      *layer
	capacity int64
	thick    bool
	// guard is taken per block: a merge may be moving blocks between layers that this image reads through
	guard sync.Locker
}

func (d *disk) image(top *layer) *image {
	return &image{base: d.base, top: top, capacity: d.capacity, thick: d.thick, guard: d.guard}
}

// allocated says whether any layer or the base holds the block; others read as zeros. Called with guard held.
func (m *image) allocated(index int64) bool {
	for l := m.top; l != nil; l = l.parent {
		if l.have.has(index) {
			return true
		}
	}
	return m.base.alloc.has(index)
}

// readBlock fills p, zero padded beyond what the base file holds. Called with guard held.
func (m *image) readBlock(index int64, p []byte) error {
	var from *os.File
	for l := m.top; l != nil && from == nil; l = l.parent {
		if l.have.has(index) {
			from = l.file
		}
	}
	if from == nil && m.base.alloc.has(index) {
		from = m.base.file
	}
	n := 0
	if from != nil {
		var err error
		if n, err = from.ReadAt(p, index*blockSize); err != nil && err != io.EOF {
			return err
		}
	}
	if rest := m.capacity - index*blockSize; int64(n) > rest {
		n = int(rest) // a base file longer than the disk
	}
	clear(p[n:])
	return nil
}

// nonZero reads the block and says whether there is anything in it.
func (m *image) nonZero(index int64, block []byte) (bool, error) {
	m.guard.Lock()
	defer m.guard.Unlock()
	if !m.allocated(index) {
		return false, nil
	}
	if err := m.readBlock(index, block); err != nil {
		return false, err
	}
	return !isZero(block), nil
}

// sent reads the block and says whether a lease sends it: of a thick disk, every block that was ever written.
func (m *image) sent(index int64, block []byte) (bool, error) {
	data, err := m.nonZero(index, block)
	if data || err != nil || !m.thick {
		return data, err
	}
	m.guard.Lock()
	defer m.guard.Unlock()
	clear(block)
	return m.allocated(index), nil
}

// ReadAt makes the image readable by ranges.
func (m *image) ReadAt(p []byte, off int64) (int, error) {
	m.guard.Lock()
	defer m.guard.Unlock()
	block := make([]byte, blockSize)
	read := 0
	for read < len(p) && off < m.capacity {
		index := off / blockSize
		if err := m.readBlock(index, block); err != nil {
			return read, err
		}
		end := min(m.capacity-index*blockSize, blockSize)
		n := copy(p[read:], block[off%blockSize:end])
		read, off = read+n, off+int64(n)
	}
	if read < len(p) {
		return read, io.EOF
	}
	return read, nil
}

// export writes the image as a raw sparse file.
func (m *image) export(name string) error {
	part := name + ".part"
	f, err := os.Create(part)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, blockSize)
	for i := int64(0); i*blockSize < m.capacity; i++ {
		if data, err := m.nonZero(i, block); err != nil {
			return err
		} else if !data {
			continue
		}
		if _, err := f.WriteAt(block[:min(m.capacity-i*blockSize, blockSize)], i*blockSize); err != nil {
			return err
		}
	}
	if err := f.Truncate(m.capacity); err != nil {
		return err
	}
	return os.Rename(part, name)
}

var zeros [blockSize]byte

func isZero(p []byte) bool { return bytes.Equal(p, zeros[:len(p)]) }
