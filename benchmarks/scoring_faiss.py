"""FAISS's exact search for `scoring.py`, run by the Python of `.local/faiss`: n k top.

Each line on stdin is one search; its milliseconds and rows go to stdout as JSON.
"""

import json
import sys
import time

import faiss
import numpy as np


def main() -> None:
    n, k, top = map(int, sys.argv[1:])
    rng = np.random.default_rng(n)
    rows = rng.standard_normal((n, k), dtype=np.float32)
    weights = -rng.standard_normal(k, dtype=np.float32)[None, :]
    index = faiss.IndexFlatIP(k)
    index.add(rows)
    print(json.dumps({"built": n}), flush=True)
    for _ in sys.stdin:
        began, used = time.perf_counter(), time.process_time()
        _, found = index.search(weights, top)
        print(json.dumps({"wall": (time.perf_counter() - began) * 1e3,
                          "cpu": (time.process_time() - used) * 1e3,
                          "rows": found[0].tolist()}), flush=True)


if __name__ == "__main__":
    main()
