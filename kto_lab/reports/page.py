"""The page of a study's report: one HTML file without anything to fetch, to sort, filter and hover over."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from kto_lab.reports.frame import DONE, SEED, about_code, choices, plain
from kto_lab.reports.specs import label, shown
from kto_lab.reports.table_formats import breakable
from kto_lab.sweeps.manifest import StudyFolder

# Differences between configurations that say where a run is, not what it is.
NOT_COMPARED = ("config.run_dir", "config.seed")
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } .question { font-size: 1.1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .6rem 0 1.2rem; font-size: .85rem;
  min-width: min(44rem, 100%); }
caption { caption-side: bottom; text-align: left; color: #555; padding-top: .4rem; max-width: 60rem; }
th, td { text-align: left; padding: .25rem .7rem; white-space: nowrap; } td.text { white-space: normal; }
thead th { white-space: normal; vertical-align: bottom; }
thead th { border-top: 2px solid #1a1a1a; border-bottom: 1px solid #1a1a1a; cursor: pointer; }
thead th[aria-sort=ascending]::after { content: " \\25b2"; }
thead th[aria-sort=descending]::after { content: " \\25bc"; }
tbody th { font-weight: normal; } tbody tr:last-child > * { border-bottom: 2px solid #1a1a1a; }
tbody tr:hover { background: #f2f5f7; } td[title] { text-decoration: underline dotted #bbb; cursor: help; }
.failed, .unreadable { color: #a6234b; } .missing, .running { color: #8a6d1b; }
figure { margin: 1rem 0 2rem; } figure > svg { max-width: 48rem; width: 100%; height: auto; display: block; }
.spot { fill: transparent; stroke: none; cursor: help; } .spot:hover { stroke: #1a1a1a; stroke-width: 1; }
code { background: #f4f4f4; padding: .1rem .3rem; }
"""
SCRIPT = """
const number = text => text === "" ? NaN : Number(text);
function value(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent.trim();
}
function sort(head) {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a, column), value(b, column)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = isNaN(number(x)) || isNaN(number(y)) ? x.localeCompare(y) : number(x) - number(y);
    return down ? -order : order;
  });
  body.append(...rows);
}
function filter() {
  const word = document.getElementById("words").value.toLowerCase();
  const wanted = document.getElementById("method").value;
  for (const row of document.querySelectorAll("table[data-keys] > tbody > tr")) {
    const other = wanted !== "" && row.hasAttribute("data-method") && row.dataset.method !== wanted;
    const words = row.closest("table").id === "runs" && !row.textContent.toLowerCase().includes(word);
    row.hidden = other || words;
  }
}
for (const row of document.querySelectorAll("table[data-keys] > tbody > tr")) {
  const heads = [...row.closest("table").tHead.rows[0].cells].map(cell => cell.textContent);
  const place = heads.indexOf(document.body.dataset.method);
  if (place >= 0) row.dataset.method = row.cells[place].textContent;
}
for (const head of document.querySelectorAll("thead th")) head.addEventListener("click", () => sort(head));
for (const id of ["words", "method"]) document.getElementById(id).addEventListener("input", filter);
"""


