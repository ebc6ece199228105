"""The HTTP interface without an engine: every address, every bad input, keys, headers, records."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from image_files import still
from serving_for_tests import (
    BOUNDARY,
    MAX_BYTES,
    MAX_PIXELS,
    PROBLEM,
    BadInput,
    bad_inputs,
    enhance_path,
    form_body,
    photograph,
    pixels_of,
)
from weights_for_tests import write_weights

from pipelines import serve_app
from pipelines.admission import Admission
from pipelines.api_keys import ApiKeys, load_keys
from pipelines.catalogue import Catalogue, ServedWeights, load_catalogue, load_model
from pipelines.enhance_request import EnhanceService
from pipelines.request_record import RequestRecord
from pipelines.serve_app import App, build_app
from pipelines.serve_page import PageFile
from pipelines.serve_settings import ServeSettings
from resnet_core.enhancer import Enhanced, Enhancer
from resnet_core.images import FORMATS, Image

KEY = "a-key-of-the-tests-1"


class LocalNetwork:
    """In this process, or with an error that nobody expects."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.is_broken = False
        """Nothing is left of the picture."""

    async def enhance(
        self, weights: ServedWeights, image: Image, *, strength: float, left_s: float
    ) -> Enhanced:
        assert left_s > 0
        if self.fault is not None:
            raise self.fault
        found = Enhancer(load_model(weights.model_id)).enhance_measured(image, strength=strength)
        if self.is_broken:
            black = np.zeros_like(found.image.pixels)
            return replace(found, image=replace(found.image, pixels=black))
        return found


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("weights")
    places = [
        str(write_weights(folder / f"{name}.safetensors", seed=seed))
        for seed, name in enumerate(("small", "other"))
    ]
    return load_catalogue(places)


class Site:
    """An application, and the records of its requests."""

    def __init__(self, catalogue: Catalogue, *, keys: ApiKeys | None = None) -> None:
        self.records: list[RequestRecord] = []
        self.network = LocalNetwork()
        self.refused: str | None = None
        self.admission = Admission(max_requests=4, max_pixels=MAX_PIXELS)
        self._catalogue = catalogue
        self._keys = keys or ApiKeys()

    def _app(self, threads: ThreadPoolExecutor) -> App:
        service = EnhanceService(
            settings=ServeSettings(max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES),
            catalogue=lambda: self._catalogue,
            network=self.network,
            admission=self.admission,
            threads=threads,
        )
        return build_app(
            service,
            keys=self._keys,
            observers=[self.records.append],
            refused=lambda: self.refused,
        )

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        async def answer(client: httpx.AsyncClient) -> httpx.Response:
            return await client.request(method, path, content=body, headers=headers)

        return self.run(answer)

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> httpx.Response:
        async def within() -> httpx.Response:
            with ThreadPoolExecutor(2) as threads:
                transport = httpx.ASGITransport(app=self._app(threads))
                async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                    return await work(client)

        reply = asyncio.run(within())
        assert (self.admission.requests, self.admission.pixels) == (0, 0)
        return reply


@pytest.fixture
def site(catalogue: Catalogue) -> Site:
    return Site(catalogue)


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models"])
def test_head_has_the_headers_of_get(site: Site, path: str) -> None:
    found, wanted = site.ask("HEAD", path), site.ask("GET", path)
    assert found.status_code == wanted.status_code == 200
    assert found.headers["content-type"] == wanted.headers["content-type"]


def test_an_address_with_a_stroke_too_many_is_not_found(site: Site) -> None:
    assert site.ask("GET", "/v1/models/").status_code == 404


