"""Weights files: what is written comes back, and what is wrong with a file is named."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from weights_for_tests import SMALL, metadata_for, random_network, write_weights

from resnet_core import weights as module
from resnet_core.degradation import describe
from resnet_core.errors import ConfigError, DataError, WeightsError
from resnet_core.network import NetworkConfig, ResidualNetwork
from resnet_core.standard_degradations import bicubic
from resnet_core.weights import load_weights, packaged_weights, save_weights

DEEPER = describe(bicubic(4))


def header_of(data: bytes) -> dict[str, str]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])["__metadata__"]


def rewritten(path: Path, change: dict[str, object], *, drop: str | None = None) -> Path:
    """The file with some of its metadata changed."""
    data = path.read_bytes()
    described = json.loads(header_of(data)["resray"]) | change
    described.pop(drop, None)
    path.write_bytes(save(load(data), {"resray": json.dumps(described)}))
    return path


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    network, metadata = random_network(), metadata_for()
    sha256 = save_weights(tmp_path / "mine.safetensors", network, metadata)
    weights = load_weights(str(tmp_path / "mine.safetensors"))
    assert (weights.name, weights.sha256) == ("mine", sha256)
    assert weights.config == SMALL
    assert weights.metadata == metadata
    state = weights.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    a, b = (write_weights(tmp_path / f"{name}.safetensors") for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_every_weights_file_of_the_package_loads_and_is_small() -> None:
    assert {"sr-x2", "sr-x4"} <= set(packaged_weights())
    for name in packaged_weights():
        weights = load_weights(name)
        assert weights.name == name
        assert weights.metadata.task == name.removesuffix("-fast")
        assert weights.metadata.licence
        assert weights.metadata.figures
        assert module.weights_path(name).stat().st_size < 4_000_000


def test_an_unknown_name_offers_the_near_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(tmp_path / "sr-x2.safetensors")
    monkeypatch.setattr(module, "PACKAGED", tmp_path)
    with pytest.raises(WeightsError, match="no weights named 'sr-x22'; did you mean 'sr-x2'"):
        load_weights("sr-x22")
    with pytest.raises(WeightsError, match=r"weights none\.safetensors: no such file"):
        load_weights("none.safetensors")


def test_a_network_that_is_not_folded_is_not_written(tmp_path: Path) -> None:
    network = ResidualNetwork(NetworkConfig(num_blocks=1, channels=16, expansion=2))
    with pytest.raises(ConfigError, match="folded"):
        save_weights(tmp_path / "wide.safetensors", network, metadata_for())


@pytest.mark.parametrize("data", [b"", b"\x80\x04N.", b"\xff" * 200])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"other\.safetensors: no safetensors file"):
        load_weights(str(path))


def test_a_file_of_a_kind_of_number_that_torch_lacks_is_refused(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'
    path = tmp_path / "new.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(WeightsError, match=r"new\.safetensors: no safetensors file, or a damaged"):
        load_weights(str(path))


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(WeightsError, match="no weights named 'xxx"):
        load_weights("x" * 300)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(str(path))


@pytest.mark.parametrize("entry", ["[" * 100_000, "no JSON", "[1]"])
def test_metadata_that_is_no_json_object_is_refused(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(save(random_network().state_dict(), {"resray": entry}))
    with pytest.raises(WeightsError, match=r"odd\.safetensors: its metadata is no JSON"):
        load_weights(str(path))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"w\.safetensors: can't be written"):
        save_weights(tmp_path / "file" / "w.safetensors", random_network(), metadata_for())


def test_a_safetensors_file_of_no_known_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}))
    with pytest.raises(WeightsError, match="not of resray, nor of an architecture that spandrel"):
        load_weights(str(path))


@pytest.mark.parametrize(
    ("change", "drop", "message"),
    [
        ({"version": 2}, None, "format version 2, expected 1"),
        ({"surprise": 1}, None, "metadata has an unknown field 'surprise'"),
        ({}, "licence", "metadata.*licence"),
        ({}, "network", "has no network"),
        ({"network": {"scale": 9}}, None, "scale is 9, expected a whole number from 1 to 4"),
        ({"network": {"scal": 2}}, None, "unknown field 'scal'; did you mean 'scale'"),
        ({"network": {"expansion": 2}}, None, "isn't folded"),
        ({"network": {"num_blocks": 3, "channels": 16}}, None, "tensor blocks.2.first.* missing"),
        ({"network": {"num_blocks": 1, "channels": 16}}, None, "tensor blocks.1.* is not of this"),
        ({"network": {"num_blocks": 2, "channels": 32}}, None, "expected .*32.*, found .*16"),
        ({"degradation": {"name": "x"}}, None, "degradation: expected"),
        ({"degradation": [1]}, None, "has no degradation"),
        ({"degradation": DEEPER}, None, "degradation is of scale 4, its network of 2"),
        ({"figures": "abc"}, None, "figures is 'abc', expected named values"),
        ({"figures": {"psnr": 10**400}}, None, "metadata: .*too large"),
        ({"figures": {"psnr": "high"}}, None, "figure psnr is 'high', expected a number"),
        ({"task": ["sr"]}, None, "task is .*, expected one line of text"),
        ({"licence": "\x1b[2J"}, None, "licence is .*, expected one line of text"),
        ({"network": {"num_blocks": 256, "channels": 1024}}, None, "tensor .* (is missing|found)"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    tmp_path: Path, change: dict[str, object], drop: str | None, message: str
) -> None:
    path = rewritten(write_weights(tmp_path / "w.safetensors"), change, drop=drop)
    with pytest.raises(WeightsError, match=rf"w\.safetensors: .*{message}"):
        load_weights(str(path))


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w.safetensors")
    network = random_network()
    with torch.no_grad():
        network.tail.bias[0] = float("nan")
    with pytest.raises(ConfigError, match=r"tail\.bias holds values that aren't finite: not writ"):
        save_weights(path, network, metadata_for())
    path.write_bytes(save(network.state_dict(), header_of(path.read_bytes())))
    with pytest.raises(WeightsError, match=r"tail\.bias holds values that aren't finite"):
        load_weights(str(tmp_path / "w.safetensors"))
