"""How much memory each stage of a run will need on each rank, computed before a model is loaded.

The shapes are those of the model's configuration, the formats those that the run computes with, and the activations are
counted on two layers without weights (`models/activations.py`). Sequences are taken to be as long as `lengths` lets
them be, so a plan is what may be needed; the allocator's gaps and what CUDA holds for itself are not in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from kto_lab.evaluation.settings import Evaluation
from kto_lab.losses import Feed
from kto_lab.models.activations import TRACED_LAYERS, Activations, head_bytes, trace
from kto_lab.models.adapters import FullFineTuning, Lora
from kto_lab.models.kv_cache import ROOM
from kto_lab.models.planned_weights import Weights, planned_policy, weigh
from kto_lab.models.quantization import Quantization
from kto_lab.models.tokens import Lengths
from kto_lab.training.optimization import Optimization
from kto_lab.training.update_rule import UpdateRule

# Of the matrix that an optimiser's state is measured on.
SIDE = 256
# Bytes of state per weight where it cannot be measured here: AdamW's.
USUAL_STATE = 8.0


@dataclass(frozen=True)
class Model:
    """A model as its node describes it.

    Attributes:
        config: its shapes.
        dtype: its weights are loaded in.
        attention: transformers' implementation.
        quantization: of its matrices.
    """

    config: PretrainedConfig
    dtype: torch.dtype = torch.float32
    attention: str = "sdpa"
    quantization: Quantization | None = None


@dataclass(frozen=True)
class Setting:
    """What a plan depends on.

    Attributes:
        model: the policy's.
        adapter: what is trained.
        narrow: in bf16-mixed rather than 32-true.
        device_bytes: memory of a GPU; 0 on a CPU.
        strategy: "fsdp", "ddp" or "auto".
        processes: of the run, with one device each.
        optimization: of the run.
        update_rule: likewise.
        lengths: likewise.
        evaluation: likewise.
        feed: what the loss looks at together.
        has_reference: whether there is a reference.
        reference: it, where it is another model.
    """

    model: Model
    adapter: FullFineTuning | Lora
    narrow: bool
    device_bytes: int
    strategy: str
    processes: int
    optimization: Optimization
    update_rule: UpdateRule
    lengths: Lengths
    evaluation: Evaluation
    feed: Feed = Feed.THUMBS
    has_reference: bool = True
    reference: Model | None = None

    @property
    def cuda(self) -> bool:
        """Whether it computes on GPUs."""
        return self.device_bytes > 0

    @property
    def shards(self) -> int:
        """Into how many parts training cuts what is trained."""
        return self.processes if self.strategy == "fsdp" else 1

    @property
    def rows(self) -> int:
        """Sequences of the greatest length that a micro-batch holds."""
        units = -(-self.optimization.batch_size // self.processes) * (2 if self.feed is Feed.PAIRS else 1)
        return max(1, min(units, self.optimization.micro_batch_tokens // self.lengths.max_length))


@dataclass(frozen=True)
class Stage:
    """The peak of a stage on one rank.

    Attributes:
        name: of the stage.
        parts: what of it is what, in bytes.
    """

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class MemoryPlan:
    """The stages of a run.

    Attributes:
        stages: in the order in which they come.
        activations_known: whether they are in the plan.
    """

    stages: list[Stage] = field(default_factory=list)
    activations_known: bool = True

    @property
    def largest(self) -> Stage:
        """The one that needs most."""
        return max(self.stages, key=lambda stage: stage.total)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for a record: bytes by stage and part."""
        stages = {stage.name: {**stage.parts, "total": stage.total} for stage in self.stages}
        return {"stages": stages, "activations_known": self.activations_known}


@dataclass(frozen=True)
class Sizes:
    """What of a setting takes a moment to find, and many runs share.

    Attributes:
        weights: of the policy.
        activations: of a micro-batch; None where they are not known.
    """

    weights: Weights
    activations: Activations | None


