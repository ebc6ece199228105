"""EXIF as a tree of TIFF directories: read, edit, write.

Values are carried as raw bytes, so whatever isn't edited comes out as it went in, unknown tags
and camera makers' notes included. A maker's note often holds offsets counted from the start of
the stream: it is written at the offset where it was found, so that they stay true.

TIFF 6.0 and EXIF 3.0 (CIPA DC-008) describe the structure.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

ORIENTATION = 0x0112
SOFTWARE = 0x0131
EXIF_POINTER = 0x8769
GPS_POINTER = 0x8825
_INTEROP_POINTER = 0xA005
_MAKER_NOTE = 0x927C
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_IMAGE_WIDTH, _IMAGE_HEIGHT = 0x0100, 0x0101
_POINTERS = (EXIF_POINTER, GPS_POINTER, _INTEROP_POINTER)

BYTE, ASCII, SHORT, LONG, UNDEFINED = 1, 2, 3, 4, 7
_TYPE_BYTES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1
}  # fmt: skip
_BIG_TYPE_BYTES = _TYPE_BYTES | {16: 8, 17: 8, 18: 8}
_NOTE_REACH = 65_536  # a stream in a JPEG is no longer; farther notes are moved


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tag's value: TIFF type, number of values, and the bytes in the stream's order."""

    type: int
    count: int
    raw: bytes
    offset: int = 0  # where `raw` was found; 0 when it is new

    def numbers(self, order: str) -> tuple[int, ...]:
        """The value as unsigned integers; empty when it isn't of an integer type."""
        code = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(self.type)
        return struct.unpack(f"{order}{self.count}{code}", self.raw) if code else ()


@dataclass(frozen=True, kw_only=True)
class Directory:
    """One IFD: entries by tag, and the directories that its pointer tags lead to."""

    entries: Mapping[int, Entry] = field(default_factory=dict[int, Entry])
    children: Mapping[int, "Directory"] = field(default_factory=dict[int, "Directory"])


@dataclass(frozen=True, kw_only=True)
class Exif:
    """A whole stream. order: "<" or ">", as `struct` writes byte orders."""

    order: str = "<"
    root: Directory = Directory()


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Where directories are read from: a TIFF file, or the TIFF stream inside EXIF."""

    data: bytes
    order: str
    big: bool

    @classmethod
    def open(cls, data: bytes) -> "Stream":
        """Raises ValueError where the header isn't TIFF's."""
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        magic = struct.unpack_from(f"{order}H", data, 2)[0] if order and len(data) >= 8 else 0
        if order is None or magic not in (42, 43):
            raise ValueError("no TIFF header")
        return cls(data=data, order=order, big=magic == 43)

    @property
    def first(self) -> int:
        """Offset of the first directory."""
        code, at = ("Q", 8) if self.big else ("I", 4)
        return int(struct.unpack_from(self.order + code, self.data, at)[0])

    def directory(self, offset: int) -> tuple[Directory, int]:
        """The directory at `offset` and the offset of the next one (0: none).

        Entries of unknown type or beyond the end are left out, and the later of two of one tag.
        Raises struct.error where the table itself is beyond the end, and ValueError where entries
        lie over each other until they are more than all there is.
        """
        return self._directory(offset, [len(self.data)], depth=0)

    def _directory(self, offset: int, left: list[int], depth: int) -> tuple[Directory, int]:
        """`left`: bytes that entries may take yet, of this directory and those around it."""
        if offset > len(self.data):
            raise struct.error("a directory beyond the end")
        count_code, entry_bytes = ("Q", 20) if self.big else ("H", 12)
        (count,) = struct.unpack_from(self.order + count_code, self.data, offset)
        at = offset + struct.calcsize(count_code)
        end = at + count * entry_bytes
        if end > len(self.data):
            raise struct.error("a directory beyond the end")
        (following,) = struct.unpack_from(self.order + ("Q" if self.big else "I"), self.data, end)
        entries: dict[int, Entry] = {}
        children: dict[int, Directory] = {}
        for position in range(at, end, entry_bytes):
            tag, entry = self._entry(position, left)
            if entry is None or tag in entries or tag in children:
                continue
            child = self._child(entry, left, depth) if tag in _POINTERS else None
            if child:
                children[tag] = child
            elif tag not in _POINTERS:
                entries[tag] = entry
        return Directory(entries=entries, children=children), following

    def _entry(self, at: int, left: list[int]) -> tuple[int, Entry | None]:
        codes, inline = ("HHQ", 8) if self.big else ("HHI", 4)
        tag, kind, count = struct.unpack_from(self.order + codes, self.data, at)
        size = (_BIG_TYPE_BYTES if self.big else _TYPE_BYTES).get(kind, 0) * count
        value_at = at + struct.calcsize(f"={codes}")
        if size > inline:
            (value_at,) = struct.unpack_from(self.order + codes[-1], self.data, value_at)
        if not 0 < size <= len(self.data) - value_at:
            return tag, None
        left[0] -= size
        if left[0] < 0:
            raise ValueError("entries that lie over each other")
        raw = self.data[value_at : value_at + size]
        return tag, Entry(type=kind, count=count, raw=raw, offset=value_at)

    def _child(self, entry: Entry, left: list[int], depth: int) -> Directory | None:
        offsets = entry.numbers(self.order)
        if len(offsets) != 1 or depth >= 2:
            return None
        try:
            return self._directory(offsets[0], left, depth + 1)[0]
        except struct.error:
            return None


def parse(data: bytes) -> Exif | None:
    """The tree in an EXIF block, with or without its "Exif" prefix; None where it is unreadable.

    The thumbnail (the second directory) is left out: it would show the image as it was.
    """
    try:
        stream = Stream.open(data.removeprefix(b"Exif\0\0"))
        root, _ = stream.directory(stream.first)
    except (ValueError, struct.error):
        return None
    if stream.big or not (root.entries or root.children):
        return None
    return Exif(order=stream.order, root=root)


def to_bytes(exif: Exif) -> bytes:
    """The stream, without the "Exif" prefix."""
    out = start_stream(exif)
    finish_stream(out, exif)
    return bytes(out)


def start_stream(exif: Exif) -> bytearray:
    """A header that leads nowhere yet, and the maker's note in its old place."""
    mark = b"II" if exif.order == "<" else b"MM"
    out = bytearray(mark + struct.pack(f"{exif.order}HI", 42, 0))
    note = _note(exif)
    if note and len(out) <= note.offset < _NOTE_REACH:
        out.extend(bytes(note.offset - len(out)))
        out.extend(note.raw)
    return out