@pytest.mark.parametrize("bad", bad_inputs(), ids=lambda bad: bad.name)
def test_every_bad_input_is_a_problem_that_says_what_was_expected(
    site: Site, bad: BadInput
) -> None:
    reply = site.ask("POST", bad.path, bad.body, dict(bad.headers))
    assert reply.status_code == bad.status
    assert reply.headers["content-type"] == PROBLEM
    found = reply.json()
    assert bad.told in found["detail"]
    assert found["status"] == bad.status
    (record,) = site.records
    assert found["instance"] == f"urn:request:{record.request_id}"
    assert found["type"] == f"/docs#{record.problem}"
    assert record.status == bad.status


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF"])
def test_the_answer_is_an_image_of_the_sources_format(site: Site, format: str) -> None:
    reply = site.ask("POST", enhance_path(), still(format))
    written = FORMATS[format if format != "GIF" else "PNG"]
    assert reply.status_code == 200
    assert reply.headers["content-type"] == written.media_type
    assert pixels_of(reply.content).shape[:2] == (18, 28)


def test_a_form_and_a_raw_body_give_the_same(site: Site) -> None:
    picture = photograph("JPEG")
    raw = site.ask("POST", enhance_path(strength=0.3), picture)
    form = site.ask(
        "POST",
        enhance_path(strength=0.3),
        form_body({"image": picture}),
        {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )
    assert raw.status_code == form.status_code == 200
    assert raw.content == form.content


def test_headers_tell_the_weights_and_the_time(site: Site, catalogue: Catalogue) -> None:
    reply = site.ask("POST", enhance_path(weights="other", format="png"), still("JPEG"))
    assert reply.headers["x-resray-weights"] == "other"
    assert reply.headers["x-resray-weights-sha256"] == catalogue.find("other").sha256
    assert reply.headers["server-timing"].startswith("decode;dur=")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-type"] == "image/png"
    assert len(reply.headers["x-request-id"]) == 32


def test_a_result_that_is_another_picture_is_marked_or_refused(site: Site) -> None:
    good = site.ask("POST", enhance_path(strength=0, guard="fail"), still("PNG"))
    assert good.status_code == 200
    assert 0 < float(good.headers["x-resray-deviation"]) < 1
    site.network.is_broken = True
    marked = site.ask("POST", enhance_path(), still("PNG"))
    assert marked.status_code == 200
    assert float(marked.headers["x-resray-deviation"]) > 1
    refused = site.ask("POST", enhance_path(guard="fail"), still("PNG"))
    assert refused.status_code == 422
    assert refused.json()["type"] == "/docs#suspect"
    assert refused.json()["detail"].startswith("the result is suspect: ")
    assert "--guard" not in refused.text


def test_strength_0_is_the_enlargement_alone(site: Site) -> None:
    picture = still("PNG")
    plain, usual = (
        pixels_of(site.ask("POST", enhance_path(strength=s), picture).content) for s in (0, 1)
    )
    assert np.abs(plain.astype(int) - usual).max() > 3


def test_health_tells_what_was_refused(site: Site) -> None:
    assert site.ask("GET", "/healthz").json() == {"status": "ok"}
    site.refused = "weights x: no such file"
    found = site.ask("GET", "/healthz")
    assert found.status_code == 200
    assert found.json() == {"status": "ok", "refused": "weights x: no such file"}


def test_models_are_described(site: Site) -> None:
    found = site.ask("GET", "/v1/models").json()
    assert [model["name"] for model in found["models"]] == ["small", "other"]
    assert set(found["models"][0]) == {"name", "sha256", "task", "scale", "parameters", "licence"}
    assert found["default"] == "small"
    assert found["limits"] == {"max_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS}
    formats = {each["name"]: each for each in found["formats"]}
    assert formats["jpeg"] == {
        "name": "jpeg",
        "extensions": [".jpg", ".jpeg", ".jpe", ".jfif"],
        "quality": [1, 100],
    }
    assert formats["png"]["quality"] is None
    assert "gif" not in formats


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("GET", "/v1/enhance", 405, "expected POST, found GET /v1/enhance"),
        ("POST", "/healthz", 405, "expected GET, found POST /healthz"),
        ("GET", "/v1/nothing", 404, "no such address: GET /v1/nothing"),
        ("GET", "/assets/..%2Fsecret", 404, "no such address"),
        ("GET", "/assets/nothing.js", 404, "no such file: /assets/nothing.js"),
    ],
)
def test_what_is_not_there_is_a_problem_too(
    site: Site, method: str, path: str, status: int, told: str
) -> None:
    reply = site.ask(method, path)
    assert reply.status_code == status
    assert reply.headers["content-type"] == PROBLEM
    assert told in reply.json()["detail"]


