"""Ranking: dq/dp -> c -> changes of q for every intervention -> the top ones.

Methods: ``rain++`` (stored projections, nothing of size d), ``rain`` (conjugate gradient on the
fly, the paper's baseline), ``gradient_dot`` (no curvature), ``self_influence`` (how much a row
holds up its own loss, whatever the complaint). Interventions: see `candidates`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pgrain.errors import InvalidArgument, NotReady, UnsupportedOperator
from pgrain.influence.baselines import gradient_dot
from pgrain.influence.conjugate_gradient import conjugate_gradient
from pgrain.influence.filters import filter_weights
from pgrain.influence.gradient import logit_cotangent, objective_gradient
from pgrain.influence.hvp import CURVATURES, hessian_operator
from pgrain.influence.projections import objective_projection
from pgrain.influence.sample import sample_rows
from pgrain.influence.scores import bounded, relatif, self_influence
from pgrain.influence.selection import stable_k
from pgrain.influence.top_k import least_k
from pgrain.interrupts import check
from pgrain.intervention.edits import ANY, DELETE, RELABEL, label_of
from pgrain.wire.identity import unpack_value
from pgrain.wire.ranked import pack
from pgrain.worker.candidates import Candidates
from pgrain.worker.features import training_features
from pgrain.worker.resident import Repair, Resident, Residents, Spectrum
from pgrain.worker.variables import VariableTable

METHODS = ("rain++", "rain", "gradient_dot", "self_influence")
STORED = ("rain++", "self_influence")
STABLE = "stable"
NORMALIZE = ("none", "relatif")


@dataclass
class Variables:
    """The variables of one model in one evaluation.

    rows: (V,) numbers in the table; digests: (V, 16); values: digest -> packed value, if fetched.
    """

    resident: Resident
    spectrum: int | None
    table: VariableTable
    rows: np.ndarray
    digests: np.ndarray
    values: dict | None

    def __post_init__(self):
        self._p = None

    def _snapshot(self):
        # Not kept: a circuit that is kept would keep arrays that the table has outgrown.
        return self.table.snapshot()

    @property
    def predicted(self) -> np.ndarray:
        """(V,) classes."""
        return self._snapshot()[0].take(self.rows)

    @property
    def p(self) -> np.ndarray:
        """(V, R) float64 probabilities."""
        if self._p is None:
            self._p = self._snapshot()[1].take(self.rows, axis=0)
            self._p.flags.writeable = False     # circuits are shared
        return self._p

    def shares(self, dq_dp: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """(V,) <J_x^T (dq/dlogits), direction>: what each variable adds to c^T direction.

        direction: (k,), for the first k pairs.
        """
        _, p, J = self._snapshot()
        used = np.flatnonzero(dq_dp.any(axis=1))
        cotangent, result = logit_cotangent(p[self.rows[used]], dq_dp[used]), np.zeros(len(dq_dp))
        direction, exponent = bounded(direction)
        small = direction.astype(np.float32)
        for at in range(0, len(used), 4096):
            check()
            part = slice(at, at + 4096)
            slopes = J[self.rows[used[part]]][:, :, :len(small)] @ small
            result[used[part]] = (cotangent[part] * slopes).sum(axis=1)
        return np.ldexp(result, exponent)

    def projection(self, dq_dp: np.ndarray) -> np.ndarray:
        """c = V^T grad q, (m,) float64; only variables that q depends on are touched."""
        _, p, J = self._snapshot()
        # Several times quicker than `any` of short rows; of absolute values nothing cancels.
        used = np.flatnonzero(np.abs(dq_dp) @ np.ones(dq_dp.shape[1]))
        c = np.zeros(J.shape[2])
        for start in range(0, len(used), 512):      # so that a copy of J's rows stays in the cache
            check()
            part = used[start:start + 512]
            rows = self.rows[part]
            c += objective_projection(p.take(rows, axis=0), J.take(rows, axis=0), dq_dp[part])
        return c

    def logits_and_projections(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits (V, R) float64, up to a constant a row, and J_x (V, R, m) float32."""
        _, p, J = self._snapshot()
        return np.log(np.maximum(p[self.rows], 1e-300)), J[self.rows]

    def gradient(self, dq_dp: np.ndarray) -> np.ndarray:
        """grad q, (d,): one batched reverse pass over the values themselves."""
        used = np.flatnonzero(dq_dp.any(axis=1))
        packed = [self.values[self.digests[row].tobytes()] for row in used]
        resident = self.resident
        values = [resident.value(unpack_value(item, resident.row.kind)) for item in packed]
        return objective_gradient(resident.model, resident.theta,
                                  resident.encoder.encode(values), dq_dp[used])


