"""A listing in order, of which several prefixes are read at once."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from pipelines.storage import ObjectInfo

LISTED_AT_ONCE = 8
PAGES_AHEAD = 8
HELD_ENTRIES = 10_000


def list_ahead(
    entries: Iterable[ObjectInfo | str], walk: Callable[[str], Iterator[list[ObjectInfo]]]
) -> Iterator[ObjectInfo]:
    """The objects among `entries`, and what `walk` finds under the prefixes among them, in order.

    `walk` runs for LISTED_AT_ONCE prefixes at once, and gives pages.
    """
    held: deque[ObjectInfo | _Stream] = deque()
    streams = 0
    try:
        for entry in entries:
            if isinstance(entry, ObjectInfo):
                held.append(entry)
            else:
                held.append(_Stream(walk(entry)))
                streams += 1
            while held and (
                isinstance(held[0], ObjectInfo)
                or streams >= LISTED_AT_ONCE
                or len(held) >= HELD_ENTRIES
            ):
                streams -= isinstance(held[0], _Stream)
                yield from _objects(held[0])
                held.popleft()
        while held:
            yield from _objects(held[0])
            held.popleft()
    finally:
        for item in held:
            if isinstance(item, _Stream):
                item.stop()


def _objects(item: "ObjectInfo | _Stream") -> "Iterable[ObjectInfo]":
    return (item,) if isinstance(item, ObjectInfo) else item.objects()


class _Stream:
    """Pages read ahead by a thread of their own, PAGES_AHEAD at most."""

    def __init__(self, pages: Iterator[list[ObjectInfo]]) -> None:
        self._pages = pages
        self._ready: queue.Queue[list[ObjectInfo] | BaseException | None] = queue.Queue(PAGES_AHEAD)
        self._stopped = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def objects(self) -> Iterator[ObjectInfo]:
        while (page := self._ready.get()) is not None:
            if isinstance(page, BaseException):
                raise page
            yield from page

    def stop(self) -> None:
        self._stopped.set()

    def _read(self) -> None:
        try:
            for page in self._pages:
                self._offer(page)
                if self._stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  raised again where it is awaited
            self._offer(error)
        self._offer(None)

    def _offer(self, page: list[ObjectInfo] | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._ready.put(page, timeout=0.2)
            except queue.Full:
                continue
            return
