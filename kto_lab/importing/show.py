"""An import's report on the terminal, in 80 columns."""

import textwrap

from kto_lab import console
from kto_lab.importing.report import Line, Report, notes

WIDTH = 80
INDENT = " " * 14


def show(report: Report) -> None:
    """Say what became of rows and thumbs, what personal data was found, and the ratio that deployment will see."""
    for note in report.notes:
        console.say(
            textwrap.fill(note, WIDTH, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)
        )
    console.stage("Left out", "Every row and every thumb that is no example, with the reason.")
    console.say(f"    {report.rows:>9,} rows")
    console.say(f"    {report.rows_taken:>9,} of them gave {report.thumbs - report.refused:,} thumbs")
    for line in report.reasons:
        _show_line(line)
    for line in report.fates:
        _show_line(line)
    if not report.reasons and not report.fates:
        console.say("    nothing")
    console.say(f"    {report.examples:>9,} examples of {report.prompts:,} prompts")
    if report.made_chat:
        console.say(f"    {report.made_chat:>9,} thumbs had a plain prompt: it is one user message now")
    for words in notes(report):
        console.say(textwrap.fill(words, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT))
    if report.near is not None:
        _show_near(report)
    if report.personal is not None:
        _show_personal(report)
    console.stage("Thumbs up", "The share that deployment will see, against that of the table (95 % interval).")
    for ratio in report.ratios:
        share = ratio.share
        value = "-" if share.value is None else f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"
        console.say(f"    {value:<22}  {ratio.of} ({share.n:,})")
    override = report.deployment
    if override is not None:
        console.say("    to train for the first of these:")
        console.say(f"    {override}")


def _show_line(line: Line) -> None:
    console.say(f"    {line.count:>9,} {line.reason}")
    for place in line.places[:1]:
        console.say(INDENT + textwrap.shorten(f"first: {place}", WIDTH - len(INDENT), placeholder=" ..."))


def _show_near(report: Report) -> None:
    near = report.near
    assert near is not None
    done = (
        f"{near.dropped:,} left out" if report.settings["near"] == "drop" else "kept (duplicates.near=drop drops them)"
    )
    console.stage("Near duplicates", f"Prompt and completion at least {near.threshold:g} alike (Jaccard).")
    console.say(f"    {near.same:>9,} like an example with the same thumb: {done}")
    console.say(f"    {near.contradicting:>9,} like an example with the other thumb: kept, for the audit")


def _show_personal(report: Report) -> None:
    redacted = report.settings["personal_data"] == "redact"
    why = "Replaced by [EMAIL] and the like." if redacted else "Still there: personal_data=redact takes it out."
    found = [kind for kind in report.personal or () if kind["finds"]]
    console.stage("Personal data", why if found else "Only what has a form is looked for: no names, no addresses.")
    for kind in found:
        console.say(
            f"    {kind['finds']:>9,} {kind['meaning']} in {kind['thumbs']:,} thumbs; first: {kind['places'][0]}"
        )
    if not found:
        console.say("    none found")
