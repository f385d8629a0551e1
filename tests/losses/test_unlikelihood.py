import math

import pytest
import torch

from kto_lab.losses import Thumbs, unlikelihood

# Probabilities of the tokens of four completions.
TOKENS = [[0.9, 0.2], [0.3, 0.999, 0.5], [0.01], [1e-9, 0.6]]
UP = [True, False, True, False]


def case(tokens: list[list[float]], up: list[bool], weights: tuple[float, float] = (1.0, 1.0)) -> Thumbs:
    """Completions of tokens with these probabilities; `token_logps` is a leaf that takes gradients."""
    leaf = torch.tensor([math.log(p) for completion in tokens for p in completion], dtype=torch.float64)
    leaf.requires_grad_()
    lengths = [len(completion) for completion in tokens]
    policy = torch.stack([part.sum() for part in leaf.split(lengths)])
    nothing = torch.zeros(len(tokens), dtype=torch.float64)
    return Thumbs(policy, nothing, torch.tensor(up), *weights, token_logps=leaf, lengths=torch.tensor(lengths))


def test_a_plain_loop_over_tokens() -> None:
    wanted = []
    for completion, up in zip(TOKENS, UP, strict=True):
        loss = 0.0
        for p in completion:
            loss -= 2.0 * math.log(p) if up else 0.5 * math.log(1 - p)
        wanted.append(loss)
    assert unlikelihood(case(TOKENS, UP, (2.0, 0.5))).tolist() == pytest.approx(wanted)


def test_slopes_in_log_probabilities() -> None:
    batch = case(TOKENS, UP, (2.0, 0.5))
    (found,) = torch.autograd.grad(unlikelihood(batch).sum(), batch.token_logps)
    wanted = [-2.0 if up else 0.5 * p / (1 - p) for completion, up in zip(TOKENS, UP, strict=True) for p in completion]
    assert found.tolist() == pytest.approx(wanted)


def test_at_one_half_a_token_both_classes_lose_log_2() -> None:
    assert unlikelihood(case([[0.5, 0.5]] * 2, [True, False])).tolist() == pytest.approx([2 * math.log(2)] * 2)


def test_a_certain_token_of_an_undesirable_completion_counts_as_a_millionth_from_certain() -> None:
    batch = case([[1.0, 0.5]], [False])
    loss = unlikelihood(batch)
    assert loss.item() == pytest.approx(-math.log(1e-6) + math.log(2))
    (found,) = torch.autograd.grad(loss.sum(), batch.token_logps)
    assert found.tolist() == pytest.approx([0.0, 1.0])
