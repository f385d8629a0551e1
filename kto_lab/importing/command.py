"""The command `kto-lab feedback import`: a product's thumbs become a table of examples, with a report.

Rows stream from the reader to a file on disk, are grouped and settled there, and stream into the table: memory does not
grow with their number, only with the largest answer and batch.
"""

import dataclasses
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from kto_lab import console
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.feedback.cut import Longest, cut
from kto_lab.files import atomic_path, scratch_beside, write_json, write_text
from kto_lab.importing.columns import Origin, origin_of
from kto_lab.importing.exports.auto import AutoExport
from kto_lab.importing.guess import Guess, guess
from kto_lab.importing.page import page
from kto_lab.importing.personal import Search
from kto_lab.importing.preview import first_of, refuse_incomplete, show_columns, show_first, show_guess
from kto_lab.importing.repeats import Fate, Settled, settle
from kto_lab.importing.report import Line, Near, Reading, Report, fates, report_of
from kto_lab.importing.request import again, named_words, option_of, request_of, with_path
from kto_lab.importing.screen import Screened, identity, screen
from kto_lab.importing.settings import Settings, settings
from kto_lab.importing.show import show
from kto_lab.importing.stage import Stage
from kto_lab.importing.thumbs import Export, LeftOut, Note, Reason, Row, Thumb
from kto_lab.importing.writing import write_table
from kto_lab.keys import IMPORT

# Rows between two progress messages of reading.
ROWS_A_LINE = 100_000
# Examples left out, and thumbs settled, between two progress messages.
_BLOCK = 1000


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an import was told and what it guessed, for its report; see `Report`."""

    origin: Origin
    guessed: Guess | None
    request: dict[str, Any]


def import_feedback(cfg: DictConfig) -> Path | None:
    """Read an export, write the table and its report, and say what is in it; without `output`, show what it would do.

    Raises:
        LabError: the table or its report exists, or nothing can be imported.
    """
    if cfg["from"] is not None:
        cfg = again(cfg, named_words())
    cfg = with_path(cfg)
    check_keys(cfg, IMPORT)
    target = None if cfg.output is None else Path(cfg.output)
    for file in () if target is None else (target, *report_files(target)):
        if file.exists():
            raise LabError(f"{file} exists. Choose another output, or remove it to import again.")
    how = settings(cfg)
    export, found = instantiate(cfg.export), None
    if isinstance(export, AutoExport):
        found = guess(export)
        show_guess(found)
        if found.missing is not None:
            raise LabError(f"The guess is not complete. {found.missing}")
        cfg.export = found.configured()
        export = instantiate(cfg.export)
    option = option_of(cfg.export)
    origin = origin_of(option, cfg.export, export)
    if found is not None or target is None:
        show_columns(origin)
        first = first_of(export)
        show_first(first)
        if found is not None:
            refuse_incomplete(first, cfg.export)
    if target is None:
        console.say("\nNothing is written yet: the same command with output=thumbs.parquet imports it so.")
        return None
    source = str(cfg.export.get("path") or cfg.export.get("_target_", "export"))
    asked = Asked(origin, found, request_of(cfg, option))
    report = import_thumbs(export, target, how, source=Path(source).name, asked=asked)
    show(report)
    pages = report_files(target)
    console.stage("Files", "The table, and what became of every row.")
    console.show_files({"table": target, "report": pages[0], "numbers": pages[1]})
    console.say(f"    train on it with feedback=collected feedback.path={target}")
    return target


def report_files(target: Path) -> tuple[Path, Path]:
    """The paths of a table's report: the page, and the numbers."""
    return target.with_suffix(".import_report.html"), target.with_suffix(".import_report.json")


def import_thumbs(export: Export, target: Path, how: Settings, *, source: str, asked: Asked | None = None) -> Report:
    """Make the table of an export, and its report beside it.

    Args:
        export: the reader.
        target: the Parquet file to write.
        how: the settings.
        source: what was read, for the report.
        asked: what the import was told, for the report; None: rows alone.

    Raises:
        LabError: the export cannot be read, nothing in it can be imported, or the disk refuses.
    """
    try:
        with scratch_beside(target) as folder:
            stage = Stage(folder / "thumbs.sqlite")
            try:
                return _import(export, stage, target, how, source=source, folder=folder, asked=asked)
            finally:
                stage.close()
    except (sqlite3.Error, OSError) as error:
        raise LabError(
            f"Thumbs could not be kept on disk beside {target}: {error}. An import takes about three times the room of "
            "its export there, and some in the folder for temporary files (SQLITE_TMPDIR names another one)."
        ) from error


