"""`kto-lab train` in bf16-mixed: a policy that starts as its reference, learns, and is saved as it was judged."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from kto_lab.models.number_format import matrices
from tests.small_runs import metrics, run

BF16 = "trainer.precision=bf16-mixed"


def policy(folder: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder / "policy")
    return loaded


def numbers(folder: Path, name: str) -> torch.Tensor:
    return torch.tensor([float(row[name]) for row in metrics(folder)])


def test_the_saved_policy_is_what_products_read(tmp_path: Path) -> None:
    saved = policy(run(tmp_path, BF16))
    assert saved.dtype == torch.float32
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in matrices(saved))


def test_the_first_step_starts_at_the_reference_and_the_run_follows_float32(tmp_path: Path) -> None:
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        folder.mkdir()
        found[precision] = run(folder, f"trainer.precision={precision}", "optimization.learning_rate=1e-4")
    exact, narrow = found["32-true"], found["bf16-mixed"]
    # Log-ratios of short answers: what is left is that batches of other shapes add up in another order.
    assert numbers(narrow, "z0_raw")[0].abs() < 0.02
    error = (numbers(narrow, "z0_raw") - numbers(exact, "z0_raw")).abs()
    assert (error[1:] <= numbers(exact, "z0_stderr")[1:] + 0.02).all()
    assert numbers(exact, "z0_raw").abs().max() > 0.1, "nothing was learned that could differ"


@pytest.mark.parametrize("more", [[], ["adapter=lora"]], ids=["full", "lora"])
def test_a_run_repeats_bit_for_bit(tmp_path: Path, more: list[str]) -> None:
    one, two = (tmp_path / name for name in ("one", "two"))
    for folder in (one, two):
        folder.mkdir()
        run(folder, BF16, *more)
    assert (one / "run" / "metrics.csv").read_text() == (two / "run" / "metrics.csv").read_text()
