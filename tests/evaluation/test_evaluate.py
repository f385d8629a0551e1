import contextlib
from pathlib import Path

from datasets import Dataset

from kto_lab.evaluation.answers import ScoredAnswer
from kto_lab.evaluation.evaluate import HeldOut, Judge, Measured
from kto_lab.evaluation.lm_eval import CHECKS, estimates_of
from kto_lab.evaluation.metrics import bounds
from kto_lab.evaluation.settings import Evaluation
from kto_lab.models.tiny import byte_tokenizer
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
