"""The service on a real Ray Serve: what only shows between processes."""

import asyncio
import contextlib
import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import ray
from image_files import still
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema
from serving_for_tests import (
    MAX_BYTES,
    MAX_PIXELS,
    PROBLEM,
    BadInput,
    Client,
    Load,
    Reply,
    bad_inputs,
    enhance_path,
    free_port,
    photograph,
    pixels_of,
    records,
    wait_until,
)
from weights_for_tests import write_foreign, write_weights

from cluster.connect import ray_session
from pipelines.cli import main
from pipelines.serve import ENVIRONMENT
from pipelines.serve_replicas import (
    INGRESS,
    NETWORK,
    WEIGHTS_KEPT,
    IngressReplica,
    NetworkReplica,
    RemoteNetwork,
    application,
    codec_threads,
    compute_threads,
)
from pipelines.serve_settings import ServeSettings
from resnet_core.weights import load_weights, packaged_weights

APPLICATION = "resray"
KEY = "a-key-of-the-tests-1"


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service."""

    client: Client
    log: Path
    gate: Path
    """While it exists, images wait in the network."""
    settings: ServeSettings

    def network_replicas(self) -> int:
        deployment = serve.status().applications[APPLICATION].deployments[NETWORK]
        return deployment.replica_states.get("RUNNING", 0)

    @contextlib.contextmanager
    def closed_gate(self) -> Iterator[None]:
        self.gate.touch()
        try:
            yield
        finally:
            self.gate.unlink(missing_ok=True)


def gated(gate: Path) -> type[NetworkReplica]:
    """A network that waits for a file to go before each image that is larger than a warm-up's."""
    place = str(gate)

    class GatedReplica(NetworkReplica):
        async def enhance(self, image: Any, strength: float, left_s: float) -> Any:
            import asyncio  # noqa: PLC0415  the class travels by value
            import os  # noqa: PLC0415

            while image.width > 32 and os.path.exists(place):  # noqa: PTH110
                await asyncio.sleep(0.01)
            return await super().enhance(image, strength, left_s)

    return GatedReplica


@pytest.fixture(scope="module")
def running_serve() -> Iterator[int]:
    """Serve on loopback, with the processes that `resray serve` starts; its port."""
    port = free_port()
    with pytest.MonkeyPatch.context() as environment, contextlib.ExitStack() as session:
        for name, value in ENVIRONMENT.items():
            environment.setenv(name, value)
        session.enter_context(ray_session())
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            yield port
        finally:
            serve.shutdown()


def start(port: int, folder: Path, **changes: Any) -> Service:
    log, gate = folder / "access.jsonl", folder / "gate"
    write_weights(folder / "small.safetensors")
    write_weights(folder / "other.safetensors", seed=1)
    settings = replace(
        ServeSettings(
            weights=(str(folder / "small.safetensors"), str(folder / "other.safetensors")),
            max_pixels=MAX_PIXELS,
            max_bytes=MAX_BYTES,
            max_requests=4,
            body_timeout_s=5,
            deadline_s=600,
            network_cpus=0,
            ingress_cpus=0,
            threads=1,
            access_log=str(log),
            upscale_delay_s=0.2,
            downscale_delay_s=0.5,
        ),
        **changes,
    )
    serve.run(application(settings, network_class=gated(gate)), name=APPLICATION)
    return Service(client=Client(port=port), log=log, gate=gate, settings=settings)


