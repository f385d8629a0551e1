"""What the rows of a table so far have been: their identities, and the split and the checks of each prompt."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kto_lab.errors import LabError
from kto_lab.feedback.compact_map import CompactMap, Numbers
from kto_lab.hashing import content_hash, hashes_of_plain

SPLITS = ("train", "test")
# Checks of prompts that are kept as they are, to be shown; a few constraints serve many prompts.
_CHECKS = 10_000


class Known:
    """What the rows so far have been: of each example and each prompt, sixteen bytes."""

    def __init__(self) -> None:
        """Begin before the first row."""
        # How often each example has come.
        self._examples = CompactMap()
        # The checks of each prompt, as a number, and its split in the last bit.
        self._prompts = CompactMap()
        self._checks: dict[int, str] = {}

    def own(self, identity: str) -> str:
        """The identity of an example, or another one where an earlier example has it."""
        key = int(identity, 16)
        times = self._examples.setdefault(key, 1)
        if times is None:
            return identity
        self._examples[key] = times + 1
        return content_hash(identity, times + 1)

    def own_of_all(self, identities: bytes) -> pa.Array:
        """`own` of each of several hashes, from `hashes_of_plain`."""
        keys = _numbers(identities)
        if len(np.unique(keys)) < len(keys) or any(True for _ in self._examples.with_values(keys)):
            return pa.array([self.own(f"{key:016x}") for key in keys.tolist()], pa.string())
        self._examples.add(keys, np.ones_like(keys))
        return texts_of(identities)

    def settle(self, prompt: str, split: str, checks: str, where: str) -> None:
        """LabError where a prompt has another split or other checks than before."""
        key, value = int(prompt, 16), self._settled(split, checks)
        before = self._prompts.setdefault(key, value)
        if before is None:
            return
        if before & 1 != value & 1:
            raise LabError(
                f"{where}: this prompt is in 'train' in one row and in 'test' in another. A held-out prompt must not "
                "be trained on: give all rows of a prompt the same split."
            )
        if before != value:
            raise _other_checks(where, checks, self._checks.get(before >> 1, "others"))

    def settle_all(self, prompts: bytes, held_out: npt.NDArray[np.bool_]) -> bool:
        """`settle` for several different prompts without checks; False, and nothing settled, where one raises.

        Args:
            prompts: their hashes, from `hashes_of_plain`.
            held_out: which of them are in the test split.
        """
        keys = _numbers(prompts)
        values = np.where(held_out, np.uint64(self._settled("test", "")), np.uint64(self._settled("train", "")))
        before = dict(self._prompts.with_values(keys))
        if before:
            new = np.fromiter((key not in before for key in keys.tolist()), bool, len(keys))
            if [before[key] for key in keys[~new].tolist()] != values[~new].tolist():
                return False
            keys, values = keys[new], values[new]
        self._prompts.add(keys, values)
        return True

    def _settled(self, split: str, checks: str) -> int:
        number = hash(checks) & (2**63 - 1)
        if len(self._checks) < _CHECKS:
            self._checks[number] = checks
        return number << 1 | (split == "test")


def split_of(identity: str, held_out: float) -> str:
    """The split of a prompt: a pure function of its identity, hence the same in every run of every sweep.

    Args:
        identity: the prompt's `prompt_id`.
        held_out: share of prompts in the test split, in [0, 1].
    """
    return "test" if int(content_hash("split", identity)[:8], 16) / 16**8 < held_out else "train"


def held_out_of(prompts: bytes, share: float) -> npt.NDArray[np.bool_]:
    """Which of several prompts, given by their hashes, `split_of` has in the test split."""
    names = prompts.hex()
    hashes = hashes_of_plain(("split", names[start : start + 16]) for start in range(0, len(names), 16))
    held: npt.NDArray[np.bool_] = np.frombuffer(hashes, ">u4")[::2] / 16**8 < share
    return held


def texts_of(hashes: bytes) -> pa.Array:
    """Hashes from `hashes_of_plain` in hex, as `content_hash` has them."""
    count = len(hashes) // 8
    offsets = np.arange(0, 16 * count + 1, 16, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(hashes.hex().encode()))


def require_same_checks(seen: dict[str, str], identity: str, checks: str, where: str) -> None:
    """LabError where a prompt has different checks than in an earlier row, so that it is unclear which to use.

    Args:
        seen: `prompt_id` to checks; this row's are added.
        identity: of the row's prompt.
        checks: of the row.
        where: its place.
    """
    if seen.setdefault(identity, checks) != checks:
        raise _other_checks(where, checks, seen[identity])


def _other_checks(where: str, checks: str, earlier: str) -> LabError:
    return LabError(
        f"{where}: this prompt has the checks {checks or 'none'}, and in an earlier row {earlier or 'none'}. They "
        "judge new answers to the prompt: give all its rows the same."
    )


def _numbers(hashes: bytes) -> Numbers:
    return np.frombuffer(hashes, ">u8").astype(np.uint64)
