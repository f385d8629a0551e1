"""`kto-lab train` with every loss, and with every choice inside KTO, on a tiny policy."""

import json
import math
from pathlib import Path

import pytest

from kto_lab.runs.record import RECORD
from tests.small_runs import metrics, options, run

TWO = ("optimization.max_steps=2", "optimization.batch_size=8")
INSIDE_KTO = [
    f"{group}@loss.{group}={option}" for group in ("value", "reference_point", "weighting") for option in options(group)
]


@pytest.mark.parametrize(
    "words",
    [*([f"loss={loss}"] for loss in options("loss")), *([choice] for choice in INSIDE_KTO)],
    ids=lambda words: words[0],
)
def test_it_trains(tmp_path: Path, words: list[str]) -> None:
    folder = run(tmp_path, *TWO, *words, "evaluation=none")
    rows = metrics(folder)
    assert len(rows) == 2
    for row in rows:
        assert all(math.isfinite(float(value)) for value in row.values() if value)
        assert float(row["grad_norm"]) > 0
        if words[0] == "loss=sft":
            continue
        # Against the reference, whatever the loss: before the first step the policy is the reference. Unlike the
        # others, csft's is asked with a control text.
        assert abs(float(rows[0]["reward_margin"])) < 1e-3


def test_the_choices_go_together(tmp_path: Path) -> None:
    words = ["loss=kto", "value@loss.value=power", "reference_point@loss.reference_point=running_mean"]
    words += ["weighting@loss.weighting=balanced", "corruption=label_noise", "corruption.rate=0.2"]
    record = json.loads((run(tmp_path, *TWO, *words, "evaluation=none") / RECORD).read_text())
    (change,) = record["training"]["corruption"]
    assert (change["flipped_to_desirable"], change["flipped_to_undesirable"]) == (4, 4)
    assert len(change["touched"]) == 16 and record["data"]["counts"]["train"]["flipped"] == 0


def test_the_lab_warns_where_noise_turns_a_gradient_around(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = ["corruption=label_noise", "corruption.rate=0.12", "weighting@loss.weighting=fixed"]
    for weight, warned in ((13.33, True), (1.0, False)):
        folder = tmp_path / str(weight)
        folder.mkdir()
        run(folder, *TWO, *noise, f"loss.weighting.lambda_desirable={weight}", "evaluation=none")
        said = capsys.readouterr().out
        assert ("gradient on truly undesirable examples around" in said) == warned
        if warned:
            assert "the limit is 7.0%" in said


def test_a_policy_trained_with_controls_is_judged_and_saved_with_the_good_one(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = run(tmp_path, *TWO, "loss=csft", "evaluation=quick", "evaluation.prompts=0", "evaluation.kl_prompts=2")
    template = AutoTokenizer.from_pretrained(folder / "policy").chat_template
    assert "<|good|>" in template
    record = json.loads((folder / RECORD).read_text())
    assert record["metrics"]["kl"]["value"] != 0
