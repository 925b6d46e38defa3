"""How large the experiments are: `small` for two cores, `quick` for CI, `full` for a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pgrain.demo import cifar10
from pgrain.demo.paper.cases import Setting

UNRELATED = "Q3:8"
"""Bags: trousers and sneakers have nothing to do with them."""


def sweep(seed: int = 0) -> tuple[str, ...]:
    """Q3 over all ten classes, and twenty random Q1 between two classes (section 6.8.5)."""
    pairs = [(a, b) for a in range(10) for b in range(10) if a != b]
    chosen = np.random.default_rng(seed).choice(len(pairs), 20, replace=False)
    return (tuple(f"Q3:{c}" for c in range(10))
            + tuple("Q1:{}-{}".format(*pairs[i]) for i in sorted(chosen)))


Options = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Scale:
    """rows: training rows by data set; options: of each architecture; sample: rows of the Hessian;
    seeds: of the experiments that give intervals; rates: corruption rates that are swept; cg: steps
    of Rain, long_cg: of figure 3's first seed at the last rate, far beyond the peak; fewer: seeds
    of an architecture at rates other than the last, where they are not as many."""

    name: str
    rows: dict[str, int]
    options: dict[str, Options]
    sample: dict[str, int]
    seeds: int
    rates: tuple[float, ...]
    pairs: int
    cg: int
    long_cg: int
    fewer: Mapping[str, int] = field(default_factory=dict)

    def setting(self, data: str, architecture: str, error: str, **given) -> Setting:
        """A setting at this scale; `given` goes to `Setting`."""
        return Setting(data=data, architecture=architecture, error=error,
                       **{"rows": self.rows[data], "pairs": self.pairs,
                          "sample": self.sample[architecture],
                          "options": self.options.get(architecture, ()), **given})

    def flips(self, data: str, architecture: str, rate: float, seed: int = 0) -> Setting:
        """Table 2's flips on pictures, with all that any figure asks of them: one model serves
        several figures."""
        queries = ("Q1", "Q3", UNRELATED) if data == "fashion" else ("Q1", "Q3")
        swept = (self.name == "full" or (seed == 0 and architecture in ("mlp", "cnn"))
                 or (self.name == "small" and architecture == "logistic_regression"))
        far = data == "mnist" and architecture in ("logistic_regression", "cnn") and not seed
        long = self.long_cg if far and (rate == self.rate or self.name == "full") else self.cg
        return self.setting(data, architecture, "flip", rate=rate, seed=seed, queries=queries,
                            swept=sweep() if swept else (),
                            cg=long)

    def seeds_at(self, architecture: str, rate: float) -> range:
        """Seeds of an architecture in experiments over all rates."""
        return range(self.seeds if rate == self.rate
                     else min(self.seeds, self.fewer.get(architecture, self.seeds)))

    @property
    def wide_resnets(self) -> tuple[str, ...]:
        """Those that are within reach as often as the paper has them: at the full scale alone."""
        return tuple(name for name in self.sample if name.startswith("wide_resnet")
                     and self.name == "full")

    @property
    def colour(self) -> str:
        """What wide residual networks learn: CIFAR-10 where the user has it."""
        return "cifar10" if self.name == "full" and cifar10.folder() else "fashion"

    @property
    def rate(self) -> float:
        """The rate of experiments with a single one."""
        return self.rates[-1]


# Trained until the gradient is 1e-4 of its first size, instead of 1e-6: half the time.
CONVEX: Options = (("tol", 1e-4),)

SCALES = {scale.name: scale for scale in (
    Scale("quick", {"mnist": 2_000, "fashion": 3_000, "adult": 4_000, "reviews": 2_000},
          {"mlp": (("hidden", (32,)), ("epochs", 8)), "logistic_regression": CONVEX},
          {"mlp": 1_000, "logistic_regression": 4_000, "cnn": 500}, 1, (0.4,), 20, 4, 4),
    Scale("small", {"mnist": 8_000, "fashion": 10_000, "adult": 22_000, "reviews": 8_000},
          {"mlp": (("hidden", (128,)),), "logistic_regression": CONVEX,
           "lstm": (("vocabulary", 3_000), ("embedding", 32), ("units", 32))},
          {"mlp": 2_000, "logistic_regression": 5_000, "cnn": 1_000, "lstm": 1_000,
           "wide_resnet_10": 300}, 5, (0.1, 0.2, 0.3, 0.4), 30, 8, 20,
          {"mlp": 3, "cnn": 1}),
    # The paper's sizes, where the data allow: MNIST has 8 000 rows from its package.
    Scale("full", {"mnist": 8_000, "fashion": 60_000, "adult": 22_000, "reviews": 8_000,
                   "cifar10": 50_000},
          {"mlp": (("hidden", (1024, 1024)),), "logistic_regression": CONVEX,
           "cnn": (("channels", (32, 64, 128)), ("hidden", (512,))),
           "lstm": (("embedding", 300), ("units", 200))},
          {"mlp": 10_000, "logistic_regression": 60_000, "cnn": 10_000, "lstm": 8_000,
           "wide_resnet_10": 10_000, "wide_resnet_18": 10_000, "wide_resnet_26": 10_000},
          5, (0.1, 0.2, 0.3, 0.4), 30, 15, 30),
)}
