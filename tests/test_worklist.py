"""From a listing to work: names, resume, sample."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ledger import LedgerRow, RecordedState, rows_to_table
from pipelines.storage import ObjectInfo
from pipelines.worklist import Naming, Work, plan_work, resume, sample_evenly

KNOWN = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})
SAME = Naming(known=KNOWN)
TO_JPEG = Naming(known=KNOWN, extension=".jpg", kept=frozenset({".jpg", ".jpeg"}))
TO_WEBP = Naming(known=KNOWN, extension=".webp", kept=frozenset({".webp"}))


def infos(*keys: str) -> list[ObjectInfo]:
    ordered = sorted(keys, key=str.encode)
    return [ObjectInfo(key=key, bytes=1, etag="1") for key in ordered]


def work(key: str, **changes: object) -> Work:
    values: dict[str, object] = {"bytes": 1, "etag": "1", "changed_key": key}
    return Work(key=key, **(values | changes))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("naming", "key", "changed"),
    [
        (SAME, "a/b.png", "a/b.png"),
        (SAME, "a/b.GIF", "a/b.png"),
        (SAME, "a.gif/b", "a.gif/b"),
        (TO_JPEG, "a/b.png", "a/b.jpg"),
        (TO_JPEG, "a/b.JPEG", "a/b.JPEG"),
        (TO_JPEG, "a/photo.v2", "a/photo.v2.jpg"),
        (TO_JPEG, "photo", "photo.jpg"),
        (TO_JPEG, ".png", ".png.jpg"),
        (TO_WEBP, "a.b.jpg", "a.b.webp"),
    ],
)
def test_only_a_known_extension_changes_with_the_format(
    naming: Naming, key: str, changed: str
) -> None:
    assert naming.changed_key(key) == changed


@pytest.mark.parametrize(
    ("key", "claims"),
    [("a.JPG", True), ("a.b/photo", True), ("a.txt", False), (".DS_Store", False)],
)
def test_a_name_claims_an_image_or_nothing_or_something_else(key: str, claims: bool) -> None:
    assert SAME.is_image_name(key) == claims


def test_the_first_in_order_gets_the_name_and_the_others_name_it() -> None:
    works = {item.key: item for item in plan_work(infos("a.png", "a.jpg", "b.png"), TO_WEBP)}
    assert works["a.jpg"].problem is None
    assert works["b.png"].problem is None
    assert works["a.png"].is_error
    assert "a.webp is that of a.jpg" in (works["a.png"].problem or "")


def test_the_source_that_has_the_name_itself_gets_it() -> None:
    works = {item.key: item for item in plan_work(infos("a.gif", "a.png"), SAME)}
    assert works["a.png"].problem is None
    assert "a.png is that of a.png" in (works["a.gif"].problem or "")


def test_problems_of_the_listing_stay_and_take_no_name() -> None:
    link = ObjectInfo(key="a.jpg", bytes=0, etag="", problem="a link")
    works = {item.key: item for item in plan_work([link, *infos("a.png")], TO_WEBP)}
    assert works["a.jpg"].problem == "a link"
    assert works["a.png"].problem is None


keys = st.sets(
    st.builds(
        "{}{}".format,
        st.text(st.sampled_from("ab.-/"), min_size=1, max_size=4).filter(
            lambda s: not s.startswith("/") and "//" not in s
        ),
        st.sampled_from(["", ".png", ".jpg", ".gif", ".webp", ".txt"]),
    ).filter(lambda s: not s.endswith("/")),
    max_size=14,
)


@given(keys, st.sampled_from([SAME, TO_JPEG, TO_WEBP]))
def test_every_key_is_planned_once_and_no_result_has_two_sources(
    wanted: set[str], naming: Naming
) -> None:
    works = list(plan_work(infos(*wanted), naming))
    assert sorted(item.key for item in works) == sorted(wanted)
    names = [item.changed_key for item in works if item.problem is None]
    assert len(names) == len(set(names))
    assert set(names) == {naming.changed_key(key) for key in wanted}, "someone gets each name"
    for item in works:
        if item.changed_key == item.key:
            assert item.problem is None, "nobody loses their own name"


def test_planning_streams() -> None:
    read = 0

    def listing() -> Iterator[ObjectInfo]:
        nonlocal read
        for number in range(1000):
            read += 1
            yield ObjectInfo(key=f"{number:04d}.png", bytes=1, etag="1")

    planned = plan_work(listing(), TO_WEBP)
    for number in range(10):
        assert next(planned).key == f"{number:04d}.png"
    assert read <= 12


def verdicts(works: list[Work], *, retry_failed: bool = False) -> dict[str, str]:
    rows = [
        LedgerRow(
            key=key,
            status=status,
            source_etag="1",
            source_bytes=1,
            weights_sha256="w",
            settings_hash="s",
        )
        for key, status in (("ok", "ok"), ("failed", "failed"), ("link", "skipped"))
    ]
    resumed = resume(
        works,
        RecordedState([rows_to_table(rows)]),
        weights_sha256="w",
        settings_hash="s",
        retry_failed=retry_failed,
    )
    return {item.key: verdict for item, verdict in resumed}


def test_resume_takes_new_and_changed_objects() -> None:
    works = [work("ok"), work("failed"), work("link", problem="a link"), work("new")]
    assert verdicts(works) == {
        "ok": "done",
        "failed": "failed before",
        "link": "done",
        "new": "todo",
    }
    assert verdicts(works, retry_failed=True)["failed"] == "todo"
    changed = [work("ok", etag="2"), work("failed", etag="2")]
    assert verdicts(changed) == {"ok": "todo", "failed": "todo"}


def test_what_was_done_but_lost_its_name_is_recorded_anew() -> None:
    assert verdicts([work("ok", problem="taken", is_error=True)]) == {"ok": "todo"}


@given(st.integers(1, 30), st.integers(1, 40))
def test_a_sample_is_spread_evenly(total: int, count: int) -> None:
    works = [work(f"{number:02d}") for number in range(total)]
    works.insert(total // 2, work("link", problem="a link"))
    chosen = [int(item.key) for item in sample_evenly(lambda: works, count)]
    assert len(chosen) == min(count, total)
    gaps = [b - a for a, b in zip([-1, *chosen], [*chosen, total], strict=True)]
    assert max(gaps) <= 2 * (total // min(count, total) + 1)


@pytest.mark.parametrize("count", [10, 20, 50])
def test_a_sample_of_names_in_turn_has_both_kinds(count: int) -> None:
    works = [work(f"{number:04d}.{kind}") for number in range(500) for kind in ("jpg", "json")]
    chosen = list(sample_evenly(lambda: works, count))
    assert 0.2 * count < sum(item.key.endswith(".jpg") for item in chosen) < 0.8 * count
    assert chosen == list(sample_evenly(lambda: works, count))
