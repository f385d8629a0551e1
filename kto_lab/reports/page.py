"""The page of a study's report: what `kto_lab/templates/report.html` shows, of its runs, tables and figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from kto_lab.evaluation.metrics import label
from kto_lab.pages import render
from kto_lab.reports.answers import SideBySide
from kto_lab.reports.figure_parts import BASE_COLOUR, Style
from kto_lab.reports.frame import DONE, SEED, about_code, choices, plain
from kto_lab.reports.html_tables import Cell, html, number, words
from kto_lab.reports.settings import Options, differing
from kto_lab.reports.sheets import claim, difference_words
from kto_lab.reports.specs import shown
from kto_lab.reports.table_formats import p_value
from kto_lab.reports.tables import BASE
from kto_lab.reports.verdicts import Verdict
from kto_lab.reports.words import choice_label
from kto_lab.sweeps.manifest import StudyFolder

# Rows of a table that a page shows unfolded.
UNFOLDED = 15


@dataclass(frozen=True)
class PageTable:
    """A table of the page.

    Attributes:
        html: of it.
        title: what stands for it while it is folded.
        folded: whether it is, until a reader opens it.
    """

    html: Markup
    title: str
    folded: bool


def page(
    study: StudyFolder,
    frame: pd.DataFrame,
    tables: Sequence[PageTable],
    figures: Mapping[str, str],
    *,
    verdicts: Sequence[Verdict],
    budgets: Markup,
    answers: SideBySide | None,
    looks: Mapping[Any, Style],
    options: Options,
) -> str:
    """The page as HTML.

    Args:
        study: its question and command.
        frame: from `kto_lab.reports.load`.
        tables: in their order.
        figures: name to SVG; they are put into the page.
        verdicts: on the study's contrasts.
        budgets: a table of what the runs of each method saw.
        answers: of the policies, side by side.
        looks: how each method is drawn, by `method_of`.
        options: of the configuration's groups, to name settings by.
    """
    method = method_of(frame)
    return render(
        "report.html",
        script="report.js",
        inline_styles=True,
        title=f"Study {study.name}",
        study=study,
        runs=len(frame),
        counts=", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items()),
        warnings=about_code(frame),
        method=choice_label(method),
        methods=list(dict.fromkeys(_texts(frame[method]))),
        verdicts=[_verdict(one) for one in verdicts],
        budgets=budgets,
        figures={name: Markup(drawn) for name, drawn in figures.items()},
        tables=tables,
        answers=_answers(answers, looks) if answers else None,
        runs_table=_runs(frame, method, looks),
        settings=_settings(frame, options),
        environment=_environment(frame),
    )


def method_of(frame: pd.DataFrame) -> str:
    """The choice that tells methods apart: the first, which is the arm where a study has arms."""
    return choices(frame)[0] if choices(frame) else SEED


def _verdict(one: Verdict) -> dict[str, Any]:
    """What became of a contrast, in words."""
    difference = difference_words(one)
    numbers = [f"difference {difference}"] if difference else []
    if one.p_holm is not None:
        numbers.append(f"{p_value(one.p_holm)}, corrected over {one.tests} test{'s' * (one.tests != 1)}")
    if one.detectable is not None:
        numbers.append(f"a true difference of {one.detectable:.2g} would show")
    if one.finished:
        numbers.append(f"named when {one.finished} runs were finished: their results could have been seen")
    return {
        "name": one.contrast.name,
        "verdict": one.verdict,
        "claim": claim(one.contrast),
        "reason": one.reason,
        "numbers": "; ".join(numbers),
    }


def _answers(found: SideBySide, looks: Mapping[Any, Style]) -> dict[str, Any]:
    """The answers, with the name and the colour of each method."""
    return {
        "cells": found.cells,
        "score": found.score,
        "prompts": found.prompts,
        "rows": [
            {
                "prompt": row.prompt,
                "answers": [
                    {
                        "name": BASE if one.policy is None else shown(one.policy),
                        "colour": looks[one.policy].colour if one.policy in looks else BASE_COLOUR,
                        "text": one.text,
                        "score": one.score,
                    }
                    for one in row.answers
                ],
            }
            for row in found.rows
        ],
    }


def _runs(frame: pd.DataFrame, method: str, looks: Mapping[Any, Style]) -> Markup:
    """Every run, whatever became of it, with all that has an interval over its prompts."""
    metrics = [
        name
        for name in (str(column).removesuffix("_n") for column in frame.columns if str(column).endswith("_n"))
        if not name.startswith("groups.") and not name.endswith(("_base", "_difference")) and name in frame
    ]
    costs = [name for name in ("seconds", "tokens_seen", "examples_seen", "peak_memory") if name in frame]
    keys = [*choices(frame), SEED]
    heads = [*map(choice_label, keys), "status", *map(label, metrics), *map(label, costs), "run"]
    # Column by column, and then a row of each: a frame gives a column at once, and a row of some hundred values slowly.
    columns = [_keys(frame[key], looks if key == method else {}) for key in keys]
    columns.append(
        [
            Cell((state, *([str(message)] if message else [])), state, kind=f"{state} wrap")
            for state, message in zip(frame["status"].tolist(), map(plain, frame["message"].tolist()), strict=True)
        ]
    )
    columns += [_measured(frame, name) for name in (*metrics, *costs)]
    columns.append(
        [
            Cell((str(run),), run, link=quote(str(folder)))
            for folder, run in zip(frame["folder"].tolist(), frame["run_id"].tolist(), strict=True)
        ]
    )
    return html("runs", heads, list(zip(*columns, strict=True)), len(keys))


def _keys(column: pd.Series, looks: Mapping[Any, Style]) -> list[Cell]:
    """What a choice is in every run, those of a method with its colour."""
    values = list(map(plain, column.tolist()))
    return [
        words(text, looks[value].colour if value in looks else "")
        for text, value in zip(_texts(column), values, strict=True)
    ]


def _measured(frame: pd.DataFrame, name: str) -> list[Cell]:
    """A number of every run, and on hovering its interval."""
    values, lows, highs = (
        map(plain, frame[f"{name}{end}"].tolist()) if f"{name}{end}" in frame else [None] * len(frame)
        for end in ("", "_low", "_high")
    )
    return [
        number(value, "" if low is None else f"95 % interval over prompts [{low:.4g}, {high:.4g}]")
        for value, low, high in zip(values, lows, highs, strict=True)
    ]


def _texts(column: pd.Series) -> list[str]:
    """The values of a column for a reader. Most are there many times, and are put into words once."""
    values = column.tolist()
    # True and 1 are equal, and are not the same words.
    keys = list(zip(map(type, values), values, strict=True))
    texts = {key: shown(plain(key[1])) for key in dict.fromkeys(keys)}
    return list(map(texts.__getitem__, keys))


def _settings(frame: pd.DataFrame, options: Options) -> Markup | None:
    """Settings that are not the same in all finished runs, and how many runs have each value; None where all are."""
    done = frame[frame["status"] == DONE]
    rows = [
        [
            words(name),
            words(", ".join(f"{value} ({n})" for value, n in Counter(map(shown, values)).items()), kind="wrap"),
        ]
        for name, values in differing(done, options).items()
    ]
    return html("settings", ["setting", "values (runs)"], rows, 1) if rows else None


def _environment(frame: pd.DataFrame) -> Markup | None:
    """Versions and hardware of the finished runs; more than one value where they differ."""
    done = frame[frame["status"] == DONE]
    rows = [
        [words(str(name).removeprefix("environment.")), words(value, kind="wrap"), number(count)]
        for name in frame.columns
        if str(name).startswith("environment.")
        for value, count in Counter(_texts(done[name])).items()
    ]
    return html("environment", ["what", "value", "runs"], rows, 2) if rows else None
