"""Who gives a log-probability: what the reference store knows one by, beside the sequence."""

import hashlib
import json
from dataclasses import asdict, dataclass

# Of what the store writes.
FORMAT = 1


@dataclass(frozen=True)
class Scorer:
    """All that decides a log-probability beside the sequence.

    Attributes:
        model: its name, for people; it decides nothing.
        weights: hash of the reference's weights.
        config: hash of the model's configuration.
        number_format: Lightning's name of it.
        device: kind of device.
        software: versions of what computes.
        code: hash of the code that scores.
    """

    model: str
    weights: str
    config: str
    number_format: str
    device: str
    software: str
    code: str

    @property
    def key(self) -> str:
        """Sixteen hex digits of all but the name."""
        deciding = asdict(self) | {"model": "", "format": FORMAT}
        return hashlib.blake2b(json.dumps(deciding, sort_keys=True).encode(), digest_size=8).hexdigest()
