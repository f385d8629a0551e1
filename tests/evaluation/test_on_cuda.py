"""Evaluation, generation and lm-eval on a pretended CUDA device: no mixed devices; what generation waits for."""

from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.feedback.checkers import arithmetic_checks
from kto_lab.models.generate import generate
from kto_lab.models.tokens import Encoder
from kto_lab.runs.process_cache import ProcessCache
from kto_lab.runs.record import read_record
from tests.pretend.ledger import Ledger, said
from tests.pretend.runs import waits_of_steps
from tests.small_runs import write_jsonl

ALL = [
    "feedback.columns.checks=checks",
    "evaluation=debug",
    "evaluation.lm_eval=[kto_lab_neutral,kto_lab_checks]",
    "evaluation.lm_eval_limit=2",
]


def test_a_token_waits_for_its_choice_alone(
    cuda: Ledger, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Beside transformers' look at the padding in each pass, the host reads each token, and what ended leaves once."""
    prompts = ["1+2=", "10+20=", "a longer prompt"]
    for temperature in (0.0, 1.0):
        cuda.waits.clear()
        model.to("cuda")
        before = cuda.waits.copy()
        answers = generate(
            model, Encoder(tokenizer), prompts, max_new_tokens=8, temperature=temperature, samples=2, seed=1
        )
        waits = cuda.waits - before
        own = sum(count for wait, count in waits.items() if "transformers" not in wait.place)
        tokens = max(len(answer.tokens) for of_prompt in answers for answer in of_prompt)
        ends = {len(answer.tokens) for of_prompt in answers for answer in of_prompt}
        assert own <= tokens + len(ends) + 3, said(waits)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_run_is_evaluated_on_the_device(cuda: Ledger, tmp_path: Path, adapter: str) -> None:
    """Rewards, answers, KL and lm-eval, before and after."""
    rows = [
        {
            "prompt": f"{n}+{n}=",
            "completion": str(2 * n + wrong),
            "label": not wrong,
            "split": "test" if n % 4 == 3 else "train",
            "checks": arithmetic_checks(str(2 * n)),
        }
        for n in range(8)
        for wrong in (0, 1)
    ]
    write_jsonl(tmp_path / "thumbs.jsonl", rows)
    waits_of_steps(cuda, ProcessCache(keeps=True), tmp_path, *ALL, f"adapter={adapter}", "optimization.max_steps=1")
    metrics = read_record(tmp_path / "run_0")["metrics"]
    assert {"answers", "rewards", "kl", "lm_eval"} <= set(metrics)
