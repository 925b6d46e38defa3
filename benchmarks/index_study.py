"""When does an index pay? Exact scoring beside FAISS's indexes as the candidates grow.

    .local/faiss/bin/python benchmarks/index_study.py [--rows 1000000,10000000] [--shapes uneven]
                                   [--queries 20] [--write docs/benchmarks-index.md] [--keep FILE]

A ranking is a maximum inner product search: the stored projections are the vectors, W c is the
query, the top 100 is the answer. An index that answers it approximately reads less than the whole
array; it costs a second copy, a build, and rows that it misses. Run by the Python of `.local/faiss`
(made by `make bench`), which has numpy and faiss-cpu.

The vectors are made, a part of ten million at a time: `even` ones are Gaussian, the worst case of
an index; `uneven` ones are as projections are, with a spectrum that falls and magnitudes that
differ by orders (most training rows are fitted well, few are not). Queries are Gaussian in the
coordinates of the vectors; each is new, and all ways get the same. Smaller stores (float16, eight
bits) give more rows than are wanted, which exact scores then put in order; these need the exact
vectors beside them. Memory: the arrays that a way keeps, without what it was made from; `--keep`
collects results over several runs, so that each size can have its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
from index_vectors import PART, TOP, K, parts, queries, recall

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
from pgrain.influence.blocks import ProjectionBlocks  # noqa: E402
from pgrain.influence.top_k import least_k  # noqa: E402

MORE = 4
HNSW_ROWS = 100_000       # it takes a fraction of a millisecond a row and core to build
FLAT_ROWS = 10_000_000    # beyond that a second array of exact vectors is too much memory
LISTS = 1024              # at most: adding n vectors takes n x lists x K multiplications
CORES = len(os.sched_getaffinity(0))

FOUND = """## What this says

On a busy machine of two cores; `--rows`, `--shapes` and `--queries` say what is run, `--keep`
collects it.

- Exact scoring takes 8 to 9 ms of processor time a million vectors, 83 ms ten million, 938 ms a
  hundred million: it grows as the array does.
- A smaller store is no way to be faster here. float16 and eight bits a number with exact scores
  for four times as many as are wanted find all of the right hundred, and take four times the
  processor time of exact scoring, or more: the compiled loops that widen the numbers cost
  more than the memory that is not read. They would pay where the exact array does not fit into
  memory.
- IVF reading a fifth of its lists takes two fifths of exact scoring's time at a million, and finds
  0.97 of the right hundred among even vectors, but 0.64 among uneven ones, which are made as
  projections are: the largest inner products belong to the longest vectors, and these lie in all
  lists. HNSW finds 0.99 and 0.73 of 100,000.
- Building an IVF takes some 20 s a million vectors on the busy machine beside 0.4 for blocks, and
  the index is a second copy.
- pgvector's exact scan reads rows, not blocks: more than 200 times as long as exact scoring at
  100,000, 65 times at a million. Its HNSW finds 0.96 to 0.97 of the right hundred among 100,000
  with 128 candidates, 0.99 or more with 1,000, in 0.7 to 28 ms, where exact scoring takes 0.15;
  IVFFlat finds about what FAISS's does.
- An index answers inner products only: not the best label of each row, nor `relatif`.

