"""Over which network workers on several machines exchange their gradients."""

import os
from typing import Any

import psutil
from ray.train.torch import TorchConfig
from ray.util import get_node_ip_address

VARIABLE = "GLOO_SOCKET_IFNAME"
_TorchBackend: Any = TorchConfig().backend_cls


class WorkerNetwork(TorchConfig):
    """For gloo, which workers on CPUs use, the one on which Ray reaches the machine.

    It would take the address of the machine's name, which is often one of the loopback (Debian
    and Ubuntu have 127.0.1.1 in /etc/hosts), where no other machine finds it.
    """

    @property
    def backend_cls(self) -> Any:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """For this process, unless its user has chosen, or Ray's address is on none (NAT)."""
    address = get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            os.environ.setdefault(VARIABLE, name)
            return
