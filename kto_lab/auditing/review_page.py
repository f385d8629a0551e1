"""The reviewer's page: the suspects of an audit, one by one, in an HTML file that stands alone.

Keys decide: keep, flip, drop or skip. Decisions stay in the browser until they are downloaded as decisions.json, which
`kto-lab feedback review` reads. Prompts and completions are a stranger's: the page's script puts them in as text, and a
content security policy lets no other script run and nothing be fetched.
"""

import base64
import hashlib
import importlib.resources
import json
import math
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa

from kto_lab.errors import LabError
from kto_lab.files import write_text
from kto_lab.hashing import content_hash

PAGE = "review.html"
SIGNAL = "signal_"
# Where an example was drawn from all of the audited ones, whatever its suspicion; absent where none was.
AT_RANDOM = "sampled_at_random"

HELP = {
    "k": "keep the thumb: it is right",
    "f": "flip it: the other thumb is right",
    "d": "drop the example: neither thumb can be right",
    "s": "skip: no decision",
    "\N{LEFTWARDS ARROW} \N{RIGHTWARDS ARROW}": "the example before, the next one",
    "n": "the next undecided one",
    "u": "undo the last decision",
    "?": "this help",
}


def write_review(folder: Path, suspects: pa.Table, title: str) -> Path:
    """Write the page for all rows of a table, in the order of their rank; returns its path.

    Args:
        folder: to write into.
        suspects: a row an example, with `example_id`, `rank`, `suspicion`, `prompt` (text or chat messages),
            `completion`, `desirable` (the thumb in doubt), `why` (text), any `signal_<name>` (a number or null), and
            where some were drawn at random `sampled_at_random`. The page does not show the last, which would lead the
            reviewer, and hands it on with the decisions.
        title: of the page.

    Raises:
        LabError: the folder holds a page.
    """
    target = folder / PAGE
    if target.exists():
        raise LabError(f"{target} exists. Choose another output, or remove it to write the page again.")
    write_text(target, page(suspects, title))
    return target


def audit_hash(suspects: pa.Table) -> str:
    """What tells the suspects of one audit from another's: the examples and the thumbs in doubt, in any order."""
    thumbs = zip(suspects["example_id"].to_pylist(), suspects["desirable"].to_pylist(), strict=True)
    return content_hash("audit", sorted(thumbs))


def page(suspects: pa.Table, title: str) -> str:
    """The page as HTML; for the arguments see `write_review`."""
    data = {"audit": audit_hash(suspects), "examples": _examples(suspects)}
    # "<" would let a completion end the element; in JSON it may be spelt otherwise.
    embedded = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    style, script = _resource("review.css"), _resource("review.js")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">'
        f"<title>{escape(title)}</title>"
        f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>\n<body>\n'
        + "\n".join(_body(title, len(suspects)))
        + f'\n<script id="data" type="application/json">{embedded}</script>\n<script>{script}</script>\n'
        "</body></html>\n"
    )


def _policy(style: str, script: str) -> str:
    """Nothing is fetched, and nothing runs but our own style and script, which are known by their hashes."""

    def known(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return f"default-src 'none'; style-src {known(style)}; script-src {known(script)}"


def _resource(name: str) -> str:
    return (importlib.resources.files("kto_lab.auditing") / name).read_text(encoding="utf-8")


def _examples(suspects: pa.Table) -> list[dict[str, Any]]:
    signals = [name for name in suspects.column_names if name.startswith(SIGNAL)]
    rows = sorted(suspects.to_pylist(), key=lambda row: row["rank"])
    return [
        {
            "id": row["example_id"],
            "rank": row["rank"],
            "suspicion": _number(row["suspicion"]),
            "prompt": row["prompt"],
            "completion": row["completion"],
            "desirable": row["desirable"],
            "why": row["why"] or "",
            "signals": [(name.removeprefix(SIGNAL), _number(row[name])) for name in signals],
            "random": bool(row.get(AT_RANDOM)),
        }
        for row in rows
    ]


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _body(title: str, examples: int) -> list[str]:
    return [
        f"<h1>{escape(title)}</h1>",
        f'<div class="bar"><progress id="done" max="{examples}" aria-label="decided"></progress>'
        '<span id="counts"></span></div>',
        '<div class="bar">'
        + _select("state-wanted", "Show", {"": "all", "undecided": "undecided", **dict.fromkeys(_DECISIONS)})
        + _select("thumb-wanted", "given", {"": "any thumb", "up": "thumbs up", "down": "thumbs down"})
        + '<label><input id="words" type="search" placeholder="any words" aria-label="words in the texts"></label>'
        '<label><input id="blind" type="checkbox"> hide the audit\'s doubts</label></div>',
        '<div class="bar"><label>Reviewer <input id="reviewer" autocomplete="off"></label>'
        '<button id="download">Download decisions.json</button>'
        '<button id="show-help" aria-keyshortcuts="?">Keys <kbd>?</kbd></button></div>',
        '<details id="copy-box"><summary>Copy the decisions instead</summary>'
        '<textarea id="result" readonly aria-label="decisions as JSON"></textarea>'
        '<button id="copy">Copy</button></details>',
        '<p id="unkept" class="warning" hidden>This browser keeps nothing for this page: download the decisions before '
        "you close it.</p>",
        '<p id="status" class="hidden" role="status" aria-live="polite"></p>',
        '<p id="none" hidden>No example fits the filter.</p>',
        '<main id="card">',
        '<div class="facts"><h2>Example <span id="where"></span></h2><span id="thumb"></span>'
        '<span id="doubt"></span><span id="state" class="state"></span></div>',
        '<p id="why" dir="auto"></p><p id="signals" class="signals"></p>',
        '<h3>Prompt</h3><div id="prompt"></div>',
        '<h3>Completion that the thumb is on</h3><div id="answer"></div>',
        '<p class="signals">example <code id="identity"></code></p></main>',
        _actions(),
        _help(),
    ]


_DECISIONS = ("keep", "flip", "drop", "skip")


def _select(identity: str, name: str, options: dict[str, str | None]) -> str:
    made = "".join(f'<option value="{value}">{text or value}</option>' for value, text in options.items())
    return f'<label>{name} <select id="{identity}">{made}</select></label>'


def _actions() -> str:
    texts = (
        'Keep <span id="keep-to"></span>',
        'Flip to <span id="flip-to"></span>',
        "Drop",
        "Skip",
    )
    buttons = "".join(
        f'<button data-choice="{choice}" aria-keyshortcuts="{choice[0]}"><kbd>{choice[0]}</kbd> {text}</button>'
        for choice, text in zip(_DECISIONS, texts, strict=True)
    )
    return (
        '<div id="actions" role="toolbar" aria-label="decision">'
        '<button id="previous" aria-label="previous"><kbd>\N{LEFTWARDS ARROW}</kbd></button>'
        f'{buttons}<button id="undo" aria-keyshortcuts="u"><kbd>u</kbd> Undo</button>'
        '<button id="next" aria-label="next"><kbd>\N{RIGHTWARDS ARROW}</kbd></button></div>'
    )


def _help() -> str:
    keys = "".join(f"<dt><kbd>{escape(key)}</kbd></dt><dd>{escape(what)}</dd>" for key, what in HELP.items())
    return (
        '<dialog id="help" aria-label="keys"><dl>' + keys + "</dl><p>Decide by the answer alone: is it what a good "
        "rater would want? Decisions stay in this browser until you download them.</p>"
        '<button id="close-help">Close</button></dialog>'
    )
