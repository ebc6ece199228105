"""`resray serve`: the endpoint here or on a cluster; and the builder for `cluster/serve.yaml`.

What happens to a request is in `enhance_request`, the HTTP interface in `serve_app`, Ray Serve in
`serve_replicas`.
"""

import argparse
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.api_keys import VARIABLE, load_keys
from pipelines.argument_types import (
    add_network_arguments,
    amount,
    duration_s,
    positive,
    replica_range,
)
from pipelines.catalogue import load_catalogue
from pipelines.serve_settings import ServeSettings
from resnet_core.errors import DataError
from resnet_core.weights import weights_path

if TYPE_CHECKING:
    from ray.serve import Application

    from cluster.connect import Resources

APPLICATION = "resray"
HOST = "127.0.0.1"
PORT = 8000
LOOPBACK = ("127.0.0.1", "::1", "localhost")

ENVIRONMENT = {
    # Half the time between processes: messages over gRPC, and one event loop in each process, which
    # nothing here blocks. Images of any size must fit into a message.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "2000000000",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
"""Of all processes of Ray, before they start: for a local one, and wise on a cluster's machines."""

DESCRIPTION = """\
Serve weights over HTTP: an image in, a better image out, with a page to try it at /.

Requests are decoded and admitted by an ingress and run together by replicas of the network,
which grow and shrink with the load between --replicas MIN..MAX. What is too much is refused
at once with 503 and Retry-After.
"""

EPILOG = """\
the interface
  POST /v1/enhance   an image, or a form with one; ?weights= strength= format= quality= metadata=
                     guard=
  GET  /v1/models    what is served, and the limits
  GET  /docs         all of it          GET /healthz   whether it answers

keys
  With --keys-file, or RESRAY_API_KEYS=KEY,KEY in the environment, /v1 asks for
  `Authorization: Bearer KEY`. Serve to other machines only with keys, and behind TLS.

clusters
  serve deploy cluster/serve.yaml, which has the same settings by name.

examples
  resray serve
  resray serve --weights sr-x2 mine.safetensors --replicas 0..2
  curl --data-binary @photo.jpg -o better.jpg http://127.0.0.1:8000/v1/enhance
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `resray serve`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    defaults = ServeSettings
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="NAME|PATH",
        help="the networks, the default first: names, or files of resray's, or such that spandrel"
        " knows (default: all of the package's)",
    )
    parser.add_argument(
        "--host", default=HOST, help=f"the address that is listened on (default: {HOST})"
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"0 takes a free one (default: {PORT})"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-pixels",
        type=amount,
        default=defaults.max_pixels,
        metavar="N",
        help="refuse larger images (default: 25M)",
    )
    limits.add_argument(
        "--max-bytes",
        type=amount,
        default=defaults.max_bytes,
        metavar="N",
        help="refuse larger bodies (default: 32Mi)",
    )
    limits.add_argument(
        "--max-requests",
        type=positive,
        default=defaults.max_requests,
        metavar="N",
        help="in hand at once, else 503 (default: 64)",
    )
    limits.add_argument(
        "--max-queued-pixels",
        type=amount,
        default=defaults.max_queued_pixels,
        metavar="N",
        help="in hand at once, else 503 (default: 50M)",
    )
    limits.add_argument(
        "--deadline",
        type=duration_s,
        default=defaults.deadline_s,
        metavar="TIME",
        help="for each request, as 30s or 2min (default: 60s)",
    )
    limits.add_argument("--keys-file", metavar="FILE", help="API keys, one a line")
    where = parser.add_argument_group("where it is computed")
    where.add_argument(
        "--replicas",
        type=replica_range,
        metavar="N|MIN..MAX",
        help="of the network, as the load asks; MIN may be 0 (default: one for each GPU, else one"
        " with all cores)",
    )
    where.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="a Ray cluster (default: RAY_ADDRESS, or this machine)",
    )
    add_network_arguments(where, tile_px=defaults.tile_px)
    where.add_argument(
        "--access-log",
        default="",
        metavar="FILE",
        help="a line of JSON for each request, at its end (default: none)",
    )
    where.add_argument("-v", "--verbose", action="store_true", help="show Ray's log lines")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; the exit status. ResrayError for what the user can mend."""
    settings = _settings(args)
    catalogue = load_catalogue(settings.served)
    keys = load_keys(settings.keys_file)
    port = _free_port(args.host, args.port)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray is imported here, so that errors of usage come without waiting for it.
    from cluster.connect import ray_session  # noqa: PLC0415

    if not args.verbose:
        os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    with ray_session(address=args.address, verbose=args.verbose) as resources:
        is_local = args.address is None and "RAY_ADDRESS" not in os.environ
        settings = laid_out(settings, resources, replicas=args.replicas, is_local=is_local)
        # A cluster's environment is its own: there the keys must be too.
        settings = replace(settings, require_keys=bool(keys))
        serve_until_signal(
            settings, args.host, port, names=[each.name for each in catalogue.served]
        )
    return 0


def build(args: Mapping[str, Any]) -> "Application":
    """The application from the `args` of a configuration file, the fields of ServeSettings.

    Raises ConfigError for an unknown key or a value that can't be, WeightsError for weights.
    """
    from pipelines.serve_replicas import application  # noqa: PLC0415

    settings = ServeSettings.from_mapping(args)
    load_catalogue(settings.served)
    return application(settings)


def laid_out(
    settings: ServeSettings,
    resources: "Resources",
    *,
    replicas: tuple[int, int] | None,
    is_local: bool,
) -> ServeSettings:
    """The settings with replicas, threads and what they hold, as the machines allow.

    On this machine alone nothing is reserved: the processes share its cores.
    """
    gpus = int(resources.gpus)
    least, most = replicas or (1, max(gpus, 1))
    threads = max(int(resources.smallest_node_cpus) // (1 if gpus else max(most, 1)), 1)
    if not is_local:
        threads = max(int(resources.smallest_node_cpus) - 1, 1)
    return replace(
        settings,
        min_replicas=least,
        max_replicas=most,
        threads=1 if gpus else threads,
        network_cpus=0.0 if is_local else float(1 if gpus else threads),
        network_gpus=1.0 if gpus else 0.0,
        ingress_cpus=0.0 if is_local else 1.0,
    )


def _settings(args: argparse.Namespace) -> ServeSettings:
    return ServeSettings(
        # Replicas run in folders of their own.
        weights=tuple(
            name if weights_path(name).is_absolute() else os.path.abspath(name)  # noqa: PTH100
            for name in args.weights
        ),
        precision=args.precision,
        tile_px=args.tile,
        max_bytes=args.max_bytes,
        max_pixels=args.max_pixels,
        max_requests=args.max_requests,
        max_queued_pixels=args.max_queued_pixels,
        deadline_s=args.deadline,
        keys_file=args.keys_file and os.path.abspath(args.keys_file),  # noqa: PTH100  not resolved
        access_log=args.access_log and os.path.abspath(args.access_log),  # noqa: PTH100
    )


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. DataError where it is taken, or the host isn't ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise DataError(f"can't listen on {host}:{port}: {error}; choose another --port") from error


def serve_until_signal(settings: ServeSettings, host: str, port: int, *, names: list[str]) -> None:
    """Ends in order with SIGINT or SIGTERM; KeyboardInterrupt where that comes while it starts."""
    from ray import serve  # noqa: PLC0415

    from pipelines.serve_replicas import application  # noqa: PLC0415

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(application(settings), name=APPLICATION, route_prefix="/")
        shown = f"[{host}]" if ":" in host else host
        print(f"Serving {', '.join(names)} at http://{shown}:{port}", flush=True)
        if host not in LOOPBACK and not settings.require_keys:
            print(f"Anyone who reaches it may use it: no API keys ({VARIABLE})", flush=True)
        print("  / is a page to try it, /docs the interface; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    except RuntimeError as error:
        raise DataError(f"the service can't start: {error}") from error
    finally:
        print("Stopping, after what is in work", flush=True)
        # The application alone: on a cluster, Serve may have others.
        serve.delete(APPLICATION)
