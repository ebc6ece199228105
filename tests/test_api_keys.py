"""API keys: from both places, compared whole, refused where they could be guessed."""

from pathlib import Path

import pytest

from pipelines.api_keys import VARIABLE, ApiKeys, load_keys
from resnet_core.errors import ConfigError

FIRST, SECOND, THIRD = (f"{letter}-key-of-the-tests" for letter in "abc")


def test_keys_of_the_file_and_of_the_environment_are_let_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# mine\n{FIRST}\n\n  {SECOND}  # of the shop\n", encoding="utf-8")
    keys = load_keys(str(file), environment={VARIABLE: f"{THIRD}, "})
    assert len(keys.digests) == 3
    for key in (FIRST, SECOND, THIRD):
        assert keys.admit(f"Bearer {key}")
        assert keys.admit(f"bearer  {key}")
    for header in (None, "", "Bearer", f"Basic {FIRST}", FIRST, f"Bearer {FIRST}x", "Bearer é"):
        assert not keys.admit(header)


def test_without_keys_everyone_is_let_in_unless_they_are_required() -> None:
    keys = load_keys(None, environment={})
    assert not keys
    assert keys.admit(None)
    with pytest.raises(ConfigError, match="API keys are required"):
        load_keys(None, required=True, environment={})


@pytest.mark.parametrize(
    ("content", "told"),
    [("", "no API key in it"), ("short", "of 5 characters"), ("ü" * 20, "plain ASCII")],
)
def test_a_file_that_protects_nothing_is_refused(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        load_keys(str(file), environment={})


def test_a_file_that_is_missing_is_told() -> None:
    with pytest.raises(ConfigError, match="missing: the API keys can't be read"):
        load_keys("missing", environment={})


def test_the_keys_themselves_are_not_kept() -> None:
    keys = load_keys(None, environment={VARIABLE: FIRST})
    assert FIRST not in repr(keys)
    assert keys == ApiKeys(digests=keys.digests)
