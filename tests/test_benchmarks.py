"""The pure parts of the benchmarks: figures that are parsed, ratios, the steady state, the page."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from parts import listing, peers, scheduling, serving  # noqa: E402
from parts.end_to_end import photographs  # noqa: E402
from parts.figures import (  # noqa: E402
    Figure,
    figure_lines,
    figure_table,
    median_ratio,
    parse_aims,
    parse_figures,
    table,
)
from parts.load import Run, Sample  # noqa: E402
from parts.page import Benchmark, render  # noqa: E402

FIGURES = [
    Figure(name="bulk_vs_bare", value=0.8761234, aim=0.9),
    Figure(name="rerun_share", value=0.0000321, aim=0.05, at_least=False),
]


def printed() -> str:
    return "\n".join(["a table", figure_table(FIGURES), *figure_lines(FIGURES)])


def test_the_figures_that_are_printed_are_the_ones_that_are_parsed() -> None:
    assert parse_figures(printed()) == {"bulk_vs_bare": 0.8761, "rerun_share": 3.21e-05}
    assert printed().splitlines()[-2:] == [
        "FIGURE bulk_vs_bare=0.8761",
        "FIGURE rerun_share=3.21e-05",
    ]
    assert parse_aims(printed()) == {
        "bulk_vs_bare": ("at least 0.9", "missed"),
        "rerun_share": ("at most 0.05", "met"),
    }


def test_a_ratio_is_taken_pair_by_pair() -> None:
    # The machine was ten times slower in the second pair: neither side is to blame.
    assert median_ratio([9, 0.9, 8], [10, 1, 10]) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="shorter"):
        median_ratio([1, 2], [1])


def test_a_table_has_its_columns_below_each_other() -> None:
    lines = table("Title", ("", "x"), [("long name", "1"), ("a", "100")]).splitlines()
    assert lines == ["Title", "               x", "  long name    1", "  a          100"]


def batches(first_s: float, idle_s: float, worker: str, count: int) -> list[scheduling.Batch]:
    period_s = scheduling.SLEEP_S + idle_s
    return [
        scheduling.Batch(
            worker=worker,
            began_s=first_s + number * period_s,
            ended_s=first_s + number * period_s + scheduling.SLEEP_S,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(("idle_s", "share"), [(0.0, 1.0), (0.05, 0.5)])
def test_the_share_of_a_steady_state_is_that_of_the_time_in_batches(
    idle_s: float, share: float
) -> None:
    # They begin one after another, and the late ones don't count against the engine.
    found = [
        batch
        for number in range(scheduling.WORKERS)
        for batch in batches(0.3 * number, idle_s, str(number), 800)
    ]
    slices = scheduling.steady_slices(found, steady_s=20)
    assert len(slices) == scheduling.SLICES
    assert [steady.share for steady in slices] == pytest.approx([share] * len(slices), rel=0.05)


def test_a_worker_that_gets_nothing_any_more_counts_as_idle() -> None:
    busy = [
        batch
        for number in range(scheduling.WORKERS)
        for batch in batches(0, 0, str(number), 400 if number % 2 else 1)
    ]
    shares = [steady.share for steady in scheduling.steady_slices(busy, steady_s=10)]
    assert shares == pytest.approx([0.5] * len(shares), rel=0.05)


def test_no_steady_state_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 workers gave results, expected 32"):
        scheduling.steady_slices(batches(0, 0, "a", 3), steady_s=1)


def test_the_photographs_are_varied_jpegs_of_about_512_pixels_and_always_the_same() -> None:
    made = list(photographs(7))
    assert made == list(photographs(7))
    images = [Image.open(io.BytesIO(data)) for data in made]
    assert {image.format for image in images} == {"JPEG"}
    assert all(480 <= side <= 544 for image in images for side in image.size)
    assert len(set(made)) == 7


def test_a_small_object_is_an_image_of_the_size_it_says() -> None:
    data = listing.small_photograph()
    assert len(data) == listing.OBJECT_BYTES
    with Image.open(io.BytesIO(data)) as image:
        image.load()


def test_a_benchmark_with_peers_tells_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda _module: None)
    assert peers.missing_packages() == list(peers.PACKAGES.values())


def test_the_time_of_a_network_is_that_of_a_megapixel_of_all_its_pictures() -> None:
    truths = [np.zeros((1000, side, 3), np.uint8) for side in (500, 2000)]
    row = peers.Row(
        name="a",
        purpose="",
        ask=lambda picture: {"seconds": float(picture)},
        pictures=[
            peers.Picture(truth=truth, path=path) for truth, path in zip(truths, "14", strict=True)
        ],
    )
    row.run()
    assert row.seconds == [2.0]


def sample(status: int, seconds: float, timing: str = "") -> Sample:
    return Sample(
        index=0, status=status, began_s=1.0, ended_s=1.0 + seconds, timing=timing, size=10
    )


def test_what_serving_adds_is_all_but_decoding_network_and_encoding() -> None:
    timing = "decode;dur=1.0, queue;dur=9.0, network;dur=50.0, encode;dur=4.0"
    found = sample(200, 0.08, timing)
    assert found.seconds - found.worked_s == pytest.approx(0.025)


def test_the_rate_of_a_run_is_that_of_its_images() -> None:
    run = Run(samples=[sample(200, 1.0), sample(503, 0.1), sample(200, 2.0)], seconds=4.0)
    assert run.rate == pytest.approx(0.5)
    assert run.p99_s > 1.9


@pytest.mark.parametrize("side_px", [serving.SMALL_PX, serving.SIDE_PX, serving.LARGE_PX])
def test_what_is_sent_to_be_enhanced_is_of_one_size(side_px: int) -> None:
    found = [Image.open(io.BytesIO(data)) for data in serving.photographs(side_px)]
    assert len(found) >= 4
    assert {image.size for image in found} == {(side_px, side_px)}


def test_the_page_shows_figures_commands_and_leads_to_the_other_pages(tmp_path: Path) -> None:
    path = tmp_path / "bulk.txt"
    path.write_text(f"$ python benchmarks/bulk.py --quick\n{printed()}\n", encoding="utf-8")
    page = render([Benchmark.read(path)], ["set5-sr-x2.html"])
    for part in ("bulk_vs_bare", "0.876", "at least 0.9", "missed", "met"):
        assert part in page
    assert '<p class="mono">python benchmarks/bulk.py --quick</p>' in page
    assert '<a href="set5-sr-x2.html">set5-sr-x2</a>' in page
