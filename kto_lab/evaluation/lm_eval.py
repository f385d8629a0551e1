"""The hand-over to lm-eval: any of its tasks on the policy in memory, and local tasks that need no hub.

A run gets a folder with the local tasks and its own held-out prompts, so that lm-eval's own command line gives the same
numbers for the saved policy:

    lm-eval run --model hf --model_args pretrained=RUN/policy,add_bos_token=False --include_path RUN/lm_eval \
        --tasks kto_lab_checks --batch_size 64 --apply_chat_template

(`add_bos_token=False` keeps the tokenizer from adding to what the chat template wrote; without that and
`--apply_chat_template` where the prompts are plain text; after a run in bf16-mixed, to rounding, with
`mixed_precision_dtype=bfloat16,softmax_dtype=float32` among the model's arguments). The checks need kto_lab to be
installed there.

lm-eval computes in the number format that the lab scores in: that of the autocast block in which it is run. Left to
itself it opens a block without autocast, in which float32 weights are judged in float32, and adapters over a 16-bit
base cannot be run at all.
"""

import contextlib
import importlib.resources
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset

from kto_lab.evaluation.lm_eval_ranks import divided, serve
from kto_lab.evaluation.lm_eval_tasks import CHECKS, LOCAL_TASKS, NEUTRAL, checked_rows, manager_for, printing_to
from kto_lab.feedback.checkers import ON_A_SCALE, metric_name
from kto_lab.feedback.table import is_chat
from kto_lab.files import atomic_path
from kto_lab.models.adapters import Policy
from kto_lab.models.ending import Ending
from kto_lab.models.head import float32_outputs
from kto_lab.models.kv_cache import make_cache
from kto_lab.models.products import converted_once, product_format
from kto_lab.models.reasoning import Markup
from kto_lab.models.tokens import Encoder, Prompt
from kto_lab.ranks import ALONE, Ranks
from kto_lab.statistics import Estimate, Floats, cluster_interval, mean_interval, proportion_interval

# lm-eval's resamples for metrics that have no closed-form error; its default of 100,000 takes minutes.
_RESAMPLES = 1000


@dataclass(frozen=True)
class TaskResults:
    """What lm-eval found.

    Attributes:
        estimates: task to metric to estimate, for each task, each group, and each member of a group.
        higher_is_better: task to metric to whether more of it is better, as the task's configuration says; None where
            it does not say, or the members of a group disagree.
    """

    estimates: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    higher_is_better: dict[str, dict[str, bool | None]] = field(default_factory=dict)


def write_tasks(folder: Path, encoder: Encoder, table_test: Dataset, *, max_new_tokens: int, limit: int | None) -> None:
    """Write the folder that lm-eval's `--include_path` takes: the local tasks, and the held-out prompts if checked.

    Args:
        folder: made, or replaced.
        encoder: the policy's; says where an answer ends, and how a prompt does.
        table_test: the held-out part of a table of examples.
        max_new_tokens: where an unfinished answer is cut.
        limit: prompts at most, chosen as for greedy answers; None for all.
    """
    markup = encoder.ending(is_chat(table_test)).read_markup if len(table_test) else Markup()
    documents = [
        {
            **_text(row["prompt"], encoder.control),
            **{key: row[key] for key in ("prompt_id", "group", "checks")},
            **({"markup": asdict(markup)} if markup != Markup() else {}),
        }
        for row in map(table_test.__getitem__, checked_rows(table_test, limit))
    ]
    with atomic_path(folder) as partial, importlib.resources.as_file(_package_tasks()) as source:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__*"))
        if documents:
            lines = [json.dumps(document, ensure_ascii=False) + "\n" for document in documents]
            (partial / "checks.jsonl").write_text("".join(lines), encoding="utf-8")
            task = _checks_task(encoder, documents, is_chat(table_test), max_new_tokens)
            (partial / "kto_lab_checks.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")


