import contextlib
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils._python_dispatch import TorchDispatchMode

from kto_lab.evaluation.answers import ScoredAnswer, sample_answers, sampled_kl
from kto_lab.evaluation.evaluate import HeldOut, Judge, Measured
from kto_lab.evaluation.lm_eval import CHECKS, estimates_of
from kto_lab.evaluation.metrics import bounds
from kto_lab.evaluation.settings import Evaluation
from kto_lab.feedback.table import build_table
from kto_lab.models.logps import score
from kto_lab.models.number_format import matrices
from kto_lab.models.reference import ReferencePolicy
from kto_lab.models.sequences import Tokens
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.models.tokens import Encoder
from kto_lab.statistics import mean_interval

# The interval of their mean, were there no such scale, goes past 1.
GLAD = (0.98, 0.99, 0.6)


def test_a_policy_of_glad_answers_has_an_interval_within_the_scale_of_sentiment(tmp_path: Path) -> None:
    encoder = Encoder(byte_tokenizer())
    table = Dataset.from_dict({"prompt_id": list("abc"), "group": ["g"] * 3, "desirable_clean": [True] * 3})
    settings = Evaluation(0, 3, 0, 4, 4, lm_eval=[], lm_eval_limit=None, lm_eval_batch_size=1, lm_eval_fewshot=None)
    judge = Judge(
        held_out=HeldOut(table, encoder, [], []),
        plain=encoder,
        settings=settings,
        folder=tmp_path,
        token_budget=64,
        share_prompts=False,
        seed=0,
        autocast=contextlib.nullcontext,
    )
    answers = [
        ScoredAnswer(prompt, "g", prompt, "text", 4, True, {"sentiment": score})
        for prompt, score in zip("abc", GLAD, strict=True)
    ]
    found = Measured(answers, [])
    ends = bounds("sentiment")
    assert ends == (-1.0, 1.0)
    alone = judge.summarise(found)["answers"]["sentiment"]
    assert ends[0] < alone.low < 0.6 and alone.value < alone.high <= ends[1]
    policies = judge.compare(None, found, found, beta=0.1, reference=None)  # type: ignore[arg-type]
    assert policies["answers"]["sentiment"]["base"] == policies["groups"]["g"]["sentiment"]["trained"]
    assert policies["answers"]["sentiment"]["base"] == vars(alone)


def test_so_has_it_by_lm_eval() -> None:
    samples = [{"filter": "none", "sentiment": score} for score in GLAD]
    results = {"results": {CHECKS: {"sentiment,none": 0.857}}, "samples": {CHECKS: samples}, "n-samples": {}}
    found = estimates_of(results, CHECKS, 0)["sentiment"]
    assert found == mean_interval(GLAD, (-1.0, 1.0)) != mean_interval(GLAD)


class Casts(TorchDispatchMode):
    """Counts the bytes of what was made bfloat16 of float32 matrices and is still there."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0

    def _gone(self, size: int) -> None:
        self.alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and isinstance(args[0], torch.nn.Parameter):
            self.alive += found.nbytes
            self.peak = max(self.peak, self.alive)
            weakref.finalize(found, self._gone, found.nbytes)
        return found


def test_the_kl_keeps_the_casts_of_one_model_at_a_time(tmp_path: Path) -> None:
    encoder = Encoder(byte_tokenizer())
    rows = [{"prompt": f"{number}+1=", "completion": "2", "desirable": True} for number in range(3)]
    table = build_table(rows, source="test", held_out=0)
    policy, other = (random_llama(vocabulary=len(encoder.tokenizer), seed=seed) for seed in (0, 1))
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    judge = Judge(
        held_out=HeldOut(table, encoder, [], []),
        plain=encoder,
        settings=Evaluation(0, 0, 3, 4, 64, lm_eval=[], lm_eval_limit=None, lm_eval_batch_size=4, lm_eval_fewshot=None),
        folder=tmp_path,
        token_budget=64,
        share_prompts=False,
        seed=0,
        autocast=autocast,
    )
    with autocast():
        drawn = sample_answers(policy, encoder, table, prompts=3, max_new_tokens=4, batch_tokens=64, seed=0)
        asked = [Tokens(encoder.prompt(prompt), answer) for prompt, answer in drawn]
        under = [score(model, asked, pad_id=encoder.pad_id, token_budget=64).tolist() for model in (policy, other)]
    nothing = Measured([], [])
    with Casts() as casts:
        found = judge.compare(policy, nothing, nothing, beta=0.1, reference=ReferencePolicy(lambda: other, inside=True))
    assert found["kl"] == sampled_kl(*under)
    assert casts.peak == 2 * sum(weight.numel() for weight in matrices(policy))
