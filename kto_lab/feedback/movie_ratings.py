"""Individual human ratings of short texts: real thumbs with real noise.

The texts and ratings were published with Hutto & Gilbert 2014 ("VADER", ICWSM-14) and are in the source distribution of
the Python package vaderSentiment: 23,703 texts from four sources, each rated from -4 to 4 by 15 to 100 people. They are
fetched, never shipped. The ratings are of a text's sentiment, not of how helpful an answer is: a policy aligned with
them is steered towards writing that people rate as positive.

A prompt is the first words of a text, its completion the rest: prompt followed by completion is the text.
Texts and ratings per source, and how many of them cannot be used:

| source               | texts  | ratings | ratings of 0 (no thumb) | texts whose ratings differ from the stated mean |
|----------------------|--------|---------|-------------------------|-------------------------------------------------|
| movieReviewSnippets  | 10,605 | 198,810 | 9,968                   | 0                                               |
| amazonReviewSnippets | 3,708  | 74,160  | 14,226                  | 0                                               |
| nytEditorialSnippets | 5,190  | 103,800 | 46,147                  | 0                                               |
| tweets               | 4,200  | 159,750 | 33,015                  | 199                                             |
"""

import json
import logging
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.table import build_table
from kto_lab.files import fetch_from_registry
from kto_lab.hashing import content_hash
from kto_lab.kinds import Seed

SOURCES = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")
REQUIREMENT = "vaderSentiment==3.3.2"
FILENAME = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"

# Stated means have nine digits or more, so a larger difference is not rounding.
_MEAN_TOLERANCE = 1e-3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RatedText:
    """One text with the ratings of all its raters (-4 to 4, in the order of the file)."""

    source: str
    number: str
    text: str
    ratings: tuple[int, ...]

    @property
    def mean(self) -> float:
        """The mean rating."""
        return sum(self.ratings) / len(self.ratings)


def from_ratings(
    *,
    sources: Sequence[str],
    held_out_sources: Sequence[str],
    label: Literal["rater", "consensus"],
    prompt_words: int,
    margin: float,
    max_ratings_per_text: int,
    limit: int | None,
    seed: Seed,
    held_out: float,
) -> Dataset:
    """The table of examples of the rated texts; `group` is the source.

    `desirable` is the sign of one rating or of the mean, `desirable_clean` always the sign of the mean. Left out, and
    counted in the log, are texts without a word after the prompt, texts nearer to neutral than the margin, texts whose
    ratings do not match their stated mean, and training texts that share their prompt with a held-out source. A rating
    of 0 is no thumb. `ratings` are all ratings of the text, whichever label is used, and `rater` is the position of one
    rating among them; the publication does not say whether a position is always the same person.

    Args:
        sources: of SOURCES; their prompts are split by hashing.
        held_out_sources: of SOURCES, none of `sources`; all their texts are in the test split.
        label: thumbs from single raters, or from the mean of all.
        prompt_words: words in the prompt.
        margin: texts whose mean rating is nearer to 0 are left out, whichever label is used, as is a mean of 0.
        max_ratings_per_text: raters drawn per text (1 for "consensus"). A smaller draw is part of a larger one.
        limit: texts drawn per source; None for all. A smaller draw is part of a larger one.
        seed: of the draws.
        held_out: share of the prompts of `sources` in the test split, in [0, 1).

    Raises:
        LabError: a setting is impossible, or the file cannot be fetched or read.
    """
    _check(sources, held_out_sources, label, prompt_words, margin, max_ratings_per_text, limit)
    archive = fetch_from_registry(REQUIREMENT, FILENAME, SHA256, source=True)
    drawn: dict[str, list[tuple[RatedText, str, str]]] = {}
    for source in (*sources, *held_out_sources):
        drawn[source] = _draw(
            read_ratings(archive, source), prompt_words=prompt_words, margin=margin, limit=limit, seed=seed
        )
    reserved = {prompt for source in held_out_sources for _, prompt, _ in drawn[source]}
    for source in sources:
        kept = [item for item in drawn[source] if item[1] not in reserved]
        _log_left_out(source, len(drawn[source]) - len(kept), "share their prompt with a held-out source")
        drawn[source] = kept
    raters = max_ratings_per_text if label == "rater" else None
    rows = (
        {
            **row,
            "prompt": prompt,
            "completion": completion,
            "split": "test" if source in held_out_sources else None,
        }
        for source, items in drawn.items()
        for rated, prompt, completion in items
        for row in _thumbs(rated, raters, seed)
    )
    return build_table(rows, source="movie_ratings", held_out=held_out)


def read_ratings(archive: Path, source: str) -> list[RatedText]:
    """All texts of one source, in the order of the file, except those whose ratings differ from their stated mean.

    Args:
        archive: the source distribution of vaderSentiment.
        source: one of SOURCES.

    Raises:
        LabError: the archive is not as expected.
    """
    lists = {
        number: (ratings, where) for where, (number, _, _, ratings) in _table(archive, source, "anonDataRatings", 4)
    }
    texts, differing = [], 0
    for where, (number, stated, text) in _table(archive, source, "GroundTruth", 3):
        if number not in lists:
            raise LabError(f"{where}: text {number} has no ratings. The archive is not the one that was published.")
        ratings, place = lists[number]
        rated = RatedText(source, number, text.strip(), _ratings(ratings, place))
        if abs(rated.mean - float(stated)) > _MEAN_TOLERANCE:
            differing += 1
        else:
            texts.append(rated)
    _log_left_out(source, differing, "have ratings that differ from their stated mean")
    return texts


