"""Opens an OVA, ours or another tool's, through reads of ranges: members, descriptor, manifest, disks.

Members may come in any order, in tar's old, GNU's or pax form; a manifest may be missing. Nothing of the file is
trusted: sizes are bounded before they are read, the descriptor may define no entity, and each failure names its place.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from wavelift.base.errors import CorruptStreamError, located
from wavelift.base.printable import printable
from wavelift.base.units import MIB
from wavelift.transfer import tar
from wavelift.transfer.tar import Member, ReadRange
from wavelift.transfer.vmdk import VmdkFile

MAX_TEXT: Final = 4 * MIB
"""Of a foreign descriptor, with its licence texts, or a manifest."""
CHUNK: Final = 4 * MIB
"""Read at once of a member that is read whole."""

_LINE: Final = re.compile(r"([A-Za-z0-9-]+)\s*\((.+)\)\s*=\s*([0-9A-Fa-f]+)")
_ALGORITHMS: Final = frozenset({"sha1", "sha256", "sha384", "sha512"})
"""Of OVF 1 and 2, and what ovftool offers besides."""
_UNITS: Final = re.compile(r"byte(?:\s*\*\s*(\d{1,4})(?:\s*\^\s*(\d{1,2}))?)?")


@dataclass(frozen=True, slots=True)
class Digest:
    """What the manifest says of a file.

    :param algorithm: in small letters. :param value: hex in small letters.
    """

    algorithm: str
    value: str


@dataclass(frozen=True, slots=True)
class OvaDisk:
    """A disk of the descriptor and its file.

    :param capacity: as the descriptor says, bytes.
    """

    member: Member
    capacity: int


class MemberSource:
    """A member front to back, as a :class:`~wavelift.transfer.protocols.RawSource`, hashed on the way."""

    def __init__(self, read: ReadRange, member: Member, digest: Digest | None) -> None:
        self._read = read
        self._member = member
        self._told = digest
        self._hash = hashlib.new(digest.algorithm if digest else "sha256", usedforsecurity=False)
        self._asked = 0
        self._chunk = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of ``buffer``; the count, 0 at the member's end."""
        if not self._chunk:
            size = min(CHUNK, self._member.size - self._asked)
            if not size:
                return 0
            self._chunk = memoryview(exactly(self._read, self._member, self._asked, size))
            self._hash.update(self._chunk)
            self._asked += size
        count = min(len(buffer), len(self._chunk))
        buffer[:count] = self._chunk[:count]
        self._chunk = self._chunk[count:]
        return count

    def check(self) -> None:
        """All was read: is it what the manifest says? Says nothing where there is none.

        :raises CorruptStreamError: it is not.
        """
        if self._asked != self._member.size:
            raise ValueError("the member was not read to its end")
        if self._told is not None and self._hash.hexdigest() != self._told.value:
            raise _wrong("The manifest has another digest of the file than its content", file=self._member.name)


class OvaImage:
    """What :func:`open_ova` found; ``read`` must stay usable.

    :ivar members: all files, by name. :ivar digests: by file; empty where there is no manifest.
    :ivar disks: in the descriptor's order.
    """

    def __init__(self, read: ReadRange, members: dict[str, Member], digests: dict[str, Digest], disks: list[OvaDisk]):
        self._read = read
        self.members = members
        self.digests = digests
        self.disks = tuple(disks)

    def vmdk(self, number: int) -> VmdkFile:
        """The blocks of disk ``number`` (from 0), in any order, from any thread.

        :raises CorruptStreamError: it is no stream-optimised VMDK, or damaged.
        """
        member = self.disks[number].member
        with located(file=member.name):
            return VmdkFile(lambda offset, length: self._read(member.offset + offset, length), member.size)

    def content(self, number: int, read: ReadRange | None = None) -> MemberSource:
        """The file of disk ``number`` (from 0), front to back, in steps of :data:`CHUNK`: for one that is compared
        whole.

        :param read: another way to the same bytes, which reads ahead.
        """
        member = self.disks[number].member
        return MemberSource(read or self._read, member, self.digests.get(member.name))


def open_ova(read: ReadRange, length: int) -> OvaImage:
    """Read headers, descriptor and manifest, and compare them with each other; no disk is opened.

    :param length: of the file, bytes.
    :raises CorruptStreamError: the tar is damaged, the descriptor is none or names files that are not there or are of
        another size, the manifest names others, or has another digest of the descriptor.
    """
    members: dict[str, Member] = {}
    for member in tar.walk(read, length):
        name = member.name.removeprefix("./")
        if name in members:
            raise _wrong("A file is there twice", file=name, position=member.offset)
        members[name] = Member(name, member.offset, member.size)
    descriptor = _the_one(members, ".ovf")
    if descriptor is None:
        raise _wrong(f"It has no descriptor among its {len(members)} files")
    text = _text(read, descriptor)
    with located(file=descriptor.name):
        disks = _disks(_parse(text), members)
    manifest = _the_one(members, ".mf")
    digests = {} if manifest is None else _parse_manifest(_text(read, manifest), manifest.name, members)
    told = digests.get(descriptor.name)
    if told and hashlib.new(told.algorithm, text, usedforsecurity=False).hexdigest() != told.value:
        raise _wrong("The manifest has another digest of the file than its content", file=descriptor.name)
    return OvaImage(read, members, digests, disks)


