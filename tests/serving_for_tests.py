"""Requests, and images to send, for the tests of serving."""

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import quote
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import numpy as np
from image_files import noise, photo, pillow, saved, still
from namespaces_for_tests import LOOPBACK
from photographs_for_tests import make_photograph
from PIL import Image as PillowImage

PROBLEM = "application/problem+json"
MAX_PIXELS = 90_000
MAX_BYTES = 300_000
BOUNDARY = "a-boundary-of-tests"


def photograph(format: str, height: int = 40, width: int = 52) -> bytes:
    """With EXIF, XMP and a profile."""
    return photo(format, samples=make_photograph(height, width))


def png_bomb() -> bytes:
    """A few kilobytes that claim 400 megapixels, and hold them."""
    out = io.BytesIO()
    PillowImage.new("1", (20_000, 20_000)).save(out, "PNG")
    return out.getvalue()


def animated_gif() -> bytes:
    frames = [pillow(noise(9, 14, 3, seed=seed)) for seed in range(3)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


def large_body() -> bytes:
    """A whole image of more bytes than the limit, of fewer pixels."""
    return saved(pillow(noise(290, 290, 4, seed=1)), "BMP")


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """A request that must fail, and how."""

    name: str
    body: bytes = field(default_factory=lambda: still("PNG"), repr=False)
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int
    told: str
    """A part of `detail`."""

    @property
    def path(self) -> str:
        return enhance_path(**self.query)


def bad_inputs() -> list[BadInput]:
    jpeg = photograph("JPEG")
    form = f"multipart/form-data; boundary={BOUNDARY}"
    return [
        BadInput(name="empty body", body=b"", status=400, told="the body is empty"),
        BadInput(name="text", body=b"hello, world", status=415, told="68 65 6c 6c 6f"),
        BadInput(name="HTML", body=b"<html></html>", status=415, told="found HTML"),
        BadInput(
            name="half a JPEG", body=jpeg[: len(jpeg) // 2], status=422, told="JPEG is truncated"
        ),
        BadInput(name="PNG bomb", body=png_bomb(), status=413, told="400.0 megapixels"),
        BadInput(name="too many bytes", body=large_body(), status=413, told="over the limit"),
        BadInput(name="animated GIF", body=animated_gif(), status=415, told="expected a still"),
        BadInput(
            name="unknown weights", query={"weights": "smal"}, status=404, told="mean 'small'?"
        ),
        BadInput(
            name="strength nan", query={"strength": "nan"}, status=422, told="expected -4 to 4"
        ),
        BadInput(name="strength text", query={"strength": "much"}, status=422, told="'much'"),
        BadInput(
            name="quality 0",
            body=jpeg,
            query={"quality": 0},
            status=422,
            told="quality 0 is out of the scale of JPEG, 1 to 100",
        ),
        BadInput(
            name="quality 0 of a named format",
            query={"quality": 0, "format": "jpeg"},
            status=422,
            told="quality: expected 1 to 100, found 0",
        ),
        BadInput(
            name="quality of PNG",
            query={"quality": 5, "format": "png"},
            status=422,
            told="quality: PNG is lossless",
        ),
        BadInput(name="format", query={"format": "jpge"}, status=422, told="mean 'jpeg'?"),
        BadInput(name="format GIF", query={"format": "gif"}, status=422, told="read, not written"),
        BadInput(name="metadata", query={"metadata": "some"}, status=422, told="'no-gps'"),
        BadInput(
            name="parameter", query={"strenght": 1}, status=422, told="did you mean 'strength'?"
        ),
        BadInput(name="deadline", headers={"X-Resray-Deadline": "-1"}, status=422, told="above 0"),
        BadInput(
            name="compressed", headers={"Content-Encoding": "gzip"}, status=415, told="'gzip'"
        ),
        BadInput(
            name="form without a boundary",
            headers={"Content-Type": "multipart/form-data"},
            status=400,
            told="the form can't be read",
        ),
        BadInput(
            name="form with another field",
            body=form_body({"photo": still("PNG")}),
            headers={"Content-Type": form},
            status=400,
            told="found `photo`",
        ),
        BadInput(
            name="form with a setting",
            body=form_body({"image": still("PNG"), "strength": "1"}),
            headers={"Content-Type": form},
            status=400,
            told="settings belong into the query",
        ),
        BadInput(
            name="form with an empty file",
            body=form_body({"image": b""}),
            headers={"Content-Type": form},
            status=400,
            told="the body is empty",
        ),
    ]


def form_body(fields: Mapping[str, bytes | str]) -> bytes:
    """multipart/form-data by BOUNDARY; bytes are files."""
    parts: list[bytes] = []
    for name, value in fields.items():
        file = f'; filename="{quote(name)}"' if isinstance(value, bytes) else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts += [head.encode(), value if isinstance(value, bytes) else value.encode(), b"\r\n"]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def enhance_path(**query: Any) -> str:
    return "/v1/enhance" + (f"?{urlencode(query)}" if query else "")


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Client:
    """Of a server."""

    port: int
    key: str | None = None
    host: str = LOOPBACK

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
        authorization = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            connection.request(method, path, body, {**authorization, **(headers or {})})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(status=response.status, headers=names, body=response.read())
        finally:
            connection.close()

    def enhance(self, body: bytes, **query: Any) -> Reply:
        return self.ask("POST", enhance_path(**query), body)

    @contextmanager
    def opened(self, body: bytes, *, length: int | None = None) -> Iterator[socket.socket]:
        """A request whose body is on its way: so much of it, of so long a body."""
        key = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST /v1/enhance HTTP/1.1\r\nHost: test\r\n{key}"
            f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
        )
        with socket.create_connection((self.host, self.port), timeout=600) as connection:
            connection.sendall(head.encode() + body)
            yield connection


class Load:
    """Clients that ask without a pause, in a `with` block; the replies' statuses and hashes."""

    def __init__(self, client: Client, body: bytes, *, clients: int) -> None:
        self.seen: list[tuple[int, str]] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(client, body)) for _ in range(clients)
        ]

    def _ask(self, client: Client, body: bytes) -> None:
        while not self._over.is_set():
            reply = client.enhance(body)
            self.seen.append((reply.status, reply.headers.get("x-resray-weights-sha256", "")))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(120)


def pixels_of(data: bytes) -> Any:
    with PillowImage.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def wait_until(holds: Callable[[], bool], *, within_s: float = 300.0) -> None:
    """For what comes soon on any machine; the time is only for what never comes."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it never came"
        time.sleep(0.05)


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of an access log."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
