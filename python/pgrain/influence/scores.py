"""First-order changes of an objective q by interventions on training rows: numpy, online.

With c = V^T grad q, W = diag w (`filters.py`), a_z = V^T grad l_z = J_z^T (p_z - e_y):

    removing z            changes q by  + c^T W a_z
    relabelling it y -> y'              + c^T W J_z^T (e_y' - e_y)
    replacing z by z'                   + c^T W (a_z - a_z')

Deviations from the paper:
1. Its equation 3 is for *adding* z: theta moves by -H^-1 grad l_z. Removing has the other sign.
2. Its section 5.3 (replacing) has -(grad l_z - grad l_z'), against its own definition as "deleting
   z and adding z'"; the sign here is +. Relabelling is the case x' = x, where p_z cancels.

`score` is minus the change (q is to be reduced): larger is better. With c of a single cell's
relaxed value instead, the change is the `effect`.
"""

from __future__ import annotations

import numpy as np

from pgrain.influence.top_k import top_k

__all__ = ["bounded", "deletion_changes", "relabel_changes", "relatif", "replacement_changes",
           "self_influence", "top_k", "weighted"]


def bounded(c: np.ndarray, w: np.ndarray | float = 1.0) -> tuple[np.ndarray, int]:
    """c as (c / 2^e, e), so that neither it nor w c exceeds 1: the slopes of a complaint about
    sums of huge or tiny numbers are beyond what float32 holds. Everything here is linear in c, so
    ``np.ldexp`` of a change by e is the change, and exactly the one without this where that is
    within float32's range. c: (k,); w: (k,) or a number.
    """
    c = np.asarray(c, np.float64)
    e = int(np.frexp(np.abs(c).max(initial=0.0))[1])
    c = np.ldexp(c, -e)
    more = int(np.frexp(np.abs(w * c).max(initial=0.0))[1])
    return np.ldexp(c, -more), e + more


def weighted(w: np.ndarray, c: np.ndarray) -> np.ndarray:
    """W c: (k,) float32. In float64, then the stored arrays' type, so that nothing large is
    converted. w, c: (k,), see `bounded` for large ones."""
    return (np.asarray(w, np.float64) * np.asarray(c, np.float64)).astype(np.float32)


def deletion_changes(A: np.ndarray, w: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The change of q on removal of each row: +c^T W a_z, (N,) float32.

    A: (N, k) float32, row z is a_z; w, c: (k,).
    """
    return A @ weighted(w, c)


def deletion_changes_by_k(A: np.ndarray, w: np.ndarray, c: np.ndarray) -> np.ndarray:
    """`deletion_changes` with the first 1, 2, ..., m pairs, in one pass: (m, N) float32.

    A: (N, m); w, c: (m,), w of a filter that gives each pair the same weight whatever k is (all of
    `filters.py`). Row k - 1 is the answer with k pairs.
    """
    terms = A.T * weighted(w, c)[:, None]
    return np.cumsum(terms, axis=0, out=terms)


def relabel_changes(J: np.ndarray, labels: np.ndarray, w: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The change of q for each row and new label: +c^T W J_z^T (e_y' - e_y), (N, R) float32.

    J: (N, R, m) float32 with m >= k, of which the first k count; labels: (N,) the current classes
    y; w, c: (k,). The entry of the current label is exactly 0.
    """
    n, n_classes, m = J.shape
    # A view of the first k columns of rows of m, not a copy: BLAS reads it as it lies.
    slopes = (J.reshape(n * n_classes, m)[:, :len(w)] @ weighted(w, c)).reshape(n, n_classes)
    return slopes - slopes[np.arange(n), labels][:, None]


def replacement_changes(A: np.ndarray, A_new: np.ndarray, w: np.ndarray,
                        c: np.ndarray) -> np.ndarray:
    """The change of q on replacing each z by its z': +c^T W (a_z - a_z'), (N,) float32.

    A, A_new: (N, k) float32, projections of the rows as they are and as they would be.
    """
    return (A - A_new) @ weighted(w, c)


def self_influence(A: np.ndarray, w: np.ndarray) -> np.ndarray:
    """a_z^T W a_z, how much each row holds up its own loss: (N,) float64, >= 0.

    In float64: the square of a well-fitted row's a_z is below what float32 can hold.
    """
    A = np.asarray(A, np.float64)
    return np.einsum("nk,k,nk->n", A, np.asarray(w, np.float64), A)


def relatif(changes: np.ndarray, A: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Changes divided by the square root of self-influence (RelatIF, Barshan et al. 2020).

    changes: (N,) or (N, R). A row without influence on itself keeps the change 0.
    """
    size = np.sqrt(self_influence(A, w))
    size = size.reshape(-1, *[1] * (changes.ndim - 1))
    changes = np.asarray(changes, np.float64)
    return np.divide(changes, size, out=np.zeros_like(changes), where=size > 0)
