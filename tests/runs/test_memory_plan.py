"""A memory plan against the bytes that are alive in real steps, answers and scorings of a tiny policy."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from kto_lab.losses import Feed
from kto_lab.models.activations import TRACED_LAYERS
from kto_lab.models.adapters import FullFineTuning, Policy, attached
from kto_lab.models.attention import set_packing
from kto_lab.models.generate import sample_tokens
from kto_lab.models.live_bytes import LiveBytes
from kto_lab.models.logps import completion_token_logps, score
from kto_lab.models.number_format import as_read
from kto_lab.models.planned_weights import planned_policy, weigh
from kto_lab.models.quantization import Quantization
from kto_lab.models.sequences import Tokens
from kto_lab.models.tiny import random_llama
from kto_lab.runs.memory_plan import MemoryPlan, Model, Setting, plan_memory, sizes_of, state_per_weight
from kto_lab.training.recomputing import recomputed
from kto_lab.training.update_rule import UpdateRule
from tests.small_runs import adamw, composed

ROWS, WIDTH, NEW = 2, 160, 32
CONFIG = random_llama(vocabulary=259).config
# A policy whose head and embedding are most of it.
WIDE = LlamaConfig(
    vocab_size=8192,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=2,
    tie_word_embeddings=False,
)


@cache
def nodes() -> dict[str, Any]:
    """What the configuration names, made once."""
    cfg = composed(
        [
            "scale=tiny",
            "adapter=lora",
            f"lengths.max_length={WIDTH}",
            f"optimization.micro_batch_tokens={ROWS * WIDTH}",
            f"evaluation.max_new_tokens={NEW}",
            f"evaluation.batch_tokens={ROWS * (WIDTH + NEW)}",
        ]
    )
    made = {name: instantiate(cfg[name]) for name in ("adapter", "optimization", "lengths", "evaluation")}
    return made | {"update_rule": UpdateRule.of(cfg)}


def setting(
    adapter: str = "none",
    *,
    config: PretrainedConfig = CONFIG,
    narrow: bool = False,
    checkpointing: bool = False,
    batch_size: int = 32,
    **more: Any,
) -> Setting:
    made = nodes() | ({"adapter": FullFineTuning()} if adapter == "none" else {})
    optimization = replace(made["optimization"], gradient_checkpointing=checkpointing, batch_size=batch_size)
    usual = {"model": Model(config), "device_bytes": 0, "strategy": "auto", "processes": 1}
    return Setting(**{**made, "narrow": narrow, "optimization": optimization, **usual, **more})


def planned(of: Setting) -> MemoryPlan:
    return plan_memory(of, sizes_of(of))


def total(plan: MemoryPlan, name: str) -> int:
    (found,) = [stage.total for stage in plan.stages if stage.name == name]
    return found


def autocast(narrow: bool) -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if narrow else nullcontext()


def policy_of(of: Setting) -> Policy:
    number_format = "bf16-mixed" if of.narrow else "32-true"
    model = AutoModelForCausalLM.from_config(of.model.config, dtype=of.model.dtype, attn_implementation="sdpa")
    as_read(model, number_format=number_format, trained=of.adapter.trains_the_model)
    policy = attached(model, of.adapter, number_format=number_format)
    set_packing(policy, True)
    return policy


UNITS = [[Tokens((1, 5), tuple((k + i) % 200 for i in range(WIDTH - 1)))] for k in range(ROWS)]


def in_training(of: Setting) -> int:
    """The peak of a second step of two micro-batches."""
    with LiveBytes() as live:
        policy = policy_of(of)
        optimizer, _ = of.update_rule.make([one for one in policy.parameters() if one.requires_grad], steps=4)
        with recomputed(policy, of.optimization.gradient_checkpointing):
            for _ in range(2):
                live.peak = live.now
                with autocast(of.narrow):
                    for _ in range(2):
                        completion_token_logps(policy, UNITS, pad_id=0).values.sum().backward()
                    optimizer.step()
                    optimizer.zero_grad()
    return live.peak


@pytest.mark.parametrize("narrow", [False, True], ids=["32-true", "bf16-mixed"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_step_takes_what_is_planned(adapter: str, checkpointing: bool, narrow: bool) -> None:
    of = setting(adapter, checkpointing=checkpointing, narrow=narrow)
    assert total(planned(of), "training") == pytest.approx(in_training(of), rel=0.1)


@pytest.mark.parametrize("narrow", [False, True], ids=["32-true", "bf16-mixed"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_step_of_a_large_vocabulary_takes_what_is_planned(adapter: str, narrow: bool) -> None:
    of = setting(adapter, config=WIDE, narrow=narrow)
    assert total(planned(of), "training") == pytest.approx(in_training(of), rel=0.15)


@pytest.mark.parametrize("narrow", [False, True], ids=["32-true", "bf16-mixed"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_answers_and_scores_take_what_is_planned(adapter: str, narrow: bool) -> None:
    of = setting(adapter, narrow=narrow)
    plan = planned(of)
    with LiveBytes() as live:
        policy = policy_of(of).eval()
        live.peak = live.now
        with autocast(narrow):
            sample_tokens(
                policy,
                [tuple((k + i) % 200 for i in range(WIDTH)) for k in range(ROWS)],
                pad_id=0,
                ended=lambda ids: False,
                max_new_tokens=NEW,
                chances=torch.rand(ROWS, NEW, dtype=torch.float64),
            )
        assert total(plan, "answers") == pytest.approx(live.peak, rel=0.15)
        live.peak = live.now
        with autocast(narrow):
            score(policy, [unit[0] for unit in UNITS], pad_id=0, token_budget=ROWS * WIDTH)
        assert total(plan, "reference") == pytest.approx(live.peak, rel=0.15)


def test_fake_tensors_and_zeros_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    of = setting()
    small = sizes_of(of)
    monkeypatch.setattr("kto_lab.models.activations.SMALL", 0)
    fake = sizes_of(of)
    assert small.activations is not None and fake.activations is not None
    for name in ("per_layer", "hidden", "work", "scoring"):
        assert getattr(fake.activations, name) == pytest.approx(getattr(small.activations, name), rel=0.05), name


def test_under_fsdp_a_policy_answers_in_shards_and_is_whole_at_both_ends() -> None:
    stages = {stage.name: stage.parts for stage in planned(setting(strategy="fsdp", processes=4)).stages}
    whole = stages["loading"]["weights"]
    assert stages["saved policy"]["weights"] == whole
    for name in ("answers", "scoring", "reference"):
        assert stages[name]["weights"] == pytest.approx(whole / 4, abs=1) and stages[name]["gathered"] > 0


def test_shards_cut_what_is_trained_and_processes_talk_in_buckets() -> None:
    plain, fsdp, ddp = (
        next(stage.parts for stage in planned(one).stages if stage.name == "training")
        for one in (
            setting(),
            setting(strategy="fsdp", processes=4, device_bytes=80 * 2**30),
            setting(strategy="ddp", processes=4, device_bytes=80 * 2**30),
        )
    )
    assert fsdp["optimiser"] == pytest.approx(plain["optimiser"] / 4, abs=1)
    assert fsdp["weights"] == pytest.approx(plain["weights"] / 4, abs=1)
    assert fsdp["gathered"] > 0 and ddp["buckets"] == plain["gradients"]
    # A rank has its share of a batch's rows.
    assert setting(batch_size=8, processes=4).rows == 2
    assert setting(batch_size=1, feed=Feed.PAIRS).rows == 2


def test_quantised_weights_are_as_small_as_they_are() -> None:
    large = LlamaConfig(hidden_size=512, intermediate_size=2048, num_hidden_layers=2, vocab_size=1024)
    policy = planned_policy(
        large, setting("lora").adapter, dtype=torch.bfloat16, attention="sdpa", narrow=True, layers=TRACED_LAYERS
    )
    kinds: tuple[Quantization | None, ...] = (None, "nf4", "int8")
    held = {kind: weigh(policy, kind, narrow=True).bytes for kind in kinds}
    matrices = 2 * (4 * 512**2 + 3 * 512 * 2048)
    saved = {kind: held[None] - size for kind, size in held.items()}
    assert saved["nf4"] == pytest.approx((2 - 0.516) * matrices, rel=1e-3)
    assert saved["int8"] == pytest.approx(matrices, rel=1e-2)


def test_another_model_takes_the_place_of_the_policy_for_the_reference() -> None:
    alone, beside = (planned(setting("lora", **more)) for more in ({}, {"reference": Model(WIDE)}))
    for name in ("training", "answers", "scoring"):
        assert total(alone, name) == total(beside, name), name
    held = sum(one.numel() for one in AutoModelForCausalLM.from_config(WIDE).parameters())
    (reference,) = [stage for stage in beside.stages if stage.name == "reference"]
    assert reference.parts["weights"] == pytest.approx(4 * held, rel=1e-3)


def test_an_architecture_that_needs_numbers_is_planned_without_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kto_lab.runs.memory_plan.trace", failing)
    plan = planned(setting())
    assert not plan.activations_known and plan.as_dict()["activations_known"] is False
    assert plan.largest.parts["weights"] > 0


def failing(*args: Any, **more: Any) -> None:
    raise RuntimeError("a choice of experts needs numbers")


def test_the_state_of_an_optimiser_is_measured() -> None:
    assert state_per_weight(adamw()) == pytest.approx(8, rel=1e-3)
    assert state_per_weight(UpdateRule.of(composed(["optimizer=sgd"]))) == 0
    assert state_per_weight(UpdateRule.of(composed(["optimizer=adafactor"]))) < 1
