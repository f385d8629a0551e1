"""How much a desirable and an undesirable example weigh: lambda_D and lambda_U."""

from dataclasses import dataclass

from kto_lab.errors import LabError


@dataclass(frozen=True)
class Weights:
    """lambda_D and lambda_U."""

    desirable: float
    undesirable: float


@dataclass(frozen=True)
class Fixed:
    """The two weights as given. The paper advises lambda_D n_D / (lambda_U n_U) between 1 and 3/2."""

    lambda_desirable: float = 1.0
    lambda_undesirable: float = 1.0

    def __post_init__(self) -> None:
        """Refuse weights that are negative, or both zero."""
        if (
            min(self.lambda_desirable, self.lambda_undesirable) < 0
            or self.lambda_desirable + self.lambda_undesirable == 0
        ):
            raise LabError("loss.weighting: lambda_desirable and lambda_undesirable must not be negative, nor both 0.")

    def weights(self, n_desirable: int, n_undesirable: int) -> Weights:
        """The weights for training data with these counts."""
        return Weights(self.lambda_desirable, self.lambda_undesirable)
