"""A list of keys as a source: only what it names is read, from a store that it names them in."""

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.storage import Blob, ObjectInfo, Store, StoreError
from resnet_core.errors import DataError

COLUMN = "key"
ASKED_AT_ONCE = 32
SLICE_KEYS = 10_000

_Strings = Any
"""A pyarrow array of strings, which comes without types."""


@dataclass(frozen=True, kw_only=True)
class ManifestSource:
    """The objects of `store` whose keys a file names, in Parquet or one on each line.

    Keys are relative to the store, or whole addresses within it. They may come in any order and
    more than once; the listing gives each once, in order, with what the store says of it now.
    """

    store: Store
    folder: Store
    """Where the file lies."""
    name: str
    """The file's key in `folder`. Parquet if it ends with ".parquet", else text."""
    root: str
    """The address of the store as it was given: a link to a folder too."""

    @property
    def url(self) -> str:
        return self.store.url

    def check_readable(self) -> None:
        """DataError where there is no such file."""
        problem = self.folder.info(self.name).problem
        if problem is not None:
            raise DataError(f"{self._place}: {problem}; expected a list of keys")

    def list_objects(self) -> Iterator[ObjectInfo]:
        """What the file names, in order; a missing object is a row with an error."""
        keys = self._keys()
        asked: deque[Future[ObjectInfo]] = deque()
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            for start in range(0, len(keys), SLICE_KEYS):
                for key in keys.slice(start, SLICE_KEYS).to_pylist():
                    asked.append(pool.submit(self._info, key))
                    if len(asked) >= 4 * ASKED_AT_ONCE:
                        yield asked.popleft().result()
            while asked:
                yield asked.popleft().result()

    def get(self, key: str) -> Blob:
        return self.store.get(key)

    @property
    def _place(self) -> str:
        return self.folder.url_of(self.name)

    def _info(self, key: str) -> ObjectInfo:
        try:
            return self.store.info(key)
        except StoreError:
            raise
        except DataError as error:
            return ObjectInfo(key=key, bytes=0, etag="", problem=str(error), is_error=True)

    def _keys(self) -> _Strings:
        """Each key once, sorted by its bytes, which is how pyarrow compares strings."""
        data = self.folder.get(self.name).data
        is_parquet = self.name.lower().endswith(".parquet")
        entries = self._parquet_entries(data) if is_parquet else self._text_entries(data)
        keys = pa.array([self._relative(entry) for entry in entries], pa.large_string())
        return keys.unique().sort()

    def _parquet_entries(self, data: bytes) -> list[str]:
        try:
            names = pq.read_schema(io.BytesIO(data)).names
            if COLUMN not in names:
                raise DataError(
                    f"{self._place}: has no column {COLUMN!r}; found {', '.join(names) or 'none'}"
                )
            column = pq.read_table(io.BytesIO(data), columns=[COLUMN])[COLUMN]
            entries = column.cast(pa.large_string())
        except (pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{self._place}: can't be read as Parquet: {reason}") from error
        if entries.null_count:
            raise DataError(f"{self._place}: {entries.null_count} keys are null")
        return entries.to_pylist()

    def _text_entries(self, data: bytes) -> list[str]:
        try:
            lines = data.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{self._place}: is no UTF-8 text: {error.reason}") from error
        return [line for line in (line.removesuffix("\r") for line in lines) if line]

    def _relative(self, entry: str) -> str:
        """The key that an entry names, be it a key already or a whole address."""
        for place in (self.root, self.store.url):
            root = place.removesuffix("/") + "/"
            if entry.startswith(root):
                return entry.removeprefix(root)
        is_folder = root.startswith("/")
        is_address = "://" in entry or (entry.startswith("/") and is_folder)
        if is_address:
            raise DataError(f"{self._place}: names {entry}, which isn't under {root} (--root)")
        return entry.removeprefix("./") if is_folder else entry
