"""Gradients take the network of Ray."""

import os
import socket

import pytest

from pipelines import worker_network
from pipelines.worker_network import VARIABLE, choose_interface


def test_the_interface_is_that_of_rays_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_network, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(os, "environ", {})
    choose_interface()
    assert os.environ[VARIABLE] in {name for _, name in socket.if_nameindex()}
    assert os.environ[VARIABLE].startswith("lo")


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "ib0")
    choose_interface()
    assert os.environ[VARIABLE] == "ib0"
