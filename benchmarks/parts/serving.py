"""Serving beside the bare network and a plain server, under too much, and for long."""

import io
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image, ImageOps

from cluster.connect import WORKER_ENVIRONMENT
from parts.contestant import FOLDER, TUNED, Answer, Contestant, Order, answer_orders
from parts.figures import Figure, median_ratio, table
from parts.load import KEPT_WAITING, Run, closed_loop, open_loop

WEIGHTS = "sr-x2"
CLIENTS = 16
SIDE_PX = 256
LARGE_PX = 512
SMALL_PX = 48
OVERLOAD = 10
MARK = "RESRAY_BENCH_MARK"
START_S = 300.0
EXAMPLES = FOLDER.parent / "examples"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    rounds: int
    requests: int
    """In each round."""
    alone: int
    """Requests of one client."""
    overloads: int
    overload_s: float
    """Each."""
    lasting: int
    """Requests in a row."""
    settled: int
    """Of them, after which memory may not grow."""


QUICK = Size(rounds=3, requests=32, alone=15, overloads=1, overload_s=20, lasting=600, settled=200)
FULL = Size(
    rounds=7, requests=160, alone=100, overloads=5, overload_s=30, lasting=5000, settled=1000
)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A process that answers on loopback."""

    port: int
    mark: str
    """In the environment of all its processes."""


@contextmanager
def resray_server() -> Generator[Server]:
    """`resray serve`, as a user starts it but for the requests in hand."""
    port = _free_port()
    command = ["-m", "pipelines.cli", "serve", "--weights", WEIGHTS, "--port", str(port)]
    command += ["--max-requests", str(KEPT_WAITING)]
    with _process(command, port, "/healthz") as mark:
        yield Server(port=port, mark=mark)


@contextmanager
def plain_server() -> Generator[Server]:
    port = _free_port()
    with _process(["-m", "parts.plain_server", str(port)], port, "/openapi.json") as mark:
        yield Server(port=port, mark=mark)


def measure_speed(server: Server, size: Size) -> list[Figure]:
    """Images of 256 x 256 from 16 clients, and from one."""
    bodies = photographs(SIDE_PX)
    bare_rates: list[float] = []
    ours: list[Run] = []
    plain: list[Run] = []
    with plain_server() as rival, Contestant("serving", environment=WORKER_ENVIRONMENT) as bare:
        for port in (server.port, rival.port):
            closed_loop(port, bodies, clients=CLIENTS, count=CLIENTS)
        bare.ask(count=CLIENTS)
        for _ in range(size.rounds):
            bare_rates.append(size.requests / bare.ask(count=size.requests)["seconds"])
            ours.append(
                _good(closed_loop(server.port, bodies, clients=CLIENTS, count=size.requests))
            )
            plain.append(
                _good(closed_loop(rival.port, bodies, clients=CLIENTS, count=size.requests))
            )
    alone = _good(closed_loop(server.port, bodies, clients=1, count=size.alone))
    added_s = median(sample.seconds - sample.worked_s for sample in alone.samples)
    rates = [run.rate for run in ours]
    rows = [
        ("the network alone, in one process", f"{median(bare_rates):.1f}", ""),
        ("resray serve", f"{median(rates):.1f}", f"{1000 * median(r.p99_s for r in ours):.0f}"),
        (
            "a plain server",
            f"{median(run.rate for run in plain):.1f}",
            f"{1000 * median(run.p99_s for run in plain):.0f}",
        ),
    ]
    title = f"{CLIENTS} clients, JPEGs of {SIDE_PX} x {SIDE_PX}, {WEIGHTS}"
    print(table(title, ("", "images/s", "p99 ms"), rows))
    print(
        f"One client: {1000 * median(s.seconds for s in alone.samples):.1f} ms,"
        f" {1000 * added_s:.1f} of them neither decoding, network nor encoding\n"
    )
    p99 = median_ratio([run.p99_s for run in ours], [run.p99_s for run in plain])
    return [
        Figure(name="serve_vs_bare", value=median_ratio(rates, bare_rates), aim=0.85),
        Figure(name="added_latency_ms", value=1000 * added_s, aim=12, at_least=False),
        Figure(
            name="serve_vs_plain_server",
            value=median_ratio(rates, [run.rate for run in plain]),
            aim=1.3,
        ),
        Figure(name="serve_p99_vs_plain_server", value=p99, aim=1.0, at_least=False),
    ]


def measure_overload(server: Server, size: Size) -> list[Figure]:
    """Ten times as many requests a second as it can serve, for a while.

    A refusal costs Ray Serve the same milliseconds as any other request, whatever the image: the
    smaller the images, the more of the processor goes into refusals that come with them.
    """
    bodies = photographs(LARGE_PX)
    closed_loop(server.port, bodies, clients=2, count=4)
    count = max(size.requests // 4, CLIENTS)
    shares: list[float] = []
    rows: list[tuple[str, ...]] = []
    for number in range(1, size.overloads + 1):
        peak = _good(closed_loop(server.port, bodies, clients=CLIENTS, count=count)).rate
        run = open_loop(server.port, bodies, rate=OVERLOAD * peak, seconds=size.overload_s)
        _check_all_answered(run)
        last_s = max(sample.began_s for sample in run.samples)
        first_s = min(sample.began_s for sample in run.samples)
        # What is in hand is worked on in turn: nothing ends in the first seconds.
        settled_s = first_s + (last_s - first_s) / 3
        within = [s for s in run.samples if s.status == 200 and settled_s < s.ended_s <= last_s]
        rate = len(within) / (last_s - settled_s)
        refused = sorted(s.seconds for s in run.samples if s.status == 503)
        shares.append(rate / peak)
        rows.append(
            (
                str(number),
                f"{peak:.1f}",
                f"{len(run.samples) / (last_s - first_s):.0f}",
                f"{rate:.1f}",
                f"{rate / peak:.3f}",
                f"{1000 * median(refused or [0]):.0f}",
                f"{max(s.seconds for s in run.samples):.1f}",
            )
        )
    header = ("round", "peak/s", "asked/s", "served/s", "share", "503 after ms", "longest s")
    title = f"{OVERLOAD} times the load it can serve, JPEGs of {LARGE_PX} x {LARGE_PX}"
    print(table(title, header, rows))
    return [Figure(name="overload_share", value=median(shares), aim=0.9)]


def measure_endurance(server: Server, size: Size) -> list[Figure]:
    """Many requests in a row, a tenth of them broken; what the replicas hold meanwhile."""
    good = photographs(SMALL_PX)
    broken = good[0][: len(good[0]) // 2]
    bodies = [*(good * 9)[:9], broken]
    _check_right(closed_loop(server.port, bodies, clients=4, count=size.settled), broken_at=9)
    settled = replica_memory_bytes(server.mark)
    rest = size.lasting - size.settled
    _check_right(closed_loop(server.port, bodies, clients=4, count=rest), broken_at=9)
    ended = replica_memory_bytes(server.mark)
    rows = [
        (name, f"{settled[name] / 1e6:.0f}", f"{ended[name] / 1e6:.0f}") for name in sorted(ended)
    ]
    header = ("", f"after {size.settled}", f"after {size.lasting}")
    print(table("Memory of the replicas, MB; a tenth of the requests is broken", header, rows))
    growth = sum(ended.values()) / sum(settled.values()) - 1
    return [Figure(name="replica_memory_growth", value=growth, aim=0.05, at_least=False)]


def photographs(side_px: int) -> list[bytes]:
    """JPEGs of so many pixels a side, squares from the middle of the examples."""
    found: list[bytes] = []
    for path in sorted(EXAMPLES.iterdir()):
        if path.suffix == ".md":
            continue
        with Image.open(path) as image:
            out = io.BytesIO()
            crop = ImageOps.fit(image.convert("RGB"), (side_px, side_px))
            crop.save(out, "JPEG", quality=90)
            found.append(out.getvalue())
    return found


def replica_memory_bytes(mark: str) -> dict[str, int]:
    """Resident memory of each Serve replica whose environment has the mark, by deployment."""
    found: dict[str, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_text(encoding="utf-8").partition("\0")[0]
            if "ServeReplica:" not in name or f"{MARK}={mark}" not in _environment(folder):
                continue
            resident = int((folder / "statm").read_text(encoding="utf-8").split()[1])
        except OSError:
            continue
        shown = name.rpartition(":")[2].split("#")[0]
        found[shown] = found.get(shown, 0) + resident * os.sysconf("SC_PAGE_SIZE")
    return found


def _environment(folder: Path) -> str:
    return (folder / "environ").read_bytes().decode("utf-8", "replace")


def _good(run: Run) -> Run:
    if run.count(200) != len(run.samples):
        statuses = sorted({sample.status for sample in run.samples})
        raise RuntimeError(f"not all requests were answered with an image: statuses {statuses}")
    return run


def _check_all_answered(run: Run) -> None:
    statuses = {sample.status for sample in run.samples}
    if not statuses <= {200, 503}:
        raise RuntimeError(f"expected 200 or 503 under too much, found {sorted(statuses)}")


def _check_right(run: Run, *, broken_at: int) -> None:
    sizes: dict[int, set[int]] = {}
    for sample in run.samples:
        if sample.status != (422 if sample.index == broken_at else 200):
            raise RuntimeError(f"body {sample.index} was answered with {sample.status}")
        sizes.setdefault(sample.index, set()).add(sample.size)
    odd = [index for index, found in sizes.items() if index != broken_at and len(found) > 1]
    if odd:
        raise RuntimeError(f"bodies {odd} were answered in several ways")


@contextmanager
def _process(command: Sequence[str], port: int, path: str) -> Generator[str]:
    """A server as a process; the mark in its environment."""
    mark = secrets.token_hex(8)
    inherited = {name: value for name, value in os.environ.items() if name not in TUNED}
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, *command],
        cwd=FOLDER,
        env=inherited | {MARK: mark},
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}{path}", process)
        yield mark
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise RuntimeError(f"{url}: its server ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=10):  # noqa: S310  of this module
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url}: no answer within {START_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    """The bare network: as many threads as clients read, enhance in one queue, and encode."""
    import torch  # noqa: PLC0415  of the contestant

    from pipelines.enhance_object import RunSettings, encode_result  # noqa: PLC0415
    from pipelines.serve_replicas import CPU_BATCH_PX, GPU_BATCH_PX  # noqa: PLC0415
    from resnet_core import Enhancer, decode, load_weights  # noqa: PLC0415
    from resnet_core.cpu_threads import CpuThreads  # noqa: PLC0415

    weights = load_weights(WEIGHTS)
    settings = RunSettings(weights_name=weights.name, weights_sha256=weights.sha256)
    batch_px = GPU_BATCH_PX if torch.cuda.is_available() else CPU_BATCH_PX
    enhancer = Enhancer(weights, batch_px=batch_px, cpu=CpuThreads(os.cpu_count() or 1))
    bodies, threads = photographs(SIDE_PX), ThreadPoolExecutor(CLIENTS)

    def work(number: int) -> int:
        image = decode(bodies[number % len(bodies)])
        return len(encode_result(enhancer.enhance(image), settings).data)

    def handle(order: Order) -> Answer:
        began_s = time.perf_counter()
        list(threads.map(work, range(order["count"])))
        return {"seconds": time.perf_counter() - began_s}

    answer_orders(handle)


if __name__ == "__main__":
    main()
