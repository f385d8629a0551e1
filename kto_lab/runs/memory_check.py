"""Holds a run's memory plan against the memory of its device: what cannot fit is refused before it is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import torch
from omegaconf import DictConfig

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.hashing import content_hash
from kto_lab.memory import readable
from kto_lab.models.architecture import find_configuration
from kto_lab.runs.components import Components
from kto_lab.runs.identity import plain_values
from kto_lab.runs.memory_plan import MemoryPlan, Model, Setting, Stage, plan_memory, sizes_of
from kto_lab.runs.process_cache import ProcessCache

# What grows with the tokens that are run at once.
OF_TOKENS = ("activations", "keys and values", "logits")
# A plan that takes no more of the device than this share is said in one line.
SMALL = 0.1
# How many plans' sizes a sweep remembers: of one policy with several micro-batches, say.
SIZES = 8


def check_memory(cfg: DictConfig, made: Components, cache: ProcessCache) -> dict[str, Any]:
    """Plan a run's memory, say it, and hold it against what there is.

    Args:
        cfg: the configuration `train`.
        made: of it.
        cache: of this process.

    Returns:
        The plan for the record: see `MemoryPlan.as_dict`; or why there is none, under "unknown".

    Raises:
        LabError: a stage cannot fit; the message names the keys that change what it needs.
    """
    try:
        limit, where = memory_of(made.hardware.device)
        setting = setting_of(cfg, made, limit)
        key = content_hash(
            made.model.key, plain_values(cfg)["adapter"], setting.narrow, setting.rows, setting.lengths.max_length
        )
        plan = plan_memory(setting, cache.get("sizes", key, lambda: sizes_of(setting), most=SIZES))
    # A plan must not break a run: what is wrong with the model shows when it is loaded.
    except Exception as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        narration.say(f"    memory: not planned: {why[0]}")
        return {"unknown": why[0]}
    say(plan, limit)
    hold(plan, setting, limit, where, on_node=1 if setting.cuda else made.hardware.devices)
    return plan.as_dict()


def setting_of(cfg: DictConfig, made: Components, limit: int) -> Setting:
    """What the plan of a run depends on; `limit` is the memory of its device in bytes.

    Raises:
        LabError: the shapes of one of its models are not known before it is loaded.
    """
    hardware = made.hardware
    other = made.reference.model
    return Setting(
        model=model_of(plain_values(cfg.model), "model"),
        adapter=made.adapter,
        narrow=hardware.number_format == "bf16-mixed",
        device_bytes=limit if hardware.chosen.device == "cuda" else 0,
        strategy=hardware.strategy,
        processes=hardware.devices * hardware.num_nodes,
        optimization=made.optimization,
        update_rule=made.update_rule,
        lengths=made.lengths,
        evaluation=made.evaluation,
        feed=made.objective.needs.feed,
        has_reference=made.reference.exists,
        reference=None if other is None else model_of(plain_values(other), "reference.model"),
    )


def model_of(node: Mapping[str, Any], key: str) -> Model:
    """A model as its node describes it.

    Args:
        node: plain values.
        key: of the node, for messages.

    Raises:
        LabError: its configuration cannot be had without loading it.
    """
    config = find_configuration(node)
    if config is None:
        raise LabError(f"the shapes of {key} are not known before it is loaded")
    return Model(
        config,
        dtype=getattr(torch, str(node.get("dtype", "float32"))),
        attention=str(node.get("attention", "sdpa")),
        quantization=node.get("quantization"),
    )


def memory_of(device: torch.device) -> tuple[int, str]:
    """Bytes that a rank can have on its device, and whose they are."""
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return about.total_memory, about.name
    return psutil.virtual_memory().available, "this machine"


def say(plan: MemoryPlan, limit: int) -> None:
    """Say a plan: a line for each stage, or for the largest one where all are small."""
    stages = plan.stages if plan.largest.total > SMALL * limit else [plan.largest]
    unknown = "" if plan.activations_known else "; activations unknown"
    for stage in stages:
        parts = ", ".join(f"{name} {readable(size)}" for name, size in stage.parts.items())
        narration.say(f"    memory: {stage.name} up to {readable(stage.total)} of {readable(limit)}: {parts}{unknown}")


def hold(plan: MemoryPlan, setting: Setting, limit: int, where: str, *, on_node: int) -> None:
    """Hold a plan against the memory of a device: refuse what cannot fit, and say what may not.

    What a stage takes whatever it is given (weights, gradients, the optimiser's state) must fit. What grows with the
    tokens is planned for the longest sequences there can be, and most runs have shorter ones. A host's memory can be
    stretched, so that on a CPU the weights alone decide.

    Args:
        plan: of the run.
        setting: that it was made of.
        limit: bytes that there are.
        where: whose they are.
        on_node: ranks that share them.

    Raises:
        LabError: a stage cannot fit; the message names the keys that lower what it needs.
    """
    for stage in sorted(plan.stages, key=_fixed, reverse=True):
        needed = _fixed(stage) if setting.cuda else on_node * stage.parts["weights"]
        if needed > limit:
            what = "before it has seen a token" if setting.cuda else "for the weights alone"
            raise LabError(
                f"The stage {stage.name!r} needs {readable(needed)} {what}, and {where} has {readable(limit)}. "
                f"{_use(_of_weights(stage, setting))} docs/sizes.md says what runs of several sizes need."
            )
        if setting.cuda and stage.total > limit:
            narration.say(
                f"    memory: {stage.name} does not fit into {where} where sequences are as long as they may be. If it "
                f"runs out: {_use(_of_tokens(stage, setting))}"
            )


def _fixed(stage: Stage) -> int:
    """Bytes that a stage takes however many tokens it is given."""
    return sum(size for name, size in stage.parts.items() if name not in OF_TOKENS)


def _use(keys: Sequence[str]) -> str:
    return f"Use {', or '.join(keys or ['a smaller model'])}."


def _of_weights(stage: Stage, setting: Setting) -> list[str]:
    """What makes weights, and all that comes with them, smaller."""
    trains, quantised = setting.adapter.trains_the_model, setting.model.quantization is not None
    wide = setting.model.dtype == torch.float32 and not trains and setting.narrow and not quantised
    return [
        key
        for key, helps in {
            "adapter=lora": trains,
            "model.dtype=bfloat16": wide,
            "adapter=lora model.quantization=nf4": trains,
            "model.quantization=nf4": not trains and not quantised,
            "trainer=fsdp on several GPUs": stage.name == "training" and setting.shards == 1 and not quantised,
        }.items()
        if helps
    ]


def _of_tokens(stage: Stage, setting: Setting) -> list[str]:
    """What runs fewer tokens at once, or keeps less of them."""
    optimization, evaluation = setting.optimization, setting.evaluation
    if stage.name == "answers":
        return [f"evaluation.batch_tokens below {evaluation.batch_tokens}"]
    if stage.name == "lm-eval":
        return [f"evaluation.lm_eval_batch_size below {evaluation.lm_eval_batch_size}"]
    fewer = (
        f"optimization.micro_batch_tokens below {optimization.micro_batch_tokens}"
        if setting.rows > 1
        else f"lengths.max_length below {setting.lengths.max_length}"
    )
    again = stage.name == "training" and not optimization.gradient_checkpointing
    return [*(["optimization.gradient_checkpointing=true"] if again else []), fewer]
