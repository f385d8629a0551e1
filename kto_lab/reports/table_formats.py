"""A table as Markdown, CSV (full precision, all comparisons) and HTML (all comparisons); LaTeX is `table_latex`."""

import csv
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from kto_lab.reports.figure_parts import BASE_COLOUR, Style
from kto_lab.reports.html_tables import Cell, html, words
from kto_lab.reports.sheets import Sheet
from kto_lab.reports.specs import shown
from kto_lab.reports.tables import BASE, Entry, Key, Table, Text, baseline_of, heading, marked, text
from kto_lab.reports.verdicts import BETTER, WORSE
from kto_lab.reports.words import choice_label

# What a formula of a spreadsheet begins with, and what is none although it does.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
_PLAIN_NUMBERS = re.compile(r"[-+\d.,eE\[\] ]+")
# Columns of the CSV after the choices.
NUMBERS = (
    "metric",
    "value",
    "low",
    "high",
    "interval_over",
    "seeds",
    "seeds_planned",
    "lacking",
    "prompts_least",
    "prompts_most",
    "baseline",
    "difference",
    "difference_low",
    "difference_high",
    "paired_seeds",
    "paired_prompts",
    "paired_by",
    "p",
    "contrast",
    "p_holm",
    "mark",
    "edges",
)


def markdown(table: Table) -> str:
    """The table in Markdown, its caption below it."""
    escape = _escape_markdown
    places = [(column, metric) for metric in table.spec.metrics for column in table.columns]
    heads = [*map(choice_label, table.spec.rows), *(heading(table, column, metric) for column, metric in places)]
    lines = [_line(map(escape, heads)), _line("---" for _ in heads)]
    for row in table.rows:
        cells = [
            _joined(text(table, row, column, metric), escape, {BETTER: "**{}**", WORSE: "*{}*"})
            for column, metric in places
        ]
        lines.append(_line([*(escape(shown(value)) for value in row), *cells]))
    return "\n".join([*lines, "", escape(table.caption)]) + "\n"


def comma_separated(table: Table) -> str:
    """Every number of the table with its comparison, one line per number, at full precision."""
    keys = [*table.spec.rows, *([table.spec.columns] if table.spec.columns else [])]
    file = io.StringIO()
    heads = [*keys, *NUMBERS]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(no_formula, heads))
    for row in table.rows:
        for column in table.columns:
            for metric in table.spec.metrics:
                found = dict(zip(keys, [*row, column], strict=False)) | _numbers(table, row, column, metric)
                writer.writerow([no_formula(found.get(head)) for head in heads])
    return file.getvalue()


def html_table(table: Table, looks: Mapping[str, Mapping[Any, Style]] | None = None) -> Markup:
    """The table as HTML without styles: cells carry `data-value` to sort by, and small lines with all comparisons.

    Args:
        table: to write.
        looks: choice to value to how it is drawn; its colour is the cell's left edge.
    """
    spec, places = table.spec, [(column, metric) for metric in table.spec.metrics for column in table.columns]
    heads = [*map(choice_label, spec.rows), *(heading(table, column, metric) for column, metric in places)]
    colours = {key: {value: look.colour for value, look in known.items()} for key, known in (looks or {}).items()}
    rows = [
        [
            *(
                words(shown(value), BASE_COLOUR if value == BASE else colours.get(key, {}).get(value, ""))
                for key, value in zip(spec.rows, row, strict=True)
            ),
            *(_cell(table, row, column, metric) for column, metric in places),
        ]
        for row in table.rows
    ]
    return html(f"table-{spec.name}", heads, rows, len(spec.rows), table.caption)


def _cell(table: Table, row: Key, column: Any, metric: str) -> Cell:
    """An entry with its interval, its difference to the baseline, and what is lacking; its seeds on hovering."""
    entry, said = table.entries[row, column, metric], text(table, row, column, metric)
    value = entry.group.mean.estimate.value if entry.group else None
    lines = [marked(said, str, {}), said.interval, *_compared(table, row, column, metric), said.note]
    return Cell(
        lines=[line for line in lines if line] or [""],
        value="" if value is None else value,
        mark={BETTER: "b", WORSE: "i"}.get(said.mark or "", ""),
        hover=_seeds(entry, table.decimals[metric] + 1),
    )


