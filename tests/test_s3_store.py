"""S3: every key, order and pages, retries within their time, and errors of the right kind."""

import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from object_store_for_tests import (
    READER,
    WRITER,
    FaultProxy,
    Faults,
    boto_client,
    fault_proxy,
    make_bucket,
    moto,
    use_store,
)

from pipelines import list_ahead, s3_failures, s3_store
from pipelines.s3_store import KEPT_HEADERS, S3Store
from pipelines.storage import RESERVED, ObjectInfo, StoreError, open_source
from resnet_core.errors import DataError

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def moto_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture
def exact(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """An empty bucket of a store that takes every key as it is."""
    use_store(monkeypatch, moto_endpoint)
    return S3Store(bucket=make_bucket(moto_endpoint))


@pytest.fixture
def store(s3_bucket: str) -> S3Store:
    return S3Store(bucket=s3_bucket)


@pytest.fixture
def proxy(
    seaweedfs_endpoint: str, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """Stands before the store, and lets everything pass at first."""
    assert store.url
    with fault_proxy(seaweedfs_endpoint) as proxy:
        use_store(monkeypatch, proxy.endpoint)
        yield proxy


def keys(store: S3Store, under: str = "") -> list[str]:
    return [info.key for info in store.list_objects(under)]


ODD_KEYS = [
    *("a//b", "/lead", "//", ".", "..", "./x", "a/./b", "../x", "a/../b", "a/.", "a/..", "x/"),
    *("tab\t", "\x01", "del\x7f", "a\x1fb/c"),
]
PLAIN_KEYS = [
    *(f"c{chr(code)}x" for code in range(32, 127)),
    *("...", "a...", ".hidden", "a/.b", "..a", "a b/c d", " lead", "trail ", "%2F", "a%2525"),
    *("é", "e\u0301", "世界/\U0001f600", "\u00a0", "a\u2028b", "\x85", "\ufeffx", "x" * 900),
]


def test_every_key_is_written_read_and_listed_as_it_is(exact: S3Store, moto_endpoint: str) -> None:
    every = sorted({*ODD_KEYS, *PLAIN_KEYS}, key=str.encode)
    for key in every:
        exact.put(key, key.encode())
    listed = list(exact.list_objects())
    assert [info.key for info in listed] == every
    client = boto_client(moto_endpoint)
    for info in listed:
        blob = exact.get(info.key)
        assert (blob.data, blob.etag) == (info.key.encode(), info.etag)
        assert exact.info(info.key) == info
        stored = client.get_object(Bucket=exact.bucket, Key=info.key)["Body"].read()
        assert stored == info.key.encode(), "it lies where it should"


@pytest.mark.parametrize("prefix", ["/", "a//b", ".", "a/../b", "tab\t"])
def test_a_prefix_may_be_odd_too(exact: S3Store, prefix: str) -> None:
    below = replace(exact, prefix=prefix)
    below.put("x.png", b"1")
    assert keys(below) == ["x.png"]
    assert keys(exact) == [f"{prefix}/x.png"]
    assert below.get("x.png").data == b"1"


def test_folder_markers_are_named_and_passed_over(exact: S3Store) -> None:
    root = replace(exact, prefix="photos")
    for key in ("", "sub/", "sub/a.png"):
        exact.put(f"photos/{key}", b"x" if key.endswith("png") else b"")
    marker, image = root.list_objects()
    assert (marker.key, marker.is_error) == ("sub/", False)
    assert marker.problem == "a folder marker, not an object"
    assert root.info("sub/") == marker
    assert (image.key, image.problem) == ("sub/a.png", None)
    exact.put("photos/sub/", b"not empty")
    exact.put("photos/", b"not empty either")
    listed = [(info.key, info.problem) for info in root.list_objects()]
    assert listed == [("", None), ("sub/", None), ("sub/a.png", None)]


@pytest.mark.parametrize("where", ["exact", "store"])
def test_many_prefixes_and_pages_come_complete_and_in_order(
    request: pytest.FixtureRequest, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: S3Store = request.getfixturevalue(where)
    pages(monkeypatch, 40)
    wanted = [f"deep/er/{p}{s}{n}" for p in "abcdefghijkl" for s in "-/" for n in range(6)]
    wanted += [f"deep/er/{p}{s}x/{n}" for p in "akl" for s in "/!0" for n in range(9)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: place.put(key, b"x"), wanted))
    assert keys(place) == sorted(wanted, key=str.encode)
    assert keys(place, "deep/") == sorted(wanted, key=str.encode)


def pages(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let the store give that many keys at once."""
    ask = S3Store._page

    def small(self: S3Store, prefix: str, **options: object) -> object:
        return ask(self, prefix, **{"MaxKeys": size, **options})

    monkeypatch.setattr(S3Store, "_page", small)


def test_a_listing_that_is_left_leaves_no_threads(
    exact: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages(monkeypatch, 1)
    for number in range(60):
        exact.put(f"{number % 3}/{number:02d}", b"x")
    before = threading.active_count()
    listing = exact.list_objects()
    assert next(listing).key == "0/00"
    listing.close()
    deadline_s = time.monotonic() + 300
    while threading.active_count() > before:
        assert time.monotonic() < deadline_s, "threads go on reading"
        time.sleep(0.05)


def test_small_folders_are_not_listed_one_by_one(
    exact: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = sorted(f"{number}/main.jpg" for number in range(60))
    ledger = sorted(f"{RESERVED}/{number}/part" for number in range(20))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: exact.put(key, b"x"), [*wanted, *ledger]))
    asked: list[str] = []
    ask = S3Store._page

    def counted(self: S3Store, prefix: str, **options: object) -> object:
        asked.append(prefix)
        return ask(self, prefix, **options)

    monkeypatch.setattr(S3Store, "_page", counted)
    assert keys(exact) == wanted
    assert len(asked) <= 4
    assert keys(exact, f"{RESERVED}/") == ledger


def test_what_is_listed_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_ahead, "LISTED_AT_ONCE", 2)
    asked: list[str] = []

    def walk(prefix: str) -> Iterator[list[ObjectInfo]]:
        asked.append(prefix)
        yield [ObjectInfo(key=prefix, bytes=1, etag="")]

    listing = list_ahead.list_ahead((f"{number:03d}/" for number in range(100)), walk)
    assert next(listing).key == "000/"
    time.sleep(0.2)
    assert len(asked) <= 2
    assert [info.key for info in listing] == [f"{number:03d}/" for number in range(1, 100)]


def test_a_store_that_lists_out_of_order_is_refused(
    exact: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = [ObjectInfo(key=key, bytes=1, etag="") for key in ("a/b", "a-b")]
    monkeypatch.setattr(S3Store, "_list", lambda _self, _base: iter(infos))
    with pytest.raises(StoreError, match=r"lists 'a-b' behind 'a/b', out of order; .* --root"):
        keys(exact)


@pytest.mark.parametrize("where", ["exact", "store"])
@pytest.mark.parametrize("key", ["a.png", "big.png", "tab\t.png"])
def test_type_and_metadata_travel(
    request: pytest.FixtureRequest, where: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: S3Store = request.getfixturevalue(where)
    monkeypatch.setattr(s3_store, "LARGE_BYTES", 100)
    data = b"x" * (200 if key == "big.png" else 50)
    metadata = (("owner", "me"), ("title", "two words"))
    headers = tuple(zip(KEPT_HEADERS, ("max-age=60", 'inline; filename="a"', "de"), strict=True))
    place.put(key, data, content_type="image/png", user_metadata=metadata, headers=headers)
    blob = place.get(key)
    assert (blob.data, blob.content_type, blob.user_metadata) == (data, "image/png", metadata)
    assert sorted(blob.headers) == sorted(headers)


@pytest.mark.parametrize("key", ["a.png", "tab\t.png"])
def test_metadata_beyond_ascii_travels_in_the_form_that_s3_gives(exact: S3Store, key: str) -> None:
    exact.put(key, b"x", user_metadata=(("title", "é世"),))
    once = exact.get(key).user_metadata
    assert once == (("title", "=?utf-8?b?w6nkuJY=?="),)
    exact.put(key, b"y", user_metadata=once)
    assert exact.get(key).user_metadata == once, "a copy of a copy is the same"


def test_metadata_that_another_client_wrote_as_raw_utf_8_is_read(store: S3Store) -> None:
    import obstore  # noqa: PLC0415

    fast = s3_store._clients_of(store.bucket).fast
    obstore.put(fast, "a.png", b"x", use_multipart=False, attributes={"title": "é世"})
    assert store.get("a.png").user_metadata == (("title", "é世"),)


def test_metadata_named_like_a_header_stays_metadata(exact: S3Store) -> None:
    exact.put("a.png", b"x", content_type="image/png", user_metadata=(("cache-control", "me"),))
    blob = exact.get("a.png")
    assert (blob.content_type, blob.user_metadata) == ("image/png", (("cache-control", "me"),))


@pytest.mark.parametrize("size", [10, 300])
def test_uploads_carry_a_checksum(
    store: S3Store, seaweedfs_endpoint: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(s3_store, "LARGE_BYTES", 100)
    store.put("a.png", b"x" * size)
    head = boto_client(seaweedfs_endpoint).head_object(
        Bucket=store.bucket, Key="a.png", ChecksumMode="ENABLED"
    )
    assert "ChecksumSHA256" in head or "ChecksumCRC32" in head


def test_checksums_can_be_left_to_the_stores_that_need_them(
    store: S3Store, seaweedfs_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    store.put("a.png", b"x")
    head = boto_client(seaweedfs_endpoint).head_object(
        Bucket=store.bucket, Key="a.png", ChecksumMode="ENABLED"
    )
    assert "ChecksumSHA256" not in head


FAULTS = [
    pytest.param(Faults(status_every=2), id="503"),
    pytest.param(Faults(status_every=2, status=500), id="500"),
    pytest.param(Faults(status_every=2, status=429), id="429"),
    pytest.param(Faults(reset_every=2), id="reset"),
    pytest.param(Faults(short_every=2), id="short body"),
    pytest.param(Faults(stall_every=2, stall_s=30), id="stall"),
]


@pytest.mark.parametrize("faults", FAULTS)
def test_what_may_pass_is_tried_again(
    store: S3Store, proxy: FaultProxy, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (s3_store, s3_failures):
        monkeypatch.setattr(module, "STALL_S", 0.5)
    monkeypatch.setattr(s3_store, "LARGE_BYTES", 60_000)
    data = {"small": bytes(range(256)) * 200, "large": bytes(range(256)) * 300}
    proxy.faults = faults
    for _ in range(2):
        for key, value in data.items():
            store.put(key, value, content_type="image/png")
            blob = store.get(key)
            assert (blob.data, blob.content_type) == (value, "image/png")
            assert store.info(key).bytes == len(value)
    assert keys(store) == ["large", "small"]
    met = next(name for name in ("status", "reset", "short", "stall") if f"{name}" in proxy.counts)
    assert proxy.counts[met] >= 3


def test_nothing_is_lost_where_a_tenth_fails(store: S3Store, proxy: FaultProxy) -> None:
    proxy.faults = Faults(status_every=10, reset_every=11, short_every=13)
    wanted = {f"{number:03d}.bin": f"{number}".encode() * 500 for number in range(150)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda item: store.put(*item), wanted.items()))
        found = dict(zip(wanted, pool.map(lambda key: store.get(key).data, wanted), strict=True))
    assert found == wanted
    assert keys(store) == sorted(wanted)
    assert min(proxy.counts[name] for name in ("status", "reset", "short")) > 5


@pytest.mark.parametrize("key", ["a.png", "tab\t.png"])
@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (Faults(status_every=1), r"SlowDown: Reduce your rate, tried for 0 s"),
        (Faults(status_every=1, status=500), r"InternalError: .*, tried for 0 s"),
        (Faults(reset_every=1), r"the connection broke, tried for 0 s"),
        (Faults(stall_every=1, stall_s=30), r"no answer within 0.5 s, tried for 0 s"),
    ],
)
def test_what_does_not_pass_concerns_its_object_alone(
    store: S3Store,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    faults: Faults,
    message: str,
) -> None:
    for module in (s3_store, s3_failures):
        monkeypatch.setattr(module, "STALL_S", 0.5)
    hasty = replace(store, retry_for_s=0.0)
    proxy.faults = faults
    with pytest.raises(DataError, match=f"can't be written: {message}") as caught:
        hasty.put(key, b"x")
    assert not isinstance(caught.value, StoreError)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=f"can't be read: {message}"):
        hasty.get(key)
    with pytest.raises(StoreError, match="can't be listed"):
        keys(hasty)
    with pytest.raises(StoreError, match="can't be written"):
        hasty.make_writable()


def test_pauses_grow_and_end_in_time(
    store: S3Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(s3_store, "time", clock)
    proxy.faults = Faults(status_every=1)
    with pytest.raises(DataError, match="tried for 180 s"):
        store.get("a.png")
    assert 160 < sum(pauses) <= store.retry_for_s
    assert pauses[0] <= s3_store.FIRST_PAUSE_S
    assert max(pauses) <= s3_store.LONGEST_PAUSE_S
    assert proxy.counts["status"] == len(pauses) + 1 < 60


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        ((WRITER[0], "wrong"), r"SignatureDoesNotMatch: .*; check AWS_ACCESS_KEY_ID"),
        (("nobody", "wrong"), r"InvalidAccessKeyId: .*; check AWS_ACCESS_KEY_ID"),
        (None, r"no credentials were found; set AWS_ACCESS_KEY_ID"),
    ],
)
@pytest.mark.parametrize("key", ["a.png", "tab\t.png"])
def test_wrong_credentials_stop_the_run(
    store: S3Store,
    seaweedfs_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    credentials: tuple[str, str] | None,
    message: str,
    key: str,
) -> None:
    use_store(monkeypatch, seaweedfs_endpoint, credentials)
    for operation in (
        lambda: store.get(key),
        lambda: store.put(key, b"x"),
        lambda: keys(store),
        store.make_writable,
        lambda: open_source(store.url),
    ):
        with pytest.raises(StoreError, match=message) as caught:
            operation()
        assert "\n" not in str(caught.value)


def test_a_store_that_may_only_be_read_is_told_at_the_first_write(
    store: S3Store, seaweedfs_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a.png", b"x")
    use_store(monkeypatch, seaweedfs_endpoint, READER)
    assert store.get("a.png").data == b"x"
    assert keys(store) == ["a.png"]
    with pytest.raises(StoreError, match=r"can't be written: AccessDenied: .*may not do this"):
        store.make_writable()


def test_one_object_that_may_not_be_read_is_no_fault_of_the_store(
    store: S3Store, proxy: FaultProxy
) -> None:
    store.put("a.png", b"x")
    assert store.get("a.png").data == b"x", "the clients are there"
    proxy.counted = 0
    proxy.faults = Faults(method="GET", status_every=3, status=403)
    assert [store.get("a.png").data for _ in range(2)] == [b"x", b"x"]
    with pytest.raises(DataError, match=r"a.png: can't be read: .*may not do this") as caught:
        store.get("a.png")
    assert not isinstance(caught.value, StoreError)
    proxy.faults = Faults(status_every=1, status=403)
    with pytest.raises(StoreError, match="can't be listed"):
        store.get("a.png")


def test_no_such_bucket_is_told_at_once(exact: S3Store) -> None:
    nowhere = replace(exact, bucket="no-such-bucket")
    message = "NoSuchBucket: .*; make the bucket, or check its name and AWS_ENDPOINT_URL"
    for operation in (
        nowhere.check_readable,
        nowhere.make_writable,
        lambda: keys(nowhere),
        lambda: nowhere.get("a.png"),
        lambda: nowhere.get("tab\t.png"),
        lambda: open_source("s3://no-such-bucket/photos"),
    ):
        with pytest.raises(StoreError, match=message):
            operation()


def test_a_source_that_is_one_object_is_told_so(store: S3Store) -> None:
    store.put("lists/keys.txt", b"a.png")
    with pytest.raises(DataError, match=r"keys\.txt: is an object, not a prefix; .* --root"):
        open_source(store.url_of("lists/keys.txt"))
    assert keys(open_source(store.url_of("lists"))) == ["keys.txt"]
    assert keys(open_source(store.url_of("nothing/here"))) == []


@pytest.mark.parametrize("may_look", [True, False])
def test_the_region_of_a_bucket_is_that_which_aws_tells(may_look: bool) -> None:
    answer = {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": "eu-west-1"}}}

    def head_bucket(**_: str) -> dict[str, object]:
        if may_look:
            return answer
        raise ClientError(answer, "HeadBucket")

    def client(endpoint: str) -> SimpleNamespace:
        meta = SimpleNamespace(endpoint_url=endpoint, region_name="us-east-1")
        return SimpleNamespace(meta=meta, head_bucket=head_bucket)

    assert s3_store._region(client("https://s3.amazonaws.com"), "b") == "eu-west-1"
    assert s3_store._region(client("http://127.0.0.1:9000"), "b") == "us-east-1"


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://127.0.0.1:1", "the store can't be reached, tried for 0 s; check the network"),
        ("nonsense", "AWS_ENDPOINT_URL"),
    ],
)
def test_a_store_that_cannot_be_reached_stops_the_run(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, endpoint: str, message: str
) -> None:
    use_store(monkeypatch, endpoint)
    hasty = replace(store, retry_for_s=0.0)
    for operation in (lambda: hasty.get("a"), lambda: hasty.put("a", b""), lambda: keys(hasty)):
        with pytest.raises(StoreError, match=message):
            operation()


def test_an_object_that_cannot_be_concerns_itself_alone(store: S3Store) -> None:
    with pytest.raises(DataError, match="can't be written") as caught:
        store.put("x" * 2000, b"x")
    assert not isinstance(caught.value, StoreError)


def test_a_store_builds_its_clients_where_it_arrives(
    store: S3Store, seaweedfs_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a.png", b"x")
    sent = pickle.dumps(store)
    for secret in WRITER:
        assert secret.encode() not in sent
    use_store(monkeypatch, seaweedfs_endpoint, READER)
    assert pickle.loads(sent).get("a.png").data == b"x"


def test_credentials_come_from_a_profile_too(
    store: S3Store, tmp_path: Path, seaweedfs_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(monkeypatch, None, None)
    config = tmp_path / "config"
    config.write_text(
        f"[profile mine]\naws_access_key_id = {WRITER[0]}\naws_secret_access_key = {WRITER[1]}\n"
        f"region = us-east-1\nendpoint_url = {seaweedfs_endpoint}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    store.put("a.png", b"x")
    assert store.get("a.png").data == b"x"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    s3_store._build_clients.cache_clear()
    with pytest.raises(StoreError, match="nobody"):
        store.get("a.png")
