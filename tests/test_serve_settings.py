"""Settings of serving: every field checked, unknown ones refused by name."""

from typing import Any

import pytest

from pipelines.catalogue import usual_weights
from pipelines.serve_settings import ServeSettings
from resnet_core.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"max_pixel": 1}, "unknown setting 'max_pixel'; did you mean 'max_pixels'"),
        ({"max_pixels": 0}, "max_pixels is 0, expected at least 1"),
        ({"max_pixels": "many"}, "max_pixels is 'many', expected a whole number"),
        ({"max_pixels": True}, "max_pixels is True, expected a whole number"),
        ({"deadline_s": float("nan")}, "deadline_s is nan, expected at least"),
        ({"deadline_s": "60s"}, "deadline_s is '60s', expected a number"),
        ({"require_keys": 1}, "require_keys is 1, expected true or false"),
        ({"keys_file": 1}, "keys_file is 1, expected a path"),
        ({"access_log": None}, "access_log is None, expected text"),
        ({"weights": "sr-x2"}, "weights is 'sr-x2', expected a list"),
        ({"precision": "int8"}, "precision is 'int8', expected auto, float32, bfloat16"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas is 2, expected at least min"),
        ({"max_replicas": 0}, "max_replicas is 0, expected at least 1"),
    ],
)
def test_what_can_not_be_is_refused_with_what_may(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ServeSettings.from_mapping(values)


def test_a_file_gives_what_the_command_gives() -> None:
    settings = ServeSettings.from_mapping(
        {"weights": ["sr-x4"], "deadline_s": 5, "min_replicas": 0}
    )
    assert settings == ServeSettings(weights=("sr-x4",), deadline_s=5, min_replicas=0)
    assert settings.served == ("sr-x4",)
    assert ServeSettings().served == usual_weights()
