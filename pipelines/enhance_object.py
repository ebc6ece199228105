"""What happens to one object of a bulk run: plain code, without Ray."""

import functools
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from pipelines.auto import NO_WEIGHTS, Candidate, choose
from pipelines.ledger import LedgerRow, Status
from pipelines.quantities import format_bytes
from pipelines.storage import Blob, Source, Store, StoreError, UserMetadata
from pipelines.worklist import Naming, Work
from resnet_core.cpu_threads import CpuThreads
from resnet_core.enhancer import Enhanced, Enhancer, EnhanceSettings
from resnet_core.errors import (
    BrokenImageError,
    ConfigError,
    DataError,
    ImageTooLargeError,
    NoImageError,
    ResrayError,
    WeightsError,
)
from resnet_core.guard import Deviation, Guard, check, deviation
from resnet_core.images import (
    FORMATS,
    Encoded,
    Header,
    Image,
    MetadataPolicy,
    decode,
    encode,
    output_format,
    read_header,
)
from resnet_core.inspection import Findings, inspect_image
from resnet_core.precision import Precision
from resnet_core.weights import load_weights

Result = TypeVar("Result")

WARM_UP_PX = 32


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What decides a result, and the limits on a source. Raises ConfigError."""

    weights_name: str
    weights_sha256: str
    weights_task: str = ""
    """Decides what the guard expects of a result."""
    candidates: tuple[Candidate, ...] = ()
    """Of `auto`, which chooses one of them, or none, for each image; the weights are then theirs
    together."""
    strength: float = 1.0
    format: str | None = None
    """A key of FORMATS, or None: as the source."""
    quality: int | None = None
    """In the format's own scale; None for the format's default."""
    metadata: MetadataPolicy = "keep"
    precision: Precision = "auto"
    tile_px: int = 512
    guard: Guard = "mark"
    """What becomes of a result that is too far from its source."""
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
        """Of all that changes a result but the weights; limits, tiles and the guard don't."""
        decisive = [self.strength, self.format, self.quality, self.metadata, self.precision]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]

    @property
    def leaves_alone(self) -> bool:
        """Whether there are no weights: `auto` chose none."""
        return not self.weights_sha256

    @property
    def provenance(self) -> str | None:
        """The line that a result carries in its metadata."""
        if self.leaves_alone:
            return None
        return f"resray {self.weights_name} {self.weights_sha256[:12]} strength {self.strength:g}"

    def chosen(self, name: str) -> "RunSettings":
        """For one image of `auto`: with the candidate of this name, or no weights."""
        names = {each.name: each for each in (NO_WEIGHTS, *self.candidates)}
        weights = names[name]
        return replace(
            self,
            weights_name=weights.name,
            weights_sha256=weights.sha256,
            weights_task=weights.task,
        )

    def keeps_files_of(self, source_format: str) -> bool:
        """Whether the file of an image that is left as it is may go out as it is."""
        is_same = self.format in (None, source_format) and FORMATS[source_format].writes
        return is_same and self.quality is None and self.metadata == "keep"


class ImageEnhancer(Protocol):
    """The part of `Enhancer` that a bulk run needs."""

    def enhance_measured(self, image: Image) -> Enhanced: ...


Enhancers = Mapping[str, ImageEnhancer]
"""By the SHA-256 of their weights."""


@functools.cache
def naming(requested: str | None) -> Naming:
    """How keys change with `--format` (a key of FORMATS), or without."""
    known = frozenset(ext for spec in FORMATS.values() for ext in spec.extensions)
    if requested is None:
        return Naming(known=known)
    spec = FORMATS[requested]
    return Naming(known=known, extension=spec.extension, kept=frozenset(spec.extensions))


