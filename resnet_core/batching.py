"""Windows of many images in batches: what fills a GPU when images are small or of mixed sizes.

Any thread gives the windows of its image; one thread at a time runs them. A batch holds windows of
one shape and dtype, up to a number of pixels, one from each image in turn, so that an image of a
thousand windows doesn't hold up one of a single window.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

Result = TypeVar("Result")


class WindowBatcher(Generic[Result]):
    """Runs `run` on batches of at least one window and, beyond that, at most `batch_px` pixels.

    Its thread lives while there is something to run.
    """

    def __init__(self, run: Callable[[Sequence[NDArray[Any]]], list[Result]], *, batch_px: int):
        self._run = run
        self._batch_px = batch_px
        self._lock = threading.Lock()
        self._images: deque[deque[tuple[NDArray[Any], Future[Result]]]] = deque()
        self._running = False

    def results(self, windows: Sequence[NDArray[Any]]) -> Iterator[Result]:
        """The results of an image's windows (HWC), in order, as they come. What `run` raises."""
        entries = [(window, Future[Result]()) for window in windows]
        with self._lock:
            self._images.append(deque(entries))
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="windows", daemon=True).start()
        try:
            for _, future in entries:
                yield future.result()
        finally:
            for _, future in entries:
                future.cancel()

    def _work(self) -> None:
        while batch := self._take():
            started = [entry for entry in batch if entry[1].set_running_or_notify_cancel()]
            if started:
                self._finish(started)

    def _take(self) -> list[tuple[NDArray[Any], Future[Result]]]:
        """The next batch; the images behind it move up. Empty, and the thread ends, at the end."""
        with self._lock:
            if not self._images:
                self._running = False
                return []
            first = self._images[0][0][0]
            room = max(self._batch_px // (first.shape[0] * first.shape[1]), 1)
            batch: list[tuple[NDArray[Any], Future[Result]]] = []
            passed = 0
            while self._images and len(batch) < room and passed < len(self._images):
                image = self._images.popleft()
                window = image[0][0]
                if (window.shape, window.dtype) == (first.shape, first.dtype):
                    batch.append(image.popleft())
                    passed = 0
                else:
                    passed += 1
                if image:
                    self._images.append(image)
            return batch

    def _finish(self, batch: list[tuple[NDArray[Any], Future[Result]]]) -> None:
        try:
            results = self._run([window for window, _ in batch])
        except Exception as error:  # noqa: BLE001  it is raised in the threads that wait
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            # Too much memory for so many, or one at fault: the others must not suffer.
            for entry in batch:
                self._finish([entry])
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
