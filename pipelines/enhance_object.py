"""What happens to one object of a bulk run: plain code, without Ray.

`enhance_object` never raises for a bad object: what is wrong becomes the reason in its row.
"""

import functools
import hashlib
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from pipelines.ledger import LedgerRow
from pipelines.report import format_bytes
from pipelines.storage import Store
from pipelines.worklist import Naming, Work
from resnet_core.enhancer import Enhancer, EnhanceSettings, Precision
from resnet_core.errors import (
    ConfigError,
    ImageTooLargeError,
    ResrayError,
    UnsupportedImageError,
    WeightsError,
)
from resnet_core.images import (
    FORMATS,
    Encoded,
    Image,
    MetadataPolicy,
    decode,
    encode,
    output_format,
)
from resnet_core.weights import load_weights

WARM_UP_PX = 32


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What decides a result, and the limits on a source. Raises ConfigError."""

    weights_name: str
    weights_sha256: str
    strength: float = 1.0
    format: str | None = None
    """A key of FORMATS, or None: as the source."""
    quality: int | None = None
    """In the format's own scale; None for the format's default."""
    metadata: MetadataPolicy = "keep"
    precision: Precision = "auto"
    tile_px: int = 512
    max_pixels: int = 100_000_000
    max_bytes: int = 256 * 1024**2

    def __post_init__(self) -> None:
        if self.format is not None and output_format("PNG", self.format) != self.format:
            raise ConfigError(f"format {self.format!r}, expected one of {', '.join(FORMATS)}")
        scale = (0, 100) if self.format is None else FORMATS[self.format].quality
        if self.quality is None:
            return
        if scale is None:
            raise ConfigError(f"--quality: {self.format} is lossless and has no quality; leave it")
        if not scale[0] <= self.quality <= scale[1]:
            raise ConfigError(f"--quality: expected {scale[0]} to {scale[1]}, found {self.quality}")

    @property
    def hash(self) -> str:
        """Of all that changes a result but the weights; limits and tiles don't."""
        decisive = [self.strength, self.format, self.quality, self.metadata, self.precision]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]

    @property
    def provenance(self) -> str:
        """The line that a result carries in its metadata."""
        return f"resray {self.weights_name} {self.weights_sha256[:12]} strength {self.strength:g}"


class ImageEnhancer(Protocol):
    """The part of `Enhancer` that a bulk run needs."""

    def enhance(self, image: Image) -> Image: ...


@functools.cache
def naming(requested: str | None) -> Naming:
    """How keys change with `--format` (a key of FORMATS), or without."""
    known = frozenset(ext for spec in FORMATS.values() for ext in spec.extensions)
    if requested is None:
        return Naming(known=known)
    spec = FORMATS[requested]
    return Naming(known=known, extension=spec.extension, kept=frozenset(spec.extensions))


def enhance_object(
    source: Store, target: Store, work: Work, enhancer: ImageEnhancer, settings: RunSettings
) -> LedgerRow:
    """Read, enhance and write one object. Whatever is wrong with it becomes its row's reason.

    Failed: anything that is named like an image, or whose name claims nothing. Skipped: files of
    another kind (`notes.txt`), and what the listing passed over (links).
    """
    if work.problem is not None:
        status: Literal["failed", "skipped"] = "failed" if work.is_error else "skipped"
        return outcome(work, settings, status=status, reason=work.problem)
    try:
        return _enhance(source, target, work, enhancer, settings)
    except UnsupportedImageError as error:
        is_image = naming(settings.format).is_image_name(work.key)
        status = "failed" if is_image else "skipped"
        return outcome(work, settings, status=status, reason=f"not an image: {error}")
    except ResrayError as error:
        return outcome(work, settings, reason=str(error).removeprefix(f"{work.key}: "))
    except Exception as error:  # noqa: BLE001  one object must not end a run of millions
        first_line = str(error).strip().partition("\n")[0]
        return outcome(work, settings, reason=f"unexpected {type(error).__name__}: {first_line}")


def outcome(
    work: Work,
    settings: RunSettings,
    *,
    reason: str,
    status: Literal["failed", "skipped"] = "failed",
) -> LedgerRow:
    """The row of an object without a result."""
    return LedgerRow(
        key=work.key,
        status=status,
        reason=" ".join(reason.split()),
        source_etag=work.etag,
        source_bytes=work.bytes,
        weights_sha256=settings.weights_sha256,
        settings_hash=settings.hash,
    )