def sizes_of(setting: Setting) -> Sizes:
    """The sizes of a run's policy.

    Raises:
        Exception: the model cannot be made from its configuration.
    """
    model, narrow = setting.model, setting.narrow
    make = partial(
        planned_policy, model.config, setting.adapter, dtype=model.dtype, attention=model.attention, narrow=narrow
    )
    weights = weigh(make(), model.quantization, narrow=narrow)
    try:
        activations = trace(
            make(layers=TRACED_LAYERS),
            layers=model.config.num_hidden_layers,
            rows=setting.rows,
            width=setting.lengths.max_length,
            narrow=narrow,
        )
    # Whatever an architecture does that needs numbers, such as a choice of experts.
    except Exception:
        return Sizes(weights, None)
    return Sizes(weights, activations)


def plan_memory(setting: Setting, sizes: Sizes) -> MemoryPlan:
    """The peaks of a run's stages.

    Args:
        setting: of the run.
        sizes: of its policy.
    """
    none = Activations(setting.model.config.num_hidden_layers, 0, 0, 0, 0, 0, 0, 0)
    stages = _Stages(setting, sizes.weights, sizes.activations or none)
    return MemoryPlan(list(stages.all()), sizes.activations is not None)


def state_per_weight(rule: UpdateRule) -> float:
    """Bytes of an optimiser's state per trained weight, measured by a step on a matrix."""
    weight = nn.Parameter(torch.zeros(SIDE, SIDE))
    weight.grad = torch.ones_like(weight)
    try:
        optimizer, _ = rule.make([weight], steps=1)
        optimizer.step()
    # Such as one that works on GPUs alone.
    except Exception:
        return USUAL_STATE
    held = [value for state in optimizer.state.values() for value in state.values()]
    return sum(one.numel() * one.element_size() for one in held if isinstance(one, torch.Tensor)) / weight.numel()


