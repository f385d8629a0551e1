"""Every metric is declared once, and what reads a metric's name finds it there."""

import ast
import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from kto_lab.errors import LabError
from kto_lab.evaluation.measuring import Metric
from kto_lab.evaluation.metrics import DECLARED, SECTIONS, bounds, higher_is_better, label, learn, metric_of
from kto_lab.evaluation.rewards import reward_metrics
from kto_lab.feedback import checkers

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("nothing_learned")


def test_what_is_computed_is_declared() -> None:
    rewards = reward_metrics([1.0, -1.0], [True, False], ["a", "b"], seed=0)
    assert rewards.keys() | set(checkers.METRICS.values()) <= DECLARED.keys()
    tasks = yaml.load((ROOT / "kto_lab/evaluation/tasks/kto_lab_neutral.yaml").read_text(), yaml.BaseLoader)
    for one in tasks["metric_list"]:
        side = {"true": "up", "false": "down"}[one["higher_is_better"]]
        assert DECLARED[f"kto_lab_neutral.{one['metric']}"].better == side


def test_a_name_is_declared_once_and_says_what_it_is() -> None:
    every = [metric for section in SECTIONS.values() for metric in section]
    assert len({metric.name for metric in every}) == len(every) == len({label(metric.name) for metric in every})
    assert all(metric.about.endswith(".") for metric in every)


def test_metrics_for_a_reader() -> None:
    assert label("pass_rate") == "pass rate"
    assert label("kl") == "KL, nats/answer"
    assert label("pass_rate_base") == "pass rate, base"
    assert label("pass_rate_difference") == "pass rate, trained - base"
    assert label("pass_rate_validation") == "pass rate, validation"
    assert label("groups.title.pass_rate_difference") == "pass rate, title, trained - base"
    assert label("hellaswag.acc_norm") == "hellaswag.acc norm"


def test_which_side_of_a_metric_is_better() -> None:
    assert higher_is_better("pass_rate") and higher_is_better("kto_lab_checks.pass_rate")
    assert higher_is_better("pass_rate_difference") and higher_is_better("groups.v1.0.pass_rate")
    assert higher_is_better("kto_lab_neutral.byte_perplexity") is False
    for neither in ("kl", "answer_length", "seconds", "hellaswag.acc", "pass_rate_detectable"):
        assert higher_is_better(neither) is None


def test_the_bounds_of_a_difference_are_as_far_as_a_metric_reaches() -> None:
    assert bounds("pass_rate") == bounds("pass_rate_base") == bounds("groups.title.pass_rate") == (0.0, 1.0)
    assert bounds("sentiment_difference") == (-2.0, 2.0)
    assert bounds("pass_rate_detectable") == (0.0, 1.0)
    assert bounds("kl") is bounds("kl_difference") is None
    # Bounded on one side alone.
    assert bounds("kto_lab_neutral.word_perplexity") is bounds("kto_lab_neutral.word_perplexity_difference") is None


def test_what_records_declare_is_known_under_every_end() -> None:
    mine = Metric("shouting", label="exclamation marks", unit="marks", better="down", bounds=(0.0, None), decimals=1)
    learn([{mine.name: mine.as_dict()}, {"hellaswag.acc_norm": {"better": "up", "per_prompt": False}}, {}])
    assert metric_of("shouting") == metric_of("groups.title.shouting_base") == mine
    assert label("shouting_difference") == "exclamation marks, marks, trained - base"
    assert higher_is_better("shouting") is False and higher_is_better("hellaswag.acc_norm") is True
    # Its name may end as a column's does.
    learn([{"is_base": {"better": "up"}}])
    assert metric_of("is_base").name == "is_base" and label("is_base_difference") == "is base, trained - base"


def test_the_lab_s_own_declaration_stands_whatever_a_record_says() -> None:
    learn([{"kto_lab_neutral.word_perplexity": {"better": "up"}}])
    assert higher_is_better("kto_lab_neutral.word_perplexity") is False


def test_records_that_disagree_on_the_better_side_are_an_error() -> None:
    learn([{"shouting": {"better": "up", "label": "old words"}}, {"shouting": {"better": "up", "label": "new words"}}])
    assert label("shouting") == "new words"
    with pytest.raises(LabError, match="disagree on the better side of the metric shouting: up and down"):
        learn([{"shouting": {"better": "up"}}, {"shouting": {"better": "down"}}])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"better": "higher"}, r'Metric m: better is \'higher\'; it is "up", "down" or None'),
        ({"bounds": (1.0, 0.0)}, r"Metric m: its bounds are 1.0 and 0.0"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_an_error(node: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        Metric("m", **node)


def test_what_computes_results_does_not_import_labels() -> None:
    """Another label must not make a run a different one, and a run is the code that it imports."""
    for package in ("evaluation", "feedback", "judging", "losses", "models", "training"):
        for file in (ROOT / "kto_lab" / package).rglob("*.py"):
            if file == Path(str(importlib.import_module("kto_lab.evaluation.metrics").__file__)):
                continue
            nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
            imported = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
            assert not any(name.startswith("kto_lab.evaluation.metrics") for name in imported), file
