"""On a spot instance of AWS: once AWS says that it takes the machine back, Ray is told.

    python -m cluster.spot --address HOST:6379

AWS says so two minutes before, to those who ask the machine's metadata. Then this machine is
drained: nothing new begins on it, and what is in work has that time to end or to move.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cluster.connect import ray_session

METADATA = "http://169.254.169.254"
TOKEN_S = 300
LOOK_EVERY_S = 5.0
TIMEOUT_S = 2.0
REASON = "DRAIN_NODE_REASON_PREEMPTION"


def main(arguments: Sequence[str]) -> int:
    """Wait for the notice, and drain; the exit status of `ray drain-node`."""
    args = _parser().parse_args(arguments)
    while (goes_at := read_notice(args.metadata)) is None:
        time.sleep(LOOK_EVERY_S)
    left_s = max(int((goes_at - datetime.now(UTC)).total_seconds()), 0)
    print(f"AWS takes this machine back in {left_s} s: draining it", flush=True)
    command = drain_command(args.address, _own_node(args.address), left_s)
    return subprocess.run(command, check=False).returncode  # noqa: S603


def read_notice(metadata: str) -> datetime | None:
    """When the machine goes; None if that isn't said, or if nothing answers this time."""
    try:
        token = _ask(
            f"{metadata}/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)},
        )
        answer = _ask(
            f"{metadata}/latest/meta-data/spot/instance-action",
            headers={"X-aws-ec2-metadata-token": token},
        )
    except OSError as error:
        if not (isinstance(error, urllib.error.HTTPError) and error.code == 404):
            print(f"{metadata}: {error}", file=sys.stderr, flush=True)
        return None
    return datetime.fromisoformat(json.loads(answer)["time"])


def drain_command(address: str, node: str, left_s: int) -> list[str]:
    """Of Ray."""
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "drain-node", f"--address={address}", f"--node-id={node}"]
    command += [f"--reason={REASON}", "--reason-message=AWS takes a spot instance back"]
    return [*command, f"--deadline-remaining-seconds={left_s}"]


def _own_node(address: str) -> str:
    import ray  # noqa: PLC0415  once it is needed

    with ray_session(address=address):
        return ray.get_runtime_context().get_node_id()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster.spot")
    parser.add_argument("--address", required=True, metavar="HOST:PORT", help="of Ray's head")
    parser.add_argument("--metadata", default=METADATA, metavar="URL", help=argparse.SUPPRESS)
    return parser


def _ask(url: str, *, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return answer.read().decode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
