"""Photographs are cut once, held-out ones are never trained on, broken ones are named."""

from pathlib import Path

import numpy as np
import pytest
from photographs_for_tests import make_photograph, write_photographs
from PIL import Image

from pipelines.photographs import find_photographs, prepare
from resnet_core.errors import DataError


def test_every_twentieth_is_held_out_and_the_rest_cut_once(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 22, height=70, width=70)
    told: list[str] = []
    data = prepare(folder, None, tmp_path / "cache", patch_px=64, tell=told.append)
    assert (data.num_photographs, data.num_validation, data.broken) == (20, 2, ())
    assert data.patches().shape == (data.num_patches, 64, 64, 3)
    held_out = [np.asarray(Image.open(folder / f"photograph-{i:03}.png")) for i in (0, 20)]
    for crop, original in zip(data.validation(), held_out, strict=True):
        assert np.array_equal(crop, original[5:65, 5:65])

    assert len(told) > 0
    told.clear()
    assert prepare(folder, None, tmp_path / "cache", patch_px=64, tell=told.append) == data
    assert told == []


def test_a_changed_photograph_is_cut_anew(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 2)
    before = prepare(folder, None, tmp_path / "cache", patch_px=64, tell=print)
    Image.fromarray(make_photograph(80, 80)).save(folder / "photograph-001.png")
    after = prepare(folder, None, tmp_path / "cache", patch_px=64, tell=print)
    assert after.folder != before.folder
    assert after.num_patches != before.num_patches


def test_a_validation_folder_leaves_all_data_for_training(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 2)
    held_out = write_photographs(tmp_path / "held-out", 1)
    data = prepare(folder, held_out, tmp_path / "cache", patch_px=64, tell=print)
    assert (data.num_photographs, data.num_validation) == (2, 1)


def test_gray_and_deep_photographs_train_too(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 1)
    gray = make_photograph(80, 80)[:, :, 0]
    Image.fromarray(gray).save(folder / "x-gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(folder / "y-deep.png")
    data = prepare(folder, None, tmp_path / "cache", patch_px=64, tell=print)
    patches = data.patches()
    assert np.array_equal(patches[..., 0], patches[..., 2])


def test_a_broken_photograph_is_skipped_and_named(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 30, height=70, width=70)
    (folder / "photograph-003.png").write_bytes(b"no image")
    told: list[str] = []
    data = prepare(folder, None, tmp_path / "cache", patch_px=64, tell=told.append)
    assert data.num_photographs == 27
    assert data.broken[0].startswith("photograph-003.png: ")
    assert any("skipped photograph-003.png" in line for line in told)


def test_too_many_broken_photographs_stop_the_run(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 4)
    (folder / "photograph-003.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 4 photographs can't be read: photograph-003\.png"):
        prepare(folder, None, tmp_path / "cache", patch_px=64, tell=print)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == []


def test_a_broken_photograph_that_is_held_out_is_skipped_and_named_too(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 22, height=70, width=70)
    whole = (folder / "photograph-020.png").read_bytes()
    (folder / "photograph-020.png").write_bytes(whole[:-200])
    data = prepare(folder, None, tmp_path / "cache", patch_px=64, tell=print)
    assert (data.num_photographs, data.num_validation) == (20, 1)
    assert data.broken[0].startswith("photograph-020.png: ")


def test_the_same_photographs_held_out_otherwise_are_cut_anew(tmp_path: Path) -> None:
    a, b, c = (write_photographs(tmp_path / name, 1) for name in "abc")
    both = write_photographs(tmp_path / "both", 0)
    for folder in (a, b):
        (folder / "photograph-000.png").rename(both / f"{folder.name}.png")
    first = prepare(both, c, tmp_path / "cache", patch_px=64, tell=print)
    (both / "b.png").rename(c / "b.png")
    second = prepare(both, c, tmp_path / "cache", patch_px=64, tell=print)
    assert (first.num_photographs, second.num_photographs) == (2, 1)
    assert first.folder != second.folder


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 2)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="file/cache: can't be written"):
        prepare(folder, None, tmp_path / "file" / "cache", patch_px=64, tell=print)


def test_photographs_smaller_than_a_patch_stop_the_run(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs", 2, height=40, width=40)
    with pytest.raises(DataError, match="no photograph is large enough for a patch of 64 px"):
        prepare(folder, None, tmp_path / "cache", patch_px=64, tell=print)


def test_no_folder_and_an_empty_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: no such folder of photographs"):
        find_photographs(tmp_path / "none")
    with pytest.raises(DataError, match=r"no photographs in it \(looked for .*\.jpg"):
        find_photographs(tmp_path)
