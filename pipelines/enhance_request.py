"""From the bytes of a request to the bytes of its answer: admitted, in time, through a network.

Plain asyncio and threads. The network may be anywhere; what it does is `Network`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from starlette.datastructures import Headers

from pipelines.admission import Admission, Deadline, FullError, Place
from pipelines.catalogue import Catalogue, ServedWeights
from pipelines.enhance_object import RunSettings, encode_result, guarded
from pipelines.problems import ProblemError, retry_later
from pipelines.request_body import read_image
from pipelines.request_record import RequestRecord
from pipelines.serve_settings import ServeSettings
from resnet_core.enhancer import Enhanced, check_strength
from resnet_core.errors import ConfigError
from resnet_core.guard import Deviation, Guard
from resnet_core.images import (
    FORMATS,
    Encoded,
    Image,
    MetadataPolicy,
    check_quality,
    decode,
    output_format,
    read_header,
)

Result = TypeVar("Result")

RETRY_NETWORK_AFTER_S = 5


class StaleWeightsError(Exception):
    """The place of the weights holds others by now: they are being exchanged."""


class NetworkUnavailableError(Exception):
    """No replica could take the image."""


class Network(Protocol):
    """Runs weights on images; many calls at once."""

    async def enhance(
        self, weights: ServedWeights, image: Image, *, strength: float, left_s: float
    ) -> Enhanced:
        """The better image. What hasn't begun after `left_s`, or when cancelled, is dropped.

        Raises TimeoutError for that, StaleWeightsError and NetworkUnavailableError.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a client asks for. Raises ConfigError for a value that can't be."""

    weights: str | None = None
    """A name; None for the default."""
    strength: float = 1.0
    format: str | None = None
    """A name or an extension; None for the source's."""
    quality: int | None = None
    metadata: MetadataPolicy = "keep"
    guard: Guard = "mark"
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        check_strength(self.strength)
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise ConfigError(f"deadline is {self.deadline_s}, expected seconds above 0")

    def run_settings(self, weights: ServedWeights, limits: ServeSettings) -> RunSettings:
        """What decides the result, as in a bulk run. ConfigError."""
        return RunSettings(
            weights_name=weights.name,
            weights_sha256=weights.sha256,
            weights_task=weights.task,
            strength=self.strength,
            format=None if self.format is None else output_format("PNG", self.format),
            quality=self.quality,
            metadata=self.metadata,
            precision=limits.precision,
            tile_px=limits.tile_px,
            guard=self.guard,
            max_pixels=limits.max_pixels,
            max_bytes=limits.max_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An enhanced image, the weights that made it, and how far it is from what was sent."""

    encoded: Encoded
    weights: ServedWeights
    deviation: Deviation


@dataclass(frozen=True, kw_only=True)
class EnhanceService:
    """Answers requests; many at once in one event loop."""

    settings: ServeSettings
    catalogue: Callable[[], Catalogue]
    """What is served now."""
    network: Network
    admission: Admission
    threads: Executor
    """For decoding and encoding."""

    async def answer(
        self, wish: Wish, headers: Headers, chunks: AsyncIterator[bytes], record: RequestRecord
    ) -> Answer:
        """The answer to one request, whose course is noted in `record`.

        Raises ResrayError or ProblemError with what the client is to know.
        """
        weights = self.catalogue().find(wish.weights)
        record.weights, record.strength = weights.name, wish.strength
        wish.run_settings(weights, self.settings)
        longest_s = self.settings.deadline_s
        deadline = Deadline(min(wish.deadline_s or longest_s, longest_s))
        try:
            with self.admission.enter() as place:
                data = await self._read(headers, chunks, deadline)
                record.source_bytes = len(data)
                async with asyncio.timeout(deadline.left_s):
                    return await self._enhance(data, weights, wish, place, deadline, record)
        except FullError as error:
            raise retry_later("full", str(error), after_s=error.retry_after_s) from error
        except TimeoutError as error:
            raise ProblemError(
                "too-late", f"the image wasn't done within {deadline.seconds:g} s"
            ) from error
        except NetworkUnavailableError as error:
            raise retry_later("unavailable", str(error), after_s=RETRY_NETWORK_AFTER_S) from error

    async def _read(
        self, headers: Headers, chunks: AsyncIterator[bytes], deadline: Deadline
    ) -> bytes:
        within_s = min(self.settings.body_timeout_s, deadline.left_s)
        try:
            async with asyncio.timeout(within_s):
                return await read_image(headers, chunks, max_bytes=self.settings.max_bytes)
        except TimeoutError as error:
            raise ProblemError(
                "slow-body", f"expected the whole body within {within_s:g} s, found it unfinished"
            ) from error

    async def _enhance(
        self,
        data: bytes,
        weights: ServedWeights,
        wish: Wish,
        place: Place,
        deadline: Deadline,
        record: RequestRecord,
    ) -> Answer:
        began_s = time.perf_counter()
        limits = {"max_pixels": self.settings.max_pixels, "max_bytes": self.settings.max_bytes}
        header = await self._in_thread(place, lambda: read_header(data, **limits))
        record.source_format, record.source_pixels = header.format, header.pixels
        # Before the network's work, not after it.
        check_quality(FORMATS[output_format(header.format, wish.format)], wish.quality)
        place.take_pixels(header.pixels)
        image = await self._in_thread(place, lambda: decode(data, **limits))
        decoded_s = time.perf_counter()
        record.stage_s["decode"] = decoded_s - began_s
        weights, enhanced = await self._through_network(image, weights, wish, deadline)
        improved_s = time.perf_counter()
        record.weights = weights.name
        record.stage_s["network"] = enhanced.network_s
        record.stage_s["queue"] = max(improved_s - decoded_s - enhanced.network_s, 0.0)
        settings = wish.run_settings(weights, self.settings)
        found = await self._in_thread(place, lambda: guarded(image, enhanced.image, settings))
        encoded = await self._in_thread(place, lambda: encode_result(enhanced.image, settings))
        record.stage_s["encode"] = time.perf_counter() - improved_s
        record.output_format, record.output_bytes = encoded.format, len(encoded.data)
        record.output_pixels = enhanced.image.height * enhanced.image.width
        return Answer(encoded=encoded, weights=weights, deviation=found)

    async def _through_network(
        self, image: Image, weights: ServedWeights, wish: Wish, deadline: Deadline
    ) -> tuple[ServedWeights, Enhanced]:
        """By `weights`; if their file has changed meanwhile, by those that are served now."""
        try:
            return weights, await self._by(weights, image, wish, deadline)
        except StaleWeightsError:
            weights = self.catalogue().find(wish.weights)
        try:
            return weights, await self._by(weights, image, wish, deadline)
        except StaleWeightsError as error:
            raise NetworkUnavailableError(
                f"the weights {weights.name!r} are being exchanged"
            ) from error

    async def _by(
        self, weights: ServedWeights, image: Image, wish: Wish, deadline: Deadline
    ) -> Enhanced:
        return await self.network.enhance(
            weights, image, strength=wish.strength, left_s=deadline.left_s
        )

    async def _in_thread(self, place: Place, work: Callable[[], Result]) -> Result:
        job = self.threads.submit(work)
        place.hold_for(job)
        return await asyncio.wrap_future(job)
