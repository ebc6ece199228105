"""Places with whole objects: the only way in which pictures are read and written.

A key is relative to the store's root, with "/" between its parts, whatever the store. Listings are
generators in the order of the keys' UTF-8 bytes, which is the order that object stores give, so
whoever reads them may rely on it. A store is small and picklable: workers get their own copy.
"""

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from resnet_core.errors import DataError

if TYPE_CHECKING:
    from pipelines.folder_store import FolderStore
    from pipelines.s3_store import S3Store

RESERVED = "_resray"
"""The folder of a destination that holds the ledger, reports and unfinished writes."""

UserMetadata = tuple[tuple[str, str], ...]
"""Names and values that travel with an object, in the order of their names."""

RETRY_FOR_S = 180.0
"""How long what may pass in an object store is tried again, if nothing else is said."""

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_ANY_SCHEME = "can't be read or written; give a folder or s3://BUCKET/PREFIX"
_OTHER_SCHEMES = {
    "gs": "Google Cloud Storage speaks S3 too: give s3://BUCKET/PREFIX, with"
    " AWS_ENDPOINT_URL=https://storage.googleapis.com and HMAC keys",
    "s3a": "write s3:// for s3a://",
    "s3n": "write s3:// for s3n://",
    "file": "give the folder's path without file://",
}


class StoreError(DataError):
    """The store itself can't be used any more (credentials, bucket, disk): the run stops.

    Every other DataError of a store concerns one object, and the others go on.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """One object of a listing.

    `etag` changes whenever the content does, as far as the store can tell without reading it (for
    a folder: size and time of the last change). `problem` says why there is nothing to read, as
    for a symbolic link; `is_error` tells a problem that somebody should mend from one that is
    passed over on purpose.
    """

    key: str
    bytes: int
    etag: str
    problem: str | None = None
    is_error: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """One object as it was read."""

    data: bytes
    etag: str
    """Of exactly these bytes, whatever the listing said."""
    content_type: str | None = None
    """The media type that the store keeps with it; a folder keeps none."""
    user_metadata: UserMetadata = ()
    headers: UserMetadata = ()
    """Cache-Control, Content-Disposition and Content-Language, where an object store has them."""


class Source(Protocol):
    """What is read: every failure that concerns one object is a DataError, others StoreErrors."""

    @property
    def url(self) -> str:
        """The root, as a person would write it."""
        ...

    def list_objects(self) -> Iterator[ObjectInfo]:
        """All objects but those under RESERVED, in the order of their keys' UTF-8 bytes."""
        ...

    def get(self, key: str) -> Blob:
        """The whole content of one object."""
        ...


class Store(Source, Protocol):
    """A place with objects that can also be written. Errors as those of a Source."""

    def url_of(self, key: str) -> str:
        """One object, as a person would write it."""
        ...

    def list_objects(self, under: str = "") -> Iterator[ObjectInfo]:
        """All objects whose keys begin with `under` (empty, or ending with "/"), in order.

        RESERVED at the root is left out unless `under` lies in it.
        """
        ...

    def info(self, key: str) -> ObjectInfo:
        """One object as a listing would give it; a missing one is a row with an error."""
        ...

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str | None = None,
        user_metadata: UserMetadata = (),
        headers: UserMetadata = (),
    ) -> None:
        """Write one object whole or not at all, in place of an earlier one if there is one."""
        ...

    def remove(self, key: str) -> None:
        """Remove one object; one that isn't there is no error."""
        ...

    def below(self, prefix: str) -> Self:
        """The store of what lies under a prefix ("_resray/sample")."""
        ...

    def make_writable(self) -> None:
        """Make the root where there is none, and try a write. StoreError with the cure."""
        ...

    def remove_stale_temporaries(self) -> None:
        """Remove unfinished writes that a killed process left behind, an hour or more ago."""
        ...


