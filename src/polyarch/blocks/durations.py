"""How long things take: durations with a mean and a distribution, as queueing theory has them."""

from __future__ import annotations

import math
from typing import Literal

from polyarch.core.randomness import Random

__all__ = ["Distribution", "Durations"]

Distribution = Literal["deterministic", "exponential", "erlang", "uniform", "hyperexponential"]
"""Always the same; memoryless; a sum of ``shape`` exponential phases; from 0 to twice the mean; one of two
exponential phases with *balanced means*, so that the squared coefficient of variation is ``shape``."""


class Durations:
    """A stream of durations in seconds.

    ``shape``: of an Erlang distribution its phases (at least 1), of a hyperexponential one its squared
    coefficient of variation (at least 1); the others have none."""

    def __init__(self, mean: float, distribution: Distribution = "exponential", shape: float = 4.0) -> None:
        if not mean >= 0 or math.isinf(mean):
            raise ValueError(f"a mean duration of {mean}; it must be 0 or more")
        if shape < 1 or (distribution == "erlang" and shape != int(shape)):
            wanted = "a whole number of phases" if distribution == "erlang" else "1 or more"
            raise ValueError(f"a shape of {shape:g} for {distribution}: {wanted} is needed")
        self.mean = mean
        self.distribution = distribution
        self.shape = shape
        # Balanced means (Morse, 1958): each of the two kinds makes up half of the time.
        self._often = (1 + math.sqrt((shape - 1) / (shape + 1))) / 2

    @property
    def variability(self) -> float:
        """The squared coefficient of variation: variance / mean^2."""
        return {
            "deterministic": 0.0,
            "exponential": 1.0,
            "erlang": 1 / self.shape,
            "uniform": 1 / 3,
            "hyperexponential": self.shape,
        }[self.distribution]

    def draw(self, random: Random) -> float:
        """The next one."""
        mean = self.mean
        if mean == 0:
            return 0.0
        if self.distribution == "deterministic":
            return mean
        if self.distribution == "exponential":
            return random.exponential(mean)
        if self.distribution == "uniform":
            return 2 * mean * random.random()
        if self.distribution == "erlang":
            product = 1.0
            for _ in range(int(self.shape)):
                product *= 1.0 - random.random()
            return -mean / self.shape * math.log(product)
        share = self._often if random.random() < self._often else 1 - self._often
        return random.exponential(mean / (2 * share))
