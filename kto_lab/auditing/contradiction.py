"""Signal: near-duplicates with the opposite thumb.

A near-duplicate is an example whose prompt and whose completion are both nearly those of this one; the same text is
one, too. Candidates are found by MinHash (Broder 1997, "On the resemblance and containment of documents") with
datasketch's index, and confirmed by the exact Jaccard similarity of their shingles, so that all that hashes can do is
to miss one.
"""

from dataclasses import dataclass

import numpy as np

from kto_lab.auditing.examples import Bools, Examples, Ints
from kto_lab.auditing.signals import Signal
from kto_lab.errors import LabError

SHINGLE = 4
PERMUTATIONS = 64
# A more frequent text would make its group quadratic, and further examples add little.
MOST_NEIGHBOURS = 200


@dataclass(frozen=True)
class Neighbours:
    """Who is a near-duplicate of whom; no label is in it.

    Attributes:
        text_of: (N,) which text each example is, from 0.
        pairs: texts that are near-duplicates of one another.
    """

    text_of: Ints
    pairs: list[tuple[int, int]]


def neighbours(examples: Examples, *, similarity: float | None) -> Neighbours:
    """The near-duplicates of N examples.

    Args:
        examples: N examples.
        similarity: least Jaccard similarity of prompts and of completions for a near-duplicate, above 0 to 1; None for
            the same text alone (but for white space at its ends).

    Raises:
        LabError: `similarity` is out of range.
    """
    if similarity is not None and not 0 < similarity <= 1:
        raise LabError(f"near_duplicates is {similarity}; it must be above 0 and at most 1, or null.")
    texts: dict[tuple[str, str], int] = {}
    # Case and inner white space stay: a form that was asked for may turn on them.
    keys = [(p.strip(), c.strip()) for p, c in zip(examples.prompts, examples.completions, strict=True)]
    text_of = np.array([texts.setdefault(key, len(texts)) for key in keys], dtype=np.int64)
    return Neighbours(text_of, [] if similarity is None else near_pairs(list(texts), similarity))


def contradiction(near: Neighbours, labels: Bools) -> Signal:
    """(1 + thumbs up) / (2 + thumbs) among the near-duplicates of each example, itself left out; silent without any."""
    thumbs = np.bincount(near.text_of).astype(float)
    ups = np.bincount(near.text_of, labels, minlength=len(thumbs))
    near_thumbs, near_ups = thumbs.copy(), ups.copy()
    for left, right in near.pairs:
        for here, there in ((left, right), (right, left)):
            near_thumbs[here] += thumbs[there]
            near_ups[here] += ups[there]
    others = near_thumbs[near.text_of] - 1
    up = np.where(others > 0, (1 + near_ups[near.text_of] - labels) / (2 + others), 0.5)
    return Signal("contradiction", up, others > 0)


def near_pairs(texts: list[tuple[str, str]], similarity: float) -> list[tuple[int, int]]:
    """Pairs of different texts (prompt, completion) that are near-duplicates, each once, in order."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS)
    shingled = [(_shingles(prompt), _shingles(completion)) for prompt, completion in texts]
    found = []
    for place, (prompt, completion) in enumerate(shingled):
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([b"p" + part.encode() for part in prompt] + [b"c" + part.encode() for part in completion])
        candidates = sorted(index.query(sketch))[:MOST_NEIGHBOURS]
        found += [
            (other, place)
            for other in candidates
            if min(_jaccard(shingled[other][0], prompt), _jaccard(shingled[other][1], completion)) >= similarity
        ]
        index.insert(place, sketch)
    return found


def _shingles(text: str) -> frozenset[str]:
    """Runs of SHINGLE characters; a shorter text is one of its own."""
    return frozenset(text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1)))


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)