def run_lm_eval(
    model: Policy,
    encoder: Encoder,
    tasks: Sequence[str],
    *,
    table_test: Dataset,
    folder: Path,
    max_new_tokens: int,
    limit: int | None,
    batch_size: int,
    num_fewshot: int | None,
    seed: int,
    ranks: Ranks = ALONE,
) -> TaskResults:
    """Run lm-eval's `simple_evaluate` on a model in memory.

    It computes in the number format of the autocast block that it is called in. The chat template is applied where the
    table's prompts are chat messages, and not where they are plain text. What lm-eval prints goes to `lm_eval.log`
    beside the folder. The model's mode and the global random state are kept.

    Args:
        model: the policy.
        encoder: its tokenizer's.
        tasks: names of lm-eval tasks or groups (most load their data from the hub), task files, or local tasks; as
            `lm_eval_tasks.tasks_for` has let them pass.
        table_test: the held-out part of a table of examples.
        folder: where the local tasks are written; see `write_tasks`.
        max_new_tokens: where an unfinished answer to the held-out prompts is cut.
        limit: documents per task, at most; None for all.
        batch_size: requests in flight at once.
        num_fewshot: worked examples before each document; None for what the task says.
        seed: seeds what lm-eval draws.
        ranks: share the requests to the model; all return the same.

    Returns:
        Its metrics. Intervals are Wilson's for the checks, a bootstrap over documents for perplexities, and else 1.96
        of lm-eval's standard errors on both sides.
    """
    from lightning.pytorch.utilities.seed import isolate_rng

    chat = is_chat(table_test)
    checked = table_test if CHECKS in tasks else table_test.select([])
    if ranks.first:
        write_tasks(folder, encoder, checked, max_new_tokens=max_new_tokens, limit=limit)
    log = folder.with_name("lm_eval.log") if ranks.first else Path(os.devnull)
    how = {"limit": limit, "num_fewshot": num_fewshot, "apply_chat_template": chat}
    was_training = model.training
    found = TaskResults()
    try:
        with (
            isolate_rng(),
            printing_to(log),
            _ending_at(model, encoder.ending(chat)),
            converted_once(model, model.device),
        ):
            lm = language_model(model, encoder, batch_size)
            if ranks.first:
                with divided(lm, ranks):
                    for part, adds in _by_special_tokens(tasks, chat):
                        lm.add_bos_token = adds
                        _evaluate(lm, part, folder, found, seed=seed, **how)
            else:
                serve(lm, ranks)
    finally:
        model.train(was_training)
    return ranks.told(found)


def _evaluate(lm: Any, tasks: Sequence[str], folder: Path, found: TaskResults, *, seed: int, **how: Any) -> None:
    """Add what lm-eval finds in some tasks; `how` as its `simple_evaluate` takes it."""
    from lm_eval import simple_evaluate

    results = simple_evaluate(
        model=lm,
        tasks=[str(folder / f"{task}.yaml") if task in LOCAL_TASKS else task for task in tasks],
        task_manager=manager_for(tasks),
        bootstrap_iters=_RESAMPLES,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
        **how,
    )
    for task in results["results"]:
        estimates = estimates_of(results, task, seed)
        sides = results["higher_is_better"].get(task, {})
        found.estimates[task] = estimates
        # A name may end in the filter that its value is of: "exact_match,strict-match".
        found.higher_is_better[task] = {name: sides.get(name.partition(",")[0]) for name in estimates}


def language_model(model: Policy, encoder: Encoder, batch_size: int) -> Any:
    """The policy as lm-eval takes it, computing in the number format of the autocast block that this is called in."""
    from lm_eval.models.huggingface import HFLM

    class InMemory(HFLM):
        def _model_call(self, *args: Any, **settings: Any) -> Any:
            with float32_outputs(model.get_output_embeddings()):
                return super()._model_call(*args, **settings)

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **settings: Any) -> Any:
            # An end of several tokens is found in the text, for which transformers asks for the tokenizer.
            settings |= {"tokenizer": self.tokenizer, "past_key_values": make_cache(model)}
            # A model in shards keeps in step by way of `together`, not by that of transformers.
            settings |= {"synced_gpus": False}
            return super()._model_generate(context, max_length, stop, **settings)

    return InMemory(
        pretrained=model,
        tokenizer=encoder.tokenizer,
        batch_size=batch_size,
        trust_remote_code=False,
        # It opens an autocast block of its own, which without a format turns ours off.
        mixed_precision_dtype=product_format(model.device),
        softmax_dtype=torch.float32,
    )


@contextlib.contextmanager
def _ending_at(model: Policy, ending: Ending) -> Iterator[None]:
    """For a block, the model's settings of generation are those that it will be saved with."""
    own = model.generation_config
    kept = (own.eos_token_id, own.stop_strings)
    ours = ending.written(own)
    own.eos_token_id, own.stop_strings = ours.eos_token_id, ours.stop_strings
    try:
        yield
    finally:
        own.eos_token_id, own.stop_strings = kept


