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
        cuda: on GPUs.
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
    cuda: bool
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
        if setting.has_reference:
            yield self._scoring("reference", beside=self._other())
        yield self._training()
        if evaluation.prompts or evaluation.kl_prompts:
            yield self._answers()
        if evaluation.reward_examples:
            yield self._scoring("rewards", beside=0)
        if evaluation.kl_prompts and setting.has_reference:
            yield self._scoring("KL", beside=self._beside_trained())
        if evaluation.lm_eval:
            yield self._lm_eval()

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
            cuda=self.setting.cuda,
        )

    def _training(self) -> Stage:
        setting, weights = self.setting, self.weights
        trained, shards = 4 * weights.trained, setting.shards
        parts = {"weights": weights.bytes // shards, "bf16 copies": weights.copies, "gradients": trained // shards}
        parts["optimiser"] = round(state_per_weight(setting.update_rule) * weights.trained / shards)
        if setting.strategy == "fsdp":
            # Gathered in bfloat16 in the place of autocast's copies; the next layer meanwhile. What is outside of them
            # stays whole from the forward to the end of the backward pass.
            size = 2 if setting.narrow else 4
            parts["bf16 copies"] = weights.outside_copies
            parts["gathered"] = 2 * size * weights.block + 4 * weights.outside
            parts["gradients"] += 2 * 4 * min(weights.block, weights.trained)
        elif setting.processes > 1:
            parts["buckets"] = trained
        activations = self.activations.peak(
            checkpointing=setting.optimization.gradient_checkpointing,
            head=self.head(trained=setting.adapter.trains_the_model),
        )
        # torch's optimisers on CUDA work on all weights at once, with a temporary one for each.
        step = trained // shards if setting.cuda else 2 * 4 * min(weights.largest, weights.trained)
        parts["activations"] = max(activations + self._dequantised(), step)
        return Stage("training", {name: size for name, size in parts.items() if size})

    def _scoring(self, name: str, *, beside: int) -> Stage:
        """Log-probabilities without gradients, by the policy as a whole."""
        # The head's states are few beside what a layer needs, and come after it.
        activations = max(self.activations.scoring, self.head(trained=False))
        parts = {"weights": self.weights.bytes, "bf16 copies": self.weights.copies, "other model": beside}
        parts["activations"] = activations + self._dequantised()
        return Stage(name, {part: size for part, size in parts.items() if size})

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
        parts = {"weights": self.weights.bytes, "bf16 copies": self.weights.converted, "other model": self._other()}
        parts |= {"keys and values": cache, "activations": activations + self._dequantised()}
        return Stage("answers", {part: size for part, size in parts.items() if size})

    def _lm_eval(self) -> Stage:
        tokens = self.setting.evaluation.lm_eval_batch_size * self.setting.lengths.max_length
        # Logits and their log-softmax.
        logits = 2 * 4 * tokens * self.text.vocab_size
        parts = {"weights": self.weights.bytes, "bf16 copies": self.weights.converted, "other model": self._other()}
        parts |= {"logits": logits, "activations": self._scored(tokens) + self._dequantised()}
        return Stage("lm-eval", {part: size for part, size in parts.items() if size})

    def _scored(self, tokens: int) -> int:
        """Bytes of a layer's activations for so many tokens, without gradients."""
        return self.activations.scoring * tokens // self.tokens

    def _dequantised(self) -> int:
        """Bytes of a quantised matrix while a product reads it."""
        if self.setting.model.quantization is None:
            return 0
        return self.weights.largest * (2 if self.setting.narrow else 4)

    def _other(self) -> int:
        """Bytes of a reference that is another model, which is there from the beginning of its stages."""
        other = self.setting.reference
        if other is None:
            return 0
        policy = planned_policy(
            other.config, FullFineTuning(), dtype=other.dtype, attention=other.attention, narrow=self.setting.narrow
        )
        found = weigh(policy, other.quantization, narrow=self.setting.narrow)
        return found.bytes + found.copies

    def _beside_trained(self) -> int:
        """Bytes of the reference of a trained policy: its first weights, which an adapter leaves as they were."""
        if self.setting.reference is not None:
            return self._other()
        return self.weights.bytes + self.weights.copies if self.setting.adapter.trains_the_model else 0
