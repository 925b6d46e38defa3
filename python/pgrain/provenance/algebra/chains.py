"""Several comparisons of one number with constants, wired together: they are not independent.

n >= 2 and n = 1 exclude each other; n BETWEEN 2 AND 3 is an interval; a > b and a < b are about one
difference. The constants cut the line into cells (below the first, the first itself, between it and
the second, …), each of which has the probability P(n >= a) - P(n > a) or so, and every state of the
comparisons is a set of cells.
"""

from __future__ import annotations

import numpy as np

from pgrain.provenance.algebra import comparisons, jointly
from pgrain.provenance.algebra.blocks import Atom
from pgrain.provenance.algebra.small_gates import Combination
from pgrain.provenance.algebra.wiring import CERTAIN, NEVER

_TESTS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
          "=": np.equal, "<>": np.not_equal}


def literals(rows, atoms: list[Atom], codes: np.ndarray, at: np.ndarray,
             beside: np.ndarray | None = None) -> list[np.ndarray]:
    """Literals (T,) whose conjunction says that `atoms` are in the states `codes` (T, m; 0 false, 1
    true, 2 NULL) at the rows `at` (T,) of a Base or Groups.

    Comparisons of different numbers are decided together where the groups are small (`jointly`).
    beside: (T, L) literals that hold beside them: where these share variables with the numbers'
    terms (a label and an average that it is part of), the comparisons are taken given them.
    """
    known = [number for number, atom in enumerate(atoms) if jointly.knows(rows, atom)]
    together = [atoms[number] for number in known]
    fits, made = np.zeros(len(at), bool), []
    shared = jointly.sharing(rows, together, at, beside) if beside is not None and known else fits
    for some, joined in ((shared, True), (~shared, len(_chains(together)) > 1)):
        mine = np.flatnonzero(some)
        if not joined or not len(mine):
            continue
        # Given what holds beside them, rows are told apart by it.
        picked, where = (jointly.Picked(rows, at[mine]), np.arange(len(mine))) \
            if some is shared else (rows, at[mine])
        joint = jointly.of(picked, together, beside[mine] if some is shared else None)
        if joint is None or not joint.fits[where].any():
            continue
        literal = np.full(len(at), CERTAIN)
        literal[mine] = joint.literals(together, codes[mine][:, known], where, joint.fits[where])
        fits[mine] = joint.fits[where]
        made.append(literal)
    if not fits.any():
        return _apart(rows, atoms, codes, at, range(len(atoms)))
    if not fits.all():
        made += [np.where(fits, CERTAIN, literal)
                 for literal in _apart(rows, atoms, codes, at, known)]
    rest = [number for number in range(len(atoms)) if number not in known]
    return made + _apart(rows, atoms, codes, at, rest)


def _chains(atoms: list[Atom]) -> list[tuple]:
    """(number or None, [(place of an atom, operator, bound)]): comparisons of one number with
    constants together, others alone."""
    chains: list[tuple] = []
    for place, atom in enumerate(atoms):
        found = comparisons.with_constant(atom)
        known = next((chain for chain in chains if found and chain[0] == found[0]), None)
        if known is None:
            known = (found and found[0], [])
            chains.append(known)
        known[1].append((place, found and found[1], found and found[2]))
    return chains


def _apart(rows, atoms: list[Atom], codes: np.ndarray, at: np.ndarray, which) -> list[np.ndarray]:
    """As `literals`, of the atoms `which`, different numbers as if independent."""
    made = []
    for left, members in _chains([atoms[number] for number in which]):
        numbers = [which[place] for place, _, _ in members]
        if len(members) == 1:
            made.append(comparisons.place(rows, atoms[numbers[0]])[at] + codes[:, numbers[0]])
            continue
        bounds = [np.zeros(rows.n) if right is None else comparisons.constant(rows, right)
                  for _, _, right in members]
        made.append(_joint(rows, left, [operator for _, operator, _ in members],
                           np.stack(bounds, axis=1), codes[:, numbers], at,
                           atoms[numbers[0]].place))
    return made


def _joint(rows, left, operators, bounds, codes, at, place) -> np.ndarray:
    """(T,) literals of the states `codes` (T, m) of left compared with `bounds` (n, m)."""
    wiring, (n, m) = rows.assembly.wiring, bounds.shape
    order = np.sort(bounds, axis=1)                     # NaN last
    steps = np.stack([comparisons.place_bound(rows, left, operator, order[:, j], place)
                      for j in range(m) for operator in (">=", ">")], axis=1).reshape(n, 2 * m)
    # A value of each cell: below order[0], order[0], between, …, above the last.
    inside = np.empty((n, 2 * m + 1))
    inside[:, 1::2] = order
    inside[:, 0], inside[:, 2 * m] = order[:, 0] - 1.0, order[:, -1] + 1.0
    between = (order[:, :-1] + order[:, 1:]) / 2.0
    inside[:, 2:2 * m:2] = np.where(np.isnan(order[:, 1:]), order[:, :-1] + 1.0, between)
    truth = np.stack([_TESTS[operator](inside, bounds[:, [i]])
                      for i, operator in enumerate(operators)], axis=2)
    # One literal for each state of what is the same; these exclude each other.
    same = np.unique(steps, axis=0, return_inverse=True)[1].reshape(-1)
    state = codes @ 3 ** np.arange(m)
    _, first, which = np.unique(same[at] * 3 ** m + state, return_index=True, return_inverse=True)
    row, code = at[first], codes[first]
    compared, null = ~np.isnan(bounds[row]), code == 2
    meets = ((truth[row] == (code == 1)[:, None, :]) | ~compared[:, None, :]).all(axis=2)
    unknown = compared.any(axis=1) & (null | ~compared).all(axis=1)
    never = (~compared & ~null).any(axis=1) | (compared & null).any(axis=1) & ~unknown
    nothing = ~compared.any(axis=1) & ~never
    meets = (meets & ~(unknown | never | nothing)[:, None]).astype(float)
    weights = np.diff(meets[:, 1:], axis=1, prepend=0.0)       # of P(left >= order[0]), …
    target, step = np.nonzero(weights)
    parts = [(target, steps[row[target], step] + 1, weights[target, step])]
    for chosen, state in ((meets[:, 0] > 0, 0), (unknown, 2)):
        target = np.flatnonzero(chosen)
        parts.append((target, steps[row[target], 0] + state, np.ones(len(target))))
    out = wiring.exclusive(same[row])
    wiring.add(Combination(out, len(first), *(np.concatenate(part)
                                              for part in zip(*parts, strict=True))))
    made = out + np.arange(len(first))
    made[never], made[nothing] = NEVER, CERTAIN
    return made[which.reshape(-1)]
