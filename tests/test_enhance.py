"""`resray enhance` as a whole, on small images and a small network with random weights."""

import os
import re
import shutil
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
from weights_for_tests import write_weights

from cluster.connect import ray_session
from pipelines.cli import main
from pipelines.enhance import closing_lines, shown_key
from pipelines.enhance_object import ObjectEnhancerBuilder, RunSettings
from pipelines.folder_store import FolderStore
from pipelines.ledger import LEDGER_PREFIX, LedgerRow, current_state, list_parts, read_parts
from pipelines.storage import RESERVED, open_source
from pipelines.summary import RunSummary
from pipelines.worklist import Work
from resnet_core.enhancer import Enhancer
from resnet_core.images import decode
from resnet_core.weights import load_weights

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One Ray for all runs in this process: the command joins it."""
    with ray_session():
        yield


@dataclass(frozen=True)
class Folders:
    """A source with images, a destination, and weights."""

    root: Path

    @property
    def source(self) -> Path:
        return self.root / "photos"

    @property
    def target(self) -> Path:
        return self.root / "better"

    def write(self, key: str, data: bytes) -> None:
        path = self.source / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def arguments(self, *options: str) -> list[str]:
        return [
            "enhance",
            str(self.source),
            str(self.target),
            "--weights",
            str(self.root / "small.safetensors"),
            *options,
        ]

    def outputs(self) -> dict[str, bytes]:
        """Everything under the destination but what belongs to resray."""
        return contents(self.target, but=RESERVED)

    def state(self) -> dict[str, LedgerRow]:
        return current_state(self.store)

    def statuses(self) -> dict[str, str]:
        return {key: row.status for key, row in self.state().items()}

    def num_recorded(self) -> int:
        return sum(table.num_rows for table in read_parts(self.store, list_parts(self.store)))

    @property
    def store(self) -> FolderStore:
        return FolderStore(root=self.target, temporary=self.target / RESERVED / "tmp")


def contents(root: Path, *, but: str = "") -> dict[str, bytes]:
    files = {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}
    return {key: p.read_bytes() for key, p in files.items() if not but or not key.startswith(but)}


def image(format: str = "PNG", *, seed: int = 0, side: int = 12) -> bytes:
    return saved(pillow(noise(side, side + 2, 3, seed=seed)), format)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    write_weights(tmp_path / "small.safetensors")
    made = Folders(tmp_path)
    made.write("a.png", image(seed=1))
    made.write("sub/deep/b.jpg", image("JPEG", seed=2))
    made.write("sub/c.webp", image("WEBP", seed=3))
    return made


def test_a_folder_is_mirrored_recorded_and_reported(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folders.source)
    assert main(folders.arguments("--limit", "1")) == 0
    assert len(folders.outputs()) == 1
    assert "1 enhanced in" in capsys.readouterr().out
    assert main(folders.arguments()) == 0
    outputs = folders.outputs()
    assert outputs.keys() == before.keys()
    for key, data in outputs.items():
        assert reopened(data).format == reopened(before[key]).format
        assert reopened(data).size == (28, 24)
    assert contents(folders.source) == before, "the source is only read"
    assert folders.statuses() == dict.fromkeys(before, "ok")
    enhancer = Enhancer(load_weights(str(folders.root / "small.safetensors")))
    expected = enhancer.enhance(decode(before["a.png"])).pixels
    levels = np.abs(decode(outputs["a.png"]).pixels.astype(int) - expected.astype(int))
    assert levels.max() <= 1, "bulk equals the core"
    page = (folders.target / RESERVED / "report.html").read_text(encoding="utf-8")
    assert "sub/deep/b.jpg" in page
    out, errors = capsys.readouterr()
    assert "2 enhanced, 1 done before in" in out
    assert "report.html" in out
    assert errors == ""

    again = [str(folders.target), str(folders.root / "best"), *folders.arguments()[3:]]
    assert main(["enhance", *again]) == 0, "a result is a source like any other"
    assert contents(folders.root / "best", but=RESERVED).keys() == outputs.keys()


def test_the_same_command_does_only_what_is_new_changed_or_failed_on_demand(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.write("bad.jpg", image("JPEG")[:100])
    folders.write("notes.txt", b"no image")
    assert main(folders.arguments()) == 2
    out = capsys.readouterr().out
    assert "3 enhanced, 1 failed, 1 skipped" in out
    assert re.search(r"^  failed: bad\.jpg: JPEG is truncated", out, re.MULTILINE)
    assert folders.statuses()["bad.jpg"] == "failed"
    assert folders.statuses()["notes.txt"] == "skipped"
    first = {key: (folders.target / key).stat().st_mtime_ns for key in folders.outputs()}
    recorded = folders.num_recorded()

    assert main(folders.arguments()) == 2
    assert "0 enhanced, 4 done before" in (out := capsys.readouterr().out)
    assert "1 failed before: --retry-failed" in out
    assert folders.num_recorded() == recorded

    folders.write("a.png", image(seed=9, side=14))
    folders.write("new.png", image(seed=8))
    folders.write("bad.jpg", image("JPEG", seed=7))
    os.utime(folders.source / "notes.txt", ns=(1, 1))
    assert main(folders.arguments("--retry-failed")) == 0
    assert "3 enhanced, 1 skipped (no images), 2 done before" in capsys.readouterr().out
    second = {key: (folders.target / key).stat().st_mtime_ns for key in folders.outputs()}
    assert {key for key in first if second[key] == first[key]} == {"sub/deep/b.jpg", "sub/c.webp"}
    assert set(folders.statuses().values()) == {"ok", "skipped"}
    assert reopened(folders.outputs()["a.png"]).size == (32, 28)


def test_other_settings_do_everything_again(folders: Folders) -> None:
    assert main(folders.arguments()) == 0
    plain = folders.outputs()
    assert main(folders.arguments("--strength", "0")) == 0
    assert folders.num_recorded() == 6
    assert folders.outputs()["a.png"] != plain["a.png"]


def test_two_sources_never_share_a_result(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.write("a.jpg", image("JPEG", seed=4))
    (folders.source / "link.png").symlink_to("a.png")
    assert main(folders.arguments("--format", "webp", "--quality", "80")) == 2
    assert folders.outputs().keys() == {"a.webp", "sub/c.webp", "sub/deep/b.webp"}
    state = folders.state()
    assert state["a.jpg"].out_key == "a.webp"
    assert state["a.png"].reason == "the result's name a.webp is that of a.jpg: rename one of them"
    assert state["link.png"].status == "skipped"
    assert "failed: a.png: the result's name" in capsys.readouterr().out


def test_a_sample_shows_and_estimates_but_records_nothing(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(folders.arguments("--sample", "2")) == 0
    assert folders.outputs() == {}
    assert list_parts(folders.store) == []
    samples = contents(folders.target / RESERVED / "sample")
    assert len(samples) == 2
    assert samples.keys() < contents(folders.source).keys()
    out = capsys.readouterr().out
    assert "all 3 files would take about" in out
    assert (folders.target / RESERVED / "report.html").exists()


def test_a_folder_without_images_is_an_error_in_one_line(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folders.source)
    folders.write("notes.txt", b"no image")
    assert main(folders.arguments()) == 1
    errors = capsys.readouterr().err
    assert "none of its 1 files is an image; expected JPEG" in errors
    assert errors.count("\n") == 1


def test_a_damaged_ledger_is_named_in_one_line(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    part = f"{LEDGER_PREFIX}000001-0-000000.parquet"
    folders.store.put(part, b"PAR1")
    assert main(folders.arguments()) == 1
    errors = capsys.readouterr().err
    assert f"{part}: a damaged part of the ledger" in errors
    assert errors.count("\n") == 1


def start(folders: Folders, *options: str) -> subprocess.Popen[str]:
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


def wait_for_outputs(folders: Folders, count: int) -> None:
    deadline_s = time.monotonic() + 120
    while len(folders.outputs()) < count:
        assert time.monotonic() < deadline_s, "no outputs came"
        time.sleep(0.02)


def many(folders: Folders, count: int) -> None:
    for number in range(count):
        folders.write(f"many/{number:03d}.png", image(seed=number, side=160))


def assert_whole(folders: Folders) -> None:
    """Nothing partial can be seen: every output is an image of the right size."""
    for key, data in folders.outputs().items():
        width, height = reopened((folders.source / key).read_bytes()).size
        assert decode(data).pixels.shape == (2 * height, 2 * width, 3)


def undisturbed(folders: Folders) -> dict[str, bytes]:
    """The same work done in this process, one object after the other, without Ray."""
    weights = load_weights(str(folders.root / "small.safetensors"))
    twin = FolderStore(root=folders.root / "twin", temporary=folders.root / "tmp")
    build = ObjectEnhancerBuilder(
        source=open_source(str(folders.source)),
        target=twin,
        settings=RunSettings(weights_name=weights.name, weights_sha256=weights.sha256),
        weights=str(folders.root / "small.safetensors"),
        threads=os.cpu_count() or 1,
    )
    enhance = build()
    for key in contents(folders.source):
        assert enhance(Work(key=key, bytes=1, etag="", changed_key=key)).status == "ok"
    return contents(twin.root)


def test_a_driver_killed_at_any_moment_loses_nothing_and_the_same_command_goes_on(
    folders: Folders,
) -> None:
    many(folders, 60)
    process = start(folders)
    wait_for_outputs(folders, 12)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert_whole(folders)
    assert 12 <= len(folders.outputs()) < 63
    assert main(folders.arguments()) == 0
    assert_whole(folders)
    state = folders.state()
    assert folders.outputs().keys() == state.keys() == contents(folders.source).keys()
    assert {row.status for row in state.values()} == {"ok"}
    assert undisturbed(folders) == folders.outputs()


def test_ctrl_c_records_what_is_done_and_says_how_to_go_on(folders: Folders) -> None:
    many(folders, 60)
    process = start(folders)
    wait_for_outputs(folders, 5)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Enhancing" in out
    assert re.fullmatch(r"resray: stopped; \d+ done and recorded, [^\n]*\n", errors)
    recorded = folders.statuses()
    assert len(recorded) > 0
    assert recorded.keys() <= folders.outputs().keys()
    assert_whole(folders)


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
            summary, duration_s=2.0, work_s=1.0, done_before=1200, failed_before=3, estimate=None
        )
    )
    assert lines[0] == "0 enhanced, 25 failed, 1,200 done before in 2.0 s"
    assert lines[1] == r"  failed: '0\n.png': broken"
    assert lines[-2] == "  and 5 more, with their reasons in _resray/ledger/"
    assert lines[-1].startswith("3 failed before: --retry-failed")
    assert shown_key("plain name.png") == "plain name.png"
