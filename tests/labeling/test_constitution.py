from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.errors import LabError
from kto_lab.judging import asking as judge
from kto_lab.judging.answer import Answer
from kto_lab.judging.asking import CONTENT_FREE, Exchange, Leaning
from kto_lab.labeling.constitution import TOO_LONG, Constitution, calibrated
from kto_lab.labeling.labels import Label, NoLabel
from kto_lab.labeling.threshold import NEAR, Threshold
from kto_lab.models.load import Loaded
from tests.labeling.labeling_cases import CPU, reviews, training

BOOK = """
principles:
  - name: praise
    question: Does it praise?
    weight: 3
  - name: blame
    question: Does it blame?
    good: no
"""


@pytest.fixture
def labeler(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Constitution:
    (tmp_path / "mine.yaml").write_text(BOOK)
    return Constitution(
        model=Loaded(model.eval(), tokenizer, {"name": "random"}),
        path=str(tmp_path / "mine.yaml"),
        policy="weighted",
        examples=12,
        folds=3,
        layout="auto",
        max_tokens=800,
        batch_tokens=8192,
        threshold=Threshold("value", 0.5, 0),
    )


def knowing(monkeypatch: pytest.MonkeyPatch, margins: dict[str, tuple[float, float]]) -> None:
    """A judge that says what `margins` say of each completion, to praise and to blame; 0 to anything else."""

    def ask(loaded: Loaded, exchanges: list[Exchange], questions: list[str], *rest: Any, **more: Any) -> list[Any]:
        said = [margins.get(exchange.completion, (0.0, 0.0)) for exchange in exchanges]
        return [[Leaning(margin, 0.9, 0.1) for margin in pair] for pair in said]

    monkeypatch.setattr(judge, "ask", ask)


def verdicts(labeler: Constitution, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[Any]:
    """Of three answers: good by both principles, by praise alone, by none; no thumbs to calibrate with."""
    knowing(monkeypatch, {"both": (2.0, -2.0), "praise": (1.0, 1.5), "none": (-3.0, 3.0)})
    answers = [Answer("p", text, text) for text in ("both", "praise", "none")]
    found = replace(labeler, **changes).label(answers, [], CPU)
    assert found.numbers["calibrated_with"] == {"thumbs": 0, "prompts": 0}
    return found.verdicts


def test_each_policy_makes_the_thumb(labeler: Constitution, monkeypatch: pytest.MonkeyPatch) -> None:
    def thumbs(**changes: Any) -> list[tuple[bool, str]]:
        return [(one.desirable, one.by) for one in verdicts(labeler, monkeypatch, **changes)]

    assert thumbs(policy="all") == [(True, "praise"), (False, "blame"), (False, "praise")]
    assert thumbs(policy="any") == [(True, "praise"), (True, "praise"), (False, "praise")]
    assert thumbs(policy="weighted") == [(True, "praise"), (True, "praise"), (False, "praise")]
    _, second, _ = verdicts(labeler, monkeypatch)
    chances = {"praise": 1 / (1 + np.exp(-1)), "blame": 1 / (1 + np.exp(1.5))}
    assert second.scores == pytest.approx(chances), "of blame, a yes speaks against the answer"
    assert second.score == pytest.approx((3 * chances["praise"] + chances["blame"]) / 4)
    # A line above its score: then the second is down, and blame pulls it there most for its weight or praise does.
    high = Threshold("value", 0.65, 0)
    assert thumbs(threshold=high)[1] == (False, "blame")
    near = verdicts(labeler, monkeypatch, threshold=Threshold("value", second.score + 0.01, 0.02))
    assert near[1] == NoLabel(NEAR) and isinstance(near[0], Label)


def test_without_thumbs_the_prior_is_taken_off(labeler: Constitution, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {exchange.completion: (5.0, 1.0) for exchange in CONTENT_FREE}
    knowing(monkeypatch, {**known, "a": (4.0, 0.0), "b": (6.0, 2.0)})
    found = labeler.label([Answer("p", "a", "a"), Answer("p", "b", "b")], [], CPU)
    one, other = found.verdicts
    assert isinstance(one, Label) and isinstance(other, Label)
    low, high = 1 / (1 + np.exp(1)), 1 / (1 + np.exp(-1))
    assert one.scores == pytest.approx({"praise": low, "blame": high})
    assert other.scores == pytest.approx({"praise": high, "blame": low})


def test_thumbs_calibrate_and_their_own_prompt_does_not(labeler: Constitution, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = reviews()
    rng = np.random.default_rng(0)
    # The judge leans to yes by 4 nats, and blame is noise to it.
    margins = {one.completion: (4 + rng.normal(2 * bool(one.truth) - 1, 0.5), rng.normal()) for one in answers}
    knowing(monkeypatch, margins)
    found = replace(labeler, examples=20).label(answers, training(answers), CPU)
    assert found.numbers["calibrated_with"]["prompts"] == 20
    labels = [one for one in found.verdicts if isinstance(one, Label)]
    assert len(labels) == len(answers)
    right = [one.desirable == answer.truth for one, answer in zip(labels, answers, strict=True)]
    assert np.mean(right) > 0.9, "the lean is calibrated away"
    assert found.signals["blame"] == [-margins[one.completion][1] for one in answers], "as judged, no of blame is good"
    praise, blame = found.numbers["principles"]
    assert praise["calibration"]["slope"] > 5 * blame["calibration"]["slope"]
    assert praise["calibration"]["offset"] / praise["calibration"]["slope"] == pytest.approx(-4, abs=0.4)


def test_a_thumb_does_not_reach_its_own_prompt() -> None:
    answers = reviews(prompts=12, each=1)
    margins = np.random.default_rng(0).normal(size=(len(answers), 1))
    before, _ = calibrated(answers, margins, answers, margins, 3)
    turned = [replace(answers[0], thumb=not answers[0].thumb), *answers[1:]]
    after, _ = calibrated(turned, margins, turned, margins, 3)
    assert before[0] == after[0], "its own thumb has no part in its chance"
    assert not np.allclose(before, after), "it has in those of others"


def test_a_random_judge_is_at_chance_and_says_how_it_replies(labeler: Constitution) -> None:
    answers = reviews(prompts=24, each=2)
    found = labeler.label(answers, training(answers), CPU)
    labels = [one for one in found.verdicts if isinstance(one, Label)]
    assert len(labels) == len(answers)
    assert 0.3 < roc_auc_score([answer.truth for answer in answers], [label.score for label in labels]) < 0.7
    assert 0 < found.numbers["mean_mass_of_yes_and_no"] < 1 and found.numbers["judge"] == {"name": "random"}


def test_what_the_judge_cannot_read_gets_no_thumb(labeler: Constitution) -> None:
    answers = [Answer("p", "short", "a"), Answer("p", "long " * 300, "b")]
    one, other = labeler.label(answers, [], CPU).verdicts
    assert isinstance(one, Label) and other == NoLabel(TOO_LONG)
    assert labeler.label(answers[1:], [], CPU).verdicts == [NoLabel(TOO_LONG)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": "most"}, "policy is 'most'"),
        ({"examples": -1}, "examples is -1"),
        ({"layout": "pair"}, "layout is 'pair'"),
    ],
)
def test_settings_that_mean_nothing(labeler: Constitution, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(LabError, match=said):
        replace(labeler, **changes).label([], [], CPU)