def open_source(text: str, *, root: str | None = None, retry_for_s: float = RETRY_FOR_S) -> Source:
    """The place to read from. DataError where there is none, or it can't be read.

    With `root`, `text` is a list of keys under it: a local file or an S3 address.
    """
    if root is None:
        return _open_place(text, retry_for_s)
    from pipelines.manifest import ManifestSource  # noqa: PLC0415

    if _scheme(text) is None:
        path = _path(text).resolve()
        folder, name = _open_folder(path.parent), path.name
    else:
        place, _, name = text.rpartition("/")
        folder = _open_s3(f"{place}/", retry_for_s)
    store = _open_place(root, retry_for_s)
    given = str(_path(root).absolute()) if _scheme(root) is None else root
    manifest = ManifestSource(store=store, folder=folder, name=name, root=given)
    manifest.check_readable()
    return manifest


def _open_place(text: str, retry_for_s: float) -> Store:
    """A folder or prefix that can be read."""
    if _scheme(text) is not None:
        store = _open_s3(text, retry_for_s)
        store.check_readable()
        return store
    path = _path(text)
    if not path.exists():
        raise DataError(f"{text}: no such folder{_near(path)}")
    if not path.is_dir():
        raise DataError(
            f"{text}: is a file, not a folder; give the folder that holds it"
            " (`resray enhance` takes a list of keys with --root)"
        )
    try:
        os.scandir(path).close()
    except OSError as error:
        raise DataError(f"{text}: can't be read: {why(error)}; check its permissions") from error
    return _open_folder(path)


def open_store(text: str, *, retry_for_s: float = RETRY_FOR_S) -> Store:
    """A place to read from and write into, which may not be there yet."""
    return _open_folder(_path(text)) if _scheme(text) is None else _open_s3(text, retry_for_s)


def open_target(text: str, source: Source, *, retry_for_s: float = RETRY_FOR_S) -> Store:
    """The place to write into, not made yet. DataError where it and the source overlap."""
    target = open_store(text, retry_for_s=retry_for_s)
    _check_apart(text, _places(target.url), _places(source.url))
    return target


def _open_folder(path: Path) -> "FolderStore":
    from pipelines.folder_store import FolderStore  # noqa: PLC0415

    return FolderStore(root=path.resolve(), temporary=path.resolve() / RESERVED / "tmp")


def _open_s3(text: str, retry_for_s: float) -> "S3Store":
    scheme = _scheme(text)
    if scheme != "s3":
        raise DataError(f"{text}: {_OTHER_SCHEMES.get(scheme or '', _ANY_SCHEME)}")
    # Clients are loaded only where they are wanted.
    from pipelines.s3_store import S3Store  # noqa: PLC0415

    bucket, _, prefix = text.removeprefix("s3://").partition("/")
    if not bucket:
        raise DataError(f"{text}: names no bucket; give s3://BUCKET/PREFIX")
    return S3Store(bucket=bucket, prefix=prefix.removesuffix("/"), retry_for_s=retry_for_s)


def _scheme(text: str) -> str | None:
    found = _URL.match(text)
    return None if found is None else found[1]


def _path(text: str) -> Path:
    if not text:
        raise DataError("'': an empty name; give a folder or s3://BUCKET/PREFIX")
    return Path(text).expanduser()


def _check_apart(text: str, target: list[str], source: list[str]) -> None:
    """Each is a place and all that hold it, from the innermost."""
    if _same(target[0], source[0]):
        raise DataError(f"{text}: is the source itself; give another place for the results")
    if any(_same(parent, source[0]) for parent in target):
        raise DataError(
            f"{text}: lies inside the source {source[0]}, so results would become sources;"
            " give a place outside it"
        )
    if any(_same(parent, target[0]) for parent in source):
        raise DataError(
            f"{text}: holds the source {source[0]}, so results could overwrite it;"
            " give a place beside it"
        )


def _places(url: str) -> list[str]:
    """A folder or prefix and all those that hold it, from the innermost."""
    if _scheme(url) is None:
        return [url, *map(str, Path(url).parents)]
    parts = url.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 2, -1)]


def _same(first: str, second: str) -> bool:
    if _scheme(first) is not None or _scheme(second) is not None:
        return first == second
    try:
        return Path(first).samefile(second)
    except OSError:
        return first == second


def _near(path: Path) -> str:
    """'; did you mean ...?' from the folders beside a missing one."""
    parent = path.parent
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {str(parent / near[0])!r}?" if near else ""


def why(error: OSError) -> str:
    """The words of the system for what went wrong, without its number."""
    return error.strerror or str(error) or type(error).__name__
