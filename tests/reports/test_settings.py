from pathlib import Path
from typing import Any

import pandas as pd

from kto_lab.configuration import config_dir
from kto_lab.reports.frame import load
from kto_lab.reports.record_columns import Columns
from kto_lab.reports.settings import differing, read_options
from tests.small_runs import composed

OPTIONS = read_options(config_dir())


def settings(*lines: list[str]) -> dict[str, list[Any]]:
    """What differs between the configurations of these command lines."""
    from omegaconf import OmegaConf

    columns = Columns(set())
    rows = []
    for line in lines:
        config = OmegaConf.to_container(composed(line), resolve=True)
        found = columns.of({"config": config, "timings": {}})
        rows.append(dict(zip(columns.shapes[found.shape], found.values, strict=True)))
    return differing(pd.DataFrame(rows), OPTIONS)


def test_a_group_is_named_by_its_option_and_not_by_what_it_makes() -> None:
    assert settings(["loss=kto"], ["loss=dpo"], ["loss=sft"]) == {"loss": ["kto", "dpo", "sft"]}


def test_a_nested_group_is_named_as_the_command_line_names_it() -> None:
    lines = [["loss=kto"], ["loss=kto", "value@loss.value=power"]]
    assert settings(*lines) == {"value@loss.value": ["logistic", "power"]}


def test_what_a_person_set_beside_an_option_is_a_key_of_its_own() -> None:
    lines = [["loss=kto"], ["loss=kto", "loss.beta=0.3"], ["loss=dpo", "optimization.batch_size=8"]]
    assert settings(*lines) == {
        "loss": ["kto", "kto", "dpo"],
        "optimization.batch_size": [16, 16, 8],
        "loss.beta": [0.1, 0.3, 0.1],
    }


def test_an_option_of_somebody_elses_is_shown_by_its_keys(tmp_path: Path) -> None:
    frame = pd.DataFrame({"config.loss.function": ["mine.first", "mine.second"], "config.loss.beta": [1.0, 1.0]})
    assert differing(frame, OPTIONS) == {"loss.function": ["mine.first", "mine.second"]}


def test_records_that_are_published_are_named_too() -> None:
    found = differing(load(Path(__file__).parents[2] / "results" / "loss_aversion"), OPTIONS)
    assert list(found) == ["value@loss.value", "loss.weighting.target"]
    assert set(found["value@loss.value"]) == {"logistic", "concave", "identity", "power"}


def test_every_option_is_found_again_by_what_it_composes_to() -> None:
    for group in OPTIONS:
        for name, leaves in group.options.items():
            if leaves and any(key.endswith(("function", "_target_")) for key in leaves):
                assert group.option(leaves) == name, (group.word, name)