class Projected:
    """In place of `Variables`, where gradients are projected already."""

    def __init__(self, resident: Resident, spectrum: int):
        self.resident, self.spectrum = resident, spectrum

    @staticmethod
    def projection(c: np.ndarray) -> np.ndarray:
        """c itself, (m,)."""
        return c


@dataclass
class Suspects:
    """Ranked training rows of one model, best first, (n,) each.

    at: positions in `Training.rows`; numbers: among the learned rows; repairs: the feature repairs
    among the interventions, by name.
    """

    at: np.ndarray
    numbers: np.ndarray
    interventions: list[str]
    scores: np.ndarray
    effects: np.ndarray
    repairs: dict[str, Repair] = field(default_factory=dict)

    def rows(self, name: str, resident: Resident) -> list[list]:
        """Rows [rank, model, train_id, train_key, intervention, score, effect]."""
        keys, integers = resident.learned.keys, resident.learned.integer_keys
        found = zip(self.numbers.tolist(), self.interventions, self.scores.tolist(),
                    self.effects.tolist(), strict=True)
        return [[rank, name, int(keys[number]) if integers else None, keys[number], intervention,
                 score, effect] for rank, (number, intervention, score, effect)
                in enumerate(found, 1)]

    def packed(self, name: str, resident: Resident) -> list:
        """The same by columns (`wire/ranked.py`)."""
        keys = resident.learned.keys
        return pack(name, [keys[number] for number in self.numbers.tolist()],
                    resident.learned.integer_keys, self.interventions, self.scores.tolist(),
                    self.effects.tolist())


@dataclass
class Ranking:
    """Suspects of each model, in the order of the models' names."""

    parts: list[tuple[str, Resident, Suspects]]

    def __bool__(self) -> bool:
        return any(len(suspects.at) for _, _, suspects in self.parts)

    def told(self) -> list[str]:
        """A notice where no score is other than 0."""
        if not self or any(suspects.scores.any() for _, _, suspects in self.parts):
            return []
        return ["every score is 0: to first order no training row moves the complained cells"]

    def answer(self, params: dict, notices: list[str]) -> dict:
        """What a request for a ranking is told: `rows`, or `ranked`, packed by columns."""
        if params.get("as_rows"):
            return {"rows": [row for name, resident, suspects in self.parts
                             for row in suspects.rows(name, resident)], "notices": notices}
        return {"ranked": [suspects.packed(name, resident)
                           for name, resident, suspects in self.parts if len(suspects.at)],
                "notices": notices}


NOTHING = Ranking([])


