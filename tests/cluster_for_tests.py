"""A cluster of Ray nodes on this machine with a token, in a process of its own.

As a script it is that process: it prints the dashboard's address when it is up, takes the words
`add` and `kill` from its input, answers each with the number of nodes, and ends with its input.
"""

import itertools
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NODE_CPUS = 2


@dataclass(kw_only=True)
class TokenCluster:
    """Three nodes at first."""

    url: str
    """Of the dashboard."""
    token: str = field(repr=False)
    process: "subprocess.Popen[str]" = field(repr=False)

    def add_node(self) -> int:
        """The number of nodes after it."""
        return self._tell("add")

    def kill_node(self) -> int:
        """The oldest but for the head, without a warning."""
        return self._tell("kill")

    def _tell(self, word: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(word, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@contextmanager
def token_cluster(environment: Mapping[str, str]) -> Generator[TokenCluster]:
    """`environment`: what its machines have beyond this process's."""
    token = secrets.token_hex(32)
    scripts = Path(sys.executable).parent
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            # A killed node is missed after some seconds instead of half a minute.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "RAY_health_check_failure_threshold": "4",
            **environment,
        },
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "the cluster didn't start"
        yield TokenCluster(url=url, token=token, process=process)
    finally:
        process.communicate()


def serve_words() -> None:
    """What the process does."""
    # Each node has a folder of its own, as on machines: in one for all they would unpack the code
    # of a job over each other. The head's has the address that jobs take; without it they would
    # take any Ray of this machine. A short name, since sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="rr-", dir="/tmp") as folder:
        os.environ["RAY_TMPDIR"] = folder
        from ray.cluster_utils import Cluster  # noqa: PLC0415

        places = (f"{folder}/{number}" for number in itertools.count(1))

        def add() -> Any:
            return nodes.add_node(num_cpus=NODE_CPUS, temp_dir=next(places))

        head: dict[str, Any] = {"num_cpus": NODE_CPUS, "include_dashboard": True}
        # Free ports, also for the agent at which jobs begin: another Ray may have the usual ones.
        head |= {"dashboard_port": 0, "dashboard_agent_listen_port": None}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            workers = [add() for _ in range(2)]
            print(f"http://{nodes.head_node.address_info['webui_url']}", flush=True)
            for line in sys.stdin:
                if line.strip() == "add":
                    workers.append(add())
                else:
                    nodes.remove_node(workers.pop(0), allow_graceful=False)
                print(1 + len(workers), flush=True)
        finally:
            nodes.shutdown()


if __name__ == "__main__":
    serve_words()
