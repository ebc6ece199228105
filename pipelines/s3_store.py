"""S3, and whatever speaks its language, as stores of whole objects.

Bytes go through obstore, which is several times faster; listings and the keys that obstore would
change or refuse go through boto3. Both find credentials, region and endpoint as boto3 does, and
neither tries anything twice by itself: `_tried` is the one place that decides what is tried again.
"""

import email.header
import functools
import heapq
import itertools
import random
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import botocore.session
import obstore
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
)
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError, GenericError
from obstore.store import S3Store as FastStore

from pipelines.list_ahead import LISTED_AT_ONCE, list_ahead
from pipelines.s3_failures import STALL_S, DeniedError, Failure, MissingError
from pipelines.storage import RESERVED, RETRY_FOR_S, Blob, ObjectInfo, StoreError, UserMetadata
from resnet_core.errors import DataError

if TYPE_CHECKING:
    from obstore.store import S3Config

FIRST_CONTACT_S = 10.0
"""A store that doesn't answer at the start has more likely a wrong address than a bad hour."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
CONNECT_S = 5.0
LARGE_BYTES = 2 * 1024**2
"""Larger ones are written by boto3: to obstore, a store that still receives is a silent one."""

WRITE_TEST_KEY = f"{RESERVED}/write-test"

_ODD_KEY = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f]")
"""Empty, '.' and '..' parts and control characters: obstore refuses them or drops slashes."""
_HEADERS = (
    "Content-Type",
    "Content-Encoding",
    "Content-Language",
    "Content-Disposition",
    "Cache-Control",
    "Storage-Class",
)
"""What obstore keeps among the user's metadata though it is none."""
KEPT_HEADERS = ("Cache-Control", "Content-Disposition", "Content-Language")
"""Those that a result has from its source."""
_BOTO_NAMES = {name: name.replace("-", "") for name in ("Content-Type", *KEPT_HEADERS)}

_T = TypeVar("_T")
_Client = Any
"""A boto3 client, which comes without types."""


