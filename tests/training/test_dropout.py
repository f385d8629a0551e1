"""Dropout is one key, off by default; on or off, the result does not depend on how a batch is cut or recomputed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from kto_lab.errors import LabError
from kto_lab.feedback.corruption import unchanged
from kto_lab.feedback.table import build_table
from kto_lab.models.adapters import attached
from kto_lab.models.attention import set_packing
from kto_lab.models.exact_rows import find_exact_rows
from kto_lab.models.logps import evaluating
from kto_lab.models.reference import ReferencePolicy
from kto_lab.models.tokens import Encoder
from kto_lab.runs.record import read_record
from kto_lab.training.data import prepare
from kto_lab.training.dropout import dropout_rates, mask_seed, set_dropout
from kto_lab.training.fit import fit
from kto_lab.training.update_rule import UpdateRule
from tests.small_runs import composed, metrics, run, thumbs

OWN = "optimization.dropout=true"
ADAPTER = ("adapter=lora", "adapter.rank=2", "adapter.dropout=0.3")
# A step of eight in one piece, in several, and recomputed.
CUTS = (
    (),
    ("optimization.micro_batch_tokens=64",),
    ("optimization.micro_batch_tokens=16",),
    ("optimization.gradient_checkpointing=true",),
    ("optimization.gradient_checkpointing=true", "optimization.micro_batch_tokens=32"),
)


def gpt2() -> PreTrainedModel:
    """With its dropout of 0.1 as the class has it, three times over."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=260, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def opt() -> PreTrainedModel:
    """Drops out by a function in its blocks' own forward, and by whole layers."""
    sizes: dict[str, Any] = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return OPTForCausalLM(
        OPTConfig(vocab_size=260, max_position_embeddings=64, word_embed_proj_dim=16, **sizes, layerdrop=0.3)
    )


def llama() -> PreTrainedModel:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=260, **sizes))


def steps(make: type, encoder: Encoder, folder: Path, *words: str) -> list[dict[str, str]]:
    """The metrics of two steps of eight thumbs."""
    cfg = composed(["optimization.batch_size=8", "optimization.max_steps=2", "trainer=cpu", *words])
    objective, optimization, hardware = (instantiate(cfg[name]) for name in ("loss", "optimization", "trainer"))
    torch.manual_seed(0)
    model = make().eval()
    rows = [{**row, "desirable": row["label"]} for row in thumbs()]
    table = build_table(rows, source="test", held_out=0)
    exact = find_exact_rows(model, longest=64)
    set_packing(model, exact.packed)
    policy = attached(model, instantiate(cfg.adapter), number_format="32-true")
    data = prepare(unchanged(table), encoder, objective, optimization, seed=0)
    fit(
        policy,
        data,
        objective,
        optimization,
        UpdateRule.of(cfg),
        ReferencePolicy(lambda: policy, inside=True),
        hardware,
        folder=folder,
        loggers=[],
        share_prompts=exact.shared,
        seed=0,
    )
    return metrics(folder)


@pytest.mark.parametrize(
    ("make", "words"),
    [(gpt2, ()), (opt, ()), (gpt2, ("adapter=lora",)), (gpt2, (OWN,)), (llama, ADAPTER)],
    ids=["gpt2", "opt", "lora", "its own dropout", "dropout of adapters"],
)
def test_the_result_does_not_depend_on_cuts_and_recomputing(
    make: type, words: tuple[str, ...], encoder: Encoder, tmp_path: Path
) -> None:
    first, *others = [steps(make, encoder, tmp_path / str(number), *words, *cut) for number, cut in enumerate(CUTS)]
    for rows in others:
        for row, wanted in zip(rows, first, strict=True):
            for key in ("loss", "grad_norm", "reward_desirable", "reward_undesirable"):
                assert float(row[key]) == pytest.approx(float(wanted[key]), rel=2e-4, abs=2e-5), key
    if not words:
        # Nothing drops out: before its first step the policy is its reference.
        assert float(first[0]["reward_margin"]) == pytest.approx(0, abs=1e-5)
    if words == (OWN,):
        assert abs(float(first[0]["reward_margin"])) > 1e-4


def test_what_drops_out_is_said_by_name() -> None:
    policy = gpt2()
    assert dropout_rates(policy, own=False) == {}
    own = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    assert dropout_rates(policy, own=True) == own
    assert dropout_rates(llama(), own=True) == {}
    adapter = instantiate(composed([*ADAPTER]).adapter)
    assert dropout_rates(adapter.attach(policy), own=True) == own | {"adapter.dropout": 0.3}


def test_an_evaluation_meanwhile_leaves_each_part_in_its_mode() -> None:
    policy = instantiate(composed([*ADAPTER]).adapter).attach(llama())
    set_dropout(policy, own=False)
    dropping = [name for name, module in policy.named_modules() if module.training]
    assert dropping and all("lora_dropout" in name for name in dropping)
    with evaluating(policy):
        assert not any(module.training for module in policy.modules())
    assert [name for name, module in policy.named_modules() if module.training] == dropping


def test_masks_differ_by_seed_step_and_place() -> None:
    seeds = {mask_seed(seed, step, place) for seed in range(3) for step in range(3) for place in range(3)}
    assert len(seeds) == 27


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((OWN, "trainer.compile=true"), r"optimization\.dropout is on.*trainer\.compile=false"),
        ((*ADAPTER, "trainer.devices=3", "trainer.strategy=ddp"), r"adapter\.dropout is on.*multiple of 3"),
    ],
)
def test_what_dropout_does_not_go_with_is_refused(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(LabError, match=said):
        run(tmp_path, *words)


def test_the_plan_and_the_record_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    off = run(tmp_path, "optimization.max_steps=1")
    assert read_record(off)["training"]["dropout"] == {}
    assert "dropout: off" in capsys.readouterr().out
    on = run(tmp_path, *ADAPTER, "optimization.max_steps=1", f"run_dir={tmp_path / 'on'}")
    assert read_record(on)["training"]["dropout"] == {"adapter.dropout": 0.3}
    assert "dropout: adapter.dropout 0.3; each is run by itself" in capsys.readouterr().out
