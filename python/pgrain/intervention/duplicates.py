"""Rows that another row equals or nearly equals: all but the first of each group can go.

By ``digest``: equal features. By ``distance``: the logits' Jacobians along the stored eigenvectors
(J_z, which is what a row can do to the model) differ by at most a share of their usual length.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pgrain.errors import LimitExceeded
from pgrain.models.options import Option

DISTANCE = 0.02
MOST_PAIRS = 10_000_000
OPTIONS = (Option("by", "choice", "what makes two rows alike", choices=("digest", "distance")),
           Option("distance", "number", "how far apart alike rows may be, as a share of the median "
                                        "length of a row's projection", 0, 1),
           Option("same_label", "boolean", "only rows with the same label are duplicates"))


def redundant(digests: np.ndarray, labels: np.ndarray, J: np.ndarray, options: dict) -> np.ndarray:
    """Positions (ascending) of rows that an earlier row is a duplicate of.

    digests: (n, 16) uint8; labels: (n,); J: (n, R, m) float32. Likeness by distance is taken
    transitively, so a group keeps exactly one row.
    """
    n = len(labels)
    if n == 0:
        return np.zeros(0, np.int64)
    if options.get("by", "digest") == "digest":
        _, group = np.unique(np.ascontiguousarray(digests).view("V16").reshape(-1),
                             return_inverse=True)
    else:
        pairs = _near(J.reshape(n, -1), options.get("distance", DISTANCE))
        links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
        group = connected_components(links, directed=False)[1]
    if options.get("same_label", True):
        group = group.astype(np.int64) * (int(labels.max()) + 1) + labels
    _, first = np.unique(group, return_index=True)
    later = np.ones(n, bool)
    later[first] = False
    return np.flatnonzero(later)


def _near(rows: np.ndarray, share: float) -> np.ndarray:
    """(pairs, 2) of rows (n, d) whose distance is at most `share` of the median length.

    A few orthonormal directions can only bring rows nearer together, so a tree over them misses no
    pair; the distance of those that it finds is then computed in full. Equal rows are one point of
    the tree.
    """
    limit = share * float(np.median(np.linalg.norm(rows, axis=1)))
    bytes_of = np.ascontiguousarray(rows).view(f"V{rows.shape[1] * rows.itemsize}").reshape(-1)
    _, first, group = np.unique(bytes_of, return_index=True, return_inverse=True)
    equal = np.stack([first[group], np.arange(len(rows))], axis=1)
    points = rows[first]
    directions, _ = np.linalg.qr(np.random.default_rng(0).standard_normal(
        (rows.shape[1], min(8, rows.shape[1]))))
    tree = cKDTree(points @ directions.astype(np.float32))
    reach = limit * (1 + 1e-5) + 1e-12
    # The answer counts each point with itself and each pair twice.
    if (count := (tree.count_neighbors(tree, reach) - len(points)) / 2) > MOST_PAIRS:
        raise LimitExceeded(f"{count:,.0f} pairs of training rows are alike",
                            detail=f"At most {MOST_PAIRS:,} can be looked at.",
                            hint='Give a smaller "distance".')
    found = tree.query_pairs(reach, output_type="ndarray")
    near = [part[np.linalg.norm(points[part[:, 0]] - points[part[:, 1]], axis=1) <= limit]
            for part in np.array_split(found, max(1, len(found) // 20_000))]
    return np.concatenate([equal, first[np.concatenate(near)]])