def test_keys_are_asked_for_on_v1_and_nowhere_else(catalogue: Catalogue, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY, encoding="utf-8")
    site = Site(catalogue, keys=load_keys(str(file), environment={}))
    for path in ("/healthz", "/docs", "/openapi.json"):
        assert site.ask("GET", path).status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
        for method, path in (("GET", "/v1/models"), ("POST", enhance_path(strength="x"))):
            reply = site.ask(method, path, still("PNG") if method == "POST" else None, headers)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"].startswith("Bearer")
            assert "expected the header" in reply.json()["detail"]
    good = {"Authorization": f"Bearer {KEY}"}
    assert site.ask("POST", enhance_path(), still("PNG"), good).status_code == 200
    assert KEY not in "".join(record.line() for record in site.records)


def test_other_origins_get_no_permission(site: Site) -> None:
    origin = {"Origin": "https://elsewhere.example"}
    reply = site.ask("GET", "/v1/models", headers=origin)
    assert not [name for name in reply.headers if name.startswith("access-control")]
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    assert site.ask("OPTIONS", "/v1/enhance", headers=preflight).status_code == 405


def test_the_page_goes_out_with_its_own_headers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Content-Security-Policy": "default-src 'none'"}
    files = {
        "/": PageFile(data=b"<h1>", media_type="text/html", headers=headers),
        "/assets/serve.js": PageFile(data=b"1", media_type="text/javascript", headers={}),
    }
    monkeypatch.setattr(serve_app, "page_file", files.get)
    for path, file in files.items():
        reply = site.ask("GET", path)
        assert reply.content == file.data
        assert reply.headers["content-type"].startswith(file.media_type)
        assert file.headers.items() <= dict(reply.headers).items() or path == "/"
    assert site.ask("GET", "/").headers["content-security-policy"] == "default-src 'none'"


def test_a_fault_is_500_without_its_message_and_in_the_record(site: Site) -> None:
    site.network.fault = RuntimeError("a secret of the service")
    reply = site.ask("POST", enhance_path(), still("PNG"))
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert site.records[0].problem == "internal"


def test_a_client_that_leaves_is_499_in_the_record_alone(site: Site) -> None:
    async def leave(client: httpx.AsyncClient) -> httpx.Response:
        app = client._transport.app
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/enhance",
            "query_string": b"",
            "headers": [],
        }
        await app(scope, receive, send)
        assert not any(message.get("body") for message in sent)
        return await client.get("/healthz")

    assert site.run(leave).status_code == 200
    assert [record.status for record in site.records] == [499, 200]


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ('"{}\n', False), ("x" * 65, False)])
def test_a_plain_request_id_is_kept(site: Site, given: str, kept: bool) -> None:
    site.ask("GET", "/healthz", headers={"X-Request-Id": given.replace("\n", "")})
    assert (site.records[0].request_id == given) == kept


def test_the_description_names_every_parameter_and_status(site: Site) -> None:
    found = site.ask("GET", "/openapi.json").json()
    enhance = found["paths"]["/v1/enhance"]["post"]
    names = {each["name"] for each in enhance["parameters"]}
    assert names == {*serve_app.PARAMETERS, serve_app.DEADLINE_HEADER}
    assert {"200", "400", "401", "404", "408", "413", "415", "422", "503", "504"} <= set(
        enhance["responses"]
    )
    assert set(enhance["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    json.dumps(found)


def test_the_page_of_the_interface_needs_nothing_else(site: Site) -> None:
    text = site.ask("GET", "/docs").text
    for part in ("POST /v1/enhance", "strength", "unsupported-image", 'id="too-large"'):
        assert part in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
