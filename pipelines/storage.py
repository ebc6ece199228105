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

RESERVED = "_resray"
"""The folder of a destination that holds the ledger, reports and unfinished writes."""

UserMetadata = tuple[tuple[str, str], ...]
"""Names and values that travel with an object, in the order of their names."""

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://")


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
    ) -> None:
        """Write one object whole or not at all, in place of an earlier one if there is one."""
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


def open_source(text: str) -> "FolderStore":
    """The folder to read from. DataError where there is none, or it can't be read."""
    from pipelines.folder_store import FolderStore  # noqa: PLC0415

    path = _folder(text)
    if not path.exists():
        raise DataError(f"{text}: no such folder{_near(path)}")
    if not path.is_dir():
        raise DataError(f"{text}: is a file, not a folder; give the folder that holds it")
    try:
        os.scandir(path).close()
    except OSError as error:
        raise DataError(f"{text}: can't be read: {why(error)}; check its permissions") from error
    return FolderStore(root=path.resolve(), temporary=path.resolve() / RESERVED / "tmp")


def open_target(text: str, source: "FolderStore") -> "FolderStore":
    """The folder to write into, not made yet. DataError where it and the source overlap."""
    from pipelines.folder_store import FolderStore  # noqa: PLC0415

    path = _folder(text)
    _check_apart(text, path.resolve(), source.root)
    return FolderStore(root=path.resolve(), temporary=path.resolve() / RESERVED / "tmp")


def _folder(text: str) -> Path:
    scheme = _URL.match(text)
    if scheme is not None:
        raise DataError(f"{text}: {scheme[1]} addresses aren't read yet; give a folder")
    if not text:
        raise DataError("'': an empty name; give a folder")
    return Path(text).expanduser()


def _check_apart(text: str, target: Path, source: Path) -> None:
    if _same(target, source):
        raise DataError(f"{text}: is the source itself; give another folder for the results")
    if any(_same(parent, source) for parent in target.parents):
        raise DataError(
            f"{text}: lies inside the source {source}, so results would become sources;"
            " give a folder outside it"
        )
    if any(_same(parent, target) for parent in source.parents):
        raise DataError(
            f"{text}: holds the source {source}, so results could overwrite it;"
            " give a folder beside it"
        )


def _same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
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