@dataclass(frozen=True, kw_only=True)
class S3Store:
    """What lies under a prefix of a bucket; keys begin behind the prefix and its "/"."""

    bucket: str
    prefix: str = ""
    """Without the "/" that ends it; empty for the whole bucket."""
    retry_for_s: float = RETRY_FOR_S
    """How long what may pass (5xx, 429, broken connections, short bodies) is tried again."""

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    def url_of(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._root}{key}"

    @property
    def _root(self) -> str:
        return f"{self.prefix}/" if self.prefix else ""

    def list_objects(self, under: str = "") -> Iterator[ObjectInfo]:
        """All objects in the order of their keys; what lies under several prefixes at once.

        StoreError where the store gives keys out of order.
        """
        last: bytes | None = None
        for info in self._list(self._root + under):
            key = info.key.encode()
            if last is not None and key <= last:
                raise StoreError(
                    f"{self.url}: the store lists {info.key!r} behind {last.decode()!r}, out of"
                    " order; give a list of the keys and --root"
                )
            last = key
            yield info

    def _list(self, base: str) -> Iterator[ObjectInfo]:
        by_folder = self._lists_by_folder(base)
        walk = self._walk if by_folder else self._flat
        while True:
            entries = self._level(base)
            first = list(itertools.islice(entries, 2))
            if len(first) != 1 or isinstance(first[0], ObjectInfo):
                break
            base = first[0]
        if not by_folder and self._has_small_folders(base):
            kept = base.removeprefix(self._root).startswith(f"{RESERVED}/")
            for info in list_ahead((base,), walk):
                if kept or not info.key.startswith(f"{RESERVED}/"):
                    yield info
            return
        yield from list_ahead(itertools.chain(first, entries), walk)

    def _has_small_folders(self, base: str) -> bool:
        """Whether a request for each folder, LISTED_AT_ONCE of them, is slower than whole pages."""
        keys = (entry["Key"].removeprefix(base) for entry in self._page(base).get("Contents", []))
        return len({key.partition("/")[0] for key in keys if "/" in key}) > LISTED_AT_ONCE

    def _lists_by_folder(self, base: str) -> bool:
        """SeaweedFS sorts names within each folder, so "a/b" before "a-b", unlike S3."""
        server = self._page(base, MaxKeys=1)["ResponseMetadata"]["HTTPHeaders"].get("server", "")
        return server.startswith("SeaweedFS")

    def _flat(self, prefix: str) -> Iterator[list[ObjectInfo]]:
        """Everything under a prefix, in pages."""
        for page in self._pages(prefix):
            yield list(self._infos(page))

    def _walk(self, prefix: str) -> Iterator[list[ObjectInfo]]:
        """Everything under a prefix, level by level, in pages."""
        for entry in self._level(prefix):
            if isinstance(entry, ObjectInfo):
                yield [entry]
            else:
                yield from self._walk(entry)

    def _level(self, base: str) -> Iterator[ObjectInfo | str]:
        """What lies directly under a prefix: objects, and prefixes that end with "/", in order.

        A store may sort "a/" as "a": whatever is not behind all names seen so far waits.
        """
        waiting: list[bytes] = []
        entries: dict[bytes, ObjectInfo | str] = {}
        for page in self._pages(base, Delimiter="/"):
            found: dict[bytes, ObjectInfo | str] = {}
            for info in self._infos(page):
                found[(self._root + info.key).encode()] = info
            for prefix in (str(entry["Prefix"]) for entry in page.get("CommonPrefixes", [])):
                found[prefix.encode()] = prefix
            passed = max((place.removesuffix(b"/") for place in found), default=b"")
            found.pop(f"{self._root}{RESERVED}/".encode(), None)
            for place in found.keys() - entries.keys():
                heapq.heappush(waiting, place)
            entries |= found
            while waiting and waiting[0] <= passed:
                yield entries.pop(heapq.heappop(waiting))
        while waiting:
            yield entries.pop(heapq.heappop(waiting))

    def _infos(self, page: dict[str, Any]) -> Iterator[ObjectInfo]:
        for entry in page.get("Contents", []):
            key, size = entry["Key"].removeprefix(self._root), entry["Size"]
            if key or size:  # an empty object named like the root is its folder marker
                yield _info(key, size, entry["ETag"])

    def _pages(self, prefix: str, **options: Any) -> Iterator[dict[str, Any]]:
        while True:
            page = self._page(prefix, **options)
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _page(self, prefix: str, **options: Any) -> dict[str, Any]:
        def ask(clients: _Clients) -> dict[str, Any]:
            return clients.careful.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **options)

        with _for_all_objects():
            return self._tried(ask, f"s3://{self.bucket}/{prefix}: can't be listed")

    def info(self, key: str) -> ObjectInfo:
        full = self._full(key)

        def ask(clients: _Clients) -> ObjectInfo:
            if _ODD_KEY.search(full):
                head = clients.careful.head_object(Bucket=self.bucket, Key=full)
                return _info(key, head["ContentLength"], head["ETag"])
            meta = obstore.head(clients.fast, full)
            return _info(key, meta["size"], meta["e_tag"] or "")

        try:
            return self._tried(ask, f"{key}: can't be read")
        except MissingError:
            problem = "no such object"
        except DeniedError as error:
            self.check_readable()
            problem = str(error)
        return ObjectInfo(key=key, bytes=0, etag="", problem=problem, is_error=True)

    def get(self, key: str) -> Blob:
        full = self._full(key)

        def read(clients: _Clients) -> Blob:
            if _ODD_KEY.search(full):
                return _read_carefully(clients.careful, self.bucket, full)
            try:
                return _read_fast(clients.fast, full)
            except GenericError as error:
                if "Metadata value" not in str(error):
                    raise
                return _read_carefully(clients.careful, self.bucket, full)

        try:
            return self._tried(read, f"{key}: can't be read")
        except MissingError as error:
            raise DataError(f"{key}: no such object: it vanished since it was listed") from error
        except DeniedError as error:
            # A single object may have an owner or a key of its own; then the others can be listed.
            self.check_readable()
            raise DataError(str(error)) from error

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str | None = None,
        user_metadata: UserMetadata = (),
        headers: UserMetadata = (),
    ) -> None:
        """Write one object with its type, metadata and, where the store takes one, a checksum."""
        full = self._full(key)
        metadata = {name: _ascii(value) for name, value in user_metadata}
        typed = () if content_type is None else (("Content-Type", content_type),)
        is_plain = not _ODD_KEY.search(full) and _is_free_of_headers(metadata)

        def write(clients: _Clients) -> None:
            if is_plain and len(data) <= LARGE_BYTES:
                attributes = {**dict(typed), **dict(headers), **metadata}
                obstore.put(clients.fast, full, data, use_multipart=False, attributes=attributes)
                return
            named = {_BOTO_NAMES[name]: value for name, value in (*typed, *headers)}
            clients.careful.put_object(
                Bucket=self.bucket, Key=full, Body=data, Metadata=metadata, **named
            )

        self._tried(write, f"{self.url_of(key)}: can't be written")

    def remove(self, key: str) -> None:
        full = self._full(key)
        self._tried(
            lambda clients: clients.careful.delete_object(Bucket=self.bucket, Key=full),
            f"{self.url_of(key)}: can't be removed",
        )

    def below(self, prefix: str) -> "S3Store":
        return replace(self, prefix=self._root + prefix.removesuffix("/"))

    def check_readable(self) -> None:
        """A first request. StoreError where there is no such bucket, or no way to it.

        DataError where the address is that of one object.
        """
        bucket = replace(self._at_first(), prefix="")
        has_objects = bucket._page(self._root, MaxKeys=1).get("Contents")  # noqa: SLF001
        if self.prefix and not has_objects and bucket.info(self.prefix).problem is None:
            raise DataError(
                f"{self.url}: is an object, not a prefix; give the prefix that holds it,"
                " or --root if it is a list of keys"
            )

    def make_writable(self) -> None:
        """Write an empty object under RESERVED. StoreError that says how to mend it."""
        with _for_all_objects():
            self._at_first().put(WRITE_TEST_KEY, b"")

    def _at_first(self) -> "S3Store":
        return replace(self, retry_for_s=min(self.retry_for_s, FIRST_CONTACT_S))

    def remove_stale_temporaries(self) -> None:
        """S3 shows no unfinished writes."""

    def _full(self, key: str) -> str:
        if not key:
            raise DataError("'': not a key: empty")
        return self._root + key

    def _tried(self, operation: "Callable[[_Clients], _T]", what: str) -> _T:
        """The operation's result, tried again while it may pass, or the right kind of error."""
        give_up_s = time.monotonic() + self.retry_for_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return operation(_clients_of(self.bucket))
            except (BaseError, FileNotFoundError, BotoCoreError, ClientError) as error:
                failure = Failure.of(error)
                if not failure.may_pass or time.monotonic() + pause_s > give_up_s:
                    raise failure.as_error(what, retry_for_s=self.retry_for_s) from error
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  spreads the workers
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


