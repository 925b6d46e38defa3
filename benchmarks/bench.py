"""`make bench`: timed runs side by side with what they are compared to, into docs/benchmarks.md.

    .local/venv/bin/python benchmarks/bench.py [--rows 20000] [--queried 10000] [--only complain]
                                               [--note "measured on a busy machine"]

A private cluster in a folder of its own is made, filled, and removed. Results go to
benchmarks/results/<commit>.json too, so that regressions show; plots beside the page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import bench_complain
import bench_floors
import bench_modes
import bench_offline
import bench_page
import bench_peers
import bench_plots
import bench_predict
import bench_sizes
from bench_common import Bench, machine, server

from pgrain.demo import shop
from pgrain.demo.timing import say

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000, help="training rows")
    parser.add_argument("--queried", type=int, default=10_000, help="rows of the inference table")
    parser.add_argument("--seconds", type=float, default=15, help="of each pgbench run")
    parser.add_argument("--repeat", type=int, default=31, help="calls behind a median")
    parser.add_argument("--models", default=",".join(shop.SIZES))
    parser.add_argument("--offline-rows", type=int, default=60_000,
                        help="training rows of the section offline, at most")
    parser.add_argument("--large", type=int, default=1_000_000,
                        help="rows of the inference table of the section sizes")
    parser.add_argument("--only", default="complain,predict,sizes,offline,modes,peers")
    parser.add_argument("--note", default="", help="printed at the top: what else the machine did")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    options = parser.parse_args()
    options.page.parent.mkdir(parents=True, exist_ok=True)    # before the minutes, not after
    models = tuple(options.models.split(","))
    bench = Bench(options.rows, options.queried, options.seconds, options.repeat,
                  "mlp_256" if "mlp_256" in models else models[0], options.offline_rows)
    began = time.perf_counter()
    facts = machine()
    if "complain" in options.only or "predict" in options.only:
        with server(bench):
            say("loading, training, precomputing")
            shop.fill(bench.connection, bench.rows, bench.queried)
            for name in models:
                seconds = shop.model(bench.connection, name, *shop.SIZES[name], say)
                bench.facts |= {f"{step} {name}": took for step, took in seconds.items()}
            bench_floors.computing(bench, 0)     # measured before anything is
            if "complain" in options.only:
                bench_complain.measure(bench)
            if "predict" in options.only:
                bench_predict.measure(bench)
    if "sizes" in options.only:
        with server(bench):
            bench_sizes.measure(bench, options.large)
    if "offline" in options.only:
        with server(bench):
            bench_offline.measure(bench)
    if "modes" in options.only:
        bench_modes.measure(bench)
    if "peers" in options.only:
        bench_peers.measure(bench)
    facts |= {"note": options.note, "seconds": round(time.perf_counter() - began),
              "rows": bench.rows, "queried": bench.queried, "repeat": bench.repeat}
    RESULTS.mkdir(exist_ok=True)
    name = RESULTS / f"{facts['commit']}.json"
    result = {"machine": facts, "entries": [e.as_json() for e in bench.entries],
              "skipped": bench.skipped}
    if name.exists():
        # --only measures some sections again; the others of this commit stay.
        old = json.loads(name.read_text())
        new = {e["section"] for e in result["entries"]}
        kept = [e for e in old["entries"] if e["section"] not in new]
        result["entries"] = kept + result["entries"]
        result["skipped"] = list(dict.fromkeys(old["skipped"] + bench.skipped))
        result["machine"]["seconds"] += old["machine"]["seconds"]
    name.write_text(json.dumps(result, indent=1) + "\n")
    folder = options.page.with_suffix("")
    plots = bench_plots.draw(result, folder)
    options.page.write_text(bench_page.render(result, before(name), plots, folder.name))
    say(f"wrote {options.page} and {name} in {facts['seconds']} s")


def before(name: Path) -> dict | None:
    """The results of another commit that were written last, if there are any."""
    others = [json.loads(p.read_text()) for p in RESULTS.glob("*.json") if p != name]
    # Older ones do not say when; a checkout gives all files one time, so the commit's is asked.
    return max(others, key=lambda it: it["machine"].get("at") or committed(it["machine"]["commit"]),
               default=None)


def committed(commit: str) -> str:
    """When a commit was made, ISO 8601; empty for one that is not known here."""
    return subprocess.run(["git", "show", "-s", "--format=%cI", commit], capture_output=True,
                          text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