def _by_special_tokens(tasks: Sequence[str], chat: bool) -> list[tuple[list[str], bool | None]]:
    """Tasks, and whether the tokenizer adds its special tokens to what they ask; None for what it does by itself.

    It does not where the chat template has written them, nor where lm-eval begins the text itself: there would be two.
    """
    alone = [task for task in tasks if chat or task == NEUTRAL]
    parts: list[tuple[list[str], bool | None]] = [(alone, False), ([t for t in tasks if t not in alone], None)]
    return [(part, adds) for part, adds in parts if part]


def _package_tasks() -> Any:
    return importlib.resources.files("kto_lab.evaluation") / "tasks"


def _text(prompt: Prompt, control: str) -> dict[str, str]:
    """A prompt as lm-eval takes it: a system text, which may be empty, and one text to answer.

    A chat template writes the control text itself; plain text has to end with it.
    """
    if isinstance(prompt, str):
        return {"system": "", "text": prompt + control}
    return {"system": prompt[0]["content"] if len(prompt) == 2 else "", "text": prompt[-1]["content"]}


def _checks_task(encoder: Encoder, documents: list[dict[str, str]], chat: bool, max_new_tokens: int) -> dict[str, Any]:
    """What the run adds to the template of the checks task."""
    ending = encoder.ending(chat)
    metrics = sorted({metric_name(document["checks"]) for document in documents})
    return {
        "include": "kto_lab_checks_template_yaml",
        "generation_kwargs": {
            # Tokens stop the sampler, as does the text of an end that is none; lm-eval wants some text in any case.
            "until": ending.texts,
            "eos_token_id": list(ending.stop_ids),
            # lm-eval's own search for the text stands in for transformers', which would ask for the tokenizer.
            "stop_strings": None,
            "max_gen_toks": max_new_tokens,
            "do_sample": False,
        },
        "metric_list": [
            *({"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics),
            {"metric": "answer_words", "aggregation": "mean", "higher_is_better": None},
        ],
    }


def estimates_of(results: dict[str, Any], task: str, seed: int) -> dict[str, Estimate]:
    """The metrics of one task from lm-eval's results."""
    values = results["results"][task]
    samples = results["samples"].get(task, [])
    documents = results["n-samples"].get(task, {}).get("effective", values.get("sample_len") or 0)
    found = {}
    for key, value in values.items():
        metric, _, chosen = key.partition(",")
        if not chosen or metric.endswith("_stderr") or not isinstance(value, (int, float, np.number)):
            continue
        name = metric if chosen == "none" else key
        logged = [sample[metric] for sample in samples if sample["filter"] == chosen and metric in sample]
        if task == CHECKS:
            shares = all(isinstance(score, bool) for score in logged)
            found[name] = (
                proportion_interval(int(sum(logged)), len(logged))
                if shares
                else mean_interval(logged, ON_A_SCALE.get(metric))
            )
        elif metric in _PERPLEXITIES and logged:
            found[name] = cluster_interval(logged, _PERPLEXITIES[metric], seed=seed)
        else:
            found[name] = _from_error(float(value), values.get(f"{metric}_stderr,{chosen}"), documents)
    return found


def _word_or_byte_perplexity(totals: Floats) -> Floats:
    """exp of minus log-likelihood a word or byte; totals (B, 2) of log-likelihood and words or bytes."""
    return np.exp(-totals[:, 0] / totals[:, 1])


# Ratios of sums over documents, for which lm-eval gives no error.
_PERPLEXITIES = {
    "word_perplexity": _word_or_byte_perplexity,
    "byte_perplexity": _word_or_byte_perplexity,
    "bits_per_byte": lambda totals: -totals[:, 0] / totals[:, 1] / np.log(2),
}


def _from_error(value: float, error: Any, n: int) -> Estimate:
    """A value with 1.96 standard errors on both sides; lm-eval says "N/A" where it has no error."""
    if not np.isfinite(value):
        return Estimate(None, None, None, n)
    if not isinstance(error, (int, float, np.number)) or not 0 < error < np.inf:
        return Estimate(value, None, None, n)
    return Estimate(value, value - 1.96 * float(error), value + 1.96 * float(error), n)
