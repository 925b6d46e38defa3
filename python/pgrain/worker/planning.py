"""plan_repair: the shortest prefix of the ranking that is predicted to cure the complaint.

For a prefix the edited training problem is solved in the stored subspace (`influence.group_step`),
the probabilities of the query's variables are moved along, and the circuit is evaluated on them,
on classes and on probabilities. The length is doubled until the complaints hold, then bisected; the
solution for one length is where the next one starts. First-order effects only rank.

The interval. `predicted` says what happens in the subspace and to first order in the logits;
retraining does both more and less. Over `benchmarks/repair_prediction.py` the change by retraining,
divided by the predicted change, lies within the shares below in at least four of five cases; on
top of that SPREAD standard deviations of the query's noise, which is what is left of small changes.
Rows that are relabelled against all others move less by training than they do in the subspace.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pgrain.complaint.objective import Objective
from pgrain.complaint.outcome import Outcome, Watchful
from pgrain.errors import InvalidArgument
from pgrain.influence.group_step import moved_probabilities
from pgrain.intervention.edits import DELETE, label_of
from pgrain.provenance.presence import ABSENT
from pgrain.worker.ranking import Suspects, Variables
from pgrain.worker.resident import Spectrum

DELETED = (0.85, 1.25)        # of the predicted change: 80 % of the cases (docs/dev/semantics.md)
CHANGED = (0.25, 1.35)        # the same where rows are relabelled or repaired
SPREAD = 1.0                  # counts of one or two rows flip whatever is done
EXACT = 48                    # prefixes up to here are all evaluated; longer ones in as many steps
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
    """

    def __init__(self, objective: Objective, variables: dict[str, Variables], name: str,
                 spectrum: Spectrum, suspects: Suspects):
        self.watchful = Watchful(objective)
        self.variables, self.name, self.suspects = variables, name, suspects
        resident, training = variables[name].resident, spectrum.training
        self.resident, self.training = resident, training
        self.step = spectrum.group_step(resident)
        self.logits, self.J = variables[name].logits_and_projections()
        self.predicted = {m: v.predicted for m, v in variables.items()}
        self.P = {m: v.p for m, v in variables.items()}
        self.known: dict[int, tuple[Outcome, np.ndarray]] = {
            0: (self.watchful.outcome(self.predicted, self.P), np.zeros(self.step.m))}

    def plan(self) -> Iterator[Progress | Plan]:
        """Yields Progress after each prefix, at last the Plan."""
        most, done = len(self.suspects.at), 0
        about = 2 * max(most, 2).bit_length() + EXACT // 2
        # Double until it holds, then halve the gap: about 2 log2 of the rows.
        low, high, length = 0, None, 1
        while high is None and low < most:
            length = min(length, most)
            outcome = self.outcome(length)
            done += 1
            yield Progress(done, about, self._says(length, outcome))
            if outcome.holds:
                high = length
            else:
                low, length = length, 2 * length
        while high is not None and high - low > 1:
            middle = (low + high) // 2
            outcome = self.outcome(middle)
            done += 1
            yield Progress(done, about, self._says(middle, outcome))
            low, high = (low, middle) if outcome.holds else (middle, high)
        length = high if high is not None else self._closest(most)
        for point in np.unique(np.linspace(1, length, min(length, EXACT)).round().astype(int)):
            if int(point) not in self.known:
                outcome = self.outcome(int(point))
                done += 1
                yield Progress(done, about, self._says(int(point), outcome))
        yield self._finished(length, high is not None)

    def outcome(self, length: int) -> Outcome:
        """What is predicted after the first `length` edits."""
        if length not in self.known:
            nearest = min(self.known, key=lambda other: (abs(other - length), other))
            u = self._solve(length, self.known[nearest][1])
            P = moved_probabilities(self.logits, self.J, u)
            predicted = {**self.predicted, self.name: P.argmax(axis=1)}
            self.known[length] = self.watchful.outcome(predicted, {**self.P, self.name: P}), u
        return self.known[length][0]

    def _solve(self, length: int, start: np.ndarray) -> np.ndarray:
        weights = np.ones(self.step.n, np.float32)
        targets, shift = self.training.labels.copy(), np.zeros(self.step.m)
        classes = self.resident.row.classes
        for at, title in zip(self.suspects.at[:length].tolist(),
                             self.suspects.interventions[:length], strict=True):
            label = label_of(title)
            if title == DELETE:
                weights[at] = 0
            elif label is not None and title not in self.suspects.repairs:
                targets[at] = classes.index(label)
            else:
                repair = self.suspects.repairs[title]
                place = int(np.searchsorted(repair.at, at))
                if repair.A[place].any():
                    shift += repair.A[place].astype(np.float64) - self.training.A[at]
                else:                       # the repair leaves nothing of the row
                    weights[at] = 0
        self.step.edit(weights, targets, shift)
        return self.step.solve(start).u

    def _closest(self, most: int) -> int:
        """Where nothing cures it: the evaluated prefix whose relaxed value is farthest on its
        way, i.e. farthest from where it began in the direction that was asked for."""
        begin = self.known[0][0]
        objective = self.watchful.objective
        weight = objective.weights.get(objective.first, -1.0)
        sign = -1.0 if weight > 0 else 1.0
        if objective.first is not None and len(objective.first) == 2 \
                and objective.first[1] == ABSENT:
            sign = -1.0 if weight < 0 else 1.0      # weights are of log P(absent)
        gains = {length: sign * (found.relaxed - begin.relaxed)
                 for length, (found, _) in self.known.items() if length}
        if not gains:
            return 0
        return max(gains, key=lambda length: (gains[length], -length)) or most

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
                                 DELETED if set(titles) == {DELETE} else CHANGED)
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
                f"complaint; {length} rows bring {begin.value:g} to {reached:g}")
        elif length > EXACT:
            notices.append(f"predicted for {len(points) - 1} of {length} prefixes, between them "
                           "interpolated")
        return Plan(rows, cures, notices, self.name)

    def noise(self) -> float:
        """Standard deviation of the first complained cell under the model's own probabilities, to
        first order in independent predictions; 0 for texts and rows."""
        objective = self.watchful.objective
        first = objective.first
        if first is None or len(first) == 3 or first[1] == ABSENT:
            return 0.0
        slopes = objective.effect_gradient()[self.name]
        p = self.P[self.name]
        mean = (p * slopes).sum(axis=1, keepdims=True)
        return float(np.sqrt((p * (slopes - mean) ** 2).sum()))

    def _says(self, length: int, outcome: Outcome) -> str:
        return f"{length} rows: {outcome.value:g}"


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


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value