def split_text(text: str, words: int) -> tuple[str, str] | None:
    """The first words, and the rest with its leading white space; None where there is no rest."""
    match = re.match(rf"(\S+(?:\s+\S+){{{words - 1}}})(\s+\S.*)", text, flags=re.DOTALL)
    return (match[1], match[2]) if match else None


def _check(
    sources: Sequence[str],
    held_out_sources: Sequence[str],
    label: str,
    prompt_words: int,
    margin: float,
    max_ratings_per_text: int,
    limit: int | None,
) -> None:
    for source in (*sources, *held_out_sources):
        if source not in SOURCES:
            raise LabError(f"feedback.sources: there is no source {source!r}. Known: {', '.join(SOURCES)}.")
    if not sources or len({*sources, *held_out_sources}) < len(sources) + len(held_out_sources):
        raise LabError(
            "feedback.sources needs at least one source, and no source may be named twice or be in "
            "feedback.held_out_sources as well."
        )
    if label not in ("rater", "consensus"):
        raise LabError(f"feedback.label is {label!r}; it must be 'rater' or 'consensus'.")
    if label == "consensus" and max_ratings_per_text != 1:
        raise LabError("feedback.max_ratings_per_text must be 1 with feedback.label=consensus: a text has one mean.")
    if margin < 0:
        raise LabError(f"feedback.margin is {margin}; it must not be negative.")
    counts = {"prompt_words": prompt_words, "max_ratings_per_text": max_ratings_per_text, "limit": limit}
    for key, value in counts.items():
        if value is not None and value < 1:
            raise LabError(f"feedback.{key} is {value}; it must be at least 1.")


def _table(archive: Path, source: str, kind: str, width: int) -> Iterator[tuple[str, list[str]]]:
    """The tab-separated lines of one member, with their places. Members are read by name, and nothing is unpacked."""
    member = f"hutto_ICWSM_2014/{source}_{kind}.txt"
    try:
        with tarfile.open(archive) as outer, tarfile.open(fileobj=outer.extractfile(INNER)) as inner:
            handle = inner.extractfile(member)
            text = handle.read().decode("utf-8-sig") if handle else ""
    except (tarfile.TarError, KeyError, OSError, UnicodeDecodeError) as error:
        raise LabError(f"{archive}: {member} cannot be read ({error}). Delete the file to fetch it again.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            fields = line.rstrip("\r").split("\t")
            if len(fields) != width:
                raise LabError(f"{member}:{number}: there are {len(fields)} fields, expected {width}.")
            yield f"{member}:{number}", fields


def _ratings(text: str, where: str) -> tuple[int, ...]:
    try:
        ratings = json.loads(text)
    except json.JSONDecodeError:
        ratings = None
    if not isinstance(ratings, list) or not ratings or not all(isinstance(value, int) for value in ratings):
        raise LabError(f"{where}: the ratings are {text[:40]!r}, which is not a list of whole numbers.")
    return tuple(ratings)


def _draw(
    texts: list[RatedText], *, prompt_words: int, margin: float, limit: int | None, seed: int
) -> list[tuple[RatedText, str, str]]:
    """Usable texts with their prompt and completion, in the order of the file."""
    usable = []
    short = neutral = 0
    for rated in texts:
        parts = split_text(rated.text, prompt_words)
        if parts is None:
            short += 1
        elif rated.mean == 0 or abs(rated.mean) < margin:
            neutral += 1
        else:
            usable.append((rated, *parts))
    source = texts[0].source if texts else ""
    _log_left_out(source, short, f"have no word after the first {prompt_words}")
    _log_left_out(source, neutral, f"have a mean rating of 0, or nearer to it than {margin}")
    if limit is None or limit >= len(usable):
        return usable
    ranks = sorted(range(len(usable)), key=lambda i: content_hash("text", seed, source, usable[i][0].number))
    return [usable[i] for i in sorted(ranks[:limit])]


def _thumbs(rated: RatedText, raters: int | None, seed: int) -> Iterator[dict[str, Any]]:
    """One row for each of `raters` drawn ratings that are not 0, or one for the mean where `raters` is None."""
    consensus = rated.mean > 0
    row = {
        "where": f"{rated.source}, text {rated.number}",
        "desirable_clean": consensus,
        "group": rated.source,
        "origin": "human",
        "ratings": [float(rating) for rating in rated.ratings],
        "checks": json.dumps({"checker": "sentiment"}),
    }
    if raters is None:
        yield {**row, "desirable": consensus, "score": rated.mean}
        return
    given = [position for position, rating in enumerate(rated.ratings) if rating]
    rng = np.random.default_rng(int(content_hash("raters", seed, rated.source, rated.number), 16))
    for position in sorted(rng.permutation(given)[:raters].tolist()):
        rating = rated.ratings[position]
        yield {**row, "desirable": rating > 0, "score": float(rating), "rater": str(position)}


def _log_left_out(source: str, count: int, why: str) -> None:
    if count:
        logger.info("%s: left out %d texts that %s.", source, count, why)
