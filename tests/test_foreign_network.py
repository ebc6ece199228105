"""Weights from elsewhere run like this project's own, and what can't be run is named."""

import hashlib
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs_for_tests import make_photograph
from weights_for_tests import foreign_model, make_weights, write_foreign

from pipelines.cli import main
from resnet_core import foreign_network as module
from resnet_core.enhancer import Batch, Enhancer, EnhanceSettings
from resnet_core.errors import ConfigError, WeightsError
from resnet_core.foreign_network import ForeignNetwork
from resnet_core.network import NetworkConfig
from resnet_core.pixels import to_levels, to_nchw
from resnet_core.weights import Weights, load_weights

KINDS = ("compact", "esrgan", "esrgan-unshuffled", "span", "fdncnn", "swinir")
PHOTOGRAPH = make_photograph(45, 58)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Weights]:
    folder = tmp_path_factory.mktemp("elsewhere")
    return lambda kind: load_weights(str(write_foreign(folder / f"{kind}.pth", kind)))


def enhancer(weights: Weights, *, batch_px: int | None = None, **settings: object) -> Enhancer:
    chosen = EnhanceSettings(**settings)  # pyright: ignore[reportArgumentType]
    return Enhancer(weights, chosen, device="cpu", batch_px=batch_px)


def furthest(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".PT"])
def test_a_file_is_known_by_what_it_holds(tmp_path: Path, suffix: str) -> None:
    path = write_foreign(tmp_path / f"sharp{suffix}")
    weights = load_weights(str(path))
    assert (weights.name, weights.scale) == ("sharp", 2)
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.metadata.task == "other-x2"
    assert weights.metadata.degradation is None
    assert weights.metadata.licence == weights.metadata.data == "not known"
    assert weights.network.summary == "RealESRGAN Compact 16nf 4nc, by spandrel"
    size = sum(parameter.numel() for parameter in foreign_model("compact").parameters())
    assert weights.network.num_parameters == size


@pytest.mark.parametrize("kind", KINDS)
def test_strength_0_is_the_base_and_1_what_spandrel_gives(
    load: Callable[[str], Weights], kind: str
) -> None:
    weights = load(kind)
    pixels = PHOTOGRAPH[:44, :56]  # multiples of what any of them asks for: nothing is padded
    assert isinstance(weights.network, ForeignNetwork)
    theirs = to_levels(weights.network._found(to_nchw(pixels).contiguous()), pixels.dtype)[0]
    base, half, whole = (
        enhancer(weights, strength=strength).enhance_pixels(pixels) for strength in (0.0, 0.5, 1.0)
    )
    assert furthest(whole, theirs) <= 1
    assert whole.std() > 10
    reference = make_weights(NetworkConfig(scale=weights.scale, num_blocks=2, channels=16))
    assert furthest(base, enhancer(reference, strength=0.0).enhance_pixels(pixels)) == 0
    inside = (base > 0) & (base < 255)
    assert np.abs(half - (base.astype(float) + whole) / 2)[inside].max() <= 1


def test_the_base_at_the_same_size_is_the_image(load: Callable[[str], Weights]) -> None:
    output = enhancer(load("fdncnn"), strength=0.0).enhance_pixels(PHOTOGRAPH)
    assert np.array_equal(output, PHOTOGRAPH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 37), (7, 5), (33, 18)])
def test_any_size_is_taken(
    load: Callable[[str], Weights], kind: str, height: int, width: int
) -> None:
    weights = load(kind)
    output = enhancer(weights).enhance_pixels(PHOTOGRAPH.repeat(2, 1)[:height, :width])
    assert output.shape == (weights.scale * height, weights.scale * width, 3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "swinir"])
def test_tiled_equals_whole_where_the_network_sees_no_further_than_the_halo(
    load: Callable[[str], Weights], kind: str
) -> None:
    pixels = make_photograph(97, 131)
    batches: list[Batch] = []
    tiled = Enhancer(
        load(kind), EnhanceSettings(tile_px=16), device="cpu", on_batch=batches.append
    ).enhance_pixels(pixels)
    assert len(batches) > 6
    assert furthest(tiled, enhancer(load(kind)).enhance_pixels(pixels)) <= 1


