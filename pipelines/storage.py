"""Folders seen as stores of whole objects: the only way in which pictures are read and written.

A key is relative to the store's root, with "/" between its parts, whatever the store. Listings are
generators in the order of the keys' UTF-8 bytes, which is the order that object stores give, so
whoever reads them may rely on it. A store is small and picklable: workers get their own copy.
"""

import difflib
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from resnet_core.errors import DataError

RESERVED = "_resray"
"""The folder of a destination that holds the ledger, reports and unfinished writes."""

STALE_TEMPORARY_S = 3600.0

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://")


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


class Store(Protocol):
    """What the pipelines need of a place with objects. Every failure is a DataError."""

    @property
    def url(self) -> str:
        """The root, as a person would write it."""
        ...

    def list_objects(self) -> Iterator[ObjectInfo]:
        """All objects but those under RESERVED, in the order of their keys' UTF-8 bytes."""
        ...

    def get(self, key: str) -> bytes:
        """The whole content of one object."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write one object whole or not at all, in place of an earlier one if there is one."""
        ...


@dataclass(frozen=True, kw_only=True)
class FolderStore:
    """A folder. Unfinished writes lie in `temporary`, on the same filesystem."""

    root: Path
    temporary: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def list_objects(self, under: str = "") -> Iterator[ObjectInfo]:
        """All files, in order; RESERVED at the root is left out. Links are named, not followed.

        `under` ("_resray/ledger/") lists only what lies there. A folder that doesn't exist is
        empty; one that can't be read is itself a row with a problem.
        """
        pending = [iter([under])]
        while pending:
            name = next(pending[-1], None)
            if name is None:
                pending.pop()
            elif name == "" or name.endswith("/"):
                found = self._scan(name)
                if isinstance(found, ObjectInfo):
                    yield found
                else:
                    pending.append(iter(found))
            else:
                yield self._info(name)

    def _scan(self, prefix: str) -> list[str] | ObjectInfo:
        """The keys in one folder, ordered as whole keys are; those of folders end with "/"."""
        try:
            with os.scandir(self.root / prefix) as entries:
                names = [
                    prefix + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
                    for entry in entries
                    if prefix or entry.name != RESERVED
                ]
        except FileNotFoundError:
            return []
        except OSError as error:
            problem = f"the folder can't be read: {_why(error)}"
            return ObjectInfo(key=prefix, bytes=0, etag="", problem=problem, is_error=True)
        return sorted(names, key=os.fsencode)

    def _info(self, name: str) -> ObjectInfo:
        key = os.fsencode(name).decode("utf-8", "backslashreplace")
        try:
            status = (self.root / name).lstat()
        except OSError as error:
            problem = f"can't be read: {_why(error)}"
            return ObjectInfo(key=key, bytes=0, etag="", problem=problem, is_error=True)
        etag = f"{status.st_size:x}-{status.st_mtime_ns:x}"
        size = status.st_size
        if stat.S_ISLNK(status.st_mode):
            problem = "a symbolic link, which is not followed"
            return ObjectInfo(key=key, bytes=0, etag=etag, problem=problem)
        if not stat.S_ISREG(status.st_mode):
            return ObjectInfo(key=key, bytes=0, etag=etag, problem="not a regular file")
        if key != name:
            problem = "the file's name is not UTF-8: rename it"
            return ObjectInfo(key=key, bytes=size, etag=etag, problem=problem, is_error=True)
        return ObjectInfo(key=key, bytes=size, etag=etag)

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise DataError(f"{key}: can't be read: {_why(error)}") from error

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        unfinished = self.temporary / uuid.uuid4().hex
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._check_inside(path, key)
            self.temporary.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data)
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise DataError(f"{path}: can't be written: {_why(error)}") from error

    def below(self, prefix: str) -> "FolderStore":
        """The store of what lies under a prefix; unfinished writes stay where they were."""
        return FolderStore(root=self.root / prefix, temporary=self.temporary)

    def remove_stale_temporaries(self) -> None:
        """Remove unfinished writes that a killed process left behind, an hour or more ago."""
        if not self.temporary.is_dir():
            return
        limit_s = time.time() - STALE_TEMPORARY_S
        for path in self.temporary.iterdir():
            if path.lstat().st_mtime < limit_s:
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        if not key or key.startswith("/") or any(p in {"", ".", ".."} for p in key.split("/")):
            raise DataError(f"{key!r}: not a key: empty, or with empty, '.' or '..' parts")
        return self.root / key

    def _check_inside(self, path: Path, key: str) -> None:
        """A link inside the destination must not lead a write out of it."""
        if not path.parent.resolve().is_relative_to(self.root.resolve()):
            raise DataError(f"{key}: a link in {self.url} leads out of it: {path.parent}")


def open_source(text: str) -> FolderStore:
    """The folder to read from. DataError where there is none, or it can't be read."""
    path = _folder(text)
    if not path.exists():
        raise DataError(f"{text}: no such folder{_near(path)}")
    if not path.is_dir():
        raise DataError(f"{text}: is a file, not a folder; give the folder that holds it")
    try:
        os.scandir(path).close()
    except OSError as error:
        raise DataError(f"{text}: can't be read: {_why(error)}; check its permissions") from error
    return FolderStore(root=path.resolve(), temporary=path.resolve() / RESERVED / "tmp")


def open_target(text: str, source: FolderStore) -> FolderStore:
    """The folder to write into, not made yet. DataError where it and the source overlap."""
    path = _folder(text)
    _check_apart(text, path.resolve(), source.root)
    return FolderStore(root=path.resolve(), temporary=path.resolve() / RESERVED / "tmp")


def make_writable(store: FolderStore) -> None:
    """Make the destination's folder and try a write. DataError that says how to mend it."""
    probe = store.temporary / uuid.uuid4().hex
    try:
        store.temporary.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"{store.url}: can't be written: {_why(error)}; choose another folder"
            " or change its permissions"
        ) from error


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


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
