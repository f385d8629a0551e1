"""How much memory the activations of an architecture take, found before its weights are loaded.

Two layers of the model are run forward and backward, and the live bytes are counted. What the second layer keeps is
what every further one will. The tensors are fake: they have shapes and no numbers, and take neither memory nor time
that grows with them. A policy small enough is run on real zeros, which is faster than faking them, on a few tokens:
with SDPA, which holds no score per pair of tokens, all is linear in the number of tokens.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from kto_lab.models.adapted import is_adapted
from kto_lab.models.head import KEPT, chunk_logits
from kto_lab.models.live_bytes import LiveBytes
from kto_lab.models.number_format import matrices

if TYPE_CHECKING:
    from peft import PeftModel

TRACED_LAYERS = 2
# SDPA without a mask, which fake tensors would be given one of: whether they need it cannot be read off them.
CAUSAL = "sdpa_causal"
# Weights times tokens below which zeros are faster than fakes.
SMALL = 2**28
# Tokens of a row of zeros.
SHORT = 128


@dataclass(frozen=True)
class Activations:
    """Bytes of a model's body for one micro-batch, weights, gradients and the copies that autocast keeps apart.

    Attributes:
        layers: of the model.
        casts: what one layer keeps of its frozen float32 matrices, which autocast makes bfloat16 at each use; the rest
            grows with the tokens.
        per_layer: what else one layer keeps for its backward pass.
        hidden: the input of a layer.
        outside: what is kept outside of the layers.
        work: what a layer's backward pass needs at most beside what is kept.
        end: the most that is alive behind the first layer's backward pass: of an embedding, its gradient.
        scoring: the most that a pass without gradients holds, whatever the number of layers.
    """

    layers: int
    casts: int
    per_layer: int
    hidden: int
    outside: int
    work: int
    end: int
    scoring: int

    def scaled(self, by: float) -> "Activations":
        """Those of so many times the tokens."""
        layers, casts, *growing = astuple(self)
        return Activations(layers, casts, *(round(by * part) for part in growing))

    def kept(self, *, checkpointing: bool) -> int:
        """Bytes that are alive between the forward and the backward pass.

        Args:
            checkpointing: layers keep their inputs alone.
        """
        return self.outside + self.layers * (self.hidden if checkpointing else self.per_layer + self.casts)

    def peak(self, *, checkpointing: bool, head: int) -> int:
        """The most that is alive at once in a forward and backward pass.

        Args:
            checkpointing: layers keep their inputs alone, and one is computed again at a time.
            head: bytes that the head takes while everything is kept; see `head_bytes`.
        """
        kept = self.kept(checkpointing=checkpointing)
        again = self.per_layer + self.casts if checkpointing else 0
        return max(kept + head, kept + again + self.work, self.end + self.casts)


def meta_model(config: PretrainedConfig, *, dtype: torch.dtype, attention: str, layers: int | None = None) -> Any:
    """A model of this configuration, with shapes and no weights.

    Args:
        config: of the model.
        dtype: of its weights.
        attention: transformers' implementation.
        layers: how many it has; None for its own number.
    """
    config = copy.deepcopy(config)
    if layers is not None:
        own = config.num_hidden_layers
        # Such as the kind of each layer.
        for name, value in list(vars(config).items()):
            if isinstance(value, list) and len(value) == own:
                setattr(config, name, value[:layers])
        config.num_hidden_layers = layers
    # Flash attention's library may be missing here, and keeps what torch's own does.
    plain = attention if attention in ("eager", "sdpa") else "sdpa"
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=plain, trust_remote_code=False
        )
    return model.eval()


def causal(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **more: Any) -> Any:
    """transformers' attention interface: whole sequences, each token sees those before it."""
    return sdpa_attention_forward(module, query, key, value, None, **more)


def no_mask(*args: Any, **more: Any) -> None:
    """transformers' interface of masks: none."""


AttentionInterface.register(CAUSAL, causal)
AttentionMaskInterface.register(CAUSAL, no_mask)


def trace(policy: "PreTrainedModel | PeftModel", *, layers: int, rows: int, width: int, narrow: bool) -> Activations:
    """Run a policy forward and backward, without its weights.

    Args:
        policy: `TRACED_LAYERS` layers of it on the meta device, in the formats that are computed with. It is of no use
            afterwards.
        layers: of the whole model.
        rows: sequences that are run at once.
        width: tokens of each.
        narrow: under autocast to bfloat16.

    Raises:
        Exception: the architecture cannot be run without numbers, or has no layers that can be told apart.
    """
    inner: Any = policy.get_base_model() if is_adapted(policy) else policy
    short = width
    if inner.config._attn_implementation == "sdpa":
        inner.config._attn_implementation = CAUSAL
        short = min(width, SHORT)
    if sum(map(Tensor.numel, policy.parameters())) * short > SMALL:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _traced(policy, layers, torch.zeros(rows, width, dtype=torch.long), narrow)
    with torch.random.fork_rng(devices=[]):
        found = _traced(policy, layers, torch.zeros(1, short, dtype=torch.long), narrow)
    return found.scaled(rows * width / short)


