"""A cluster of Ray nodes on this machine with a token, in a process of its own.

As a script it is that process: it prints the dashboard's address when it is up, answers each line
of its input (`add`, `kill ACTOR`, `drain ACTOR`, `left ACTOR`) with a number, and ends with it.
"""

import itertools
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from namespaces_for_tests import HOST, LOOPBACK, enter_new

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

NODE_CPUS = 2
DEADLINE_S = 600.0


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

    def kill_node(self, having: str) -> int:
        """One with a living actor of that class, but not the head; the number of nodes after it."""
        return self._tell(f"kill {having}")

    def drain_node(self, having: str) -> int:
        """Announce that such a node is to go; the number of nodes."""
        return self._tell(f"drain {having}")

    def left_on_drained(self, having: str) -> int:
        """The number of living actors of that class on nodes that are to go."""
        return self._tell(f"left {having}")

    def _tell(self, line: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, f"the cluster ended at {line!r}; its error output says why"
        return int(answer)


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


def nodes_with(nodes: "Cluster", actor: str) -> list[str]:
    """The node of each living actor whose class has `actor` in its name, in a stable order."""
    table = nodes.global_state.actor_table(None, actor_state_name="ALIVE")
    found = [each for each in table.values() if actor in each["ActorClassName"]]
    return [each["Address"]["NodeID"] for each in sorted(found, key=lambda each: each["ActorID"])]


def worker_with(nodes: "Cluster", actor: str) -> Any:
    """The oldest node that has one, but for the head; waits for it: the head's may be up first."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        places = nodes_with(nodes, actor)
        for node in nodes.worker_nodes:
            if node.node_id in places:
                return node
        time.sleep(0.1)
    raise TimeoutError(f"no living {actor} beyond the head within {DEADLINE_S:.0f} s: {places}")


def drain(address: str, node_id: str) -> None:
    """As `ray drain-node` does where AWS or Kubernetes say that they take a machine back."""
    from ray._raylet import GcsClient  # noqa: PLC0415
    from ray.core.generated.autoscaler_pb2 import (  # noqa: PLC0415
        DRAIN_NODE_REASON_PREEMPTION,
    )

    accepted, why = GcsClient(address=address).drain_node(
        node_id, DRAIN_NODE_REASON_PREEMPTION, "a test", 0
    )
    assert accepted, why


def serve_words() -> None:
    """What the process does."""
    # Each node has a folder of its own, as on machines: in one for all they would unpack the code
    # of a job over each other. The head's has the address that jobs take; without it they would
    # take any Ray of this machine. A short name, since sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="rr-", dir="/tmp") as folder:
        os.environ["RAY_TMPDIR"] = folder
        from ray.cluster_utils import Cluster  # noqa: PLC0415

        places = (f"{folder}/{number}" for number in itertools.count(1))
        numbers = itertools.count(2)

        def own_address() -> dict[str, Any]:
            if HOST == LOOPBACK:
                return {}
            return {"node_ip_address": enter_new(next(numbers), os.getppid())}

        def add() -> None:
            nodes.add_node(num_cpus=NODE_CPUS, temp_dir=next(places), **own_address())

        head: dict[str, Any] = {"num_cpus": NODE_CPUS, "include_dashboard": True}
        # Free ports, also for the agent at which jobs begin: another Ray may have the usual ones.
        head |= {"dashboard_port": 0, "dashboard_agent_listen_port": None, **own_address()}
        head["dashboard_host"] = head.get("node_ip_address", LOOPBACK)
        nodes = Cluster(initialize_head=True, head_node_args=head)
        drained: set[str] = set()
        try:
            for _ in range(2):
                add()
            print(f"http://{nodes.head_node.address_info['webui_url']}", flush=True)
            for line in sys.stdin:
                word, _, actor = line.strip().partition(" ")
                if word == "left":
                    left = sum(place in drained for place in nodes_with(nodes, actor))
                    print(left, flush=True)
                    continue
                if word == "add":
                    add()
                elif word == "kill":
                    nodes.remove_node(worker_with(nodes, actor), allow_graceful=False)
                else:
                    node_id = worker_with(nodes, actor).node_id
                    drain(nodes.address, node_id)
                    drained.add(node_id)
                print(1 + len(nodes.worker_nodes), flush=True)
        finally:
            nodes.shutdown()


if __name__ == "__main__":
    serve_words()
