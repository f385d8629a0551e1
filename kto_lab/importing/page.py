"""The report of an import as a page: one HTML file without anything to fetch; every text in it is escaped."""

from collections.abc import Sequence
from html import escape

from kto_lab.importing.report import Line, Report, notes
from kto_lab.importing.tallies import OTHERS, Balance, Ratio
from kto_lab.statistics import proportion_interval

# Pixels of the longest bar, of a bar's height, and of the axis of shares.
BAR, HEIGHT, AXIS = 260, 9, 260
UP, DOWN = "#1b5e8c", "#e3a583"
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .6rem 0 1.2rem; font-size: .85rem;
  min-width: min(44rem, 100%); }
th, td { text-align: left; padding: .25rem .7rem; vertical-align: top; }
thead th { border-top: 2px solid #1a1a1a; border-bottom: 1px solid #1a1a1a; vertical-align: bottom; }
tbody th { font-weight: normal; overflow-wrap: anywhere; max-width: 26rem; }
tbody tr:last-child > * { border-bottom: 2px solid #1a1a1a; } tbody tr:hover { background: #f2f5f7; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tr.sum > * { border-top: 1px solid #999; font-weight: 600; } .quiet, .note { color: #555; }
td.places { overflow-wrap: anywhere; max-width: 30rem; color: #555; } ul { margin: 0; padding-left: 1rem; }
svg { display: block; } svg text { font: 11px system-ui, sans-serif; fill: #555; }
.flow { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; margin: 1rem 0; }
.flow div { border: 1px solid #bbb; border-radius: 4px; padding: .4rem .9rem; } .flow b { font-size: 1.3rem; }
.flow .last { border-color: #1b5e8c; background: #eef4f8; }
.key i { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .9em; }
code { background: #f4f4f4; padding: .1rem .3rem; overflow-wrap: anywhere; }
"""


def page(report: Report) -> str:
    """The report as HTML."""
    parts = [
        f"<h1>Import of {escape(report.source)}</h1>",
        _flow(report),
        *(_note(note) for note in report.notes),
        "<h2>Rows that gave no thumb, and thumbs that can be no example</h2>",
        _reasons(report),
        "<h2>Thumbs that are no example of their own</h2>",
        _fates(report),
        _near(report),
        _personal(report),
        "<h2>The ratio that deployment will see</h2>",
        _ratios(report),
        "<h2>Class balance</h2>",
        f'<p class="key">Upper bar: thumbs, less exact duplicates. Lower bar: the examples that they became. '
        f'<i style="background:{UP}"></i>up <i style="background:{DOWN}"></i>down</p>',
        *(_balance(name, rows) for name, rows in report.balances.items()),
        "<h2>Settings</h2>",
        _table(("key", ""), [(escape(str(name)), escape(str(value))) for name, value in report.settings.items()]),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Import of {escape(report.source)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        "<body>\n" + "\n".join(part for part in parts if part) + "\n</body></html>\n"
    )


def _flow(report: Report) -> str:
    steps = [
        (report.rows, "rows in"),
        (report.rows_taken, "rows with a thumb"),
        (report.thumbs - report.refused, "thumbs"),
        (report.examples, "examples"),
    ]
    boxes = [
        f"<div{' class=last' if name == 'examples' else ''}><b>{count:,}</b><br>{name}</div>" for count, name in steps
    ]
    chat = f" {report.made_chat:,} plain prompts became one user message." if report.made_chat else ""
    told = "".join(f"<p>{escape(words)}</p>" for words in notes(report))
    return (
        f'<div class="flow">{"<span>&rarr;</span>".join(boxes)}</div>'
        f"<p>The examples answer {report.prompts:,} prompts.{chat}</p>{told}"
    )


def _reasons(report: Report) -> str:
    left = report.rows - report.rows_taken
    rows = [_line(line, report.rows) for line in report.reasons]
    rows.append((_sum("all rows that gave nothing"), "", f"{left:,}", _percent(left, report.rows), ""))
    note = (
        f"{report.rows:,} rows = {report.rows_taken:,} that gave thumbs + {left:,} that gave none. A row with several "
        "answers can give thumbs and have something left out; that is in the times, not in the rows."
    )
    return _table(("reason", "#times", "#rows", "#of rows", "first places"), rows) + _note(note)


def _fates(report: Report) -> str:
    thumbs = report.thumbs - report.refused
    left = sum(line.count for line in report.fates)
    rows = [
        (escape(line.reason), f"{line.count:,}", _percent(line.count, thumbs), _places(line.places))
        for line in report.fates
    ]
    rows.append((_sum("all of these"), f"{left:,}", _percent(left, thumbs), ""))
    note = f"{thumbs:,} thumbs = {report.examples:,} examples + {left:,} that are none."
    return _table(("reason", "#thumbs", "#of thumbs", "first places"), rows) + _note(note)


def _near(report: Report) -> str:
    near = report.near
    if near is None:
        return ""
    rows = [
        (
            "with the same thumb",
            f"{near.same:,}",
            f"{near.dropped:,} left out" if report.settings["near"] == "drop" else "kept",
        ),
        ("with the other thumb", f"{near.contradicting:,}", "kept"),
    ]
    note = f"Prompt and completion at least {near.threshold:g} alike: Jaccard similarity of their five-letter pieces."
    return (
        "<h2>Near duplicates</h2>"
        + _table(("examples like an earlier one", "#", "what is done"), rows)
        + _note(note)
        + (f'<p class="quiet">First: {_places(near.places)}</p>' if near.places else "")
    )


def _personal(report: Report) -> str:
    head = "<h2>Personal data</h2>"
    if report.personal is None:
        return head + _note("Not looked for (personal_data=ignore).")
    rows = [
        (escape(kind["meaning"]), f"{kind['finds']:,}", f"{kind['thumbs']:,}", _places(kind["places"]))
        for kind in report.personal
    ]
    if not any(kind["finds"] for kind in report.personal):
        note = "None was found."
    elif report.settings["personal_data"] == "redact":
        note = (
            "Replaced by [EMAIL], [PHONE], [CARD], [IBAN] and [KEY] before anything else was done, so that prompts "
            "which differed by it alone are one prompt now, and identities are those of the replaced texts."
        )
    else:
        note = "It is still in the table: personal_data=redact takes it out."
    return (
        head
        + _table(("kind", "#times", "#thumbs", "first places"), rows)
        + _note(f"{note} Only what has a form is looked for: no names, no postal addresses.")
    )


def _ratios(report: Report) -> str:
    rows = [
        (
            escape(ratio.of),
            f"{ratio.up:,}",
            f"{ratio.down:,}",
            _share(ratio.up, ratio.down),
            _interval(ratio),
        )
        for ratio in report.ratios
    ]
    table = _table(("", "#up", "#down", "#share up", "95 % interval (Wilson), from 0 to 1"), rows)
    override = (
        f"<p>To train for the first of these: <code>{escape(report.deployment)}</code></p>" if report.deployment else ""
    )
    note = "The intervals take thumbs as independent; thumbs of few people, or on few prompts, say less than that."
    return table + override + _note(note)


def _balance(name: str, rows: Sequence[Balance]) -> str:
    # Beside the sum of all others every bar would be a dot.
    own = [row for row in rows if row.name != OTHERS]
    longest = max((max(row.up + row.down, row.examples_up + row.examples_down) for row in own), default=1)
    cells = [
        (
            escape(row.name),
            f"{row.up:,}",
            f"{row.down:,}",
            _share(row.up, row.down),
            "" if row.name == OTHERS else _bars(row, longest),
            f"{row.examples_up:,}",
            f"{row.examples_down:,}",
            _share(row.examples_up, row.examples_down),
        )
        for row in rows
    ]
    heads = ("", "#thumbs up", "#down", "#share up", "", "#examples up", "#down", "#share up")
    return f"<h3>{escape(name[:1].upper() + name[1:])}</h3>" + _table(heads, cells)


def _bars(row: Balance, longest: int) -> str:
    drawn = []
    for place, (up, down) in enumerate(((row.up, row.down), (row.examples_up, row.examples_down))):
        left, right = (BAR * count / max(longest, 1) for count in (up, down))
        y = place * (HEIGHT + 1)
        drawn.append(f'<rect x="0" y="{y}" width="{left:.1f}" height="{HEIGHT}" fill="{UP}"/>')
        drawn.append(f'<rect x="{left:.1f}" y="{y}" width="{right:.1f}" height="{HEIGHT}" fill="{DOWN}"/>')
    words = f"{row.up} up, {row.down} down; examples {row.examples_up} up, {row.examples_down} down"
    return (
        f'<svg role="img" aria-label="{words}" width="{BAR}" height="{2 * HEIGHT + 1}"><title>{words}</title>'
        f"{''.join(drawn)}</svg>"
    )


def _interval(ratio: Ratio) -> str:
    share = ratio.share
    if share.value is None or share.low is None or share.high is None:
        return ""
    low, middle, high = (AXIS * value for value in (share.low, share.value, share.high))
    words = f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"
    return (
        f'<svg role="img" aria-label="{words}" width="{AXIS + 130}" height="16"><title>{words}</title>'
        f'<line x1="0" y1="8" x2="{AXIS}" y2="8" stroke="#ddd"/>'
        f'<line x1="{low:.1f}" y1="8" x2="{high:.1f}" y2="8" stroke="{UP}" stroke-width="3"/>'
        f'<circle cx="{middle:.1f}" cy="8" r="4" fill="{UP}"/><text x="{AXIS + 8}" y="12">{words}</text></svg>'
    )


def _line(line: Line, rows: int) -> tuple[str, ...]:
    own = line.rows or 0
    return escape(line.reason), f"{line.count:,}", f"{own:,}", _percent(own, rows), _places(line.places)


def _places(places: Sequence[str]) -> str:
    return "<br>".join(escape(place) for place in places)


def _share(up: int, down: int) -> str:
    share = proportion_interval(up, up + down)
    if share.value is None:
        return "-"
    return f'<span title="95 % interval [{share.low:.3f}, {share.high:.3f}]">{share.value:.3f}</span>'


def _percent(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"


def _sum(words: str) -> str:
    return f"<b>{words}</b>"


def _note(words: str) -> str:
    return f'<p class="note">{escape(words)}</p>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells; a heading that starts with # is of numbers."""
    numbers = [head.startswith("#") for head in heads]
    classes = [' class="n"' if number else "" for number in numbers]
    head = "".join(f"<th{kind}>{escape(name.lstrip('#'))}</th>" for name, kind in zip(heads, classes, strict=True))
    lines = [
        f"<tr><th>{first}</th>{''.join(f'<td{k}>{cell}</td>' for cell, k in zip(rest, classes[1:], strict=True))}</tr>"
        for first, *rest in rows
    ]
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
