// The stream-optimised VMDK as ESXi sends it: header without directory, grains behind markers, every grain table after
// its grains, directory, footer and end-of-stream at the end. Written from the VMDK 5.0 specification, so that a fault in
// the product's codec is not hidden by the same fault here.
package main

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

const (
	sectorSize       = 512
	grainSectors     = blockSize / sectorSize
	tableEntries     = 512
	tableSectors     = tableEntries * 4 / sectorSize
	descriptorSector = 1
	descriptorLength = 20
	overheadSectors  = 128
	directoryAtEnd   = ^uint64(0)

	markerEnd       = 0
	markerTable     = 1
	markerDirectory = 2
	markerFooter    = 3
	// markerProgress is in no specification: a progress marker, "size 0, type 4, sector reached", which vSphere inserts
	// sporadically, several in a row. Readers that know only the documented ones break on some disks and not on others.
	markerProgress = 4

	progressEvery  = 37 // grains between two progress markers; vSphere inserts them by time
	progressRepeat = 4
)

// streamEncoder writes one image. The file position is counted in sectors as the directory needs it.
type streamEncoder struct {
	out     io.Writer
	sector  uint64
	packed  bytes.Buffer
	deflate *zlib.Writer
	// touch sees each grain's compressed bytes before they are sent: the place where a rule damages one.
	touch func(ordinal int64, diskOffset int64, compressed []byte)
}

func newStreamEncoder(out io.Writer) *streamEncoder {
	e := &streamEncoder{out: out, touch: func(int64, int64, []byte) {}}
	e.deflate, _ = zlib.NewWriterLevel(&e.packed, zlib.BestSpeed)
	return e
}

func (e *streamEncoder) put(p []byte) error {
	if pad := len(p) % sectorSize; pad != 0 {
		p = append(p, make([]byte, sectorSize-pad)...)
	}
	e.sector += uint64(len(p) / sectorSize)
	_, err := e.out.Write(p)
	return err
}

func header(capacity uint64, directory uint64) []byte {
	h := make([]byte, sectorSize)
	copy(h, "KDMV")
	le := binary.LittleEndian
	le.PutUint32(h[4:], 3)                 // version
	le.PutUint32(h[8:], 1|1<<16|1<<17)     // newline test, compressed grains, markers
	le.PutUint64(h[12:], capacity)         // sectors
	le.PutUint64(h[20:], grainSectors)     //
	le.PutUint64(h[28:], descriptorSector) //
	le.PutUint64(h[36:], descriptorLength) //
	le.PutUint32(h[44:], tableEntries)     //
	le.PutUint64(h[48:], 0)                // no redundant directory
	le.PutUint64(h[56:], directory)        //
	le.PutUint64(h[64:], overheadSectors)  //
	copy(h[73:], []byte{'\n', ' ', '\r', '\n'})
	le.PutUint16(h[77:], 1) // deflate
	return h
}

func descriptor(capacity int64) []byte {
	sectors := capacity / sectorSize
	text := strings.Join([]string{
		"# Disk DescriptorFile",
		"version=1",
		fmt.Sprintf("CID=%08x", uint32(sectors*2654435761)),
		"parentCID=ffffffff",
		`createType="streamOptimized"`,
		"",
		"# Extent description",
		fmt.Sprintf(`RDONLY %d SPARSE "generated-stream.vmdk"`, sectors),
		"",
		"# The Disk Data Base",
		"#DDB",
		"",
		`ddb.adapterType = "lsilogic"`,
		fmt.Sprintf(`ddb.geometry.cylinders = "%d"`, min(sectors/(255*63)+1, 65535)),
		`ddb.geometry.heads = "255"`,
		`ddb.geometry.sectors = "63"`,
		`ddb.virtualHWVersion = "19"`,
		"",
	}, "\n")
	p := make([]byte, descriptorLength*sectorSize)
	copy(p, text)
	return p
}

func marker(sectors uint64, kind uint32) []byte {
	p := make([]byte, sectorSize)
	binary.LittleEndian.PutUint64(p, sectors)
	binary.LittleEndian.PutUint32(p[12:], kind) // size 0 at 8 tells a marker from a grain
	return p
}

