"""A run that is not to be evaluated: evaluation=none, at every scale; and a model whose positions are too few."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.utils import instantiate
from transformers import GPT2Config, GPT2LMHeadModel

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.evaluation.settings import Evaluation
from kto_lab.models.tokens import Lengths
from kto_lab.runs.loading import check_positions
from kto_lab.runs.record import RECORD
from tests.small_runs import composed, options, run


@pytest.mark.parametrize("words", [[], *[[f"scale={scale}"] for scale in options("scale")], ["trainer=debug"]], ids=str)
def test_no_scale_evaluates_what_is_not_to_be(words: list[str]) -> None:
    evaluation: Evaluation = instantiate(composed([*words, "evaluation=none"]).evaluation)
    assert not evaluation.measures and evaluation.judge is None
    assert replace(evaluation, kl_prompts=1).measures


def test_nothing_is_measured_and_the_record_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narration.narrate_with(narration.Plain())
    folder = run(tmp_path, "evaluation=none", "optimization.max_steps=1")
    record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    said = capsys.readouterr().out
    assert record["metrics"] == {} and not (folder / "evaluation").exists()
    assert "Evaluation" not in said and "nothing is measured" in said
    # Nothing is named that is not there.
    assert "answers and scores" not in record["files"]
    assert all((folder / file).exists() for file in record["files"].values())


def test_lengths_beyond_the_positions_of_a_model_are_refused() -> None:
    # As for a Llama, whose configuration calls them max_position_embeddings; GPT-2's calls them n_positions.
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=64, n_embd=8, n_layer=1, n_head=1))
    loaded: Any = SimpleNamespace(model=model, provenance={"name": "gpt"})
    check_positions(loaded, Lengths(max_length=64))
    with pytest.raises(LabError, match=r"^lengths\.max_length is 65, and gpt reads at most 64 tokens"):
        check_positions(loaded, Lengths(max_length=65))
