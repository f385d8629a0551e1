"""Plain tables of a report, which are no means over seeds: the verdicts on its contrasts, and what its runs cost.

A `Sheet` holds words that are ready to be printed; `kto_lab.reports.table_formats` writes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kto_lab.evaluation.metrics import label
from kto_lab.reports.frame import DONE, choices, plain
from kto_lab.reports.specs import shown
from kto_lab.reports.verdicts import Verdict
from kto_lab.reports.words import choice_label, choice_words
from kto_lab.sweeps.contrasts import EQUAL, Contrast

CONTRASTS, BUDGETS = "contrasts", "budgets"
# What a run spends: columns of a frame, and what they are called.
SPENT = {
    "steps": "steps",
    "units_seen": "examples (pairs, for losses of pairs)",
    "examples_seen": "completions read",
    "completion_tokens_seen": "completion tokens",
    "tokens_seen": "tokens",
    "epochs": "epochs",
}


@dataclass(frozen=True)
class Sheet:
    """A table of words.

    Attributes:
        name: of its files.
        heads: of its columns.
        rows: of words, as many as heads.
        keys: how many columns, from the left, say what a row is.
        caption: what it shows.
    """

    name: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    keys: int
    caption: str


def contrast_sheet(found: Sequence[Verdict]) -> Sheet:
    """The verdicts of a study, one per row."""
    heads = ("contrast", "claim", "difference (95 %)", "p", "p, corrected", "would show", "verdict")
    tests = max((one.tests for one in found), default=0)
    late = any(one.finished for one in found)
    caption = (
        "The contrasts that the study names. p is two-sided, of the claim's margin, and corrected by Holm over "
        f"{tests} tests; intervals are not corrected. Would show: the smallest true difference that is shown with "
        "80 % power after the correction. Open: nothing is claimed."
    )
    if late:
        caption += " A contrast that was named when runs were finished says so: results could have been seen before."
    return Sheet(CONTRASTS, heads, [_verdict_row(one) for one in found], 1, caption)


def claim(one: Contrast) -> str:
    """What a contrast expects, in words: "pass rate: arm kto > arm dpo, corruption rate 0.4"."""
    sides = [", ".join(choice_words(key, value) for key, value in side.items()) for side in (one.of, one.against)]
    sign = {"greater": ">", "less": "<", EQUAL: "="}[one.expect]
    margin = f" {'within' if one.expect == EQUAL else 'by more than'} {one.margin:g}" if one.margin else ""
    where = "".join(f", {choice_words(key, value)}" for key, value in (one.where or {}).items())
    return f"{label(one.metric)}: {sides[0]} {sign} {sides[1]}{margin}{where}"


def budget_sheet(frame: pd.DataFrame) -> Sheet:
    """What the finished runs of each method saw; "50 to 200" where its runs differ.

    Methods are the values of the study's first choice. A completion that is seen twice counts twice, and a pair has
    two. An epoch is a pass over what a run's corruption left.
    """
    done = frame[frame["status"] == DONE]
    key = choices(frame)[0] if choices(frame) else "run_id"
    spent = {name: done[name] for name in SPENT if name in done}
    if "units_seen" in done and "units_available" in done:
        spent["epochs"] = done["units_seen"].astype(float) / done["units_available"].astype(float)
    names = [name for name in SPENT if name in spent]
    arms = [plain(value) for value in done[key].tolist()]
    rows = []
    for arm in dict.fromkeys(arms):
        mine = [one == arm for one in arms]
        rows.append([shown(arm), *(_range(spent[name][mine].dropna().tolist()) for name in names)])
    caption = (
        "What a run saw, from the least to the most where runs differ. Completions read counts both of a pair, and one "
        "again in each epoch; mismatched completions that only estimate a reference point are not among them. Epochs "
        "are passes over what the corruption left."
    )
    return Sheet(BUDGETS, [choice_label(key), *(SPENT[name] for name in names)], rows, 1, caption)


def difference_words(one: Verdict) -> str:
    """The difference of a contrast with its interval: "+0.129 [+0.063, +0.196]"; "" where there is none."""
    found = one.difference.estimate if one.difference else None
    if found is None or found.value is None:
        return ""
    return f"{found.value:+.3f}" + ("" if found.low is None else f" [{found.low:+.3f}, {found.high:+.3f}]")


def _verdict_row(one: Verdict) -> list[str]:
    verdict = one.verdict + (f": {one.reason}" if one.reason else "")
    if one.finished:
        verdict += f" (named when {one.finished} runs were finished)"
    numbers = (_number(one.p), _number(one.p_holm), _number(one.detectable))
    return [one.contrast.name, claim(one.contrast), difference_words(one), *numbers, verdict]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _range(values: Sequence[Any]) -> str:
    """Numbers from the least to the most, whole ones in full."""
    words = [f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.2g}" for value in values]
    by_value = dict(zip(map(float, values), words, strict=True))
    if not by_value:
        return ""
    return " to ".join(dict.fromkeys((by_value[min(by_value)], by_value[max(by_value)])))
