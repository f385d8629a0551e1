"""Which cells a table or figure shows: those that `where` names, and of a search the setting that is best.

A search (`choose`) tries settings, such as learning rates, and shows one. The best of many is best partly by luck, so
the held-out prompts are split in two by a hash of their identity: the setting with the best mean over its seeds on the
validation prompts is chosen, and every number that has a score per prompt is then of the test prompts, which chose
nothing. Of settings that tie the first counts. A setting of which any run is lacking is not chosen: runs that fail are
often those that would have pulled the mean down.

The same seeds choose and are shown. So the numbers say, without optimism, how the runs that were chosen do on new
prompts. With new seeds the setting may do less well, since a run's luck is the same on both halves. Simulated with 9
equally good settings of 3 seeds and 120 prompts: the validation value of the chosen one is 0.05 too good, the test
value 0.00; where seeds move a run's pass rate by 0.05 (standard deviation), the test value is 0.03 above that of new
seeds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import bounds, is_declared, label, metric_of
from kto_lab.reports.frame import BOOKKEEPING, DONE, EDGE_BREAK, EDGES, about_code, choices, plain
from kto_lab.reports.specs import FigureSpec, TableSpec, shown
from kto_lab.reports.words import choice_label, choice_words
from kto_lab.runs.prompt_scores import PromptScores
from kto_lab.runs.scores import TEST, VALIDATION, Scores, scores_in
from kto_lab.statistics import Estimate, mean_interval, proportion_interval
from kto_lab.sweeps.contrasts import Choose, Contrast, check_choosing

NOT_CHOSEN = "not chosen"
CHOSEN = "chosen"
# Stands at a number whose setting lies on the edge of what was tried.
EDGE_MARK = "†"
# More than so many chosen settings are left to the table that lists them all.
LISTED = 8
Values = tuple[Any, ...]


@dataclass(frozen=True)
class Setting:
    """The cells of one setting of a search, which differ by their seed alone.

    Attributes:
        values: of the choices that are searched over.
        places: of its rows in the frame.
        mean: of the metric over seeds on the validation prompts; None where a run is lacking.
        edges: the choices whose value is the smallest or the largest number that was tried there.
    """

    values: Values
    places: Sequence[int]
    mean: float | None
    edges: Sequence[str] = ()


@dataclass(frozen=True)
class Search:
    """What a search tried, and what it chose.

    Attributes:
        others: the choices that are not searched over.
        tried: values of `others` to the settings that were tried, in the order of the sweep.
        chosen: values of `others` to the setting that is best; None where none is complete.
        halves: the frame with the metric of both halves (its name and `_validation`, `_test`) and a choice, `chosen`.
        shown: the cells of the settings that were chosen, scores of prompts over the test prompts.
        prompts: how many prompts chose, and how many are shown.
    """

    others: Sequence[str]
    tried: Mapping[Values, Sequence[Setting]]
    chosen: Mapping[Values, Setting | None]
    halves: pd.DataFrame
    shown: pd.DataFrame
    prompts: tuple[int, int]


# The searches of one frame, by what they choose and among which cells.
Searches: TypeAlias = dict[str, Search]


@dataclass(frozen=True)
class Selection:
    """The cells that a table or figure shows.

    Attributes:
        frame: their rows.
        scores: of single prompts, of the test prompts where there was a search; None without a folder.
        notes: sentences that say what was left out, and how settings were chosen.
        listed: a sentence that lists the chosen settings; "" where there was no search.
        search: the search, or None.
    """

    frame: pd.DataFrame
    scores: Scores | None
    notes: Sequence[str]
    listed: str = ""
    search: Search | None = None


def select(
    frame: pd.DataFrame, spec: TableSpec | FigureSpec | Contrast, folder: Path | None, searches: Searches | None = None
) -> Selection:
    """The cells that a specification asks for.

    Args:
        frame: from `kto_lab.reports.load`.
        spec: of a table, figure or contrast.
        folder: of the study, to read the scores of single prompts from; a search needs it.
        searches: those that were made of this frame, to which this one is added: tables and figures share theirs.

    Raises:
        LabError: the specification names what the study does not have, or nothing can be chosen.
    """
    what = spec.what
    kept = matching(frame, spec.where or {}, what)
    notes = about_code(kept)
    if spec.where:
        named = "; ".join(
            f"{choice_label(key)} {', '.join(map(shown, _listed(value)))}" for key, value in spec.where.items()
        )
        notes.append(f"Only runs with {named}.")
    if spec.choose is None:
        return Selection(kept, scores_in(folder) if folder else None, notes)
    if folder is None:
        raise LabError(f"{what}: a search is chosen by the scores of single prompts, so the study's folder is needed.")
    test = scores_in(folder, TEST)
    searches = {} if searches is None else searches
    key = json.dumps([asdict(spec.choose), spec.where])
    if (found := searches.get(key)) is None:
        found = searches[key] = search(kept, spec.choose, scores_in(folder, VALIDATION), test, what)
    return Selection(found.shown, test, notes + _notes(found, spec.choose, spec.metrics), _list(found, spec), found)


def matching(frame: pd.DataFrame, where: Mapping[str, Any], what: str) -> pd.DataFrame:
    """The cells that have these values; of a list one is enough.

    Raises:
        LabError: a key is no choice, or no cell is left.
    """
    have, kept = choices(frame), np.ones(len(frame), dtype=bool)
    for key, value in where.items():
        if key not in have:
            raise LabError(f"{what}: where names {key!r}, which is no choice. Choices are {', '.join(have)}.")
        kept &= np.array([plain(one) in _listed(value) for one in frame[key]])
        if not kept.any():
            there = ", ".join(dict.fromkeys(shown(plain(one)) for one in frame[key]))
            raise LabError(f"{what}: where leaves no cell at {key}={value}. Its values are {there}.")
    return frame[kept]


def search(frame: pd.DataFrame, asked: Choose, validation: Scores, test: Scores, what: str) -> Search:
    """Choose the best setting for each combination of the other choices.

    Args:
        frame: the cells that were tried.
        asked: what is searched over, and by which metric.
        validation: scores of the validation prompts.
        test: scores of the test prompts.
        what: asks, for messages.

    Raises:
        LabError: what is searched over is no choice, no run keeps the scores, or runs answered different prompts.
    """
    have = choices(frame)
    if strange := [key for key in asked.over if key not in have]:
        raise LabError(f"{what}: choose.over names {strange[0]!r}, which is no choice. Choices are {', '.join(have)}.")
    if (frame["status"] == DONE).any():
        check_choosing(what, asked.by)
    others = [key for key in have if key not in asked.over]
    by_half = {VALIDATION: _rows(frame, validation, asked.by), TEST: _rows(frame, test, asked.by)}
    counts = tuple(_common(by_half[half], f"{what}: {half}") for half in (VALIDATION, TEST))
    if (frame["status"] == DONE).any() and not all(counts):
        raise LabError(
            f"{what}: no finished run keeps the score of each prompt by {asked.by} in both halves, so nothing can be "
            "chosen by it. Report where the run folders are, or choose by a metric that they measure."
        )
    halves = frame.copy()
    for half, rows in by_half.items():
        _put(halves, f"{asked.by}_{half}", [_estimate(scores, asked.by) for scores in rows])
    means = halves[f"{asked.by}_{VALIDATION}"].to_numpy(dtype=float)
    complete = np.array([all(by_half[half][place] for half in by_half) for place in range(len(frame))], dtype=bool)
    members: dict[Values, dict[Values, list[int]]] = {}
    for place, cell in enumerate(frame[have].to_dict("records")):
        combination, values = (tuple(plain(cell[key]) for key in keys) for keys in (others, asked.over))
        members.setdefault(combination, {}).setdefault(values, []).append(place)
    tried = {
        combination: [
            Setting(
                values,
                places,
                float(means[places].mean()) if complete[places].all() else None,
                edges_of(asked.over, values, list(settings)),
            )
            for values, places in settings.items()
        ]
        for combination, settings in members.items()
    }
    higher = metric_of(asked.by).better == "up"
    chosen = {combination: _best(settings, higher_is_better=higher) for combination, settings in tried.items()}
    best = {place for setting in chosen.values() if setting for place in setting.places}
    halves.insert(len(have), CHOSEN, ["yes" if place in best else "no" for place in range(len(frame))])
    return Search(others, tried, chosen, halves, _shown(frame, tried, chosen, test, asked.over), (counts[0], counts[1]))


def search_spec(spec: TableSpec | FigureSpec, found: Search) -> TableSpec:
    """The table of everything that a search tried, made of `Search.halves`."""
    assert spec.choose is not None
    varied = [key for key in found.others if found.halves[key].map(shown).nunique() > 1]
    return TableSpec(
        name=f"{spec.name}_{CHOSEN}",
        rows=[*varied, *spec.choose.over, CHOSEN],
        metrics=[f"{spec.choose.by}_{VALIDATION}", f"{spec.choose.by}_{TEST}"],
        caption=f"Every setting that was tried for {spec.name}. The validation value chooses; of the chosen "
        "settings it is too good by the luck that chose them, and the test value is reported.",
    )


def edges_of(over: Sequence[str], values: Values, tried: Sequence[Values]) -> list[str]:
    """The choices whose value lies on the edge of what was tried: past it may be a better one.

    That is the smallest or the largest of two or more numbers. A value that has no order (cosine, constant) or
    was not varied has no edge, and nothing lies past a smallest value of 0: what is searched over is not negative.
    """
    found = []
    for key, value, column in zip(over, values, zip(*tried, strict=True), strict=True):
        numbers = {one for one in column if isinstance(one, int | float) and not isinstance(one, bool)}
        if value not in numbers or len(numbers) < 2:
            continue
        if value == max(numbers) or (value == min(numbers) and value != 0):
            found.append(key)
    return found


def _best(settings: Sequence[Setting], *, higher_is_better: bool) -> Setting | None:
    """The best of the complete settings, the first of those that tie."""
    ranked = [setting for setting in settings if setting.mean is not None]
    sign = 1 if higher_is_better else -1
    return max(ranked, key=lambda setting: sign * (setting.mean or 0.0), default=None)


def _shown(
    frame: pd.DataFrame,
    tried: Mapping[Values, Sequence[Setting]],
    chosen: Mapping[Values, Setting | None],
    test: Scores,
    over: Sequence[str],
) -> pd.DataFrame:
    """The chosen cells with their test values; where nothing is complete, those of a setting that say so."""
    picked = {key: setting or tried[key][0] for key, setting in chosen.items()}
    places = sorted(place for setting in picked.values() for place in setting.places)
    lost = {place for key, setting in picked.items() if chosen[key] is None for place in setting.places}
    found = frame.iloc[places].copy()
    told = {place: _edges(over, setting) for key, setting in picked.items() for place in setting.places if chosen[key]}
    found.insert(list(found.columns).index(BOOKKEEPING[-1]) + 1, EDGES, [told.get(place) for place in places])
    found["status"] = [
        NOT_CHOSEN if place in lost else state for place, state in zip(places, found["status"], strict=True)
    ]
    for name in _scored(found, test):
        _put(found, name, [_estimate(scores, name) for scores in _rows(found, test, name)])
    if not lost:
        return found
    first = list(found.columns).index(EDGES) + 1
    measured = found.iloc[:, first:].astype(object).where(found["status"] != NOT_CHOSEN)
    return pd.concat([found.iloc[:, :first], measured.infer_objects()], axis=1)


def _scored(frame: pd.DataFrame, scores: Scores) -> list[str]:
    """The metrics of a frame of which each prompt has a score, in some finished run."""
    named = [str(name) for name in frame.columns if is_declared(str(name))]
    return [name for name in named if metric_of(name).per_prompt and any(_rows(frame, scores, name))]


def _rows(frame: pd.DataFrame, scores: Scores, metric: str) -> list[PromptScores | None]:
    """The scores of each row; None where the run is not done or keeps none."""
    return [
        scores(folder, metric) if state == DONE else None
        for folder, state in zip(frame["folder"].tolist(), frame["status"].tolist(), strict=True)
    ]


def _common(rows: Sequence[PromptScores | None], what: str) -> int:
    """How many prompts there are; LabError where runs answered different ones."""
    found = [row.prompts for row in rows if row]
    if any(prompts != found[0] for prompts in found):
        raise LabError(f"{what} prompts are not the same in all runs, so no setting is the best. Evaluate them alike.")
    return len(found[0]) if found else 0


def _edges(over: Sequence[str], setting: Setting) -> str | None:
    """The edges of a setting in words."""
    values = dict(zip(over, setting.values, strict=True))
    return EDGE_BREAK.join(choice_words(key, values[key]) for key in setting.edges) or None


def _estimate(scores: PromptScores | None, metric: str) -> Estimate:
    """The mean score; of passes and failures with the interval of a share."""
    if not scores:
        return Estimate(None, None, None, 0)
    values, passes = scores.numbers, int(np.count_nonzero(scores.numbers == 1))
    only = passes + np.count_nonzero(values == 0) == len(values)
    return _share(passes, len(values)) if only else mean_interval(values, bounds(metric))


# Of many runs few shares are different, and each takes a search for its ends.
@lru_cache(maxsize=1 << 12)
def _share(successes: int, n: int) -> Estimate:
    return proportion_interval(successes, n)


def _put(frame: pd.DataFrame, metric: str, estimates: Sequence[Estimate]) -> None:
    """Write estimates into the columns of a metric."""
    for end, values in {
        "": [one.value for one in estimates],
        "_low": [one.low for one in estimates],
        "_high": [one.high for one in estimates],
        "_n": [one.n or None for one in estimates],
    }.items():
        frame[f"{metric}{end}"] = pd.Series(values, index=frame.index, dtype=float)


def _notes(found: Search, asked: Choose, metrics: Sequence[str]) -> list[str]:
    """How settings were chosen, of how many, and what the numbers are of."""
    over = " and ".join(map(choice_label, asked.over))
    notes = [
        f"Of each, the {over} with the best mean {label(asked.by)} on {found.prompts[0]} validation prompts; "
        f"{_tried(found)}; the same seeds chose and are shown."
    ]
    scored = [label(name) for name in metrics if metric_of(name).per_prompt]
    recorded = [label(name) for name in metrics if not metric_of(name).per_prompt]
    parts = [f"{', '.join(scored)} on the {found.prompts[1]} test prompts, which chose nothing"] if scored else []
    parts += [f"{', '.join(recorded)} as recorded, over all prompts"] if recorded else []
    notes.append(f"Shown: {'; '.join(parts)}.")
    picked = [setting for setting in found.chosen.values() if setting]
    if on_edge := sum(bool(setting.edges) for setting in picked):
        notes.append(
            f"{EDGE_MARK} on the edge of the settings that were tried, past which there may be a better one: {on_edge} "
            f"of the {len(picked)} that were chosen."
        )
    if lost := [_name(found, key) for key, setting in found.chosen.items() if setting is None]:
        notes.append(f"No setting is complete, and none chosen, of {', '.join(lost)}.")
    return notes


def _tried(found: Search) -> str:
    """How many settings each tried: by the first choice where it decides, else by all."""
    counts = {key: len(settings) for key, settings in found.tried.items()}
    lacking = sum(setting.mean is None for settings in found.tried.values() for setting in settings)
    end = f" ({lacking} not complete, and so not chosen)" if lacking else ""
    if len(set(counts.values())) == 1:
        return f"each tried {next(iter(counts.values()))} settings{end}"
    by_first: dict[str, set[int]] = {}
    for key, count in counts.items():
        by_first.setdefault(shown(key[0]), set()).add(count)
    if all(len(numbers) == 1 for numbers in by_first.values()):
        named = [f"{name} {min(numbers)}" for name, numbers in by_first.items()]
    else:
        named = [f"{_name(found, key)} {count}" for key, count in counts.items()]
    return f"settings tried: {', '.join(named)}{end}"


def _list(found: Search, spec: TableSpec | FigureSpec | Contrast) -> str:
    """The chosen settings in a sentence, and where all are listed."""
    assert spec.choose is not None
    where = f"Every setting: table {spec.name}_{CHOSEN}."
    picked = {key: setting for key, setting in found.chosen.items() if setting}
    if not picked or len(picked) > LISTED:
        return where
    named = []
    for key, setting in picked.items():
        has = zip(spec.choose.over, setting.values, strict=True)
        words = [_name(found, key), *(choice_words(name, value) for name, value in has if value is not None)]
        named.append(", ".join(filter(None, words)) + (EDGE_MARK if setting.edges else ""))
    return f"Chosen: {'; '.join(named)}. {where}"


def _name(found: Search, combination: Values) -> str:
    """A combination by those of its values that vary."""
    every = list(zip(*found.tried, strict=True))
    return " ".join(shown(value) for value, column in zip(combination, every, strict=True) if len(set(column)) > 1)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