@dataclass(frozen=True, kw_only=True)
class Job:
    """One object between two stages."""

    work: Work
    content: Image | Encoded
    """The image as decoded, after the network as enhanced; the file where it goes out as it is."""
    source: Header
    """As decoded: upright."""
    etag: str
    bytes: int
    """Of what was read."""
    user_metadata: UserMetadata
    headers: UserMetadata
    get_s: float
    decode_s: float
    """Looking at it too, with `auto`."""
    settings: RunSettings
    """With the weights for this image."""
    findings: Findings | None = None
    """What `auto` saw."""
    change_levels: float | None = None
    deviation: Deviation | None = None
    network_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ObjectStages:
    """The stages of one object. None raises for a bad object: what is wrong becomes its row.

    Failed: images, those of formats that aren't read too (HEIC), and whatever is named like one, or
    whose name claims nothing. Skipped: files of another kind (`notes.txt`), and what the listing
    passed over (links). A StoreError concerns the run, not the object, and is raised.
    """

    source: Source
    target: Store
    settings: RunSettings

    def read(self, work: Work) -> Job | LedgerRow:
        """From the store to pixels."""
        return self._settled(work, lambda: self._decode(self._get(work)))

    def improve(self, job: Job, enhancers: Enhancers) -> Job | LedgerRow:
        """From pixels to better pixels."""
        return self._settled(job.work, lambda: self._improve(job, enhancers), job)

    def write(self, job: Job) -> LedgerRow:
        """From pixels to the store."""
        return self._settled(job.work, lambda: self._write(job), job)

    def whole(self, work: Work, enhancers: Enhancers, memory: "PixelBudget") -> LedgerRow:
        """All stages, while its pixels have a place in `memory`."""

        def run() -> LedgerRow:
            read = self._get(work)
            with memory.place(read.header.pixels):
                better = self.improve(self._decode(read), enhancers)
                return self.write(better) if isinstance(better, Job) else better

        return self._settled(work, run)

    def failed(self, work: Work, reason: str) -> LedgerRow:
        """The row of an object that isn't tried again."""
        return outcome(work, self.settings, reason=reason)

    def _settled(
        self, work: Work, stage: Callable[[], Result], job: Job | None = None
    ) -> Result | LedgerRow:
        if work.problem is not None:
            status: Status = "failed" if work.is_error else "skipped"
            return outcome(work, self.settings, status=status, reason=work.problem)
        try:
            return stage()
        except StoreError:
            raise
        except ResrayError as error:
            reason = str(error).removeprefix(f"{work.key}: ")
            status = "failed"
            if isinstance(error, NoImageError):
                claims = naming(self.settings.format).is_image_name(work.key)
                status, reason = "failed" if claims else "skipped", f"not an image: {reason}"
            return outcome(work, self.settings, status=status, reason=reason, job=job)
        except Exception as error:  # noqa: BLE001  one object must not end a run of millions
            first_line = str(error).strip().partition("\n")[0]
            reason = f"unexpected {type(error).__name__}: {first_line}"
            return outcome(work, self.settings, reason=reason, job=job)

    def _get(self, work: Work) -> "_Read":
        _check_bytes(work, self.settings)
        began_s = time.perf_counter()
        blob = self.source.get(work.key)
        if not blob.data and not naming(self.settings.format).is_image_name(work.key):
            raise NoImageError("empty")
        header = read_header(
            blob.data, max_pixels=self.settings.max_pixels, max_bytes=self.settings.max_bytes
        )
        return _Read(work=work, blob=blob, header=header, get_s=time.perf_counter() - began_s)

    def _decode(self, read: "_Read") -> Job:
        began_s = time.perf_counter()
        image = decode(
            read.blob.data, max_pixels=self.settings.max_pixels, max_bytes=self.settings.max_bytes
        )
        result: Image | Encoded = image
        settings, findings = self.settings, None
        if self.settings.candidates:
            findings = inspect_image(image)
            settings = self.settings.chosen(choose(findings))
            if settings.leaves_alone and self.settings.keeps_files_of(image.format):
                result = as_it_is(read.blob.data, image.format)
        decode_s = time.perf_counter() - began_s
        return Job(
            work=read.work,
            content=result,
            source=Header(format=image.format, width=image.width, height=image.height),
            etag=read.blob.etag,
            bytes=len(read.blob.data),
            user_metadata=read.blob.user_metadata,
            headers=read.blob.headers,
            get_s=read.get_s,
            decode_s=decode_s,
            settings=settings,
            findings=findings,
        )

    def _improve(self, job: Job, enhancers: Enhancers) -> Job:
        image = job.content
        if job.settings.leaves_alone or isinstance(image, Encoded):
            return job
        better = enhancers[job.settings.weights_sha256].enhance_measured(image)
        return replace(
            job,
            content=better.image,
            change_levels=better.change_levels,
            deviation=guarded(image, better.image, job.settings),
            network_s=better.network_s,
        )

    def _check_is_free(self, out_key: str) -> None:
        """DataError where the listing couldn't foresee the name, and another object has it."""
        try:
            self.source.get(out_key)
        except DataError:
            return
        raise DataError(f"the result's name {out_key} is that of another: rename one of them")

    def _write(self, job: Job) -> LedgerRow:
        settings, result = self.settings, job.content
        began_s = time.perf_counter()
        is_file = isinstance(result, Encoded)
        size = job.source if is_file else result
        encoded = result if is_file else encode_result(result, job.settings)
        out_key = result_key(job.work, job.source.format, encoded, settings)
        if out_key not in (job.work.key, job.work.changed_key):
            self._check_is_free(out_key)
        encoded_s = time.perf_counter()
        self.target.put(
            out_key,
            encoded.data,
            content_type=encoded.media_type,
            user_metadata=job.user_metadata,
            headers=job.headers,
        )
        found = job.deviation
        suspicion = found.told if found is not None and found.is_suspect else None
        return LedgerRow(
            key=job.work.key,
            out_key=out_key,
            status="ok" if suspicion is None else "suspect",
            reason=suspicion,
            source_etag=job.etag,
            source_bytes=job.bytes,
            output_bytes=len(encoded.data),
            source_width_px=job.source.width,
            source_height_px=job.source.height,
            output_width_px=size.width,
            output_height_px=size.height,
            change_levels=job.change_levels,
            deviation=None if found is None else found.share,
            **_chosen(job),
            weights_sha256=settings.weights_sha256,
            settings_hash=settings.hash,
            get_s=job.get_s,
            decode_s=job.decode_s,
            network_s=job.network_s,
            encode_s=encoded_s - began_s,
            put_s=time.perf_counter() - encoded_s,
        )


