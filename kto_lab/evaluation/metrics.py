"""Every metric of the lab, declared once. Tables, figures, W&B and docs/metrics.md read their labels, units, bounds and
better sides here, and no other list knows a metric.

**Adding a metric** takes one place and one test. In this module, or in one of your own, write a function from what a
policy did on the held-out prompts to a score for each prompt, and a `Metric` that declares it:

    from kto_lab.evaluation.measuring import Metric, PolicyResults

    def count_exclamations(results: PolicyResults) -> dict[str, float]:
        return {answer.prompt_id: answer.answer.count("!") for answer in results.answers}

    EXCLAMATIONS = Metric("exclamations", "Exclamation marks in an answer.", better="down", measure=count_exclamations)

and name it in the configuration: `evaluation.metrics=[my_metrics.EXCLAMATIONS]`, with the folder of the module on
PYTHONPATH. Base and trained policy are measured, compared prompt by prompt, and broken down by group. The record
carries the declaration, so nothing else has to be told: the run's table shows the metric, the record has it as
`metrics.answers.exclamations`, evaluation/scores.json has the score of each prompt, reports and studies call it
`exclamations`, `exclamations_base` and `exclamations_difference`, settings can be chosen by it, and W&B has it under
the same names.

The function may read greedy answers, log-probabilities and implicit rewards: see `PolicyResults`. It may return True
and False, which makes the metric a share. Its test gives it a `PolicyResults` and compares scores. A metric that comes
with the lab is added to `OWN` here, from where `make docs` takes it to docs/metrics.md.

What computes results does not import this module, so that another label or decimal makes no run a different one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from kto_lab.errors import LabError
from kto_lab.evaluation.measuring import Metric, find_metrics
from kto_lab.feedback.checkers import ON_A_SCALE
from kto_lab.statistics import Bounds

SHARE = (0.0, 1.0)

PROMPTS = (
    Metric(
        "pass_rate",
        "Share of greedy answers that pass the checks of their prompt.",
        better="up",
        bounds=SHARE,
        by_group=True,
    ),
    Metric(
        "sentiment",
        "Mean compound score of VADER over greedy answers to prompts whose check is the sentiment.",
        better="up",
        bounds=ON_A_SCALE["sentiment"],
        by_group=True,
    ),
    Metric(
        "judge_score",
        "Mean score that the reward model of `evaluation.judge` gives greedy answers, on its own scale.",
        label="score by the judge",
        better="up",
        by_group=True,
    ),
    Metric("answer_length", "Mean length of greedy answers, their end not counted.", unit="tokens"),
    Metric(
        "finished",
        "Share of greedy answers that end by themselves within `evaluation.max_new_tokens`.",
        label="ended by itself",
        better="up",
        bounds=SHARE,
    ),
)
# Metrics with a function, which `evaluation.metrics` names.
OWN: tuple[Metric, ...] = ()
REWARDS = (
    Metric(
        "reward_accuracy",
        "Share of held-out examples whose implicit reward has the sign of the clean thumb; a reward of 0 counts 1/2.",
        better="up",
        bounds=SHARE,
        per_prompt=False,
    ),
    Metric(
        "reward_auc",
        "Chance that a desirable held-out example is rewarded above an undesirable one, over all prompts.",
        label="reward AUC",
        better="up",
        bounds=SHARE,
        per_prompt=False,
    ),
    Metric(
        "pair_accuracy",
        "Share of held-out pairs of one prompt whose desirable completion is rewarded above the undesirable one.",
        label="pairs ranked right",
        better="up",
        bounds=SHARE,
        per_prompt=False,
    ),
    Metric(
        "reward_margin",
        "Mean implicit reward of desirable held-out examples less that of undesirable ones.",
        unit="beta x nats",
        per_prompt=False,
    ),
    Metric(
        "reward_desirable",
        "Mean implicit reward of desirable held-out examples.",
        label="reward, desirable",
        unit="beta x nats",
        per_prompt=False,
        in_table=False,
    ),
    Metric(
        "reward_undesirable",
        "Mean implicit reward of undesirable held-out examples.",
        label="reward, undesirable",
        unit="beta x nats",
        per_prompt=False,
        in_table=False,
    ),
    Metric(
        "kl",
        "KL divergence of the policy from the reference, estimated on answers that the policy samples.",
        label="KL",
        unit="nats/answer",
        per_prompt=False,
    ),
)
TASKS = (
    Metric(
        "kto_lab_checks.pass_rate",
        "Share of the held-out prompts' answers that pass, by lm-eval.",
        label="pass rate by lm-eval",
        better="up",
        bounds=SHARE,
        per_prompt=False,
    ),
    Metric(
        "kto_lab_checks.sentiment",
        "Mean sentiment of the held-out prompts' answers, by lm-eval.",
        label="sentiment by lm-eval",
        better="up",
        bounds=ON_A_SCALE["sentiment"],
        per_prompt=False,
    ),
    Metric(
        "kto_lab_checks.answer_words",
        "Mean length of the held-out prompts' answers.",
        label="answer length",
        unit="words",
        per_prompt=False,
    ),
    Metric(
        "kto_lab_neutral.word_perplexity",
        "Perplexity per word of text that has nothing to do with the thumbs.",
        label="word perplexity of neutral text",
        better="down",
        bounds=(1.0, None),
        per_prompt=False,
    ),
    Metric(
        "kto_lab_neutral.byte_perplexity",
        "Perplexity per byte of the same text.",
        label="byte perplexity of neutral text",
        better="down",
        bounds=(1.0, None),
        per_prompt=False,
    ),
    Metric(
        "kto_lab_neutral.bits_per_byte",
        "Bits per byte of the same text.",
        label="bits per byte of neutral text",
        better="down",
        bounds=(0.0, None),
        per_prompt=False,
    ),
)
COSTS = (
    Metric("seconds", "Wall-clock time of all stages of the run.", label="time", unit="s", per_prompt=False),
    Metric("steps", "Optimiser steps.", per_prompt=False),
    Metric("examples_seen", "Training examples, each counted as often as it was seen.", per_prompt=False),
    Metric("tokens_seen", "Tokens of those, prompts included.", per_prompt=False),
    Metric("peak_memory", "Most memory that the process held.", unit="bytes", per_prompt=False),
)
# Columns of a run's metrics.csv; W&B has them behind "train/".
STEPS = (
    Metric("loss", "The step's loss: its mean over the units of the batch.", per_prompt=False),
    Metric(
        "saturated",
        "Share of examples whose value function is nearly flat: its slope is under 5 % of the steepest.",
        label="share of saturated examples",
        bounds=SHARE,
        per_prompt=False,
    ),
    Metric(
        "z0_raw",
        "The reference point before it is clamped at 0.",
        label="z0 before clamping",
        unit="nats",
        per_prompt=False,
    ),
    Metric("z0", "The reference point that the loss is given.", unit="nats", per_prompt=False),
    Metric(
        "z0_stderr",
        "Standard error of the estimate of the reference point.",
        label="z0, standard error",
        unit="nats",
        per_prompt=False,
    ),
    Metric("z0_clamped", "Share of the step's reference points that were clamped.", bounds=SHARE, per_prompt=False),
    Metric("grad_norm", "Norm of the gradient.", label="gradient norm before clipping", per_prompt=False),
    Metric("clip_factor", "What clipping multiplied the gradient by.", bounds=SHARE, per_prompt=False),
    Metric("learning_rate", "The learning rate of the step.", per_prompt=False),
    Metric("tokens", "Tokens of the step's examples, prompts included.", per_prompt=False),
    Metric("padding", "Share of the policy pass's positions that are padding.", bounds=SHARE, per_prompt=False),
    Metric("examples", "Examples of the step; a pair is two.", per_prompt=False),
)
# By where they come from; docs/metrics.md has a table of each.
SECTIONS: Mapping[str, tuple[Metric, ...]] = {
    "Greedy answers to held-out prompts": PROMPTS + OWN,
    "Held-out examples and samples": REWARDS,
    "lm-eval": TASKS,
    "Costs": COSTS,
    "Each optimiser step": STEPS,
}
DECLARED: Mapping[str, Metric] = {metric.name: metric for part in SECTIONS.values() for metric in part}
# What a column's name may end in, and what that means.
ENDS = {
    "_base": ", base",
    "_difference": ", trained - base",
    "_detectable": ", detectable",
    "_validation": ", validation",
    "_test": ", test",
}
# Declarations that came with records: of metrics of a user's own, and of lm-eval's tasks.
_learned: dict[str, Metric] = {}


def refuse_taken_names(names: Iterable[str]) -> None:
    """Refuse a metric of one's own that is called as one of the lab's.

    Args:
        names: `evaluation.metrics`.

    Raises:
        LabError: there is one, or a name leads to no metric.
    """
    for metric in find_metrics(names):
        if DECLARED.get(metric.name, metric) is not metric:
            raise LabError(
                f"A metric of evaluation.metrics is called {metric.name}, and so is one of the lab's. Rename it."
            )


def learn(declarations: Iterable[Mapping[str, Mapping[str, Any]]]) -> None:
    """Take in what records declare of metrics that are not the lab's, so that `metric_of` knows them in this process.

    Args:
        declarations: of each record, as `evaluation.evaluate.Judge.declarations` made them.

    Raises:
        LabError: two records disagree on which side of a metric is better, or one declares what is no metric.
    """
    read: dict[str, Mapping[str, Any]] = {}
    found: dict[str, Metric] = {}
    for one in declarations:
        for name, node in one.items():
            if name in DECLARED or read.get(name) == node:
                continue
            try:
                metric = Metric.from_dict(name, node)
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise LabError(f"What a record declares of the metric {name} cannot be read: {error}.") from error
            if name in found and found[name].better != metric.better:
                raise LabError(
                    f"Runs of one study disagree on the better side of the metric {name}: {found[name].better} and "
                    f"{metric.better}. Run those with the older declaration again."
                )
            read[name], found[name] = node, metric
    _learned.update(found)


def metric_of(column: str) -> Metric:
    """The metric of a column of a report, whichever policy it is of; one that nobody declared has no better side.

    Args:
        column: a metric's name, alone or with an end of `ENDS`, or of a group: `groups.<group>.<name>`.
    """
    name, _ = _split(column)
    if name.startswith("groups."):
        name = name.rpartition(".")[2]
    return DECLARED.get(name) or _learned.get(name) or Metric(name, per_prompt=False)


def is_declared(name: str) -> bool:
    """Whether the lab or a record that was read in this process declares a metric of this name."""
    return name in DECLARED or name in _learned


def label(column: str) -> str:
    """A column for a reader: "pass rate", "KL, nats/answer", "pass rate, trained - base"."""
    found, (name, end) = metric_of(column), _split(column)
    group = name.removeprefix("groups.").rpartition(".")[0] if name.startswith("groups.") else ""
    unit = f", {found.unit}" if found.unit else ""
    return found.title + unit + (f", {group}" if group else "") + ENDS.get(end, "")


def higher_is_better(column: str) -> bool | None:
    """Whether more of a column is better, less is (False), or neither (None)."""
    side = None if column.endswith("_detectable") else metric_of(column).better
    return None if side is None else side == "up"


def bounds(column: str) -> Bounds | None:
    """The least and the largest value that a column can have; None where its metric does not have both."""
    ends = metric_of(column).range
    if ends is None or not column.endswith(("_difference", "_detectable")):
        return ends
    width = ends[1] - ends[0]
    return (0.0 if column.endswith("_detectable") else -width), width


def _split(column: str) -> tuple[str, str]:
    """A column's metric and its end, "" where it has none."""
    if is_declared(column):
        return column, ""
    end = next((end for end in ENDS if column.endswith(end)), "")
    return column.removesuffix(end), end