def _import(
    export: Export, stage: Stage, target: Path, how: Settings, *, source: str, folder: Path, asked: Asked | None
) -> Report:
    console.stage("Reading", "Every row gives thumbs, or a reason why it does not.")
    search = None
    if how.personal_data != "ignore":
        search = Search(how.phone_region, how.personal_data == "redact", how.places)
    reading = _read(export, stage, search, how)
    console.say(f"    {reading.rows:,} rows, {stage.thumbs:,} thumbs that can be examples")
    if not stage.thumbs:
        raise LabError(_nothing(source, reading))
    console.stage("Examples", "Several thumbs on one answer are settled; the others are examples as they are.")
    stage.sort()
    _settle(stage, how)
    near = _near(stage, how, folder)
    if not stage.examples:
        raise LabError(
            f"{source}: the policies for repeated thumbs leave no example of {stage.thumbs:,} thumbs. "
            f"{_reasons(fates(stage, how.places))}. Choose others (repeats.one_rater, repeats.several_raters), or say "
            "that the rows are in order of time, where they are (repeats.rows_in_order_of_time=true)."
        )
    chat = how.prompt_form == "chat" or stage.chats > 0
    report = report_of(
        stage,
        reading,
        search,
        near,
        source=source,
        settings=how.as_dict(),
        made_chat=stage.thumbs - stage.chats if chat else 0,
    )
    if asked is not None:
        report = dataclasses.replace(report, **vars(asked))
    with atomic_path(target) as partial, console.progress("written", stage.examples) as advance:
        write_table(
            stage,
            partial,
            source=target.stem,
            chat=chat,
            group_by=how.group_by,
            held_out=how.held_out,
            advance=advance,
        )
        # Before the table takes its place: wherever there is a table, there is its report.
        html, numbers = report_files(target)
        write_text(html, page(report))
        write_json(numbers, report.as_dict())
    return report


def _read(export: Export, stage: Stage, search: Search | None, how: Settings) -> Reading:
    """Stage the thumbs of every row, and count what is left out."""
    reading = Reading(how.places)
    longest = Longest()
    for row in export.read():
        if isinstance(row, Note):
            reading.notes += [row.text] if row.text else []
            reading.settled.update(row.settled)
            continue
        row = dataclasses.replace(row, thumbs=tuple(_cut(thumb, export.cut_at, reading) for thumb in row.thumbs))
        for thumb in row.thumbs:
            if isinstance(thumb.completion, str):
                longest.see(thumb.completion, finished=thumb.finished)
        refused = _stage(row, stage, search, how)
        left_out = [*row.left_out, *refused]
        if not row.thumbs and not left_out:
            left_out = [LeftOut(f"row {reading.rows + 1}", Reason.UNREADABLE, "the reader made nothing of it")]
        reading.row(len(row.thumbs), left_out, len(refused))
        if reading.rows % ROWS_A_LINE == 0:
            console.say(f"    {reading.rows:,} rows")
    if reading.cut:
        reading.notes.append(f"{reading.cut:,} answers were cut by the tool that wrote them: they get no end of turn.")
    if told := longest.suspicion("export"):
        reading.notes.append(told)
    return reading


def _cut(thumb: Thumb, cut_at: int | None, reading: Reading) -> Thumb:
    """The thumb, with its answer marked as unfinished where the tool cut it."""
    if not isinstance(thumb.completion, str):
        return thumb
    completion, finished = cut(thumb.completion, cut_at, finished=thumb.finished)
    reading.cut += thumb.finished and not finished
    return dataclasses.replace(thumb, completion=completion, finished=finished)


