"""Lists of keys: each once, in order, with what the store says of it, and nothing else read."""

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.folder_store import FolderStore
from pipelines.storage import RESERVED, Source, Store, open_source, open_target
from resnet_core.errors import DataError

PRESENT = ["a/b.png", "a-b.png", "c d.png", "é.png", "世/x.png"]


@pytest.fixture
def photos(tmp_path: Path) -> FolderStore:
    store = FolderStore(root=tmp_path / "photos", temporary=tmp_path / "tmp")
    for key in [*PRESENT, "not listed.png"]:
        store.put(key, key.encode())
    return store


def text(path: Path, *lines: str, end: str = "\n") -> str:
    path.write_bytes("".join(line + end for line in lines).encode())
    return str(path)


def listed(source: Source) -> list[str]:
    return [info.key for info in source.list_objects()]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_names_keys_in_any_order_and_more_than_once(
    photos: FolderStore, tmp_path: Path, end: str
) -> None:
    lines = [*reversed(PRESENT), "", PRESENT[0]]
    source = open_source(text(tmp_path / "list.txt", *lines, end=end), root=photos.url)
    assert listed(source) == sorted(PRESENT, key=str.encode)
    assert list(source.list_objects()) == [photos.info(key) for key in listed(source)]
    assert source.get("c d.png").data == b"c d.png"
    assert source.url == photos.url


def test_a_text_may_begin_with_a_mark_and_end_without_a_line(
    photos: FolderStore, tmp_path: Path
) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"\xef\xbb\xbfa/b.png\na-b.png")
    assert listed(open_source(str(path), root=photos.url)) == ["a-b.png", "a/b.png"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_names_keys_in_a_column(photos: FolderStore, tmp_path: Path, kind: object) -> None:
    table = pa.table({"width": [1] * len(PRESENT), "key": pa.array(PRESENT).cast(kind)})
    pq.write_table(table, tmp_path / "list.PARQUET")
    source = open_source(str(tmp_path / "list.PARQUET"), root=photos.url)
    assert listed(source) == sorted(PRESENT, key=str.encode)


def test_whole_addresses_under_the_root_are_keys(photos: FolderStore, tmp_path: Path) -> None:
    lines = [photos.url_of("a/b.png"), "a/b.png", "a-b.png"]
    source = open_source(text(tmp_path / "list.txt", *lines), root=photos.url)
    assert listed(source) == ["a-b.png", "a/b.png"]


def test_names_as_find_prints_them_are_keys(photos: FolderStore, tmp_path: Path) -> None:
    source = open_source(text(tmp_path / "list.txt", "./a/b.png", "./a-b.png"), root=photos.url)
    assert listed(source) == ["a-b.png", "a/b.png"]


def test_addresses_through_a_link_to_the_root_are_under_it(
    photos: FolderStore, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(photos.root)
    lines = (f"{link}/a-b.png", f"{photos.url}/a/b.png")
    source = open_source(text(tmp_path / "list.txt", *lines), root=str(link))
    assert listed(source) == ["a-b.png", "a/b.png"]


@pytest.mark.parametrize("line", ["/elsewhere/x.png", "s3://bucket/x.png"])
def test_an_address_elsewhere_is_named(photos: FolderStore, tmp_path: Path, line: str) -> None:
    source = open_source(text(tmp_path / "list.txt", "a-b.png", line), root=photos.url)
    with pytest.raises(DataError, match=rf"list\.txt: names {line}, which isn't under .*--root"):
        listed(source)


def test_what_is_missing_or_no_key_is_a_row_with_an_error(
    photos: FolderStore, tmp_path: Path
) -> None:
    lines = ["gone.png", "../list.txt", "a-b.png"]
    source = open_source(text(tmp_path / "list.txt", *lines), root=photos.url)
    escape, good, gone = source.list_objects()
    assert (good.key, good.problem) == ("a-b.png", None)
    assert (gone.problem, gone.is_error) == ("no such object", True)
    assert (escape.key, escape.is_error) == ("../list.txt", True)
    assert "not a key" in (escape.problem or "")


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1)))
def test_the_order_is_that_of_the_keys_bytes(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    (folder / "photos").mkdir()
    names = [f"k{key}" for key in keys if "://" not in key]
    source = open_source(text(folder / "list.txt", *names), root=str(folder / "photos"))
    assert listed(source) == sorted(set(names), key=str.encode)


def test_a_long_list_comes_whole(photos: FolderStore, tmp_path: Path) -> None:
    lines = [f"{number:05d}.png" for number in range(25_000)]
    source = open_source(text(tmp_path / "list.txt", *lines), root=photos.url)
    assert listed(source) == lines


def test_a_list_that_cannot_be_read_is_named(photos: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    pq.write_table(pa.table({"path": ["a"], "size": [1]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"key": ["a", None]}), tmp_path / "null.parquet")
    for name, message in {
        "bad.parquet": "can't be read as Parquet",
        "bad.txt": "is no UTF-8 text",
        "other.parquet": "has no column 'key'; found path, size",
        "null.parquet": "1 keys are null",
    }.items():
        with pytest.raises(DataError, match=f"{name}: {message}"):
            listed(open_source(str(tmp_path / name), root=photos.url))
    with pytest.raises(DataError, match=r"none\.txt: no such object; expected a list of keys"):
        open_source(str(tmp_path / "none.txt"), root=photos.url)
    with pytest.raises(DataError, match="no such folder"):
        open_source(text(tmp_path / "list.txt", "a"), root=str(tmp_path / "nowhere"))


def test_results_never_go_where_the_list_reads(photos: FolderStore, tmp_path: Path) -> None:
    source = open_source(text(tmp_path / "list.txt", "a-b.png"), root=photos.url)
    with pytest.raises(DataError, match="is the source itself"):
        open_target(photos.url, source)
    with pytest.raises(DataError, match="lies inside the source"):
        open_target(photos.url_of("out"), source)


def test_a_list_travels(photos: FolderStore, tmp_path: Path) -> None:
    source = open_source(text(tmp_path / "list.txt", "a-b.png"), root=photos.url)
    assert listed(pickle.loads(pickle.dumps(source))) == ["a-b.png"]


@pytest.mark.s3
@pytest.mark.parametrize("list_lies_in", ["bucket", "folder"])
def test_list_and_objects_may_lie_in_a_bucket(
    s3_bucket: str, tmp_path: Path, list_lies_in: str
) -> None:
    from pipelines.s3_store import S3Store  # noqa: PLC0415  loaded with the marked tests alone

    store: Store = S3Store(bucket=s3_bucket, prefix="photos")
    for key in PRESENT:
        store.put(key, key.encode())
    lines = [f"{store.url}/é.png", "gone.png", "a/b.png", "a-b.png"]
    path = text(tmp_path / "list.txt", *lines)
    if list_lies_in == "bucket":
        S3Store(bucket=s3_bucket).put("list.txt", Path(path).read_bytes())
        path = f"s3://{s3_bucket}/list.txt"
    source = open_source(path, root=store.url)
    assert listed(source) == ["a-b.png", "a/b.png", "gone.png", "é.png"]
    assert [info.is_error for info in source.list_objects()] == [False, False, True, False]
    assert source.get("é.png").data == "é.png".encode()
    with pytest.raises(DataError, match="lies inside the source"):
        open_target(f"{store.url}/{RESERVED}", source)