def finish_stream(out: bytearray, exif: Exif) -> None:
    """Appends the directories and points the header at them."""
    struct.pack_into(f"{exif.order}I", out, 4, _append(out, exif.order, exif.root))


def _note(exif: Exif) -> Entry | None:
    camera = exif.root.children.get(EXIF_POINTER, Directory())
    return camera.entries.get(_MAKER_NOTE)


def _append(out: bytearray, order: str, directory: Directory) -> int:
    entries = dict(directory.entries)
    for tag, child in directory.children.items():
        entries[tag] = long(order, _append(out, order, child))
    out.extend(bytes(len(out) % 2))
    start = len(out)
    out.extend(struct.pack(f"{order}H", len(entries)) + bytes(12 * len(entries) + 4))
    for position, (tag, entry) in enumerate(sorted(entries.items())):
        at = start + 2 + 12 * position
        struct.pack_into(f"{order}HHI", out, at, tag, entry.type, entry.count)
        if len(entry.raw) <= 4:
            out[at + 8 : at + 12] = entry.raw.ljust(4, b"\0")
        else:
            struct.pack_into(f"{order}I", out, at + 8, _place(out, tag, entry))
    return start


def _place(out: bytearray, tag: int, entry: Entry) -> int:
    end = entry.offset + len(entry.raw)
    if tag == _MAKER_NOTE and entry.offset and bytes(out[entry.offset : end]) == entry.raw:
        return entry.offset
    out.extend(bytes(len(out) % 2))
    at = len(out)
    out.extend(entry.raw)
    return at


def short(order: str, *values: int) -> Entry:
    """16-bit unsigned values."""
    raw = struct.pack(f"{order}{len(values)}H", *values)
    return Entry(type=SHORT, count=len(values), raw=raw)


def long(order: str, *values: int) -> Entry:
    """32-bit unsigned values."""
    raw = struct.pack(f"{order}{len(values)}I", *values)
    return Entry(type=LONG, count=len(values), raw=raw)


def _with(directory: Directory, changes: Mapping[int, Entry]) -> Directory:
    return replace(directory, entries={**directory.entries, **changes})


def orientation(exif: Exif) -> int:
    """1 to 8; 1 (upright) where the tag is missing or makes no sense."""
    entry = exif.root.entries.get(ORIENTATION)
    values = entry.numbers(exif.order) if entry else ()
    return values[0] if values and 1 <= values[0] <= 8 else 1


def with_orientation(exif: Exif, value: int) -> Exif:
    """The same with the tag set."""
    changes = {ORIENTATION: short(exif.order, value)}
    return replace(exif, root=_with(exif.root, changes))


def upright(exif: Exif) -> Exif:
    """The same with the orientation tag, where there is one, reset to 1."""
    return with_orientation(exif, 1) if ORIENTATION in exif.root.entries else exif


def without_orientation(exif: Exif) -> Exif:
    """The same without the tag."""
    entries = {tag: entry for tag, entry in exif.root.entries.items() if tag != ORIENTATION}
    return replace(exif, root=replace(exif.root, entries=entries))


def without_gps(exif: Exif) -> Exif:
    """The same without the GPS directory."""
    children = {tag: child for tag, child in exif.root.children.items() if tag != GPS_POINTER}
    return replace(exif, root=replace(exif.root, children=children))


def with_size(exif: Exif, *, width: int, height: int) -> Exif:
    """The same with those tags that state the image's size, where there are any, made true."""
    tags = {
        _IMAGE_WIDTH: width,
        _IMAGE_HEIGHT: height,
        _PIXEL_WIDTH: width,
        _PIXEL_HEIGHT: height,
    }

    def resized(directory: Directory) -> Directory:
        present = directory.entries.keys() & tags.keys()
        return _with(directory, {tag: long(exif.order, tags[tag]) for tag in present})

    root = resized(exif.root)
    children = dict(root.children)
    if EXIF_POINTER in children:
        children[EXIF_POINTER] = resized(children[EXIF_POINTER])
    return replace(exif, root=replace(root, children=children))


def with_provenance(exif: Exif, line: str) -> Exif:
    """The same with `line` as the Software tag, after what was there ("Camera 1.2; line")."""
    entry = exif.root.entries.get(SOFTWARE)
    found = software(exif) if entry else ""
    text = line if not found else found if line in found else f"{found}; {line}"
    raw = text.encode() + b"\0"
    changes = {SOFTWARE: Entry(type=ASCII, count=len(raw), raw=raw)}
    return replace(exif, root=_with(exif.root, changes))


def software(exif: Exif) -> str:
    """The Software tag, "" where there is none."""
    entry = exif.root.entries.get(SOFTWARE)
    return entry.raw.split(b"\0")[0].decode(errors="replace").strip() if entry else ""
