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
   Where classes overlap neither are right ones. So the rows that the opposite complaint would
   suspect are left out as well: unless the suspects lose their labels more clearly than these, the
   training rows say nothing for or against the complaint, and its target is all there is.
4. A number of predicted classes is off on clean data too, where the likelier class is taken for
   each of many unsure rows. Probabilities of a trained model add up to what its labels say, so an
   error of training rows shows in the expectation as well: the smaller of the two errors counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pgrain.complaint.objective import Objective
from pgrain.influence.filters import filter_weights
from pgrain.influence.group_step import moved_probabilities
from pgrain.influence.scores import bounded, deletion_changes, top_k
from pgrain.provenance.presence import ABSENT
from pgrain.worker.planning import Planner
from pgrain.worker.ranking import Suspects, Variables
from pgrain.worker.resident import Spectrum

USEFUL, DOUBTFUL, USELESS = "useful", "doubtful", "not useful"
TOP = 100                     # rows whose order is compared
CELLS = 50                    # complained cells whose reach is looked at
LEFT_OUT = 0.05               # of the training rows: how many suspects are looked at
MOST_EDITED = 0.3             # of the training rows: a repair of more is none
SMALL, LARGE = 0.05, 0.25     # relative errors between which complaints become effective (6.8.5)
NOISES = 2.0, 4.0             # the same in standard deviations of the number under the model
APART = 2 / 3                 # of the suspects' loss of support: most that the other side may have
ASKED = 2000                  # rows left out for `fit`: of more, what is left outside would show
SIGNIFICANT = 2.33            # standard errors: one in a hundred


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
        """How far off the complained cells are, the value or its expectation, whichever is nearer:
        relative to the larger of it and the target. Labels and rows are wrong or not; how far off
        they are together is in standard deviations under the model's probabilities."""
        sizes, right = [], []
        for complaint, rows in zip(self.objective.complaints, self.objective.matched, strict=True):
            if complaint.operator in ("too high", "too low"):
                continue
            if complaint.column is None or isinstance(complaint.target, str):
                right += self._chances(complaint, rows)
                sizes.append((0.0, 0.0))
                continue
            for row in rows:
                sizes.append(self._error_of(complaint, row))
        if not sizes:
            return Finding("error", None, DOUBTFUL, "The complaint has no target. Say what would "
                           "be right, as in n <= 50: small errors are seldom due to training rows.")
        if right:
            p = np.clip(right, 1e-12, 1 - 1e-12)
            sizes.append((1.0, float((1 - p).sum() / np.sqrt((p * (1 - p)).sum()))))
        names = (USEFUL, DOUBTFUL, USELESS)
        rank, relative, noises = min(
            (max(names.index(bounds(relative, SMALL, LARGE)),
                 names.index(bounds(noises, *NOISES))), -relative, noises)
            for relative, noises in sizes)
        by_chance = right and relative == -1.0
        return Finding("error", abs(relative), names[rank], {
            USEFUL: "What the query shows is far from what it should be.",
            DOUBTFUL: "What you ask for is not that unlikely to the model. Complain about more of "
                      "the wrong predictions at once." if by_chance else
                      "The error is small. Complain where it is larger, or about fewer rows.",
            USELESS: "To the model, what you ask for is about as likely as what it shows, so that "
                     "it may be wrong by chance. Complain about several wrong predictions at once."
                     if by_chance else
                     "The number, or what it is expected to be by the model's probabilities, is as "
                     "near to the target as such a number is anyhow. Complain where the error is "
                     "larger: by group, or about the part that is wrong."}[names[rank]], True)

    def _chances(self, complaint, rows: list[int]) -> list[float]:
        """How likely, by the model, is what a complaint about labels or rows asks for: one number
        for each label that is not shown, each row that is there, or all rows of which one should
        be."""
        circuit, value, P = self.objective.circuit, self.objective.value, self.objective.P
        if complaint.column is None:
            there = [row for row in rows if value.present[row]]
            if complaint.operator == "no row":
                return np.exp(circuit.log_absent(P, there)).tolist() if there else []
            return [] if there or not rows else [
                float(-np.expm1(np.sum(circuit.log_absent(P, rows))))]
        column = next(i for i, c in enumerate(circuit.columns) if c.name == complaint.column)
        return [circuit.probability(P, row, column, complaint.target) for row in rows
                if not value.present[row] or value.text(row, column) != complaint.target]

    def _error_of(self, complaint, row: int) -> tuple[float, float]:
        """(relative error, error in standard deviations of the cell) of one complained number."""
        circuit, value = self.objective.circuit, self.objective.value
        column = next(i for i, c in enumerate(circuit.columns) if c.name == complaint.column)
        v, t = float(value.numbers[row, column]), complaint.target
        if not self.objective.weight(complaint, v):
            return 0.0, 0.0
        gradient = circuit.gradient(self.objective.P, {(row, column): 1.0})[self.name]
        p = self.objective.P[self.name]
        mean = (p * gradient).sum(axis=1, keepdims=True)
        noise = float(np.sqrt((p * (gradient - mean) ** 2).sum()))
        expected = float(self.objective.relaxed.numbers[row, column])
        if (expected - t) * (v - t) <= 0:
            return 0.0, 0.0
        # At least 1 in the denominator: of a share, the error counts in points.
        relative = min(abs(x - t) / max(abs(x), abs(t), 1.0) for x in (v, expected))
        return relative, min(abs(v - t), abs(expected - t)) / max(noise, 1e-9)

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
        full, e = bounded(self.variables.gradient(self.slopes))
        held, full = float((np.ldexp(self.c, -e) ** 2).sum()), float((full ** 2).sum())
        value = held / full if full > 0 else 0.0
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
        """Do labels follow from features: 1 - loss / entropy, on rows that were left out; useless
        where that is not more than chance would give."""
        labels = self.training.labels
        n = len(labels)
        some = max(self.n_left_out, min(n // 5, ASKED))
        chosen = np.sort(np.random.default_rng(0).choice(n, some, replace=False))
        p = self._left_out(chosen)[np.arange(len(chosen)), labels[chosen]]
        shares = np.bincount(labels, minlength=2) / n
        entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
        gains = np.log(np.maximum(p, 1e-6)) + entropy
        value = float(gains.mean() / entropy) if entropy > 0 else 0.0
        by_chance = gains.mean() <= SIGNIFICANT * gains.std() / math.sqrt(len(gains))
        verdict = USELESS if by_chance else bounds(value, 0.0, 0.2)
        return Finding("fit", value, verdict, {
            USEFUL: "The model predicts training rows that it is made to forget.",
            DOUBTFUL: "The model is weak: labels hardly follow from the features.",
            USELESS: "The labels do not follow from the features: they may be permuted, or the "
                     "features say nothing about them. No ranking can be trusted."}[verdict], True)

    def suspects(self) -> list[Finding]:
        """How much more the model believes in another label of the top rows once all of them are
        left out: mean p(other) - p(label); and the same of the rows that the opposite complaint
        would suspect. Wrong labels that were learned are far from their class, right ones near a
        border only where classes overlap, and there on both sides."""
        has_target = any(c.operator not in ("too high", "too low")
                         for c in self.objective.complaints)
        mine = self._unsupported(self.order[:self.n_left_out])
        value = float(mine.mean())
        opposite = float(self._unsupported(top_k(self._changes(self.k), self.n_left_out)).mean())
        verdict = bounds(value, 0.25, 0.4 if opposite <= APART * value else math.inf)
        hint = {
            USEFUL: f"Made to forget the first {len(mine)} suspects, the model believes in other "
                    "labels for them: nothing else supports those that they have.",
            DOUBTFUL: "Left out, the suspects lose their labels, but so do the rows that the "
                      "opposite complaint would suspect: classes overlap there. The training rows "
                      "speak neither for nor against your target. If you are sure of it, go on.",
            USELESS: "The model gives the suspects much the same labels when it is made to forget "
                     "them: they look right. The data may be clean."}[verdict]
        if not has_target and verdict == DOUBTFUL:
            # Nothing says that the number is wrong, and the suspects do not say it clearly.
            verdict, hint = USELESS, ("Left out, the suspects lose their labels no more than the "
                                      "rows that the opposite complaint would suspect, and the "
                                      "complaint says not how far off the number is. Give it a "
                                      "target.")
        return [Finding("labels of the suspects", value, verdict, hint, True),
                Finding("labels of the other side", opposite, USEFUL, "The same of the rows that "
                        "the opposite complaint would suspect: far below, where the labels of the "
                        "suspects are wrong and the classes are apart.")]

    def _unsupported(self, top: np.ndarray) -> np.ndarray:
        """(n',) p(other) - p(label) of rows that are left out together, a third at most of the
        rows with their label, or there would be no class to believe in."""
        labels = self.training.labels
        modal = np.bincount(labels[top]).argmax()
        top = top[:max(min(10, len(top)), int((labels == modal).sum()) // 3)]
        after = self._left_out(top)
        rows = np.arange(len(top))
        own = after[rows, labels[top]].copy()
        after[rows, labels[top]] = 0
        return after.max(axis=1) - own

    def reach(self) -> list[Finding]:
        """How much of the error is predicted to go with as many rows as, by the target, are wrong:
        the share of the predictions under the complaint that has to change, of the training rows.
        """
        if any(c.operator in ("too high", "too low") for c in self.objective.complaints):
            return []
        n = max(self.n_left_out, round(min(self._share_wrong(), MOST_EDITED) * len(self.order)))
        order = top_k(-self._changes(self.k), n)
        suspects = Suspects(order, self.training.rows[order], ["delete"] * n, np.zeros(0),
                            np.zeros(0))
        planner = Planner(self.objective, self.all_variables, self.name, self.spectrum, suspects)
        value, begin = 0.0, self._cells(self.objective.P)
        for length in sorted({max(n // 4, 1), max(n // 2, 1), n}):
            if planner.outcome(length).holds:
                value = 1.0
                break
            moved = moved_probabilities(planner.logits, planner.J, planner.known[length][1])
            now = self._cells({**self.objective.P, self.name: moved})
            closed = [(now[key][0] - soft) / gap for key, (soft, gap) in begin.items() if gap]
            value = max(value, float(np.clip(closed, 0, 1).mean()) if closed else 0.0)
        verdict = bounds(value, 0.5, 0.5)
        return [Finding("reach", value, verdict, {
            USEFUL: f"{n} training rows are predicted to close this much of the gap.",
            USELESS: f"{n} training rows close less than half of the gap: training rows are not "
                     "its cause, or the target is out of reach."}[verdict], True)]

    def _share_wrong(self) -> float:
        """Of the predictions under the complaint, how many have to change for a number to be what
        it should be: the error by the most that all of them could move it, the largest of the
        complained cells. Texts and rows do not say how much; there it may take the most."""
        shares = [0.0]
        for key, (_, gap) in self._cells(self.objective.P).items():
            if len(key) == 2 and key[1] != ABSENT:
                slopes = self.objective.circuit.gradient(self.objective.P, {key: 1.0})[self.name]
                most = float((slopes.max(axis=1) - slopes.min(axis=1)).sum())
                shares.append(abs(gap) / most if most > 0 else 0.0)
            else:
                shares.append(MOST_EDITED)
        return max(shares)

    def agreement(self) -> list[Finding]:
        """Whether the first rows stay the same with more and fewer eigenpairs, and beside rules."""
        n = min(TOP, max(len(self.order) // 10, 1))
        top, m = set(self.order[:n].tolist()), len(self.c)

        def same(scores: np.ndarray) -> float:
            return len(top & set(top_k(scores, n).tolist())) / n

        across = (same(-self._changes(max(self.k // 2, 1))) + same(-self._changes(m))) / 2
        verdict = DOUBTFUL if across < 0.4 else USEFUL
        dot = same(-deletion_changes(self.training.A, np.ones(m), bounded(self.c)[0]))
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
        c, _ = bounded(self.c[:k], self.w[:k])      # only their order is looked at
        return deletion_changes(self.training.A[:, :k], self.w[:k], c)

    def _left_out(self, rows: np.ndarray) -> np.ndarray:
        """Probabilities (n, R) of training rows `rows` under the model without them."""
        step = self.step
        weights = np.ones(step.n, np.float32)
        weights[rows] = 0
        step.edit(weights, self.training.labels)
        return moved_probabilities(self.spectrum.training_logits()[rows], self.training.J[rows],
                                   step.solve().u)

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
