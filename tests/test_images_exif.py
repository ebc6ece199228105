"""Laws of EXIF as a tree."""

import struct
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import CAMERA, ORIENTATION, SOFTWARE, photo_exif
from PIL import Image as PillowImage

from resnet_core.errors import BrokenImageError
from resnet_core.images import decode
from resnet_core.images import exif as exif_tree
from resnet_core.images.exif import Directory, Entry, Exif
from resnet_core.images.tiff import open_tiff


def block(endian: str = "<") -> bytes:
    exif = photo_exif(6)
    exif.endian = endian
    return exif.tobytes()


def reread(exif: Exif) -> PillowImage.Exif:
    found = PillowImage.Exif()
    found.load(exif_tree.to_bytes(exif))
    return found


def plain(directory: Directory) -> dict:
    """Without the places where values were found."""
    values = {tag: (e.type, e.count, e.raw) for tag, e in directory.entries.items()}
    return values | {tag: plain(child) for tag, child in directory.children.items()}


def parsed(data: bytes) -> Exif:
    exif = exif_tree.parse(data)
    assert exif is not None
    return exif


entries = (
    st.binary(max_size=9)
    .map(lambda raw: Entry(type=7, count=len(raw), raw=raw))
    .filter(lambda entry: entry.count > 0)
)
tags = st.integers(1, 0xFFFF).filter(lambda tag: tag not in (0x8769, 0x8825, 0xA005, 0x927C))


@given(st.dictionaries(tags, entries, min_size=1, max_size=6), st.dictionaries(tags, entries),
       st.sampled_from("<>"))  # fmt: skip
def test_parse_undoes_to_bytes(root, gps, order):
    tree = Exif(
        order=order, root=Directory(entries=root, children={0x8825: Directory(entries=gps)})
    )
    found = parsed(exif_tree.to_bytes(tree))
    assert found.order == order
    assert plain(found.root) == plain(tree.root)


@pytest.mark.parametrize("endian", ["<", ">"])
def test_a_block_of_a_camera_survives(endian):
    tree = parsed(block(endian))
    assert tree.order == endian
    assert plain(parsed(exif_tree.to_bytes(tree)).root) == plain(tree.root)
    assert reread(tree)[0x110] == "Model 7"


def test_a_makers_note_stays_where_it_was():
    note = b"NOTE" + bytes(range(40))
    data = block().removeprefix(b"Exif\0\0")
    edited = exif_tree.with_provenance(exif_tree.without_gps(parsed(data)), "a longer line " * 9)
    assert exif_tree.to_bytes(edited).index(note) == data.index(note)


@pytest.mark.parametrize("endian", ["<", ">"])
def test_orientation_is_read_and_set(endian):
    tree = parsed(block(endian))
    assert exif_tree.orientation(tree) == 6
    assert exif_tree.orientation(exif_tree.upright(tree)) == 1
    assert reread(exif_tree.with_orientation(tree, 8))[ORIENTATION] == 8


def test_upright_adds_no_tag():
    assert exif_tree.upright(Exif()) == Exif()
    assert exif_tree.orientation(Exif()) == 1


def test_without_gps_takes_only_that():
    tree = parsed(block())
    found = reread(exif_tree.without_gps(tree))
    assert not found.get_ifd(0x8825)
    assert found.get_ifd(CAMERA)[0x9003] == "2024:05:06 07:08:09"


def test_provenance_is_added_once():
    tree = exif_tree.with_provenance(parsed(block()), "résray x")
    assert exif_tree.software(tree) == "Camera 1.2; résray x"
    assert exif_tree.with_provenance(tree, "résray x") == tree
    assert reread(exif_tree.with_provenance(Exif(), "one"))[SOFTWARE] == "one"


@given(data=st.data())
@settings(max_examples=300)
def test_damaged_blocks_are_read_or_given_up(data):
    damaged = bytearray(block(data.draw(st.sampled_from("<>"))))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = exif_tree.parse(bytes(damaged))
        if tree:
            assert exif_tree.orientation(tree) in range(1, 9)
            edited = exif_tree.with_provenance(exif_tree.with_size(tree, width=3, height=2), "x")
            assert exif_tree.parse(exif_tree.to_bytes(exif_tree.without_gps(edited)))


@given(st.binary(max_size=60))
def test_random_bytes_never_raise(data):
    exif_tree.parse(b"II*\0" + data)
    exif_tree.parse(data)


def test_values_that_lie_over_each_other_cost_no_memory():
    size = 100_000
    table = b"".join(struct.pack("<HHII", tag, 7, size - 100, 8) for tag in range(1000, 3000))
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 2000) + table + bytes(size)
    assert exif_tree.parse(data) is None
    with pytest.raises(BrokenImageError, match="entries that lie over each other"):
        decode(data)


def test_the_first_of_two_entries_counts():
    table = b"".join(struct.pack("<HHIHH", 0x0112, 3, 1, value, 0) for value in (6, 3))
    exif = parsed(b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + table + bytes(4))
    assert exif.root.entries[0x0112].raw == b"\x06\0"


@pytest.mark.parametrize("offset", [2**32, 2**63, 2**64 - 1])
def test_a_directory_far_beyond_the_end_is_damage(offset):
    data = b"II+\0\x08\0\0\0" + struct.pack("<Q", offset) + bytes(100)
    assert exif_tree.parse(data) is None
    with pytest.raises(BrokenImageError):
        open_tiff(data)
