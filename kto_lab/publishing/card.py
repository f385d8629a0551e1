"""A model card made from the record of a run: what the policy is, what it was made of, how good it is, and its limits.

Nothing is invented: what the record does not hold, and nobody has said, is said to be unknown.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from hydra.utils import get_method

from kto_lab import __version__, console, pages
from kto_lab.console import Comparison
from kto_lab.evaluation.metrics import learn, metric_of
from kto_lab.models.load import SMOLLM2_HUB
from kto_lab.publishing import repeating

UNKNOWN = "unknown"
# owner/name, as the hub takes it.
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Told:
    """What a person says of what is published, beside the record.

    Attributes:
        title: what the card calls the policy.
        place: hub name or folder to load it from.
        base_model: hub name of the base; None for what the record knows.
        dataset: hub name of the data; None for what the record knows.
        license: of what is published, as the hub names it.
        license_of_base: of the base model.
        license_of_data: of the data.
    """

    title: str
    place: str
    base_model: str | None = None
    dataset: str | None = None
    license: str | None = None
    license_of_base: str | None = None
    license_of_data: str | None = None


def model_card(record: Mapping[str, Any], told: Told, *, adapter: bool, chat: bool) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        record: of a finished run.
        told: what is not in it.
        adapter: the policy is an adapter alone, which goes onto its base.
        chat: its prompts are conversations, and not plain text.
    """
    learn([record["declared"]])
    config, training = record["config"], record["training"]
    base, data = base_of(record, told), _data_of(record, told)
    compared, single = list(_compared(record["metrics"])), list(_single(record["metrics"]))
    return pages.markdown(
        "model_card.md",
        front_matter=_front_matter(record, told, base=base, data=data, adapter=adapter),
        title=told.title,
        version=__version__,
        run_id=record["run_id"],
        summary=(
            f"{base or record['model']['name']}, aligned with thumbs by the loss `{training['loss']}` "
            f"({training['steps']} optimiser steps on {training['examples_seen']:,} examples)."
        ),
        about=_about(record, base=base, adapter=adapter),
        usage=_usage(told.place, chat=chat),
        place=told.place,
        adapter=adapter,
        generation=_generation(config["evaluation"]),
        counts=list(record["data"]["counts"].items()),
        data=_data_text(record, data),
        objective=_objective(record),
        equation=_equation(str(config["loss"]["function"])),
        weights=list(_weights(record)),
        compared=[_row(row) for row in compared],
        single=[_row(row) for row in single],
        budget=list(_budget(record)),
        limits=list(_limits(record, measured=bool(compared or single))),
        command=repeating.command(config),
        configuration=yaml.safe_dump(config, sort_keys=False, allow_unicode=True).rstrip(),
        versions=_versions(record["environment"]),
        licenses=[
            ("what is published here", told.license or UNKNOWN),
            (f"the base model, {base or record['model']['name']}", told.license_of_base or UNKNOWN),
            ("the data", told.license_of_data or UNKNOWN),
        ],
    )


def base_of(record: Mapping[str, Any], told: Told) -> str | None:
    """The hub name of what was trained; None where it did not come from the hub, and nobody names it."""
    model = record["model"]
    if told.base_model is not None:
        return told.base_model
    if "upstream" in model:
        return SMOLLM2_HUB
    # A commit is known of what came from the hub alone.
    return str(model["name"]) if "commit" in model else None


def _data_of(record: Mapping[str, Any], told: Told) -> str | None:
    """The hub name of the data, where it has one."""
    feedback = record["config"]["feedback"]
    if told.dataset is not None:
        return told.dataset
    name = str(feedback.get("name", ""))
    on_hub = feedback["_target_"].endswith(".from_hub") and HUB_NAME.fullmatch(name)
    return name if on_hub and feedback.get("data_files") is None else None


def _front_matter(record: Mapping[str, Any], told: Told, *, base: str | None, data: str | None, adapter: bool) -> str:
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Answers to held-out prompts",
            dataset_type=data or "held-out-prompts",
            dataset_name=f"Held-out prompts of {data or _source(record)}",
            metric_type=name,
            metric_name=f"{metric_of(name).title} (95 % interval {estimate['low']:.4g} to {estimate['high']:.4g})"
            if estimate["low"] is not None
            else metric_of(name).title,
            metric_value=round(estimate["value"], 6),
        )
        for name, estimate in _trained(record["metrics"])
    ]
    card = ModelCardData(
        license=told.license or UNKNOWN,
        base_model=base,
        base_model_relation=None if base is None else "adapter" if adapter else "finetune",
        datasets=None if data is None else [data],
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["kto-lab", "alignment", "binary-feedback", str(record["training"]["loss"])],
        model_name=told.title if results else None,
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml().rstrip()}\n---\n"


