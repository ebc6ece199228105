"""Clients on loopback: as many as one says, each with a connection of its own."""

import http.client
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

ENHANCE = "/v1/enhance"
TIMEOUT_S = 120.0
KEPT_WAITING = 32
"""Requests that a server may have in hand; of more, clients are told so."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request; `status` 0 where there was no answer."""

    index: int
    """Of its body."""
    status: int
    began_s: float
    ended_s: float
    timing: str
    """The header Server-Timing."""
    size: int
    """Of the answer, bytes."""

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s

    @property
    def worked_s(self) -> float:
        """Decoding, network and encoding, as the server says."""
        stages = dict(each.strip().split(";dur=") for each in self.timing.split(","))
        return sum(float(stages[name]) for name in ("decode", "network", "encode")) / 1000


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of many requests."""

    samples: Sequence[Sample] = field(repr=False)
    seconds: float

    def count(self, status: int) -> int:
        return sum(sample.status == status for sample in self.samples)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.count(200) / self.seconds

    @property
    def p99_s(self) -> float:
        return quantiles([sample.seconds for sample in self.samples], n=100)[98]


def closed_loop(port: int, bodies: Sequence[bytes], *, clients: int, count: int) -> Run:
    """Each client asks again when it is answered; body `n % len(bodies)` for request n."""
    numbers = itertools.count()

    def pace() -> int | None:
        number = next(numbers)
        return number if number < count else None

    return _run(port, bodies, clients, pace)


def open_loop(port: int, bodies: Sequence[bytes], *, rate: float, seconds: float) -> Run:
    """Requests come at `rate`, answered or not, as long as the server keeps few waiting."""
    began_s = time.perf_counter()
    numbers = itertools.count()

    def pace() -> int | None:
        number = next(numbers)
        due_s = began_s + number / rate
        if due_s > began_s + seconds:
            return None
        time.sleep(max(due_s - time.perf_counter(), 0))
        return number

    return _run(port, bodies, KEPT_WAITING + int(2 * rate), pace)


def _run(port: int, bodies: Sequence[bytes], clients: int, pace: Callable[[], int | None]) -> Run:
    samples: list[Sample] = []

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        while (number := pace()) is not None:
            samples.append(_ask(connection, bodies, number))
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Run(samples=samples, seconds=time.perf_counter() - began_s)


def _ask(connection: http.client.HTTPConnection, bodies: Sequence[bytes], number: int) -> Sample:
    index = number % len(bodies)
    began_s = time.perf_counter()
    status, timing, size = 0, "", 0
    try:
        connection.request("POST", ENHANCE, bodies[index])
        response = connection.getresponse()
        size = len(response.read())
        status, timing = response.status, response.getheader("Server-Timing", "")
    except (OSError, http.client.HTTPException):
        connection.close()
    return Sample(
        index=index,
        status=status,
        began_s=began_s,
        ended_s=time.perf_counter(),
        timing=timing,
        size=size,
    )