def _compared(table: Table, row: Key, column: Any, metric: str) -> list[str]:
    """The difference to the baseline with its p value, and what the study's contrast of it came to."""
    entry, digits = table.entries[row, column, metric], table.decimals[metric]
    change = entry.difference
    if change is None or change.estimate.value is None:
        return []
    p = "" if change.p is None else f", {p_value(change.p)}"
    lines = [f"{change.estimate.value:+.{digits}f}{p}".replace("-", "\N{MINUS SIGN}", 1)]
    if named := entry.contrast:
        corrected = "" if named.p_holm is None else f", corrected {p_value(named.p_holm)}"
        lines.append(f"{named.contrast.name} {named.verdict}{corrected}")
    return lines


def sheet_markdown(sheet: Sheet) -> str:
    """A table of words in Markdown, its caption below it."""
    rows = [_line(map(_escape_markdown, row)) for row in sheet.rows]
    lines = [_line(map(_escape_markdown, sheet.heads)), _line("---" for _ in sheet.heads), *rows]
    return "\n".join([*lines, "", _escape_markdown(sheet.caption)]) + "\n"


def sheet_csv(sheet: Sheet) -> str:
    """A table of words as CSV."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([map(no_formula, row) for row in [sheet.heads, *sheet.rows]])
    return file.getvalue()


def sheet_html(sheet: Sheet) -> Markup:
    """A table of words as HTML without styles."""
    rows = [
        [words(cell, kind="" if place < sheet.keys else "wrap") for place, cell in enumerate(row)] for row in sheet.rows
    ]
    return html(f"table-{sheet.name}", sheet.heads, rows, sheet.keys, sheet.caption)


def p_value(p: float) -> str:
    """A p value in words."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def no_formula(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula: a text that begins like one gets an apostrophe before it.

    Numbers stay as they are, also as texts and with an interval: "-0.5", "+0.37 [+0.27, +0.45]".
    """
    if isinstance(value, str) and value[:1] in FORMULA and not _PLAIN_NUMBERS.fullmatch(value):
        return f"'{value}"
    return value


def _escape_markdown(words: str) -> str:
    """Text as Markdown prints it, in a table or out of it, on one line; a "](" would be a link."""
    return re.sub(r"([\\|*_`<]|(?<=\])\()", r"\\\1", " ".join(words.splitlines()))


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _joined(entry: Text, escape: Callable[[str], str], marks: Mapping[str, str], between: str = " ") -> str:
    """An entry: its value as its mark has it, its interval and its note."""
    value = marked(entry, escape, marks)
    note = escape(f"({entry.note})" if entry.value and entry.note else entry.note)
    return between.join(part for part in (value, escape(entry.interval), note) if part)


def _numbers(table: Table, row: Key, column: Any, metric: str) -> dict[str, Any]:
    """The columns `NUMBERS` of an entry, as far as it has them."""
    entry = table.entries[row, column, metric]
    found: dict[str, Any] = {"metric": metric, "lacking": text(table, row, column, metric).note, "mark": entry.mark}
    if group := entry.group:
        own, (least, most) = group.mean.estimate, group.prompts or (None, None)
        found |= {"value": own.value, "low": own.low, "high": own.high, "interval_over": group.mean.interval}
        found |= {"seeds": len(group.outcomes), "seeds_planned": group.planned}
        found |= {"prompts_least": least, "prompts_most": most, "edges": ", ".join(group.edges)}
    if place := baseline_of(table.spec, row, column):
        found["baseline"] = _place(table, *place)
    if change := entry.difference:
        to = change.estimate
        found |= {"difference": to.value, "difference_low": to.low, "difference_high": to.high, "paired_seeds": to.n}
        found |= {"paired_prompts": change.prompts, "paired_by": change.paired_by, "p": change.p}
    if contrast := entry.contrast:
        found |= {"contrast": contrast.contrast.name, "p_holm": contrast.p_holm}
    return found


def _place(table: Table, row: Key, column: Any) -> str:
    values = dict(zip(table.spec.rows, row, strict=True)) | ({table.spec.columns: column} if table.spec.columns else {})
    return " ".join(f"{key}={shown(value)}" for key, value in values.items())


def _seeds(entry: Entry, digits: int) -> str:
    """The value of each seed, one line per seed, and what became of the others."""
    if entry.group is None:
        return ""
    lines = [f"seed {seed}: {one.value:.{digits}f}" for seed, one in sorted(entry.group.outcomes.items())]
    lines += [f"interval over {entry.group.mean.interval}"] if entry.group.mean.interval else []
    return "\n".join([*lines, *(f"{count} {status}" for status, count in entry.group.others.items())])
