"""A table as Markdown, LaTeX (booktabs), CSV (full precision, all comparisons) and HTML (all comparisons)."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from kto_lab.reports.figure_parts import Style
from kto_lab.reports.html_tables import Cell, html, words
from kto_lab.reports.specs import label, shown
from kto_lab.reports.tables import Entry, Key, Table, Text, baseline_of, heading, text
from kto_lab.reports.words import choice_label

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    # Letters of the field that a font of text lacks; accents and the like are in it.
    "α": r"\ensuremath{\alpha}",
    "β": r"\ensuremath{\beta}",
    "γ": r"\ensuremath{\gamma}",
    "λ": r"\ensuremath{\lambda}",
    "π": r"\ensuremath{\pi}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
}
# Lines of entries that a page of LaTeX has room for, beside heading and caption.
PAGE_LINES = 34
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
    "p_holm",
    "detectable",
    "bold",
)


def markdown(table: Table) -> str:
    """The table in Markdown, its caption below it."""
    escape = _escape_markdown
    places = [(column, metric) for metric in table.spec.metrics for column in table.columns]
    heads = [*table.spec.rows, *(heading(table, column, metric) for column, metric in places)]
    lines = [_line(map(escape, heads)), _line("---" for _ in heads)]
    for row in table.rows:
        cells = [_joined(text(table, row, column, metric), escape, "**{}**") for column, metric in places]
        lines.append(_line([*(escape(shown(value)) for value in row), *cells]))
    return "\n".join([*lines, "", escape(table.caption)]) + "\n"


def latex(table: Table) -> str:
    """The table in LaTeX, which needs the packages booktabs and graphicx; where it is longer than a page, longtable.

    A float is no wider than the text. What goes over pages cannot be shrunk to that: its headings are stacked.
    """
    spec, metrics = table.spec, table.spec.metrics
    texts = [[text(table, row, column, metric) for metric in metrics for column in table.columns] for row in table.rows]
    rows = [
        [*(escape_latex(shown(value)) for value in row), *map(_stacked, cells)]
        for row, cells in zip(table.rows, texts, strict=True)
    ]
    for cells in rows:
        # After a line's end a bracket would be read as the end's own argument.
        cells[0] = "{}" + cells[0] if cells[0].startswith("[") else cells[0]
    kinds = "l" * len(spec.rows) + "c" * (len(metrics) * len(table.columns))
    caption = rf"\caption{{{escape_latex(table.caption)}}}"
    name = rf"\label{{tab:{re.sub(r'[^A-Za-z0-9:-]', '-', spec.name)}}}"
    body = "\n\\addlinespace[2pt]\n".join(_latex_line(row) for row in rows).splitlines()
    if sum(max(_lines(one) for one in cells) for cells in texts) > PAGE_LINES:
        head = [r"\toprule", *_latex_heads(table, stacked=True), r"\midrule"]
        lines = [
            r"{\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\begin{{longtable}}{{{kinds}}}",
            rf"  {caption} {name} \\",
            *(f"  {line}" for line in [*head, r"\endfirsthead", *head, r"\endhead", r"\bottomrule", r"\endlastfoot"]),
            *(f"  {line}" for line in body),
            r"\end{longtable}}",
        ]
        return "\n".join(lines) + "\n"
    lines = [
        r"\begin{table}",
        r"  \centering",
        f"  {caption}",
        f"  {name}",
        r"  \medskip",
        # A table that fits keeps its size.
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{kinds}}}",
        *(f"    {line}" for line in [r"\toprule", *_latex_heads(table, stacked=False), r"\midrule", *body]),
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_heads(table: Table, *, stacked: bool) -> list[str]:
    """The lines above the rules of a table: metrics, and below them the values of the column choice.

    Args:
        table: of which.
        stacked: whether each word of a heading has a line of its own.
    """
    spec, metrics, wide = table.spec, table.spec.metrics, len(table.columns)

    def head(said: str) -> str:
        parts = [escape_latex(part) for part in said.split()]
        return _latex_stack(parts, "b") if stacked and len(parts) > 1 else " ".join(parts)

    keys = [head(choice_label(key)) for key in spec.rows]
    if not spec.columns:
        return [_latex_line([*keys, *(head(label(metric)) for metric in metrics)])]
    above = [escape_latex(f"{label(metric)}, by {choice_label(spec.columns)}") for metric in metrics]
    spans = [rf"\multicolumn{{{wide}}}{{c}}{{{said}}}" for said in above]
    starts = [len(spec.rows) + 1 + wide * place for place in range(len(metrics))]
    return [
        _latex_line([*("" for _ in spec.rows), *spans]),
        " ".join(rf"\cmidrule(lr){{{start}-{start + wide - 1}}}" for start in starts),
        _latex_line([*keys, *(escape_latex(shown(column)) for _ in metrics for column in table.columns)]),
    ]


def _latex_line(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _latex_stack(lines: Sequence[str], place: str) -> str:
    """Lines below one another in a cell, whose first (t) or last (b) is on the row's own."""
    return rf"\begin{{tabular}}[{place}]{{@{{}}c@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"


def _lines(entry: Text) -> int:
    """How many lines an entry has in LaTeX."""
    return max(1, sum(bool(part) for part in (entry.value, entry.interval, entry.note)))


