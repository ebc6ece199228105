"""bfloat16 where the device computes in it, and wherever it is asked for."""

import pytest
import torch

from resnet_core.precision import compute_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", [CPU, GPU])
def test_what_is_asked_for_is_taken(device: torch.device) -> None:
    assert compute_dtype("float32", device) == torch.float32
    assert compute_dtype("bfloat16", device) == torch.bfloat16


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx2": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_a_cpu_tells_by_its_instructions(
    known: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert compute_dtype("auto", CPU) == expected


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_tells_by_itself(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(*, including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    expected = torch.bfloat16 if native else torch.float32
    assert compute_dtype("auto", GPU) == expected
