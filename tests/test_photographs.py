"""Photographs are cut once, held-out ones are never trained on, broken ones are named."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from photographs_for_tests import make_photograph, write_photographs
from PIL import Image

from cluster.connect import ray_session
from pipelines.photographs import MOST_HELD_OUT, PreparedData, _spread, find_photographs, prepare
from pipelines.storage import ObjectInfo, open_source, open_store
from resnet_core.errors import DataError
from resnet_core.patches import STEPS_A_GROUP, cut_patches

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with ray_session():
        yield


def prepared(
    folder: Path, cache: Path, *, validation: Path | None = None, told: list[str] | None = None
) -> PreparedData:
    held_out = None if validation is None else open_source(str(validation))
    tell = (told if told is not None else []).append
    return prepare(
        open_source(str(folder)), held_out, open_store(str(cache)), patch_px=64, tell=tell
    )


def all_pictures(data: PreparedData) -> list[tuple[str, bytes]]:
    groups = data.groups
    return sorted(
        (key, pixels.tobytes())
        for index in range(len(groups))
        for key, pixels in groups.pictures(index)
    )


def test_every_twentieth_is_held_out_and_the_rest_cut_once(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 22, height=140, width=140)
    told: list[str] = []
    data = prepared(folder, tmp_path / "cache", told=told)
    assert (data.num_photographs, data.broken) == (20, ())
    names = [f"photograph-{i:03}.png" for i in range(22)]
    held_out = {names[0], names[20]}
    expected = [
        (name, patch.tobytes())
        for name in names
        if name not in held_out
        for patch in cut_patches(np.asarray(Image.open(folder / name)), patch_px=64)
    ]
    assert all_pictures(data) == sorted(expected)
    assert len(expected) == data.num_patches
    assert all(len(group) <= STEPS_A_GROUP for group in data.groups)
    for key, crop in data.validation():
        assert key in held_out
        original = np.asarray(Image.open(folder / key))
        assert np.array_equal(crop, original[4:136, 4:136])

    assert len(told) > 0
    told.clear()
    assert prepared(folder, tmp_path / "cache", told=told) == data
    assert told == []


def test_the_patches_of_a_group_come_from_several_photographs(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 5, height=200, width=200)
    data = prepared(folder, tmp_path / "cache")
    keys = [key for key, _ in data.groups.pictures(0)]
    assert len(set(keys)) > 1
    assert keys != sorted(keys)


def test_an_interrupted_cutting_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 10, height=100, width=100)
    whole = prepared(folder, tmp_path / "a")
    prepared(folder, tmp_path / "b")
    (made,) = (tmp_path / "b").glob("data-*")
    for name in ("data.json", "parts/00001.json", "groups/00001-00000.arrow"):
        (made / name).unlink()
    kept = made / "groups" / "00000-00000.arrow"
    before = kept.stat().st_mtime_ns
    again = prepared(folder, tmp_path / "b")
    assert kept.stat().st_mtime_ns == before
    assert all_pictures(again) == all_pictures(whole)
    for path in sorted((tmp_path / "a").rglob("*.arrow")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_changed_photograph_is_cut_anew(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 2)
    before = prepared(folder, tmp_path / "cache")
    Image.fromarray(make_photograph(80, 80)).save(folder / "photograph-001.png")
    after = prepared(folder, tmp_path / "cache")
    assert after.name != before.name
    assert after.num_patches != before.num_patches


def test_a_validation_folder_leaves_all_data_for_training(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 2)
    held_out = write_photographs(tmp_path / "held-out", 1)
    data = prepared(folder, tmp_path / "cache", validation=held_out)
    assert (data.num_photographs, len(data.validation())) == (2, 1)


def test_the_same_photographs_held_out_otherwise_are_cut_anew(tmp_path: Path) -> None:
    a, b, c = (write_photographs(tmp_path / name, 1) for name in "abc")
    both = write_photographs(tmp_path / "both", 0)
    for folder in (a, b):
        (folder / "photograph-000.png").rename(both / f"{folder.name}.png")
    first = prepared(both, tmp_path / "cache", validation=c)
    (both / "b.png").rename(c / "b.png")
    second = prepared(both, tmp_path / "cache", validation=c)
    assert (first.num_photographs, second.num_photographs) == (2, 1)
    assert first.name != second.name


def test_gray_and_deep_photographs_train_too(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 1)
    gray = make_photograph(80, 80)[:, :, 0]
    Image.fromarray(gray).save(folder / "x-gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(folder / "y-deep.png")
    patches = np.stack(prepared(folder, tmp_path / "cache").groups[0])
    assert np.array_equal(patches[..., 0], patches[..., 2])


@pytest.mark.parametrize("broken", [3, 20])
def test_a_broken_photograph_is_skipped_and_named(tmp_path: Path, broken: int) -> None:
    """One that is trained on, and one that is held out."""
    folder = write_photographs(tmp_path / "photographs", 22, height=70, width=70)
    name = f"photograph-{broken:03}.png"
    (folder / name).write_bytes((folder / name).read_bytes()[:-200])
    told: list[str] = []
    data = prepared(folder, tmp_path / "cache", told=told)
    assert data.num_photographs + len(data.validation()) == 21
    assert data.broken[0].startswith(f"{name}: ")
    assert any(line.startswith(f"skipped {name}: ") for line in told)


def test_too_many_broken_photographs_stop_the_run(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 4)
    (folder / "photograph-003.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 4 photographs can't be read: photograph-003\.png"):
        prepared(folder, tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("data.json")) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 2)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file/cache/data-.*: can't be written"):
        prepared(folder, tmp_path / "file" / "cache")


def test_small_photographs_are_told_and_not_counted(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 22, height=70, width=70)
    for number, side in ((0, 20), (7, 40)):
        write_photographs(tmp_path / "small", 1, height=side, width=side)
        name = f"photograph-{number:03}.png"
        (tmp_path / "small" / "photograph-000.png").replace(folder / name)
    told: list[str] = []
    data = prepared(folder, tmp_path / "cache", told=told)
    assert [key for key, _ in data.validation()] == ["photograph-020.png"]
    assert data.num_photographs == 19
    assert "photograph-000.png is smaller than 24 px: not measured on" in told
    assert "1 photographs are too small for a patch of 64 px: passed over" in told


def test_the_measured_are_spread_over_the_listing() -> None:
    listing = [ObjectInfo(key=f"{number:03}", bytes=1, etag="") for number in range(250)]
    keys = [int(info.key) for info in _spread(listing)]
    assert len(keys) == MOST_HELD_OUT
    assert (keys[0], keys[-1]) == (0, 247)
    assert all(2 <= after - before <= 3 for before, after in pairwise(keys))
    assert _spread(listing[:30]) == listing[:30]


def test_photographs_smaller_than_a_patch_stop_the_run(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 2, height=40, width=40)
    with pytest.raises(DataError, match="no photograph is large enough for a patch of 64 px"):
        prepared(folder, tmp_path / "cache")


def test_one_photograph_is_too_few(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 1)
    with pytest.raises(DataError, match="no photograph is left to train on, 1 of 1 are held out"):
        prepared(folder, tmp_path / "cache")


def test_validation_among_the_photographs_is_not_trained_on(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 3)
    apart = write_photographs(folder / "apart", 2)
    source, cache = open_source(str(folder)), open_store(str(tmp_path / "cache"))
    data = prepare(source, open_source(str(apart)), cache, patch_px=64, tell=lambda _: None)
    assert data.num_photographs == 3
    assert len(data.validation()) == 2
    with pytest.raises(DataError, match="no photograph is left to train on, 5 of 5"):
        prepare(source, source, cache, patch_px=64, tell=lambda _: None)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no photographs in it \(looked for .*\.jpg.*\)$"):
        find_photographs(open_source(str(tmp_path)), print)


def test_links_are_passed_over_and_told(tmp_path: Path) -> None:
    real = write_photographs(tmp_path / "real", 1)
    links = tmp_path / "links"
    links.mkdir()
    for number in range(2):
        (links / f"{number}.png").symlink_to(real / "photograph-000.png")
    told: list[str] = []
    passed = (
        "2 passed over, 0.png: a symbolic link, which is not followed; give the folder that holds"
        " the photographs themselves, or copies of them"
    )
    with pytest.raises(DataError, match=rf"/links: no photographs in it .*; {passed}$"):
        find_photographs(open_source(str(links)), told.append)
    assert told == []
    (links / "copy.png").write_bytes((real / "photograph-000.png").read_bytes())
    assert [info.key for info in find_photographs(open_source(str(links)), told.append)] == [
        "copy.png"
    ]
    assert told == [f"{links}: {passed}"]


def test_a_damaged_group_is_named(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 2)
    data = prepared(folder, tmp_path / "cache")
    (group,) = (tmp_path / "cache").rglob("00000-00000.arrow")
    group.write_bytes(group.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"00000-00000\.arrow: damaged .*; remove "):
        _ = data.groups[0]