@pytest.fixture(scope="module")
def service(running_serve: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    yield start(running_serve, tmp_path_factory.mktemp("service"))
    serve.delete(APPLICATION)


@pytest.mark.ray
@pytest.mark.parametrize("bad", bad_inputs(), ids=lambda bad: bad.name)
def test_every_bad_input_has_its_status_and_a_good_one_still_works(
    service: Service, bad: BadInput
) -> None:
    reply = service.client.ask("POST", bad.path, bad.body, bad.headers)
    assert reply.status == bad.status
    assert reply.headers["content-type"] == PROBLEM
    assert bad.told in reply.json["detail"]
    assert service.client.enhance(still("PNG")).status == 200


@pytest.mark.ray
def test_a_slow_body_is_408_and_leaves_its_place(service: Service) -> None:
    def answer_to_a_part(_: int) -> bytes:
        with service.client.opened(b"\x89", length=1000) as connection:
            answer = b""
            while not answer.endswith(b"}"):
                more = connection.recv(65536)
                assert more
                answer += more
        return answer

    places = service.settings.max_requests
    with ThreadPoolExecutor(places) as pool:
        for answer in pool.map(answer_to_a_part, range(places)):
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"expected the whole body within 5 s" in answer
    assert service.client.enhance(still("PNG")).status == 200


@pytest.mark.ray
def test_clients_that_leave_give_their_places_back(service: Service) -> None:
    before = len(records(service.log))
    with service.closed_gate():
        with contextlib.ExitStack() as connections:
            for _ in range(service.settings.max_requests):
                connections.enter_context(service.client.opened(photograph("PNG")))
            wait_until(lambda: service.client.enhance(still("PNG")).status == 503)
        # The gate is still closed: nothing but their leaving makes room.
        wait_until(lambda: service.client.enhance(still("PNG")).status == 200)
    statuses = [each["status"] for each in records(service.log)[before:]]
    assert set(statuses) <= {200, 499, 503}
    assert statuses.count(499) <= service.settings.max_requests
    assert service.client.enhance(photograph("PNG")).status == 200


@pytest.mark.ray
def test_what_is_too_much_is_503_at_once_and_what_is_late_504(service: Service) -> None:
    picture = photograph("PNG")
    with service.closed_gate(), ThreadPoolExecutor(service.settings.max_requests) as pool:
        before = len(records(service.log))
        deadline = {"X-Resray-Deadline": "20"}

        def hold() -> Reply:
            # The look below may have had its place.
            ask = partial(service.client.ask, "POST", enhance_path(), picture, deadline)
            while (reply := ask()).status == 503:
                pass
            return reply

        held = [pool.submit(hold) for _ in range(service.settings.max_requests)]
        refused = []

        def is_full() -> bool:
            reply = service.client.enhance(b"")
            refused.append(reply)
            return reply.status == 503

        wait_until(is_full)
        late = [each.result() for each in held]
    assert int(refused[-1].headers["retry-after"]) >= 1
    assert refused[-1].json["type"] == "/docs#full"
    assert {reply.status for reply in late} == {504}
    assert "within 20 s" in late[0].json["detail"]
    assert service.client.enhance(picture).status == 200
    assert {each["status"] for each in records(service.log)[before:]} <= {200, 400, 503, 504}


@pytest.mark.ray
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_bulk_run_and_the_endpoint_give_the_same_bytes(
    service: Service, tmp_path: Path, format: str
) -> None:
    data = photograph(format, 120, 150)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "photo.bin").write_bytes(data)
    weights = service.settings.weights[0]
    options = ["--strength", "0.7", "--metadata", "no-gps", "--weights", weights]
    assert main(["enhance", str(tmp_path / "in"), str(tmp_path / "out"), *options]) == 0
    (bulk,) = (path for path in (tmp_path / "out").iterdir() if path.is_file())
    reply = service.client.enhance(data, strength=0.7, metadata="no-gps")
    assert reply.status == 200
    assert np.array_equal(pixels_of(reply.body), pixels_of(bulk.read_bytes()))
    assert reply.body == bulk.read_bytes()
    assert reply.headers["x-resray-weights"] == "small"
    assert reply.headers["x-resray-weights-sha256"] == load_weights(weights).sha256
    assert re.fullmatch(
        r"decode;dur=\S+, queue;dur=\S+, network;dur=\S+, encode;dur=\S+",
        reply.headers["server-timing"],
    )


@pytest.mark.ray
def test_several_weights_are_served_at_once(service: Service) -> None:
    picture = photograph("PNG")
    with ThreadPoolExecutor(4) as pool:
        replies = list(
            pool.map(
                lambda name: service.client.enhance(picture, weights=name), ["small", "other"] * 4
            )
        )
    assert [reply.headers["x-resray-weights"] for reply in replies] == ["small", "other"] * 4
    assert replies[0].body == replies[2].body != replies[1].body


