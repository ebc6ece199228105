"""What a person may name as source and destination, and what is refused."""

from pathlib import Path

import pytest

from pipelines.storage import open_source, open_target
from resnet_core.errors import DataError


def write(root: Path, *keys: str) -> None:
    for key in keys:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", "no such folder"),
        ("photo", "no such folder; did you mean '.*photos'"),
        ("file", "is a file, not a folder"),
        ("", "an empty name"),
        ("s3://bucket/photos", "s3 addresses aren't read yet"),
    ],
)
def test_a_source_that_cannot_be_read_is_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    write(tmp_path, "file", "photos/a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        open_source(text)


def test_source_and_destination_never_overlap(tmp_path: Path) -> None:
    write(tmp_path, "outer/photos/a.png")
    photos = tmp_path / "outer" / "photos"
    link = tmp_path / "link"
    link.symlink_to(photos)
    source = open_source(str(photos))
    for same in (photos, link, photos / "x" / "..", f"{photos}/"):
        with pytest.raises(DataError, match="is the source itself"):
            open_target(str(same), source)
    for inside in (photos / "out", link / "deep" / "out", photos / ".." / "photos" / "out"):
        with pytest.raises(DataError, match="lies inside the source"):
            open_target(str(inside), source)
    for around in (tmp_path / "outer", tmp_path, "/"):
        with pytest.raises(DataError, match="holds the source"):
            open_target(str(around), source)
    with pytest.raises(DataError, match="is the source itself"):
        open_target(str(photos), open_source(str(link)))
    assert open_target(str(tmp_path / "outer" / "photos2"), source).root.name == "photos2"
    assert files(tmp_path) == ["outer/photos/a.png"], "nothing is made by asking"
