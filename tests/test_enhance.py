"""`resray enhance` as a whole, on small images and a small network with random weights."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from image_files import noise, pillow, reopened, saved
from object_store_for_tests import find_weed, make_bucket, use_store
from PIL import Image as PillowImage
from weights_for_tests import write_foreign, write_weights

from cluster.connect import ray_session
from pipelines.auto import CANDIDATES
from pipelines.cli import main
from pipelines.enhance import (
    MEMORY_PX,
    REPORT_KEY,
    SAMPLE_PREFIX,
    SAMPLE_REPORT_KEY,
    closing_lines,
    shown_key,
)
from pipelines.enhance_object import ObjectStages, RunSettings, Worker
from pipelines.folder_store import FolderStore
from pipelines.ledger import LEDGER_PREFIX, LedgerRow, current_state, list_parts, read_parts
from pipelines.s3_store import S3Store
from pipelines.storage import RESERVED, Store
from pipelines.summary import RunSummary
from pipelines.worklist import Work
from resnet_core.degradation import degrade
from resnet_core.enhancer import Enhancer
from resnet_core.images import decode
from resnet_core.network import NetworkConfig
from resnet_core.standard_degradations import gaussian_noise
from resnet_core.weights import load_weights

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def s3_endpoint(request: pytest.FixtureRequest) -> str | None:
    """A real object store, where this machine can run one."""
    return request.getfixturevalue("seaweedfs_endpoint") if find_weed() else None


@pytest.fixture(scope="module", autouse=True)
def session(s3_endpoint: str | None) -> Iterator[None]:
    """One Ray for all runs in this process: the command joins it, its workers know the store."""
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, s3_endpoint)
        with ray_session():
            yield


@dataclass(frozen=True)
class Places:
    """A source with images, a destination, and weights."""

    folder: Path
    source: Store
    target: Store

    def arguments(self, *options: str) -> list[str]:
        return [
            "enhance",
            self.source.url,
            self.target.url,
            "--weights",
            str(self.folder / "small.safetensors"),
            *options,
        ]

    def sources(self) -> dict[str, bytes]:
        return contents(self.source)

    def outputs(self) -> dict[str, bytes]:
        """Everything under the destination but what belongs to resray."""
        return contents(self.target)

    def state(self) -> dict[str, LedgerRow]:
        return current_state(self.target)

    def statuses(self) -> dict[str, str]:
        return {key: row.status for key, row in self.state().items()}

    def num_recorded(self) -> int:
        return sum(table.num_rows for table in read_parts(self.target, list_parts(self.target)))


def contents(store: Store, under: str = "") -> dict[str, bytes]:
    return {info.key: store.get(info.key).data for info in store.list_objects(under)}


def said(errors: str) -> list[str]:
    """Lines but those of the progress, which come where a run takes half a minute."""
    return [line for line in errors.splitlines() if "starting" not in line and "MP/s" not in line]


def image(format: str = "PNG", *, seed: int = 0, side: int = 12) -> bytes:
    return saved(pillow(noise(side, side + 2, 3, seed=seed)), format)


def places_in(folder: Path, source: Store, target: Store) -> Places:
    write_weights(folder / "small.safetensors")
    made = Places(folder, source, target)
    source.put("a.png", image(seed=1))
    source.put("sub/deep/b.jpg", image("JPEG", seed=2), user_metadata=(("owner", "me"),))
    source.put("sub/c.webp", image("WEBP", seed=3))
    return made


@pytest.fixture
def folders(tmp_path: Path) -> Places:
    source, target = (
        FolderStore(root=tmp_path / name, temporary=tmp_path / name / RESERVED / "tmp")
        for name in ("photos", "better")
    )
    return places_in(tmp_path, source, target)


PLACES = ["folders", pytest.param("buckets", marks=pytest.mark.s3)]
MIXED = pytest.param("folder to bucket", marks=pytest.mark.s3)


@pytest.fixture(params=PLACES)
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    """The same places as folders, prefixes of a bucket, and mixed."""
    folders: Places = request.getfixturevalue("folders")
    if request.param == "folders":
        return folders
    s3_endpoint: str = request.getfixturevalue("seaweedfs_endpoint")
    target = S3Store(bucket=make_bucket(s3_endpoint), prefix="better/still")
    if request.param == "folder to bucket":
        return Places(tmp_path, folders.source, target)
    return places_in(tmp_path, S3Store(bucket=make_bucket(s3_endpoint)), target)


@pytest.mark.parametrize("places", [*PLACES, MIXED], indirect=True)
def test_a_place_is_mirrored_recorded_and_reported(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    before = places.sources()
    assert main(places.arguments("--limit", "1")) == 0
    assert len(places.outputs()) == 1
    assert "1 enhanced in" in capsys.readouterr().out
    assert main(places.arguments()) == 0
    outputs = places.outputs()
    assert outputs.keys() == before.keys()
    for key, data in outputs.items():
        assert reopened(data).format == reopened(before[key]).format
        assert reopened(data).size == (28, 24)
    assert places.sources() == before, "the source is only read"
    assert places.statuses() == dict.fromkeys(before, "ok")
    enhancer = Enhancer(load_weights(str(places.folder / "small.safetensors")))
    expected = enhancer.enhance(decode(before["a.png"])).pixels
    levels = np.abs(decode(outputs["a.png"]).pixels.astype(int) - expected.astype(int))
    assert levels.max() <= 1, "bulk equals the core"
    report = places.target.get(REPORT_KEY)
    page = report.data.decode()
    assert "sub/deep/b.jpg" in page
    out, errors = capsys.readouterr()
    assert "2 enhanced, 1 done before in" in out
    assert "report.html" in out
    assert said(errors) == []
    if isinstance(places.target, S3Store):
        assert report.content_type == "text/html; charset=utf-8"
        kept = places.target.get("sub/deep/b.jpg")
        assert kept.content_type == "image/jpeg"
        assert kept.user_metadata == places.source.get("sub/deep/b.jpg").user_metadata

    best = places.folder / "best"
    again = [places.target.url, str(best), *places.arguments()[3:]]
    assert main(["enhance", *again]) == 0, "a result is a source like any other"
    found = contents(FolderStore(root=best, temporary=best))
    assert found.keys() == outputs.keys()


def test_weights_from_elsewhere_run_like_any_other(folders: Places) -> None:
    theirs = write_foreign(folders.folder / "theirs.pth")
    arguments = [*folders.arguments("--tile", "32"), "--weights", str(theirs)]
    assert main(arguments) == 0
    weights = load_weights(str(theirs))
    assert {row.weights_sha256 for row in folders.state().values()} == {weights.sha256}
    assert set(folders.statuses().values()) == {"suspect"}, "random weights shift the colour"
    expected = Enhancer(weights).enhance(decode(folders.sources()["a.png"])).pixels
    found = decode(folders.outputs()["a.png"]).pixels
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert "other-x2" in folders.target.get(REPORT_KEY).data.decode()
    recorded = folders.num_recorded()
    assert main(arguments) == 0
    assert folders.num_recorded() == recorded, "done before"


def test_auto_chooses_for_each_image_and_records_it(
    folders: Places,
    examples_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("resnet_core.weights.PACKAGED", folders.folder / "package")
    arguments = [*folders.arguments(), "--weights", "auto"]
    assert main(arguments) == 1
    (error,) = said(capsys.readouterr().err)
    assert error.startswith("resray: no weights named 'denoise'")
    for number, name in enumerate(CANDIDATES):
        config = NetworkConfig(scale=1, num_blocks=1, channels=16, unshuffle=2)
        write_weights(folders.folder / "package" / f"{name}.safetensors", config, seed=number)
    lighthouse = pillow(decode((examples_dir / "lighthouse.png").read_bytes()).pixels)
    clean = lighthouse.resize((240, 180), PillowImage.Resampling.LANCZOS)
    noisy = degrade(np.array(clean), gaussian_noise(25), np.random.default_rng(0))
    folders.source.put("clean.jpg", saved(clean, "JPEG", quality=98))
    folders.source.put("worn.jpg", saved(clean, "JPEG", quality=30))
    folders.source.put("noisy.png", saved(pillow(noisy), "PNG"))
    folders.source.put("bad.jpg", saved(clean, "JPEG")[:100])

    assert main(arguments) == 2
    out = capsys.readouterr().out
    assert "with auto (x1)" in out
    assert "3 enhanced, 3 left alone, 1 failed in" in out
    assert "chosen: 3 none, 2 dejpeg, 1 denoise" in out
    state = folders.state()
    chosen = {key: row.chosen for key, row in state.items()}
    assert chosen == dict.fromkeys(folders.sources(), "none") | {
        "worn.jpg": "dejpeg",
        "sub/deep/b.jpg": "dejpeg",
        "noisy.png": "denoise",
        "bad.jpg": None,
    }
    assert state["noisy.png"].noise_levels == pytest.approx(25, rel=0.2)
    assert state["worn.jpg"].jpeg_quality == 30
    assert state["a.png"].noise_levels is None, "too small to tell"
    outputs, sources = folders.outputs(), folders.sources()
    assert {key for key in outputs if outputs[key] == sources[key]} == {
        key for key, name in chosen.items() if name == "none"
    }
    assert decode(outputs["worn.jpg"]).pixels.shape == (180, 240, 3)
    page = folders.target.get(REPORT_KEY).data.decode()
    assert "chosen: denoise (noise 2" in page
    assert "3 none, 2 dejpeg, 1 denoise" in page
    assert "dejpeg (" in page
    assert re.search(r"Left alone</dt>\s*<dd>3<", page)
    assert "Bicubic" not in page, "what was there before is the picture itself"

    recorded = folders.num_recorded()
    assert main(arguments) == 2
    assert folders.num_recorded() == recorded, "done before"


def test_the_same_command_does_only_what_is_new_changed_or_failed_on_demand(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    places.source.put("bad.jpg", image("JPEG")[:100])
    places.source.put("notes.txt", b"no image")
    assert main(places.arguments()) == 2
    out = capsys.readouterr().out
    assert "3 enhanced, 1 failed, 1 skipped" in out
    assert re.search(r"^  failed: bad\.jpg: JPEG is truncated", out, re.MULTILINE)
    assert places.statuses()["bad.jpg"] == "failed"
    assert places.statuses()["notes.txt"] == "skipped"
    first = written_at(places)
    recorded = places.num_recorded()

    assert main(places.arguments()) == 2
    assert "0 enhanced, 4 done before" in (out := capsys.readouterr().out)
    assert "1 failed before: --retry-failed" in out
    assert places.num_recorded() == recorded

    places.source.put("a.png", image(seed=9, side=14))
    places.source.put("new.png", image(seed=8))
    places.source.put("bad.jpg", image("JPEG", seed=7))
    places.source.put("notes.txt", b"no image either")
    assert main(places.arguments("--retry-failed")) == 0
    assert "3 enhanced, 1 skipped (no images), 2 done before" in capsys.readouterr().out
    second = written_at(places)
    assert {key for key in first if second[key] == first[key]} == {"sub/deep/b.jpg", "sub/c.webp"}
    assert set(places.statuses().values()) == {"ok", "skipped"}
    assert reopened(places.outputs()["a.png"]).size == (32, 28)


def written_at(places: Places) -> dict[str, str]:
    """What tells for each result whether it was written again."""
    return {key: str(row.finished_at) for key, row in places.state().items() if row.status == "ok"}


def test_other_settings_do_everything_again(places: Places) -> None:
    assert main(places.arguments()) == 0
    plain = places.outputs()
    assert main(places.arguments("--strength", "0")) == 0
    assert places.num_recorded() == 6
    assert places.outputs()["a.png"] != plain["a.png"]


def test_two_sources_never_share_a_result(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    places.source.put("a.jpg", image("JPEG", seed=4))
    assert main(places.arguments("--format", "webp", "--quality", "80")) == 2
    assert places.outputs().keys() == {"a.webp", "sub/c.webp", "sub/deep/b.webp"}
    state = places.state()
    assert state["a.jpg"].out_key == "a.webp"
    assert state["a.png"].reason == "the result's name a.webp is that of a.jpg: rename one of them"
    assert "failed: a.png: the result's name" in capsys.readouterr().out


def test_a_sample_shows_and_estimates_but_records_nothing(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(places.arguments("--sample", "2")) == 0
    assert places.outputs() == {}
    assert list_parts(places.target) == []
    samples = contents(places.target.below(SAMPLE_PREFIX))
    assert len(samples) == 2
    assert samples.keys() < places.sources().keys()
    out = capsys.readouterr().out
    assert "all 3 files would take about" in out
    assert places.target.info(SAMPLE_REPORT_KEY).problem is None
    assert places.target.info(REPORT_KEY).problem is not None, "a run's report stays as it is"


def test_a_folder_without_images_is_an_error_in_one_line(
    folders: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = FolderStore(root=folders.folder / "notes", temporary=folders.folder)
    notes.put("notes.txt", b"no image")
    assert main(["enhance", notes.url, *folders.arguments()[2:]]) == 1
    (error,) = said(capsys.readouterr().err)
    assert "none of its 1 files is an image; expected JPEG" in error


def test_a_limit_that_meets_no_image_is_no_error(
    folders: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.source.put("0.txt", b"no image")
    assert main(folders.arguments("--limit", "1")) == 0
    assert "0 enhanced" in capsys.readouterr().out
    assert main(folders.arguments("--limit", "1")) == 0


def test_a_damaged_ledger_is_named_in_one_line(
    folders: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    part = f"{LEDGER_PREFIX}000001-0-000000.parquet"
    folders.target.put(part, b"PAR1")
    assert main(folders.arguments()) == 1
    (error,) = said(capsys.readouterr().err)
    assert f"{part}: a damaged part of the ledger" in error


def test_a_list_of_keys_takes_what_it_names(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    names = places.folder / "keys.txt"
    names.write_text(f"sub/c.webp\nmissing.png\n{places.source.url_of('a.png')}\n")
    _, _, *rest = places.arguments("--root", places.source.url)
    assert main(["enhance", str(names), *rest]) == 2
    assert "failed: missing.png: no such object" in capsys.readouterr().out
    assert places.outputs().keys() == {"a.png", "sub/c.webp"}
    assert main(places.arguments()) == 0
    assert "1 enhanced, 2 done before" in capsys.readouterr().out


def start(folders: Places, *options: str) -> subprocess.Popen[str]:
    """The command in a process of its own, with a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *folders.arguments(*options)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_outputs(folders: Places, count: int) -> None:
    deadline_s = time.monotonic() + 600
    while len(folders.outputs()) < count:
        assert time.monotonic() < deadline_s, "no outputs came"
        time.sleep(0.02)


