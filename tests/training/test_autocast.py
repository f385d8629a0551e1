"""bf16-mixed as training opens it: weights converted once a step, gradients those of Lightning's own way."""

from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM

from kto_lab.models.logps import completion_logps
from kto_lab.models.number_format import matrices
from kto_lab.models.sequences import Tokens
from kto_lab.training.autocast import OncePerStep, precision_plugin
from kto_lab.training.hardware import Hardware
from tests.small_runs import composed

MICRO_BATCHES = [[[Tokens((5, 6, 7), tuple(range(9, 12 + i)))] for i in range(at, at + 2)] for at in (0, 2, 4)]


class Conversions(TorchDispatchMode):
    """Counts how often a weight is made bfloat16."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        # The head is converted by what computes log-probabilities, once a pass.
        head = model.get_output_embeddings().weight
        self.weights = {weight.data_ptr() for weight in matrices(model) if weight is not head}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
            self.count += args[0].data_ptr() in self.weights
        return func(*args, **kwargs)


def step(model: LlamaForCausalLM, plugin: Precision) -> tuple[int, list[Tensor]]:
    """A pass without gradient, then micro-batches with it, as a step of KTO has them: conversions and gradients."""
    model.zero_grad()
    with Conversions(model) as conversions, plugin.train_step_context():
        with torch.no_grad():
            z0 = torch.stack([completion_logps(model, part, pad_id=0).mean() for part in MICRO_BATCHES]).mean()
        for part in MICRO_BATCHES:
            torch.sigmoid(completion_logps(model, part, pad_id=0) - z0).sum().backward()
    return conversions.count, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_weights_are_converted_once_a_step_and_gradients_stay(model: LlamaForCausalLM) -> None:
    weights = len(Conversions(model).weights)
    plain, wanted = step(model, MixedPrecision("bf16-mixed", "cpu"))
    once, gradients = step(model, OncePerStep("cpu"))
    assert (plain, once) == (2 * len(MICRO_BATCHES) * weights, weights)
    assert len(gradients) == len(list(model.parameters()))
    assert all(torch.equal(one, two) for one, two in zip(gradients, wanted, strict=True))


def test_the_next_step_reads_the_weights_as_they_are_then(model: LlamaForCausalLM) -> None:
    plugin = OncePerStep("cpu")
    step(model, plugin)
    with torch.no_grad():
        for weight in matrices(model):
            weight.mul_(1.5)
    count, gradients = step(model, plugin)
    _, wanted = step(model, MixedPrecision("bf16-mixed", "cpu"))
    assert count and all(torch.equal(one, two) for one, two in zip(gradients, wanted, strict=True))


@pytest.mark.parametrize(("precision", "kind"), [("32-true", Precision), ("bf16-mixed", OncePerStep)])
def test_the_plugin_is_the_number_format(precision: str, kind: type) -> None:
    hardware: Hardware = instantiate(composed(["trainer=cpu", f"trainer.precision={precision}"]).trainer)
    plugin = precision_plugin(hardware)
    assert type(plugin) is kind and plugin.precision == precision