So none is used. At 10⁷ vectors an IVF saves 57 of 83 ms of processor time for those who can do
without a third of the suspects. At 10⁸ (`--index-alone`) exact scoring takes 0.94 s of processor
time and 1.1 s at best, an IVF of 1,024 lists a sixtieth of that for a twentieth of the right
hundred, and little more than half of it for a half of them. It pays for nobody who wants the rows.
"""


class Exact:
    """The stored projections, in parts of `ProjectionBlocks`."""

    def __init__(self):
        self.parts: list[ProjectionBlocks] = []

    def add(self, made: np.ndarray) -> None:
        self.parts.append(ProjectionBlocks(made))

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def search(self, query: np.ndarray) -> np.ndarray:
        """Rows of the exact top 100, best first."""
        rows, changes = [], []
        for number, part in enumerate(self.parts):
            least = part.least(-query[0])
            best = least_k(least, TOP)
            rows.append(best + number * PART)
            changes.append(least[best])
        return np.concatenate(rows)[least_k(np.concatenate(changes), TOP)]

    def best_of(self, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Those of `rows` that are best by exact scores."""
        rows = rows[rows >= 0]
        scores = np.empty(len(rows), np.float32)
        for number, part in enumerate(self.parts):
            mine = rows // PART == number
            at = rows[mine] - number * PART
            scores[mine] = part._blocks[at // part.rows, :, at % part.rows] @ query[0]
        return rows[least_k(-scores, TOP)]


class Smaller:
    """A flat store of fewer bits a number, cut among the cores: FAISS's compiled loops search it,
    one thread a piece."""

    def __init__(self, kind: int):
        self.kind, self.pieces, self.first = kind, [], []
        self.rows = 0

    def add(self, made: np.ndarray) -> None:
        for piece in np.array_split(made, CORES):
            index = faiss.IndexScalarQuantizer(K, self.kind, faiss.METRIC_INNER_PRODUCT)
            index.train(piece)
            index.add(piece)
            self.first.append(self.rows)
            self.pieces.append(index)
            self.rows += len(piece)

    def search(self, query: np.ndarray, wanted: int) -> np.ndarray:
        def one(number: int):
            scores, rows = self.pieces[number].search(query, wanted)
            return scores[0], rows[0] + self.first[number]
        with ThreadPoolExecutor(CORES) as pool:
            found = list(pool.map(one, range(len(self.pieces))))
        scores, rows = (np.concatenate(column) for column in zip(*found, strict=True))
        return rows[least_k(-scores, wanted)]


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


def study(n: int, uneven: bool, count: int, smaller_too: bool = True) -> list[list]:
    """Rows of the table: [way, build s, memory MB, least ms, median ms, processor ms, recall]."""
    rows, asked = [], queries(n, count)
    truth: list[np.ndarray] = []

    def add(way: str, build: float, size: float, search) -> None:
        wall, used, found = timed(search, asked)
        if not truth:
            truth.extend(found)
        rows.append([way, build, size / 1e6, min(wall), statistics.median(wall), min(used),
                     recall(found, truth)])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(n, "uneven" if uneven else "even", rows[-1], f"peak {peak} MiB", file=sys.stderr,
              flush=True)

    def filled(index) -> float:
        """Seconds that adding all vectors takes, without making them."""
        took = 0.0
        for made in parts(n, uneven):
            began = time.perf_counter()
            index.add(made)
            took += time.perf_counter() - began
            del made
        return took

    exact = Exact()
    took = filled(exact)
    add("pgrain: exact, blocks", took, exact.nbytes, exact.search)
    if n <= FLAT_ROWS:
        flat = faiss.IndexFlatIP(K)
        took = filled(flat)
        add("FAISS flat", took, 4 * K * n,
            lambda query, flat=flat: flat.search(query, TOP)[1][0])
        del flat
    for name, kind, size in [("float16", faiss.ScalarQuantizer.QT_fp16, 2 * K),
                             ("8 bits", faiss.ScalarQuantizer.QT_8bit, K)
                             ] if smaller_too else ():
        smaller = Smaller(kind)
        took = filled(smaller)
        add(f"{name}, exact scores of {MORE * TOP}", took, n * size + exact.nbytes,
            lambda query, s=smaller: exact.best_of(s.search(query, MORE * TOP), query))
        del smaller
    lists = min(LISTS, int(2 ** np.round(np.log2(np.sqrt(n)))))
    for name in ("Flat", "SQ8") if n <= FLAT_ROWS else ("SQ8",):
        index = faiss.index_factory(K, f"IVF{lists},{name}", faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.max_points_per_centroid = 10, 64
        sample = next(parts(n, uneven))
        began = time.perf_counter()
        index.train(sample[:: max(1, len(sample) // (64 * lists))])
        took = time.perf_counter() - began
        del sample
        took += filled(index)
        for share in (0.01, 0.05, 0.2):
            index.nprobe = max(1, round(lists * share))
            if name == "Flat":
                add(f"IVF{lists} {name}, {index.nprobe} lists read", took, n * (4 * K + 8),
                    lambda query, i=index: (found := i.search(query, TOP)[1][0])[found >= 0])
            else:
                add(f"IVF{lists} {name}, {index.nprobe} lists read", took,
                    n * (K + 8) + exact.nbytes, lambda query, i=index: exact.best_of(
                        i.search(query, MORE * TOP)[1][0], query))
        del index
    if n <= HNSW_ROWS:
        index = faiss.IndexHNSWFlat(K, 16, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 40
        took = filled(index)
        for wide in (128, 1024):
            index.hnsw.efSearch = wide
            add(f"HNSW16, efSearch {wide}", took, n * (4 * K + 16 * 2 * 4),
                lambda query: index.search(query, TOP)[1][0])
    return rows


def page(found: dict[str, dict]) -> str:
    lines = ["# When an index pays", "",
             f"`benchmarks/index_study.py`: top {TOP} of n × {K} inner products, {CORES} cores, "
             f"FAISS {faiss.__version__}, numpy {np.__version__}. On a busy machine the least and "
             "the processor time (of all threads, least) say what the work is; the median says how "
             "long others ran. Memory: what a way keeps, the exact array itself where it needs "
             "that for exact scores.", ""]
    for name, run in sorted(found.items(), key=lambda item: int(item[0].split()[0])):
        n, shape = name.split()
        load, rows = run["load"], run["rows"]
        lines += [f"## {int(n):,} vectors, {shape}", "",
                  f"{run['queries']} queries; load meanwhile {min(load):.0f} to {max(load):.0f}; "
                  f"{run['seconds']:.0f} s and at most {run['peak']:,} MiB of memory, making the "
                  "vectors included.", "",
                  "| | build s | MB | least ms | median ms | processor ms | recall |",
                  "|---|---|---|---|---|---|---|"]
        lines += [f"| {way} | {build:.1f} | {size:,.0f} | {least:.2f} | {median:.2f} | {used:.2f} "
                  f"| {share:.3f} |" for way, build, size, least, median, used, share in rows]
        lines.append("")
    return "\n".join([*lines, FOUND])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default="100000,1000000,10000000")
    parser.add_argument("--shapes", default="even,uneven")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--index-alone", action="store_true",
                        help="leave out the smaller stores, which take long at 100 million")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--keep", type=Path, help="a JSON file to which results are added")
    options = parser.parse_args()
    found = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    for n in map(int, options.rows.split(",") if options.rows else ()):
        for shape in options.shapes.split(","):
            load, began = [os.getloadavg()[0]], time.perf_counter()
            rows = study(n, shape == "uneven", options.queries, not options.index_alone)
            found[f"{n} {shape}"] = {
                "rows": rows, "queries": options.queries, "load": [*load, os.getloadavg()[0]],
                "seconds": time.perf_counter() - began,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}
            if options.keep:
                options.keep.write_text(json.dumps(found, indent=1) + "\n")
    text = page(found)
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
