"""The name of the machine tells what timings depend on."""

import torch

from pipelines.machine import machine_name


def test_machine_name_tells_processor_threads_and_torch() -> None:
    name = machine_name("cpu")
    assert f"{torch.get_num_threads()} threads" in name
    assert torch.__version__ in name
    assert len(name.split(", ")[0]) > 2
