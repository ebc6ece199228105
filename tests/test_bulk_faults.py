"""`resray enhance` among failures: kills, a store that fails, odd keys, refusals, a full disk.

One Ray of three nodes and one address of a store serve all tests. What stands behind the address,
and what becomes of each request, is for the test to say.
"""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import ray
from cluster_for_tests import drain
from image_files import noise, photo, pillow, saved, still, still_16_bit
from object_store_for_tests import (
    READER,
    WRITER,
    Faults,
    boto_client,
    make_bucket,
    moto,
    use_store,
)
from ray.cluster_utils import Cluster
from ray.data._internal.execution.operators import actor_pool_map_operator
from store_board_for_tests import Answer, Board
from test_enhance import ROOT, Places, contents, image
from weights_for_tests import write_weights

from cluster.connect import Resources, ray_session
from pipelines import bulk, s3_failures
from pipelines.cli import main
from pipelines.enhance import CPU_BATCH_PX, MEMORY_PX
from pipelines.enhance_object import ObjectStages, RunSettings, Worker
from pipelines.folder_store import FolderStore
from pipelines.ledger import LedgerRow
from pipelines.s3_store import S3Store
from pipelines.storage import RESERVED
from pipelines.worklist import Verdict, Work
from resnet_core.images import decode
from resnet_core.weights import load_weights

pytestmark = [pytest.mark.ray, pytest.mark.s3]

NODE_CPUS = 1
"""Of each node: no two workers of a run share one."""
DEADLINE_S = 1200.0


def refusal(status: int, code: str, message: str) -> Answer:
    return status, {}, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@pytest.fixture(scope="module")
def nodes(one_board: Board) -> Iterator[Cluster]:
    """Three nodes, whose workers find the board as their store."""
    assert one_board
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": NODE_CPUS})
    try:
        for _ in range(2):
            made.add_node(num_cpus=NODE_CPUS)
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def session(nodes: Cluster) -> Iterator[Resources]:
    """This process joins the nodes, so that the command can run in it."""
    with ray_session(address=nodes.address) as resources:
        yield resources


def buckets(folder: Path, endpoint: str) -> Places:
    write_weights(folder / "small.safetensors")
    source, target = (S3Store(bucket=make_bucket(endpoint), prefix=name) for name in ("in", "out"))
    return Places(folder, source, target)


def undisturbed(places: Places) -> dict[str, bytes]:
    """The same work done in this process, one object after the other, without Ray."""
    path = str(places.folder / "small.safetensors")
    weights = load_weights(path)
    twin = FolderStore(root=places.folder / "twin", temporary=places.folder / "tmp")
    settings = RunSettings(weights_name=weights.name, weights_sha256=weights.sha256)
    enhance = Worker(
        stages=ObjectStages(source=places.source, target=twin, settings=settings),
        weights=(path,),
        threads=NODE_CPUS,
        batch_px=CPU_BATCH_PX,
        memory_px=MEMORY_PX,
    ).whole()
    for info in places.source.list_objects():
        enhance(Work(key=info.key, bytes=info.bytes, etag=info.etag, changed_key=info.key))
    return contents(twin)


# Kills.


@dataclass(kw_only=True)
class Kills:
    """Kills at chosen moments: while the n-th result is being written, before or after it is."""

    nodes: Cluster
    rng: random.Random
    todo: list[tuple[int, str, bool]]
    """The number of the write, what is killed, and whether the write comes before."""
    driver: subprocess.Popen[str] | None = None
    written: int = 0
    done: list[str] = field(default_factory=list[str])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, method: str, path: str, ask: Callable[[], Answer]) -> Answer:
        if method != "PUT" or RESERVED in path:
            return ask()
        with self.lock:
            self.written += 1
        self._kill(comes_before=True)
        answer = ask()
        self._kill(comes_before=False)
        return answer

    def _kill(self, *, comes_before: bool) -> None:
        """What is due. The write waits until it is there, unless its own driver is gone."""
        while True:
            with self.lock:
                if not self.todo or self.written < self.todo[0][0]:
                    return
                _, what, is_before = self.todo[0]
                if is_before != comes_before:
                    return
                if getattr(self, f"_kill_{what}")():
                    self.done.append(what)
                    del self.todo[0]
                    return
            if self.driver is None or self.driver.poll() is not None:
                return
            time.sleep(0.1)

    def _kill_driver(self) -> bool:
        if self.driver is None or self.driver.poll() is not None:
            return False
        self.driver.kill()
        return True

    def _kill_worker(self) -> bool:
        return self._kill_actor("StageWorker")

    def _kill_conductor(self) -> bool:
        return self._kill_actor("Conductor")

    def _kill_actor(self, name: str) -> bool:
        actors = self._actors(name)
        if not actors:
            return False
        try:
            os.kill(self.rng.choice(actors)["Pid"], signal.SIGKILL)
        except ProcessLookupError:  # the table is a moment late
            return False
        return True

    def _kill_node(self) -> bool:
        working = {actor["Address"]["NodeID"] for actor in self._actors("StageWorker")}
        found = [node for node in self.nodes.worker_nodes if node.node_id in working]
        if not found:
            return False
        self.nodes.remove_node(self.rng.choice(found), allow_graceful=False)
        return True

    def _actors(self, name: str) -> list[dict[str, Any]]:
        table = self.nodes.global_state.actor_table(None, actor_state_name="ALIVE")
        return sorted(
            (actor for actor in table.values() if name in actor["ActorClassName"]),
            key=lambda actor: actor["ActorID"],
        )


