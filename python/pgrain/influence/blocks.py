"""Scores of all training rows in one pass over memory.

The floor of a ranking is reading the projections once, so they are kept as they are read: cut into
blocks of rows, and within a block the first pair's numbers of all classes and rows side by side,
then the second's. A block's product with W c is then one matrix-vector product over exactly the k
pairs that count, however many are stored; its result stays in the cache, where all R - 1 new labels
of a row are compared: they are never written out. docs/benchmarks-scoring.md has what
brought nothing (choosing the best within the blocks, compiled loops).

The calling thread takes blocks and so do helpers, from one counter: on a machine that is busy with
other things nobody waits for a helper that has not got a processor.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# Numbers of a block: what Python spends on one is small beside reading it, its product stays in the
# second-level cache, and OpenBLAS takes no threads of its own (as it does from 460 800 on).
BLOCK_NUMBERS = 400_000
_MOST_ROWS = 1 << 15
_HELPED_BLOCKS = 8             # fewer blocks are done before a helper has begun
_HELPERS = min(8, len(os.sched_getaffinity(0))) - 1
_pool = ThreadPoolExecutor(max(1, _HELPERS), thread_name_prefix="scores")


class ProjectionBlocks:
    """Projections of n rows for repeated scoring.

    Parameters
    ----------
    projections : (n, m) float32 a_z, for deletions; or (n, R, m) float32 J_z, for new labels
    labels : (n,) classes y, with J_z alone
    pairs : int
        How many of the m pairs are kept: the largest k that can be scored.
    """

    def __init__(self, projections: np.ndarray, labels: np.ndarray | None = None,
                 pairs: int | None = None):
        J = projections if projections.ndim == 3 else projections[:, None, :]
        self.n, self.n_classes = J.shape[:2]
        self.pairs = J.shape[2] if pairs is None else min(pairs, J.shape[2])
        room = BLOCK_NUMBERS // max(1, self.n_classes * self.pairs)
        self.rows = rows = max(1, min(room, _MOST_ROWS, self.n))
        self.n_blocks = -(-self.n // rows)
        # Rows that fill up the last block are 0; they are cut off from every result.
        self._blocks = np.zeros((self.n_blocks, self.pairs, self.n_classes * rows), np.float32)
        for number in range(self.n_blocks):
            part = J[number * rows:(number + 1) * rows, :, :self.pairs]
            block = self._blocks[number].reshape(self.pairs, self.n_classes, rows)
            block[:, :, :len(part)] = part.transpose(2, 1, 0)
        self._own = None
        if labels is not None:
            # Where in a block's product the row's own label stands.
            self._own = np.asarray(labels, np.intp) * rows + np.arange(self.n, dtype=np.intp) % rows

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return self._blocks.nbytes + (0 if self._own is None else self._own.nbytes)

    def least(self, weights: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
        """The least change of q by what can be done to each row: (n,) float32.

        weights: (k,) W c, k at most `pairs`. Of a_z: weights^T a_z. Of J_z: the least of
        weights^T J_z^T (e_y' - e_y) over the classes y' (all, or the numbers in `classes`) other
        than the row's own; +inf for a row that none is left for.
        """
        weights = np.ascontiguousarray(weights, np.float32)
        k = len(weights)
        if k > self.pairs:
            raise ValueError(f"{k} weights for {self.pairs} pairs")
        if classes is not None and len(classes) == self.n_classes:
            classes = None
        out = np.empty(self.n, np.float32)
        numbers = itertools.count()     # next() of it is atomic

        def work() -> None:
            product = np.empty(self.n_classes * self.rows, np.float32)
            best = np.empty(self.rows, np.float32)
            while (number := next(numbers)) < self.n_blocks:
                first = number * self.rows
                there = min(self.rows, self.n - first)
                np.dot(weights, self._blocks[number, :k], out=product)
                if self._own is None:
                    out[first:first + there] = product[:there]
                    continue
                at = self._own[first:first + there]
                own = product[at]
                product[at] = np.inf        # to keep its label is no intervention
                by_class = product.reshape(self.n_classes, self.rows)
                np.minimum.reduce(by_class if classes is None else by_class[classes], axis=0,
                                  out=best)
                np.subtract(best[:there], own, out=out[first:first + there])

        helpers = []
        if self.n_blocks >= _HELPED_BLOCKS:
            helpers = [_pool.submit(work) for _ in range(_HELPERS)]
        try:
            work()
        finally:
            for helper in helpers:
                if not helper.cancel():     # it has begun: at most the block that it has in hand
                    helper.result()
        return out