def _trained(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each metric of the trained policy that has a value."""
    found = {name: values["trained"] for name, values in metrics.get("answers", {}).items()}
    found |= metrics.get("rewards", {}) | ({"kl": metrics["kl"]} if metrics.get("kl") else {})
    for task, values in metrics.get("lm_eval", {}).get("trained", {}).items():
        found |= {f"{task}.{name}": estimate for name, estimate in values.items()}
    return ((name, estimate) for name, estimate in found.items() if estimate and estimate["value"] is not None)


def _compared(metrics: Mapping[str, Any]) -> Iterator[Comparison]:
    """Rows of base against trained policy: answers, their groups, lm-eval."""
    sets = [("", metrics.get("answers", {})), *((f"{group}: ", v) for group, v in metrics.get("groups", {}).items())]
    for before, found in sets:
        for name, values in found.items():
            metric = metric_of(name)
            shown = metric.by_group if before else metric.in_table
            if shown and values["trained"]["value"] is not None:
                yield Comparison(
                    before + _titled(name), values["base"], values["trained"], values["difference"], metric.decimals
                )
    tasks = metrics.get("lm_eval", {"base": {}, "trained": {}})
    for task, values in tasks["trained"].items():
        for name, value in values.items():
            yield Comparison(f"{task}: {name}", tasks["base"][task].get(name), value, None)


def _single(metrics: Mapping[str, Any]) -> Iterator[Comparison]:
    """Rows of what the trained policy alone has: implicit rewards, and its distance from the reference."""
    for name, value in {**metrics.get("rewards", {}), "kl": metrics.get("kl")}.items():
        if value and value["value"] is not None:
            yield Comparison(_titled(name), None, value, None, metric_of(name).decimals)


def _titled(name: str) -> str:
    metric = metric_of(name)
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def _row(row: Comparison) -> dict[str, Any]:
    text = partial(console.in_one_line, digits=row.digits)
    count = next((one["n"] for one in (row.difference, row.trained) if one), "-")
    return {
        "name": row.name,
        "base": text(row.base),
        "trained": text(row.trained),
        "difference": text(row.difference, signed=True),
        "n": count,
    }


def _about(record: Mapping[str, Any], *, base: str | None, adapter: bool) -> list[tuple[str, Any]]:
    model = record["model"]
    rows = [
        ("base", base or f"{model['name']}, which is not on the hub"),
        ("revision of the base", model.get("commit") or model.get("revision")),
        ("SHA-256 of the base's weights", model.get("weights")),
        ("what is here", "an adapter, which goes onto the base" if adapter else "the whole model"),
        ("parameters", f"{model['parameters']:,}, of which {model['trainable']:,} were trained"),
        ("format of the weights", model.get("trained_dtype")),
        ("loaded from", model.get("source")),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _usage(place: str, *, chat: bool) -> str:
    prompt = '[{"role": "user", "content": "..."}]' if chat else '"..."'
    return "\n".join(
        [
            "from transformers import pipeline",
            "",
            f'answer = pipeline("text-generation", model="{place}")',
            f"answer({prompt}, do_sample=False, return_full_text=False)",
        ]
    )


def _generation(evaluation: Mapping[str, Any]) -> str:
    return (
        "An answer ends where training ended one: `generation_config.json` has the tokens. What the evaluation below "
        f"judged is greedy, with at most {evaluation['max_new_tokens']} new tokens."
    )


def _source(record: Mapping[str, Any]) -> str:
    """What the data are, in a word, without where they lay."""
    feedback = record["config"]["feedback"]
    named = feedback.get("name") or feedback.get("path")
    if isinstance(named, list):
        named = named[0]
    return str(named).rpartition("/")[2] if named else str(feedback["_target_"]).rpartition(".")[2]


def _data_text(record: Mapping[str, Any], data: str | None) -> str:
    training, feedback = record["training"], record["config"]["feedback"]
    said = [
        f"Thumbs from {data}" + (f" at revision {feedback['revision']}" if feedback.get("revision") else "") + "."
        if data
        else f"Thumbs from `{_source(record)}`, which is not known to be on the hub.",
        f"Fingerprint of the table of examples: `{record['data']['fingerprint']}`.",
        "The held-out split is by prompt.",
    ]
    for key, words in (
        ("dropped", "left out because the prompt was too long"),
        ("refused", "left out because the chat template refused them"),
        ("cut", "cut on the right"),
    ):
        if training.get(key):
            said.append(f"{training[key]} examples were {words}.")
    return " ".join(said)


def _objective(record: Mapping[str, Any]) -> str:
    loss = record["config"]["loss"]
    named = [f"`{loss['function']}`"]
    for part in ("value", "reference_point", "weighting"):
        if isinstance(loss.get(part), Mapping):
            named.append(f"{part.replace('_', ' ')} `{str(loss[part]['_target_']).rpartition('.')[2]}`")
    return "; ".join(named) + f"; reference `{str(record['config']['reference']['_target_']).rpartition('.')[2]}`."


def _equation(function: str) -> str:
    """What a loss's docstring says above its arguments: the equation and the source. Only code of the lab is read."""
    if not function.startswith("kto_lab.losses."):
        return "The loss is not one of kto-lab's own; its equation is with whoever wrote it."
    return (inspect.getdoc(get_method(function)) or "").partition("\n\nArgs:")[0]


def _weights(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    config, training = record["config"], record["training"]
    for name, value in _numbers(config["loss"], "loss"):
        yield name, value
    for name in ("lambda_desirable", "lambda_undesirable"):
        if training.get(name) is not None:
            yield f"{name} (as trained)", f"{training[name]:.4g}"
    for name in ("learning_rate", "batch_size", "epochs", "max_steps", "clip_norm"):
        yield f"optimization.{name}", config["optimization"][name]
    for node in ("optimizer", "schedule"):
        yield node, str(config[node]["_target_"]).rpartition(".")[2]
    if "rank" in config["adapter"]:
        for name, value in _numbers(config["adapter"], "adapter"):
            yield name, value
    yield "seed", record["seeds"]["seed"]


def _numbers(node: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    """The settings of a node, without what it names as code."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{place}.{key}")
        elif not key.startswith("_") and key != "function":
            yield f"{place}.{key}", value


def _budget(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    training, environment = record["training"], record["environment"]
    yield "optimiser steps", training["steps"]
    yield "examples seen", f"{training['examples_seen']:,}"
    yield "tokens seen", f"{training['tokens_seen']:,}, of completions {training['completion_tokens_seen']:,}"
    yield (
        "time of the last process",
        "; ".join(f"{name} {console.duration(seconds)}" for name, seconds in record["timings"].items()),
    )
    gpus = [str(gpu.get("name", gpu)) if isinstance(gpu, Mapping) else str(gpu) for gpu in environment.get("gpus", [])]
    cpu = environment.get("cpu", {})
    yield "hardware", ", ".join(gpus) or f"{cpu.get('model')}, {cpu.get('cores')} cores"
    if memory := record["peak_memory"].get("process"):
        yield "peak memory of the process", f"{memory / 2**30:.2f} GiB"


def _limits(record: Mapping[str, Any], *, measured: bool) -> Iterator[str]:
    training, config = record["training"], record["config"]
    yield (
        f"One run with one seed ({record['seeds']['seed']}). The intervals are over held-out prompts; they do not say "
        "what another seed gives."
    )
    if measured:
        yield (
            "Held-out prompts come from the same source as those trained on, and are judged in the same way: how the "
            "policy does on others is not known."
        )
        checked = record["metrics"].get("answers", {}).get("pass_rate", {})
        if checked.get("detectable"):
            yield f"A true difference in pass rate below {checked['detectable']:.2g} would often not show here."
    yield "Harmfulness, bias, truth and languages other than those of the data were not evaluated."
    if training["corruption"]:
        target = str(config["corruption"]["_target_"]).rpartition(".")[2]
        yield f"The training data were corrupted on purpose (`{target}`); the policy is a subject of a study."
    if "upstream" in record["model"]:
        yield f"The base is {record['model']['name']}: upstream is {record['model']['upstream']}."
    if record["environment"].get("git", {}) and record["environment"]["git"].get("dirty"):
        yield "The code had changes that were not committed."
    if record["model"].get("saved_difference"):
        yield (
            f"Saving moved the log-probability of a completion by up to {record['model']['saved_difference']:.2g} nats "
            "against the policy that was judged."
        )


def _versions(environment: Mapping[str, Any]) -> list[tuple[str, Any]]:
    git = environment.get("git") or {}
    rows = [("Python", environment.get("python")), *environment.get("packages", {}).items()]
    return [*rows, ("commit of kto-lab", git.get("commit") or UNKNOWN)]
