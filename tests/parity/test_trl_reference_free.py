"""SimPO and ORPO against TRL's CPOTrainer and ORPOTrainer."""

from collections.abc import Sequence
from typing import Any

import torch
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from kto_lab.losses import orpo, simpo
from tests.parity.side_by_side import (
    PAIRS,
    Bench,
    Pair,
    assert_same,
    collate,
    cut,
    pair_rows,
    real_tokens,
    theirs,
    theirs_one_by_one,
)


def trl_batch(trainer: Any, bench: Bench, rows: Sequence[Pair]) -> dict[str, Any]:
    """TRL's batch; it sees the tokens that we see."""
    batch = collate(trainer)
    for side, expected in zip(("chosen", "rejected"), bench.encode_pairs(rows), strict=True):
        ids, mask, labels = (batch[f"{side}_{part}"] for part in ("input_ids", "attention_mask", "labels"))
        assert real_tokens(ids, mask, labels != -100) == expected
    return batch


def test_simpo_agrees_with_trl(bench: Bench) -> None:
    options = {"loss_type": "simpo", "beta": 5.0, "simpo_gamma": 0.8, "cpo_alpha": 0.0}
    trainer = bench.trainer(CPOTrainer, CPOConfig, pair_rows(), **options)
    batch = trl_batch(trainer, bench, PAIRS)
    losses = simpo(bench.pairs(), beta=5.0, gamma=0.8)
    assert_same(bench.ours(losses), theirs(trainer, batch, cut(batch, len(PAIRS))))


def test_orpo_agrees_with_trl_for_single_pairs_with_prompts_of_one_token(bench: Bench) -> None:
    # TRL's likelihood term is a mean over the tokens of the batch, prompts included but for their first token; ours is
    # a mean over the tokens of each chosen completion.
    rows = [(prompt[:1], chosen, rejected) for prompt, chosen, rejected in PAIRS]
    trainer = bench.trainer(ORPOTrainer, ORPOConfig, pair_rows(rows), beta=0.5)
    batch = trl_batch(trainer, bench, rows)
    losses = orpo(bench.pairs(rows), odds_weight=0.5)
    assert_same(bench.ours(losses), theirs_one_by_one(trainer, cut(batch, len(rows))))


def test_the_odds_ratio_agrees_with_trl_for_whole_batches_with_any_prompt(bench: Bench) -> None:
    trainer = bench.trainer(ORPOTrainer, ORPOConfig, pair_rows(), beta=0.5)
    batch = trl_batch(trainer, bench, PAIRS)
    with torch.no_grad():
        chosen, rejected = trainer.concatenated_forward(trainer.model, batch)[:2]
        ratios = -trainer.odds_ratio_loss(chosen, rejected)[0]
        pairs = bench.pairs()
        torch.testing.assert_close(pairs.mean_logp_chosen, chosen, rtol=1e-5, atol=1e-5)
        ours = orpo(pairs, odds_weight=0.5) + pairs.mean_logp_chosen
    torch.testing.assert_close(ours, ratios, rtol=1e-5, atol=1e-5)