def test_tiles_are_large_where_spandrel_discourages_them_and_never_where_it_makes_its_own(
    load: Callable[[str], Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    import spandrel  # noqa: PLC0415

    swinir = load("swinir").network
    assert isinstance(swinir, ForeignNetwork)
    assert (swinir.tile_rules.least_tile_px, swinir.tile_rules.halo_px) == (1024, 64)
    assert swinir.tile_rules.least_px == 16
    monkeypatch.setattr(swinir._found, "tiling", spandrel.ModelTiling.INTERNAL)
    assert swinir.tile_rules.least_tile_px == sys.maxsize
    monkeypatch.setattr(
        swinir._found, "size_requirements", spandrel.SizeRequirements(20, 24, square=True)
    )
    rules = swinir.tile_rules
    assert (rules.least_px, rules.multiple_of, rules.halo_px, rules.square) == (24, 24, 72, True)


@pytest.mark.parametrize("kind", ["span", "fdncnn"])
@pytest.mark.parametrize("batch_px", [None, 8 * 40 * 50])
def test_threads_and_batches_give_what_each_image_gives_alone(
    load: Callable[[str], Weights], kind: str, batch_px: int | None
) -> None:
    pictures = [make_photograph(40, 50, seed=seed) for seed in range(12)]
    alone = [enhancer(load(kind)).enhance_pixels(picture) for picture in pictures]
    shared = enhancer(load(kind), batch_px=batch_px)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(shared.enhance_pixels, pictures))
    assert max(map(furthest, alone, together)) <= 1


def test_gray_and_sixteen_bits_are_taken(load: Callable[[str], Weights]) -> None:
    network = enhancer(load("compact"))
    gray = network.enhance_pixels(PHOTOGRAPH[:, :, :1])
    assert gray.shape == (90, 116, 1)
    deep = network.enhance_pixels(PHOTOGRAPH.astype(np.uint16) * 257)
    assert np.abs(deep / 257 - network.enhance_pixels(PHOTOGRAPH)).max() <= 0.51


def test_bfloat16_is_used_where_it_is_asked_for_alone(
    load: Callable[[str], Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load("compact")
    exact, fast = enhancer(weights), enhancer(weights, precision="bfloat16")
    assert (exact.dtype, fast.dtype) == (torch.float32, torch.bfloat16)
    levels = [each.enhance_pixels(PHOTOGRAPH) for each in (exact, fast)]
    assert 0 < furthest(*levels) <= 3
    state = weights.network.state_dict()
    assert all(value.dtype == torch.float32 for value in state.values()), "the enhancer has a copy"
    monkeypatch.setattr(module, "compute_dtype", pytest.fail)
    assert enhancer(weights).dtype == torch.float32
    assert isinstance(weights.network, ForeignNetwork)
    monkeypatch.setattr(weights.network._found, "supports_bfloat16", False)
    with pytest.raises(ConfigError, match=r"bfloat16, expected float32: RealESRGAN Compact"):
        weights.network.dtype_for("bfloat16", torch.device("cpu"))


def test_there_are_no_blocks_to_stop_after(load: Callable[[str], Weights]) -> None:
    for count in (0, 3):
        with pytest.raises(ConfigError, match=f"num_blocks is {count}, expected none"):
            enhancer(load("compact"), num_blocks=count)
    with pytest.raises(ConfigError, match="num_blocks is 0, expected none: RealESRGAN Compact"):
        load("compact").network.residual(torch.zeros(1, 3, 8, 8), num_blocks=0)


def test_a_file_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.pth"
    torch.save({"params": {"a": torch.zeros(1).expand(10_000, 1000)}}, path)
    with pytest.raises(WeightsError, match=r"huge\.pth: its tensors claim 40000000 bytes"):
        load_weights(str(path))


def test_their_card_tells_what_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_foreign(tmp_path / "sharp.pth")
    assert main(["weights", "show", str(path)]) == 0
    card = capsys.readouterr().out
    assert card.startswith("sharp: other-x2, x2\n")
    assert "RealESRGAN Compact 16nf 4nc, by spandrel, 12K parameters" in card
    assert "licence      not known" in card
    assert "revision" not in card
    assert main(["weights", "cards", str(tmp_path), str(path)]) == 1
    error = capsys.readouterr().err
    assert "weights sharp: RealESRGAN Compact" in error
    assert "expected a network of resray" in error


def test_without_spandrel_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_foreign(tmp_path / "sharp.pth")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(WeightsError, match=r"sharp\.pth: .*pip install spandrel$") as found:
        load_weights(str(path))
    assert "\n" not in str(found.value)
    assert load_weights("sr-x2").scale == 2


class Trap:
    """Pickled, it would make a folder when it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("sprung",)


def zipped(**members: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(f"archive/{name.replace('_', '.')}", data)

    return write


def compact(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    tensors = foreign_model("compact").state_dict() | {
        name.replace("_", "."): value for name, value in changes.items()
    }
    return {name: value for name, value in tensors.items() if value is not None}


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: path.write_bytes(b""), "no tensors that torch.save wrote"),
        (lambda path: path.write_bytes(b"hello, world"), "no tensors that torch.save wrote"),
        (zipped(data_pkl=b"", constants_pkl=b"", version=b"3"), "TorchScript isn't read"),
        (lambda path: torch.save(torch.zeros(2), path), "it holds one Tensor, expected named"),
        (lambda path: torch.save({"a": Trap()}, path), r"an object \(posix\.mkdir\), expected"),
        (lambda path: path.write_bytes(pickle.dumps(Trap())), "no tensors that torch.save wrote"),
        (lambda path: torch.save({}, path), "nor of an architecture that spandrel"),
        (lambda path: torch.save({"a": 3}, path), "nor of an architecture that spandrel"),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "nor of an architecture that"),
        (lambda path: torch.save(compact(body_2_bias=None), path), "damaged, or .*body.2.bias"),
        (
            lambda path: torch.save(compact(body_0_bias=torch.full((16,), float("nan"))), path),
            "tensor body.0.bias holds values that aren't finite",
        ),
    ],
)
def test_what_cannot_be_run_is_named_on_one_line(
    write: Callable[[Path], None], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=rf"weights .*odd\.pth: .*{told}") as found:
        load_weights(str(tmp_path / "odd.pth"))
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 400 + len(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["odd.pth"]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "cut.pth")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(WeightsError, match=r"cut\.pth: no tensors .* or damaged"):
        load_weights(str(path))


def test_networks_for_other_things_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gray = str(write_foreign(tmp_path / "gray.safetensors", "gray"))
    with pytest.raises(WeightsError, match=r"DnCNN takes 1 channels and gives 1, expected 3 and 3"):
        load_weights(gray)
    monkeypatch.setattr(module, "PURPOSES", ("Restoration",))
    with pytest.raises(WeightsError, match=r"Compact is for SR, expected a network for Restorat"):
        load_weights(str(write_foreign(tmp_path / "faces.pth")))
