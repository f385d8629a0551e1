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


@dataclass(frozen=True)
class Balanced:
    """Weights that bring lambda_D n_D / (lambda_U n_U) to a target, for the counts actually trained on.

    The class that has to gain weight gets it, and the other weighs 1. Source: Ethayarajh et al. 2024, arXiv 2402.01306,
    equation 8, which advises 1 to 4/3 (in the later version to 3/2) with one of the weights fixed at 1.

    Attributes:
        target: lambda_D n_D / (lambda_U n_U); 1 weighs the classes as if they were of one size.
    """

    target: float

    def __post_init__(self) -> None:
        """Refuse a target that is not positive."""
        if not self.target > 0:
            raise LabError(f"loss.weighting.target is {self.target}; it must be positive.")

    def weights(self, n_desirable: int, n_undesirable: int) -> Weights:
        """The weights for training data with these counts; both classes must be there."""
        ratio = self.target * n_undesirable / n_desirable
        return Weights(ratio, 1.0) if ratio >= 1 else Weights(1.0, 1 / ratio)
