"""Windows of many images in batches: what fills a GPU when images are small or of mixed sizes.

Any thread gives the windows of its image; others run them. A batch holds windows of one shape and
dtype, up to a number of pixels, one from each image in turn, so that an image of a thousand windows
doesn't hold up one of a single window.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

Result = TypeVar("Result")


class Window(Protocol):
    """An array HWC, or what holds one; windows of equal shape and dtype can be one batch."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...


AWindow = TypeVar("AWindow", bound=Window)
IDLE_S = 10.0
"""After which a thread with nothing to run ends."""
Wanted = Callable[[], bool]
"""Whether an image's result is still wanted; asked before each of its windows is run."""


class NoLongerWantedError(Exception):
    """The work on an image was dropped before its end, because its caller said so."""


def always_wanted() -> bool:
    return True


@dataclass(frozen=True, kw_only=True, eq=False)
class _Entry(Generic[AWindow, Result]):
    window: AWindow
    wanted: Wanted
    future: Future[Result] = field(default_factory=Future)

    def begin(self) -> bool:
        """Whether it is to be run; nobody can cancel it then."""
        if not self.future.set_running_or_notify_cancel():
            return False
        try:
            if self.wanted():
                return True
            self.future.set_exception(NoLongerWantedError())
        except Exception as error:  # noqa: BLE001  it is raised in the thread that waits
            self.future.set_exception(error)
        return False


class WindowBatcher(Generic[AWindow, Result]):
    """Runs `run` on batches of at least one window and, beyond that, at most `batch_px` pixels.

    It never waits for a batch to fill: what comes while others run makes the next. Up to `at_once`
    batches run at once, each in a thread.
    """

    def __init__(
        self,
        run: Callable[[Sequence[AWindow]], list[Result]],
        *,
        batch_px: int,
        at_once: int = 1,
    ):
        self._run = run
        self._batch_px = batch_px
        self._at_once = at_once
        self._changed = threading.Condition()
        self._images: deque[deque[_Entry[AWindow, Result]]] = deque()
        self._threads = 0
        self._idle = 0

    def results(
        self, windows: Sequence[AWindow], *, wanted: Wanted = always_wanted
    ) -> Iterator[Result]:
        """The results of an image's windows, in order, as they come. What `run` raises.

        NoLongerWantedError where `wanted` said so before a window was begun.
        """
        entries = deque(_Entry[AWindow, Result](window=window, wanted=wanted) for window in windows)
        self._put(deque(entries))
        try:
            while entries:  # no result is kept here that was given
                yield entries.popleft().future.result()
        finally:
            for entry in entries:
                entry.future.cancel()

    def _put(self, image: "deque[_Entry[AWindow, Result]]") -> None:
        with self._changed:
            self._images.append(image)
            waiting = sum(map(len, self._images))
            try:
                for _ in range(min(waiting - self._idle, self._at_once - self._threads)):
                    threading.Thread(target=self._work, name="windows", daemon=True).start()
                    self._threads += 1
            except RuntimeError:  # no more threads for this process
                if self._threads == 0:
                    self._images.remove(image)
                    raise
            self._changed.notify(waiting)

    def _work(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """False where the thread is to end. What it ran isn't kept while it waits for more."""
        batch = self._take()
        if started := [entry for entry in batch if entry.begin()]:
            self._finish(started)
        return bool(batch)

    def _take(self) -> list[_Entry[AWindow, Result]]:
        """The next batch; the images behind it move up. Empty where the thread is to end."""
        with self._changed:
            self._idle += 1
            has_come = self._changed.wait_for(lambda: self._images, IDLE_S)
            self._idle -= 1
            if not has_come:
                self._threads -= 1
                return []
            first = self._images[0][0].window
            room = max(self._batch_px // (first.shape[0] * first.shape[1]), 1)
            batch: list[_Entry[AWindow, Result]] = []
            passed = 0
            while self._images and len(batch) < room and passed < len(self._images):
                image = self._images.popleft()
                window = image[0].window
                if (window.shape, window.dtype) == (first.shape, first.dtype):
                    batch.append(image.popleft())
                    passed = 0
                else:
                    passed += 1
                if image:
                    self._images.append(image)
            return batch

    def _finish(self, batch: list[_Entry[AWindow, Result]]) -> None:
        if not self._run_together(batch):
            # Too much memory for so many, or one at fault: the others must not suffer.
            for entry in batch:
                self._run_together([entry])

    def _run_together(self, batch: list[_Entry[AWindow, Result]]) -> bool:
        """False where several failed: without the error, whose frames hold what they computed."""
        try:
            results = self._run([entry.window for entry in batch])
        except Exception as error:  # noqa: BLE001  it is raised in the threads that wait
            if len(batch) > 1:
                return False
            batch[0].future.set_exception(error)
        else:
            for entry, result in zip(batch, results, strict=True):
                entry.future.set_result(result)
        return True
