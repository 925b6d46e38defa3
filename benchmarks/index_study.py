"""When does an index pay? Exact scoring beside FAISS's indexes as the candidates grow.

    .local/faiss/bin/python benchmarks/index_study.py [--rows 1000000,10000000]
                                                      [--write docs/benchmarks-index.md]

A ranking is a maximum inner product search: the stored projections are the vectors, W c is the
query, the top 100 is the answer. An index that answers it approximately reads less than the whole
array; it costs a second copy, a build, and rows that it misses. Run by the Python of `.local/faiss`
(made by `benchmarks/scoring.py`), which has numpy and faiss-cpu.

The vectors are made: `even` ones are Gaussian, the worst case of an index; `uneven` ones are as
projections are, with a spectrum that falls and magnitudes that differ by orders (most training rows
are fitted well, few are not). Queries are Gaussian in the coordinates of the vectors; each is new,
and all ways get the same. Memory: the arrays that a way keeps, without what it was made from.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import faiss
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
from pgrain.influence.blocks import ProjectionBlocks  # noqa: E402
from pgrain.influence.top_k import least_k  # noqa: E402

K, TOP, QUERIES = 20, 100, 20
HNSW_ROWS = 100_000       # it takes a fraction of a millisecond a row and core to build
SQ8_ROWS = 1_000_000      # beyond that each index alone takes minutes
LISTS = 1024              # at most: adding n vectors takes n x lists x K multiplications

FOUND = """## What this says

On a busy machine of two cores; indexes up to 1,000,000 vectors, exact scoring alone at 10,000,000
(an index of those took longer to build than the machine was to be had; `--rows` says what is run).
10⁸ vectors are 8 GB, and 17 GB with an index: not run.

- Exact scoring takes 8 ms of processor time a million vectors, 81 ms ten million: it grows as the
  array does. By that 10⁸ would take 0.8 s of one core.
- IVF reading a fifth of its lists takes two fifths of that time at a million, and finds 0.97 of the
  right hundred rows among even vectors, but 0.65 among uneven ones, which are made as projections
  are: the largest inner products belong to the longest vectors, and these lie in all lists. HNSW
  finds 0.99 and 0.67 of 100,000.
- Building takes a minute or two a million vectors beside a second, and the index is a second copy.
  Eight bits a number and exact scores for four times as many as are wanted lose nothing that the
  lists had not lost, and gain nothing here.
- An index answers inner products only: not the best label of each row, nor `relatif`.

