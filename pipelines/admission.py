"""How much work is taken in: bounds on requests and pixels in hand, and on each one's time.

For one event loop: nothing here waits, or may be called from several threads.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

REMEMBERED = 32
LONGEST_RETRY_S = 60

Clock = Callable[[], float]
OnChange = Callable[[int, int], None]


class FullError(Exception):
    """There is no room; `retry_after_s` is when there may be, in whole seconds."""

    def __init__(self, reason: str, *, retry_after_s: int):
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Admission:
    """Counts what is in hand, and refuses at once what is too much.

    A single image of more pixels than the bound is taken while no other is in hand.
    `on_change`: told of the requests and pixels in hand after each change.
    """

    def __init__(
        self,
        *,
        max_requests: int,
        max_pixels: int,
        on_change: OnChange = lambda _requests, _pixels: None,
        clock: Clock = time.monotonic,
    ):
        self.requests = 0
        self.pixels = 0
        self._max_requests = max_requests
        self._max_pixels = max_pixels
        self._on_change = on_change
        self._clock = clock
        self._done: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)

    def enter(self) -> "Place":
        """A place for one request, held until its `with` block ends. FullError."""
        if self.requests >= self._max_requests:
            raise self._full(f"{self.requests} requests are in hand, the most there may be")
        return Place(self)

    def add(self, *, requests: int = 0, pixels: int = 0) -> None:
        self.requests += requests
        self.pixels += pixels
        self._on_change(self.requests, self.pixels)

    def check_pixels(self, pixels: int) -> None:
        """FullError unless there is room for so many more."""
        if self.pixels and self.pixels + pixels > self._max_pixels:
            raise self._full(
                f"{self.pixels} pixels are in hand, and with {pixels} more there were over"
                f" {self._max_pixels}"
            )

    def note_done(self, pixels: int) -> None:
        """Take note of an image that was finished: so the rate is known."""
        self._done.append((self._clock(), pixels))

    def _full(self, reason: str) -> FullError:
        return FullError(reason, retry_after_s=self._retry_after_s())

    def _retry_after_s(self) -> int:
        """How long half of what is in hand takes at the rate of the last images."""
        now_s = self._clock()
        recent = [each for each in self._done if now_s - each[0] <= LONGEST_RETRY_S]
        if len(recent) < 2:
            return 1
        first_s, first_pixels = recent[0]
        pixels = sum(done for _, done in recent) - first_pixels
        rate = pixels / max(now_s - first_s, 1e-3)
        wait_s = self.pixels / 2 / rate if rate else LONGEST_RETRY_S
        return min(max(math.ceil(wait_s), 1), LONGEST_RETRY_S)


class Place:
    """One request's place; it is counted while its `with` block lasts, whatever ends it, and after
    that while a thread works for it."""

    def __init__(self, admission: Admission):
        self._admission = admission
        self._pixels = 0
        self._job: Future[Any] | None = None

    def __enter__(self) -> Self:
        self._admission.add(requests=1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._admission.note_done(self._pixels)
        if self._job is None or self._job.done():
            self._leave()
        else:
            loop = asyncio.get_running_loop()
            self._job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))

    def take_pixels(self, pixels: int) -> None:
        """Count the image's pixels too. FullError."""
        self._admission.check_pixels(pixels)
        self._pixels += pixels
        self._admission.add(pixels=pixels)

    def hold_for(self, job: Future[Any]) -> None:
        """Keep the place until this job has ended too: a thread that works can't be stopped."""
        self._job = job

    def _leave(self) -> None:
        self._admission.add(requests=-1, pixels=-self._pixels)


class Deadline:
    """The end of a request's time."""

    def __init__(self, seconds: float, *, clock: Clock = time.monotonic):
        self.seconds = seconds
        self._clock = clock
        self._end_s = clock() + seconds

    @property
    def left_s(self) -> float:
        """Not below 0."""
        return max(self._end_s - self._clock(), 0.0)
