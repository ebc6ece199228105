"""What happens to one object, with a network that only doubles the pixels."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import noise, photo, pillow, reopened, saved
from weights_for_tests import write_weights

from pipelines.enhance_object import (
    ObjectEnhancerBuilder,
    RunSettings,
    enhance_object,
    naming,
    result_key,
)
from pipelines.folder_store import FolderStore
from pipelines.ledger import LedgerRow
from pipelines.storage import Blob, ObjectInfo
from pipelines.worklist import Work
from resnet_core.errors import ConfigError, DataError, WeightsError
from resnet_core.images import Encoded, Image
from resnet_core.weights import load_weights

SETTINGS = RunSettings(weights_name="double", weights_sha256="f" * 64)


class Doubler:
    """Each pixel twice in each direction."""

    def enhance(self, image: Image) -> Image:
        alpha = None if image.alpha is None else double(image.alpha)
        return replace(image, pixels=double(image.pixels), alpha=alpha)


def double(samples: Any) -> Any:
    return np.ascontiguousarray(samples.repeat(2, 0).repeat(2, 1))


@dataclass
class MemoryStore:
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    url: str = "memory"

    def list_objects(self) -> Iterator[ObjectInfo]:
        raise NotImplementedError

    def get(self, key: str) -> Blob:
        if key not in self.objects:
            raise DataError(f"{key}: can't be read: gone")
        return Blob(data=self.objects[key], etag="e")

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data


def enhance(
    key: str, data: bytes, enhancer: Any = None, *, size: int | None = None, **changes: Any
) -> tuple[LedgerRow, dict[str, bytes]]:
    settings = replace(SETTINGS, **changes)
    source, target = MemoryStore({key: data}), MemoryStore()
    work = Work(
        key=key,
        bytes=len(data) if size is None else size,
        etag="e",
        changed_key=naming(settings.format).changed_key(key),
    )
    row = enhance_object(source, target, work, enhancer or Doubler(), settings)
    assert source.objects == {key: data}, "the source is only read"
    return row, target.objects


def png(width: int = 5, height: int = 3) -> bytes:
    return saved(pillow(noise(height, width, 3)), "PNG")


def test_a_good_image_is_written_under_its_key_and_its_row_tells_all() -> None:
    data = png()
    row, written = enhance("sub/a.png", data)
    assert row.status == "ok"
    assert row.reason is None
    assert (row.key, row.out_key) == ("sub/a.png", "sub/a.png")
    assert (row.source_width_px, row.source_height_px) == (5, 3)
    assert (row.output_width_px, row.output_height_px) == (10, 6)
    assert (row.source_bytes, row.output_bytes) == (len(data), len(written["sub/a.png"]))
    assert (row.source_etag, row.weights_sha256) == ("e", "f" * 64)
    assert row.settings_hash == SETTINGS.hash
    assert min(row.get_s, row.decode_s, row.network_s, row.encode_s, row.put_s) > 0
    result = np.asarray(reopened(written["sub/a.png"]))
    np.testing.assert_array_equal(result, double(np.asarray(reopened(data))))


def test_a_result_says_where_it_comes_from() -> None:
    _, written = enhance("a.jpg", photo("JPEG"), strength=0.5)
    software = reopened(written["a.jpg"]).getexif()[0x131]
    assert "resray double ffffffffffff strength 0.5" in software


@pytest.mark.parametrize(
    ("key", "source_format", "requested", "out_key", "written_format"),
    [
        ("a.jpg", "JPEG", None, "a.jpg", "JPEG"),
        ("a.jpg", "PNG", None, "a.jpg", "PNG"),  # the name lied already
        ("a.gif", "GIF", None, "a.png", "PNG"),
        ("a.gif", "PNG", None, "a.gif", "PNG"),
        ("a.jpg", "GIF", None, "a.jpg.png", "PNG"),
        ("a.png", "GIF", None, "a.png", "PNG"),
        ("a", "PNG", None, "a", "PNG"),
        ("a.png", "PNG", "WEBP", "a.webp", "WEBP"),
        ("a.JPEG", "PNG", "JPEG", "a.JPEG", "JPEG"),
    ],
)
def test_the_name_follows_the_format_only_where_it_changes(
    key: str, source_format: str, requested: str | None, out_key: str, written_format: str
) -> None:
    row, written = enhance(key, saved(pillow(noise(4, 4, 3)), source_format), format=requested)
    assert row.out_key == out_key
    assert list(written) == [out_key]
    assert reopened(written[out_key]).format == written_format


def test_a_format_that_could_not_hold_the_result_shows_in_the_name() -> None:
    work = Work(key="a.jpg", bytes=1, etag="1", changed_key="a.jpg")
    encoded = Encoded(data=b"", format="PNG", extension=".png", media_type="image/png")
    assert result_key(work, "JPEG", encoded, SETTINGS) == "a.jpg.png"
    work = replace(work, changed_key="a.webp")
    assert result_key(work, "JPEG", encoded, replace(SETTINGS, format="WEBP")) == "a.webp.png"


GIF_FRAMES = [pillow(noise(4, 4, 3, seed=seed)) for seed in (1, 2)]


def animated() -> bytes:
    out = BytesIO()
    GIF_FRAMES[0].save(out, "GIF", save_all=True, append_images=GIF_FRAMES[1:])
    return out.getvalue()


@pytest.mark.parametrize(
    ("key", "data", "status", "reason"),
    [
        ("a.png", b"", "failed", "empty"),
        ("a.png", b"hello, world", "failed", "not an image"),
        ("a.png", png(64, 64)[:-30], "failed", "PNG is truncated"),
        ("a.gif", animated(), "failed", "expected a still image"),
        ("name", b"hello, world", "failed", "not an image"),
        ("notes.txt", b"hello, world", "skipped", "not an image"),
        ("big.png", png(40, 40), "failed", "--max-pixels"),
    ],
)
def test_a_bad_object_is_a_row_with_the_reason(
    key: str, data: bytes, status: str, reason: str
) -> None:
    row, written = enhance(key, data, max_pixels=1000 if key == "big.png" else 10_000)
    assert row.status == status
    assert reason in (row.reason or "")
    assert "\n" not in (row.reason or "")
    assert row.out_key is None
    assert written == {}


def test_a_file_over_the_limit_is_not_even_read() -> None:
    row, _ = enhance("a.png", b"", size=2000, max_bytes=1000)
    assert row.reason == "2.0 kB are over the limit of 1.0 kB (--max-bytes)"
    row, _ = enhance("film.mp4", b"", size=2000, max_bytes=1000)
    assert row.status == "skipped"


def test_an_object_that_went_away_is_a_row_without_its_name_twice() -> None:
    work = Work(key="a.png", bytes=1, etag="1", changed_key="a.png")
    row = enhance_object(MemoryStore(), MemoryStore(), work, Doubler(), SETTINGS)
    assert row.reason == "can't be read: gone"


def test_problems_of_the_listing_become_rows() -> None:
    link = Work(key="a.png", bytes=1, etag="1", changed_key="a.png", problem="a link")
    for work, status in ((link, "skipped"), (replace(link, is_error=True), "failed")):
        row = enhance_object(MemoryStore(), MemoryStore(), work, Doubler(), SETTINGS)
        assert (row.status, row.reason) == (status, "a link")


def test_an_error_nobody_thought_of_ends_one_object_only() -> None:
    class Broken:
        def enhance(self, image: Image) -> Image:
            raise RuntimeError(f"no luck\nwith {image.width}")

    row, written = enhance("a.png", png(), Broken())
    assert (row.status, row.reason) == ("failed", "unexpected RuntimeError: no luck")
    assert written == {}


def test_the_settings_hash_knows_what_changes_results_and_nothing_else() -> None:
    decisive: list[dict[str, Any]] = [
        {"strength": 0.5},
        {"format": "PNG"},
        {"quality": 50},
        {"metadata": "strip"},
        {"precision": "float32"},
    ]
    hashes = {replace(SETTINGS, **change).hash for change in decisive} | {SETTINGS.hash}
    assert len(hashes) == len(decisive) + 1
    same = replace(SETTINGS, tile_px=64, max_pixels=1, max_bytes=1, weights_name="other")
    assert same.hash == SETTINGS.hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "jpeg"}, "expected one of JPEG"),
        ({"format": "GIF"}, "read, not written"),
        ({"quality": 101}, "--quality: expected 0 to 100, found 101"),
        ({"quality": 0, "format": "JPEG"}, "--quality: expected 1 to 100, found 0"),
        ({"quality": 50, "format": "PNG"}, "lossless"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SETTINGS, **changes)


def test_a_worker_builds_the_network_it_was_told_or_none(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "small.safetensors")
    source = FolderStore(root=tmp_path / "in", temporary=tmp_path / "tmp")
    target = FolderStore(root=tmp_path / "out", temporary=tmp_path / "tmp")
    source.put("a.png", png())
    settings = replace(SETTINGS, weights_sha256=load_weights(str(path)).sha256)
    build = ObjectEnhancerBuilder(
        source=source, target=target, settings=settings, weights=str(path), threads=1
    )
    row = build()(Work(key="a.png", bytes=1, etag="1", changed_key="a.png"))
    assert (row.status, row.output_width_px) == ("ok", 10)
    assert build().give_up(Work(key="b", bytes=1, etag="1", changed_key="b"), "why").reason == "why"
    with pytest.raises(WeightsError, match="install the same"):
        replace(build, settings=SETTINGS)()
