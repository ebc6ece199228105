"""The ledger: one current row for each key, whole parts, and the memory of what is done."""

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ledger
from pipelines.folder_store import FolderStore
from pipelines.ledger import (
    LEDGER_PREFIX,
    SCHEMA,
    LedgerRow,
    LedgerWriter,
    RecordedState,
    current_state,
    list_parts,
    read_parts,
    rows_to_table,
    table_to_rows,
)
from pipelines.storage import RESERVED
from resnet_core.errors import DataError


@pytest.fixture
def target(tmp_path: Path) -> FolderStore:
    return FolderStore(root=tmp_path, temporary=tmp_path / RESERVED / "tmp")


def row(key: str = "a.png", **changes: object) -> LedgerRow:
    plain = LedgerRow(
        key=key,
        status="ok",
        source_etag="1",
        source_bytes=10,
        weights_sha256="w",
        settings_hash="s",
        finished_at=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    )
    return replace(plain, **changes)  # pyright: ignore[reportArgumentType]


def recorded(target: FolderStore) -> RecordedState:
    return RecordedState(read_parts(target, list_parts(target)))


def test_rows_come_back_as_they_were_written(target: FolderStore) -> None:
    rows = [
        row("a.png", out_key="a.webp", output_bytes=2**40, output_width_px=4, network_s=0.5),
        row("b/é世.png", status="failed", reason="JPEG is truncated"),
    ]
    with LedgerWriter(target) as writer:
        for item in rows:
            writer.append(item)
    assert list(current_state(target).values()) == rows
    assert table_to_rows(rows_to_table(rows)) == rows


@pytest.mark.s3
def test_a_bucket_keeps_a_ledger_too(s3_bucket: str) -> None:
    from pipelines.s3_store import S3Store  # noqa: PLC0415  loaded with the marked tests alone

    target = S3Store(bucket=s3_bucket, prefix="out")
    for part_rows in (2, 3):
        with LedgerWriter(target, part_rows=part_rows) as writer:
            for number in range(5):
                writer.append(row(f"{number}.png", source_etag=f"{part_rows}"))
                writer.flush()
    assert [row.source_etag for row in current_state(target).values()] == ["3"] * 5
    assert len(list_parts(target)) == 3 + 2
    assert recorded(target).status("4.png", "3", "w", "s") == "done"
    target.put(list_parts(target)[0], b"PAR1 no more")
    with pytest.raises(DataError, match=rf"s3://{s3_bucket}/out/{LEDGER_PREFIX}.*: a damaged part"):
        current_state(target)


def test_the_ledger_is_plain_parquet_for_any_reader(target: FolderStore) -> None:
    with LedgerWriter(target) as writer:
        writer.append(row())
    table = pq.read_table(target.root / LEDGER_PREFIX)
    assert table.schema.names == SCHEMA.names
    assert table["status"].to_pylist() == ["ok"]


def test_a_ledger_of_before_a_column_came_is_read_on(target: FolderStore) -> None:
    old = rows_to_table([row(), row("b.png", status="failed")]).drop_columns(["deviation"])
    buffer = io.BytesIO()
    pq.write_table(old, buffer)
    target.put(f"{LEDGER_PREFIX}000001-0-000000.parquet", buffer.getvalue())
    with LedgerWriter(target) as writer:
        writer.append(row("c.png", status="suspect", deviation=1.5))
    state = current_state(target)
    assert [state[key].deviation for key in ("a.png", "b.png", "c.png")] == [None, None, 1.5]
    assert recorded(target).status("a.png", "1", "w", "s") == "done"
    assert recorded(target).status("c.png", "1", "w", "s") == "done"


def test_the_last_row_of_a_key_is_its_state(target: FolderStore) -> None:
    with LedgerWriter(target, part_rows=2) as writer:
        for status in ("failed", "ok", "failed"):
            writer.append(row(status=status))
            writer.flush()
    with LedgerWriter(target) as writer:
        writer.append(row(status="ok"))
        writer.append(row("b.png", status="failed"))
    assert {key: value.status for key, value in current_state(target).items()} == {
        "a.png": "ok",
        "b.png": "failed",
    }
    assert recorded(target).status("a.png", "1", "w", "s") == "done"


