"""A mapping between 64-bit numbers that takes little more memory than the numbers themselves."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint64]

# The latest entries are in a dictionary, which takes some hundred bytes for each: at most this many, or one in this
# many of the others.
_LATEST, _SHARE = 1 << 15, 16


class CompactMap:
    """64-bit numbers by 64-bit numbers, at sixteen bytes per entry but for the latest ones."""

    def __init__(self) -> None:
        """Begin with no entry."""
        self._latest: dict[int, int] = {}
        self._keys: Numbers = np.empty(0, np.uint64)
        self._values: Numbers = np.empty(0, np.uint64)

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._latest) + len(self._keys)

    def setdefault(self, key: int, value: int) -> int | None:
        """The value of a key; where it has none, it gets this one, and None is returned."""
        before = self._latest.get(key)
        if before is not None:
            return before
        place = self._place(key)
        if place is not None:
            return int(self._values[place])
        self._latest[key] = value
        self._make_room()
        return None

    def __setitem__(self, key: int, value: int) -> None:
        """Change the value of a key that has one."""
        if key in self._latest:
            self._latest[key] = value
        else:
            self._values[np.searchsorted(self._keys, np.uint64(key))] = value

    def with_values(self, keys: Numbers) -> Iterator[tuple[int, int]]:
        """The keys that have a value, each with its value."""
        if len(self._keys):
            places = np.searchsorted(self._keys, keys)
            places[places == len(self._keys)] = 0
            old = np.flatnonzero(self._keys[places] == keys)
            yield from zip(keys[old].tolist(), self._values[places[old]].tolist(), strict=True)
        listed = keys.tolist()
        if not self._latest.keys().isdisjoint(listed):
            yield from ((key, self._latest[key]) for key in listed if key in self._latest)

    def add(self, keys: Numbers, values: Numbers) -> None:
        """Set the values of keys that have none."""
        self._latest.update(zip(keys.tolist(), values.tolist(), strict=True))
        self._make_room()

    def _place(self, key: int) -> int | None:
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        return place if place < len(self._keys) and self._keys[place] == key else None

    def _make_room(self) -> None:
        if len(self._latest) <= max(_LATEST, len(self._keys) // _SHARE):
            return
        added = len(self._latest)
        keys = np.concatenate((self._keys, np.fromiter(self._latest.keys(), np.uint64, added)))
        values = np.concatenate((self._values, np.fromiter(self._latest.values(), np.uint64, added)))
        order = np.argsort(keys, kind="stable")
        self._keys, self._values = keys[order], values[order]
        self._latest = {}
