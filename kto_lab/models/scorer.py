"""The scorer of a log-probability: together with the sequence, it identifies an entry of the reference store."""

import hashlib
import json
from dataclasses import asdict, dataclass

# Version of the store's format.
FORMAT = 1


@dataclass(frozen=True)
class Scorer:
    """Everything that determines a log-probability except the sequence.

    Attributes:
        model: its name, for people; not part of the key.
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
        """Sixteen hex digits: a hash of everything but the name."""
        deciding = asdict(self) | {"model": "", "format": FORMAT}
        return hashlib.blake2b(json.dumps(deciding, sort_keys=True).encode(), digest_size=8).hexdigest()
