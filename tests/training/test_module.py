"""The objective does not depend on how the batch is cut: gradients and reference points against plain computation."""

import copy
import math
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from datasets import Dataset
from hydra.utils import instantiate
from torch import Tensor
from transformers import LlamaForCausalLM

from kto_lab.errors import LabError
from kto_lab.feedback.corruption import unchanged
from kto_lab.feedback.table import build_table
from kto_lab.losses import Objective
from kto_lab.losses.weighting import Weights
from kto_lab.models.attention import set_packing
from kto_lab.models.sequences import Tokens
from kto_lab.models.tokens import Encoder
from kto_lab.training.data import TrainingData, fill_reference, prepare, reference_sequences
from kto_lab.training.module import AlignmentModule, NotFiniteError
from kto_lab.training.optimization import Optimization
from kto_lab.training.steps import AlignmentData
from tests.small_runs import adamw, composed

BETA = 0.3
WEIGHTS = Weights(1.5, 0.7)
# Tokens of a row: prompt and completion with its end-of-turn token, which is not fed.
ROW = 10


def table() -> Dataset:
    """Eight thumbs of four prompts; every row of the forward pass is as long as the others."""
    rows = []
    for number, length in enumerate((3, 5, 6, 8)):
        prompt = f"{number}" * length
        for letter, good in (("a", True), ("b", False)):
            rows.append({"prompt": prompt, "completion": letter * (ROW - length), "desirable": good})
    return build_table(rows, source="test", held_out=0)


def settings(loss: str, budget: int, *more: str) -> tuple[Objective, Optimization]:
    batch = 4 if loss != "kto" else 8
    optimization = [f"optimization.batch_size={batch}", f"optimization.micro_batch_tokens={budget}"]
    beta = f"loss.{'reward_beta' if loss == 'sft' else 'beta'}={BETA}"
    cfg = composed([f"loss={loss}", beta, "optimization.clip_norm=1e9", *optimization, *more])
    return instantiate(cfg.loss), instantiate(cfg.optimization)


class Spy(pl.Callback):
    """Keeps the gradients and the metrics of the step."""

    gradients: dict[str, Tensor]
    metrics: dict[str, float]

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        policy: Any = pl_module.policy
        self.gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.metrics = {name.removeprefix("train/"): value for name, value in outputs.items()}


def reference_of(data: TrainingData) -> dict[Tokens, float]:
    """A made-up reference, so that log-ratios are spread and z0 is above its clamp."""
    draw = torch.Generator().manual_seed(0)
    return {tokens: -70.0 + 8 * torch.randn((), generator=draw).item() for tokens in reference_sequences(data)}


def one_step(
    model: LlamaForCausalLM,
    data: TrainingData,
    loss: tuple[Objective, Optimization],
    share: bool,
    packed: bool = False,
    weights: Weights = WEIGHTS,
) -> tuple[Spy, AlignmentModule]:
    objective, optimization = loss
    set_packing(model, packed)
    spy = Spy()
    module = AlignmentModule(
        copy.deepcopy(model),
        objective,
        optimization,
        adamw(),
        weights=weights,
        steps=1,
        pad_id=2,
        share_prompts=share,
        seed=0,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[spy],
    )
    trainer.fit(module, AlignmentData(data, objective, optimization, share_prompts=share, packed=packed))
    return spy, module


def plain_logp(model: LlamaForCausalLM, tokens: Tokens) -> Tensor:
    ids = torch.tensor([tokens.prompt + tokens.completion])
    logps = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return logps[len(tokens.prompt) - 1 :].sum()


