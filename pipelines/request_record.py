"""What is kept of each request, for the access log and metrics. Never the image, never a key."""

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from resnet_core.errors import ConfigError

STAGES = ("decode", "queue", "network", "encode")
"""Decode: from bytes to pixels, with the wait for a thread. Queue: all between pixels and better
pixels but the network's own share. Network: that share. Encode: as decode."""

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RequestRecord:
    """One request; times in seconds. It grows while the request is answered."""

    request_id: str
    method: str
    path: str
    status: int = 0
    problem: str | None = None
    """The kind's slug."""
    weights: str | None = None
    strength: float | None = None
    source_format: str | None = None
    output_format: str | None = None
    source_bytes: int = 0
    output_bytes: int = 0
    source_pixels: int = 0
    output_pixels: int = 0
    stage_s: dict[str, float] = field(default_factory=dict[str, float])
    total_s: float = 0.0
    _began_s: float = field(default_factory=time.perf_counter, repr=False)

    def finish(self) -> None:
        self.total_s = time.perf_counter() - self._began_s

    @property
    def server_timing(self) -> str:
        """The header of that name, in milliseconds."""
        return ", ".join(f"{name};dur={1000 * self.stage_s.get(name, 0.0):.1f}" for name in STAGES)

    def line(self) -> str:
        """One line of JSON for the access log, times in milliseconds, without what is unknown."""
        members = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        stages = {f"{name}_ms": _ms(seconds) for name, seconds in members.pop("stage_s").items()}
        stages["total_ms"] = _ms(members.pop("total_s"))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        known = {
            name: value
            for name, value in members.items()
            if value is not None and (value != 0 or name == "strength")
        }
        return json.dumps({"time": now, **known, **stages})


Observer = Callable[[RequestRecord], None]


def access_log(place: str) -> Observer:
    """Writes each record's line: "-" to standard error, "" nowhere, else to the end of a file.

    A file is opened for each line: it may be moved away at any time. Raises ConfigError where it
    can't be written; if that comes later, the log of the process tells.
    """
    match place:
        case "":
            return lambda _record: None
        case "-":
            return lambda record: print(record.line(), file=sys.stderr, flush=True)
        case _:
            try:
                _append(Path(place), "")
            except OSError as error:
                raise ConfigError(
                    f"the access log {place} can't be written: {error.strerror}"
                ) from error
            return _LogFile(Path(place))


class _LogFile:
    """Tells of the first line of those in a row that can't be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_told = False

    def __call__(self, record: RequestRecord) -> None:
        try:
            _append(self._path, record.line() + "\n")
        except OSError as error:
            if not self._is_told:
                _log.error("the access log %s can't be written: %s", self._path, error.strerror)
            self._is_told = True
        else:
            self._is_told = False


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as out:
        out.write(text)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
