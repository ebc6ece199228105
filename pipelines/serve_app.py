"""The HTTP interface: addresses, parameters, keys, problems and the record of each request.

An ASGI application that knows no engine. No CORS header is ever sent: pages of other origins can't
read answers.
"""

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.api_keys import ApiKeys
from pipelines.catalogue import Catalogue
from pipelines.enhance_request import Answer, EnhanceService, Wish
from pipelines.problems import (
    CLIENT_GONE_STATUS,
    KINDS,
    MEDIA_TYPE,
    Problem,
    ProblemError,
    problem_of,
)
from pipelines.request_record import Observer, RequestRecord
from pipelines.serve_docs import render_docs
from pipelines.serve_page import page_file
from pipelines.serve_settings import ServeSettings
from resnet_core.errors import ResrayError, did_you_mean
from resnet_core.guard import Guard
from resnet_core.images import FORMATS, MetadataPolicy

DEADLINE_HEADER = "X-Resray-Deadline"
WEIGHTS_HEADER = "X-Resray-Weights"
WEIGHTS_HASH_HEADER = "X-Resray-Weights-Sha256"
DEVIATION_HEADER = "X-Resray-Deviation"
REQUEST_ID_HEADER = "X-Request-Id"
PARAMETERS = ("weights", "strength", "format", "quality", "metadata", "guard")
WRITTEN = [name.lower() for name, spec in FORMATS.items() if spec.writes]

