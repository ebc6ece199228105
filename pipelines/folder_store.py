"""Folders as stores of whole objects."""

import errno
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.storage import RESERVED, Blob, ObjectInfo, StoreError, UserMetadata, why
from resnet_core.errors import DataError

STALE_TEMPORARY_S = 3600.0
READS_OF_A_CHANGING_FILE = 5
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class FolderStore:
    """A folder. Unfinished writes lie in `temporary`, on the same filesystem."""

    root: Path
    temporary: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def url_of(self, key: str) -> str:
        return str(self.root / key)

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
            problem = f"the folder can't be read: {why(error)}"
            return ObjectInfo(key=prefix, bytes=0, etag="", problem=problem, is_error=True)
        return sorted(names, key=os.fsencode)

    def _info(self, name: str) -> ObjectInfo:
        key = os.fsencode(name).decode("utf-8", "backslashreplace")
        try:
            status = (self.root / name).lstat()
        except OSError as error:
            gone = isinstance(error, FileNotFoundError | NotADirectoryError)
            problem = "no such object" if gone else f"can't be read: {why(error)}"
            return ObjectInfo(key=key, bytes=0, etag="", problem=problem, is_error=True)
        etag = _etag(status)
        if stat.S_ISLNK(status.st_mode):
            problem = "a symbolic link, which is not followed"
            return ObjectInfo(key=key, bytes=0, etag=etag, problem=problem)
        if not stat.S_ISREG(status.st_mode):
            return ObjectInfo(key=key, bytes=0, etag=etag, problem="not a regular file")
        size = status.st_size
        if key != name:
            problem = "the file's name is not UTF-8: rename it"
            return ObjectInfo(key=key, bytes=size, etag=etag, problem=problem, is_error=True)
        return ObjectInfo(key=key, bytes=size, etag=etag)

    def info(self, key: str) -> ObjectInfo:
        """One file, as the listing would give it. DataError for what can't be a key."""
        self._path(key)
        return self._info(key)

    def get(self, key: str) -> Blob:
        """A file's bytes, with the etag that it has before and after they are read."""
        path = self._path(key)
        try:
            for _ in range(READS_OF_A_CHANGING_FILE):
                with path.open("rb") as file:
                    before = _etag(os.fstat(file.fileno()))
                    data = file.read()
                    if before == _etag(os.fstat(file.fileno())):
                        return Blob(data=data, etag=before)
        except FileNotFoundError as error:
            raise DataError(f"{key}: no such object: it vanished since it was listed") from error
        except OSError as error:
            raise DataError(f"{key}: can't be read: {why(error)}") from error
        raise DataError(f"{key}: can't be read: it is being written")

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str | None = None,
        user_metadata: UserMetadata = (),
        headers: UserMetadata = (),
    ) -> None:
        """Write a file beside, then put it in place. A folder keeps its bytes alone."""
        del content_type, user_metadata, headers
        path = self._path(key)
        unfinished = self.temporary / uuid.uuid4().hex
        try:
            self._check_inside(path, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.temporary.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data)
            unfinished.replace(path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            message = f"{path}: can't be written: {why(error)}"
            if error.errno in NO_ROOM:
                raise StoreError(message) from error
            raise DataError(message) from error

    def remove(self, key: str) -> None:
        """Remove a file. DataError if it is there and can't be."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{path}: can't be removed: {why(error)}") from error

    def below(self, prefix: str) -> "FolderStore":
        """The store of what lies under a prefix; unfinished writes stay where they were."""
        return FolderStore(root=self.root / prefix, temporary=self.temporary)

    def make_writable(self) -> None:
        """Make the folder and try a write. StoreError that says how to mend it."""
        probe = self.temporary / uuid.uuid4().hex
        try:
            self.temporary.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"{self.url}: can't be written: {why(error)}; choose another folder"
                " or change its permissions"
            ) from error

    def remove_stale_temporaries(self) -> None:
        """Remove unfinished writes that a killed process left behind, an hour or more ago."""
        if not self.temporary.is_dir():
            return
        limit_s = time.time() - STALE_TEMPORARY_S
        for path in self.temporary.iterdir():
            with suppress(FileNotFoundError):  # another run writes here too
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_mtime < limit_s:
                    path.unlink()

    def _path(self, key: str) -> Path:
        if "\0" in key or any(part in {"", ".", ".."} for part in key.split("/")):
            raise DataError(
                f"{key!r}: not a key of a folder: it has empty, '.' or '..' parts, or a NUL"
            )
        return self.root / key

    def _check_inside(self, path: Path, key: str) -> None:
        """A link inside the destination must not lead a write out of it."""
        if not path.parent.resolve().is_relative_to(self.root.resolve()):
            raise DataError(f"{key}: a link in {self.url} leads out of it: {path.parent}")


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"
