"""What a run takes: the listing against the ledger, and a sample of it."""

import pickle
from pathlib import Path

from pipelines.folder_store import FolderStore
from pipelines.ledger import LedgerRow, LedgerWriter, list_parts
from pipelines.selection import Selection
from pipelines.storage import RESERVED
from pipelines.worklist import Naming


def select(root: Path, **options: int) -> Selection:
    source = FolderStore(root=root / "in", temporary=root / "tmp")
    target = FolderStore(root=root / "out", temporary=root / "out" / RESERVED / "tmp")
    for number in range(6):
        source.put(f"{number}.png", b"x")
    return Selection(
        source=source,
        target=target,
        naming=Naming(known=frozenset({".png"})),
        weights_sha256="w",
        settings_hash="s",
        parts=tuple(list_parts(target)),
        sample=options.get("sample"),
    )


def test_a_selection_is_the_listing_with_verdicts_and_travels(tmp_path: Path) -> None:
    first = select(tmp_path)
    works = [(work.key, verdict) for work, verdict in first()]
    assert works == [(f"{number}.png", "todo") for number in range(6)]
    with LedgerWriter(first.target) as ledger:
        for work, _ in list(first())[:2]:
            ledger.append(
                LedgerRow(
                    key=work.key,
                    status="ok",
                    source_etag=work.etag,
                    source_bytes=work.bytes,
                    weights_sha256="w",
                    settings_hash="s",
                )
            )
    assert list(first()) == list(pickle.loads(pickle.dumps(first))()), "it sees the same again"
    assert [verdict for _, verdict in first()].count("done") == 0, "its parts were taken before"


def test_earlier_parts_of_the_ledger_decide(tmp_path: Path) -> None:
    first = select(tmp_path)
    work = next(iter(first()))[0]
    with LedgerWriter(first.target) as ledger:
        ledger.append(
            LedgerRow(
                key=work.key,
                status="ok",
                source_etag=work.etag,
                source_bytes=1,
                weights_sha256="w",
                settings_hash="s",
            )
        )
    again = Selection(
        source=first.source,
        target=first.target,
        naming=first.naming,
        weights_sha256="w",
        settings_hash="s",
        parts=tuple(list_parts(first.target)),
    )
    assert [verdict for _, verdict in again()] == ["done"] + ["todo"] * 5


def test_a_sample_pays_no_heed_to_the_ledger(tmp_path: Path) -> None:
    works = [(work.key, verdict) for work, verdict in select(tmp_path, sample=3)()]
    assert {verdict for _, verdict in works} == {"todo"}
    parts = (("0.png", "1.png"), ("2.png", "3.png"), ("4.png", "5.png"))
    assert all(key in part for (key, _), part in zip(works, parts, strict=True))