@dataclass(frozen=True)
class _Stages:
    """The stages of a run from the sizes of its policy."""

    setting: Setting
    weights: Weights
    activations: Activations

    def all(self) -> Iterator[Stage]:
        setting, evaluation = self.setting, self.setting.evaluation
        if setting.strategy == "fsdp":
            yield Stage("loading", {"weights": self.weights.bytes})
        if evaluation.prompts or evaluation.kl_prompts:
            yield self._answers()
        if evaluation.lm_eval:
            yield self._lm_eval()
        if evaluation.reward_examples or evaluation.kl_prompts:
            yield _stage("scoring", **self._held(self.weights.copies), activations=self._without_gradients())
        if setting.has_reference:
            yield self._reference()
        yield self._training()
        if setting.strategy == "fsdp":
            # The first process reads it back and compares.
            yield self._scoring("saved policy", self.weights)

    @property
    def tokens(self) -> int:
        return self.setting.rows * self.setting.lengths.max_length

    @property
    def text(self) -> PretrainedConfig:
        # What is multimodal is refused when it is loaded.
        return self.setting.model.config

    def head(self, *, trained: bool, tokens: int | None = None) -> int:
        return head_bytes(
            self.tokens if tokens is None else tokens,
            vocabulary=self.text.vocab_size,
            hidden=self.text.hidden_size,
            narrow=self.setting.narrow,
            trained=trained,
            device_bytes=self.setting.device_bytes,
        )

    def _reference(self) -> Stage:
        """Another model takes the policy's place on the device, whole until it is cut into shards."""
        if self.setting.reference is not None:
            other = self.setting.reference
            policy = planned_policy(
                other.config, FullFineTuning(), dtype=other.dtype, attention=other.attention, narrow=self.setting.narrow
            )
            return self._scoring("reference", weigh(policy, other.quantization, narrow=self.setting.narrow))
        return _stage("reference", **self._held(self.weights.copies), activations=self._without_gradients())

    def _held(self, copies: int) -> dict[str, int]:
        """The policy outside of training: whole with its bf16 copies, or in shards."""
        if self.setting.strategy == "fsdp":
            return self._sharded()
        return {"weights": self.weights.bytes, "bf16 copies": copies}

    def _sharded(self) -> dict[str, int]:
        """Weights in shards, a layer and the next one gathered, in bfloat16 in the place of autocast's copies.

        What is outside of the layers stays whole from the forward to the end of the backward pass.
        """
        weights = self.weights
        gathered = 2 * (2 if self.setting.narrow else 4) * weights.block + 4 * weights.outside
        shard = weights.bytes // self.setting.shards
        return {"weights": shard, "bf16 copies": weights.outside_copies, "gathered": gathered}

    def _training(self) -> Stage:
        setting, weights = self.setting, self.weights
        trained, shards = 4 * weights.trained, setting.shards
        parts = {"weights": weights.bytes, "bf16 copies": weights.copies}
        gradients = trained // shards
        if setting.strategy == "fsdp":
            parts = self._sharded()
            # Of two layers before they are cut.
            gradients += 2 * 4 * min(weights.block, weights.trained)
        elif setting.processes > 1:
            parts["buckets"] = trained
        optimiser = round(state_per_weight(setting.update_rule) * weights.trained / shards)
        activations = self.activations.peak(
            checkpointing=setting.optimization.gradient_checkpointing,
            head=self.head(trained=setting.adapter.trains_the_model),
        )
        # torch's optimisers on CUDA work on all weights at once, with a temporary one for each.
        step = trained // shards if setting.cuda else 2 * 4 * min(weights.largest, weights.trained)
        activations = max(activations + self._dequantised(), step)
        return _stage("training", **parts, gradients=gradients, optimiser=optimiser, activations=activations)

    def _scoring(self, name: str, weights: Weights) -> Stage:
        """Log-probabilities without gradients, by a model as a whole."""
        held = {"weights": weights.bytes, "bf16 copies": weights.copies}
        return _stage(name, **held, activations=self._without_gradients())

    def _without_gradients(self) -> int:
        # The head comes after the layers.
        return max(self.activations.scoring, self.head(trained=False)) + self._dequantised()

    def _answers(self) -> Stage:
        evaluation, lengths, text = self.setting.evaluation, self.setting.lengths, self.text
        length = lengths.max_length + evaluation.max_new_tokens
        asked = max(evaluation.prompts, evaluation.kl_prompts)
        rows = max(1, min(asked, evaluation.batch_tokens // length))
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        token = 2 * heads * size * (2 if self.setting.narrow else 4) * rows
        # Of what a draw makes of the logits three are float64.
        logits = rows * text.vocab_size * (4 + 3 * 8 * bool(evaluation.kl_prompts))
        # The prompts are run while the cache holds them alone; later one layer's part is there twice while it grows.
        prompts = (
            token * self.activations.layers * (lengths.max_length + ROOM),
            self._scored(rows * lengths.max_length),
        )
        later = (token * (self.activations.layers + 1) * (length + ROOM), logits)
        cache, activations = max(prompts, later, key=sum)
        parts = {**self._held(self.weights.converted), "keys and values": cache}
        return _stage("answers", **parts, activations=activations + self._dequantised())

    def _lm_eval(self) -> Stage:
        tokens = self.setting.evaluation.lm_eval_batch_size * self.setting.lengths.max_length
        # Logits and their log-softmax.
        logits = 2 * 4 * tokens * self.text.vocab_size
        parts = {**self._held(self.weights.converted), "logits": logits}
        return _stage("lm-eval", **parts, activations=self._scored(tokens) + self._dequantised())

    def _scored(self, tokens: int) -> int:
        """Bytes of a layer's activations for so many tokens, without gradients."""
        return self.activations.scoring * tokens // self.tokens

    def _dequantised(self) -> int:
        """Bytes of a quantised matrix while a product reads it."""
        if self.setting.model.quantization is None:
            return 0
        return self.weights.largest * (2 if self.setting.narrow else 4)


def _stage(name: str, **parts: int) -> Stage:
    """A stage without the parts that take nothing."""
    return Stage(name, {part: size for part, size in parts.items() if size})