So none is used. By these figures an IVF would save some 50 ms of 80 at 10⁷ vectors, for those who
can do without a third of the suspects.
"""


def vectors(n: int, uneven: bool) -> np.ndarray:
    """(n, K) float32."""
    rng = np.random.default_rng(n)
    made = rng.standard_normal((n, K), dtype=np.float32)
    if uneven:
        made *= (0.9 ** np.arange(K, dtype=np.float32))
        made *= rng.lognormal(0.0, 2.0, (n, 1)).astype(np.float32)
    return made


def queries(n: int) -> np.ndarray:
    return np.random.default_rng(n + 1).standard_normal((QUERIES, K), dtype=np.float32)


def timed(search, asked: np.ndarray) -> tuple[list[float], list[float], list[np.ndarray]]:
    """(milliseconds, milliseconds of processor time, rows) of each query."""
    search(asked[:1])
    wall, used, found = [], [], []
    for query in asked:
        began, before = time.perf_counter(), time.process_time()
        found.append(search(query[None, :]))
        wall.append(1e3 * (time.perf_counter() - began))
        used.append(1e3 * (time.process_time() - before))
    return wall, used, found


def recall(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """The share of the exact top 100 that was found, over all queries."""
    return float(np.mean([np.isin(one, other).mean()
                          for one, other in zip(exact, found, strict=True)]))


def study(n: int, uneven: bool) -> list[list]:
    """Rows of the table: [way, build s, memory MB, least ms, median ms, processor ms, recall]."""
    rows, asked = [], queries(n)
    made = vectors(n, uneven)
    exact: list[np.ndarray] = []

    def add(way: str, build: float, size: float, search) -> None:
        wall, used, found = timed(search, asked)
        if not exact:
            exact.extend(found)
        rows.append([way, build, size / 1e6, min(wall), statistics.median(wall), min(used),
                     recall(found, exact)])
        print(n, "uneven" if uneven else "even", rows[-1], file=sys.stderr, flush=True)

    began = time.perf_counter()
    blocks = ProjectionBlocks(made)
    took = time.perf_counter() - began
    add("pgrain: exact, blocks", took, blocks.nbytes,
        lambda query, blocks=blocks: least_k(blocks.least(-query[0]), TOP))
    del blocks
    flat = faiss.IndexFlatIP(K)
    began = time.perf_counter()
    flat.add(made)
    add("FAISS flat", time.perf_counter() - began, made.nbytes,
        lambda query, flat=flat: flat.search(query, TOP)[1][0])
    del flat
    lists = min(LISTS, int(2 ** np.round(np.log2(np.sqrt(n)))))
    kinds = [("Flat", 4 * K + 8), ("SQ8", K + 8)]
    for name, per_row in kinds if n <= SQ8_ROWS else kinds[:1]:
        index = faiss.index_factory(K, f"IVF{lists},{name}", faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.max_points_per_centroid = 10, 64
        began = time.perf_counter()
        index.train(made[:: max(1, n // (64 * lists))])
        index.add(made)
        took = time.perf_counter() - began
        for share in (0.01, 0.05, 0.2):
            index.nprobe = max(1, round(lists * share))
            # SQ8 gives more than is wanted, which exact scores then put in order.
            wanted = TOP if name == "Flat" else 4 * TOP

            def search(query, index=index, wanted=wanted):
                found = index.search(query, wanted)[1][0]
                found = found[found >= 0]
                if wanted == TOP:
                    return found
                return found[least_k(-(made[found] @ query[0]), TOP)]

            add(f"IVF{lists} {name}, {index.nprobe} lists read", took,
                n * per_row + (0 if name == "Flat" else made.nbytes), search)
        del index
    if n <= HNSW_ROWS:
        index = faiss.IndexHNSWFlat(K, 16, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 40
        began = time.perf_counter()
        index.add(made)
        took = time.perf_counter() - began
        for wide in (128, 1024):
            index.hnsw.efSearch = wide
            add(f"HNSW16, efSearch {wide}", took, made.nbytes + n * 16 * 2 * 4,
                lambda query: index.search(query, TOP)[1][0])
    return rows


def page(found: dict, threads: int, loads: list[float]) -> str:
    lines = ["# When an index pays", "",
             f"`benchmarks/index_study.py`: top {TOP} of n × {K} inner products, {QUERIES} "
             f"queries, {threads} cores, FAISS {faiss.__version__}, numpy {np.__version__}; load "
             f"meanwhile {min(loads):.0f} to {max(loads):.0f}. On a busy machine the least and the "
             "processor time (of all threads, least) say what the work is; the median says how "
             "long others ran. Memory: what a way keeps, the array itself where it needs that for "
             "exact scores.", ""]
    for (n, uneven), rows in found.items():
        lines += [f"## {n:,} vectors, {'uneven' if uneven else 'even'}", "",
                  "| | build s | MB | least ms | median ms | processor ms | recall |",
                  "|---|---|---|---|---|---|---|"]
        lines += [f"| {way} | {build:.1f} | {size:,.0f} | {least:.2f} | {median:.2f} | {used:.2f} "
                  f"| {share:.3f} |" for way, build, size, least, median, used, share in rows]
        lines.append("")
    return "\n".join([*lines, FOUND])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default="100000,1000000,10000000")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    loads, found = [os.getloadavg()[0]], {}
    for n in map(int, options.rows.split(",")):
        for uneven in (False, True):
            found[n, uneven] = study(n, uneven)
            loads.append(os.getloadavg()[0])
    text = page(found, len(os.sched_getaffinity(0)), loads)
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
