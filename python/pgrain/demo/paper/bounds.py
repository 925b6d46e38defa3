"""What `make paper-quick` insists on: loose, but a change that ruins a ranking breaks one of them.

The quick scale is small (2 000-4 000 rows, one seed), so the bounds lie well below what was
measured there; the real numbers are in docs/paper.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pgrain.demo.paper.cases import Setting
from pgrain.demo.paper.experiments import jobs_of
from pgrain.demo.paper.records import Job
from pgrain.demo.paper.scales import SCALES, UNRELATED

QUICK = SCALES["quick"]
BRIGHT = QUICK.setting("fashion", "mlp", "bright", queries=("Q3",), cg=QUICK.cg)
FLIPS = QUICK.flips("fashion", "mlp", QUICK.rate)
ADULT = QUICK.setting("adult", "logistic_regression", "male_private", rate=0.6,
                      queries=("Q4", "Q5", "Q6", "Q7"), cg=4)
NOISE = QUICK.setting("fashion", "mlp", "salt_and_pepper", rate=0.9, queries=("Q3",),
                      denoise=True, baselines=False)
MARKED = QUICK.setting("fashion", "mlp", "marked", queries=("Q3",))


@dataclass(frozen=True)
class Bound:
    """holds: a record -> (measured value, does the bound hold)."""

    setting: Setting
    says: str
    holds: Callable[[dict], tuple[float, bool]]

    @property
    def job(self) -> Job:
        return jobs_of([self.setting])[0]


def automatic(record: dict, query: str) -> float:
    """AUC_R of Rain++ at the k that the inflection rule takes."""
    return record["queries"][query]["rain++"][record["k"] - 1]


def _least(query: str, floor: float) -> Callable[[dict], tuple[float, bool]]:
    def holds(record):
        value = automatic(record, query)
        return value, value >= floor
    return holds


def _at(query: str, what: str, floor: float) -> Callable[[dict], tuple[float, bool]]:
    """A number, or of a list the value at the automatic k (`denoise`), else the best one; of
    `rain++`, the best k other than that one, which is computed otherwise."""
    def holds(record):
        found, k = record["queries"][query][what], record["k"]
        value = (found if isinstance(found, float) else found[k - 1] if what == "denoise"
                 else max(found[:k - 1] + found[k:]) if what == "rain++" else max(found))
        return value, value >= floor
    return holds


def _ahead(query: str, other: str, margin: float) -> Callable[[dict], tuple[float, bool]]:
    def holds(record):
        value = automatic(record, query) - record["queries"][query][other]
        return value, value >= margin
    return holds


def _near_chance(query: str, room: float) -> Callable[[dict], tuple[float, bool]]:
    def holds(record):
        value = automatic(record, query) - record["chance"]
        return value, value <= room
    return holds


def _order(better: str, worse: str, margin: float) -> Callable[[dict], tuple[float, bool]]:
    def holds(record):
        value = automatic(record, better) - automatic(record, worse)
        return value, value >= margin
    return holds


BOUNDS = (
    Bound(BRIGHT, "bright trousers: AUC_R >= 0.80", _least("Q3", 0.80)),
    Bound(BRIGHT, "bright trousers: 0.02 ahead of gradient_dot",
          _ahead("Q3", "gradient_dot", 0.02)),
    Bound(BRIGHT, "bright trousers: far ahead of the loss", _ahead("Q3", "loss", 0.4)),
    Bound(FLIPS, "trousers to sneakers: AUC_R >= 0.93", _least("Q3", 0.93)),
    Bound(FLIPS, "trousers to sneakers, join-count: AUC_R >= 0.80", _least("Q1", 0.80)),
    Bound(FLIPS, "control, a query about bags: 0.4 behind the query about trousers",
          _order("Q3", UNRELATED, 0.4)),
    Bound(FLIPS, "trousers to sneakers, the best other k: AUC_R >= 0.95",
          _at("Q3", "rain++", 0.95)),
    Bound(FLIPS, "trousers to sneakers, Rain at its best step: AUC_R >= 0.93",
          _at("Q3", "rain", 0.93)),
    Bound(FLIPS, "trousers to sneakers: nine of ten relabellings back are welcome",
          _at("Q3", "relabel_back", 0.9)),
    Bound(NOISE, "salt and pepper, denoised: AUC_R >= 0.90", _at("Q3", "denoise", 0.9)),
    Bound(ADULT, "ADULT: men in the private sector found by their own query: AUC_R >= 0.65",
          _least("Q4", 0.65)),
    Bound(ADULT, "ADULT: the precise query is ahead of the general one", _order("Q4", "Q7", 0.1)),
    Bound(MARKED, "control, rows marked at random: at most 0.1 above chance",
          _near_chance("Q3", 0.1)),
)