def page(study: StudyFolder, frame: pd.DataFrame, tables: Sequence[str], pictures: Mapping[str, str]) -> str:
    """The page as HTML.

    Args:
        study: its question and command.
        frame: from `kto_lab.reports.load`.
        tables: as HTML.
        pictures: name to SVG; they are put into the page.
    """
    method = choices(frame)[0] if choices(frame) else SEED
    methods = list(dict.fromkeys(shown(plain(value)) for value in frame[method]))
    options = "".join(f'<option value="{escape(one)}">{escape(one)}</option>' for one in methods)
    counts = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    figures = [f'<figure role="img" aria-label="{escape(name)}">{drawn}</figure>' for name, drawn in pictures.items()]
    parts = [
        f"<h1>Study {escape(study.name)}</h1>",
        f'<p class="question">{escape(study.question)}</p>',
        f"<p>{len(frame)} runs: {escape(counts)}. Made by <code>{escape(study.command)}</code></p>",
        *(f'<p class="warning">{escape(sentence)}</p>' for sentence in about_code(frame)),
        f'<p><label>Show {escape(method)} <select id="method"><option value="">all</option>{options}</select></label> '
        "Click a heading to sort; hover over a number for what is behind it.</p>",
        _section("Tables", [f'<div class="wide">{table}</div>' for table in tables]),
        _section("Figures", figures),
        _section(
            "Runs", ['<p><input id="words" type="search" placeholder="filter runs by any word"></p>', _runs(frame)]
        ),
        _section("What differs between configurations", [_differences(frame)]),
        _section("Environment", [_environment(frame)]),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Study {escape(study.name)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f'<body data-method="{escape(method)}">\n' + "\n".join(parts) + f"\n<script>{SCRIPT}</script></body></html>\n"
    )


def _section(title: str, parts: Sequence[str]) -> str:
    return f"<h2>{title}</h2>\n" + "\n".join(parts) if any(parts) else ""


def _runs(frame: pd.DataFrame) -> str:
    """Every run, whatever became of it, with all that has an interval over its prompts."""
    metrics = [
        name
        for name in (str(column).removesuffix("_n") for column in frame.columns if str(column).endswith("_n"))
        if not name.startswith("groups.") and not name.endswith(("_base", "_difference")) and name in frame
    ]
    costs = [name for name in ("seconds", "tokens_seen", "examples_seen", "peak_memory") if name in frame]
    keys = [*choices(frame), SEED]
    heads = [*keys, "status", *map(label, metrics), *map(label, costs), "run"]
    # Column by column, and then a row of each: a frame gives a column at once, and a row of some hundred values slowly.
    columns = [_cells(_words(frame[key])) for key in keys]
    columns.append(list(map(_state, frame["status"].tolist(), map(plain, frame["message"].tolist()))))
    columns += [_measured(frame, name) for name in (*metrics, *costs)]
    columns.append(
        [
            f'<td><a href="{escape(str(folder))}">{escape(str(run))}</a></td>'
            for folder, run in zip(frame["folder"].tolist(), frame["run_id"].tolist(), strict=True)
        ]
    )
    lines = [_head("runs", heads, len(keys)), *(f"<tr>{''.join(cells)}</tr>" for cells in zip(*columns, strict=True))]
    return "\n".join([*lines, "</tbody></table></div>"])


def _state(state: str, message: Any) -> str:
    """What became of a run, and on hovering why."""
    why = escape(str(message or ""))
    return f'<td class="{escape(state)}"{f""" title="{why}" """ if why else ""}>{escape(state)}</td>'


def _measured(frame: pd.DataFrame, name: str) -> list[str]:
    """A number of every run, and on hovering its interval."""
    values, lows, highs = (
        map(plain, frame[f"{name}{end}"].tolist()) if f"{name}{end}" in frame else [None] * len(frame)
        for end in ("", "_low", "_high")
    )
    return [
        _number(value, "" if low is None else f"95 % interval over prompts [{low:.4g}, {high:.4g}]")
        for value, low, high in zip(values, lows, highs, strict=True)
    ]


def _words(column: pd.Series) -> list[str]:
    """The values of a column for a reader. Most are there many times, and are put into words once."""
    values = column.tolist()
    # True and 1 are equal, and are not the same words.
    keys = list(zip(map(type, values), values, strict=True))
    words = {key: shown(plain(key[1])) for key in dict.fromkeys(keys)}
    return list(map(words.__getitem__, keys))


def _differences(frame: pd.DataFrame) -> str:
    """Keys of the configuration that are not the same in all finished runs, with the runs of each value."""
    done = frame[frame["status"] == DONE]
    runs_done = [str(run) for run in done["run_id"].tolist()]
    lines = [_head("differences", ["key", "value", "runs"], 1)]
    for name in frame.columns:
        if not str(name).startswith("config.") or name in NOT_COMPARED:
            continue
        words = _words(done[name])
        if len(set(words)) < 2:
            continue
        members: dict[str, list[str]] = {}
        for value, run in zip(words, runs_done, strict=True):
            members.setdefault(value, []).append(run)
        for value, runs in members.items():
            key = _cell(str(name).removeprefix("config."))
            lines.append(f"<tr>{key}{_cell(value)}{_number(len(runs), escape(' '.join(runs)))}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"]) if len(lines) > 1 else "<p>Nothing but the seed.</p>"


def _environment(frame: pd.DataFrame) -> str:
    """Versions and hardware of the finished runs; more than one value where they differ."""
    done = frame[frame["status"] == DONE]
    lines = [_head("environment", ["what", "value", "runs"], 1)]
    for name in frame.columns:
        if str(name).startswith("environment."):
            for value, count in Counter(_words(done[name])).items():
                what = _cell(str(name).removeprefix("environment."))
                lines.append(f"<tr>{what}{_cell(value)}{_number(count, '')}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"]) if len(lines) > 1 else ""


def _head(name: str, heads: Sequence[str], keys: int) -> str:
    cells = "".join(f"<th>{breakable(head)}</th>" for head in heads)
    return f'<div class="wide"><table id="{name}" data-keys="{keys}"><thead><tr>{cells}</tr></thead><tbody>'


def _cell(words: str) -> str:
    return f'<th class="text" data-value="{escape(words)}">{escape(words)}</th>'


def _cells(words: Sequence[str]) -> list[str]:
    """A cell each; most words are there many times."""
    cells = {word: _cell(word) for word in dict.fromkeys(words)}
    return list(map(cells.__getitem__, words))


def _number(value: Any, hover: str) -> str:
    """A number that sorts by its full value; `hover` is HTML."""
    title = f' title="{hover}"' if hover else ""
    return f'<td data-value="{"" if value is None else value}"{title}>{"" if value is None else f"{value:.4g}"}</td>'