def _stage(row: Row, stage: Stage, search: Search | None, how: Settings) -> list[LeftOut]:
    """Stage those of a row's thumbs that can be examples, and count the others by reason. A pair stays whole."""
    screened = [screen(thumb, how.max_characters, as_text=how.prompt_form == "text") for thumb in row.thumbs]
    lost = {thumb.pair for thumb, found in zip(row.thumbs, screened, strict=True) if isinstance(found, LeftOut)}
    # The faults themselves come first: the first reason is the row's.
    refused = [found for found in screened if isinstance(found, LeftOut)]
    taken: list[Screened] = []
    for found in screened:
        if isinstance(found, LeftOut):
            continue
        if found.thumb.pair is not None and found.thumb.pair in lost:
            refused.append(LeftOut(found.thumb.where, Reason.OTHER_HALF))
        else:
            taken.append(found if search is None else dataclasses.replace(found, thumb=_searched(found.thumb, search)))
    answers: dict[str, list[bytes]] = {}
    for found in taken:
        if found.thumb.pair is not None:
            answers.setdefault(found.thumb.pair, []).append(identity(found.thumb.prompt, found.thumb.completion)[1])
    for found in taken:
        if found.thumb.pair is None:
            stage.add(found)
            continue
        first, second = answers[found.thumb.pair]
        if first == second:
            refused.append(LeftOut(found.thumb.where, Reason.ONE_ANSWER))
        else:
            own = identity(found.thumb.prompt, found.thumb.completion)[1]
            stage.add(found, second if own == first else first)
    return refused


def _searched(thumb: Thumb, search: Search) -> Thumb:
    """The thumb, with personal data redacted where asked."""
    prompt, completion = search.look(thumb.where, thumb.prompt, thumb.completion)
    if not search.redact:
        return thumb
    return dataclasses.replace(thumb, prompt=prompt, completion=completion, rater=search.rater(thumb.rater))


def _settle(stage: Stage, how: Settings) -> None:
    with console.progress("settled", stage.thumbs) as advance:
        waiting: list[Settled] = []
        done = 0
        for thumbs in stage.answers():
            waiting.append(settle(thumbs, how.policies))
            done += len(thumbs)
            if done >= _BLOCK:
                stage.settle(waiting)
                advance(done)
                waiting, done = [], 0
        stage.settle(waiting)
        advance(done)


def _near(stage: Stage, how: Settings, folder: Path) -> Near | None:
    """Find near duplicates, and leave out those with the same thumb where asked."""
    if how.near_threshold is None:
        return None
    # Imported here: datasketch takes a second, and most imports do not look.
    from kto_lab.importing.near import near_duplicates

    same = contradicting = 0
    places: list[str] = []
    drop = how.near == "drop"
    waiting: list[tuple[int, int]] = []
    halves: dict[str, tuple[int, int]] = {}
    dropped = 0
    with console.progress("compared", stage.examples) as advance:
        for one in near_duplicates(stage, how.near_threshold, folder, advance):
            same += 0 if one.contradicts else len(one.examples)
            contradicting += len(one.examples) if one.contradicts else 0
            if len(places) < how.places:
                places.append(f"{one.where}, like {one.of}")
            if drop and not one.contradicts:
                for place, number, pair_id in one.examples:
                    if pair_id is None:
                        waiting.append((place, number))
                    elif pair_id in halves:
                        waiting += [halves.pop(pair_id), (place, number)]
                    else:
                        # A pair goes as a whole, where both of its answers are nearly others'.
                        halves[pair_id] = place, number
            if len(waiting) >= _BLOCK:
                stage.leave_out(waiting, Fate.NEAR_DUPLICATE)
                dropped, waiting = dropped + len(waiting), []
    stage.leave_out(waiting, Fate.NEAR_DUPLICATE)
    return Near(how.near_threshold, same, dropped + len(waiting), contradicting, places)


def _nothing(source: str, reading: Reading) -> str:
    if not reading.rows:
        return f"{source}: there is no row in it."
    reasons = _reasons(reading.lines())
    return f"{source}: none of {reading.rows:,} rows gives an example. {reasons}. Is this the right kind of export?"


def _reasons(lines: Sequence[Line]) -> str:
    return "; ".join(f"{line.count:,} times {line.reason} ({', '.join(line.places[:1])})" for line in lines[:3])