class Ranker:
    """Ranks interventions on the training rows of each model that the complaints depend on."""

    def __init__(self, residents: Residents):
        self._residents = residents

    def rank(self, variables: dict[str, Variables], dq_dp: dict[str, np.ndarray],
             dcell_dp: dict[str, np.ndarray], n: int, intervention: str,
             options: dict, notices: list[str] | None = None) -> Ranking:
        """The `n` best suspects of each model.

        dq_dp: gradient of the objective by model, of those that move it; dcell_dp: of its
        cell (`Objective.cell`). notices: what the caller should read is added to it.
        """
        method = check_options(options, intervention)
        parts = []
        for name in sorted(dq_dp):
            if method in STORED:
                found = self._stored(variables[name], dq_dp[name], dcell_dp.get(name), n,
                                     intervention, options, notices)
            else:
                found = self._live(variables[name], dq_dp[name], dcell_dp.get(name), n,
                                   intervention, options, method)
            parts.append((name, variables[name].resident, found))
        return Ranking(parts)

    def _stored(self, variables, dq_dp, dcell_dp, n, intervention, options,
                notices=None) -> Suspects:
        spectrum = self._residents.spectrum(variables.resident, variables.spectrum)
        cell = np.zeros(len(spectrum.row.eigenvalues))
        if dcell_dp is not None:
            cell = variables.projection(dcell_dp)
        return self.suspects(variables.resident, spectrum, variables.projection(dq_dp), cell, n,
                             intervention, options, notices)

    def suspects(self, resident: Resident, spectrum: Spectrum, q: np.ndarray, cell: np.ndarray,
                 n: int, intervention: str, options: dict,
                 notices: list[str] | None = None) -> Suspects:
        """The `n` best rows by stored projections. q, cell: (m,) V^T grad of the objective and of
        its cell, m the stored pairs, of which the first k are used."""
        k, w = weights(spectrum, options, q, len(resident.row.classes))
        if options.get("k") == STABLE and notices is not None:
            notices.append(f'option "k": {k} of {len(q)} eigenpairs are used')
        (c, of_q), (cell, of_cell) = bounded(q[:k], w), bounded(cell[:k], w)
        among = _among(options, intervention)
        repairs = self._repairs(resident, spectrum, intervention, among, notices)
        candidates = Candidates.of(intervention, resident.row.classes, repairs, among,
                                   _plausible(options, intervention))
        changes = candidates.least(spectrum.training, w, c)
        if _choice(options, "method", METHODS) == "self_influence":
            changes, of_q = -self_influence(spectrum.training.A[:, :k], w), 0
        if _choice(options, "normalize", NORMALIZE) == "relatif":
            changes = relatif(changes, spectrum.training.A[:, :k], w)
        best = least_k(changes, n)
        least = changes[best]
        if not (changed := least < np.inf).all():
            best, least = best[changed], least[changed]
        titles, chosen = candidates.titles(), None
        named = titles * len(best)
        if len(titles) > 1:
            chosen = candidates.columns(spectrum.training, best, w, c).argmin(axis=1)
            named = [titles[number] for number in chosen.tolist()]
            if notices is not None and intervention == RELABEL and not candidates.plausible:
                notices += _unlikely(spectrum, best, candidates.classes[chosen],
                                     resident.row.classes)
        as_large = None if candidates.plausible or "normalize" in options or "method" in options \
            else _multiple(c, cell)
        if as_large is not None:        # one complained cell: what was compared is its effect
            effects = least / as_large
        else:
            effects = candidates.columns(spectrum.training, best, w, cell, expected=False)
            effects = effects[np.arange(len(best)), 0 if chosen is None else chosen]
        scores, effects = (np.ldexp(np.asarray(found, np.float64), e)
                           for found, e in ((-least, of_q), (effects, of_cell)))
        return Suspects(best, spectrum.training.rows[best], named, scores, effects,
                        {repair.name: repair for repair in candidates.repairs})

    def _repairs(self, resident: Resident, spectrum: Spectrum, intervention: str,
                 among: list[str] | None, notices: list[str] | None) -> list:
        """The feature repairs that an intervention's name may stand for."""
        if intervention in (DELETE, RELABEL) or label_of(intervention) is not None:
            return []
        repairs, unready = self._residents.repairs(resident, spectrum)
        model = "'" + resident.row.model.replace("'", "''") + "'"
        hint = f"""CALL pgrain.precompute({model}, '{{"only": "interventions"}}')"""
        wanted = [intervention, *(among or ())]
        if missing := [name for name in unready if name in wanted]:
            raise NotReady(f'intervention "{missing[0]}" of model "{resident.row.model}" is not '
                           "precomputed", hint=f"Run {hint}.")
        if intervention == ANY and among is None and unready and notices is not None:
            names = ", ".join(f'"{name}"' for name in unready)
            notices.append(f"not precomputed, so not ranked: {names}; run {hint}")
        return repairs

    def _live(self, variables, dq_dp, dcell_dp, n, intervention, options, method) -> Suspects:
        if intervention != DELETE:
            raise UnsupportedOperator(f'method "{method}" ranks deletions only',
                                      hint="Leave out the option method for other interventions.")
        resident = variables.resident
        if dcell_dp is None:
            dcell_dp = np.zeros_like(dq_dp)
        features = training_features(self._residents, resident)
        X, numbers = features.X, features.numbers
        y = resident.learned.labels[numbers]
        directions = [variables.gradient(dq_dp), variables.gradient(dcell_dp)]
        if method == "rain":
            row = self._residents.spectrum(resident, variables.spectrum).row
            directions = [self._solve(resident, X, y, g, row, options) for g in directions]
        changes = gradient_dot(resident.model, resident.theta, X, y, directions[0])
        effects = gradient_dot(resident.model, resident.theta, X, y, directions[1])
        best = least_k(changes, n)
        return Suspects(best, numbers[best], [DELETE] * len(best), -changes[best], effects[best])

    def _solve(self, resident, X, y, gradient, row, options) -> np.ndarray:
        if not gradient.any():
            return gradient
        # The operator whose eigenpairs are stored, so that only the solver differs.
        chosen = sample_rows(len(y), row.sample_rows, row.options.get("seed", 0))
        operator = hessian_operator(resident.model, resident.theta, X[chosen], y[chosen],
                                    resident.row.alpha, n_total=len(resident.learned.keys),
                                    curvature=row.options.get("curvature", CURVATURES[0]))
        solution = conjugate_gradient(operator, gradient, n_iter=options.get("k", 10),
                                      damping=float(options.get("damping", 0.0)))
        if not solution.value.any():
            raise NotReady("conjugate gradient found no direction", detail=solution.status,
                           hint="Use the default method, or a larger damping.")
        return solution.value


