"""assess: is this complaint useful? Findings one by one, in words (paper section 6.8).

The paper judges complaints with the truth at hand. Here nobody knows it: each check is a number
that can be computed from what is stored, with bounds that were set on corrupted, clean and permuted
labels (docs/dev/semantics.md has the measured values).

1. The paper counts point complaints as relevant or adversarial by true labels. Here a prediction is
   adversarial if what would lower its own share of the objective raises that of all: its share
   of c^T W c is negative.
2. The magnitude of the error (6.8.5) is against the complaint's target, which is all that the user
   knows of the right result, and against the noise of the query under the model's probabilities.
3. `suspects` asks what no number of the query can show: whether the suspects' labels are held up by
   anything but themselves. Left out together (group step), wrong labels are not predicted any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pgrain.complaint.objective import Objective
from pgrain.influence.filters import filter_weights
from pgrain.influence.group_step import moved_probabilities
from pgrain.influence.scores import deletion_changes, top_k
from pgrain.models.softmax import softmax
from pgrain.provenance.presence import ABSENT
from pgrain.worker.planning import Planner
from pgrain.worker.ranking import Suspects, Variables
from pgrain.worker.resident import Spectrum

USEFUL, DOUBTFUL, USELESS = "useful", "doubtful", "not useful"
TOP = 100                     # rows whose order is compared
CELLS = 50                    # complained cells whose reach is looked at
LEFT_OUT = 0.05               # of the training rows: what a repair may be expected to edit


@dataclass(frozen=True)
class Finding:
    """One row of the answer. decides: whether a bad verdict makes the whole complaint useless."""

    check: str
    value: float | None
    verdict: str
    hint: str
    decides: bool = False


def bounds(value: float, useless: float, doubtful: float) -> str:
    """The verdict of a number that should be large."""
    return USELESS if value < useless else DOUBTFUL if value < doubtful else USEFUL


class Assessment:
    """The checks of one complaint against the model `name`.

    Parameters
    ----------
    objective : Objective
    variables : dict
        Of all models of the query; those of `name` with their values.
    slopes : (V, R)
        dq/dP of the model.
    """

    def __init__(self, objective: Objective, variables: dict[str, Variables], name: str,
                 spectrum: Spectrum, slopes: np.ndarray):
        self.objective, self.all_variables, self.name = objective, variables, name
        self.variables, self.spectrum, self.slopes = variables[name], spectrum, slopes
        self.training = spectrum.training
        self.k = spectrum.row.k
        self.w = filter_weights(spectrum.row.eigenvalues)
        self.step = spectrum.group_step(self.variables.resident)
        self.c = self.variables.projection(slopes)
        self.order = top_k(-self._changes(self.k), len(self.training.rows))
        self.n_left_out = max(min(10, len(self.order)), round(LEFT_OUT * len(self.order)))

    def findings(self) -> Iterator[list[Finding]]:
        """All checks, a list at a time; at last the one that sums them up."""
        found = []
        for check in (self.error, self.saturation, self.subspace, self.adversarial, self.fit,
                      self.suspects, self.reach, self.agreement):
            made = check()
            made = made if isinstance(made, list) else [made]
            found += made
            yield made
        yield [overall(found)]

    # --- what the query says ------------------------------------------------------------------

    def error(self) -> Finding:
        """How far off the complained cells are: relative to the larger of value and target."""
        sizes = []
        for complaint, rows in zip(self.objective.complaints, self.objective.matched, strict=True):
            if complaint.operator in ("too high", "too low"):
                continue
            for row in rows:
                sizes.append(self._error_of(complaint, row))
        if not sizes:
            return Finding("error", None, DOUBTFUL, "The complaint has no target. Say what would "
                           "be right, as in n <= 50: small errors are seldom due to training rows.")
        relative, noises = max(sizes)
        verdict = bounds(min(relative, noises / 20), 0.1, 0.2)
        return Finding("error", relative, verdict, {
            USEFUL: "The number is far from what it should be.",
            DOUBTFUL: "The error is small. Complain where it is larger, or about fewer rows.",
            USELESS: "The error is within what such a number varies by anyhow. Complain where it "
                     "is larger: by group, or about the part that is wrong."}[verdict], True)

    def _error_of(self, complaint, row: int) -> tuple[float, float]:
        """(relative error, error in standard deviations of the cell) of one complained cell."""
        circuit, value = self.objective.circuit, self.objective.value
        if complaint.column is None:
            there = bool(value.present[row])
            wrong = there == (complaint.operator == "no row")
            return (1.0 if wrong else 0.0), math.inf
        column = next(i for i, c in enumerate(circuit.columns) if c.name == complaint.column)
        if isinstance(complaint.target, str):
            shows = value.present[row] and value.text(row, column) == complaint.target
            return (0.0 if shows else 1.0), math.inf
        v, t = float(value.numbers[row, column]), complaint.target
        if not self.objective.weight(complaint, v):
            return 0.0, 0.0
        gradient = circuit.gradient(self.objective.P, {(row, column): 1.0})[self.name]
        p = self.objective.P[self.name]
        mean = (p * gradient).sum(axis=1, keepdims=True)
        noise = float(np.sqrt((p * (gradient - mean) ** 2).sum()))
        size = abs(v - t)
        return size / max(abs(v), abs(t), 1.0), size / max(noise, 1e-9)

    def saturation(self) -> Finding:
        """Which share of the predictions under the complaint can move at all."""
        used = self.slopes.any(axis=1)
        sure = self.variables.p[used].max(axis=1) > 0.99
        value = float(1 - sure.mean()) if len(sure) else 0.0
        verdict = bounds(value, 1e-9, 0.03)
        return Finding("unsure predictions", value, verdict, {
            USEFUL: "Enough of the predictions under the complaint are unsure and can move.",
            DOUBTFUL: "Nearly all predictions under the complaint are sure (over 99 %); their "
                      "slope is close to 0. Name single predictions that are wrong.",
            USELESS: "Every prediction under the complaint is sure (over 99 %), so that it moves "
                     "nothing. Train with a larger alpha, or complain about other rows."}[verdict])

    def subspace(self) -> Finding:
        """The share of the query's gradient that the stored eigenvectors hold."""
        if self.variables.values is None:
            return Finding("gradient in the subspace", None, DOUBTFUL,
                           "The feature values were not at hand.")
        full = float((self.variables.gradient(self.slopes) ** 2).sum())
        value = float((self.c ** 2).sum()) / full if full > 0 else 0.0
        d = len(self.variables.resident.theta)
        verdict = bounds(value, 2 * len(self.c) / d if d > 4 * len(self.c) else 0.02, 0.2)
        return Finding("gradient in the subspace", min(value, 1.0), verdict, {
            USEFUL: f"The {len(self.c)} stored eigenpairs hold enough of the query's gradient.",
            DOUBTFUL: "Most of the query's gradient is outside of what is stored. Store more: "
                      "CALL pgrain.precompute(model, '{\"pairs\": 100}').",
            USELESS: "The stored eigenpairs hold no more of the query's gradient than as many "
                     "random directions. Store more with pgrain.precompute, or complain about "
                     "something that the model was trained for."}[verdict])

    def adversarial(self) -> Finding:
        """Predictions that pull the other way, against those that pull along."""
        share = self.variables.shares(self.slopes, self.w[:self.k] * self.c[:self.k])
        along, against = share[share > 0].sum(), -share[share < 0].sum()
        value = float(against / along) if along > 0 else 1.0
        verdict = USELESS if value > 0.8 else DOUBTFUL if value > 0.4 else USEFUL
        return Finding("adversarial predictions", value, verdict, {
            USEFUL: "The predictions under the complaint pull in one direction.",
            DOUBTFUL: "Many predictions pull against the others. Leave out, with WHERE or FILTER, "
                      "those that are right.",
            USELESS: "The predictions under the complaint cancel each other. Complain about fewer "
                     "of them, those that are wrong."}[verdict])

    # --- what the training rows say -----------------------------------------------------------

    def fit(self) -> Finding:
        """Do labels follow from features: 1 - loss / entropy, on rows that were left out."""
        labels = self.training.labels
        n = len(labels)
        chosen = np.sort(np.random.default_rng(0).choice(n, self.n_left_out, replace=False))
        p = self._left_out(chosen)[1][np.arange(len(chosen)), labels[chosen]]
        shares = np.bincount(labels, minlength=2) / n
        entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
        value = float(1 + np.log(np.maximum(p, 1e-6)).mean() / entropy) if entropy > 0 else 0.0
        verdict = bounds(value, 0.1, 0.2)
        return Finding("fit", value, verdict, {
            USEFUL: "The model predicts training rows that it is made to forget.",
            DOUBTFUL: "The model is weak: labels hardly follow from the features.",
            USELESS: "The labels do not follow from the features: they may be permuted, or the "
                     "features say nothing about them. No ranking can be trusted."}[verdict], True)

    def suspects(self) -> Finding:
        """How much more the model believes in another label of the top rows once all of them are
        left out: mean p(other) - p(label). Wrong labels that were learned are far from their class;
        right ones near a border are not."""
        has_target = any(c.operator not in ("too high", "too low")
                         for c in self.objective.complaints)
        labels = self.training.labels
        top = self.order[:self.n_left_out]
        modal = np.bincount(labels[top]).argmax()
        top = top[:max(min(10, len(top)), int((labels == modal).sum()) // 3)]
        before, after = self._left_out(top)
        rows = np.arange(len(top))
        lost = float(((before.argmax(axis=1) == labels[top])
                      & (after.argmax(axis=1) != labels[top])).mean())
        others = after.copy()
        others[rows, labels[top]] = 0
        value = float((others.max(axis=1) - after[rows, labels[top]]).mean())
        verdict = bounds(value, 0.25, 0.4)
        hint = {
            USEFUL: f"Made to forget the first {len(top)} suspects, the model believes in other "
                    "labels for them: nothing else supports those that they have.",
            DOUBTFUL: "Some labels of the suspects have no support by other rows. Look at them.",
            USELESS: "The model gives the suspects much the same labels when it is made to forget "
                     "them: they look right. The data may be clean."}[verdict]
        if not has_target and (lost < 0.5 or verdict != USEFUL):
            # Nothing says that the number is wrong, and the suspects do not say it clearly.
            verdict, hint = USELESS, ("Not enough of the suspects lose their labels when the model "
                                      "is made to forget them, and the complaint says not how far "
                                      "off the number is. Give it a target.")
        return Finding("labels of the suspects", value, verdict, hint, True)

    def reach(self) -> list[Finding]:
        """How much of the error is predicted to go with as many rows as a repair may edit."""
        if any(c.operator in ("too high", "too low") for c in self.objective.complaints):
            return []
        suspects = Suspects(self.order[:self.n_left_out],
                            self.training.rows[self.order[:self.n_left_out]],
                            ["delete"] * self.n_left_out, np.zeros(0), np.zeros(0))
        planner = Planner(self.objective, self.all_variables, self.name, self.spectrum, suspects)
        value, begin = 0.0, self._cells(self.objective.P)
        for n in sorted({max(self.n_left_out // 4, 1), max(self.n_left_out // 2, 1),
                         self.n_left_out}):
            if planner.outcome(n).holds:
                value = 1.0
                break
            moved = moved_probabilities(planner.logits, planner.J, planner.known[n][1])
            now = self._cells({**self.objective.P, self.name: moved})
            closed = [(now[key][0] - soft) / gap for key, (soft, gap) in begin.items() if gap]
            value = max(value, float(np.clip(closed, 0, 1).mean()) if closed else 0.0)
        verdict = bounds(value, 0.2, 0.3)
        return [Finding("reach", value, verdict, {
            USEFUL: f"{self.n_left_out} training rows are predicted to close this much of the gap.",
            DOUBTFUL: f"{self.n_left_out} training rows close a small part of the gap.",
            USELESS: f"{self.n_left_out} training rows close next to nothing of the gap: training "
                     "rows are not its cause, or the target is out of reach."}[verdict], True)]

    def agreement(self) -> list[Finding]:
        """Whether the first rows stay the same with more and fewer eigenpairs, and beside rules."""
        n = min(TOP, max(len(self.order) // 10, 1))
        top, m = set(self.order[:n].tolist()), len(self.c)

        def same(scores: np.ndarray) -> float:
            return len(top & set(top_k(scores, n).tolist())) / n

        across = (same(-self._changes(max(self.k // 2, 1))) + same(-self._changes(m))) / 2
        verdict = DOUBTFUL if across < 0.4 else USEFUL
        dot = same(-deletion_changes(self.training.A, np.ones(m), self.c))
        loss = same(-self.training.residual[np.arange(len(self.order)), self.training.labels])
        return [
            Finding("agreement across k", across, verdict,
                    f"The first {n} rows hardly depend on how many eigenpairs are used."
                    if verdict == USEFUL else
                    f"The first {n} rows change with the number of eigenpairs. Try options "
                    "=> '{\"k\": ...}' and look at several rankings."),
            Finding("agreement with gradient_dot", dot, USEFUL,
                    "The share of these rows that a ranking without curvature puts first too."),
            Finding("agreement with training loss", loss, USEFUL,
                    "The share of these rows whose labels fit worst anyhow. Close to 1, a look at "
                    "the loss would have found them; close to 0, the model has learned them.")]

    # --- inside -------------------------------------------------------------------------------

    def _changes(self, k: int) -> np.ndarray:
        return deletion_changes(self.training.A[:, :k], self.w[:k], self.c[:k])

    def _left_out(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(probabilities of training rows `rows` as they are, and without them), each (n, R)."""
        step = self.step
        weights = np.ones(step.n, np.float32)
        weights[rows] = 0
        step.edit(weights, self.training.labels)
        logits = self.spectrum.training_logits()[rows]
        return softmax(logits), moved_probabilities(logits, self.training.J[rows], step.solve().u)

    def _cells(self, P: dict) -> dict[tuple, tuple[float, float]]:
        """(relaxed value or probability under P, how far it is from what it should be) of the
        violated cells, of at most CELLS."""
        found, circuit, value = {}, self.objective.circuit, self.objective.value
        relaxed = circuit.relaxed(P).numbers
        names = [column.name for column in circuit.columns]
        targets = {}       # of violated numbers; a cell may have several complaints
        for c, rows in zip(self.objective.complaints, self.objective.matched, strict=True):
            if isinstance(c.target, float):
                at = names.index(c.column)
                targets |= {(row, at): c.target for row in rows
                            if self.objective.weight(c, float(value.numbers[row, at]))}
        for key in list(self.objective.weights)[:CELLS]:
            row, column = key[:2]
            if column == ABSENT:
                there = 1.0 - math.exp(circuit.log_absent(P, [row])[0])
                found[key] = there, (-there if value.present[row] else 1.0 - there)
            elif len(key) == 3:
                shown = circuit.probability(P, row, column, key[2])
                found[key] = shown, 1.0 - shown
            else:
                target = targets[row, column]
                found[key] = (float(relaxed[row, column]),
                              float(target - value.numbers[row, column]) or 1e-9)
        return found


def overall(found: list[Finding]) -> Finding:
    """The sum of all: no better than the worst check that decides."""
    bad = [f.check for f in found if f.verdict == USELESS and f.decides]
    weak = [f.check for f in found if f.verdict != USEFUL]
    if bad:
        return Finding("overall", None, USELESS, f"Because of: {', '.join(bad)}.")
    if len(weak) > 1 or any(f.verdict == USELESS for f in found):
        return Finding("overall", None, DOUBTFUL, f"Because of: {', '.join(weak)}.")
    return Finding("overall", None, USEFUL, "Rank, look at the first rows, and plan a repair.")
