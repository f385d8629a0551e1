"""What a place in a record is called: in the columns of a report and in W&B alike."""

from collections.abc import Sequence

# Sections of the metrics whose names need no prefix, and sections of a record that have names of their own.
PLAIN = ("answers", "rewards", "lm_eval")
SHORT = ("metrics", "timings", "training", "peak_memory")
# The last parts of a metric's place, and what they put behind its name.
ENDS = {"value": "", "trained": ""} | {
    end: f"_{end}" for end in ("low", "high", "n", "base", "difference", "detectable")
}


def column(place: Sequence[str]) -> str:
    """The readable name of a place in a record, which is given by its keys: `pass_rate_low`, `seconds.training`."""
    section, *rest = place
    if section not in SHORT or not rest:
        return ".".join(place)
    if section == "timings":
        return ".".join(["seconds", *rest])
    if section == "peak_memory":
        return "peak_memory" if rest == ["process"] else "_".join([section, *rest])
    if section == "training":
        return ".".join(rest)
    names = rest[1:] if rest[0] in PLAIN else rest
    if rest[0] == "lm_eval" and len(rest) > 2 and rest[1] in ENDS:
        # lm_eval/base/task/metric/value: which policy it is comes first there, and elsewhere after the metric.
        names = [*rest[2:-1], rest[1], rest[-1]]
    ends: list[str] = []
    while len(names) > 1 and names[-1] in ENDS:
        ends.insert(0, ENDS[names.pop()])
    return ".".join(names) + "".join(ends)
