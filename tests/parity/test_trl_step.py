"""One whole optimiser step, through the table, the plan and the Lightning module, against one of TRL's own loop."""

import copy
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import pytest
from hydra.utils import instantiate
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.bco import BCOConfig, BCOTrainer

from kto_lab.feedback.corruption import Corrupted
from kto_lab.feedback.table import build_table
from kto_lab.losses.weighting import Weights
from kto_lab.models.logps import score
from kto_lab.training.data import fill_reference, prepare, reference_sequences
from kto_lab.training.module import AlignmentModule
from kto_lab.training.steps import AlignmentData
from kto_lab.training.update_rule import UpdateRule
from tests.parity.side_by_side import PAIRS, THUMBS, Bench, assert_same_gradients, pair_rows, thumb_rows
from tests.small_runs import composed

BETA = 0.3
WEIGHTS = Weights(1.5, 0.7)
# Small enough to cut the batch, which changes nothing.
TOKENS_AT_ONCE = 64


class OurSpy(pl.Callback):
    """Keeps the gradients and the metrics of our step."""

    gradients: dict[str, Tensor]
    metrics: dict[str, float]

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        assert isinstance(pl_module, AlignmentModule)
        self.gradients = gradients_in(pl_module.policy)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.metrics = {name.removeprefix("train/"): value for name, value in outputs.items()}


class TheirSpy(TrainerCallback):
    """Keeps the gradients and the metrics of TRL's step."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.metrics: dict[str, float] = {}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.gradients = gradients_in(kwargs["model"])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # The step's log comes first; the one at the end of training repeats some of its names.
        self.metrics = kwargs["logs"] | self.metrics


def gradients_in(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def our_step(bench: Bench, rows: list[dict[str, Any]], weights: Weights, *overrides: str) -> tuple[OurSpy, list[int]]:
    """A step over all of the rows, and the order in which it took them."""
    cfg = composed(
        [
            f"loss.beta={BETA}",
            f"optimization.batch_size={len(THUMBS)}",
            f"optimization.micro_batch_tokens={TOKENS_AT_ONCE}",
            "optimization.clip_norm=1e9",
            *overrides,
        ]
    )
    objective, optimization = instantiate(cfg.loss), instantiate(cfg.optimization)
    table = build_table(rows, source="test", held_out=0)
    data = prepare(Corrupted(table, ()), bench.encoder, objective, optimization, seed=0)
    pad_id = bench.encoder.pad_id
    wanted = reference_sequences(data)
    logps = score(bench.reference, wanted, pad_id=pad_id, token_budget=1024).tolist()
    fill_reference(data, dict(zip(wanted, logps, strict=True)))
    module = AlignmentModule(
        copy.deepcopy(bench.policy),
        objective,
        optimization,
        UpdateRule.of(cfg),
        weights=weights,
        steps=1,
        pad_id=pad_id,
        share_prompts=True,
        seed=0,
    )
    spy = OurSpy()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[spy],
    )
    trainer.fit(module, AlignmentData(data, objective, optimization, share_prompts=True))
    return spy, [data.plan.units[unit][0] for unit in data.plan.steps[0]]


def their_step(bench: Bench, kind: type, config: type, rows: list[dict[str, Any]], **options: Any) -> TheirSpy:
    """A step of TRL's loop over these rows in this order, where it has one."""
    trainer = replace(bench, policy=copy.deepcopy(bench.policy)).trainer(kind, config, rows, beta=BETA, **options)
    spy = TheirSpy()
    trainer.add_callback(spy)
    trainer.train()
    return spy


def thumbs_table() -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": text, "desirable": up} for prompt, text, up in THUMBS]


@pytest.mark.parametrize("size", [6, 3])
def test_kto_takes_trls_step_with_trls_micro_batches(bench: Bench, size: int) -> None:
    point = ["reference_point@loss.reference_point=microbatch", f"loss.reference_point.size={size}"]
    ours, order = our_step(bench, thumbs_table(), WEIGHTS, "loss=kto", *point)
    # Both rotate completions among neighbours, one forwards and the other backwards.
    rows = thumb_rows([THUMBS[row] for row in reversed(order)])
    theirs = their_step(
        bench,
        KTOTrainer,
        KTOConfig,
        rows,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=len(THUMBS) // size,
        desirable_weight=WEIGHTS.desirable,
        undesirable_weight=WEIGHTS.undesirable,
    )
    print(
        "DIFF", ours.metrics["loss"] - theirs.metrics["loss"], ours.metrics["z0"] - theirs.metrics["kl"], theirs.metrics
    )
    assert_same_gradients(ours.gradients, theirs.gradients)
    assert theirs.metrics["kl"] > 0.1 and ours.metrics["z0"] == pytest.approx(theirs.metrics["kl"], abs=1e-5)
    assert ours.metrics["loss"] == pytest.approx(theirs.metrics["loss"], abs=1e-5)
    if size == len(THUMBS):
        assert ours.metrics["reward_desirable"] == pytest.approx(theirs.metrics["rewards/chosen"], abs=1e-5)
        assert ours.metrics["reward_undesirable"] == pytest.approx(theirs.metrics["rewards/rejected"], abs=1e-5)


def test_bco_takes_trls_first_step(bench: Bench) -> None:
    ours, _ = our_step(bench, thumbs_table(), Weights(1.0, 1.0), "loss=bco")
    theirs = their_step(bench, BCOTrainer, BCOConfig, thumb_rows())
    assert_same_gradients(ours.gradients, theirs.gradients)
    assert ours.metrics["loss"] == pytest.approx(theirs.metrics["loss"], abs=1e-5)


def test_dpo_takes_trls_step(bench: Bench) -> None:
    table = [
        {"prompt": prompt, "completion": text, "desirable": up}
        for prompt, chosen, rejected in PAIRS
        for text, up in ((chosen, True), (rejected, False))
    ]
    ours, _ = our_step(bench, table, Weights(1.0, 1.0), "loss=dpo")
    theirs = their_step(bench, DPOTrainer, DPOConfig, pair_rows())
    assert_same_gradients(ours.gradients, theirs.gradients)
    assert ours.metrics["loss"] == pytest.approx(theirs.metrics["loss"], abs=1e-5)
    assert ours.metrics["reward_margin"] == pytest.approx(theirs.metrics["rewards/margins"], abs=1e-5)
