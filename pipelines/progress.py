"""How far a bulk run is: one line that stays on a terminal, a plain line now and then elsewhere."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO

from pipelines.quantities import format_count, format_duration, format_figure

TERMINAL_INTERVAL_S = 0.2
PLAIN_INTERVAL_S = 30.0
BAR_CELLS = 20
_CLEAR = "\r\x1b[K"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a run at one moment. Totals are None while the listing is being counted."""

    elapsed_s: float
    """Since the first object was begun; 0 before."""
    finished: int = 0
    finished_bytes: int = 0
    failed: int = 0
    megapixels_out: float = 0.0
    total: int | None = None
    total_bytes: int | None = None


def share_done(snapshot: Snapshot) -> float | None:
    """0..1 by bytes, where there are any, since large images take longer; None if not known."""
    if snapshot.total is None:
        return None
    if snapshot.total_bytes:
        return min(snapshot.finished_bytes / snapshot.total_bytes, 1.0)
    return min(snapshot.finished / snapshot.total, 1.0) if snapshot.total else 1.0


def time_left_s(snapshot: Snapshot) -> float | None:
    share = share_done(snapshot)
    if not share or snapshot.elapsed_s <= 0:
        return None
    return snapshot.elapsed_s / share - snapshot.elapsed_s


def progress_line(snapshot: Snapshot, *, width: int) -> str:
    """The line, without a line end, cut to `width` columns."""
    parts: list[str] = []
    share = share_done(snapshot)
    if share is not None and width >= 80:
        full = round(share * BAR_CELLS)
        parts.append("█" * full + "░" * (BAR_CELLS - full))
    total = f" of {format_count(snapshot.total)}" if snapshot.total is not None else ""
    parts.append(f"{format_count(snapshot.finished)}{total}")
    if snapshot.finished and snapshot.elapsed_s > 0:
        rate = format_figure(snapshot.finished / snapshot.elapsed_s, 2)
        megapixel_rate = format_figure(snapshot.megapixels_out / snapshot.elapsed_s, 2)
        parts.append(f"{rate}/s  {megapixel_rate} MP/s")
    else:
        parts.append("starting")
    left_s = time_left_s(snapshot)
    if left_s is not None and snapshot.finished != snapshot.total:
        parts.append(f"{format_duration(max(left_s, 1.0))} left")
    if snapshot.failed:
        parts.append(f"{format_count(snapshot.failed)} failed")
    return "  ".join(parts)[: max(width - 1, 1)]


class ProgressLine:
    """Shows a snapshot again and again, from a thread of its own, while in its `with` block."""

    def __init__(
        self,
        take: Callable[[], Snapshot],
        stream: TextIO,
        *,
        plain: bool | None = None,
        interval_s: float | None = None,
    ) -> None:
        """`plain`: whole lines; None does so where the stream is no terminal."""
        self._take = take
        self._stream = stream
        self._plain = not stream.isatty() if plain is None else plain
        self._interval_s = interval_s or (PLAIN_INTERVAL_S if self._plain else TERMINAL_INTERVAL_S)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if not self._plain:
            self._show()
            self._stream.write("\n")
            self._stream.flush()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._show()

    def _show(self) -> None:
        if self._plain:
            self._stream.write(progress_line(self._take(), width=1000) + "\n")
        else:
            width = shutil.get_terminal_size().columns
            self._stream.write(_CLEAR + progress_line(self._take(), width=width))
        self._stream.flush()


class Clock:
    """Seconds since the first object was begun: what came before is Ray and the network loading."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._noted_s = 0.0

    def note(self, seconds: float) -> None:
        """Call it with each result and how long it took."""
        self._noted_s = time.monotonic()
        began_s = self._noted_s - seconds
        self._began_s = began_s if self._began_s is None else min(self._began_s, began_s)

    @property
    def elapsed_s(self) -> float:
        """Until now; 0 before the first result."""
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    @property
    def work_s(self) -> float:
        """Until the last result."""
        return 0.0 if self._began_s is None else self._noted_s - self._began_s
