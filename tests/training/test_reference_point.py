"""The reference point of a step: from which completions it comes, however the step is cut."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from datasets import Dataset
from hydra.utils import instantiate
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from kto_lab.feedback.corruption import unchanged
from kto_lab.feedback.table import build_table
from kto_lab.losses import Objective
from kto_lab.losses.reference_points import ReferencePoint, Sampled
from kto_lab.losses.weighting import Weights
from kto_lab.models.adapters import Policy
from kto_lab.models.logps import completion_logps
from kto_lab.models.reference import ReferencePolicy
from kto_lab.models.tokens import Encoder
from kto_lab.training.data import TrainingData, fill_reference, prepare, reference_sequences
from kto_lab.training.module import AlignmentModule
from kto_lab.training.optimization import Optimization
from kto_lab.training.reference_point import PolicySamples
from kto_lab.training.steps import make_step
from tests.small_runs import adamw, composed

INSIDE = ReferencePolicy(lambda: pytest.fail("no second copy is needed"), inside=True)


def table() -> Dataset:
    """Eight prompts with a thumb each: three up, five down."""
    rows = [{"prompt": f"{n} {'x' * n}", "completion": "ab" * (n + 1), "desirable": n % 3 == 0} for n in range(8)]
    return build_table(rows, source="test", held_out=0)


def settings(option: str, budget: int) -> tuple[Objective, Optimization]:
    words = [f"reference_point@loss.reference_point={option}"]
    cfg = composed(["loss=kto", *words, "optimization.batch_size=8", f"optimization.micro_batch_tokens={budget}"])
    return instantiate(cfg.loss), instantiate(cfg.optimization)


def prepared(encoder: Encoder, objective: Objective, optimization: Optimization) -> TrainingData:
    data = prepare(unchanged(table()), encoder, objective, optimization, seed=0)
    draw = torch.Generator().manual_seed(0)
    fill_reference(
        data, {tokens: -90.0 + 9 * torch.randn((), generator=draw).item() for tokens in reference_sequences(data)}
    )
    return data


def module_of(
    policy: Policy, encoder: Encoder, objective: Objective, optimization: Optimization, *, samples: bool = False
) -> AlignmentModule:
    """The module, able to say its reference point without a fit."""
    module = AlignmentModule(
        policy, objective, optimization, adamw(), weights=Weights(1, 1), steps=1, pad_id=2, share_prompts=False, seed=0
    )
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    if samples:
        module.samples = PolicySamples(policy, INSIDE, pad_id=2, ending=encoder.ending(False), token_budget=999, seed=0)
    return module


@pytest.mark.parametrize("option", ["batch", "microbatch", "legacy", "matched", "running_mean"])
def test_it_does_not_depend_on_how_the_step_is_cut(model: LlamaForCausalLM, encoder: Encoder, option: str) -> None:
    points: list[ReferencePoint] = []
    for budget in (1, 60, 9999):
        objective, optimization = settings(option, budget)
        data = prepared(encoder, objective, optimization)
        step = make_step(data, objective, optimization, 0, share_prompts=False)
        points.append(module_of(model, encoder, objective, optimization).reference_point(step))
    assert points[0].stderr > 0
    for point in points[1:]:
        torch.testing.assert_close(point.z0, points[0].z0, rtol=1e-5, atol=1e-5)
        assert point.raw == pytest.approx(points[0].raw, rel=1e-5)
    assert points[0].z0.shape == ((8,) if option in ("microbatch", "legacy") else ())


def test_matched_is_the_mean_of_the_steps_own_logratios(model: LlamaForCausalLM, encoder: Encoder) -> None:
    objective, optimization = settings("matched", 60)
    data = prepared(encoder, objective, optimization)
    assert data.plan.mismatched is None
    with torch.no_grad():
        r = completion_logps(model, [[tokens] for tokens in data.tokens.values()], pad_id=2) - data.reference
    point = module_of(model, encoder, objective, optimization).reference_point(
        make_step(data, objective, optimization, 0, share_prompts=False)
    )
    assert point.z0.item() == pytest.approx(r.mean().item(), rel=1e-5)


def test_without_a_reference_it_is_the_mean_log_probability_of_mismatched_pairs(
    model: LlamaForCausalLM, encoder: Encoder
) -> None:
    cfg = composed(["loss=kto_reference_free", "optimization.batch_size=8"])
    objective, optimization = instantiate(cfg.loss), instantiate(cfg.optimization)
    data = prepared(encoder, objective, optimization)
    with torch.no_grad():
        under_policy = completion_logps(model, [[pair] for pair in data.mismatched_tokens(0)], pad_id=2)
    step = make_step(data, objective, optimization, 0, share_prompts=False)
    module = module_of(model, encoder, objective, optimization)
    point = module.reference_point(step)
    assert point.z0.item() == pytest.approx(under_policy.mean().item(), rel=1e-5) and point.clamped == 0
    # Logged values meet log-ratios, so z0 is told as one there.
    (micro_batch, *_) = step.micro_batches
    told = module.in_logratios(point.z0, micro_batch)
    torch.testing.assert_close(told + micro_batch.reference, point.z0.expand_as(micro_batch.reference))


def test_each_group_has_its_own(model: LlamaForCausalLM, encoder: Encoder) -> None:
    objective, optimization = settings("microbatch", 60)
    data = prepared(encoder, objective, optimization)
    with torch.no_grad():
        under_policy = completion_logps(model, [[pair] for pair in data.mismatched_tokens(0)], pad_id=2)
    raw = (under_policy - data.reference_mismatched[0]).reshape(2, 4).mean(1)
    point = module_of(model, encoder, objective, optimization).reference_point(
        make_step(data, objective, optimization, 0, share_prompts=False)
    )
    wanted = raw.clamp(min=0).repeat_interleave(4)
    torch.testing.assert_close(point.z0, wanted, rtol=1e-5, atol=1e-5)
    assert point.clamped == (raw < 0).float().mean().item()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_samples_of_the_reference_itself_are_at_zero_and_of_another_policy_above(
    model: LlamaForCausalLM, encoder: Encoder, lora: bool
) -> None:
    objective, optimization = settings("sampled", 999)
    data = prepared(encoder, objective, optimization)
    step = make_step(data, objective, optimization, 0, share_prompts=False)
    torch.manual_seed(0)
    policy: Policy = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear")) if lora else model
    module = module_of(policy, encoder, objective, optimization, samples=True)
    first = module.reference_point(step)
    assert first.raw == pytest.approx(0, abs=1e-4) and first.stderr == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    moved = module.reference_point(step)
    assert moved.raw > 2 * moved.stderr > 0
    assert module.reference_point(step).raw == moved.raw, "the draws depend on seed and step alone"
    assert policy.training


def test_sampled_prompts_are_those_of_the_step_and_repeat_where_there_are_too_few(
    model: LlamaForCausalLM, encoder: Encoder
) -> None:
    objective, optimization = settings("sampled", 999)
    step = make_step(prepared(encoder, objective, optimization), objective, optimization, 0, share_prompts=False)
    samples = PolicySamples(model, INSIDE, pad_id=2, ending=encoder.ending(False), token_budget=999, seed=0)
    assert samples.logratios(model, step, Sampled(samples=11, max_new_tokens=2)).shape == (11,)


def test_what_it_remembers_is_in_the_checkpoint(model: LlamaForCausalLM, encoder: Encoder) -> None:
    objective, optimization = settings("running_mean", 999)
    module = module_of(model, encoder, objective, optimization)
    module.reference_point_state = (3.0, 3.0, 0.5, 5.0, 5.0, -0.25)
    checkpoint: dict[str, object] = {}
    module.on_save_checkpoint(checkpoint)
    other = module_of(copy.deepcopy(model), encoder, objective, optimization)
    other.on_load_checkpoint(checkpoint)
    step = make_step(prepared(encoder, objective, optimization), objective, optimization, 0, share_prompts=False)
    assert other.reference_point(step) == module.reference_point(step)