def by_hand(model: LlamaForCausalLM, data: TrainingData, loss: str) -> tuple[dict[str, Tensor], float, float]:
    """Gradients, loss and z0 before clamping of the step, straight from the formulas."""
    model = copy.deepcopy(model)
    reference = reference_of(data)

    def logratio(tokens: Tokens) -> Tensor:
        return plain_logp(model, tokens) - reference.get(tokens, 0.0)

    members = [data.plan.units[unit] for unit in data.plan.steps[0]]
    raw = 0.0
    if loss == "kto":
        with torch.no_grad():
            raw = torch.stack([logratio(pair) for pair in data.mismatched_tokens(0)]).mean().item()
        terms = []
        for (example,) in members:
            gain = BETA * (logratio(data.tokens[example]) - max(0.0, raw))
            up = data.desirable[example]
            terms.append(
                WEIGHTS.desirable * (1 - torch.sigmoid(gain))
                if up
                else WEIGHTS.undesirable * (1 - torch.sigmoid(-gain))
            )
        total = torch.stack(terms).mean()
    elif loss == "dpo":
        terms = [logratio(data.tokens[up]) - logratio(data.tokens[down]) for up, down in members]
        total = torch.stack([-torch.nn.functional.logsigmoid(BETA * term) for term in terms]).mean()
    else:
        chosen = [data.tokens[example] for (example,) in members]
        total = -sum(plain_logp(model, tokens) for tokens in chosen) / sum(len(t.completion) for t in chosen)
    total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return gradients, total.item(), raw


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("share", [False, True], ids=["apart", "shared"])
@pytest.mark.parametrize("loss", ["kto", "dpo", "sft"])
def test_the_gradient_is_that_of_the_formula_however_the_batch_is_cut(
    model: LlamaForCausalLM, encoder: Encoder, loss: str, share: bool, packed: bool
) -> None:
    sizes_seen = []
    data = prepare(unchanged(table()), encoder, *settings(loss, ROW), seed=0)
    fill_reference(data, reference_of(data))
    wanted, value, raw = by_hand(model, data, loss)
    rows = 2 if loss == "dpo" and not share else 1
    for size in (1, 2, 4, 8):
        objective, optimization = settings(loss, size * ROW * rows)
        step = AlignmentData(data, objective, optimization, share_prompts=share, packed=packed).make_step(0)
        sizes_seen.append([len(part.places) for part in step.micro_batches])
        assert step.at_once == (packed and len(step.micro_batches) == 1)
        spy, _ = one_step(model, data, (objective, optimization), share, packed)
        assert spy.gradients.keys() == wanted.keys()
        for name, gradient in spy.gradients.items():
            torch.testing.assert_close(
                gradient, wanted[name], rtol=1e-4, atol=2e-6, msg=f"{name}, {size} a micro-batch"
            )
        assert spy.metrics["loss"] == pytest.approx(value, rel=1e-5)
        if loss == "kto":
            assert raw > 0.5, "the clamp would hide a mistake"
            assert spy.metrics["z0_raw"] == pytest.approx(raw, rel=1e-5)
            assert spy.metrics["z0"] == pytest.approx(raw, rel=1e-5)
    if not share and loss != "dpo":
        units = 8 if loss == "kto" else 4
        assert sizes_seen == [[size] * (units // size) if size <= units else [units] for size in (1, 2, 4, 8)]
    assert len(sizes_seen[0]) > len(sizes_seen[-1]) == 1


def test_a_negative_estimate_is_clamped_and_still_reported(model: LlamaForCausalLM, encoder: Encoder) -> None:
    loss = settings("kto", 4 * ROW)
    data = prepare(unchanged(table()), encoder, *loss, seed=0)
    fill_reference(data, dict.fromkeys(reference_sequences(data), 0.0))
    spy, _ = one_step(model, data, loss, share=True)
    assert spy.metrics["z0_raw"] < 0 == spy.metrics["z0"]
    assert spy.metrics["z0_clamped"] == 1 and spy.metrics["z0_stderr"] > 0


def test_no_reference_point_costs_no_second_pass(model: LlamaForCausalLM, encoder: Encoder) -> None:
    loss = settings("kto", 4 * ROW, "reference_point@loss.reference_point=zero")
    data = prepare(unchanged(table()), encoder, *loss, seed=0)
    assert data.plan.mismatched is None
    fill_reference(data, reference_of(data))
    spy, _ = one_step(model, data, loss, share=True)
    assert spy.metrics["z0"] == spy.metrics["z0_raw"] == 0


def test_metrics_are_means_of_the_step_by_class(model: LlamaForCausalLM, encoder: Encoder) -> None:
    loss = settings("kto", 2 * ROW)
    data = prepare(unchanged(table()), encoder, *loss, seed=0)
    fill_reference(data, reference_of(data))
    spy, _ = one_step(model, data, loss, share=False)
    with torch.no_grad():
        rewards = [BETA * (plain_logp(model, t).item() - reference_of(data)[t]) for t in data.tokens.values()]
    up = [reward for reward, good in zip(rewards, data.desirable, strict=True) if good]
    down = [reward for reward, good in zip(rewards, data.desirable, strict=True) if not good]
    assert spy.metrics["reward_desirable"] == pytest.approx(sum(up) / 4, rel=1e-4)
    assert spy.metrics["reward_undesirable"] == pytest.approx(sum(down) / 4, rel=1e-4)
    assert spy.metrics["reward_margin"] == pytest.approx((sum(up) - sum(down)) / 4, rel=1e-4)
    gains = [reward - BETA * spy.metrics["z0"] for reward in rewards]
    felt = [1 / (1 + math.exp(-gain)) for gain in gains]
    assert spy.metrics["saturated"] == sum(f * (1 - f) < 0.0125 for f in felt) / 8
    assert spy.metrics["tokens"] == sum(map(len, data.tokens.values())) and spy.metrics["examples"] == 8
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in spy.gradients.values()))
    assert spy.metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("times", [1, 1000])
