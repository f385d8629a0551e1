"""A table as Markdown, LaTeX (booktabs), CSV (full precision, all comparisons) and HTML."""

import csv
import html
import io
import re
from collections.abc import Callable
from typing import Any

from kto_lab.reports.specs import label, shown
from kto_lab.reports.tables import Key, Table, Text, baseline_of, heading, text

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
    """The table as a LaTeX float, no wider than the text; it needs the packages booktabs and graphicx."""
    spec, metrics, wide = table.spec, table.spec.metrics, len(table.columns)
    places = [(column, metric) for metric in metrics for column in table.columns]
    rows = [
        [*(escape_latex(shown(value)) for value in row)]
        + [_stacked(text(table, row, column, metric)) for column, metric in places]
        for row in table.rows
    ]
    heads = [[*map(escape_latex, spec.rows), *(escape_latex(label(metric)) for metric in metrics)]]
    rules = []
    if spec.columns:
        above = [escape_latex(f"{label(metric)}, by {spec.columns}") for metric in metrics]
        spans = [rf"\multicolumn{{{wide}}}{{c}}{{{words}}}" for words in above]
        first = len(spec.rows) + 1
        starts = [first + wide * place for place in range(len(metrics))]
        rules = [" ".join(rf"\cmidrule(lr){{{start}-{start + wide - 1}}}" for start in starts)]
        values = [escape_latex(shown(column)) for column, _ in places]
        heads = [[*("" for _ in spec.rows), *spans], [*map(escape_latex, spec.rows), *values]]
    for cells in rows:
        # After a line's end a bracket would be read as the end's own argument.
        cells[0] = "{}" + cells[0] if cells[0].startswith("[") else cells[0]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(table.caption)}}}",
        rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9:-]', '-', spec.name)}}}",
        r"  \medskip",
        # A table that fits keeps its size.
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{'l' * len(spec.rows)}{'c' * len(places)}}}",
        r"    \toprule",
        f"    {' & '.join(heads[0])} \\\\",
        *(f"    {rule}" for rule in rules),
        *(f"    {' & '.join(head)} \\\\" for head in heads[1:]),
        r"    \midrule",
        *"\n    \\addlinespace[2pt]\n".join(f"    {' & '.join(row)} \\\\" for row in rows).splitlines(),
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


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


def html_table(table: Table) -> str:
    """The table as HTML without styles. Cells carry `data-value` to sort by, and all they know as hover text."""
    spec, escape = table.spec, html.escape
    places = [(column, metric) for metric in spec.metrics for column in table.columns]
    heads = [*spec.rows, *(heading(table, column, metric) for column, metric in places)]
    lines = [f'<table id="table-{escape(spec.name)}" data-keys="{len(spec.rows)}">']
    lines.append(f"<caption>{escape(table.caption)}</caption>")
    lines.append("<thead><tr>" + "".join(f"<th>{breakable(head)}</th>" for head in heads) + "</tr></thead><tbody>")
    for row in table.rows:
        cells = [f'<th data-value="{escape(shown(value))}">{escape(shown(value))}</th>' for value in row]
        for column, metric in places:
            found = table.entries[row, column, metric].group
            value = "" if found is None or found.mean.estimate.value is None else found.mean.estimate.value
            words = _joined(text(table, row, column, metric), escape, "<b>{}</b>", between="<br>")
            hover = escape(_hover(table, row, column, metric))
            cells.append(f'<td data-value="{value}" title="{hover}">{words}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody></table>"]) + "\n"


def breakable(words: str) -> str:
    """A heading as HTML that may be broken within the name of a key: its column is no wider than its numbers."""
    return re.sub(r"([._])(?=[a-z])", r"\1<wbr>", html.escape(words))


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
    return r"\begin{tabular}[t]{@{}c@{}}" + r" \\ ".join(present) + r"\end{tabular}"


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


def _hover(table: Table, row: Key, column: Any, metric: str) -> str:
    """All that is known of an entry, a line each."""
    entry, digits = table.entries[row, column, metric], table.decimals[metric] + 1
    lines = [f"{label(metric)}: {_place(table, row, column)}"]
    if entry.group:
        lines += [f"seed {seed}: {one.value:.{digits}f}" for seed, one in sorted(entry.group.outcomes.items())]
        lines += [f"interval over {entry.group.mean.interval}"] if entry.group.mean.interval else []
        lines += [f"{count} {status}" for status, count in entry.group.others.items()]
    change = entry.difference
    if change and change.estimate.value is not None:
        ends = change.estimate.low, change.estimate.high
        interval = (
            "" if None in ends else " [" + ", ".join(f"{end:+.{digits}f}" for end in ends if end is not None) + "]"
        )
        lines.append(f"difference to the baseline {change.estimate.value:+.{digits}f}{interval}")
        if entry.p_holm is not None:
            lines.append(f"p {change.p:.2g}, after Holm {entry.p_holm:.2g}; paired by {change.paired_by}")
    return "\n".join(lines)
