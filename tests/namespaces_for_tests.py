"""An address for each Ray node: a network namespace each, joined by a bridge, for tests as root.

    unshare --net python tests/namespaces_for_tests.py tests/test_submit.py

runs tests so. The namespaces have no names, and end with the processes in them.
"""

import ctypes
import os
import subprocess
import sys
from functools import cache
from shutil import which

LOOPBACK = "127.0.0.1"
BRIDGE = "10.77.0.1"
VARIABLE = "RESRAY_TEST_HOST"
HOST = os.environ.get(VARIABLE, LOOPBACK)
"""Where the nodes find what the tests serve."""
CLONE_NEWNET = 0x40000000
PROBE = "ip link add bridge type bridge && ip link add here type veth peer name there"


@cache
def are_possible() -> bool:
    """Whether this process may make them."""
    if not (which("unshare") and which("nsenter") and which("ip")):
        return False
    probe = ["unshare", "--net", "sh", "-ec", PROBE]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def enter_new(number: int, bridge_process: int) -> str:
    """Put this thread, and what it starts, into a namespace of its own; its address."""
    address = f"{BRIDGE.rpartition('.')[0]}.{number}"
    assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
    ip("link set lo up")
    ip(f"link add eth0 type veth peer name node{number} netns {bridge_process}")
    ip(f"address add {address}/24 dev eth0")
    ip("link set eth0 up")
    into_bridge = f"--net=/proc/{bridge_process}/ns/net ip link set node{number} master bridge up"
    subprocess.run(["nsenter", *into_bridge.split()], check=True)
    return address


if __name__ == "__main__":
    ip("link set lo up")
    ip("link add bridge type bridge")
    ip(f"address add {BRIDGE}/24 dev bridge")
    ip("link set bridge up")
    os.environ[VARIABLE] = BRIDGE
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[1:]])