class PixelBudget:
    """How many pixels the images in hand may have together, so that memory is bounded.

    One image that is larger than the budget is taken alone.
    """

    def __init__(self, largest_px: int) -> None:
        self._largest_px = largest_px
        self._held_px = 0
        self._changed = threading.Condition()

    @contextmanager
    def place(self, pixels: int) -> Generator[None]:
        """Waits until there is room."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._held_px == 0 or self._held_px + pixels <= self._largest_px
            )
            self._held_px += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held_px -= pixels
                self._changed.notify_all()


def outcome(
    work: Work,
    settings: RunSettings,
    *,
    reason: str,
    status: Status = "failed",
    job: Job | None = None,
) -> LedgerRow:
    """The row of an object without a result; `job` tells what was known of it by then."""
    return LedgerRow(
        key=work.key,
        status=status,
        reason=" ".join(reason.split()),
        source_etag=work.etag,
        source_bytes=work.bytes,
        **(_chosen(job) if job else {}),
        weights_sha256=settings.weights_sha256,
        settings_hash=settings.hash,
    )


def _check_bytes(work: Work, settings: RunSettings) -> None:
    if work.bytes <= settings.max_bytes:
        return
    if not naming(settings.format).is_image_name(work.key):
        raise NoImageError("by its name; too large to look into")
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


@dataclass(frozen=True, kw_only=True)
class _Read:
    work: Work
    blob: Blob
    header: Header
    get_s: float


def guarded(source: Image, result: Image, settings: RunSettings) -> Deviation:
    """How far the result is from its source. SuspectResultError if it is refused for that."""
    found = deviation(source, result, task=settings.weights_task, strength=settings.strength)
    check(found, settings.guard)
    return found


def _chosen(job: Job) -> dict[str, Any]:
    """Columns of the ledger: what `auto` saw and chose."""
    found = job.findings
    if found is None:
        return {}
    return {
        "noise_levels": found.noise_levels,
        "grain_levels": found.grain_levels,
        "colour_levels": found.colour_levels,
        "sharpness": found.sharpness,
        "jpeg_quality": found.jpeg_quality,
        "chosen": job.settings.weights_name,
    }


def as_it_is(data: bytes, source_format: str) -> Encoded:
    """A file that isn't encoded again; `source_format` is its real one."""
    spec = FORMATS[source_format]
    return Encoded(
        data=data, format=spec.name, extension=spec.extension, media_type=spec.media_type
    )


