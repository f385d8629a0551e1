"""Compiled blocks against the blocks as they are: the same numbers, the same names, and a way back."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from kto_lab.models.adapters import Lora, Policy
from kto_lab.models.attention import set_packing
from kto_lab.models.logps import completion_logps
from kto_lab.models.sequences import Tokens
from kto_lab.runs.record import read_record
from kto_lab.training import compiling
from kto_lab.training.compiling import GRAPHS, blocks, compiled
from kto_lab.training.hardware import Hardware
from kto_lab.training.recomputing import recomputed
from tests.small_runs import run

HARDWARE = Hardware("cpu", 1, 1, "auto", "32-true", deterministic=False, compile=True)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def units(*lengths: tuple[int, int]) -> list[list[Tokens]]:
    return [
        [Tokens(tuple(range(2, 2 + prompt)), tuple((7 * n + k) % 90 for k in range(completion)))]
        for n, (prompt, completion) in enumerate(lengths)
    ]


BATCHES = [units((5, 9), (3, 4), (8, 2)), units((12, 7)), units((4, 20), (9, 9)), units((6, 6), (6, 6))]


def passes(policy: Policy) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probabilities of several batches, with and without gradient, and the gradients of their sums."""
    values, gradients = [], []
    for batch in BATCHES:
        with torch.no_grad():
            values.append(completion_logps(policy, batch, pad_id=0))
        logps = completion_logps(policy, batch, pad_id=0)
        values.append(logps.detach())
        gradients += torch.autograd.grad(logps.sum(), [p for p in policy.parameters() if p.requires_grad])
    return values, gradients


def plain(model: LlamaForCausalLM) -> Policy:
    return model


def with_adapter(model: LlamaForCausalLM) -> Policy:
    policy = Lora(rank=2, alpha=4, dropout=0.0, target_modules="all-linear", merge=False).attach(model)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return policy


def recomputing(model: LlamaForCausalLM) -> Policy:
    return model


def packed(model: LlamaForCausalLM) -> Policy:
    set_packing(model, True)
    return model


@pytest.fixture
def without_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs as torch.compile makes them, run by torch's own kernels: no C++ compiler is needed."""
    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda block, **more: whole(block, backend="aot_eager", **more))


@pytest.mark.slow
@pytest.mark.usefixtures("without_cpp")
@pytest.mark.parametrize("make", [plain, with_adapter, recomputing, packed], ids=lambda make: make.__name__)
def test_compiled_blocks_give_the_same_numbers(
    model: LlamaForCausalLM, make: Callable[[LlamaForCausalLM], Policy], capsys: pytest.CaptureFixture[str]
) -> None:
    policy = make(model)
    names = list(policy.state_dict())
    wanted = passes(policy)
    torch._dynamo.reset()
    with (
        compiled(policy, HARDWARE, share_prompts=False, samples=False) as compilation,
        recomputed(policy, make is recomputing),
    ):
        assert compilation.used and compilation.why_not is None, compilation
        assert list(policy.state_dict()) == names
        found = passes(policy)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        # The same shapes, and others, need no graph more.
        passes(policy)
        completion_logps(policy, units((17, 5), (2, 30), (3, 3), (11, 2)), pad_id=0).sum().backward()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert 0 < graphs < GRAPHS and "    torch.compile: 2 blocks, in " in capsys.readouterr().out
    for mine, theirs in zip(found[0] + found[1], wanted[0] + wanted[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert all(block._compiled_call_impl is None for block in blocks(policy))


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_trains_the_same_policy_and_says_so(tmp_path: Path) -> None:
    folders = {}
    for name in ("true", "false"):
        (tmp_path / name).mkdir()
        folders[name] = run(tmp_path / name, "optimization.max_steps=3", f"trainer.compile={name}")
    mine, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in folders.values())
    assert list(mine) == list(theirs)
    difference = torch.cat([(value - theirs[name]).flatten() for name, value in mine.items()])
    # A step moves a weight by about 1e-3; where a gradient is next to nothing, AdamW makes much of its rounding.
    assert difference.square().mean().sqrt() < 1e-6 and difference.abs().max() < 1e-4
    found = {name: read_record(folder)["training"]["compile"] for name, folder in folders.items()}
    assert found["true"]["used"] and found["true"]["seconds"] > 0
    assert found["false"] == {"used": False, "why_not": None, "seconds": 0.0}


def test_without_a_compiler_training_goes_on_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("No working C++ compiler found\nand more lines")

    def compile_to_nothing(block: nn.Module, **more: Any) -> None:
        block._compiled_call_impl = broken

    monkeypatch.setattr(nn.Module, "compile", compile_to_nothing)
    record = read_record(run(tmp_path, "optimization.max_steps=1", "trainer.compile=true"))
    assert record["training"]["compile"]["why_not"] == "RuntimeError: No working C++ compiler found"
    assert not record["training"]["compile"]["used"]
    assert "    torch.compile is not used: RuntimeError: No working C++ compiler found\n" in capsys.readouterr().out


def test_what_cannot_be_compiled_is_not_tried(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_failure", pytest.fail)
    with compiled(model, HARDWARE, share_prompts=False, samples=True) as generating:
        assert not generating.used and "reference_point=sampled" in (generating.why_not or "")
    unknown = copy.deepcopy(model)
    unknown._no_split_modules = None
    with compiled(unknown, HARDWARE, share_prompts=False, samples=False) as nameless:
        assert not nameless.used and "what its blocks are" in (nameless.why_not or "")
    plain = Hardware("cpu", 1, 1, "auto", "32-true", deterministic=False, compile=False)
    with compiled(model, plain, share_prompts=False, samples=False) as off:
        assert off.why_not is None and all(block._compiled_call_impl is None for block in blocks(model))


def test_gradient_checkpointing_runs_each_block_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {}
    for name in ("true", "false"):
        counted: list[Tensor] = []
        forward = LlamaMLP.forward

        def counting(self: LlamaMLP, x: Tensor, forward: Any = forward, counted: list[Tensor] = counted) -> Tensor:
            counted.append(x.detach()[:0])
            return forward(self, x)

        (tmp_path / name).mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(LlamaMLP, "forward", counting)
            run(tmp_path / name, "optimization.max_steps=2", f"optimization.gradient_checkpointing={name}")
        calls[name] = len(counted)
    # Each block is run again in the backward pass of each of the two steps.
    layers = json.loads((tmp_path / "true" / "run" / "policy" / "config.json").read_text())["num_hidden_layers"]
    assert calls["true"] == calls["false"] + 2 * layers