def _unlikely(spectrum: Spectrum, at: np.ndarray, proposed: np.ndarray,
              classes: list[str]) -> list[str]:
    """A notice where a third of the proposed labels (n,) are not what the model would call the
    rows `at` if not by their own: the label that moves a number most is seldom the right one. With
    two classes there is no other, and no notice."""
    if not len(at):
        return []
    p = spectrum.training.residual[at].copy()           # p, but for the own label
    p[np.arange(len(at)), spectrum.training.labels[at]] = -np.inf
    unlikely = p.argmax(axis=1) != proposed
    if 3 * unlikely.sum() <= len(at):
        return []
    common = classes[np.bincount(proposed[unlikely]).argmax()]
    return [f'{unlikely.sum()} of {len(at)} rows would get a label, mostly "{common}", that the '
            "model does not hold for their likeliest other one: it moves the number most, which "
            """wrong labels do; option '{"plausible": true}' ranks by gain times probability"""]


def check_options(options: dict, intervention: str) -> str:
    """The method; 22023 for an option of the wrong kind or without effect on the method.

    For ``rain``, `k` is the number of conjugate-gradient steps and `damping` is added to the
    Hessian as it is; for ``rain++``, `k` counts eigenpairs, `damping` is relative to the largest.
    """
    method = _choice(options, "method", METHODS)
    idle = {"rain++": (), "self_influence": ("normalize", "plausible"),
            "rain": ("filter", "normalize", "plausible"),
            "gradient_dot": ("filter", "normalize", "k", "damping", "plausible")}[method]
    for name in idle:
        if name in options:
            raise InvalidArgument(f'option "{name}" has no effect on method "{method}"')
    k, damping = options.get("k", 1), options.get("damping", 0.0)
    if k == STABLE and method != METHODS[0]:
        raise InvalidArgument(f'option "k" cannot be "{STABLE}" with method "{method}"',
                              hint=f'It is for the method "{METHODS[0]}".')
    if k != STABLE and (type(k) is not int or k < 1):
        raise InvalidArgument(f'option "k" must be a whole number of at least 1, or "{STABLE}"',
                              hint="Eigenpairs that are stored (steps, for the method rain).")
    if type(damping) not in (int, float) or not 0 <= damping < float("inf"):
        raise InvalidArgument('option "damping" must be a number that is not negative')
    if _choice(options, "normalize", NORMALIZE) == "relatif" and intervention != DELETE:
        raise UnsupportedOperator('normalize "relatif" is for deletions only',
                                  hint="Leave out the option normalize.")
    if method == "self_influence" and intervention != DELETE:
        raise UnsupportedOperator(f'method "{method}" ranks deletions only',
                                  hint="Leave out the option method for other interventions.")
    return method


