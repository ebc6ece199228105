"""The record of a request: one line of JSON with units in its names."""

import json
from pathlib import Path

import pytest

from pipelines.request_record import RequestRecord, access_log
from resnet_core.errors import ConfigError


def record() -> RequestRecord:
    found = RequestRecord(request_id="1", method="POST", path="/v1/enhance", status=200)
    found.stage_s.update(decode=0.001, network=0.25)
    found.finish()
    return found


def test_a_line_is_json_with_milliseconds_and_without_what_is_unknown() -> None:
    line = record().line()
    assert "\n" not in line
    found = json.loads(line)
    assert found["decode_ms"] == 1.0
    assert found["network_ms"] == 250.0
    assert found["total_ms"] >= 0
    assert not {"problem", "weights", "output_bytes", "stage_s", "_began_s"} & found.keys()


def test_the_timing_of_a_server_names_every_stage() -> None:
    expected = "decode;dur=1.0, queue;dur=0.0, network;dur=250.0, encode;dur=0.0"
    assert record().server_timing == expected


def test_a_log_goes_to_the_end_of_a_file_to_standard_error_or_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log"
    for place in (str(file), str(file), "-", ""):
        access_log(place)(record())
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_strength_of_none_is_told() -> None:
    found = record()
    found.strength = 0.0
    assert json.loads(found.line())["strength"] == 0.0


def test_a_log_that_can_not_be_written_is_told_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"the access log .* can't be written: No such file"):
        access_log(str(tmp_path / "none" / "log"))
    (tmp_path / "logs").mkdir()
    observe = access_log(str(tmp_path / "logs" / "log"))
    (tmp_path / "logs" / "log").unlink()
    (tmp_path / "logs").rmdir()
    observe(record())
    assert "can't be written" in caplog.text


def test_a_line_can_not_be_forged() -> None:
    forged = RequestRecord(request_id="1", method="GET", path='/"\n{"status": 200}', status=404)
    assert len(forged.line().splitlines()) == 1
