"""What a store is, whichever it is; what a person may name as one, and what is refused."""

import pickle
from pathlib import Path

import pytest

from pipelines.folder_store import FolderStore
from pipelines.storage import RESERVED, Store, open_source, open_target
from resnet_core.errors import DataError

KINDS = ["folder", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty place to write to, of each kind."""
    if request.param == "folder":
        return FolderStore(root=tmp_path, temporary=tmp_path / RESERVED / "tmp")
    from pipelines.s3_store import S3Store  # noqa: PLC0415  loaded with the marked tests alone

    return S3Store(bucket=request.getfixturevalue("s3_bucket"), prefix="some/where")


def fill(store: Store, *keys: str) -> None:
    for key in keys:
        store.put(key, key.encode())


def keys(store: Store, under: str = "") -> list[str]:
    return [info.key for info in store.list_objects(under)]


# What sorts before "/" and behind it, and what addresses usually need to quote.
TREE = [
    *(f"{stem}{end}" for stem in ("a", "é", "世界") for end in ("-b", ".png", "/b", "/c/d", "0")),
    *("A", "a b/c d", "a/b-c", "a/b c", "a+b", "a%20b", "100%", "x#y?z=1&2", "[*]{!}", "~"),
    *("a/c-/x", "a/c.d/x", "\U0001f600", "deep/er/and/deep/er/x", "deep/er-/x", "trailing "),
]


def test_a_listing_is_complete_and_in_the_order_of_the_keys_bytes(store: Store) -> None:
    fill(store, *TREE)
    assert keys(store) == sorted(TREE, key=str.encode)
    assert keys(store, "a/") == sorted((k for k in TREE if k.startswith("a/")), key=str.encode)


def test_what_was_put_is_got_whatever_its_key(store: Store) -> None:
    fill(store, *TREE)
    assert {key: store.get(key).data for key in TREE} == {key: key.encode() for key in TREE}


def test_one_object_has_one_etag_wherever_it_is_asked(store: Store) -> None:
    fill(store, "sub/a.png")
    (listed,) = store.list_objects()
    assert store.info("sub/a.png") == listed
    assert store.get("sub/a.png").etag == listed.etag
    assert (listed.bytes, listed.problem) == (len("sub/a.png"), None)


def test_a_put_replaces_and_changes_the_etag(store: Store) -> None:
    store.put("a.png", b"first")
    first = store.info("a.png")
    store.put("a.png", b"second, longer")
    assert store.get("a.png").data == b"second, longer"
    assert store.info("a.png").etag != first.etag
    assert keys(store) == ["a.png"]


def test_an_object_may_be_empty(store: Store) -> None:
    store.put("nothing.png", b"")
    assert store.get("nothing.png").data == b""
    assert store.info("nothing.png").bytes == 0


def test_the_reserved_folder_is_left_out_at_the_root_alone(store: Store) -> None:
    fill(store, "a.png", f"{RESERVED}/ledger/1", f"{RESERVED}/ledger/2", f"sub/{RESERVED}/b.png")
    assert keys(store) == ["a.png", f"sub/{RESERVED}/b.png"]
    assert keys(store, f"{RESERVED}/ledger/") == [f"{RESERVED}/ledger/1", f"{RESERVED}/ledger/2"]
    assert keys(store, "missing/") == []


def test_nothing_lists_as_nothing(store: Store) -> None:
    assert keys(store) == []


def test_what_is_not_there_is_said_so(store: Store) -> None:
    with pytest.raises(DataError, match=r"^a\.png: no such object: it vanished"):
        store.get("a.png")
    missing = store.info("a.png")
    assert (missing.key, missing.problem, missing.is_error) == ("a.png", "no such object", True)
    with pytest.raises(DataError, match="not a key"):
        store.get("")


@pytest.mark.parametrize("prefix", ["one/two", "one/two/"])
def test_a_store_below_has_the_same_objects_under_shorter_keys(store: Store, prefix: str) -> None:
    below = store.below(prefix)
    below.put("a.png", b"x")
    assert keys(store) == ["one/two/a.png"]
    assert keys(below) == ["a.png"]
    assert below.url == store.url_of("one/two")
    assert below.url_of("a.png") == store.url_of("one/two/a.png") == f"{store.url}/one/two/a.png"


def test_a_store_that_takes_writes_says_nothing_and_stays_empty(store: Store) -> None:
    store.make_writable()
    store.remove_stale_temporaries()
    assert keys(store) == []


def test_a_store_travels_small_and_without_secrets(store: Store) -> None:
    fill(store, "a.png")
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert b"secret" not in sent
    assert pickle.loads(sent).get("a.png").data == b"a.png"


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
        ("file", "is a file, not a folder; .* with --root"),
        ("", "an empty name"),
        ("s3://", "names no bucket"),
        ("gs://bucket/photos", "AWS_ENDPOINT_URL=https://storage.googleapis.com"),
        ("s3a://bucket/photos", "write s3://"),
        ("https://example.com/photos", "give a folder or s3://"),
        ("az://photos", "give a folder or s3://"),
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
    assert open_target(str(tmp_path / "outer" / "photos2"), source).url.endswith("/photos2")
    assert files(tmp_path) == ["outer/photos/a.png"], "nothing is made by asking"


@pytest.mark.s3
def test_source_and_destination_never_overlap_in_a_bucket(s3_bucket: str, tmp_path: Path) -> None:
    source = open_source(f"s3://{s3_bucket}/a/photos/")
    for same in ("a/photos", "a/photos/"):
        with pytest.raises(DataError, match="is the source itself"):
            open_target(f"s3://{s3_bucket}/{same}", source)
    with pytest.raises(DataError, match=f"lies inside the source s3://{s3_bucket}/a/photos"):
        open_target(f"s3://{s3_bucket}/a/photos/out", source)
    for around in ("", "/", "/a", "/a/"):
        with pytest.raises(DataError, match="holds the source"):
            open_target(f"s3://{s3_bucket}{around}", source)
    for apart in ("a/photos2", "a/photo", "A/photos", "photos"):
        target = open_target(f"s3://{s3_bucket}/{apart}", source)
        assert target.url == f"s3://{s3_bucket}/{apart}"
    assert open_target(f"s3://{s3_bucket}2/a/photos", source).url == f"s3://{s3_bucket}2/a/photos"
    assert open_target(str(tmp_path), source).url == str(tmp_path)
