"""Weights under bf16 products: rounding cells, and a policy that starts as its reference."""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kto_lab.models import exact_rows
from kto_lab.models.adapters import FullFineTuning, Lora, Policy
from kto_lab.models.logps import completion_logps
from kto_lab.models.number_format import CELL, add_in_float32, anywhere_in_cell, as_read, dither, matrices, round_once
from kto_lab.models.sequences import Tokens
from tests.models.families import of_family

SEQUENCES = [[Tokens(tuple(range(1, 5 + i)), tuple(range(9, 14 + 2 * i)))] for i in range(4)]


def untied() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            tie_word_embeddings=False,
        )
    ).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)).eval()


EXPERTS = [partial(of_family, name) for name in ("qwen3-moe", "mixtral", "gpt-oss")]


def logps(policy: Policy) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        return completion_logps(policy, SEQUENCES, pad_id=0)


def weights(*shape: int) -> torch.Tensor:
    """Bfloat16 numbers of all sizes and both signs, powers of two among them."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(*shape, generator=generator) * 10.0 ** torch.randint(-6, 3, shape, generator=generator)
    drawn.view(-1)[:8] = torch.tensor([1.0, -1.0, 0.5, -2.0, 2**-10, 0.0, 3.375, -0.0])
    return drawn.bfloat16().float()


def test_a_master_never_leaves_its_rounding_cell() -> None:
    start = weights(1000, 100)
    drawn = anywhere_in_cell(start, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.bfloat16().float(), start)
    assert ((drawn != start) == (start != 0)).float().mean() > 0.999
    # The cell is used up to its edges: half a step on either side.
    offsets = (drawn.view(torch.int32) - start.view(torch.int32))[start != 0]
    assert offsets.min() < -0.499 * CELL and offsets.max() > 0.499 * CELL


def test_what_is_no_bfloat16_number_stays() -> None:
    start = torch.tensor([0.1, 1 / 3, 0.0, float("inf")])
    assert torch.equal(anywhere_in_cell(start, torch.Generator()), start)


@pytest.mark.parametrize("value", [0.1, -0.1, 1.0, -0.25])
@pytest.mark.parametrize("update", [1e-5, -1e-5, 3e-4, -1e-3])
def test_the_rounded_weight_moves_by_the_update_in_expectation(value: float, update: float) -> None:
    start = torch.full((2_000_000,), value).bfloat16().float()
    drawn = anywhere_in_cell(start, torch.Generator().manual_seed(1))
    moved = (drawn + update * value).bfloat16().float() - start
    assert moved.mean().item() == pytest.approx(update * value, abs=4.5 * moved.std().item() / len(start) ** 0.5)
    in_the_middle = (start + update * value).bfloat16().float() - start
    assert not in_the_middle.any()


@pytest.mark.parametrize("make", [untied, gpt2, *EXPERTS])
def test_before_its_first_step_the_policy_is_its_reference_bit_for_bit(make: type) -> None:
    reference = make()
    as_read(reference, number_format="bf16-mixed", trained=True)
    policy = copy.deepcopy(reference)
    dither(policy, seed=0)
    assert not torch.equal(next(matrices(policy)), next(matrices(reference)))
    assert torch.equal(logps(policy), logps(reference))


def test_rounding_once_changes_no_product() -> None:
    plain, rounded = untied(), untied()
    round_once(rounded)
    assert torch.equal(logps(plain), logps(rounded))
    assert torch.equal(plain.model.embed_tokens.weight, rounded.model.embed_tokens.weight)
    assert torch.equal(plain.model.norm.weight, rounded.model.norm.weight)
    assert torch.equal(plain.lm_head.weight.bfloat16().float(), rounded.lm_head.weight)


def test_a_tied_head_stays_tied_and_lookups_read_what_it_reads(model: LlamaForCausalLM) -> None:
    round_once(model)
    table = model.model.embed_tokens.weight
    rounded, reference = table.detach().clone(), logps(model)
    dither(model, seed=0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not torch.equal(table, rounded) and torch.equal(table.bfloat16().float(), rounded)
    assert torch.equal(model.model.embed_tokens(torch.arange(9)), rounded[:9])
    assert torch.equal(logps(model), reference)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        completion_logps(model, SEQUENCES, pad_id=0).sum().backward()
    assert table.grad is not None and table.grad.dtype == torch.float32


def test_a_head_tied_to_an_embedding_that_scales_is_left_alone(model: LlamaForCausalLM) -> None:
    class Scaled(torch.nn.Embedding):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 11.3

    round_once(model)
    scaled = Scaled(*model.model.embed_tokens.weight.shape)
    scaled.weight = model.lm_head.weight
    model.model.embed_tokens = scaled
    table, reference = scaled.weight.detach().clone(), logps(model)
    dither(model, seed=0)
    assert torch.equal(model.lm_head.weight, table)
    assert torch.equal(logps(model), reference)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [untied, gpt2, *EXPERTS])
def test_a_base_in_16_bits_computes_what_it_does_in_float32(make: type, dtype: torch.dtype) -> None:
    short, exact = make().to(dtype), make().to(dtype).float()
    for base in (short, exact):
        as_read(base, number_format="bf16-mixed", trained=False)
        adapters = Lora(rank=2, alpha=4, dropout=0.0, target_modules=[next(_linears(base))], merge=False)
        torch.manual_seed(0)
        policy = adapters.attach(base)
        add_in_float32(policy)
        for name, weight in policy.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=1e-3)
    assert {weight.dtype for weight in matrices(short) if not weight.requires_grad} == {torch.bfloat16}
    assert all(weight.dtype == torch.float32 for weight in short.parameters() if weight.requires_grad)
    # Only one layer has an adapter: what it adds goes on through sums that are float32 in both.
    assert torch.equal(logps(short), logps(exact))


def _linears(model: torch.nn.Module) -> Iterator[str]:
    return (name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear | Conv1D))


@pytest.mark.parametrize("make", EXPERTS)
def test_experts_and_routers_are_matrices(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    found = set(matrices(model))
    left = {name for name, p in model.named_parameters() if p.ndim > 1 and p not in found}
    assert {name.split(".")[-1].removesuffix("_bias") for name in left} <= {"weight", "gate_up_proj", "down_proj"}
    assert all("embed" in name or name.endswith("_bias") for name in left)


def test_norms_and_embeddings_are_not_dithered() -> None:
    policy = untied()
    round_once(policy)
    before = copy.deepcopy(policy)
    dither(policy, seed=0)
    moved = {
        name
        for (name, old), new in zip(before.named_parameters(), policy.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert moved == {name for name, p in policy.named_parameters() if p.ndim == 2 and "embed" not in name}


def test_the_seed_alone_says_where_masters_start() -> None:
    def masters(seed: int) -> list[torch.Tensor]:
        policy = untied()
        round_once(policy)
        torch.manual_seed(seed + 17)  # the process's own generator has no part in it
        dither(policy, seed=seed)
        return list(policy.parameters())

    assert all(torch.equal(one, two) for one, two in zip(masters(0), masters(0), strict=True))
    assert any(not torch.equal(one, two) for one, two in zip(masters(0), masters(1), strict=True))


def test_of_a_policy_with_adapters_nothing_is_dithered() -> None:
    model = untied()
    round_once(model)
    policy = Lora(rank=2, alpha=4, dropout=0.0, target_modules="all-linear", merge=False).attach(model)
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    dither(policy, seed=0)
    changed = sum(int((parameter != before[name]).sum()) for name, parameter in policy.named_parameters())
    # A fresh float32 is a bfloat16 number once in 65,536 times.
    assert changed <= 2


def test_small_updates_reach_the_log_probabilities() -> None:
    """A hundredth of a step on every weight: the middle of the cell hides it, a random place does not."""
    exact, middle = untied(), untied()
    for policy in (exact, middle):
        round_once(policy)
    anywhere = FullFineTuning().attach(copy.deepcopy(middle))
    dither(anywhere, seed=0)
    start = logps(middle)
    for policy in (middle, anywhere):
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.ndim == 2 and parameter is not policy.get_input_embeddings().weight:
                    parameter.mul_(1 + 1e-4)
    assert torch.equal(logps(middle), start)
    assert not torch.equal(logps(anywhere), start)


@pytest.mark.parametrize("kept", [False, True], ids=["as peft adds", "in float32"])
def test_what_a_small_adapter_adds_is_kept(kept: bool) -> None:
    model = untied()
    round_once(model)
    policy = Lora(rank=2, alpha=4, dropout=0.0, target_modules="all-linear", merge=False).attach(model)
    if kept:
        add_in_float32(policy)

    def exact() -> torch.Tensor:
        with torch.no_grad():
            return completion_logps(policy, SEQUENCES, pad_id=0)

    start, narrow_start = exact(), logps(policy)
    completion_logps(policy, SEQUENCES, pad_id=0).sum().backward()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                assert parameter.grad is not None
                parameter.copy_(5e-5 * parameter.grad.sign())
    wanted, found = exact() - start, logps(policy) - narrow_start
    slope = ((found * wanted).sum() / wanted.square().sum()).item()
    assert abs(slope - 1) < 0.3 if kept else slope < 0.5


@pytest.mark.parametrize("family", ["qwen3-moe", "mixtral"])
def test_what_small_adapters_of_experts_and_routers_add_is_kept(family: str) -> None:
    """Weights of 0.15 have steps of 1e-3, and what is added to them is a third of that."""
    model = of_family(family).bfloat16()
    as_read(model, number_format="bf16-mixed", trained=False)
    torch.manual_seed(0)
    policy = Lora(rank=2, alpha=4, dropout=0.0, target_modules="all-linear", merge=False).attach(model)
    add_in_float32(policy)
    within = {name for name, _ in policy.named_parameters() if "lora_B" in name and ".mlp." in name}
    assert any("gate.lora_B" in name for name in within) and any("experts.base_layer" in name for name in within)

    def exact() -> torch.Tensor:
        with torch.no_grad(), exact_rows._float32(policy):
            return completion_logps(policy, SEQUENCES, pad_id=0)

    start, narrow_start = exact(), logps(policy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        completion_logps(policy, SEQUENCES, pad_id=0).sum().backward()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name in within:
                assert parameter.grad is not None
                parameter.copy_(2e-3 * parameter.grad.sign())
    wanted, found = exact() - start, logps(policy) - narrow_start
    assert abs((found * wanted).sum() / wanted.square().sum() - 1) < 0.3
    assert not any("_outside" in module.__dict__ and module.__dict__["_outside"] for module in policy.modules())
