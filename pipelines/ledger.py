"""The ledger of a destination: what became of each source object, in Parquet.

Parts lie under `_resray/ledger/` and are named `RUN-TAG-PART.parquet`, so that their names sort in
the order in which they were written; the current state of a key is its last row. A part is written
again, whole, with every flush until it is full: a killed run leaves whole parts only, and few.
"""

import bisect
import hashlib
import io
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.storage import RESERVED, Store
from resnet_core.errors import DataError

LEDGER_PREFIX = f"{RESERVED}/ledger/"
FLUSH_INTERVAL_S = 2.0
FLUSH_ROWS = 500
PART_ROWS = 20_000

Table = Any
"""A pyarrow.Table, which comes without types."""

Status = Literal["ok", "suspect", "failed", "skipped"]
"""`suspect`: enhanced and written as `ok` is, but too far from its source (see `guard`)."""


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """What became of one source object. Sizes are those of the upright image, in pixels."""

    key: str
    status: Status
    source_etag: str
    source_bytes: int
    weights_sha256: str
    settings_hash: str
    out_key: str | None = None
    reason: str | None = None
    output_bytes: int | None = None
    source_width_px: int | None = None
    source_height_px: int | None = None
    output_width_px: int | None = None
    output_height_px: int | None = None
    change_levels: float | None = None
    """Mean absolute difference between the result and its base, in levels of 255."""
    deviation: float | None = None
    """How far the result is from its source, as a share of what is allowed."""
    noise_levels: float | None = None
    """This and the next four are what `auto` saw; see `Findings`."""
    grain_levels: float | None = None
    colour_levels: float | None = None
    sharpness: float | None = None
    jpeg_quality: int | None = None
    chosen: str | None = None
    """Name of the weights that `auto` chose, or `none`."""
    get_s: float = 0.0
    decode_s: float = 0.0
    network_s: float = 0.0
    encode_s: float = 0.0
    put_s: float = 0.0
    finished_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def total_s(self) -> float:
        return self.get_s + self.decode_s + self.network_s + self.encode_s + self.put_s

    @property
    def output_pixels(self) -> int:
        return (self.output_width_px or 0) * (self.output_height_px or 0)


SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("out_key", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("source_etag", pa.string(), nullable=False),
        pa.field("source_bytes", pa.int64(), nullable=False),
        pa.field("output_bytes", pa.int64()),
        pa.field("source_width_px", pa.int32()),
        pa.field("source_height_px", pa.int32()),
        pa.field("output_width_px", pa.int32()),
        pa.field("output_height_px", pa.int32()),
        pa.field("change_levels", pa.float32()),
        pa.field("deviation", pa.float32()),
        pa.field("noise_levels", pa.float32()),
        pa.field("grain_levels", pa.float32()),
        pa.field("colour_levels", pa.float32()),
        pa.field("sharpness", pa.float32()),
        pa.field("jpeg_quality", pa.int32()),
        pa.field("chosen", pa.string()),
        pa.field("get_s", pa.float32(), nullable=False),
        pa.field("decode_s", pa.float32(), nullable=False),
        pa.field("network_s", pa.float32(), nullable=False),
        pa.field("encode_s", pa.float32(), nullable=False),
        pa.field("put_s", pa.float32(), nullable=False),
        pa.field("weights_sha256", pa.string(), nullable=False),
        pa.field("settings_hash", pa.string(), nullable=False),
        pa.field("finished_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


def rows_to_table(rows: Sequence[LedgerRow]) -> Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)


def table_to_rows(table: Table) -> list[LedgerRow]:
    return [LedgerRow(**values) for values in table.select(SCHEMA.names).to_pylist()]


def list_parts(store: Store) -> list[str]:
    """Keys of the ledger's parts, oldest first. DataError for what can't be looked into."""
    parts: list[str] = []
    for info in store.list_objects(LEDGER_PREFIX):
        if info.is_error:
            raise DataError(f"{store.url_of(info.key)}: {info.problem}; the ledger needs it")
        if info.problem is None and info.key.endswith(".parquet"):
            parts.append(info.key)
    return parts


def read_parts(store: Store, parts: Iterable[str]) -> Iterator[Table]:
    """The tables of the parts, in order. DataError names a part that can't be read."""
    for part in parts:
        data = store.get(part).data
        try:
            yield pq.read_table(io.BytesIO(data), schema=SCHEMA)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{store.url_of(part)}: a damaged part of the ledger ({reason});"
                " remove it, and what it recorded is done again"
            ) from error