def many(folders: Places, count: int) -> None:
    for number in range(count):
        folders.source.put(f"many/{number:03d}.png", image(seed=number, side=160))


def assert_whole(folders: Places) -> None:
    """Nothing partial can be seen: every output is an image of the right size."""
    for key, data in folders.outputs().items():
        width, height = reopened(folders.source.get(key).data).size
        assert decode(data).pixels.shape == (2 * height, 2 * width, 3)


def undisturbed(folders: Places) -> dict[str, bytes]:
    """The same work done in this process, one object after the other, without Ray."""
    path = str(folders.folder / "small.safetensors")
    weights = load_weights(path)
    twin = FolderStore(root=folders.folder / "twin", temporary=folders.folder / "tmp")
    worker = Worker(
        stages=ObjectStages(
            source=folders.source,
            target=twin,
            settings=RunSettings(weights_name=weights.name, weights_sha256=weights.sha256),
        ),
        weights=(path,),
        threads=os.cpu_count() or 1,
        batch_px=None,
        memory_px=MEMORY_PX,
    )
    enhance = worker.whole()
    for key in folders.sources():
        assert enhance(Work(key=key, bytes=1, etag="", changed_key=key)).status == "ok"
    return contents(twin)


def test_a_driver_killed_at_any_moment_loses_nothing_and_the_same_command_goes_on(
    folders: Places,
) -> None:
    many(folders, 120)
    process = start(folders)
    wait_for_outputs(folders, 12)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert_whole(folders)
    assert 12 <= len(folders.outputs()) < len(folders.sources())
    assert main(folders.arguments()) == 0
    assert_whole(folders)
    state = folders.state()
    assert folders.outputs().keys() == state.keys() == folders.sources().keys()
    assert {row.status for row in state.values()} == {"ok"}
    assert undisturbed(folders) == folders.outputs()


