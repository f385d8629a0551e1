"""Completion log-probabilities against a plain softmax, and their invariances."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
    LlamaForCausalLM,
    PretrainedConfig,
)

from kto_lab.errors import LabError
from kto_lab.models.exact_rows import find_exact_rows
from kto_lab.models.layout import padded
from kto_lab.models.logps import check_head, completion_logps, score
from kto_lab.models.rows import cut_micro_batches, make_rows, padding
from kto_lab.models.sequences import Tokens
from kto_lab.models.tokens import Encoder

SEQUENCES = [
    Tokens((5, 6, 7), (8, 9, 10)),
    Tokens((5, 6, 7), (11,)),
    Tokens((12,), (13, 14, 15, 16, 17)),
    Tokens((5, 6, 7), (8, 20, 21, 22)),
    Tokens((30, 31, 32, 33, 34, 35), (36, 0)),
]
UNITS = [[sequence] for sequence in SEQUENCES]


def plainly(model: torch.nn.Module, sequence: Tokens) -> torch.Tensor:
    ids = torch.tensor([sequence.prompt + sequence.completion])
    logps = model(ids).logits.double().log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return logps[len(sequence.prompt) - 1 :].sum()


@pytest.mark.parametrize("share", [False, True])
def test_logps_are_sums_of_log_softmax(model: LlamaForCausalLM, share: bool) -> None:
    found = completion_logps(model, UNITS, pad_id=2, share_prompts=share)
    wanted = torch.stack([plainly(model, sequence) for sequence in SEQUENCES])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("share", [False, True])
def test_gradients_are_those_of_the_plain_way(model: LlamaForCausalLM, share: bool) -> None:
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    (completion_logps(model, UNITS, pad_id=2, share_prompts=share) * weights).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    sum(weight * plainly(model, s) for weight, s in zip(weights, SEQUENCES, strict=True)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad.float(), rtol=1e-3, atol=2e-4)


def test_padding_does_not_matter(model: LlamaForCausalLM) -> None:
    alone = torch.cat([completion_logps(model, [unit], pad_id=2) for unit in UNITS])
    together = completion_logps(model, UNITS, pad_id=7)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-4)


def test_score_keeps_order_and_mode(model: LlamaForCausalLM) -> None:
    model.train()
    counted: list[int] = []
    found = score(model, SEQUENCES, pad_id=2, token_budget=8, share_prompts=True, advance=counted.append)
    torch.testing.assert_close(found, completion_logps(model, UNITS, pad_id=2).detach(), rtol=1e-5, atol=1e-4)
    assert sum(counted) == len(SEQUENCES) and model.training and not found.requires_grad
    assert len(score(model, [], pad_id=2, token_budget=8)) == 0


def test_sharing_is_tried_on_the_model(model: LlamaForCausalLM) -> None:
    assert find_exact_rows(model, longest=64).shared
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=2))
    shared = find_exact_rows(gpt2.eval(), longest=64).shared
    # Whatever the architecture does with the mask, the answer must be true of it.
    plain = completion_logps(gpt2, UNITS, pad_id=2)
    if shared:
        torch.testing.assert_close(
            completion_logps(gpt2, UNITS, pad_id=2, share_prompts=True), plain, rtol=1e-4, atol=1e-3
        )


TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**TINY, final_logit_softcapping=0.01),
        CohereConfig(**TINY, logit_scale=0.3),
        GraniteConfig(**TINY, logits_scaling=7.0),
    ],
    ids=lambda config: config.model_type,
)
def test_what_is_done_to_the_head_s_output_is_done_here_too(config: PretrainedConfig) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    check_head(model)
    found, wanted = completion_logps(model, UNITS, pad_id=2), [plainly(model, sequence) for sequence in SEQUENCES]
    torch.testing.assert_close(found.double(), torch.stack(wanted), rtol=1e-5, atol=1e-4)
    plain = copy.deepcopy(config)
    plain.update({"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0})
    model.config = plain
    assert not torch.allclose(completion_logps(model, UNITS, pad_id=2), found, atol=1e-3), "nothing was done"


def test_a_head_that_does_more_is_refused(model: LlamaForCausalLM) -> None:
    check_head(model)
    # It multiplies by what others divide by.
    other = HyperCLOVAXForCausalLM(HyperCLOVAXConfig(**TINY, logits_scaling=7.0)).eval()
    with pytest.raises(LabError, match="HyperCLOVAXForCausalLM changes the output of its language-model head"):
        check_head(other)


def test_peft_models_are_seen_through(model: LlamaForCausalLM) -> None:
    before = completion_logps(model, UNITS, pad_id=2).detach()
    policy = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.testing.assert_close(completion_logps(policy, UNITS, pad_id=2).detach(), before)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    changed = completion_logps(policy, UNITS, pad_id=2).detach()
    assert (changed - before).abs().max() > 1e-3
    with policy.disable_adapter():
        torch.testing.assert_close(completion_logps(policy, UNITS, pad_id=2).detach(), before)


def test_rows_share_prompts_within_the_budget() -> None:
    rows = make_rows(UNITS, token_budget=100, share_prompts=True)
    assert [row.units for row in rows] == [[0, 1, 3], [2], [4]]
    assert [row.length for row in rows] == [3 + 2 + 0 + 3, 1 + 4, 6 + 1]
    tight = make_rows(UNITS, token_budget=6, share_prompts=True)
    assert [row.units for row in tight] == [[0, 1], [2], [3], [4]]


@pytest.mark.parametrize("budget", [1, 8, 16, 1000])
@pytest.mark.parametrize("share", [False, True])
def test_every_unit_is_in_one_micro_batch(budget: int, share: bool) -> None:
    batches = cut_micro_batches(UNITS, token_budget=budget, share_prompts=share)
    assert sorted(unit for batch in batches for unit in batch) == list(range(len(UNITS)))
    assert all(batches)


@pytest.mark.parametrize("share", [False, True])
def test_the_share_of_padding_is_that_of_the_layout(share: bool) -> None:
    parts = [UNITS[:2], UNITS[2:]]
    batches = [padded(units, pad_id=2, share_prompts=share) for units in parts]
    fed, real = sum(batch.input_ids.numel() for batch in batches), sum(batch.real for batch in batches)
    assert padding(parts, share_prompts=share, packed=False) == pytest.approx(1 - real / fed)
    assert padding(parts, share_prompts=share, packed=True) == 0
    assert fed > real


def test_completions_of_one_token_are_predicted_from_the_prompt(model: LlamaForCausalLM, encoder: Encoder) -> None:
    sequence = Tokens(encoder.prompt("1+1="), (40,))
    torch.testing.assert_close(
        completion_logps(model, [[sequence]], pad_id=2)[0].double(), plainly(model, sequence), rtol=1e-5, atol=1e-5
    )