def test_parts_of_later_runs_sort_behind_those_of_earlier_ones(target: FolderStore) -> None:
    for _ in range(12):
        with LedgerWriter(target) as writer:
            writer.append(row())
    numbers = [part.removeprefix(LEDGER_PREFIX)[:6] for part in list_parts(target)]
    assert numbers == [f"{number:06d}" for number in range(1, 13)]


def test_a_part_grows_with_each_flush_until_it_is_full(target: FolderStore) -> None:
    with LedgerWriter(target, part_rows=3) as writer:
        for number in range(7):
            writer.append(row(f"{number}.png"))
            writer.flush()
            assert len(current_state(target)) == number + 1
    assert [table.num_rows for table in read_parts(target, list_parts(target))] == [3, 3, 1]


def test_rows_are_safe_without_a_proper_end(
    target: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LedgerWriter(target)
    for number in range(ledger.FLUSH_ROWS + 7):
        writer.append(row(f"{number}.png"))
    assert len(current_state(target)) == ledger.FLUSH_ROWS
    monkeypatch.setattr(ledger, "FLUSH_INTERVAL_S", 0.0)
    writer.append(row("last.png"))
    assert len(current_state(target)) == ledger.FLUSH_ROWS + 8


def test_an_error_in_the_block_still_records_what_was_done(target: FolderStore) -> None:
    def stopped() -> None:
        with LedgerWriter(target) as writer:
            writer.append(row())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert len(current_state(target)) == 1


def test_nothing_done_writes_nothing(target: FolderStore) -> None:
    with LedgerWriter(target):
        pass
    assert list_parts(target) == []
    assert len(recorded(target)) == 0


def test_a_damaged_part_is_named(target: FolderStore) -> None:
    with LedgerWriter(target) as writer:
        writer.append(row())
    (part,) = list_parts(target)
    (target.root / part).write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=f"{part}: a damaged part"):
        current_state(target)


def test_a_ledger_that_can_not_be_looked_into_is_not_an_empty_one(target: FolderStore) -> None:
    (target.root / RESERVED).mkdir(parents=True)
    (target.root / RESERVED / "ledger").write_text("not a folder")
    with pytest.raises(DataError, match=r"_resray/ledger: .* the ledger needs it"):
        list_parts(target)


def test_done_means_the_same_source_weights_and_settings(target: FolderStore) -> None:
    with LedgerWriter(target) as writer:
        writer.append(row("ok.png"))
        writer.append(row("bad.png", status="failed"))
        writer.append(row("notes.txt", status="skipped"))
    state = recorded(target)
    assert state.status("ok.png", "1", "w", "s") == "done"
    assert state.status("notes.txt", "1", "w", "s") == "done"
    assert state.status("bad.png", "1", "w", "s") == "failed"
    assert state.status("other.png", "1", "w", "s") == "new"
    for etag, weights, settings in [("2", "w", "s"), ("1", "x", "s"), ("1", "w", "t")]:
        assert state.status("ok.png", etag, weights, settings) == "new"
        assert state.status("bad.png", etag, weights, settings) == "new"


entries = st.tuples(
    st.sampled_from("abcd"),
    st.sampled_from("12"),
    st.sampled_from(["ok", "suspect", "failed", "skipped"]),
)


@given(st.lists(st.lists(entries, max_size=5), max_size=4))
def test_recorded_state_is_the_last_entry_of_each_key(
    tables: list[list[tuple[str, str, str]]],
) -> None:
    state = RecordedState(
        rows_to_table([row(key, source_etag=etag, status=status) for key, etag, status in table])
        for table in tables
    )
    model = {key: (etag, status) for table in tables for key, etag, status in table}
    assert len(state) == len(model)
    for key in "abcde":
        for etag in "12":
            last_etag, status = model.get(key, ("", ""))
            expected = "new"
            if last_etag == etag:
                expected = "failed" if status == "failed" else "done"
            assert state.status(key, etag, "w", "s") == expected