def test_ctrl_c_records_what_is_done_and_says_how_to_go_on(folders: Places) -> None:
    data = image(side=160)
    for number in range(2000):  # so many that they aren't done before the signal comes
        folders.source.put(f"many/{number:04d}.png", data)
    process = start(folders)
    wait_for_outputs(folders, 40)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    assert "Enhancing" in out
    (line,) = said(errors)
    assert re.fullmatch(r"resray: stopped; \d+ done and recorded, .*", line)
    recorded = folders.statuses()
    assert len(recorded) > 0
    assert recorded.keys() <= folders.outputs().keys()
    assert_whole(folders)


def test_closing_lines_tell_what_is_suspect() -> None:
    summary = RunSummary()
    for key, deviation in (("a.png", 1.2), ("b.png", 3.0), ("c.png", 0.4)):
        summary.add(
            LedgerRow(
                key=key,
                status="suspect" if deviation > 1 else "ok",
                reason="it drifted" if deviation > 1 else None,
                deviation=deviation,
                source_etag="1",
                source_bytes=1,
                weights_sha256="w",
                settings_hash="s",
            )
        )
    lines = closing_lines(
        summary, duration_s=2.0, work_s=0.0, done_before=0, failed_before=0, estimate=None
    )
    assert list(lines) == [
        "3 enhanced, 2 of them suspect in 2.0 s",
        "  suspect: b.png: it drifted",
        "  suspect: a.png: it drifted",
    ]


def test_closing_lines_tell_counts_failures_and_what_to_do() -> None:
    summary = RunSummary()
    for number in range(25):
        summary.add(
            LedgerRow(
                key=f"{number}\n.png",
                status="failed",
                reason="broken",
                source_etag="1",
                source_bytes=1,
                weights_sha256="w",
                settings_hash="s",
            )
        )
    lines = list(
        closing_lines(
            summary,
            duration_s=2.0,
            work_s=1.0,
            done_before=1200,
            failed_before=3,
            not_reached=2,
            estimate=None,
        )
    )
    assert lines[0] == "0 enhanced, 25 failed, 1,200 done before in 2.0 s"
    assert lines[1] == r"  failed: '0\n.png': broken"
    assert lines[-3] == "  and 5 more, with their reasons in _resray/ledger/"
    assert lines[-2].startswith("3 failed before: --retry-failed")
    assert lines[-1].startswith("2 more are there, as the source has changed meanwhile")
    assert shown_key("plain name.png") == "plain name.png"
