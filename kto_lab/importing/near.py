"""Near duplicates among examples: the same prompt and the same answer except for a few characters.

Two examples are near when both their prompts and their completions are: the Jaccard similarity of their sets of
five-character pieces is at or above a threshold. Answers whose calls of tools differ are never near. Candidates come
from MinHash signatures and banding (Broder 1997; datasketch), which find most of them, and are then checked on the
texts themselves, so that none is wrongly reported.

Memory does not grow with the texts, and by about 24 bytes per example: the hashes of each band are in their own file,
and bands are processed one after another.
"""

import functools
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from kto_lab.feedback.whole import as_text, without_ids
from kto_lab.importing.screen import as_messages
from kto_lab.importing.stage import Example, Stage

PERMUTATIONS = 64
SEED = 1
# Characters per piece.
PIECE = 5
# Among examples that share a band's hash, each is compared with at most so many mutually dissimilar ones.
LEADERS = 16
# How many texts' pieces are cached.
REMEMBERED = 64
# Examples hashed between two progress messages.
_BLOCK = 1000

Pieces: TypeAlias = NDArray[np.uint64]
# An odd number with its bits well mixed (2^64 over the golden ratio).
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Near:
    """Examples that are nearly equal to earlier ones.

    Attributes:
        examples: position, thumb number and pair of each; they share one answer and one label.
        where: the place in the source of the first of them.
        of: the place in the source of the example that they are near to.
        contradicts: that example has the opposite label.
    """

    examples: list[tuple[int, int, str | None]]
    where: str
    of: str
    contradicts: bool


@dataclass(frozen=True)
class _Text:
    prompt: Pieces
    completion: Pieces
    calls: str
    desirable: bool
    answer: bytes
    where: str


def near_duplicates(stage: Stage, threshold: float, folder: Path, advance: Callable[[int], None]) -> Iterator[Near]:
    """The examples that are near an earlier one, in order.

    An example that is near one with the same label does not itself get near duplicates, so that no chain of small
    differences joins two dissimilar texts. Several thumbs on the very same answer are not near duplicates.

    Args:
        stage: the stage, after settling.
        threshold: of the similarity, in (0, 1].
        folder: for the files of hashes.
        advance: called with how many more examples have been hashed.
    """
    bands = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    files = [folder / f"band-{number}" for number in range(bands.b)]
    places = folder / "places"
    _hash(stage, bands.r, files, places, advance)
    positions = np.fromfile(places, dtype=np.int64)

    @functools.lru_cache(maxsize=REMEMBERED)
    def read(unit: int) -> _Text:
        return _text(stage.example(int(positions[unit])))

    def alike(first: int, second: int) -> bool:
        one, other = read(first), read(second)
        return (
            one.answer != other.answer
            and one.calls == other.calls
            and similarity(one.completion, other.completion) >= threshold
            and similarity(one.prompt, other.prompt) >= threshold
        )

    neighbours: dict[int, set[int]] = {}
    for file in files:
        for earlier, later in _close(np.fromfile(file, dtype=np.uint64), alike, read, neighbours):
            neighbours.setdefault(later, set()).add(earlier)
    left: set[int] = set()
    for unit in sorted(neighbours):
        others = sorted(neighbours[unit] - left)
        text = read(unit)
        same = [other for other in others if read(other).desirable == text.desirable]
        if same:
            left.add(unit)
        if others:
            of = read((same or others)[0]).where
            yield Near(stage.twins(int(positions[unit])), text.where, of, not same)


def pieces(text: str) -> Pieces:
    """The sorted set of hashes of a text's five-character pieces; of the whole text where it is shorter.

    Letter case, white space and Unicode forms of the same character make no difference.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    codes = np.frombuffer(plain.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    width = min(PIECE, codes.size)
    count = codes.size - width + 1
    hashes = np.full(count, width, dtype=np.uint64)
    for place in range(width):
        hashes = (hashes ^ codes[place : place + count]) * _ODD
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes)


def similarity(first: Pieces, second: Pieces) -> float:
    """Jaccard similarity of two sets of pieces, in [0, 1]."""
    common = np.intersect1d(first, second, assume_unique=True).size
    return common / (first.size + second.size - common)


def _text(example: Example) -> _Text:
    prompt = "\n".join(f"{message['role']}: {as_text(message)}" for message in as_messages(example.prompt))
    answer, calls = example.completion, ""
    if not isinstance(answer, str):
        # Within a long answer two calls are alike but for a word.
        calls = without_ids(answer).get("tool_calls", "")
        answer = as_text(answer)
    return _Text(pieces(prompt), pieces(answer), calls, example.desirable, example.answer, example.where)


def _hash(stage: Stage, width: int, files: list[Path], places: Path, advance: Callable[[int], None]) -> None:
    """Write the first place of every answer and label, and for each band its hash to the band's file."""

    def sets(places: BinaryIO) -> Iterator[list[int]]:
        done = 0
        for _, same in groupby(stage.read_examples(), key=lambda example: example.answer):
            labels = set()
            for example in same:
                done += 1
                if example.desirable in labels:
                    continue
                labels.add(example.desirable)
                places.write(np.int64(example.position).tobytes())
                text = _text(example)
                # A piece of a prompt differs from the same piece of a completion.
                both = np.concatenate([text.prompt, text.completion * _ODD])
                yield (both >> np.uint64(32)).tolist()
            if done >= _BLOCK:
                advance(done)
                done = 0
        advance(done)

    with ExitStack() as stack:
        handles = [stack.enter_context(file.open("wb")) for file in files]
        found = sets(stack.enter_context(places.open("wb")))
        for signature in MinHash.generator(found, num_perm=PERMUTATIONS, seed=SEED, hashfunc=int):
            values = signature.hashvalues.astype(np.uint64)[: width * len(files)].reshape(len(files), width)
            hashes = np.zeros(len(files), dtype=np.uint64)
            for column in values.T:
                hashes = (hashes ^ column) * _ODD
                hashes ^= hashes >> np.uint64(29)
            for handle, value in zip(handles, hashes, strict=True):
                handle.write(value.tobytes())


def _close(
    hashes: NDArray[np.uint64],
    alike: Callable[[int, int], bool],
    read: Callable[[int], _Text],
    known: dict[int, set[int]],
) -> Iterator[tuple[int, int]]:
    """Pairs of units, the earlier first, that share a band's hash and are alike."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    shared = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not shared.size:
        return
    # Runs of equal hashes: consecutive places in `shared` belong to one run.
    for run in np.split(shared, np.flatnonzero(np.diff(shared) > 1) + 1):
        members = order[run[0] : run[-1] + 2].tolist()
        leaders: list[int] = []
        for member in members:
            found = [one for one in leaders if one in known.get(member, ()) or alike(one, member)]
            yield from ((one, member) for one in found)
            same = any(read(one).desirable == read(member).desirable for one in found)
            if not same and len(leaders) < LEADERS:
                leaders.append(member)
