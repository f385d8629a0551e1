"""Adapters, the reference behind them, and how a policy is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab import files
from kto_lab.errors import LabError
from kto_lab.models.adapters import FullFineTuning, Lora, save_policy
from kto_lab.models.reference import ReferencePolicy
from kto_lab.models.tokens import Encoder

IDS = torch.tensor([[5, 6, 7]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def lora(*, merge: bool = False, targets: str | list[str] = "all-linear") -> Lora:
    return Lora(rank=2, alpha=4, dropout=0.0, target_modules=targets, merge=merge)


def trained(model: LlamaForCausalLM, adapter: Lora) -> PeftModel:
    policy = adapter.attach(model)
    assert isinstance(policy, PeftModel)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return policy


def test_full_fine_tuning_trains_every_weight(model: LlamaForCausalLM) -> None:
    policy = FullFineTuning().attach(model)
    assert policy is model and all(parameter.requires_grad for parameter in policy.parameters())


def test_fresh_adapters_change_nothing_and_alone_are_trained(model: LlamaForCausalLM) -> None:
    before = logits(model)
    policy = lora().attach(model)
    torch.testing.assert_close(logits(policy), before)
    assert all(("lora_" in name) == p.requires_grad for name, p in policy.named_parameters())
    assert not any("lm_head" in name for name, p in policy.named_parameters() if p.requires_grad)


def test_adapters_go_where_they_are_asked_for(model: LlamaForCausalLM) -> None:
    policy = lora(targets=["q_proj"]).attach(model)
    assert {name.split(".")[-4] for name, p in policy.named_parameters() if p.requires_grad} == {"q_proj"}


def test_the_reference_is_the_policy_with_its_adapter_off(model: LlamaForCausalLM) -> None:
    before = logits(model)
    policy = trained(model, lora())
    changed = logits(policy)
    policy.train()
    with ReferencePolicy(lambda: pytest.fail("no second copy is needed"), inside=True).of(policy) as reference:
        assert not reference.training
        torch.testing.assert_close(reference(IDS).logits.detach(), before)
    assert policy.training
    torch.testing.assert_close(logits(policy), changed)
    assert not torch.allclose(changed, before)


def test_the_reference_of_a_whole_policy_takes_its_place_on_the_device(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, moves = torch.nn.Linear(1, 1), []
    monkeypatch.setattr(LlamaForCausalLM, "device", torch.device("cuda", 0), raising=False)
    monkeypatch.setattr("kto_lab.models.reference.moved", lambda one, device: moves.append((one, str(device))))

    def load() -> Any:
        assert moves == [(model, "cpu")]
        return other

    with ReferencePolicy(load, inside=True).of(model) as reference:
        assert reference is other and not reference.training
        assert other.weight.numel() == 1
    assert moves[1:] == [(model, "cuda:0")] and other.weight.numel() == 0, "whoever still names it keeps no memory"


@pytest.mark.parametrize("merge", [False, True])
def test_a_saved_policy_gives_the_same_logits(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, merge: bool
) -> None:
    model.save_pretrained(tmp_path / "base")
    policy = trained(model, lora(merge=merge))
    wanted = logits(policy)
    save_policy(policy, tokenizer, tmp_path / "policy", merge=merge, ending=Encoder(tokenizer).ending(chat=True))
    if merge:
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    else:
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        found = PeftModel.from_pretrained(base, tmp_path / "policy")
    torch.testing.assert_close(logits(found), wanted, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "policy" / "tokenizer.json").exists()
    assert not [path for path in (tmp_path / "policy").iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_a_policy_is_saved_whole_or_not_at_all(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_flush", full)
    with pytest.raises(LabError, match=r"policy: No space left"):
        save_policy(model, tokenizer, tmp_path / "policy", merge=False, ending=Encoder(tokenizer).ending(chat=True))
    assert not list(tmp_path.iterdir())