@pytest.mark.ray
def test_a_replica_that_dies_under_an_image_does_not_lose_it(service: Service) -> None:
    with ThreadPoolExecutor(1) as pool:
        with service.closed_gate():
            held = pool.submit(service.client.enhance, photograph("PNG"))
            wait_until(lambda: not held.done())
            for name in replica_names(NETWORK):
                ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)
        assert held.result().status == 200


def replica_names(deployment: str) -> list[str]:
    actors = ray.util.list_named_actors(all_namespaces=True)
    return [each["name"] for each in actors if f"#{deployment}#" in each["name"]]


@pytest.mark.ray
def test_prometheus_is_told_in_units(service: Service) -> None:
    assert service.client.enhance(photograph("PNG")).status == 200
    (port,) = {node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]}
    expected = (
        "resray_requests_total",
        "resray_request_seconds_bucket",
        "resray_stage_seconds_bucket",
        "resray_pixels_total",
        "resray_in_hand_requests",
        "resray_in_hand_pixels",
        "resray_batch_windows_bucket",
        "resray_batch_seconds_bucket",
    )

    def is_told() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
            text = reply.read().decode()
        return all(f"ray_{name}" in text for name in expected)

    wait_until(is_told)


def deploy(settings: dict[str, Any], user_config: dict[str, Any] | None) -> None:
    """As `serve deploy` does with a file."""
    override = [] if user_config is None else [{"name": INGRESS, "user_config": user_config}]
    config = {
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "pipelines.serve:build",
                "args": settings,
                "deployments": override,
            }
        ]
    }
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config), _blocking=True)


@pytest.mark.ray
def test_weights_are_exchanged_under_load_without_a_failed_request(
    running_serve: int, tmp_path: Path
) -> None:
    first = str(write_weights(tmp_path / "a" / "mine.safetensors", seed=1))
    second = str(write_weights(tmp_path / "b" / "mine.safetensors", seed=2))
    old, new = (load_weights(place).sha256 for place in (first, second))
    settings = {
        "weights": [first],
        "network_cpus": 0,
        "ingress_cpus": 0,
        "threads": 1,
        "access_log": "",
    }
    client = Client(port=running_serve)
    deploy(settings, {"weights": [first]})
    try:
        with Load(client, still("PNG"), clients=4) as load:
            wait_until(lambda: len(load.seen) > 10)
            before = replica_names(INGRESS)
            deploy(settings, {"weights": [second]})
            count = len(load.seen)
            wait_until(lambda: len(load.seen) > count + 10)
            deploy(settings, {"weights": [str(tmp_path / "missing.safetensors")]})
            count = len(load.seen)
            wait_until(lambda: len(load.seen) > count + 10)
            health = client.ask("GET", "/healthz").json
        assert "missing.safetensors: no such file" in health["refused"]
        assert {status for status, _ in load.seen} == {200}
        hashes = [sha256 for _, sha256 in load.seen]
        assert hashes[0] == old
        assert hashes[-1] == new
        assert set(hashes) == {old, new}
        assert replica_names(INGRESS) == before, "no replica was started anew"
    finally:
        serve.delete(APPLICATION)


@pytest.mark.ray
def test_replicas_come_from_none_with_the_load_and_go_again(
    running_serve: int, tmp_path: Path
) -> None:
    service = start(
        running_serve, tmp_path, min_replicas=0, max_replicas=2, target_requests=1, max_requests=8
    )
    try:
        wait_until(lambda: service.network_replicas() == 0)
        with ThreadPoolExecutor(6) as pool:
            with service.closed_gate():
                held = [pool.submit(service.client.enhance, photograph("PNG")) for _ in range(6)]
                wait_until(lambda: service.network_replicas() == 2)
            assert {each.result().status for each in held} == {200}
        wait_until(lambda: service.network_replicas() == 0)
        assert service.client.enhance(photograph("PNG")).status == 200
    finally:
        serve.delete(APPLICATION)


