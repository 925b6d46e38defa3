"""Which stored chunks are written again, over long histories of rows that come and go."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pgrain.settings import CHUNK_ROWS
from pgrain.store.predictions import Names
from pgrain.worker.compaction import SMALL_CHUNKS, due

SIZE = int(CHUNK_ROWS.default)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(0, 3 * SIZE))
def test_what_is_stored_is_bounded_and_seldom_written_again(seed, steps, rows):
    rng = random.Random(seed)
    number = iter(range(10**9))
    there: list[int] = []
    chunks: list[Names] = []
    seqs = iter(range(10**6))
    new_values = written = 0
    for _ in range(steps):
        come = rng.choice([0, 3, rows // 7, rows])
        fresh = [next(number) for _ in range(come)]
        there = rng.sample(there, rng.choice([0, len(there) // 2, len(there)])) + fresh
        new_values += come
        chunks += [Names(next(seqs), 1, fresh[at:at + SIZE]) for at in range(0, come, SIZE)]
        found = set(there)
        again = set(due(chunks, found))
        stay = [d for chunk in chunks if chunk.seq in again for d in chunk.digests if d in found]
        written += len(stay)
        chunks = [chunk for chunk in chunks if chunk.seq not in again]
        chunks += [Names(next(seqs), 1, stay[at:at + SIZE]) for at in range(0, len(stay), SIZE)]
        stored = [d for chunk in chunks for d in chunk.digests]
        assert found == set(stored) & found and len(stored) == len(set(stored))
        assert len(stored) <= 2 * len(found) + SIZE
        small = [chunk for chunk in chunks if 2 * len(chunk.digests) < SIZE]
        assert len(small) <= SMALL_CHUNKS + 1
    # A small chunk is written again once in 16 times, a large one after half of it has gone.
    assert written <= 3 * new_values + SIZE // 2 * (steps / SMALL_CHUNKS + 1)


def test_chunks_rest_while_little_has_changed():
    values = [str(n).encode() for n in range(3 * SIZE)]
    chunks = [Names(seq, 1, values[seq * SIZE:(seq + 1) * SIZE]) for seq in range(3)]
    assert due(chunks, set(values)) == []
    assert due(chunks, set(values[SIZE:])) == []                  # a third has gone
    assert due(chunks, set(values[2 * SIZE + 9:])) == [0, 1]   # more than two thirds
    assert due(chunks, set()) == [0, 1, 2]
    assert due([], set()) == []