def encode_result(image: Image, settings: RunSettings) -> Encoded:
    """The image as bytes, by the settings, and looked at again.

    Raises BrokenImageError where they are no image of the right kind and size.
    """
    encoded = encode(
        image,
        format=settings.format,
        quality=settings.quality,
        metadata=settings.metadata,
        provenance=settings.provenance,
    )
    _verify(encoded, image)
    return encoded


def _verify(encoded: Encoded, image: Image) -> None:
    """What was encoded must be an image of the right kind and size before it is written."""
    header = read_header(encoded.data, max_pixels=sys.maxsize, max_bytes=sys.maxsize)
    found = (header.format, header.width, header.height)
    if found != (encoded.format, image.width, image.height):
        raise BrokenImageError(
            f"the result came out wrong: expected {encoded.format} of {image.width} x"
            f" {image.height} pixels, found {found[0]} of {found[1]} x {found[2]}"
        )


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Makes what processes a worker's objects, where it runs.

    The weights are loaded there, and must be the same.
    """

    stages: ObjectStages
    weights: tuple[str, ...]
    """Their files, in the order of the candidates."""
    threads: int
    """For computing."""
    batch_px: int | None
    """Windows of several objects as one batch of up to so many input pixels; see `Enhancer`."""
    memory_px: int
    """Source pixels that may be in hand at once."""

    def whole(self) -> Callable[[Work], LedgerRow]:
        enhancers, memory = self._enhancers(), PixelBudget(self.memory_px)
        return lambda work: self.stages.whole(work, enhancers, memory)

    def read(self) -> Callable[[Work], Job | LedgerRow]:
        return self.stages.read

    def improve(self) -> Callable[[Job], Job | LedgerRow]:
        enhancers = self._enhancers()
        return lambda job: self.stages.improve(job, enhancers)

    def write(self) -> Callable[[Job], LedgerRow]:
        return self.stages.write

    def _enhancers(self) -> Enhancers:
        settings = self.stages.settings
        expected = [each.sha256 for each in settings.candidates] or [settings.weights_sha256]
        cpu = CpuThreads(self.threads)
        return {
            sha256: self._enhancer(location, sha256, cpu)
            for location, sha256 in zip(self.weights, expected, strict=True)
        }

    def _enhancer(self, location: str, sha256: str, cpu: CpuThreads) -> Enhancer:
        weights = load_weights(location)
        if weights.sha256 != sha256:
            raise WeightsError(
                f"weights {location}: sha256 {weights.sha256[:12]} here, {sha256[:12]} where the"
                " run began; install the same"
            )
        enhancer = Enhancer(
            weights, core_settings(self.stages.settings), batch_px=self.batch_px, cpu=cpu
        )
        enhancer.enhance_pixels(np.zeros((WARM_UP_PX, WARM_UP_PX, 3), np.uint8))
        return enhancer


def core_settings(settings: RunSettings) -> EnhanceSettings:
    return EnhanceSettings(
        strength=settings.strength, tile_px=settings.tile_px, precision=settings.precision
    )