// progress writes a progress marker, as vSphere does while it reads slowly or skips zeros.
func (e *streamEncoder) progress(index int64) error {
	p := marker(0, markerProgress)
	binary.LittleEndian.PutUint64(p[16:], uint64(index)*grainSectors)
	for i := 0; i < progressRepeat; i++ {
		if err := e.put(p); err != nil {
			return err
		}
	}
	return nil
}

// grain writes one compressed grain and returns the sector it begins at.
func (e *streamEncoder) grain(ordinal, index int64, data []byte) (uint64, error) {
	e.packed.Reset()
	e.packed.Write(make([]byte, 12))
	e.deflate.Reset(&e.packed)
	if _, err := e.deflate.Write(data); err != nil {
		return 0, err
	}
	if err := e.deflate.Close(); err != nil {
		return 0, err
	}
	p := e.packed.Bytes()
	binary.LittleEndian.PutUint64(p, uint64(index)*grainSectors)
	binary.LittleEndian.PutUint32(p[8:], uint32(len(p)-12))
	e.touch(ordinal, index*blockSize, p[12:])
	at := e.sector
	return at, e.put(p)
}

func table32(entries []uint32) []byte {
	p := make([]byte, len(entries)*4)
	for i, v := range entries {
		binary.LittleEndian.PutUint32(p[i*4:], v)
	}
	return p
}

// encode streams the image; it needs no temporary file and never looks back.
func (e *streamEncoder) encode(m *image) error {
	sectors := uint64(m.capacity / sectorSize)
	head := append(header(sectors, directoryAtEnd), descriptor(m.capacity)...)
	head = append(head, make([]byte, overheadSectors*sectorSize-len(head))...)
	if err := e.put(head); err != nil {
		return err
	}
	blocks := blocksOf(m.capacity)
	directory := make([]uint32, (blocks+tableEntries-1)/tableEntries)
	block := make([]byte, blockSize)
	var ordinal int64
	for t := range directory {
		table := make([]uint32, tableEntries)
		used := false
		first := int64(t) * tableEntries
		for i := first; i < min(first+tableEntries, blocks); i++ {
			if data, err := m.sent(i, block); err != nil {
				return err
			} else if !data {
				continue
			}
			if ordinal%progressEvery == 1 {
				if err := e.progress(i); err != nil {
					return err
				}
			}
			at, err := e.grain(ordinal, i, block)
			if err != nil {
				return err
			}
			ordinal++
			table[i-first], used = uint32(at), true
		}
		if !used {
			if err := e.progress(first); err != nil {
				return err
			}
			continue
		}
		if err := e.put(marker(tableSectors, markerTable)); err != nil {
			return err
		}
		directory[t] = uint32(e.sector)
		if err := e.put(table32(table)); err != nil {
			return err
		}
	}
	return e.finish(sectors, directory)
}

func (e *streamEncoder) finish(capacity uint64, directory []uint32) error {
	entries := table32(directory)
	length := uint64((len(entries) + sectorSize - 1) / sectorSize)
	if err := e.put(marker(length, markerDirectory)); err != nil {
		return err
	}
	at := e.sector
	for _, p := range [][]byte{entries, marker(1, markerFooter), header(capacity, at), marker(0, markerEnd)} {
		if err := e.put(p); err != nil {
			return err
		}
	}
	return nil
}

// findGrain returns where the n-th grain's compressed bytes begin in a finished stream file whose grains start at the
// header's overhead (qemu-img's shape: tables up front, then grains), with the grain's disk offset and length.
func findGrain(f io.ReaderAt, ordinal int64) (at, diskOffset, length int64, err error) {
	h := make([]byte, sectorSize)
	if _, err = f.ReadAt(h, 0); err != nil {
		return
	}
	pos := int64(binary.LittleEndian.Uint64(h[64:])) * sectorSize
	for n := int64(0); ; {
		if _, err = f.ReadAt(h, pos); err != nil {
			return 0, 0, 0, fmt.Errorf("the stream has only %d grains: %w", n, err)
		}
		size := int64(binary.LittleEndian.Uint32(h[8:]))
		if size == 0 {
			pos += sectorSize
			continue
		}
		if n == ordinal {
			return pos + 12, int64(binary.LittleEndian.Uint64(h)) * sectorSize, size, nil
		}
		n++
		pos += (12 + size + sectorSize - 1) / sectorSize * sectorSize
	}
}