def comma_separated(table: Table) -> str:
    """Every number of the table with its comparison, a line each, at full precision."""
    keys = [*table.spec.rows, *([table.spec.columns] if table.spec.columns else [])]
    file = io.StringIO()
    writer = csv.DictWriter(file, [*keys, *NUMBERS], lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        for column in table.columns:
            for metric in table.spec.metrics:
                chosen = dict(zip(keys, [*row, column], strict=False))
                writer.writerow(chosen | _numbers(table, row, column, metric))
    return file.getvalue()


def html_table(table: Table, looks: Mapping[str, Mapping[Any, Style]] | None = None) -> Markup:
    """The table as HTML without styles: cells carry `data-value` to sort by, and small lines with all comparisons.

    Args:
        table: to write.
        looks: choice to value to how it is drawn; its colour is the cell's left edge.
    """
    spec, looks = table.spec, looks or {}
    places = [(column, metric) for metric in spec.metrics for column in table.columns]
    heads = [*map(choice_label, spec.rows), *(heading(table, column, metric) for column, metric in places)]
    rows = []
    for row in table.rows:
        cells = []
        for key, value in zip(spec.rows, row, strict=True):
            style = looks.get(key, {}).get(value)
            cells.append(words(shown(value), style.colour if style else ""))
        rows.append([*cells, *(_cell(table, row, column, metric) for column, metric in places)])
    return html(f"table-{spec.name}", heads, rows, len(spec.rows), table.caption)


def _cell(table: Table, row: Key, column: Any, metric: str) -> Cell:
    """An entry with its interval, its difference to the baseline, and what is lacking; its seeds on hovering."""
    entry, said = table.entries[row, column, metric], text(table, row, column, metric)
    value = entry.group.mean.estimate.value if entry.group else None
    lines = [said.interval, _compared(table, row, column, metric), f"({said.note})" if said.value else ""]
    return Cell(
        lines=[said.value or said.note, *filter(None, (line.removeprefix("()") for line in lines))],
        value="" if value is None else value,
        bold=said.bold,
        hover=_seeds(entry, table.decimals[metric] + 1),
    )


def _compared(table: Table, row: Key, column: Any, metric: str) -> str:
    """The difference to the baseline with its p value; "" where there is none."""
    entry, digits = table.entries[row, column, metric], table.decimals[metric]
    change = entry.difference
    if change is None or change.estimate.value is None:
        return ""
    p = "" if entry.p_holm is None else f", {p_value(entry.p_holm)}"
    return f"{change.estimate.value:+.{digits}f}{p}".replace("-", "\N{MINUS SIGN}", 1)


def p_value(p: float) -> str:
    """A p value in words."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def escape_latex(words: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(letter, letter) for letter in words)


def _escape_markdown(words: str) -> str:
    """Text as Markdown prints it, in a table or out of it."""
    return re.sub(r"([\\|*_`<])", r"\\\1", words)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _joined(entry: Text, escape: Callable[[str], str], bold: str, between: str = " ") -> str:
    """An entry: its value, its interval and its note."""
    value = bold.format(escape(entry.value)) if entry.bold else escape(entry.value)
    note = escape(f"({entry.note})" if entry.value and entry.note else entry.note)
    return between.join(part for part in (value, escape(entry.interval), note) if part)


def _stacked(entry: Text) -> str:
    """An entry in LaTeX, its interval and note below the value: a line of them would be wider than a page."""
    # A minus, where a hyphen would be read.
    value, interval = (re.sub(r"-(?=\d)", "$-$", words) for words in (entry.value, entry.interval))
    note = escape_latex(f"({entry.note})" if entry.value and entry.note else entry.note)
    small = [rf"\footnotesize {words}" for words in (interval, note) if words]
    lines = [rf"\textbf{{{value}}}" if entry.bold else value, *small]
    present = [line for line in lines if line]
    if len(present) == 1:
        return present[0]
    return _latex_stack(present, "t")


def _numbers(table: Table, row: Key, column: Any, metric: str) -> dict[str, Any]:
    """The columns `NUMBERS` of an entry, as far as it has them."""
    entry = table.entries[row, column, metric]
    found: dict[str, Any] = {"metric": metric, "lacking": text(table, row, column, metric).note, "bold": entry.bold}
    if group := entry.group:
        own, (least, most) = group.mean.estimate, group.prompts or (None, None)
        found |= {"value": own.value, "low": own.low, "high": own.high, "interval_over": group.mean.interval}
        found |= {"seeds": len(group.outcomes), "seeds_planned": group.planned}
        found |= {"prompts_least": least, "prompts_most": most}
    if place := baseline_of(table.spec, row, column):
        found["baseline"] = _place(table, *place)
    if change := entry.difference:
        to = change.estimate
        found |= {"difference": to.value, "difference_low": to.low, "difference_high": to.high, "paired_seeds": to.n}
        found |= {"paired_prompts": change.prompts, "paired_by": change.paired_by, "p": change.p}
        found |= {"p_holm": entry.p_holm, "detectable": change.detectable}
    return found


def _place(table: Table, row: Key, column: Any) -> str:
    values = dict(zip(table.spec.rows, row, strict=True)) | ({table.spec.columns: column} if table.spec.columns else {})
    return " ".join(f"{key}={shown(value)}" for key, value in values.items())


def _seeds(entry: Entry, digits: int) -> str:
    """The value of each seed, a line each, and what became of the others."""
    if entry.group is None:
        return ""
    lines = [f"seed {seed}: {one.value:.{digits}f}" for seed, one in sorted(entry.group.outcomes.items())]
    lines += [f"interval over {entry.group.mean.interval}"] if entry.group.mean.interval else []
    return "\n".join([*lines, *(f"{count} {status}" for status, count in entry.group.others.items())])
