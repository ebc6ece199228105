"""What happens to one object, with a network that only doubles the pixels."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from image_files import noise, photo, pillow, reopened, saved
from weights_for_tests import write_weights

from pipelines.auto import Candidate
from pipelines.enhance_object import (
    Job,
    ObjectStages,
    PixelBudget,
    RunSettings,
    Worker,
    naming,
    result_key,
)
from pipelines.folder_store import FolderStore
from pipelines.ledger import LedgerRow
from pipelines.storage import Blob, StoreError, UserMetadata
from pipelines.worklist import Work
from resnet_core.enhancer import Enhanced
from resnet_core.errors import ConfigError, DataError, WeightsError
from resnet_core.images import Encoded, Image, encode
from resnet_core.weights import load_weights

SETTINGS = RunSettings(weights_name="double", weights_sha256="f" * 64)


class Doubler:
    """Each pixel twice in each direction."""

    def enhance_measured(self, image: Image) -> Enhanced:
        alpha = None if image.alpha is None else double(image.alpha)
        better = replace(image, pixels=double(image.pixels), alpha=alpha)
        return Enhanced(image=better, change_levels=1.5, network_s=0.25)


DOUBLER = {SETTINGS.weights_sha256: Doubler()}


class Blackener(Doubler):
    """A network that failed: nothing is left of the picture."""

    def enhance_measured(self, image: Image) -> Enhanced:
        found = super().enhance_measured(image)
        return replace(found, image=replace(found.image, pixels=np.zeros_like(found.image.pixels)))


def double(samples: Any) -> Any:
    return np.ascontiguousarray(samples.repeat(2, 0).repeat(2, 1))


@dataclass
class MemoryStore:
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    described: dict[str, tuple[str | None, UserMetadata]] = field(default_factory=dict)
    url: str = "memory"
    full: bool = False

    def get(self, key: str) -> Blob:
        if key not in self.objects:
            raise DataError(f"{key}: can't be read: gone")
        return Blob(
            data=self.objects[key],
            etag="as read",
            user_metadata=(("owner", "me"),),
            headers=(("Cache-Control", "no-cache"),),
        )

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str | None = None,
        user_metadata: UserMetadata = (),
        headers: UserMetadata = (),
    ) -> None:
        if self.full:
            raise StoreError("no space left on device")
        self.objects[key] = data
        self.described[key] = (content_type, (*user_metadata, *headers))


def stages(
    objects: dict[str, bytes], target: MemoryStore | None = None, **changes: Any
) -> ObjectStages:
    return ObjectStages(
        source=cast("Any", MemoryStore(objects)),
        target=cast("Any", target or MemoryStore()),
        settings=replace(SETTINGS, **changes),
    )


def work_of(key: str, size: int = 1, **changes: Any) -> Work:
    changed_key = naming(changes.get("format")).changed_key(key)
    return Work(key=key, bytes=size, etag="listed", changed_key=changed_key)


def enhance(
    key: str, data: bytes, enhancer: Any = None, *, size: int | None = None, **changes: Any
) -> tuple[LedgerRow, dict[str, bytes]]:
    """What the stages give, which is the same in one go and apart."""
    targets = MemoryStore(), MemoryStore()
    work = work_of(key, len(data) if size is None else size, **changes)
    enhancers = {SETTINGS.weights_sha256: enhancer or Doubler()}
    whole = stages({key: data}, targets[0], **changes).whole(work, enhancers, PixelBudget(10**6))
    item: Any = work
    apart = stages({key: data}, targets[1], **changes)
    for stage in (apart.read, lambda job: apart.improve(job, enhancers), apart.write):
        item = item if isinstance(item, LedgerRow) else stage(item)
    assert targets[0] == targets[1]
    assert timeless(whole) == timeless(item)
    return whole, targets[0].objects


def timeless(row: LedgerRow) -> LedgerRow:
    none = dict.fromkeys(("get_s", "decode_s", "network_s", "encode_s", "put_s"), 0.0)
    return replace(row, finished_at=datetime.min, **none)


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
    assert (row.source_etag, row.weights_sha256) == ("as read", "f" * 64)
    assert row.change_levels == 1.5
    assert row.deviation is not None
    assert row.deviation < 1
    assert row.settings_hash == SETTINGS.hash
    assert min(row.get_s, row.decode_s, row.network_s, row.encode_s, row.put_s) > 0
    result = np.asarray(reopened(written["sub/a.png"]))
    np.testing.assert_array_equal(result, double(np.asarray(reopened(data))))


def test_a_result_that_is_another_picture_is_suspect_and_written() -> None:
    row, written = enhance("a.png", png(), Blackener())
    assert row.status == "suspect"
    assert row.deviation is not None
    assert row.deviation > 1
    assert "the mean colour of" in (row.reason or "")
    assert list(written) == [row.out_key]


def test_guard_fail_refuses_it() -> None:
    row, written = enhance("a.png", png(), Blackener(), guard="fail")
    assert row.status == "failed"
    assert (row.reason or "").startswith("the result is suspect: the mean colour of")
    assert (row.reason or "").endswith("(--guard)")
    assert (row.out_key, row.deviation, written) == (None, None, {})
    good, written = enhance("a.png", png(), guard="fail")
    assert (good.status, list(written)) == ("ok", ["a.png"])


def test_the_guard_knows_what_super_resolution_may_not_do() -> None:
    class Shifter(Doubler):
        def enhance_measured(self, image: Image) -> Enhanced:
            found = super().enhance_measured(image)
            return replace(
                found, image=replace(found.image, pixels=np.roll(found.image.pixels, 2, axis=1))
            )

    data = saved(pillow(noise(48, 48, 3)), "PNG")
    assert enhance("a.png", data, Shifter(), weights_task="photo-x2")[0].status == "ok"
    assert enhance("a.png", data, Shifter(), weights_task="sr-x2")[0].status == "suspect"


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


def test_a_name_that_lies_never_takes_that_of_another() -> None:
    gif, other = saved(pillow(noise(4, 4, 3)), "GIF"), png(4, 4)
    found = stages({"a.jpg": gif, "a.jpg.png": other})
    row = found.whole(work_of("a.jpg"), DOUBLER, PixelBudget(1000))
    assert row.status == "failed"
    assert row.reason == "the result's name a.jpg.png is that of another: rename one of them"


def test_a_format_that_could_not_hold_the_result_shows_in_the_name() -> None:
    work = Work(key="a.jpg", bytes=1, etag="1", changed_key="a.jpg")
    encoded = Encoded(data=b"", format="PNG", extension=".png", media_type="image/png")
    assert result_key(work, "JPEG", encoded, SETTINGS) == "a.jpg.png"
    work = replace(work, changed_key="a.webp")
    assert result_key(work, "JPEG", encoded, replace(SETTINGS, format="WEBP")) == "a.webp.png"


GIF_FRAMES = [pillow(noise(4, 4, 3, seed=seed)) for seed in (1, 2)]

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


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
        ("notes.txt", b"BMs in the notes of a day", "skipped", "not an image"),
        ("a.heic", HEIC, "failed", "JPEG, PNG, WEBP, TIFF, BMP, AVIF, GIF, found HEIC"),
        ("frames", animated(), "failed", "expected a still image"),
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
    row = stages({}).read(work_of("a.png"))
    assert isinstance(row, LedgerRow)
    assert row.reason == "can't be read: gone"


def test_problems_of_the_listing_become_rows() -> None:
    link = replace(work_of("a.png"), problem="a link")
    for work, status in ((link, "skipped"), (replace(link, is_error=True), "failed")):
        row = stages({}).read(work)
        assert isinstance(row, LedgerRow)
        assert (row.status, row.reason) == (status, "a link")


def test_an_object_keeps_its_own_metadata_and_gets_its_media_type() -> None:
    target = MemoryStore()
    row = stages({"a.gif": saved(pillow(noise(4, 4, 3)), "GIF")}, target).whole(
        work_of("a.gif"), DOUBLER, PixelBudget(1)
    )
    assert row.out_key == "a.png"
    assert target.described == {
        "a.png": ("image/png", (("owner", "me"), ("Cache-Control", "no-cache")))
    }


def test_a_store_that_is_gone_is_no_fault_of_the_object() -> None:
    with pytest.raises(StoreError, match="no space left"):
        stages({"a.png": png()}, MemoryStore(full=True)).whole(
            work_of("a.png"), DOUBLER, PixelBudget(1)
        )


def test_a_result_of_another_size_is_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(image: Image, **settings: Any) -> Encoded:
        return encode(replace(image, pixels=image.pixels[:-1]), **settings)

    monkeypatch.setattr("pipelines.enhance_object.encode", wrong)
    row, written = enhance("a.png", png())
    assert row.reason == (
        "the result came out wrong: expected PNG of 10 x 6 pixels, found PNG of 10 x 5"
    )
    assert written == {}


def test_a_job_between_stages_travels() -> None:
    job = stages({"a.png": png()}).read(work_of("a.png"))
    assert isinstance(job, Job)
    copy = pickle.loads(pickle.dumps(job))
    np.testing.assert_array_equal(copy.content.pixels, job.content.pixels)
    assert copy.work == job.work


def test_images_wait_for_room_and_one_that_is_too_large_is_taken_alone() -> None:
    budget = PixelBudget(100)
    held: list[int] = []
    most = 0

    def use(pixels: int) -> None:
        nonlocal most
        with budget.place(pixels):
            held.append(pixels)
            assert sum(held) <= 100 or len(held) == 1
            time.sleep(0.002)
            most = max(most, len(held))
            held.remove(pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, [40, 30, 500, 30, 60, 100, 20, 20, 20, 20, 500, 1] * 3))
    assert most > 1
    with pytest.raises(RuntimeError), budget.place(100):
        raise RuntimeError
    use(100)


def test_an_error_nobody_thought_of_ends_one_object_only() -> None:
    class Broken:
        def enhance_measured(self, image: Image) -> Enhanced:
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
    same = replace(
        SETTINGS, tile_px=64, max_pixels=1, max_bytes=1, weights_name="other", guard="fail"
    )
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


CANDIDATES = tuple(
    Candidate(name=name, sha256=name[0] * 64, task=name)
    for name in ("denoise", "dejpeg", "restore")
)
AUTO = RunSettings(weights_name="auto", weights_sha256="f" * 64, candidates=CANDIDATES)
SPOTS = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
WORN = np.asarray(pillow(SPOTS).resize((160, 160)))


class Halver:
    """At the same size, half as bright."""

    def enhance_measured(self, image: Image) -> Enhanced:
        return Enhanced(
            image=replace(image, pixels=image.pixels // 2), change_levels=60, network_s=0.1
        )


def by_auto(data: bytes, key: str = "a.jpg", **changes: Any) -> tuple[LedgerRow, dict[str, bytes]]:
    """What becomes of an image where `auto` chooses, and only `dejpeg` is there."""
    target, settings = MemoryStore(), replace(AUTO, **changes)
    source = MemoryStore({key: data})
    steps = ObjectStages(source=cast("Any", source), target=cast("Any", target), settings=settings)
    networks = {CANDIDATES[1].sha256: Halver()}
    row = steps.whole(work_of(key, len(data), **changes), networks, PixelBudget(10**6))
    return row, target.objects


def test_auto_enhances_by_what_it_chose_and_tells_it() -> None:
    row, written = by_auto(saved(pillow(WORN), "JPEG", quality=30))
    assert (row.chosen, row.jpeg_quality, row.change_levels) == ("dejpeg", 30, 60)
    assert None not in (row.noise_levels, row.grain_levels, row.colour_levels, row.sharpness)
    assert (row.weights_sha256, row.settings_hash) == ("f" * 64, AUTO.hash)
    software = reopened(written["a.jpg"]).getexif()[0x131]
    assert "resray dejpeg dddddddddddd strength 1" in software


def test_the_guard_of_auto_is_that_of_what_it_chose() -> None:
    row, _ = by_auto(saved(pillow(WORN), "JPEG", quality=30))
    assert (row.status, row.chosen) == ("suspect", "dejpeg")
    refused, written = by_auto(saved(pillow(WORN), "JPEG", quality=30), guard="fail")
    assert (refused.status, refused.chosen, refused.jpeg_quality) == ("failed", "dejpeg", 30)
    assert written == {}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_auto_leaves_a_clean_image_byte_for_byte(format: str) -> None:
    data = photo(format, 6, np.full((80, 100, 3), 90, np.uint8))
    row, written = by_auto(data, "a.jpg")
    assert (row.status, row.chosen) == ("ok", "none")
    assert written == {"a.jpg": data}
    assert (row.output_width_px, row.output_height_px) == (80, 100)
    assert (row.change_levels, row.deviation, row.output_bytes) == (None, None, len(data))


@pytest.mark.parametrize(
    ("key", "source_format", "changes"),
    [
        ("a.jpg", "PNG", {"format": "JPEG"}),
        ("a.jpg", "JPEG", {"quality": 80}),
        ("a.jpg", "JPEG", {"metadata": "no-gps"}),
        ("a.png", "GIF", {}),
    ],
)
def test_a_clean_image_is_written_anew_where_that_was_asked_for(
    key: str, source_format: str, changes: dict[str, Any]
) -> None:
    clean = np.full((80, 100, 3), 90, np.uint8)
    data = (
        photo(source_format, samples=clean)
        if source_format != "GIF"
        else saved(pillow(clean), "GIF")
    )
    row, written = by_auto(data, key, **changes)
    assert (row.status, row.chosen) == ("ok", "none")
    assert written[key] != data
    np.testing.assert_allclose(np.asarray(reopened(written[key]).convert("RGB")), clean, atol=1)
    assert "resray" not in str(reopened(written[key]).getexif().get(0x131))


def test_a_worker_builds_the_network_it_was_told_or_none(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "small.safetensors")
    source = FolderStore(root=tmp_path / "in", temporary=tmp_path / "tmp")
    target = FolderStore(root=tmp_path / "out", temporary=tmp_path / "tmp")
    source.put("a.png", png())
    settings = replace(SETTINGS, weights_sha256=load_weights(str(path)).sha256)
    worker = Worker(
        stages=ObjectStages(source=source, target=target, settings=settings),
        weights=(str(path),),
        threads=1,
        batch_px=1,
        memory_px=1000,
    )
    row = worker.whole()(work_of("a.png"))
    assert (row.status, row.output_width_px) == ("ok", 10)
    whole = (tmp_path / "out" / "a.png").read_bytes()
    improved = worker.improve()(cast("Job", worker.read()(work_of("a.png"))))
    assert timeless(worker.write()(cast("Job", improved))) == timeless(row)
    assert (tmp_path / "out" / "a.png").read_bytes() == whole
    assert worker.stages.failed(work_of("b"), "why").reason == "why"
    with pytest.raises(WeightsError, match="install the same"):
        replace(worker, stages=replace(worker.stages, settings=SETTINGS)).whole()
