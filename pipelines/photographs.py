"""A folder of photographs made ready for training: decoded once, cut into patches, kept on disk."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import DataError, ImageError
from resnet_core.images import FORMATS, decode
from resnet_core.patches import cut_patches

MAX_BROKEN_SHARE = 0.05
VALIDATION_SIDE_PX = 384
VALIDATION_EVERY = 20
_SIDE_MULTIPLE = 12


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Patches and validation crops on disk, under `folder`."""

    folder: Path
    patch_px: int
    num_photographs: int
    num_patches: int
    num_validation: int
    broken: tuple[str, ...]

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
    photograph that can't be read is skipped and named. Raises DataError if more than 5 % can't, or
    if none is large enough for one patch.
    """
    photographs = find_photographs(data)
    held_out = find_photographs(validation) if validation else photographs[::VALIDATION_EVERY]
    training = photographs if validation else [p for p in photographs if p not in set(held_out)]
    if not training:
        raise DataError(f"{data}: one photograph is too few, one is held out for validation")
    folder = cache / f"data-{_fingerprint([*training, *held_out], patch_px)}"
    if not (folder / "data.json").is_file():
        tell(f"cutting {len(training)} photographs into patches of {patch_px} px, once")
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".data-", dir=cache))
        try:
            _cut(training, held_out, partial, patch_px=patch_px, tell=tell)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    known = json.loads((folder / "data.json").read_text())
    return PreparedData(
        folder=folder, patch_px=patch_px, **known | {"broken": tuple(known["broken"])}
    )


def _cut(
    training: Sequence[Path],
    held_out: Sequence[Path],
    folder: Path,
    *,
    patch_px: int,
    tell: Callable[[str], None],
) -> None:
    num_patches, broken = 0, list[str]()
    with (folder / "patches.u8").open("wb") as file:
        for number, path in enumerate(training, start=1):
            try:
                patches = cut_patches(_rgb(path), patch_px=patch_px)
            except ImageError as error:
                broken.append(f"{path.name}: {error}")
                tell(f"skipped {broken[-1]}")
                continue
            file.write(patches.tobytes())
            num_patches += len(patches)
            if number % 20 == 0:
                tell(f"{number} of {len(training)} photographs, {num_patches} patches")
    if len(broken) > MAX_BROKEN_SHARE * len(training):
        raise DataError(f"{len(broken)} of {len(training)} photographs can't be read: {broken[0]}")
    if num_patches == 0:
        raise DataError(f"no photograph is large enough for a patch of {patch_px} px")
    crops = [_validation_crop(_rgb(path)) for path in held_out]
    named: dict[str, Any] = {f"{index:04}": crop for index, crop in enumerate(crops)}
    np.savez(folder / "validation.npz", **named)
    known = {
        "num_photographs": len(training) - len(broken),
        "num_patches": num_patches,
        "num_validation": len(crops),
        "broken": broken,
    }
    (folder / "data.json").write_text(json.dumps(known, indent=1))


def _rgb(path: Path) -> NDArray[np.uint8]:
    pixels: NDArray[Any] = decode(path.read_bytes()).pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _validation_crop(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle, at most 384 px a side, sides multiples of 12 (every scale divides them)."""
    sides = [
        min(VALIDATION_SIDE_PX, s // _SIDE_MULTIPLE * _SIDE_MULTIPLE) for s in pixels.shape[:2]
    ]
    if min(sides) == 0:
        raise DataError(
            f"a validation photograph of {pixels.shape[1]}x{pixels.shape[0]} px is too small"
        )
    top, left = ((s - side) // 2 for s, side in zip(pixels.shape[:2], sides, strict=True))
    return np.ascontiguousarray(pixels[top : top + sides[0], left : left + sides[1]])


def _fingerprint(paths: Sequence[Path], patch_px: int) -> str:
    digest = hashlib.sha256(str(patch_px).encode())
    for path in paths:
        stat = path.stat()
        digest.update(os.fsencode(path.name) + f"|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]
