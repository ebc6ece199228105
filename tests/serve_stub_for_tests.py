"""The endpoint's interface on loopback, in this process and without Ray, for tests of its page."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from pipelines.enhance_object import RunSettings, core_settings
from pipelines.serve_page import page_file
from resnet_core.enhancer import Enhancer
from resnet_core.errors import ImageTooLargeError, ResrayError, UnsupportedImageError
from resnet_core.images import FORMATS, decode, encode, output_format
from resnet_core.weights import load_weights

MAX_BYTES, MAX_PIXELS = 2_000_000, 500_000
START_S = 30


@dataclass
class Stub:
    """A running server: its address, the API key that it wants, and the queries it took."""

    url: str = ""
    key: str | None = None
    queries: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


@cache
def _enhancer(weights: str, strength: float) -> Enhancer:
    loaded = load_weights(weights)
    settings = RunSettings(
        weights_name=loaded.name, weights_sha256=loaded.sha256, strength=strength
    )
    return Enhancer(loaded, core_settings(settings))


def _problem(status: int, title: str, detail: str) -> JSONResponse:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")


def _models(names: tuple[str, ...]) -> dict[str, Any]:
    weights = [load_weights(name) for name in names]
    return {
        "models": [
            {
                "name": one.name,
                "sha256": one.sha256,
                "task": one.metadata.task,
                "scale": one.config.scale,
                "parameters": sum(p.numel() for p in one.network.parameters()),
                "licence": one.metadata.licence,
            }
            for one in weights
        ],
        "default": names[0],
        "limits": {"max_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS},
        "formats": [
            {"name": spec.name, "extensions": spec.extensions, "quality": spec.quality}
            for spec in FORMATS.values()
        ],
    }


def _enhanced(data: bytes, query: dict[str, str]) -> Response:
    began_s = time.perf_counter()
    strength = float(query.get("strength", "1"))
    quality = query.get("quality")
    enhancer = _enhancer(query["weights"], strength)
    image = decode(data, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES)
    settings = RunSettings(
        weights_name=enhancer.weights.name,
        weights_sha256=enhancer.weights.sha256,
        strength=strength,
        format=output_format(image.format, query["format"]) if "format" in query else None,
        quality=None if quality is None else int(quality),
        metadata=query.get("metadata", "keep"),  # pyright: ignore[reportArgumentType]
    )
    encoded = encode(
        enhancer.enhance(image),
        format=settings.format,
        quality=settings.quality,
        metadata=settings.metadata,
        provenance=settings.provenance,
    )
    headers = {
        "X-Resray-Weights": settings.weights_name,
        "X-Resray-Weights-Sha256": settings.weights_sha256,
        "Server-Timing": f"total;dur={1000 * (time.perf_counter() - began_s):.1f}",
    }
    return Response(encoded.data, media_type=encoded.media_type, headers=headers)


def _answer(data: bytes, query: dict[str, str]) -> Response:
    try:
        return _enhanced(data, query)
    except UnsupportedImageError as error:
        return _problem(415, "Unsupported Media Type", str(error))
    except ImageTooLargeError as error:
        return _problem(413, "Content Too Large", str(error))
    except ResrayError as error:
        return _problem(422, "Unprocessable Content", str(error))


def _app(stub: Stub, names: tuple[str, ...]) -> FastAPI:
    app = FastAPI()

    def refusal(request: Request) -> Response | None:
        if stub.key is None or request.headers.get("Authorization") == f"Bearer {stub.key}":
            return None
        return _problem(401, "Unauthorized", "expected Authorization: Bearer KEY")

    @app.get("/v1/models")
    def models(request: Request) -> Response:
        return refusal(request) or JSONResponse(_models(names))

    @app.post("/v1/enhance")
    async def enhance(request: Request) -> Response:
        query = dict(request.query_params)
        refused = refusal(request)
        if refused is None:
            stub.queries.append(query)
        return refused or _answer(await request.body(), query)

    @app.get("/{path:path}")
    def page(path: str) -> Response:
        found = page_file(f"/{path}")
        if found is None:
            return _problem(404, "Not Found", f"no page at /{path}")
        return Response(found.data, media_type=found.media_type, headers=found.headers)

    return app


@contextmanager
def serve_stub(*names: str) -> Generator[Stub]:
    """Serves packaged weights, the first as the default, until the block ends."""
    stub = Stub()
    config = uvicorn.Config(
        _app(stub, names), port=0, ws="none", lifespan="off", log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="serve-stub", daemon=True)
    thread.start()
    deadline_s = time.monotonic() + START_S
    while not server.started:
        assert thread.is_alive(), "the stub ended at its start"
        assert time.monotonic() < deadline_s, "the stub doesn't start"
        time.sleep(0.01)
    stub.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield stub
    finally:
        server.should_exit = True
        thread.join()
