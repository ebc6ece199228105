"""What is served: by name, with its card, and loaded by content."""

from pathlib import Path
from typing import Any

import pytest
from weights_for_tests import write_foreign, write_weights

from pipelines.catalogue import (
    USUAL,
    load_catalogue,
    load_model,
    locations_of,
    usual_weights,
)
from pipelines.problems import ProblemError
from resnet_core.errors import ConfigError, WeightsError
from resnet_core.weights import load_weights, packaged_weights


def test_the_first_is_the_default_and_a_near_name_is_offered(tmp_path: Path) -> None:
    places = [str(write_weights(tmp_path / f"{name}.safetensors")) for name in ("sharp", "clean")]
    catalogue = load_catalogue(places)
    assert catalogue.find(None) == catalogue.default == catalogue.find("sharp")
    assert catalogue.find("clean").location == places[1]
    with pytest.raises(
        ProblemError, match=r"no weights named 'shrap'.* did you mean 'sharp'"
    ) as found:
        catalogue.find("shrap")
    assert found.value.problem.kind.status == 404


def test_a_card_is_that_of_the_file(tmp_path: Path) -> None:
    place = str(write_weights(tmp_path / "small.safetensors"))
    weights, served = load_weights(place), load_catalogue([place]).default
    assert served.sha256 == weights.sha256
    assert (served.name, served.task, served.scale) == ("small", "sr-x2", 2)
    assert served.parameters == weights.network.num_parameters
    assert load_model(served.model_id).sha256 == weights.sha256


def test_weights_from_elsewhere_are_served_too(tmp_path: Path) -> None:
    place = write_foreign(tmp_path / "theirs.pth")
    served = load_catalogue([str(place)]).default
    assert (served.name, served.task, served.scale) == ("theirs", "other-x2", 2)
    assert served.licence == "not known"
    assert load_model(served.model_id).sha256 == served.sha256


def test_a_file_that_has_changed_since_is_not_loaded_as_what_it_was(tmp_path: Path) -> None:
    place = tmp_path / "small.safetensors"
    served = load_catalogue([str(write_weights(place))]).default
    write_weights(place, seed=1)
    with pytest.raises(WeightsError, match="expected sha256"):
        load_model(served.model_id)


def test_two_of_one_name_none_and_missing_ones_are_refused(tmp_path: Path) -> None:
    places = [str(write_weights(tmp_path / part / "small.safetensors")) for part in "ab"]
    with pytest.raises(ConfigError, match="two weights are named 'small'"):
        load_catalogue(places)
    with pytest.raises(ConfigError, match="no weights to serve"):
        load_catalogue([])
    with pytest.raises(WeightsError, match="no such file"):
        load_catalogue(["missing.safetensors"])


def test_usually_all_of_the_package_are_served_the_general_one_first() -> None:
    assert sorted(usual_weights()) == packaged_weights()
    assert usual_weights()[0] == USUAL


@pytest.mark.parametrize(
    ("user_config", "told"),
    [
        ({"wieghts": []}, "unknown key 'wieghts'; did you mean 'weights'"),
        ({}, "weights is None, expected a list"),
        ({"weights": "sr-x2"}, "weights is 'sr-x2', expected a list"),
        ({"weights": [2]}, "expected a list of names or files"),
    ],
)
def test_a_configuration_that_is_not_one_is_refused(user_config: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        locations_of(user_config)


def test_a_configuration_names_places_in_order() -> None:
    assert locations_of({"weights": ["b", "a"]}) == ("b", "a")