def test_the_gradient_is_clipped_by_its_global_norm_whatever_the_scale_of_the_weights(
    model: LlamaForCausalLM, encoder: Encoder, times: int
) -> None:
    objective, optimization = settings("kto", 4 * ROW)
    data = prepare(unchanged(table()), encoder, objective, optimization, seed=0)
    fill_reference(data, reference_of(data))
    weights = Weights(times * WEIGHTS.desirable, times * WEIGHTS.undesirable)
    loss = (objective, replace(optimization, clip_norm=1e-3))
    spy, _ = one_step(model, data, loss, share=True, weights=weights)
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in spy.gradients.values()))
    most = times * 1e-3 * math.sqrt((1.5**2 + 0.7**2) / 2)
    assert norm == pytest.approx(most, rel=1e-3) and spy.metrics["grad_norm"] > 0.1 * times
    assert spy.metrics["clip_factor"] == pytest.approx(most / spy.metrics["grad_norm"], rel=1e-6)


def test_a_gradient_within_the_norm_is_not_clipped(model: LlamaForCausalLM, encoder: Encoder) -> None:
    loss = settings("kto", 4 * ROW)
    data = prepare(unchanged(table()), encoder, *loss, seed=0)
    fill_reference(data, reference_of(data))
    spy, _ = one_step(model, data, loss, share=True)
    assert spy.metrics["clip_factor"] == 1


def test_a_gradient_that_is_not_finite_changes_nothing(model: LlamaForCausalLM, encoder: Encoder) -> None:
    objective, optimization = settings("kto", 4 * ROW)
    data = prepare(unchanged(table()), encoder, objective, optimization, seed=0)
    fill_reference(data, reference_of(data))
    kinked = replace(objective, losses=lambda batch: (batch.logratio - batch.logratio.detach()).sqrt())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    module = AlignmentModule(
        model, kinked, optimization, adamw(), weights=WEIGHTS, steps=1, pad_id=2, share_prompts=True, seed=0
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(NotFiniteError, match=r"gradient norm is (nan|inf) at step 1") as raised:
        trainer.fit(module, AlignmentData(data, kinked, optimization, share_prompts=True))
    assert isinstance(raised.value, LabError)
    assert all(torch.equal(value, before[name]) for name, value in module.policy.state_dict().items())


def test_a_checkpoint_of_other_trained_weights_is_refused(model: LlamaForCausalLM) -> None:
    objective, optimization = settings("kto", 4 * ROW)
    module = AlignmentModule(
        model, objective, optimization, adamw(), weights=WEIGHTS, steps=1, pad_id=2, share_prompts=True, seed=0
    )
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    model.lm_head.weight.requires_grad_(False)
    with pytest.raises(LabError, match="The checkpoint holds other trained weights than this policy has: 1 of them"):
        module.on_load_checkpoint(checkpoint)
