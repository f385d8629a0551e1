"""The losses of pairs around a reference, and SFT, against TRL's DPOTrainer."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from kto_lab.losses import Pairs, Thumbs, apo_down, apo_zero, cdpo, dpo, hinge, ipo, rdpo, sft
from tests.parity.side_by_side import (
    PAIRS,
    Bench,
    Outcome,
    assert_same,
    collate,
    gradients_of,
    pair_rows,
    real_tokens,
    theirs,
    theirs_one_by_one,
)

BETA = 0.5
FLIP_RATE = 0.2


def trl_batches(bench: Bench, loss: str, **options: Any) -> tuple[Any, dict[str, Tensor], list[dict[str, Tensor]]]:
    """TRL's trainer, its batch, and the batch cut down to each of its pairs; it sees the tokens that we see."""
    trainer = bench.trainer(DPOTrainer, DPOConfig, pair_rows(), loss_type=[loss], beta=BETA, **options)
    batch = collate(trainer)
    chosen, rejected = bench.encode_pairs(PAIRS)
    assert real_tokens(batch["input_ids"], batch["attention_mask"], batch["completion_mask"]) == chosen + rejected
    # The chosen ones come first, then the rejected ones.
    pairs = [[row, row + len(PAIRS)] for row in range(len(PAIRS))]
    return trainer, batch, [{key: value[pair] for key, value in batch.items()} for pair in pairs]


@pytest.mark.parametrize(
    ("loss", "name", "options"),
    [
        (dpo, "sigmoid", {}),
        (hinge, "hinge", {}),
        (partial(rdpo, flip_rate=FLIP_RATE), "robust", {"label_smoothing": FLIP_RATE}),
        (apo_zero, "apo_zero", {}),
        (apo_down, "apo_down", {}),
    ],
    ids=["dpo", "hinge", "rdpo", "apo_zero", "apo_down"],
)
def test_loss_agrees_with_trl(bench: Bench, loss: Callable[..., Tensor], name: str, options: dict[str, Any]) -> None:
    assert_same(bench.ours(loss(bench.pairs(), beta=BETA)), theirs(*trl_batches(bench, name, **options)))


def test_cdpo_agrees_with_trls_aot_of_single_pairs(bench: Bench) -> None:
    # TRL's DPOTrainer smooths no labels of DPO. Its optimal transport does, and in a batch of one pair there is nothing
    # to transport: what is left is conservative DPO.
    trainer, _, examples = trl_batches(bench, "aot", label_smoothing=FLIP_RATE)
    losses = cdpo(bench.pairs(), beta=BETA, flip_rate=FLIP_RATE)
    assert_same(bench.ours(losses), theirs_one_by_one(trainer, examples))


def test_ipo_agrees_with_trl_once_sums_are_divided_by_lengths(bench: Bench) -> None:
    # TRL's IPO takes means over tokens; ours takes sums, as the paper's equation does.
    outcome = theirs(*trl_batches(bench, "ipo"))
    assert_same(bench.ours(ipo(per_token(bench.pairs()), beta=BETA)), outcome)
    sums = ipo(bench.pairs(), beta=BETA).detach()
    assert ((sums - outcome.losses).abs() > 0.01).all()


def per_token(pairs: Pairs) -> Pairs:
    """The same pairs with means over tokens in the place of sums."""
    return replace(
        pairs,
        policy_chosen=pairs.mean_logp_chosen,
        policy_rejected=pairs.mean_logp_rejected,
        reference_chosen=pairs.reference_chosen / pairs.lengths_chosen,
        reference_rejected=pairs.reference_rejected / pairs.lengths_rejected,
    )


def test_sft_agrees_with_trl_where_both_are_means_over_the_tokens_of_the_batch(bench: Bench) -> None:
    trainer, batch, examples = trl_batches(bench, "sft")
    whole = trainer.compute_loss(trainer.model, batch)
    means = torch.stack([trainer.compute_loss(trainer.model, example).detach() for example in examples])
    pairs = bench.pairs()
    losses = sft(Thumbs(pairs.policy_chosen, pairs.reference_chosen, torch.ones(len(PAIRS), dtype=torch.bool)))
    ours = Outcome(
        losses.detach() / pairs.lengths_chosen, gradients_of(losses.sum() / pairs.lengths_chosen.sum(), bench.policy)
    )
    assert_same(ours, Outcome(means, gradients_of(whole, trainer.model)))


def test_the_hinge_has_pairs_on_both_sides_of_its_kink(bench: Bench) -> None:
    margins = BETA * bench.pairs().logratio_difference.detach()
    assert (margins > 1).any() and (margins < 1).any() and (margins - 1).abs().min() > 0.01