def _traced(policy: "PreTrainedModel | PeftModel", layers: int, ids: Tensor, narrow: bool) -> Activations:
    """As `trace`, of (rows, width) token ids, in the tensor mode of the moment."""
    inner: Any = policy.get_base_model() if is_adapted(policy) else policy
    body: nn.Module = getattr(inner, inner.base_model_prefix)
    first, second = blocks_of(inner)
    _materialise(policy)
    copies = cast_bytes(body, narrow=narrow)
    weights = [*policy.parameters(), *policy.buffers()]
    held = [ids, *weights]
    for weight in weights:
        if weight.requires_grad:
            # As from the second micro-batch of a step on.
            weight.grad = torch.empty_like(weight)
            held.append(weight.grad)
    with torch.no_grad(), _autocast(narrow), LiveBytes(held) as live:
        body(input_ids=ids, use_cache=False)
        scoring = live.peak - copies
    with _autocast(narrow), LiveBytes(held) as live, _boundaries(first, second, live) as seen:
        hidden = body(input_ids=ids, use_cache=False).last_hidden_state
        kept = live.peak = live.now
        hidden.sum().backward()
        end = live.peak
    frozen = _frozen_cast_bytes(second) if narrow else 0
    per_layer = seen["second"] - seen["first"] - cast_bytes(second, narrow=narrow) - frozen
    return Activations(
        layers=layers,
        casts=frozen,
        per_layer=per_layer,
        hidden=hidden.numel() * hidden.element_size(),
        outside=max(kept - copies - TRACED_LAYERS * (per_layer + frozen), 0),
        work=max(seen["top"] - kept, 0),
        end=max(end - copies - frozen, 0),
        scoring=max(scoring, 0),
    )


def head_bytes(tokens: int, *, vocabulary: int, hidden: int, narrow: bool, trained: bool, device_bytes: int) -> int:
    """Bytes that `head.token_logps` takes at most, forward and backward, beside its weight.

    Args:
        tokens: whose log-probabilities are computed.
        vocabulary: of the head.
        hidden: size of a hidden state.
        narrow: the products are in bfloat16.
        trained: the head has a gradient.
        device_bytes: memory of the GPU; 0 for a CPU, where the weight is made float32 for 16-bit products.
    """
    size = 2 if narrow else 4
    states, weight = tokens * hidden, vocabulary * hidden
    chunk = min(tokens * vocabulary, max(chunk_logits(device_bytes), vocabulary))
    selected = 4 * states + (2 * states if narrow else 0)
    # The logits, and what logsumexp makes of them; or the weight in float32 beside them.
    softmax = max(8 * chunk, 4 * chunk + (4 * weight if narrow and not device_bytes else 0))
    if not trained:
        return selected + size * states + softmax
    keeps = tokens * vocabulary <= KEPT
    kept = 4 * tokens * vocabulary if keeps else 0
    # One chunk of what is kept is the softmax's own.
    forward = softmax - (4 * chunk if keeps else 0)
    backward = 4 * weight + size * (weight + states) + (4 * chunk if keeps else softmax) + (2 * chunk if narrow else 0)
    return selected + kept + max(forward, backward)


def cast_bytes(module: nn.Module, *, narrow: bool) -> int:
    """Bytes of the bfloat16 copies that autocast keeps of a module's trained matrices."""
    if not narrow:
        return 0
    return sum(2 * one.numel() for one in matrices(module) if one.requires_grad and one.dtype == torch.float32)


def _frozen_cast_bytes(block: nn.Module) -> int:
    """Bytes of the bfloat16 copies of a layer's frozen matrices that its backward pass reads."""
    return sum(2 * one.numel() for one in matrices(block) if not one.requires_grad and one.dtype == torch.float32)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model of transformers; none where it does not say what they are."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def _autocast(narrow: bool) -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if narrow else nullcontext()


@contextmanager
def _boundaries(first: nn.Module, second: nn.Module, live: LiveBytes) -> Iterator[dict[str, int]]:
    """The live bytes behind each of two layers, and the peak before the gradient leaves the second ("top")."""
    seen: dict[str, int] = {}

    def of_gradient(gradient: Tensor) -> None:
        seen["top"] = live.peak
        live.peak = live.now

    def behind_first(module: nn.Module, args: object, output: Any) -> None:
        seen["first"] = live.now
        states = output if isinstance(output, Tensor) else output[0]
        if states.requires_grad:
            states.register_hook(of_gradient)

    def behind_second(module: nn.Module, args: object, output: Any) -> None:
        seen["second"] = live.now

    hooks = [first.register_forward_hook(behind_first), second.register_forward_hook(behind_second)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _materialise(policy: nn.Module) -> None:
    """Give each weight and buffer of a model on the meta device zeros, fake or real; shared ones stay shared."""
    made: dict[Tensor, Tensor] = {}
    for module in policy.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                if weight not in made:
                    fresh = torch.zeros(weight.shape, dtype=weight.dtype)
                    made[weight] = nn.Parameter(fresh, requires_grad=weight.requires_grad)
                module._parameters[name] = made[weight]  # type: ignore[assignment]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
