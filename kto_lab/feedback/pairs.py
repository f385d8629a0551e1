"""Pairs for DPO: the join of desirable with undesirable completions of one prompt."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from kto_lab.errors import LabError
from kto_lab.feedback.table import content_hash

Pair = tuple[int, int]


def make_pairs(table: Dataset, *, seed: int) -> NDArray[np.int64]:
    """Pairs of a desirable and an undesirable completion of one prompt.

    A prompt with d desirable and u undesirable completions gives min(d, u) pairs that share no completion. The pairs of
    a prompt depend on its own examples and the seed alone, not on the order of the table. Two examples with the same
    text make no pair, since it would teach nothing.

    Args:
        table: a table of examples, one split.
        seed: decides which completions meet.

    Returns:
        int64, shape (pairs, 2): the table's row numbers of the desirable and of the undesirable example, prompts in the
        table's order.

    Raises:
        LabError: there is no pair at all.
    """
    prompts: dict[str, tuple[list[int], list[int]]] = {}
    for row, (prompt, desirable) in enumerate(zip(table["prompt_id"][:], table["desirable"][:], strict=True)):
        prompts.setdefault(prompt, ([], []))[0 if desirable else 1].append(row)
    identities, texts = table["example_id"][:], table["completion"][:]
    pairs: list[Pair] = []
    for prompt, sides in prompts.items():
        rng = np.random.default_rng(int(content_hash("pairs", seed, prompt), 16))
        up, down = (
            [rows[i] for i in rng.permutation(len(rows))]
            for rows in (sorted(s, key=identities.__getitem__) for s in sides)
        )
        pairs += _disjoint(up, down, texts)
    if not pairs:
        one_class = sum(not up or not down for up, down in prompts.values())
        raise LabError(
            f"There are no pairs: of {len(prompts)} prompts, {one_class} have completions of one class only, and a "
            "pair needs a desirable and an undesirable completion of one prompt, with different texts. Use a loss that "
            "needs no pairs (kto, sft), or feedback with several completions a prompt."
        )
    return np.array(pairs, dtype=np.int64)


def _disjoint(up: list[int], down: list[int], texts: Sequence[str]) -> list[Pair]:
    """As many pairs as can be without using a completion twice, none of two equal texts."""
    if not {texts[row] for row in up} & {texts[row] for row in down}:
        return list(zip(up, down, strict=False))
    differ = csr_array([[texts[a] != texts[b] for b in down] for a in up])
    partners = maximum_bipartite_matching(differ, perm_type="column")
    return [(a, down[partner]) for a, partner in zip(up, partners, strict=True) if partner >= 0]
