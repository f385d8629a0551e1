"""Pairs for DPO: the join of desirable with undesirable completions of one prompt."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from kto_lab.errors import LabError
from kto_lab.feedback.table import content_hash

Pair = tuple[int, int]


def make_pairs(table: Dataset, *, seed: int, max_pairs_per_prompt: int | None) -> NDArray[np.int64]:
    """Pairs of a desirable and an undesirable completion of one prompt.

    A prompt with d desirable and u undesirable completions gives min(d, u) pairs that share no completion, or up to
    `max_pairs_per_prompt`, in which case further combinations use each completion as evenly as possible. The pairs of a
    prompt depend on its own examples and the seed alone, not on the order of the table; a smaller maximum gives the
    first of a larger one's pairs. Two examples with the same text make no pair, since it would teach nothing.

    Args:
        table: a table of examples, one split.
        seed: decides which completions meet.
        max_pairs_per_prompt: the most pairs of one prompt; None for as many as share no completion.

    Returns:
        int64, shape (pairs, 2): the table's row numbers of the desirable and of the undesirable example, prompts in the
        table's order.

    Raises:
        LabError: there is no pair at all.
    """
    if max_pairs_per_prompt is not None and max_pairs_per_prompt < 1:
        raise LabError(f"max_pairs_per_prompt is {max_pairs_per_prompt}; it must be at least 1, or null.")
    prompts: dict[str, tuple[list[int], list[int]]] = {}
    for row, (prompt, desirable) in enumerate(zip(table["prompt_id"], table["desirable"], strict=True)):
        prompts.setdefault(prompt, ([], []))[0 if desirable else 1].append(row)
    identities, texts = list(table["example_id"]), list(table["completion"])
    pairs: list[Pair] = []
    for prompt, sides in prompts.items():
        rng = np.random.default_rng(int(content_hash("pairs", seed, prompt), 16))
        up, down = (
            [rows[i] for i in rng.permutation(len(rows))]
            for rows in (sorted(s, key=identities.__getitem__) for s in sides)
        )
        pairs += _pairs_of_prompt(up, down, texts, max_pairs_per_prompt)
    if not pairs:
        one_class = sum(not up or not down for up, down in prompts.values())
        raise LabError(
            f"There are no pairs: of {len(prompts)} prompts, {one_class} have completions of one class only, and a "
            "pair needs a desirable and an undesirable completion of one prompt, with different texts. Use a loss that "
            "needs no pairs (kto, sft), or feedback with several completions a prompt."
        )
    return np.array(pairs, dtype=np.int64)


def _pairs_of_prompt(up: list[int], down: list[int], texts: Sequence[str], most: int | None) -> list[Pair]:
    """Disjoint pairs first, then, when more are asked for, further combinations."""
    if not up or not down:
        return []
    pairs = _disjoint(up, down, texts)
    if most is None or most <= len(pairs):
        return pairs[:most]
    taken = set(pairs)
    extra = (pair for pair in _rounds(up, down) if pair not in taken and texts[pair[0]] != texts[pair[1]])
    return pairs + list(itertools.islice(extra, most - len(pairs)))


def _disjoint(up: list[int], down: list[int], texts: Sequence[str]) -> list[Pair]:
    """As many pairs as can be without using a completion twice, none of two equal texts."""
    if not {texts[row] for row in up} & {texts[row] for row in down}:
        return list(zip(up, down, strict=False))
    differ = csr_array([[texts[a] != texts[b] for b in down] for a in up])
    partners = maximum_bipartite_matching(differ, perm_type="column")
    return [(a, down[partner]) for a, partner in zip(up, partners, strict=True) if partner >= 0]


def _rounds(up: list[int], down: list[int]) -> Iterator[Pair]:
    """Every combination once, ordered so that use is even at any point.

    Walking both sides in step comes back to the start after lcm(d, u) pairs; the next walk is shifted by one.
    """
    d, u = len(up), len(down)
    walk = math.lcm(d, u)
    return ((up[step % d], down[(step + step // walk) % u]) for step in range(d * u))
