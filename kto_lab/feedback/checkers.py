"""Judging answers by program: the checks that a row of the table carries.

A row's `checks` is JSON. Three kinds:

- `{"checker": "ifeval", "instructions": [{"id": "detectable_format:title", "kwargs": {}}]}`: lm-eval's IFEval checkers
  (Zhou et al. 2023, arXiv 2311.07911), strict: the answer passes when it follows every instruction.
- `{"checker": "arithmetic", "answer": "42"}`: the answer is exactly this, except for surrounding white space.
- `{"checker": "sentiment"}`: the compound score of VADER (Hutto & Gilbert 2014), from -1 to 1; no pass or fail.
"""

import contextlib
import functools
import io
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from kto_lab.errors import LabError
from kto_lab.statistics import Bounds

# Checker to the metric that its scores make; see `kto_lab.evaluation.metrics`.
METRICS = {"ifeval": "pass_rate", "arithmetic": "pass_rate", "sentiment": "sentiment"}
# Metrics of scores on a scale, with its least and largest value; all others are shares of passes.
ON_A_SCALE: Mapping[str, Bounds] = {"sentiment": (-1.0, 1.0)}


def ifeval_checks(*instructions: tuple[str, dict[str, Any]]) -> str:
    """The `checks` of a prompt with these IFEval instructions, each an id and its keyword arguments."""
    return json.dumps(
        {"checker": "ifeval", "instructions": [{"id": name, "kwargs": kwargs} for name, kwargs in instructions]}
    )


def arithmetic_checks(answer: str) -> str:
    """The `checks` of a prompt with one right answer."""
    return json.dumps({"checker": "arithmetic", "answer": answer})


def metric_name(checks: str) -> str:
    """The metric that the score of these checks makes."""
    return METRICS[_parse(checks)["checker"]]


def pass_or_fail(checks: str) -> bool:
    """Whether an answer passes these checks or fails them, rather than being measured on a scale."""
    return metric_name(checks) not in ON_A_SCALE


def score_answer(checks: str, answer: str) -> float:
    """The score of an answer: True or False where it passes or fails, VADER's compound score for sentiment.

    Raises LabError when `checks` names an unknown checker or instruction, or does not fit it.
    """
    parsed = _parse(checks)
    if parsed["checker"] == "ifeval":
        return all(_follows(item["id"], item["kwargs"], answer) for item in parsed["instructions"])
    if parsed["checker"] == "arithmetic":
        return bool(answer.strip() == parsed["answer"])
    return float(_sentiment().polarity_scores(answer)["compound"])


def read_checks(value: Any, where: str) -> str:
    """Checks from a user's data in the table's form: JSON text, "" where there are none.

    Args:
        value: the JSON as text or as an object, or None.
        where: its place, such as "thumbs.jsonl:12".

    Raises:
        LabError: they cannot be run.
    """
    if value is None or value == "":
        return ""
    try:
        checks = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        _try(checks)
    except TypeError as error:
        raise LabError(f"{where}: the checks are {value!r}, which is no JSON: {error}.") from error
    except LabError as error:
        raise LabError(f"{where}: {error}") from error
    return checks


# Many rows have the same.
@functools.lru_cache(maxsize=4096)
def _try(checks: str) -> None:
    """LabError where the checks cannot be run on any answer."""
    for item in _parse(checks).get("instructions") or []:
        _instruction(item["id"], item["kwargs"])


@functools.lru_cache(maxsize=4096)
def _parse(checks: str) -> dict[str, Any]:
    try:
        parsed = json.loads(checks)
    except json.JSONDecodeError as error:
        raise LabError(f"The checks {checks!r} are no JSON: {error}.") from error
    if not isinstance(parsed, dict) or parsed.get("checker") not in METRICS:
        raise LabError(f"The checks {checks!r} name no known checker. Known: {', '.join(METRICS)}.")
    if parsed["checker"] == "arithmetic" and not isinstance(parsed.get("answer"), str):
        raise LabError(f"The checks {checks!r} need an 'answer' that is text.")
    if parsed["checker"] == "ifeval" and not _are_instructions(parsed.get("instructions")):
        raise LabError(f"The checks {checks!r} need 'instructions': a list of objects with 'id' and 'kwargs'.")
    return parsed


def _are_instructions(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and isinstance(item.get("kwargs"), dict) and "id" in item for item in value)
    )


def _follows(identity: str, kwargs: dict[str, Any], answer: str) -> bool:
    instruction = _instruction(identity, kwargs)
    return bool(answer.strip()) and bool(instruction.check_following(answer))


def _instruction(identity: str, kwargs: dict[str, Any]) -> Any:
    """IFEval's checker of one instruction."""
    registry = _ifeval().INSTRUCTION_DICT
    if identity not in registry:
        raise LabError(f"There is no IFEval instruction {identity!r}. Known: {', '.join(sorted(registry))}.")
    instruction = registry[identity](identity)
    try:
        instruction.build_description(**kwargs)
    except (TypeError, ValueError) as error:
        raise LabError(f"The IFEval instruction {identity!r} does not take {kwargs}: {error}.") from error
    return instruction


@functools.cache
def _ifeval() -> ModuleType:
    """lm-eval's checkers, imported without the download that the import tries, and with a fixed seed.

    The language detector behind the lower-case check is random unless it is seeded. The import looks for NLTK's
    sentence tokenizer on the web; only two of the 25 checkers use it, and none of ours does.
    """
    import langdetect
    import nltk

    langdetect.DetectorFactory.seed = 0
    download = nltk.download
    nltk.download = lambda *args, **kwargs: False
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from lm_eval.tasks.ifeval import instructions_registry
    finally:
        nltk.download = download
    return instructions_registry


@functools.cache
def _sentiment() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