@pytest.mark.ray
def test_weights_from_elsewhere_give_the_bytes_of_a_bulk_run(
    running_serve: int, tmp_path: Path
) -> None:
    theirs = str(write_foreign(tmp_path / "theirs.pth", "span"))
    data = photograph("PNG", 120, 150)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "photo.png").write_bytes(data)
    assert main(["enhance", str(tmp_path / "in"), str(tmp_path / "out"), "--weights", theirs]) == 0
    service = start(running_serve, tmp_path, weights=(theirs,))
    try:
        reply = service.client.enhance(data)
        (model,) = service.client.ask("GET", "/v1/models").json["models"]
    finally:
        serve.delete(APPLICATION)
    assert reply.body == (tmp_path / "out" / "photo.png").read_bytes()
    assert reply.headers["x-resray-weights-sha256"] == load_weights(theirs).sha256
    assert (model["name"], model["task"], model["licence"]) == ("theirs", "other-x2", "not known")


@pytest.mark.ray
def test_a_shutdown_finishes_what_it_has_begun(running_serve: int, tmp_path: Path) -> None:
    service = start(running_serve, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        with service.closed_gate():
            held = pool.submit(service.client.enhance, photograph("PNG"))
            wait_until(lambda: service.client.ask("GET", "/healthz").status == 200)
            over = pool.submit(serve.delete, APPLICATION)
            wait_until(lambda: service.client.ask("GET", "/healthz").status == 404)
        assert held.result().status == 200
        over.result()


@pytest.mark.ray
def test_an_image_of_several_megabytes_comes_whole(running_serve: int, tmp_path: Path) -> None:
    service = start(running_serve, tmp_path, max_pixels=10**7, max_bytes=10**8)
    try:
        reply = service.client.enhance(photograph("BMP", 1100, 1300), strength=0)
        assert reply.status == 200
        assert len(reply.body) > 16_000_000
        assert pixels_of(reply.body).shape == (2200, 2600, 3)
    finally:
        serve.delete(APPLICATION)


@pytest.mark.ray
def test_keys_are_asked_for_on_v1_alone(running_serve: int, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}  # of the tests\n", encoding="utf-8")
    service = start(running_serve, tmp_path, keys_file=str(keys), require_keys=True)
    try:
        assert service.client.ask("GET", "/healthz").status == 200
        for key, status in ((None, 401), ("another-key-of-tests", 401), (KEY, 200)):
            client = replace(service.client, key=key)
            assert client.enhance(still("PNG")).status == status
            assert client.ask("GET", "/v1/models").status == status
        assert KEY not in service.log.read_text(encoding="utf-8")
    finally:
        serve.delete(APPLICATION)


def test_a_replica_keeps_all_weights_of_the_package_while_they_are_exchanged() -> None:
    assert 2 * len(packaged_weights()) <= WEIGHTS_KEPT


def test_weights_that_do_not_get_warm_end_no_replica_and_exchange_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def broken(*_args: Any, **_settings: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    replica = IngressReplica(ServeSettings(), cast("Any", None))
    first, second = (
        {"weights": [str(write_weights(tmp_path / f"{name}.safetensors"))]} for name in ("a", "b")
    )
    monkeypatch.setattr(RemoteNetwork, "enhance", broken)
    asyncio.run(replica.reconfigure(first))
    assert replica.refused is None
    asyncio.run(replica.reconfigure(second))
    assert replica.refused == "the network can't load the weights 'b': CUDA out of memory"
    assert replica.served.default.name == "a"


def test_threads_follow_what_a_replica_holds() -> None:
    assert compute_threads(ServeSettings(network_cpus=4)) == 4
    assert compute_threads(ServeSettings(network_cpus=0)) == 1
    assert compute_threads(ServeSettings(network_cpus=4, threads=2)) == 2
    assert codec_threads(ServeSettings(ingress_cpus=3)) == 3
    assert codec_threads(ServeSettings(ingress_cpus=0)) >= 1