@dataclass
class Watch:
    """Looks at every result as soon as it can be seen."""

    places: Places
    seen: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def look(self) -> None:
        for info in self.places.target.list_objects():
            if (info.key, info.etag) not in self.seen:
                assert decode(self.places.target.get(info.key).data).pixels.shape == (80, 84, 3)
                self.seen.add((info.key, info.etag))


def start(places: Places, nodes: Cluster) -> subprocess.Popen[str]:
    options = ("--address", nodes.address, "--workers", "2")
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *places.arguments(*options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_ten_kills_lose_nothing_and_leave_nothing_partial(
    nodes: Cluster, board: Board, tmp_path: Path
) -> None:
    places = buckets(tmp_path, board.seaweedfs)
    for number in range(240):
        places.source.put(f"{number % 7}/{number:03d}.png", image(seed=number, side=40))
    expected = undisturbed(places)
    rng = random.Random(20)
    kinds = ["worker"] * 4 + ["conductor"] * 2 + ["node"] * 2 + ["driver"] * 2
    rng.shuffle(kinds)
    moments = sorted(rng.sample(range(5, 200), len(kinds)))
    todo = [(at, kind, rng.random() < 0.5) for at, kind in zip(moments, kinds, strict=True)]
    kills, watch = Kills(nodes=nodes, rng=rng, todo=todo), Watch(places)
    board.serve = kills.serve
    deadline_s = time.monotonic() + DEADLINE_S
    status, out = None, ""
    while status is None or status == -signal.SIGKILL:
        kills.driver = driver = start(places, nodes)
        while (status := driver.poll()) is None:
            if time.monotonic() > deadline_s:
                driver.kill()
                pytest.fail(f"not done in time; left: {kills.todo}\n{driver.communicate()[0]}")
            if len(nodes.worker_nodes) < 2:
                nodes.add_node(num_cpus=NODE_CPUS)
            watch.look()
            time.sleep(0.1)
        out, _ = driver.communicate()
    assert status == 0, out
    assert kills.done == kinds
    watch.look()
    state = places.state()
    assert state.keys() == expected.keys()
    assert {row.status for row in state.values()} == {"ok"}
    assert places.outputs() == expected


# A machine that is to go.


def wait_for(holds: Callable[[], bool], rows: "Future[None]") -> None:
    while not holds():
        assert not rows.done(), rows.result()
        time.sleep(0.05)


def what_is_heard(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The nodes of which the engine in this process has heard that they are to go."""
    heard, ask = set[str](), actor_pool_map_operator.get_draining_nodes

    def ask_and_note() -> dict[str, int]:
        found = ask()
        heard.update(found)
        return found

    monkeypatch.setattr(actor_pool_map_operator, "get_draining_nodes", ask_and_note)
    return heard


def test_a_node_that_is_to_go_ends_what_it_has_gets_no_more_and_nothing_is_done_twice(
    nodes: Cluster, session: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{number:02d}.png" for number in range(40)]

    def works() -> Iterator[tuple[Work, Verdict]]:
        for key in keys:
            yield Work(key=key, bytes=1, etag="1", changed_key=key), "todo"

    def enhance(work: Work) -> LedgerRow:
        """Not before the node, and the last object, are let."""
        node = ray.get_runtime_context().get_node_id()
        with (tmp_path / f"{node}.begun").open("a") as file:
            file.write(f"{work.key}\n")
        for gate in (node, *([work.key] if work.key == keys[-1] else [])):
            while not (tmp_path / gate).exists():
                time.sleep(0.01)
        return give_up(work, "")

    def give_up(work: Work, reason: str) -> LedgerRow:
        return LedgerRow(
            key=work.key,
            status="ok",
            reason=reason,
            source_etag=work.etag,
            source_bytes=work.bytes,
            weights_sha256="w",
            settings_hash="s",
        )

    def begun(node: str) -> list[str]:
        path = tmp_path / f"{node}.begun"
        return path.read_text().split() if path.exists() else []

    heard = what_is_heard(monkeypatch)
    # Each object is a batch.
    pool = replace(bulk.Pool.of(session, workers=(2, 2)), batch_bytes=1)
    stage = bulk.Stage(name="all", build=lambda: enhance, give_up=give_up, has_network=True)
    done: list[str] = []

    def take() -> None:
        run = bulk.BulkRun(list_works=works, stages=[stage], pool=pool)
        done.extend(row.key for row in run.rows())

    with ThreadPoolExecutor(1) as threads:
        rows = threads.submit(take)
        ids = [nodes.head_node.node_id, *(node.node_id for node in nodes.worker_nodes)]
        wait_for(lambda: sum(len(begun(node)) == bulk.CALLS_AT_ONCE for node in ids) == 2, rows)
        leaving = next(node for node in nodes.worker_nodes if begun(node.node_id))
        drain(nodes.address, leaving.node_id)
        wait_for(lambda: leaving.node_id in heard, rows)
        for node in ids:
            (tmp_path / node).touch()
        wait_for(lambda: len(done) == len(keys) - 1, rows)
        nodes.remove_node(leaving, allow_graceful=False)
        (tmp_path / keys[-1]).touch()
        rows.result()
    nodes.add_node(num_cpus=NODE_CPUS)
    assert sorted(done) == keys
    assert sorted(key for node in ids for key in begun(node)) == keys, "each is begun once"
    assert len(begun(leaving.node_id)) <= bulk.TASKS_IN_FLIGHT


# A store that fails.


def run(places: Places, *options: str) -> int:
    return main(places.arguments("--workers", "1", *options))


def reasons(state: Mapping[str, LedgerRow], status: str) -> dict[str, str | None]:
    return {key: row.reason for key, row in state.items() if row.status == status}


@pytest.mark.usefixtures("session")
def test_what_passes_is_waited_for(board: Board, tmp_path: Path) -> None:
    places = buckets(tmp_path, board.seaweedfs)
    for number in range(40):
        places.source.put(f"{number:02d}.png", image(seed=number))
    expected = undisturbed(places)
    often = Faults(status_every=10, reset_every=23, short_every=31)

    def serve(_method: str, _path: str, ask: Callable[[], Answer]) -> Answer:
        if board.proxy.counts.get("stall"):
            board.proxy.faults = often
        return ask()

    board.proxy.counts.clear()
    board.proxy.faults = replace(often, stall_every=17, stall_s=s3_failures.STALL_S)
    board.serve = serve
    assert run(places) == 0
    assert board.proxy.counts["stall"] == 1
    assert {"status", "reset", "short"} <= board.proxy.counts.keys()
    board.reset()
    assert set(places.statuses().values()) == {"ok"}
    assert places.outputs() == expected


# Odd objects.

LONG = "/".join(["k" * 180] * 5)[:896] + ".png"
"""900 bytes, in parts that a folder takes."""
FREE = ["plain.png", "with space.png", "ünï/çödé 猫.png", "100%2F.png", "a%20b+c&d=e.png", LONG]
ROOTED = ["double//slash.png", "dots/../up.png", "./dot.png", "../../escape.png", "/leading.png"]
"""Keys that S3 takes as they are, and no folder can hold."""


@pytest.fixture(scope="module")
def moto_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture
def odd_source(board: Board, moto_endpoint: str) -> S3Store:
    """Odd keys and odd objects; some are meddled with when they are first read."""
    board.store = moto_endpoint
    bucket, client = make_bucket(moto_endpoint), boto_client(moto_endpoint)

    def put(key: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"in/{key}", Body=data)

    for number, key in enumerate([*FREE, *ROOTED, "a", "a/b", "changed.png", "vanished.png"]):
        put(key, image(seed=number))
    put("busy.png", image())
    for key in ("empty.png", "marker/", "notes.md"):
        put(key, b"")
    met: set[str] = set()

    def serve(method: str, path: str, ask: Callable[[], Answer]) -> Answer:
        name = path.rpartition("/")[2]
        if method == "GET" and path.startswith(f"/{bucket}/in/") and name not in met:
            met.add(name)
            if name == "changed.png":
                put(name, image(seed=99, side=20))
            if name == "vanished.png":
                client.delete_object(Bucket=bucket, Key=f"in/{name}")
        if method == "GET" and name == "busy.png":
            return refusal(503, "SlowDown", "Please reduce your request rate.")
        return ask()

    board.serve = serve
    return S3Store(bucket=bucket, prefix="in")


ALWAYS_FAILED = {
    "busy.png": "can't be read: SlowDown: Please reduce your request rate, tried for 1 s",
    "empty.png": "empty: no bytes",
    "vanished.png": "no such object: it vanished since it was listed",
}
ALWAYS_SKIPPED = {
    "marker/": "a folder marker, not an object",
    "notes.md": "not an image: empty",
}


@pytest.mark.usefixtures("session")
def test_odd_objects_in_buckets(odd_source: S3Store, tmp_path: Path) -> None:
    write_weights(tmp_path / "small.safetensors")
    target = S3Store(bucket=odd_source.bucket, prefix="out")
    places = Places(tmp_path, odd_source, target)
    odd_source.put("clash.png", image(seed=1))
    odd_source.put("clash.jpg", image("JPEG", seed=2))
    assert run(places, "--format", "webp", "--retry-for", "1") == 2
    state = places.state()
    clash = {"clash.png": "the result's name clash.webp is that of clash.jpg: rename one of them"}
    assert reasons(state, "failed") == ALWAYS_FAILED | clash
    assert reasons(state, "skipped") == ALWAYS_SKIPPED
    done = [*FREE, *ROOTED, "changed.png", "clash.jpg"]
    expected = {key: key.rpartition(".")[0] + ".webp" for key in done}
    expected |= {"a": "a.webp", "a/b": "a/b.webp"}
    assert {key: row.out_key for key, row in state.items() if row.status == "ok"} == expected
    assert places.outputs().keys() == set(expected.values())
    changed = state["changed.png"]
    assert changed.source_height_px == 20
    assert changed.source_etag == odd_source.info("changed.png").etag


@pytest.mark.usefixtures("session")
def test_odd_objects_from_a_bucket_into_a_folder(odd_source: S3Store, tmp_path: Path) -> None:
    write_weights(tmp_path / "small.safetensors")
    root = tmp_path / "deep" / "er" / "out"
    places = Places(tmp_path, odd_source, FolderStore(root=root, temporary=root / RESERVED / "tmp"))
    assert run(places, "--retry-for", "1") == 2
    state = places.state()
    failed = reasons(state, "failed")
    for key in ROOTED:
        assert f"{key!r}: not a key of a folder" in (failed.pop(key) or "")
    (loser,) = {"a", "a/b"} & failed.keys()
    assert "can't be written" in (failed.pop(loser) or "")
    assert failed == ALWAYS_FAILED
    assert reasons(state, "skipped") == ALWAYS_SKIPPED
    (winner,) = {"a", "a/b"} - {loser}
    expected = {*FREE, "changed.png", winner}
    assert {key for key, row in state.items() if row.status == "ok"} == expected
    assert places.outputs().keys() == expected
    for folder, name in ((root.parent, "out"), (root.parents[1], "er")):
        assert [path.name for path in folder.iterdir()] == [name], "nothing outside is written"
    assert {path.name for path in tmp_path.iterdir()} == {"small.safetensors", "deep"}


# Refusals, and no room.


def only_line(errors: str) -> str:
    """The one line that says why a run ended; the others tell how far it is."""
    assert "Traceback" not in errors
    told = [line for line in errors.splitlines() if "starting" not in line and "MP/s" not in line]
    assert len(told) == 1, errors
    return told[0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("secret", "SignatureDoesNotMatch"),
        ("reader", "AccessDenied"),
        ("source bucket", "NoSuchBucket"),
        ("target bucket", "NoSuchBucket"),
        ("folder", "Operation not permitted|Read-only file system|Permission denied"),
    ],
)
def test_what_is_refused_at_the_start_is_one_line(
    board: Board,
    moto_endpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: str,
    words: str,
) -> None:
    if spoil == "target bucket":  # SeaweedFS would make it
        board.store = moto_endpoint
    places = buckets(tmp_path, board.store)
    places.source.put("a.png", image())
    _, source, target, *rest = places.arguments()
    if spoil == "secret":
        use_store(monkeypatch, board.proxy.endpoint, (WRITER[0], "wrong"))
    elif spoil == "reader":
        use_store(monkeypatch, board.proxy.endpoint, READER)
    elif spoil == "source bucket":
        source = "s3://there-is-no-such-bucket/in"
    elif spoil == "target bucket":
        target = "s3://there-is-no-such-bucket/out"
    else:
        target = "/sys/better"
    assert main(["enhance", source, target, *rest]) == 1
    line = only_line(capsys.readouterr().err)
    assert re.search(words, line)
    assert line.startswith("resray: ")
    assert ";" in line, "it says what to do"


@pytest.mark.usefixtures("session")
def test_credentials_that_expire_end_the_run_and_the_same_command_goes_on(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = buckets(tmp_path, board.seaweedfs)
    for number in range(60):
        places.source.put(f"{number:02d}.png", image(seed=number))
    recorded, lock = threading.Event(), threading.Lock()
    written = 0

    def serve(method: str, path: str, ask: Callable[[], Answer]) -> Answer:
        """Good until the ledger has rows; later results wait for that."""
        nonlocal written
        if recorded.is_set():
            return refusal(400, "ExpiredToken", "The provided token has expired.")
        answer = ask()
        if method == "PUT" and f"{RESERVED}/ledger" in path:
            recorded.set()
        elif method == "PUT" and RESERVED not in path:
            with lock:
                written += 1
                is_early = written <= 20
            if not is_early:
                assert recorded.wait(DEADLINE_S)
        return answer

    board.serve = serve
    assert run(places) == 1
    line = only_line(capsys.readouterr().err)
    assert "ExpiredToken: The provided token has expired" in line
    assert "take new credentials, and the same command goes on" in line
    board.reset()
    state, outputs = places.state(), places.outputs()
    assert {row.status for row in state.values()} == {"ok"}
    assert state.keys() <= outputs.keys() < places.sources().keys()
    assert run(places) == 0
    assert f"{60 - len(state)} enhanced, {len(state)} done before" in capsys.readouterr().out
    assert places.outputs() == undisturbed(places)


def mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty filesystem of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "size=2m")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.usefixtures("session")
def test_a_full_disk_ends_the_run_and_with_room_the_same_command_goes_on(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_weights(tmp_path / "small.safetensors")
    root = small_disk / "out"
    source = FolderStore(root=tmp_path / "in", temporary=tmp_path / "tmp")
    places = Places(tmp_path, source, FolderStore(root=root, temporary=root / RESERVED / "tmp"))
    for number in range(40):
        source.put(f"{number:02d}.png", image(seed=number, side=100))
    assert run(places) == 1
    line = only_line(capsys.readouterr().err)
    assert re.search(r"can't be written: No space left on device", line)
    state, outputs = places.state(), places.outputs()
    assert {row.status for row in state.values()} == {"ok"}
    assert state.keys() <= outputs.keys() < places.sources().keys()
    assert len(state) > 0
    for data in outputs.values():
        assert decode(data).pixels.shape == (200, 204, 3)
    mount(small_disk, "remount,size=50m")
    assert run(places) == 0
    assert f"{40 - len(state)} enhanced, {len(state)} done before" in capsys.readouterr().out
    assert places.outputs() == undisturbed(places)


# Two ways of one result.


@pytest.mark.usefixtures("session")
def test_stages_apart_give_the_same_bytes(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = buckets(tmp_path, board.seaweedfs)
    apart = replace(fused, target=S3Store(bucket=make_bucket(board.seaweedfs), prefix="apart"))
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF"):
        fused.source.put(f"still.{kind.lower()}", still(kind))
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        fused.source.put(f"camera.{kind.lower()}", photo(kind, orientation=6))
    for kind in ("PNG", "TIFF"):
        fused.source.put(f"deep.{kind.lower()}", still_16_bit(kind))
    for channels in (1, 2, 4):
        samples = pillow(noise(30, 40, channels))
        fused.source.put(f"{channels}.png", saved(samples, "PNG"))
    for number in range(30):
        side = 20 + number % 3
        fused.source.put(f"many/{number}.png", image(seed=number, side=side))
    fused.source.put("broken.jpg", image("JPEG")[:200])
    fused.source.put("notes.txt", b"no image")
    assert run(fused) == 2

    def of(resources: Resources, *, workers: tuple[int, int]) -> bulk.Pool:
        return replace(pool_of(resources, workers=workers), cpus=0.0, apart=True)

    pool_of = bulk.Pool.of
    monkeypatch.setattr(bulk.Pool, "of", of)
    assert run(apart) == 2
    assert apart.outputs() == fused.outputs()
    assert outcomes(apart.state()) == outcomes(fused.state())


def outcomes(state: Mapping[str, LedgerRow]) -> dict[str, tuple[Any, ...]]:
    """What a row says, but for its times."""
    return {
        key: (row.status, row.reason, row.out_key, row.source_etag, row.output_bytes)
        for key, row in state.items()
    }