def _enhance(
    source: Store, target: Store, work: Work, enhancer: ImageEnhancer, settings: RunSettings
) -> LedgerRow:
    stages = _Stages()
    _check_bytes(work, settings)
    with stages.timed("get_s"):
        data = source.get(work.key).data
    with stages.timed("decode_s"):
        image = decode(data, max_pixels=settings.max_pixels, max_bytes=settings.max_bytes)
    with stages.timed("network_s"):
        better = enhancer.enhance(image)
    with stages.timed("encode_s"):
        encoded = encode(
            better,
            format=settings.format,
            quality=settings.quality,
            metadata=settings.metadata,
            provenance=settings.provenance,
        )
    out_key = result_key(work, image.format, encoded, settings)
    with stages.timed("put_s"):
        target.put(out_key, encoded.data)
    return LedgerRow(
        key=work.key,
        out_key=out_key,
        status="ok",
        source_etag=work.etag,
        source_bytes=work.bytes,
        output_bytes=len(encoded.data),
        source_width_px=image.width,
        source_height_px=image.height,
        output_width_px=better.width,
        output_height_px=better.height,
        weights_sha256=settings.weights_sha256,
        settings_hash=settings.hash,
        get_s=stages.get_s,
        decode_s=stages.decode_s,
        network_s=stages.network_s,
        encode_s=stages.encode_s,
        put_s=stages.put_s,
    )


def _check_bytes(work: Work, settings: RunSettings) -> None:
    if work.bytes <= settings.max_bytes:
        return
    if not naming(settings.format).is_image_name(work.key):
        raise UnsupportedImageError("by its name; too large to look into")
    raise ImageTooLargeError(
        f"{format_bytes(work.bytes)} are over the limit of {format_bytes(settings.max_bytes)}"
        " (--max-bytes)"
    )


def result_key(work: Work, source_format: str, encoded: Encoded, settings: RunSettings) -> str:
    """Where a result goes, by its real format: the source's key unless the format changed.

    A name that lies (a GIF named .jpg) or a format that couldn't hold the result (a JPEG of 70,000
    columns) gets the real extension behind its own.
    """
    wanted = settings.format or source_format
    key = work.key if settings.format is None and wanted == encoded.format else work.changed_key
    is_named_so = key.lower().endswith(FORMATS[encoded.format].extensions)
    if encoded.format == wanted or is_named_so:
        return key
    return key + encoded.extension


@dataclass
class _Stages:
    """Seconds of each stage of one object; the names are those of LedgerRow."""

    get_s: float = 0.0
    decode_s: float = 0.0
    network_s: float = 0.0
    encode_s: float = 0.0
    put_s: float = 0.0

    @contextmanager
    def timed(self, name: str) -> Generator[None]:
        began_s = time.perf_counter()
        yield
        setattr(self, name, time.perf_counter() - began_s)


@dataclass(frozen=True, kw_only=True)
class ObjectEnhancer:
    """What a worker does: `enhance_object` with everything but the object given."""

    source: Store
    target: Store
    enhancer: ImageEnhancer
    settings: RunSettings

    def __call__(self, work: Work) -> LedgerRow:
        return enhance_object(self.source, self.target, work, self.enhancer, self.settings)

    def give_up(self, work: Work, reason: str) -> LedgerRow:
        return outcome(work, self.settings, reason=reason)


@dataclass(frozen=True, kw_only=True)
class ObjectEnhancerBuilder:
    """Makes an ObjectEnhancer where it runs: the weights are loaded there, and must be the same."""

    source: Store
    target: Store
    settings: RunSettings
    weights: str
    threads: int

    def __call__(self) -> ObjectEnhancer:
        torch.set_num_threads(self.threads)
        weights = load_weights(self.weights)
        if weights.sha256 != self.settings.weights_sha256:
            raise WeightsError(
                f"weights {self.weights}: sha256 {weights.sha256[:12]} here,"
                f" {self.settings.weights_sha256[:12]} where the run began; install the same"
            )
        enhancer = Enhancer(weights, core_settings(self.settings))
        enhancer.enhance_pixels(np.zeros((WARM_UP_PX, WARM_UP_PX, 3), np.uint8))
        return ObjectEnhancer(
            source=self.source, target=self.target, enhancer=enhancer, settings=self.settings
        )


def core_settings(settings: RunSettings) -> EnhanceSettings:
    return EnhanceSettings(
        strength=settings.strength, tile_px=settings.tile_px, precision=settings.precision
    )
