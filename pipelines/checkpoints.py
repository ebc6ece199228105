"""Checkpoints of a training run: whole objects in a store, checked when written and when read.

A checkpoint is one safetensors file, `checkpoints/STEP-DIGEST.safetensors`, with the trainer's
state and, in its metadata, the run's history. Its name holds a digest of its bytes, so a torn or
altered one is known. Ray Train's own checkpoints (2.60) are folders whose newest is taken as it is,
and whose list is a file that a kill can tear: a run could then not be gone on with.
"""

import hashlib
import json
import re
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipelines.storage import Store, StoreError
from resnet_core.errors import DataError

FOLDER = "checkpoints/"
KEPT_LAST = 2
_NAME = re.compile(rf"{FOLDER}(\d+)-([0-9a-f]{{16}})\.safetensors")
_HISTORY = "history"
_SCALARS = "scalars"

Row = dict[str, float]
"""One validation: step, loss, psnr_y_db, ssim_y, what the steps before took, and the starts until
then."""

Scalars = list[tuple[int, dict[str, float]]]
"""Of each step, counted from 1."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run goes on from."""

    step: int
    tensors: dict[str, Tensor]
    history: list[Row]
    scalars: Scalars = field(default_factory=Scalars)
    """Since the last row of `history`."""


def save_checkpoint(store: Store, checkpoint: Checkpoint) -> str:
    """Writes a checkpoint, reads it back, and removes those that aren't kept. Returns its key.

    Kept are the last two and the best by `psnr_y_db`, and one without a validation until the next.
    Raises DataError if it can't be written, or if the store gives other bytes back.
    """
    notes = {_HISTORY: checkpoint.history, _SCALARS: checkpoint.scalars}
    data = save(checkpoint.tensors, {name: json.dumps(value) for name, value in notes.items()})
    key = f"{FOLDER}{checkpoint.step:08}-{_digest(data)}.safetensors"
    store.put(key, data)
    if store.get(key).data != data:
        raise StoreError(f"{store.url_of(key)}: the store gives back other bytes than were written")
    scores = _scores(checkpoint.history)
    best = max(scores, key=lambda step: (scores[step], step), default=checkpoint.step)
    kept = {*sorted(scores)[-KEPT_LAST:], best}
    for other in _keys(store):
        # Steps that the history doesn't know are those that a damaged checkpoint lost.
        if other != key and (_step(other) not in kept or _step(other) == checkpoint.step):
            store.remove(other)
    return key


def newest_checkpoint(store: Store, tell: Callable[[str], None]) -> tuple[str, Checkpoint] | None:
    """The newest checkpoint that is whole, and its key; each damaged one before it is told.

    None if there is none at all. Raises DataError if none of those that are there is whole.
    """
    keys = _keys(store)
    return _first_whole(store, keys, tell) if keys else None


def best_checkpoint(
    store: Store, history: Sequence[Row], tell: Callable[[str], None]
) -> Checkpoint:
    """The one with the best validation, of those that are kept and whole. Raises DataError."""
    scores = _scores(history)
    keys = [key for key in _keys(store) if _step(key) in scores]
    keys.sort(key=lambda key: (scores[_step(key)], _step(key)), reverse=True)
    return _first_whole(store, keys, tell)[1]


def _first_whole(
    store: Store, keys: Sequence[str], tell: Callable[[str], None]
) -> tuple[str, Checkpoint]:
    for key in keys:
        try:
            return key, read_checkpoint(store, key)
        except StoreError:
            raise
        except DataError as error:
            tell(f"{error}; going on from the one before")
    raise DataError(
        f"{store.url_of(FOLDER)}: none of its {len(keys)} checkpoints is whole; choose another"
        " --output"
    )


def read_checkpoint(store: Store, key: str) -> Checkpoint:
    """DataError if it is damaged, StoreError if the store can't be read."""
    data = store.get(key).data
    name = _NAME.fullmatch(key)
    if name is None or _digest(data) != name[2]:
        raise DataError(f"{store.url_of(key)}: damaged")
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise DataError(f"{store.url_of(key)}: damaged ({error})") from error
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])["__metadata__"]
    return Checkpoint(
        step=int(name[1]),
        tensors=tensors,
        history=json.loads(header[_HISTORY]),
        scalars=[(step, values) for step, values in json.loads(header.get(_SCALARS, "[]"))],
    )


class Saver:
    """Saves in the background, one checkpoint at a time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[object] | None = None

    def submit(self, work: Callable[[], object]) -> None:
        """Begins `work`, after what was submitted before is done; raises what that raised."""
        self.wait()
        self._pending = self._pool.submit(work)

    def wait(self) -> None:
        """Until all is saved. Raises what saving raised."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def _keys(store: Store) -> list[str]:
    """Of all checkpoints, the newest first."""
    keys = [info.key for info in store.list_objects(FOLDER) if _NAME.fullmatch(info.key)]
    return sorted(keys, reverse=True)


def _step(key: str) -> int:
    return int(key.removeprefix(FOLDER).partition("-")[0])


def _scores(history: Sequence[Row]) -> dict[int, float]:
    """PSNR-Y of the steps that were validated."""
    return {int(row["step"]): row["psnr_y_db"] for row in history}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
