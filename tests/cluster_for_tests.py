"""A cluster of Ray nodes on this machine with a token, in a process of its own.

As a script it is that process: it prints the dashboard's address when it is up, takes the words
`add` and `kill` from its input, answers each with the number of nodes, and ends with its input.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NODE_CPUS = 2
HERE = Path(__file__).resolve().parent


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
        """Of those that aren't the head, without a warning."""
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
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": NODE_CPUS, "include_dashboard": True, "dashboard_port": 0},
    )
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=NODE_CPUS)
        print(f"http://{nodes.head_node.address_info['webui_url']}", flush=True)
        for line in sys.stdin:
            if line.strip() == "add":
                nodes.add_node(num_cpus=NODE_CPUS)
            else:
                nodes.remove_node(nodes.worker_nodes[-1], allow_graceful=False)
            print(1 + len(nodes.worker_nodes), flush=True)
    finally:
        nodes.shutdown()


if __name__ == "__main__":
    serve_words()
