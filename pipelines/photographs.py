"""Photographs of a folder or bucket made ready for training: cut into patches once, by Ray Data.

To decode a photograph for one crop in each step would cost more than the step. So tasks on all CPUs
of the cluster read the photographs, cut them and write their patches in groups, objects of some
megabytes each. The photographs are taken in an order by chance, some in each part; what an
interrupted run has cut of a part is kept, and a part gives the same bytes whoever cuts it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, overload

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext

from pipelines.data_engine import data_context, iterate
from pipelines.storage import ObjectInfo, Source, Store, StoreError
from resnet_core.errors import BrokenImageError, DataError, ImageError
from resnet_core.images import FORMATS, decode, round_to_8_bit
from resnet_core.levels import Levels
from resnet_core.patches import STEPS_A_GROUP, cut_patches

MAX_BROKEN_SHARE = 0.05
VALIDATION_SIDE_PX = 384
VALIDATION_EVERY = 20
MOST_HELD_OUT = 100
SMALLEST_PART = 4
MOST_PARTS = 1000
MIXED_PATCHES = 8 * STEPS_A_GROUP
"""So many patches of a part, or those of one photograph, are in memory at once."""
CUT_VERSION = 6
"""Counts changes to what is cut from a photograph, and to what is known of it: older patches are
then left alone."""
_SIDE_MULTIPLE = 12
_SMALLEST_VALIDATION_PX = 24
"""Side of a crop that every scale leaves enough of to measure SSIM."""
_INDEX = "data.json"
_VALIDATION = "validation.arrow"

Picture = tuple[str, Levels]
"""The key of a photograph, and pixels of it: uint8 HWC RGB."""
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PatchGroups(Sequence[list[Levels]]):
    """Patches in groups, uint8 (patch_px, patch_px, 3) each, read when they are asked for."""

    store: Store
    sizes_in_parts: tuple[tuple[int, ...], ...]
    """The number of patches in each group of each part."""

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of patches in each group."""
        return tuple(chain.from_iterable(self.sizes_in_parts))

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return tuple(accumulate(len(sizes) for sizes in self.sizes_in_parts))

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> list[Levels]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[Levels]]: ...
    def __getitem__(self, index: int | slice) -> list[Levels] | list[list[Levels]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return [pixels for _, pixels in self.pictures(index)]

    def pictures(self, index: int) -> list[Picture]:
        """The patches of one group, each with the key of its photograph."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        number = index - (self._ends[part - 1] if part else 0)
        return _read_pictures(self.store, _group_name(part, number))


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Patches and validation crops in a store. Small: workers get their own copy."""

    store: Store
    name: str
    """Of the data: other photographs, or the same held out otherwise, have another."""
    patch_px: int
    """Side of a patch, pixels."""
    num_photographs: int
    """Photographs that gave patches."""
    sizes_in_parts: tuple[tuple[int, ...], ...]
    """The number of patches in each group of each part."""
    broken: tuple[str, ...]
    """Key and reason of each photograph that couldn't be read."""

    @property
    def groups(self) -> PatchGroups:
        return PatchGroups(store=self.store, sizes_in_parts=self.sizes_in_parts)

    @property
    def num_patches(self) -> int:
        return sum(map(sum, self.sizes_in_parts))

    def validation(self) -> list[Picture]:
        """Held-out crops, uint8 HWC RGB, sides multiples of every scale."""
        return _read_pictures(self.store, _VALIDATION)


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What became of the photographs of one part."""

    photographs: int
    """That gave patches."""
    too_small: int
    """For a patch."""
    sizes: tuple[int, ...]
    """The number of patches in each group."""
    broken: tuple[str, ...]


def find_photographs(source: Source, tell: Tell) -> list[ObjectInfo]:
    """The image files of a folder or prefix, by key. DataError if there are none.

    What the listing finds fault with is among them. How many links were passed over is told: they
    may lead out of the folder, and to where a machine of the cluster sees something else.
    """
    suffixes = tuple(sorted(e for each in FORMATS.values() for e in each.extensions))
    found, passed = list[ObjectInfo](), list[ObjectInfo]()
    for info in source.list_objects():
        if info.problem is not None and not info.is_error:
            # What ends with "/" only stands for a folder, in a bucket.
            passed += [] if info.key.endswith("/") else [info]
        elif info.key.lower().endswith(suffixes):
            found.append(info)
    if not found:
        looked = f"no photographs in it (looked for {', '.join(suffixes)})"
        raise DataError(f"{source.url}: {looked}" + (f"; {_told(passed)}" if passed else ""))
    if passed:
        tell(f"{source.url}: {_told(passed)}")
    return found


def _told(passed: Sequence[ObjectInfo]) -> str:
    return (
        f"{len(passed)} passed over, {passed[0].key}: {passed[0].problem}; give the folder that"
        " holds the photographs themselves, or copies of them"
    )


def prepare(
    data: Source,
    validation: Source | None,
    cache: Store,
    *,
    patch_px: int,
    tell: Tell,
    begun: str | None = None,
) -> PreparedData:
    """Cuts the photographs of `data`, or finds what an earlier run cut of the same ones.

    Needs a connected Ray. Without `validation` every twentieth photograph is held out (at least
    one, at most a hundred). A photograph that can't be read is skipped and named. `begun`: the
    name of what a run was begun with, which it goes on with if the photographs have changed. Raises
    DataError if more than 5 % can't be read, if none is large enough for one patch, if what was
    begun with is gone, or if `cache` can't be written.
    """
    photographs = find_photographs(data, tell)
    if validation is None:
        held_out, apart = _spread(photographs[::VALIDATION_EVERY]), data
        out = {info.key for info in held_out}
    else:
        found, apart = find_photographs(validation, tell), validation
        held_out = _spread(found)
        if len(held_out) < len(found):
            tell(f"{validation.url}: measured on {len(held_out)} of {len(found)} photographs")
        # They may lie among the others: those are not trained on.
        root, below = (f"{place.url.rstrip('/')}/" for place in (data, validation))
        out = {info.key for info in photographs if f"{root}{info.key}".startswith(below)}
    training = [info for info in photographs if info.key not in out]
    if not training:
        raise DataError(
            f"{data.url}: no photograph is left to train on, {len(out)} of {len(photographs)} are"
            " held out for validation"
        )
    name = f"data-{_fingerprint(data.url, training, apart.url, held_out, patch_px)}"
    if begun not in (None, name):
        if not _is_whole(cache.below(begun)):
            raise DataError(
                f"{cache.url_of(begun)}, which this run was begun with, is gone or of another "
                "version, and the photographs have changed since; choose another --output"
            )
        tell(
            "the photographs have changed since this run began: it goes on with those of then;"
            " for those of now choose another --output"
        )
        name = begun
    store = cache.below(name)
    if not _is_whole(store):
        tell(f"cutting {len(training)} photographs into patches of {patch_px} px, once")
        index = _cut(data, training, apart, held_out, store, patch_px=patch_px, tell=tell)
        store.put(_INDEX, json.dumps(index, indent=1).encode())
        return open_prepared(store)
    prepared = open_prepared(store)
    if prepared.broken:
        tell(f"{len(prepared.broken)} photographs can't be read, {prepared.broken[0]}")
    return prepared


def _spread(photographs: Sequence[ObjectInfo]) -> Sequence[ObjectInfo]:
    """At most a hundred, from all of the listing."""
    count = min(len(photographs), MOST_HELD_OUT)
    return [photographs[number * len(photographs) // count] for number in range(count)]


def _is_whole(store: Store) -> bool:
    """Whether all was cut, as this version cuts."""
    if store.info(_INDEX).problem is not None:
        return False
    return json.loads(store.get(_INDEX).data).get("cut_version") == CUT_VERSION


def open_prepared(store: Store) -> PreparedData:
    """What `prepare` has made in `store`."""
    index = json.loads(store.get(_INDEX).data)
    index.pop("cut_version")
    index["sizes_in_parts"] = tuple(map(tuple, index["sizes_in_parts"]))
    index["broken"] = tuple(index["broken"])
    return PreparedData(store=store, name=store.url.rsplit("/", 1)[-1], **index)


def _cut(
    data: Source,
    training: Sequence[ObjectInfo],
    apart: Source,
    held_out: Sequence[ObjectInfo],
    store: Store,
    *,
    patch_px: int,
    tell: Tell,
) -> dict[str, Any]:
    total = len(training) + len(held_out)
    crops, broken = _crop(apart, held_out, tell)
    _check_broken(broken, total)
    if not crops:
        raise DataError(
            f"no held-out photograph can be read and has {_SMALLEST_VALIDATION_PX} px a side"
        )
    store.put(_VALIDATION, _pack(crops))
    parts = _parts(training)
    records = dict[int, _Record]()
    read = 0
    cut = _PartCutter(source=data, store=store, patch_px=patch_px)
    with DataContext.current(data_context()):
        rows = ray.data.from_items(parts, override_num_blocks=len(parts)).map(cut).iter_rows()
    for row in iterate(rows):
        if row["error"]:
            raise StoreError(row["error"])
        record = _Record(**json.loads(row["record"]))
        records[row["part"]] = record
        for line in record.broken:
            tell(f"skipped {line}")
        broken += record.broken
        _check_broken(broken, total)
        done = record.photographs + record.too_small + len(record.broken)
        before, read = read, read + done
        if read // VALIDATION_EVERY > before // VALIDATION_EVERY:
            patches = sum(sum(each.sizes) for each in records.values())
            tell(f"{read} of {len(training)} photographs, {patches} patches")
    in_order = [records[part] for part in sorted(records)]
    if not any(record.sizes for record in in_order):
        raise DataError(f"no photograph is large enough for a patch of {patch_px} px")
    if too_small := sum(record.too_small for record in in_order):
        tell(f"{too_small} photographs are too small for a patch of {patch_px} px: passed over")
    return {
        "cut_version": CUT_VERSION,
        "patch_px": patch_px,
        "num_photographs": sum(record.photographs for record in in_order),
        "sizes_in_parts": [record.sizes for record in in_order],
        "broken": broken,
    }


def _parts(photographs: Sequence[ObjectInfo]) -> list[dict[str, Any]]:
    """In an order by chance, that of their keys' hashes, so that each part is a mixture."""
    mixed = sorted(photographs, key=lambda info: hashlib.sha256(info.key.encode()).digest())
    size = max(SMALLEST_PART, -(-len(mixed) // MOST_PARTS))
    starts = range(0, len(mixed), size)
    return [
        {
            "part": part,
            "keys": [info.key for info in mixed[start : start + size]],
            "problems": [info.problem or "" for info in mixed[start : start + size]],
        }
        for part, start in enumerate(starts)
    ]


@dataclass(frozen=True, kw_only=True)
class _PartCutter:
    """A task's work: writes the groups of one part, and its record at last."""

    source: Source
    store: Store
    patch_px: int

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = int(row["part"])
        name = f"parts/{part:05}.json"
        try:
            if self.store.info(name).problem is not None:
                record = self._cut(part, list(zip(row["keys"], row["problems"], strict=True)))
                self.store.put(name, json.dumps(asdict(record)).encode())
            return {"part": part, "record": self.store.get(name).data.decode(), "error": ""}
        except DataError as error:
            return {"part": part, "record": "", "error": str(error)}

    def _cut(self, part: int, photographs: Sequence[tuple[str, str]]) -> _Record:
        rng = np.random.default_rng(part)
        waiting, broken, sizes = list[Picture](), list[str](), list[int]()
        gave_patches = 0
        for number, (key, problem) in enumerate(photographs, start=1):
            try:
                pixels = read_rgb(self.source, key, problem)
                cut = cut_patches(pixels, patch_px=self.patch_px)
            except ImageError as error:
                broken.append(f"{key}: {error}")
                cut = ()
            gave_patches += len(cut) > 0
            waiting += [(key, patch) for patch in cut]
            is_last = number == len(photographs)
            if len(waiting) >= MIXED_PATCHES or is_last:
                mixed = [waiting[index] for index in rng.permutation(len(waiting))]
                kept = 0 if is_last else len(mixed) % STEPS_A_GROUP
                waiting, mixed = mixed[:kept], mixed[kept:]
                for group in _split(mixed):
                    self.store.put(_group_name(part, len(sizes)), _pack(group))
                    sizes.append(len(group))
        return _Record(
            photographs=gave_patches,
            too_small=len(photographs) - len(broken) - gave_patches,
            sizes=tuple(sizes),
            broken=tuple(broken),
        )


def _split(pictures: Sequence[Picture]) -> Iterator[Sequence[Picture]]:
    """In groups of about equal size, at most STEPS_A_GROUP."""
    count = -(-len(pictures) // STEPS_A_GROUP)
    for number in range(count):
        yield pictures[len(pictures) * number // count : len(pictures) * (number + 1) // count]


def _group_name(part: int, number: int) -> str:
    return f"groups/{part:05}-{number:05}.arrow"


def read_rgb(source: Source, key: str, problem: str = "") -> Levels:
    """uint8 HWC RGB of any image. ImageError says what is wrong with it."""
    if problem:
        raise BrokenImageError(problem)
    try:
        data = source.get(key).data
    except StoreError:
        raise
    except DataError as error:
        raise BrokenImageError(str(error).removeprefix(f"{key}: ")) from error
    pixels = round_to_8_bit(decode(data).pixels)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _crop(
    source: Source, held_out: Sequence[ObjectInfo], tell: Tell
) -> tuple[list[Picture], list[str]]:
    """The validation crops, and what is broken; in this process, since they are few."""
    crops, broken = list[Picture](), list[str]()
    for info in held_out:
        try:
            crop = _validation_crop(read_rgb(source, info.key, info.problem or ""))
        except ImageError as error:
            broken.append(f"{info.key}: {error}")
            tell(f"skipped {broken[-1]}")
            continue
        if min(crop.shape[:2]) < _SMALLEST_VALIDATION_PX:
            tell(f"{info.key} is smaller than {_SMALLEST_VALIDATION_PX} px: not measured on")
        else:
            crops.append((info.key, crop))
    return crops, broken


def _validation_crop(pixels: Levels) -> Levels:
    """The middle, at most 384 px a side, sides multiples of 12 (every scale divides them)."""
    sides = [
        min(VALIDATION_SIDE_PX, s // _SIDE_MULTIPLE * _SIDE_MULTIPLE) for s in pixels.shape[:2]
    ]
    top, left = ((s - side) // 2 for s, side in zip(pixels.shape[:2], sides, strict=True))
    return np.ascontiguousarray(pixels[top : top + sides[0], left : left + sides[1]])


def _check_broken(broken: Sequence[str], total: int) -> None:
    if len(broken) > MAX_BROKEN_SHARE * total:
        raise DataError(f"{len(broken)} of {total} photographs can't be read: {broken[0]}")


def _pack(pictures: Iterable[Picture]) -> bytes:
    """An Arrow file of pictures, uint8 HWC RGB, each with its key; reading it copies no pixels."""
    rows = [
        {"key": key, "height_px": len(pixels), "rgb": pixels.tobytes()} for key, pixels in pictures
    ]
    schema = pa.schema(
        [("key", pa.string()), ("height_px", pa.int32()), ("rgb", pa.large_binary())]
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as file:
        file.write_table(pa.Table.from_pylist(rows, schema=schema))
    return sink.getvalue().to_pybytes()


def _read_pictures(store: Store, key: str) -> list[Picture]:
    data = store.get(key).data
    try:
        table = pa.ipc.open_file(data).read_all()
        names, heights_px = (table.column(name).to_pylist() for name in ("key", "height_px"))
        return [
            (name, np.frombuffer(rgb.as_buffer(), np.uint8).reshape(height_px, -1, 3))
            for name, height_px, rgb in zip(names, heights_px, table.column("rgb"), strict=True)
        ]
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{store.url_of(key)}: damaged ({error}); remove {store.url}") from error


def _fingerprint(
    data: str,
    training: Sequence[ObjectInfo],
    apart: str,
    held_out: Sequence[ObjectInfo],
    patch_px: int,
) -> str:
    digest = hashlib.sha256(f"{CUT_VERSION} {patch_px}".encode())
    for place, infos in ((data, training), (apart, held_out)):
        digest.update(f"\n{place}\n".encode())
        for info in infos:
            digest.update(f"{info.key}|{info.bytes}|{info.etag}|{info.problem}\n".encode())
    return digest.hexdigest()[:12]
