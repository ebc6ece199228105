"""A folder of photographs made ready for training: decoded once, cut into patches, kept on disk."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import BrokenImageError, DataError, ImageError
from resnet_core.images import FORMATS, decode, round_to_8_bit
from resnet_core.patches import cut_patches

MAX_BROKEN_SHARE = 0.05
VALIDATION_SIDE_PX = 384
VALIDATION_EVERY = 20
CUT_VERSION = 1
"""Counts changes to what is cut from a photograph: older patches are then left alone."""
_SIDE_MULTIPLE = 12


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Patches and validation crops on disk, under `folder`."""

    folder: Path
    """Named after the photographs' paths, sizes and times, so that other ones have another."""
    patch_px: int
    """Side of a patch, pixels."""
    num_photographs: int
    """Photographs that could be read, without those held out."""
    num_patches: int
    num_validation: int
    """Crops of held-out photographs."""
    broken: tuple[str, ...]
    """Name and reason of each photograph that couldn't be read."""

    def patches(self) -> NDArray[np.uint8]:
        """uint8 (N, patch_px, patch_px, 3), memory-mapped."""
        shape = (self.num_patches, self.patch_px, self.patch_px, 3)
        return np.memmap(self.folder / "patches.u8", np.uint8, "r", shape=shape)

    def validation(self) -> list[NDArray[np.uint8]]:
        """Held-out crops, uint8 HWC RGB, sides multiples of every scale."""
        with np.load(self.folder / "validation.npz", allow_pickle=False) as crops:
            return [crops[name] for name in sorted(crops)]


def find_photographs(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders, by name. DataError if there are none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of photographs")
    suffixes = {extension for each in FORMATS.values() for extension in each.extensions}
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    if not found:
        raise DataError(
            f"{folder}: no photographs in it (looked for {', '.join(sorted(suffixes))})"
        )
    return found


def prepare(
    data: Path,
    validation: Path | None,
    cache: Path,
    *,
    patch_px: int,
    tell: Callable[[str], None],
) -> PreparedData:
    """Cuts the photographs of `data`, or finds what an earlier run cut of the same files.

    Without a `validation` folder every twentieth photograph is held out (at least one). A
    photograph that can't be read is skipped and named. Raises DataError if more than 5 % can't, if
    none is large enough for one patch, or if `cache` can't be written.
    """
    photographs = find_photographs(data)
    held_out = find_photographs(validation) if validation else photographs[::VALIDATION_EVERY]
    apart = set() if validation else set(held_out)
    training = [path for path in photographs if path not in apart]
    if not training:
        raise DataError(f"{data}: one photograph is too few, one is held out for validation")
    folder = cache / f"data-{_fingerprint(training, held_out, patch_px)}"
    if not (folder / "data.json").is_file():
        tell(f"cutting {len(training)} photographs into patches of {patch_px} px, once")
        try:
            _cut_into(folder, training, held_out, patch_px=patch_px, tell=tell)
        except OSError as error:
            raise DataError(f"{cache}: can't be written ({error.strerror})") from error
    known = json.loads((folder / "data.json").read_text())
    return PreparedData(
        folder=folder, patch_px=patch_px, **known | {"broken": tuple(known["broken"])}
    )


def _cut_into(
    folder: Path,
    training: Sequence[Path],
    held_out: Sequence[Path],
    *,
    patch_px: int,
    tell: Callable[[str], None],
) -> None:
    """Writes the folder whole or not at all; another run may do the same at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".data-", dir=folder.parent))
    try:
        _cut(training, held_out, partial, patch_px=patch_px, tell=tell)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "data.json").is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _cut(
    training: Sequence[Path],
    held_out: Sequence[Path],
    folder: Path,
    *,
    patch_px: int,
    tell: Callable[[str], None],
) -> None:
    broken = list[str]()

    def pictures(paths: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
        for path in paths:
            try:
                yield _read_rgb(path)
            except ImageError as error:
                broken.append(f"{path.name}: {error}")
                tell(f"skipped {broken[-1]}")

    crops = [crop for picture in pictures(held_out) if (crop := _validation_crop(picture)).size]
    if not crops:
        raise DataError("no held-out photograph can be read and has 12 px a side")
    named: dict[str, Any] = {f"{index:04}": crop for index, crop in enumerate(crops)}
    np.savez(folder / "validation.npz", **named)
    num_patches, num_held_out_broken = 0, len(broken)
    with (folder / "patches.u8").open("wb") as file:
        for number, picture in enumerate(pictures(training), start=1):
            patches = cut_patches(picture, patch_px=patch_px)
            file.write(patches.tobytes())
            num_patches += len(patches)
            if number % 20 == 0:
                tell(f"{number} of {len(training)} photographs, {num_patches} patches")
    total = len(training) + len(held_out)
    if len(broken) > MAX_BROKEN_SHARE * total:
        raise DataError(f"{len(broken)} of {total} photographs can't be read: {broken[0]}")
    if num_patches == 0:
        raise DataError(f"no photograph is large enough for a patch of {patch_px} px")
    known = {
        "num_photographs": len(training) - (len(broken) - num_held_out_broken),
        "num_patches": num_patches,
        "num_validation": len(crops),
        "broken": broken,
    }
    (folder / "data.json").write_text(json.dumps(known, indent=1))


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    """uint8 HWC RGB of any image; ImageError says what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenImageError(f"can't be read ({error.strerror})") from error
    pixels = round_to_8_bit(decode(data).pixels)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _validation_crop(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle, at most 384 px a side, sides multiples of 12 (every scale divides them)."""
    sides = [
        min(VALIDATION_SIDE_PX, s // _SIDE_MULTIPLE * _SIDE_MULTIPLE) for s in pixels.shape[:2]
    ]
    top, left = ((s - side) // 2 for s, side in zip(pixels.shape[:2], sides, strict=True))
    return np.ascontiguousarray(pixels[top : top + sides[0], left : left + sides[1]])


def _fingerprint(training: Sequence[Path], held_out: Sequence[Path], patch_px: int) -> str:
    digest = hashlib.sha256(f"{CUT_VERSION} {patch_px}".encode())
    for part, paths in (("train", training), ("valid", held_out)):
        for path in paths:
            status = path.stat()
            line = f"|{part}|{status.st_size}|{status.st_mtime_ns}\n"
            digest.update(os.fsencode(path) + line.encode())
    return digest.hexdigest()[:12]
