"""One request's way: by a network of the tests, which answers when and how they want."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import noise, pillow, saved
from serving_for_tests import pixels_of
from starlette.datastructures import Headers
from weights_for_tests import write_weights

from pipelines.admission import Admission
from pipelines.catalogue import Catalogue, ServedWeights, load_catalogue
from pipelines.enhance_request import (
    Answer,
    EnhanceService,
    NetworkUnavailableError,
    StaleWeightsError,
    Wish,
)
from pipelines.problems import ProblemError
from pipelines.request_record import RequestRecord
from pipelines.serve_settings import ServeSettings
from resnet_core.enhancer import Enhanced
from resnet_core.errors import ConfigError, ImageTooLargeError, SuspectResultError
from resnet_core.images import Image

PICTURE = saved(pillow(noise(10, 14, 3)), "PNG")
Behaviour = Callable[[ServedWeights], Awaitable[None]]


async def at_once(_weights: ServedWeights) -> None:
    return


async def never(_weights: ServedWeights) -> None:
    await asyncio.Event().wait()


@dataclass
class Doubler:
    """Each pixel twice in each direction, after what the test wants to happen."""

    before: Behaviour = at_once
    is_broken: bool = False
    """Nothing is left of the picture."""
    asked: list[tuple[str, float]] = field(default_factory=list)
    cancelled: int = 0

    async def enhance(
        self, weights: ServedWeights, image: Image, *, strength: float, left_s: float
    ) -> Enhanced:
        assert left_s > 0
        self.asked.append((weights.sha256, strength))
        try:
            await self.before(weights)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        pixels = np.ascontiguousarray(image.pixels.repeat(2, 0).repeat(2, 1))
        better = replace(image, pixels=pixels * (not self.is_broken))
        return Enhanced(image=better, change_levels=1.0, network_s=0.0)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("weights")
    places = (write_weights(folder / f"{name}.safetensors") for name in ("small", "other"))
    return load_catalogue([str(place) for place in places])


class Desk:
    """A service and what it counts."""

    def __init__(self, catalogue: Catalogue, network: Doubler, **settings: Any) -> None:
        self.settings = ServeSettings(**settings)
        self.catalogue = catalogue
        self.network = network
        self.admission = Admission(
            max_requests=self.settings.max_requests, max_pixels=self.settings.max_queued_pixels
        )
        self.record = RequestRecord(request_id="1", method="POST", path="/v1/enhance")

    async def ask(
        self, body: bytes = PICTURE, chunks: AsyncIterator[bytes] | None = None, **wish: Any
    ) -> Answer:
        with ThreadPoolExecutor(1) as threads:
            service = EnhanceService(
                settings=self.settings,
                catalogue=lambda: self.catalogue,
                network=self.network,
                admission=self.admission,
                threads=threads,
            )
            chunks = one_piece(body) if chunks is None else chunks
            try:
                return await service.answer(Wish(**wish), Headers(), chunks, self.record)
            finally:
                assert (self.admission.requests, self.admission.pixels) == (0, 0)


async def one_piece(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def trickle() -> AsyncIterator[bytes]:
    yield PICTURE[:1]
    await asyncio.Event().wait()


def status_of(desk: Desk, **request: Any) -> tuple[int, str]:
    with pytest.raises(ProblemError) as found:
        asyncio.run(desk.ask(**request))
    return found.value.problem.kind.status, found.value.problem.detail


def test_an_answer_has_what_was_asked_for_and_its_record_the_course(catalogue: Catalogue) -> None:
    desk = Desk(catalogue, Doubler())
    answer = asyncio.run(desk.ask(weights="other", strength=0.5, format="bmp"))
    assert answer.encoded.format == "BMP"
    assert pixels_of(answer.encoded.data).shape == (20, 28, 3)
    assert answer.weights.name == "other"
    assert desk.network.asked == [(catalogue.find("other").sha256, 0.5)]
    record = desk.record
    assert (record.weights, record.strength) == ("other", 0.5)
    assert (record.source_format, record.output_format) == ("PNG", "BMP")
    assert (record.source_pixels, record.output_pixels) == (140, 560)
    assert list(record.stage_s) == ["decode", "network", "queue", "encode"]


def test_a_result_that_is_another_picture_is_sent_with_its_figure_or_refused(
    catalogue: Catalogue,
) -> None:
    assert not asyncio.run(Desk(catalogue, Doubler()).ask(guard="fail")).deviation.is_suspect
    desk = Desk(catalogue, Doubler(is_broken=True))
    assert asyncio.run(desk.ask()).deviation.share > 1
    with pytest.raises(SuspectResultError, match="the mean colour of"):
        asyncio.run(desk.ask(guard="fail"))


def test_a_network_that_is_late_is_dropped_with_504(catalogue: Catalogue) -> None:
    desk = Desk(catalogue, Doubler(never), deadline_s=0.2)
    status, told = status_of(desk)
    assert (status, told) == (504, "the image wasn't done within 0.2 s")
    assert desk.network.cancelled == 1


def test_a_client_may_ask_for_less_time_but_not_for_more(catalogue: Catalogue) -> None:
    assert "within 0.2 s" in status_of(Desk(catalogue, Doubler(never)), deadline_s=0.2)[1]
    desk = Desk(catalogue, Doubler(never), deadline_s=0.2)
    assert "within 0.2 s" in status_of(desk, deadline_s=1000)[1]
    for seconds in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="expected seconds above 0"):
            Wish(deadline_s=seconds)


def test_a_slow_body_is_408(catalogue: Catalogue) -> None:
    desk = Desk(catalogue, Doubler(), body_timeout_s=0.1)
    status, told = status_of(desk, chunks=trickle())
    assert status == 408
    assert "expected the whole body within 0.1 s" in told
    assert desk.network.asked == []


def test_what_is_too_much_is_503_at_once(catalogue: Catalogue) -> None:
    desk = Desk(catalogue, Doubler(), max_requests=1, max_queued_pixels=150)
    with desk.admission.enter():
        assert _refused(desk) == (503, "1 requests are in hand, the most there may be")
    desk = Desk(catalogue, Doubler(), max_queued_pixels=150)
    desk.admission.add(pixels=100)
    assert _refused(desk)[0] == 503
    assert desk.network.asked == []


def _refused(desk: Desk) -> tuple[int, str]:
    held = (desk.admission.requests, desk.admission.pixels)

    async def ask() -> None:
        with ThreadPoolExecutor(1) as threads:
            service = EnhanceService(
                settings=desk.settings,
                catalogue=lambda: desk.catalogue,
                network=desk.network,
                admission=desk.admission,
                threads=threads,
            )
            await service.answer(Wish(), Headers(), one_piece(PICTURE), desk.record)

    with pytest.raises(ProblemError) as found:
        asyncio.run(ask())
    assert int(found.value.problem.headers["Retry-After"]) >= 1
    assert (desk.admission.requests, desk.admission.pixels) == held
    return found.value.problem.kind.status, found.value.problem.detail


def test_limits_hold_before_pixels_are_decoded(catalogue: Catalogue) -> None:
    desk = Desk(catalogue, Doubler(), max_pixels=139)
    with pytest.raises(ImageTooLargeError, match="140 pixels"):
        asyncio.run(desk.ask())
    desk = Desk(catalogue, Doubler(), max_bytes=len(PICTURE) - 1)
    with pytest.raises(ImageTooLargeError, match="over the limit"):
        asyncio.run(desk.ask())


def test_a_quality_that_the_result_can_not_have_is_refused_before_the_network(
    catalogue: Catalogue,
) -> None:
    desk = Desk(catalogue, Doubler())
    jpeg = saved(pillow(noise(10, 14, 3)), "JPEG")
    with pytest.raises(ConfigError, match="quality 0 is out of the scale of JPEG, 1 to 100"):
        asyncio.run(desk.ask(jpeg, quality=0))
    assert desk.network.asked == []
    assert asyncio.run(desk.ask(jpeg, quality=0, format="webp")).encoded.format == "WEBP"


def test_weights_that_are_exchanged_meanwhile_are_asked_for_again(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    newer = load_catalogue([str(write_weights(tmp_path / "small.safetensors", seed=3))])
    desk = Desk(catalogue, Doubler())

    async def exchanged(weights: ServedWeights) -> None:
        if weights == catalogue.default:
            desk.catalogue = newer
            raise StaleWeightsError

    desk.network.before = exchanged
    answer = asyncio.run(desk.ask())
    assert answer.weights == newer.default
    assert desk.network.asked == [(catalogue.default.sha256, 1.0), (newer.default.sha256, 1.0)]


@pytest.mark.parametrize("name", [None, "other"])
def test_a_request_ends_with_the_weights_it_began_with(
    catalogue: Catalogue, tmp_path: Path, name: str | None
) -> None:
    desk = Desk(catalogue, Doubler())

    async def exchanged_meanwhile() -> AsyncIterator[bytes]:
        yield PICTURE[:20]
        desk.catalogue = load_catalogue([str(write_weights(tmp_path / "new.safetensors", seed=3))])
        yield PICTURE[20:]

    answer = asyncio.run(desk.ask(chunks=exchanged_meanwhile(), weights=name))
    assert answer.weights == catalogue.find(name)


def test_weights_that_stay_stale_and_a_network_that_is_gone_are_503(catalogue: Catalogue) -> None:
    async def stale(_weights: ServedWeights) -> None:
        raise StaleWeightsError

    async def gone(_weights: ServedWeights) -> None:
        raise NetworkUnavailableError("the network can't be reached")

    assert status_of(Desk(catalogue, Doubler(stale)))[0] == 503
    assert status_of(Desk(catalogue, Doubler(gone))) == (503, "the network can't be reached")


def test_unknown_weights_are_refused_before_anything_is_read(catalogue: Catalogue) -> None:
    desk = Desk(catalogue, Doubler())
    status, told = status_of(desk, chunks=trickle(), weights="smal")
    assert status == 404
    assert "did you mean 'small'" in told
