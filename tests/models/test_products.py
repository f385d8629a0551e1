"""Weights that are held as products read them: the same results, and one conversion of each per generation."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM

from kto_lab.models import generate as generating
from kto_lab.models.adapters import Lora, Policy, attached
from kto_lab.models.generate import generate
from kto_lab.models.products import converted_once
from kto_lab.models.tokens import Encoder

CPU = torch.device("cpu")
NARROW = {"device_type": "cpu", "dtype": torch.bfloat16}


class Conversions(TorchDispatchMode):
    """Counts how often a matrix of a model is converted to bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.places = {parameter.data_ptr() for parameter in model.parameters() if parameter.ndim == 2}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        # "to" in inference mode, which takes no conversion apart.
        if func.overloadpacket in (torch.ops.aten.to, torch.ops.aten._to_copy) and found.dtype == torch.bfloat16:
            self.count += args[0].data_ptr() in self.places
        return found


@pytest.fixture
def adapted(model: LlamaForCausalLM) -> Policy:
    """Frozen float32 weights under an adapter that has learned something; all of them large enough to matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        torch.manual_seed(0)
        lora = Lora(rank=4, alpha=8, dropout=0.0, target_modules="all-linear", merge=False)
        policy = attached(model, lora, number_format="bf16-mixed")
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return policy.eval()


def test_a_generation_converts_each_weight_once_and_gives_the_same(
    adapted: Policy, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers() -> tuple[Any, int]:
        with torch.autocast(**NARROW), Conversions(adapted) as conversions:
            found = generate(adapted, encoder, ["1+1=", "a longer prompt:"], max_new_tokens=6, temperature=1.0)
        return found, conversions.count

    products = sum(isinstance(module, nn.Linear) for module in adapted.modules())
    found, converted = answers()
    assert converted == products
    monkeypatch.setattr(generating, "converted_once", lambda *_: nullcontext())
    wanted, again = answers()
    assert found == wanted and again > 3 * products


def test_layers_of_another_kind_keep_their_weights() -> None:
    class Own(nn.Linear):
        pass

    layers = nn.ModuleList([nn.Linear(2, 2), Own(2, 2), nn.Embedding(2, 2)])
    with torch.autocast(**NARROW), converted_once(layers, CPU):
        assert [layer.weight.dtype for layer in layers] == [torch.bfloat16, torch.float32, torch.float32]
        assert layers[0].bias.dtype == torch.bfloat16 and layers[1].bias.dtype == torch.float32


@torch.no_grad()
def test_logits_are_those_of_autocast_and_weights_are_put_back(adapted: Policy, model: LlamaForCausalLM) -> None:
    ids = torch.arange(12)[None]
    for policy in (adapted, model):
        before = dict(policy.named_parameters(remove_duplicate=False))
        with torch.autocast(**NARROW):
            wanted = policy(ids).logits
            with converted_once(policy, CPU):
                assert torch.equal(policy(ids).logits, wanted)
                assert policy.get_output_embeddings().weight.dtype == torch.bfloat16
                assert policy.get_input_embeddings().weight.dtype == torch.float32
        with pytest.raises(RuntimeError, match="broken off"), torch.autocast(**NARROW), converted_once(policy, CPU):
            raise RuntimeError("broken off")
        with converted_once(policy, CPU):
            assert policy.get_output_embeddings().weight.dtype == torch.float32
        after = dict(policy.named_parameters(remove_duplicate=False))
        assert list(after) == list(before) and all(after[name] is weight for name, weight in before.items())
