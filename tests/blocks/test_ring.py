"""The ring's arithmetic, against its definition by walking."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.blocks.popularity import Popularity
from polyarch.blocks.ring import between, distance, identifier, successor_index, within
from polyarch.core import Random

BITS = 4
places = st.integers(0, (1 << BITS) - 1)


def walk(a: int, b: int) -> list[int]:
    """The places clockwise after ``a`` up to ``b``: all of them if they are the same."""
    path = [(a + 1) % (1 << BITS)]
    while path[-1] != b:
        path.append((path[-1] + 1) % (1 << BITS))
    return path


@given(places, places, places)
def test_within_is_what_one_meets_on_the_way(key: int, a: int, b: int) -> None:
    assert within(key, a, b) == (key in walk(a, b))
    assert between(key, a, b) == (key in walk(a, b)[:-1])


@given(places, places)
def test_distance_counts_the_steps(a: int, b: int) -> None:
    assert distance(a, b, BITS) == (0 if a == b else len(walk(a, b)))
    assert distance(a, b, BITS) == (-distance(b, a, BITS)) % (1 << BITS)


@given(st.sets(places, min_size=1), places)
def test_the_successor_is_the_first_node_clockwise_from_the_key(nodes: set[int], key: int) -> None:
    ring = sorted(nodes)
    found = ring[successor_index(ring, key)]
    assert found == min(nodes, key=lambda n: distance(key, n, BITS))


@given(st.text(), st.integers(1, 159))
def test_fewer_bits_are_the_first_of_more(name: str, bits: int) -> None:
    assert identifier(name, bits) == identifier(name, 160) >> (160 - bits)


def test_an_identifier_is_the_start_of_the_sha_1() -> None:
    assert identifier("abc", 32) == 0xA9993E36
    with pytest.raises(ValueError, match="161 bits"):
        identifier("abc", 161)


def test_popularity_follows_zipf() -> None:
    random, popularity = Random(1), Popularity(100, 1.0)
    drawn = [popularity.draw(random) for _ in range(20_000)]
    harmonic = sum(1 / r for r in range(1, 101))
    for rank in (0, 1, 9):
        assert drawn.count(rank) / 20_000 == pytest.approx(1 / (rank + 1) / harmonic, rel=0.1)
    assert {Popularity(3).draw(random) for _ in range(100)} == {0, 1, 2}