def current_state(store: Store) -> dict[str, LedgerRow]:
    """The last row of each key. It holds the whole ledger: for tests and small destinations."""
    tables = read_parts(store, list_parts(store))
    return {row.key: row for table in tables for row in table_to_rows(table)}


class LedgerWriter:
    """Appends rows to the ledger of a destination, as the next run after those recorded.

    A row is safe on disk with the first row that comes FLUSH_INTERVAL_S or more after the last
    flush, after FLUSH_ROWS, or at the end of the `with` block, however it ends.
    """

    def __init__(self, store: Store, *, part_rows: int = PART_ROWS) -> None:
        self._store = store
        self._part_rows = part_rows
        self._run = f"{_next_run(list_parts(store)):06d}-{uuid.uuid4().hex[:8]}"
        self._part = 0
        self._written = SCHEMA.empty_table()
        self._rows: list[LedgerRow] = []
        self._flushed_at_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def append(self, row: LedgerRow) -> None:
        self._rows.append(row)
        if len(self._rows) >= FLUSH_ROWS:
            self.flush()
        else:
            self.flush_if_due()

    def flush_if_due(self) -> None:
        if time.monotonic() - self._flushed_at_s >= FLUSH_INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        self._flushed_at_s = time.monotonic()
        if not self._rows:
            return
        table = pa.concat_tables([self._written, rows_to_table(self._rows)])
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self._store.put(f"{LEDGER_PREFIX}{self._run}-{self._part:06d}.parquet", buffer.getvalue())
        self._written, self._rows = table, []
        if len(table) >= self._part_rows:
            self._written = SCHEMA.empty_table()
            self._part += 1


def _next_run(parts: Sequence[str]) -> int:
    numbers = [part.removeprefix(LEDGER_PREFIX).split("-", 1)[0] for part in parts]
    return max((int(number) for number in numbers if number.isdigit()), default=0) + 1


class RecordedState:
    """The current state of a ledger in 17 bytes a key, to ask whether an object is done.

    Keys and what they were done from are kept as hashes of 64 bits each. An object is taken for
    done only if both agree.
    """

    def __init__(self, tables: Iterable[Table]) -> None:
        keys: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        prints: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        statuses: list[NDArray[np.bool_]] = [np.empty(0, np.bool_)]
        for table in tables:
            rows = table.select(
                ["key", "source_etag", "weights_sha256", "settings_hash", "status"]
            ).to_pydict()
            columns = list(rows.values())
            keys.append(np.array([_hash64(key) for key in columns[0]], np.uint64))
            prints.append(
                np.array([_hash64(*parts) for parts in zip(*columns[:4], strict=True)], np.uint64)
            )
            statuses.append(np.array([status == "failed" for status in columns[4]], np.bool_))
        all_keys = np.concatenate(keys)
        # The last occurrence of each key is the first one from behind.
        sorted_keys, from_behind = np.unique(all_keys[::-1], return_index=True)
        last = len(all_keys) - 1 - from_behind
        # Views give Python's own numbers, in a third of the time that NumPy's scalars take.
        self._keys = sorted_keys.data
        self._prints = np.concatenate(prints)[last].data
        self._failed = np.concatenate(statuses)[last].data

    def __len__(self) -> int:
        return len(self._keys)

    def status(
        self, key: str, etag: str, weights_sha256: str, settings_hash: str
    ) -> Literal["new", "done", "failed"]:
        """`done`: ok, suspect or skipped before, from the same source, weights and settings."""
        key_hash = _hash64(key)
        index = bisect.bisect_left(self._keys, key_hash)
        if index == len(self._keys) or self._keys[index] != key_hash:
            return "new"
        if self._prints[index] != _hash64(key, etag, weights_sha256, settings_hash):
            return "new"
        return "failed" if self._failed[index] else "done"


def _hash64(*parts: str) -> int:
    text = "\0".join(parts).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
