import dataclasses
import json
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM

from kto_lab.evaluation.answers import (
    ScoredAnswer,
    answer_prompts,
    sample_answers,
    sampled_kl,
    scores_of,
    select_prompts,
    side_by_side,
)
from kto_lab.evaluation.measuring import PromptComparison, compare, summarise
from kto_lab.feedback.checkers import arithmetic_checks
from kto_lab.feedback.table import build_table
from kto_lab.models.tokens import Encoder
from kto_lab.statistics import paired_difference, proportion_interval


def sums(count: int, *, checks: bool = True) -> Dataset:
    rows: list[dict[str, Any]] = [
        {
            "prompt": [{"role": "user", "content": f"{number} + {number}"}],
            "completion": str(answer),
            "desirable": answer == 2 * number,
            "group": "even" if number % 3 else "odd",
            "checks": arithmetic_checks(str(2 * number)) if checks else "",
            "split": "test",
        }
        for number in range(count)
        for answer in (2 * number, 2 * number + 1)
    ]
    return build_table(rows, source="sums", held_out=0.0)


def scored(identity: str, score: float, *, group: str = "g", n_tokens: int = 4, finished: bool = True) -> ScoredAnswer:
    return ScoredAnswer(identity, group, identity, "text", n_tokens, finished, {"pass_rate": bool(score)})


def compare_answers(base: list[ScoredAnswer], trained: list[ScoredAnswer], *, seed: int) -> PromptComparison:
    groups = {answer.prompt_id: answer.group for answer in base}
    return compare(scores_of(base), scores_of(trained), groups, {}, seed=seed)


def test_prompts_that_one_side_has_no_score_for_are_left_out_of_the_difference() -> None:
    def judged(identity: str, score: float | None) -> ScoredAnswer:
        scores = {} if score is None else {"judge_score": score}
        return dataclasses.replace(scored(identity, 1.0), scores=scores)

    # What is too long for a judge has no score.
    base, trained = [judged("a", 1.0), judged("b", None), judged("c", 2.0)], [judged("a", 3.0), judged("b", 9.0)]
    found = compare_answers(base, [*trained, judged("c", None)], seed=0).overall["judge_score"]
    assert (found.base.value, found.trained.value, found.difference.value, found.difference.n) == (1.0, 3.0, 2.0, 1)
    none = compare_answers(base[:1], [judged("a", None)], seed=0).overall
    assert none.keys() == {"answer_length", "finished"}


def test_the_same_prompts_whatever_the_order_of_rows_and_nested() -> None:
    table = sums(30)
    shuffled = table.shuffle(seed=1)
    ids = [table["prompt_id"][row] for row in select_prompts(table, 12)]
    assert ids == [shuffled["prompt_id"][row] for row in select_prompts(shuffled, 12)]
    assert len(set(ids)) == 12
    assert ids[:5] == [table["prompt_id"][row] for row in select_prompts(table, 5)]
    assert len(select_prompts(table, 1000)) == 30


def test_groups_are_as_even_as_they_go() -> None:
    table = sums(30)
    for prompts, odd in ((12, 6), (20, 10), (26, 10)):
        groups = [table["group"][row] for row in select_prompts(table, prompts)]
        assert groups.count("odd") == odd


def test_answers_are_scored_greedy_and_leave_the_model_as_it_was(model: LlamaForCausalLM, encoder: Encoder) -> None:
    table, done = sums(9), []
    model.train()
    found = answer_prompts(
        model, encoder, table, prompts=6, max_new_tokens=5, batch_tokens=256, seed=0, advance=done.append
    )
    assert model.training and sum(done) == 6
    for row, answer in zip(select_prompts(table, 6), found, strict=True):
        assert answer.prompt_id == table["prompt_id"][row] and answer.prompt == table["prompt"][row]
        right = json.loads(table["checks"][row])["answer"]
        assert answer.scores == {"pass_rate": answer.answer.strip() == right}
        assert answer.n_tokens <= 5 and (answer.finished or answer.n_tokens == 5)
    again = answer_prompts(model, encoder, table, prompts=6, max_new_tokens=5, batch_tokens=128, seed=9)
    assert [a.answer for a in again] == [a.answer for a in found]