DESCRIPTION = """\
Makes images sharper, cleaner and larger with residual networks. Send an image, get a better one.
"""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "One image: its bytes, or a form with one file field `image`.",
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def build_app(
    service: EnhanceService,
    *,
    keys: ApiKeys,
    observers: Sequence[Observer] = (),
    refused: Callable[[], str | None] = lambda: None,
) -> App:
    """The application; each observer is told of each request after its end.

    `refused`: why the newest configuration isn't the one that is served, for /healthz.
    """
    app = FastAPI(
        title="resray",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _answer_problems(app)
    _add_interface(app, service, keys)
    _add_health(app, refused)
    _add_pages(app)
    return _Recorded(app, observers)


def _add_interface(app: FastAPI, service: EnhanceService, keys: ApiKeys) -> None:
    async def check_key(
        authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
    ) -> None:
        if not keys.admit(authorization):
            found = "another" if authorization else "none"
            raise ProblemError(
                "no-key",
                f"expected the header `Authorization: Bearer KEY` with a known key, found {found}",
                headers={"WWW-Authenticate": 'Bearer realm="resray"'},
            )

    @app.post(
        "/v1/enhance",
        summary="A better image",
        dependencies=[Depends(check_key)],
        openapi_extra=_BODY,
        responses=_documented_responses(),
        response_class=Response,
    )
    async def enhance(
        request: Request,
        weights: Annotated[str | None, Query(description="a name from /v1/models")] = None,
        strength: Annotated[
            float,
            Query(description="0 changes nothing but the size, 1 is as learned; -4 to 4"),
        ] = 1.0,
        format: Annotated[  # noqa: A002  the parameter's name
            str | None, Query(description=f"of the result: {', '.join(WRITTEN)}; else the source's")
        ] = None,
        quality: Annotated[int | None, Query(description="in the format's own scale")] = None,
        metadata: Annotated[
            MetadataPolicy, Query(description="keep EXIF and XMP, without the position, or not")
        ] = "keep",
        guard: Annotated[
            Guard, Query(description="send a result that is too far from the image, or refuse it")
        ] = "mark",
        deadline_s: Annotated[
            float | None,
            Header(alias=DEADLINE_HEADER, description="seconds from the first byte, at most"),
        ] = None,
    ) -> Response:
        _refuse_unknown(request)
        wish = Wish(
            weights=weights,
            strength=strength,
            format=format,
            quality=quality,
            metadata=metadata,
            guard=guard,
            deadline_s=deadline_s,
        )
        record = _record(request)
        try:
            answer = await service.answer(wish, request.headers, request.stream(), record)
        except (ResrayError, ProblemError, ClientDisconnect):
            raise
        except Exception as error:
            _log.exception("request %s", record.request_id)
            raise ProblemError("internal", problem_of(error).detail) from error
        return _image_response(answer, record)

    @app.head("/v1/models", include_in_schema=False, dependencies=[Depends(check_key)])
    @app.get("/v1/models", summary="What is served", dependencies=[Depends(check_key)])
    async def models() -> JSONResponse:
        return JSONResponse(
            describe(service.catalogue(), service.settings), headers={"Cache-Control": "no-cache"}
        )


def _add_health(app: FastAPI, refused: Callable[[], str | None]) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether it answers, and what it couldn't take over")
    async def healthz() -> JSONResponse:
        reason = refused()
        told = {} if reason is None else {"refused": reason}
        return JSONResponse({"status": "ok", **told}, headers=_NO_STORE)


def _add_pages(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(
            render_docs(app.openapi()), headers={"X-Content-Type-Options": "nosniff"}
        )

    @app.api_route("/assets/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        file = page_file(request.url.path)
        if file is None:
            raise ProblemError("not-found", f"no such file: {request.url.path}")
        return Response(file.data, media_type=file.media_type, headers=file.headers)


def describe(catalogue: Catalogue, settings: ServeSettings) -> dict[str, Any]:
    """The document of GET /v1/models."""
    return {
        "models": [
            {
                "name": each.name,
                "sha256": each.sha256,
                "task": each.task,
                "scale": each.scale,
                "parameters": each.parameters,
                "licence": each.licence,
            }
            for each in catalogue.served
        ],
        "default": catalogue.default.name,
        "limits": {"max_bytes": settings.max_bytes, "max_pixels": settings.max_pixels},
        "formats": [
            {
                "name": name.lower(),
                "extensions": list(spec.extensions),
                "quality": None if spec.quality is None else list(spec.quality),
            }
            for name, spec in FORMATS.items()
            if spec.writes
        ],
    }


def _image_response(answer: Answer, record: RequestRecord) -> Response:
    headers = {
        WEIGHTS_HEADER: _header_text(answer.weights.name),
        WEIGHTS_HASH_HEADER: answer.weights.sha256,
        DEVIATION_HEADER: f"{answer.deviation.share:.3f}",
        "Server-Timing": record.server_timing,
        **_NO_STORE,
    }
    return Response(answer.encoded.data, media_type=answer.encoded.media_type, headers=headers)


def _header_text(name: str) -> str:
    return name.encode("ascii", "backslashreplace").decode("ascii")


def _refuse_unknown(request: Request) -> None:
    for name in request.query_params:
        if name not in PARAMETERS:
            raise ProblemError(
                "bad-value", f"unknown parameter {name!r}; {did_you_mean(name, PARAMETERS)}"
            )


def _documented_responses() -> dict[int | str, dict[str, Any]]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    documented: dict[int | str, dict[str, Any]] = {
        200: {"description": "The better image.", "content": {"image/*": binary}}
    }
    for kind in KINDS.values():
        told = documented.get(kind.status, {}).get("description")
        description = f"{told} Or: {kind.title}." if told else f"{kind.title}."
        documented[kind.status] = {"description": description, "content": {MEDIA_TYPE: {}}}
    return documented


def _answer_problems(app: FastAPI) -> None:
    async def known(request: Request, error: Exception) -> Response:
        return _problem_response(request, problem_of(error))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        detail = f"{first['loc'][-1]}: {first['msg']}, found {first.get('input')!r}"
        return _problem_response(request, Problem(kind=KINDS["bad-value"], detail=detail))

    async def unrouted(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        found = f"{request.method} {request.url.path}"
        if error.status_code == KINDS["wrong-method"].status:
            allowed = (error.headers or {}).get("Allow", "another method")
            detail = f"expected {allowed}, found {found}"
            problem = Problem(
                kind=KINDS["wrong-method"], detail=detail, headers=dict(error.headers or {})
            )
        else:
            problem = Problem(kind=KINDS["not-found"], detail=f"no such address: {found}")
        return _problem_response(request, problem)

    async def gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE_STATUS)  # into the record, and to nobody

    app.add_exception_handler(ClientDisconnect, gone)
    for kind in (ResrayError, ProblemError):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unrouted)


def _problem_response(request: Request, problem: Problem) -> Response:
    record = _record(request)
    record.problem = problem.kind.slug
    return Response(
        problem.body(record.request_id),
        status_code=problem.kind.status,
        media_type=MEDIA_TYPE,
        headers={**_NO_STORE, **problem.headers},
    )


def _record(request: Request) -> RequestRecord:
    return request.scope["resray.record"]


class _Recorded:
    """Keeps the record of each request, whatever ends it."""

    def __init__(self, app: App, observers: Sequence[Observer]):
        self._app = app
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER)
        is_plain = given is not None and _REQUEST_ID.fullmatch(given)
        record = RequestRecord(
            request_id=given if given and is_plain else uuid.uuid4().hex,
            method=scope["method"],
            path=scope["path"],
        )
        scope["resray.record"] = record

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if given is None:  # else whoever gave it, Serve's proxy, also answers with it
                    _set_request_id(message, record.request_id)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:  # by Serve, when the client has left
            record.status = CLIENT_GONE_STATUS
            raise
        finally:
            record.finish()
            for observe in self._observers:
                observe(record)


def _set_request_id(message: Message, request_id: str) -> None:
    name = REQUEST_ID_HEADER.lower().encode("ascii")
    message["headers"] = [*message.get("headers", ()), (name, request_id.encode("ascii"))]