def _plausible(options: dict, intervention: str) -> bool:
    """Whether gains are weighed by how likely each row is right afterwards."""
    plausible = options.get("plausible", intervention == ANY)
    if type(plausible) is not bool:
        raise InvalidArgument('option "plausible" is true or false')
    if plausible and options.get("normalize", NORMALIZE[0]) != NORMALIZE[0]:
        raise InvalidArgument('option "plausible" does not go with "normalize"')
    return plausible


def _among(options: dict, intervention: str) -> list[str] | None:
    """The interventions that ``any`` chooses from; None for all."""
    among = options.get("among")
    if among is None:
        return None
    if intervention != ANY:
        raise InvalidArgument('option "among" is for the intervention "any"')
    if not isinstance(among, list) or not all(isinstance(name, str) for name in among):
        raise InvalidArgument('option "among" is a list of interventions',
                              hint="""For example '{"among": ["delete", "relabel"]}'.""")
    return among


def weights(spectrum: Spectrum, options: dict, q: np.ndarray, n_classes: int
            ) -> tuple[int, np.ndarray]:
    """k and the filter's weights (k,) under the options k, filter, damping. q: (m,), the objective
    that a `k` of "stable" is for."""
    stored = len(spectrum.row.eigenvalues)
    k = options.get("k", spectrum.row.k)
    if k == STABLE:
        k = stored
    if k > stored:
        raise InvalidArgument(f'option "k" must be a whole number between 1 and {stored}',
                              detail=f"{stored} eigenpairs are stored.",
                              hint="""Store more with CALL pgrain.precompute(..., """
                                   """'{"pairs": ...}').""")
    damping = float(options.get("damping", 0.0))
    # Damping asks for the damped filter where none is named: `inverse` and `identity` have none.
    name = options.get("filter", "damped" if damping else "inverse")
    if damping and name in ("inverse", "identity"):
        raise InvalidArgument(f'option "damping" has no effect on filter "{name}"')
    if name == "truncated" and damping >= 1:
        raise InvalidArgument(f'filter "truncated" leaves no eigenpair with damping {damping:g}',
                              hint="It is a share of the largest eigenvalue, so less than 1.")
    w = filter_weights(spectrum.row.eigenvalues[:k], name, damping)
    if options.get("k") == STABLE:
        k = stable_k(spectrum.row.eigenvalues, w, q, n_classes) or spectrum.row.k
    return k, w[:k]


def _multiple(c: np.ndarray, cell: np.ndarray) -> float | None:
    """The number that c is times cell, (k,) each; None if it is no multiple, or cell is 0."""
    at = np.abs(cell).argmax()
    if not cell[at]:
        return None
    share = float(c[at] / cell[at])
    near = np.abs(c - share * cell).max() <= 1e-12 * np.abs(c).max()
    return share if near and abs(share) > 1e-30 else None


def _choice(options: dict, name: str, allowed: tuple[str, ...]) -> str:
    value = options.get(name, allowed[0])
    if value not in allowed:
        raise InvalidArgument(f'no such {name}: "{value}"', hint=f"One of {', '.join(allowed)}.")
    return value