def test_a_right_answer_passes(model: LlamaForCausalLM, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    from kto_lab.evaluation import answers
    from kto_lab.models.generate import Answer

    tokens = encoder.completion([{"role": "user", "content": "4 + 4"}], "8", finished=True)
    monkeypatch.setattr(
        answers, "generate", lambda *a, **k: [[Answer("8", tokens, True, len(tokens) - 1)] for _ in a[2]]
    )
    table = sums(9)
    found = answer_prompts(model, encoder, table, prompts=9, max_new_tokens=5, batch_tokens=256, seed=0)
    assert {a.prompt[0]["content"]: a.score for a in found if a.score} == {"4 + 4": 1.0}
    assert {a.n_tokens for a in found} == {1}


def test_prompts_without_checks_have_no_score(model: LlamaForCausalLM, encoder: Encoder) -> None:
    found = answer_prompts(model, encoder, sums(4, checks=False), prompts=3, max_new_tokens=3, batch_tokens=256, seed=0)
    assert all(answer.score is None and answer.scores == {} for answer in found)
    assert list(summarise(scores_of(found), {})) == ["answer_length", "finished"]
    assert list(compare_answers(found, found, seed=0).overall) == ["answer_length", "finished"]


def test_comparison_is_paired_and_broken_down() -> None:
    base = [scored(str(i), float(i % 3 == 0), group="xy"[i % 2], n_tokens=4) for i in range(30)]
    trained = [dataclasses.replace(a, scores={"pass_rate": i % 3 != 1}, n_tokens=4 + i % 2) for i, a in enumerate(base)]
    found = compare_answers(base, trained, seed=1)
    passed = found.overall["pass_rate"]
    assert passed.base == proportion_interval(10, 30) and passed.trained == proportion_interval(20, 30)
    before, after = [a.score for a in base], [a.score for a in trained]
    assert passed.difference == paired_difference(before, after, seed=1)
    # a third of the answers changed, all for the better: variance 10/30 * 20/30 * 30/29
    assert passed.detectable == pytest.approx(2.801585 * (10 / 30 * 20 / 29 / 30) ** 0.5, rel=1e-5)
    assert found.overall["answer_length"].trained.value == pytest.approx(4.5)
    assert found.overall["answer_length"].base.low is None
    assert set(found.groups) == {"x", "y"}
    assert found.groups["x"]["answer_length"].difference.value == 0.0
    assert found.groups["y"]["answer_length"].difference.value == 1.0
    assert sum(part["pass_rate"].base.n for part in found.groups.values()) == 30
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["overall"]["pass_rate"]["difference"]["n"] == 30


def test_sentiment_is_a_mean_not_a_share() -> None:
    base = [dataclasses.replace(scored(str(i), 0), scores={"sentiment": 0.1 * i - 0.5}) for i in range(10)]
    found = compare_answers(base, base, seed=0).overall
    assert found["sentiment"].base.value == pytest.approx(-0.05)
    assert found["sentiment"].detectable is None and found["sentiment"].difference.value == 0.0


def test_other_prompts_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        side_by_side([scored("a", 1.0)], [scored("b", 1.0)])
    assert compare_answers([], [], seed=0).as_dict() == {"overall": {}, "groups": {}}


def test_samples_for_the_kl_are_what_was_sampled(model: LlamaForCausalLM, encoder: Encoder) -> None:
    table = sums(12)
    found = sample_answers(model, encoder, table, prompts=8, max_new_tokens=6, batch_tokens=512, seed=5)
    assert [prompt for prompt, _ in found] == [table["prompt"][row] for row in select_prompts(table, 8)]
    assert all(1 <= len(answer) <= 6 for _, answer in found)
    assert found == sample_answers(model, encoder, table, prompts=8, max_new_tokens=6, batch_tokens=512, seed=5)
    assert found != sample_answers(model, encoder, table, prompts=8, max_new_tokens=6, batch_tokens=512, seed=6)


def test_kl_of_two_known_distributions() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    drawn = torch.multinomial(policy, 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    found = sampled_kl(policy.log()[drawn], reference.log()[drawn])
    truth = (policy * (policy / reference).log()).sum().item()
    assert found.low < truth < found.high and found.value == pytest.approx(truth, abs=0.02)
    assert sampled_kl(policy.log()[drawn], policy.log()[drawn]).value == 0.0
