"""plan_repair: the shortest prefix of the ranking that is predicted to cure the complaint.

For a prefix the edited training problem is solved in the stored subspace (`influence.group_step`)
and in the directions that these edits take beside it (`influence.completion`), the probabilities of
the query's variables are moved along, and the circuit is evaluated on them, on classes and on
probabilities. The length is doubled until the complaints hold, then bisected; the solution for one
length is where the next one starts. First-order effects only rank.

The interval. `predicted` is to first order in the logits, and a net's training does not go to the
optimum: retraining does both more and less. Over `benchmarks/repair_prediction.py` the change by
retraining, divided by the predicted change, lies within the shares below in at least four of five
cases; on top of that SPREAD standard deviations of the query's noise, which is what is left of
small changes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pgrain.complaint.cell import cell_name
from pgrain.complaint.objective import Objective
from pgrain.complaint.outcome import Outcome, Watchful
from pgrain.errors import InvalidArgument
from pgrain.influence.completion import Completion
from pgrain.influence.group_step import moved_probabilities
from pgrain.intervention.edits import DELETE
from pgrain.provenance.presence import ABSENT
from pgrain.worker.prefixes import Prefixes, RepairedRows
from pgrain.worker.ranking import Suspects, Variables
from pgrain.worker.resident import Spectrum

SHARES = {                    # of the predicted change: 80 % of the cases (docs/dev/semantics.md)
    # (edits are deletions alone, directions were completed)
    (True, True): (0.9, 1.1), (False, True): (0.75, 1.4),
    (True, False): (0.9, 1.25), (False, False): (0.65, 1.4)}
SPREAD = 1.0                  # counts of one or two rows flip whatever is done
EXACT = 48                    # prefixes up to here are all evaluated; longer ones in as many steps
NEAR = 0.1                    # of the gap: where less of it goes, no directions are looked for
CALM = 0.02                   # of the gap: a direction that moves the cell less is the last
DEFAULT_SHARE = 0.1           # of the training rows, at most, where no budget is given


@dataclass(frozen=True)
class Progress:
    """done of about total prefixes; message: what was found last."""

    done: int
    total: int
    message: str


@dataclass
class Plan:
    """rows: [rank, train_id, train_key, intervention, predicted, low, high]; cures: whether the
    complaints are predicted to hold after all of them."""

    rows: list[list]
    cures: bool
    notices: list[str]
    model: str


def default_budget(n: int) -> int:
    """Rows that a plan may edit where nothing is said."""
    return max(math.ceil(DEFAULT_SHARE * n), min(n, 10))


class Planner:
    """The predictions for prefixes of one ranking.

    Parameters
    ----------
    objective : Objective
    variables : dict
        Of all models of the query.
    name : str
        The model whose training rows are edited.
    suspects : Suspects
        Its ranking, as long as the budget.
    repaired : dict, optional
        `RepairedRows` of the feature repairs among the interventions, by name.
    """

    def __init__(self, objective: Objective, variables: dict[str, Variables], name: str,
                 spectrum: Spectrum, suspects: Suspects,
                 repaired: dict[str, RepairedRows] | None = None):
        self.watchful = Watchful(objective)
        self.variables, self.name, self.suspects = variables, name, suspects
        self.resident = variables[name].resident
        self.step = spectrum.group_step(self.resident)
        self.prefixes = Prefixes(spectrum, self.resident.row.classes, suspects, repaired or {})
        self.completion: Completion | None = None
        self.most_directions = 0
        self.logits, self._J = variables[name].logits_and_projections()
        self.predicted = {m: v.predicted for m, v in variables.items()}
        self.P = {m: v.p for m, v in variables.items()}
        self.known: dict[int, tuple[Outcome, np.ndarray]] = {
            0: (self.watchful.outcome(self.predicted, self.P), np.zeros(self.step.m))}
        self._starts: dict[int, np.ndarray] = {}
        self._done = 0

    def complete(self, completion: Completion, repaired: dict[str, RepairedRows],
                 most: int) -> None:
        """Solve over up to `most` directions beside the stored ones; completion: of `step`."""
        self.completion, self.most_directions = completion, most
        self.prefixes.repaired = repaired

    @property
    def J(self) -> np.ndarray:
        """(V, R, m) of the queried values, in all directions."""
        return self._J if self.completion is None else self.completion.J

    def plan(self) -> Iterator[Progress | Plan]:
        """Yields Progress after each prefix, at last the Plan."""
        length, cures = yield from self._search()
        if self.completion is not None and self.completion.count:
            # What was found before the last direction was not as exact; now all have all of them.
            self.most_directions = 0
            begin = self.known[0][0]
            self._starts = {n: u for n, (_, u) in self.known.items()}
            self.known = {0: (begin, np.zeros(self.step.m))}
            length, cures = yield from self._search()
        for point in np.unique(np.linspace(1, length, min(length, EXACT)).round().astype(int)):
            yield from self._evaluate(int(point))
        yield self._finished(length, cures)

    def _search(self) -> Iterator[Progress]:
        """Double until it holds, then halve the gap: about 2 log2 of the rows. Returns (length,
        whether it cures)."""
        most = len(self.suspects.at)
        low, high, length = 0, None, 1
        while high is None and low < most:
            length = min(length, most)
            yield from self._evaluate(length)
            if self.known[length][0].holds:
                high = length
            else:
                low, length = length, 2 * length
        while high is not None and high - low > 1:
            middle = (low + high) // 2
            yield from self._evaluate(middle)
            low, high = (low, middle) if self.known[middle][0].holds else (middle, high)
        return (high, True) if high is not None else (self._closest(), False)

    def outcome(self, length: int) -> Outcome:
        """What is predicted after the first `length` edits."""
        for _ in self._evaluate(length):
            pass
        return self.known[length][0]

    def _evaluate(self, length: int) -> Iterator[Progress]:
        """Have `known` hold the prefix of this length."""
        if length in self.known:
            return
        near = {n: u for n, (_, u) in self.known.items()} | self._starts
        start = near[min(near, key=lambda other: (abs(other - length), other))]
        self.prefixes.put(length, self.step, self.completion)
        u = self.step.solve(_padded(start, self.step.m)).u
        outcome = self._outcome(u)
        begin, gap = self.known[0][0], self._gap()
        while (self.completion is not None and self.completion.count < self.most_directions
               and abs(outcome.relaxed - begin.relaxed) >= NEAR * gap
               and self.completion.extend(u)):
            yield self._progress(length, outcome)
            u = self.step.solve(_padded(u, self.step.m)).u
            before, outcome = outcome, self._outcome(u)
            if calm(before.value, outcome.value, gap) and calm(before.relaxed, outcome.relaxed,
                                                               gap):
                break
        self.known[length] = outcome, u
        self._done += 1
        yield self._progress(length, outcome)

    def _outcome(self, u: np.ndarray) -> Outcome:
        P = moved_probabilities(self.logits, self.J, u)
        predicted = {**self.predicted, self.name: P.argmax(axis=1)}
        return self.watchful.outcome(predicted, {**self.P, self.name: P})

    def _gap(self) -> float:
        """How far the cell is from what it should be; 1 for texts and rows, and where it is met."""
        objective, begin = self.watchful.objective, self.known[0][0]
        if objective.first not in objective.weights:
            return 1.0
        target = objective.complaints[objective.cell[0]].target
        if not isinstance(target, float) or math.isnan(begin.value):
            return 1.0
        return abs(target - begin.value) or 1.0

    def _progress(self, length: int, outcome: Outcome) -> Progress:
        most = len(self.suspects.at)
        about = 4 * max(most, 2).bit_length() + EXACT // 2
        return Progress(self._done, max(about, self._done), f"{length} rows: {outcome.value:g}")

    def _closest(self) -> int:
        """Where nothing cures it: the evaluated prefix whose relaxed value has gone farthest on its
        way, but not past the target, the shortest such; where the cell is not violated (any
        more, in a later round), the one that leaves least violated."""
        begin = self.known[0][0]
        objective = self.watchful.objective
        weight = objective.weights.get(objective.first, 0.0)
        sign = -1.0 if weight > 0 else 1.0
        if objective.first is not None and len(objective.first) == 2 \
                and objective.first[1] == ABSENT:
            sign = -sign                            # weights are of log P(absent)
        gap = self._gap()
        gains = {length: -found.left if not weight
                 else gap if sign * (found.value - begin.value) >= gap
                 else min(sign * (found.relaxed - begin.relaxed), gap)
                 for length, (found, _) in self.known.items() if length}
        if not gains:
            return 0
        return max(gains, key=lambda length: (gains[length], -length))

    def _finished(self, length: int, cures: bool) -> Plan:
        points = sorted(point for point in self.known if point <= length)
        of = {kind: np.interp(np.arange(1, length + 1), points,
                              [_number(getattr(self.known[p][0], kind)) for p in points])
              for kind in ("value", "relaxed")}
        begin = self.known[0][0]
        noise = self.noise()
        keys, integers = self.resident.learned.keys, self.resident.learned.integer_keys
        rows = []
        for n in range(length):
            titles = self.suspects.interventions[:n + 1]
            low, high = interval(begin, of["value"][n], of["relaxed"][n], noise,
                                 SHARES[set(titles) == {DELETE}, self.completion is not None])
            if self._is_there_or_not():
                low, high = max(low, 0.0), min(high, 1.0)
            key = keys[self.suspects.numbers[n]]
            rows.append([n + 1, int(key) if integers else None, key,
                         self.suspects.interventions[n], float(of["value"][n]), low, high])
        notices = []
        if begin.holds:
            notices.append("nothing is violated, so there is nothing to repair")
        elif not cures:
            reached = self.known[length][0].value if length else begin.value
            notices.append(
                f"no prefix of up to {len(self.suspects.at)} rows is predicted to cure the "
                f"complaint; {length} rows bring {self._cell_name()} from {begin.value:g} to "
                f"{reached:g}")
        elif length > EXACT:
            notices.append(f"predicted for {len(points) - 1} of {length} prefixes, between them "
                           "interpolated")
        return Plan(rows, cures, notices, self.name)

    def _cell_name(self) -> str:
        objective = self.watchful.objective
        return cell_name(objective.value, objective.first)

    def _is_there_or_not(self) -> bool:
        """Whether the cell is a label that is shown, or a row that is there: 0 or 1."""
        first = self.watchful.objective.first
        return first is not None and (len(first) == 3 or first[1] == ABSENT)

    def noise(self) -> float:
        """Standard deviation of the objective's cell under the model's own probabilities, to
        first order in independent predictions; 0 for texts and rows."""
        objective = self.watchful.objective
        if objective.first is None or self._is_there_or_not():
            return 0.0
        slopes = objective.effect_gradient()[self.name]
        p = self.P[self.name]
        mean = (p * slopes).sum(axis=1, keepdims=True)
        return float(np.sqrt((p * (slopes - mean) ** 2).sum()))


def interval(begin: Outcome, value: float, relaxed: float, noise: float,
             shares: tuple[float, float]) -> tuple[float, float]:
    """(low, high) of the value after retraining: shares of the predicted change, by the larger and
    the smaller of its two readings, widened by the noise that is left."""
    changes = [value - begin.value, relaxed - begin.relaxed]
    ends = [share * change for share in shares for change in changes if not math.isnan(change)]
    ends = ends or [0.0]
    wide = SPREAD * min(noise, math.sqrt(max(abs(x) for x in ends)))
    return (float(begin.value + min(ends) - wide), float(begin.value + max(ends) + wide))


def run(iterator: Iterator, seconds: float):
    """Advance a plan for about `seconds`; the last Progress, or the Plan."""
    deadline, found = time.monotonic() + seconds, None
    for found in iterator:
        if isinstance(found, Plan) or time.monotonic() > deadline:
            return found
    return found


def chosen_model(gradient: dict[str, np.ndarray], wanted: str | None) -> str:
    """The model whose training rows are to be edited; 22023 if that must be said."""
    moving = sorted(name for name, slopes in gradient.items() if slopes.any())
    if wanted is not None:
        if wanted not in moving:
            raise InvalidArgument(f'the complaint does not depend on model "{wanted}"',
                                  detail=f"It depends on {', '.join(moving)}.")
        return wanted
    if len(moving) > 1:
        raise InvalidArgument("the complaint depends on several models",
                              detail=f"They are {', '.join(moving)}.",
                              hint="""Choose one, as in options => '{"model": "..."}'.""")
    return moving[0]


def calm(before: float, after: float, gap: float) -> bool:
    """Whether one more direction no longer moves a reading."""
    return not abs(after - before) > CALM * gap         # NaN is calm


def _padded(u: np.ndarray, m: int) -> np.ndarray:
    """u in a subspace that has got more directions."""
    return np.concatenate([u, np.zeros(m - len(u))])


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value