def exactly(read: ReadRange, member: Member, offset: int, size: int) -> bytes:
    """Bytes of a member.

    :raises CorruptStreamError: fewer came.
    """
    data = read(member.offset + offset, size) if size else b""
    if len(data) != size:
        raise _wrong("The file ends within a member", file=member.name, position=member.offset + offset)
    return data


def _wrong(what: str, *, file: str | None = None, position: int | None = None) -> CorruptStreamError:
    return CorruptStreamError(
        f"Broken OVA: {what[0].lower()}{what[1:]}",
        next_step="Read it again; when it breaks at the same place, the file itself is damaged: export it again",
        file=None if file is None else printable(file, 200),
        position=position,
    )


def _the_one(members: dict[str, Member], ending: str) -> Member | None:
    """The only member with this ending.

    :raises CorruptStreamError: there are several.
    """
    found = [member for name, member in members.items() if name.lower().endswith(ending)]
    if len(found) > 1:
        raise _wrong(f"It has {len(found)} files that end with {ending}", file=found[1].name)
    return found[0] if found else None


def _text(read: ReadRange, member: Member) -> bytes:
    if member.size > MAX_TEXT:
        raise _wrong(f"A text of {member.size} bytes", file=member.name, position=member.offset)
    return exactly(read, member, 0, member.size)


class _NoEntities(ElementTree.TreeBuilder):
    """A descriptor needs no document type, which is where entities that grow without bound are defined."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _wrong("The descriptor defines a document type")


def _parse(text: bytes) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_NoEntities())
    try:
        parser.feed(text)
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _wrong(f"The descriptor is no XML: {error}") from error
    if _local(root.tag) != "Envelope":
        raise _wrong(f"The descriptor's root is {printable(root.tag, 100)}")
    return root


def _local(name: str) -> str:
    """Without its namespace: OVF 0.9, 1 and 2 have different ones and mean the same here."""
    return name.rpartition("}")[2]


def _elements(root: ElementTree.Element, outer: str, inner: str) -> list[dict[str, str]]:
    """The attributes of all ``inner`` in ``outer``."""
    return [
        {_local(key): value for key, value in element.attrib.items()}
        for section in root
        if _local(section.tag) == outer
        for element in section
        if _local(element.tag) == inner
    ]


def _disks(root: ElementTree.Element, members: dict[str, Member]) -> list[OvaDisk]:
    files = {}
    for attributes in _elements(root, "References", "File"):
        files[attributes.get("id", "")] = _referred(attributes, members)
    disks = []
    for attributes in _elements(root, "DiskSection", "Disk"):
        reference = attributes.get("fileRef")
        if reference is None:  # an empty disk, made by whoever imports it
            continue
        if reference not in files:
            raise _wrong(f"Disk {printable(attributes.get('diskId', ''), 80)} is of a file that is not listed")
        disks.append(OvaDisk(files[reference], _capacity(attributes)))
    if not disks:
        raise _wrong("The descriptor names no disk")
    return disks


def _referred(attributes: dict[str, str], members: dict[str, Member]) -> Member:
    href = attributes.get("href", "")
    member = members.get(href)
    if member is None:
        raise _wrong(f"The descriptor names {printable(href, 200)!r}, which is not there")
    if attributes.get("compression", "identity") != "identity" or "chunkSize" in attributes:
        raise _wrong(f"{printable(href, 200)} is compressed or cut into chunks, which nothing here can read")
    if "size" in attributes and attributes["size"].strip() != str(member.size):
        told = printable(attributes["size"], 40)
        raise _wrong(f"The descriptor says {told} bytes of {printable(href, 200)}, which has {member.size}")
    return member


def _capacity(attributes: dict[str, str]) -> int:
    count = attributes.get("capacity", "").strip()
    units = _UNITS.fullmatch(attributes.get("capacityAllocationUnits", "byte").strip())
    if not re.fullmatch(r"\d{1,19}", count) or units is None:
        raise _wrong(f"Disk {printable(attributes.get('diskId', ''), 80)} has no capacity that can be read")
    return int(count) * int(int(units[1] or 1) ** int(units[2] or 1))


def _parse_manifest(text: bytes, name: str, members: dict[str, Member]) -> dict[str, Digest]:
    digests = {}
    for number, line in enumerate(text.decode("utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.strip())
        algorithm = found[1].lower().replace("-", "") if found else ""
        if found is None or algorithm not in _ALGORITHMS:
            raise _wrong(f"Line {number} of the manifest is no digest: {printable(line, 80)}", file=name)
        if found[2] not in members:
            raise _wrong(f"Line {number} of the manifest names a file that is not there", file=name)
        digests[found[2]] = Digest(algorithm, found[3].lower())
    return digests
