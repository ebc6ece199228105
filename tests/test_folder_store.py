"""Folders as stores: ordered listings, whole writes, and nothing outside the destination."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.folder_store import FolderStore
from pipelines.storage import RESERVED, StoreError
from resnet_core.errors import DataError


def store(root: Path) -> FolderStore:
    return FolderStore(root=root, temporary=root / RESERVED / "tmp")


def write(root: Path, *keys: str) -> None:
    for key in keys:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())


def keys(root: Path) -> list[str]:
    return [info.key for info in store(root).list_objects()]


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir())


names = st.text(st.sampled_from("ab.-~é世"), min_size=1, max_size=3).filter(
    lambda name: name not in {".", ".."}
)


@given(st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), max_size=12))
def test_a_listing_is_complete_and_in_the_order_of_the_keys_bytes(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    written: set[str] = set()
    for key in wanted:
        try:
            write(root, key)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue  # "a" is a file already, or a folder
        written.add(key)
    assert keys(root) == sorted(written, key=str.encode)


def test_etag_and_bytes_tell_a_changed_file(tmp_path: Path) -> None:
    write(tmp_path, "a")
    (first,) = store(tmp_path).list_objects()
    (again,) = store(tmp_path).list_objects()
    (tmp_path / "a").write_bytes(b"b")
    os.utime(tmp_path / "a", ns=(1, 1))
    (changed,) = store(tmp_path).list_objects()
    assert first == again
    assert first.bytes == 1
    assert first.etag != changed.etag


def test_links_and_special_files_are_rows_with_a_problem(tmp_path: Path) -> None:
    write(tmp_path, "real/a.png")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").symlink_to("real")
    os.mkfifo(tmp_path / "pipe")
    found = {info.key: info for info in store(tmp_path).list_objects()}
    assert found.keys() == {"dangling", "folder", "pipe", "real/a.png"}
    assert found["real/a.png"].problem is None
    assert "symbolic link" in (found["folder"].problem or "")
    assert "symbolic link" in (found["dangling"].problem or "")
    assert found["pipe"].problem == "not a regular file"
    assert not any(info.is_error for info in found.values())


def test_a_name_that_is_not_utf_8_is_a_row_with_an_error(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/a\xff.png", os.O_CREAT))
    (info,) = store(tmp_path).list_objects()
    assert info.key == "a\\xff.png"
    assert info.is_error
    assert "UTF-8" in (info.problem or "")


def test_a_folder_that_cannot_be_read_is_a_row_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "open/a.png", "shut/b.png")
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    first, second = store(tmp_path).list_objects()
    assert first.key == "open/a.png"
    assert second.key == "shut/"
    assert second.is_error
    assert second.problem == "the folder can't be read: Permission denied"


def test_a_failed_put_leaves_the_old_object_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = store(tmp_path)
    place.put("a.png", b"old")

    def fail(self: Path, _target: Path) -> None:
        assert self.read_bytes() == b"new", "the write is whole before it is put in place"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match=r"a\.png: can't be written: No space left on device"):
        place.put("a.png", b"new")
    assert place.get("a.png").data == b"old"
    assert files(tmp_path) == ["a.png"]


@pytest.mark.parametrize("key", ["", "/etc/x", "../x", "a/../../x", "a//b", "./a", "a/", "a\0b"])
def test_no_key_leads_out_of_the_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match="not a key"):
        store(tmp_path / "in").put(key, b"x")
    assert files(tmp_path) == []


def test_no_link_leads_out_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "sub").symlink_to(tmp_path / "out")
    for key in ("sub/a.png", "sub/new/deep/a.png"):
        with pytest.raises(DataError, match="leads out of it"):
            store(tmp_path / "in").put(key, b"x")
    assert list((tmp_path / "out").iterdir()) == []


def test_only_old_unfinished_writes_are_removed(tmp_path: Path) -> None:
    write(tmp_path, f"{RESERVED}/tmp/old", f"{RESERVED}/tmp/new")
    long_ago_s = time.time() - 7200
    os.utime(tmp_path / RESERVED / "tmp" / "old", (long_ago_s, long_ago_s))
    store(tmp_path).remove_stale_temporaries()
    assert files(tmp_path) == [f"{RESERVED}/tmp/new"]


def test_writes_of_another_run_may_end_while_the_old_ones_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, f"{RESERVED}/tmp/old", f"{RESERVED}/tmp/written")
    long_ago_s = time.time() - 7200
    os.utime(tmp_path / RESERVED / "tmp" / "old", (long_ago_s, long_ago_s))
    listed = list((tmp_path / RESERVED / "tmp").iterdir())
    (tmp_path / RESERVED / "tmp" / "written").unlink()
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(listed))
    store(tmp_path).remove_stale_temporaries()
    assert files(tmp_path) == []


def test_a_store_below_keeps_its_unfinished_writes_above(tmp_path: Path) -> None:
    below = store(tmp_path).below(f"{RESERVED}/sample")
    below.put("a.png", b"x")
    assert files(tmp_path) == [f"{RESERVED}/sample/a.png"]
    assert below.temporary == tmp_path / RESERVED / "tmp"


def test_a_folder_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path) -> None:
    write(tmp_path, "file")
    with pytest.raises(StoreError, match=r"file/out: can't be written: .*; choose another folder"):
        store(tmp_path / "file" / "out").make_writable()
    good = store(tmp_path / "new" / "out")
    good.make_writable()
    assert list(good.list_objects()) == []