@contextmanager
def _for_all_objects() -> Generator[None]:
    """Whatever fails here concerns the whole store."""
    try:
        yield
    except StoreError:
        raise
    except DataError as error:
        raise StoreError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class _Clients:
    fast: FastStore
    careful: _Client


_BUILDING = threading.Lock()


def _clients_of(bucket: str) -> _Clients:
    with _BUILDING:
        try:
            return _build_clients(bucket)
        except ValueError as error:  # an address that can't be one
            raise StoreError(f"s3://{bucket}: {error}; check AWS_ENDPOINT_URL") from error


@functools.cache
def _build_clients(bucket: str) -> _Clients:
    """The clients of this process. They are never pickled, so no secret is."""
    session = boto3.Session(botocore_session=_quick_session())
    if session.get_credentials() is None:
        raise StoreError(
            f"s3://{bucket}: no credentials were found; set AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    careful = _boto_client(session, session.region_name or "us-east-1")
    region = _region(careful, bucket)
    if region != careful.meta.region_name:
        careful = _boto_client(session, region)
    config: S3Config = {
        "endpoint": careful.meta.endpoint_url,
        "region": region,
        "virtual_hosted_style_request": False,
    }
    if careful.meta.config.request_checksum_calculation == "when_supported":
        config["checksum_algorithm"] = "SHA256"
    fast = FastStore(
        bucket,
        config=config,
        # boto3's credentials are good for ten minutes more at least.
        credential_provider=Boto3CredentialProvider(session, ttl=timedelta(minutes=10)),
        client_options={
            "allow_http": careful.meta.endpoint_url.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "read_timeout": timedelta(seconds=STALL_S),
            "timeout": timedelta(hours=1),
        },
        retry_config={"max_retries": 0},
    )
    return _Clients(fast=fast, careful=careful)


def _quick_session() -> botocore.session.Session:
    """Times in answers stay text: to parse them takes three quarters of a listing's time."""
    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    return session


def _boto_client(session: boto3.Session, region: str) -> _Client:
    return session.client(
        "s3",
        region_name=region,
        config=Config(
            connect_timeout=CONNECT_S,
            read_timeout=STALL_S,
            retries={"total_max_attempts": 1},
            max_pool_connections=64,
            s3={"addressing_style": "path"},
        ),
    )


def _region(client: _Client, bucket: str) -> str:
    """Where AWS keeps the bucket; other stores take any region."""
    if ".amazonaws.com" not in client.meta.endpoint_url:
        return client.meta.region_name
    try:
        answer = client.head_bucket(Bucket=bucket)
    except ClientError as error:  # a bucket that may not be looked at still tells its region
        answer = error.response
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return headers.get("x-amz-bucket-region", client.meta.region_name)


def _read_fast(client: FastStore, full: str) -> Blob:
    result = obstore.get(client, full)
    metadata = {name: value for name, value in result.attributes.items() if name not in _HEADERS}
    data = result.bytes().to_bytes()
    if len(data) != result.meta["size"]:
        raise IncompleteReadError(actual_bytes=len(data), expected_bytes=result.meta["size"])
    return Blob(
        data=data,
        etag=_bare(result.meta["e_tag"] or ""),
        content_type=result.attributes.get("Content-Type"),
        user_metadata=tuple(sorted(metadata.items())),
        headers=tuple(item for item in result.attributes.items() if item[0] in KEPT_HEADERS),
    )


def _read_carefully(client: _Client, bucket: str, full: str) -> Blob:
    answer = client.get_object(Bucket=bucket, Key=full)
    metadata = {name: _unicode(value) for name, value in answer["Metadata"].items()}
    return Blob(
        data=answer["Body"].read(),
        etag=_bare(answer["ETag"]),
        content_type=answer.get("ContentType"),
        user_metadata=tuple(sorted(metadata.items())),
        headers=tuple(
            (name, answer[_BOTO_NAMES[name]])
            for name in KEPT_HEADERS
            if _BOTO_NAMES[name] in answer
        ),
    )


def _info(key: str, size: int, etag: str) -> ObjectInfo:
    is_marker = key.endswith("/") and size == 0
    problem = "a folder marker, not an object" if is_marker else None
    return ObjectInfo(key=key, bytes=size, etag=_bare(etag), problem=problem)


def _bare(etag: str) -> str:
    return etag.strip('"')


def _is_free_of_headers(metadata: Iterable[str]) -> bool:
    return {name.lower() for name in _HEADERS}.isdisjoint(map(str.lower, metadata))


def _ascii(value: str) -> str:
    """A metadata value as S3 itself writes what isn't ASCII (RFC 2047)."""
    return value if value.isascii() else email.header.Header(value, "utf-8", 10_000).encode()


def _unicode(value: str) -> str:
    """A metadata value that a store gave as raw UTF-8, which boto3 reads as Latin-1."""
    return value.encode("latin-1", "replace").decode("utf-8", "replace")
