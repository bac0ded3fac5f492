"""Graphs: the models have the degrees that they are to have, and the measures agree with counting by hand."""

from __future__ import annotations

import math

import pytest

from polyarch.blocks import graphs
from polyarch.core import Random

PATH = [[1], [0, 2], [1, 3], [2], []]  # 0 - 1 - 2 - 3, and 4 alone
TRIANGLE = [[1, 2], [0, 2], [0, 1, 3], [2]]  # 0 - 1 - 2, and 3 hangs on 2


def models(n: int, seed: int) -> dict[str, list[list[int]]]:
    return {
        "erdos_renyi": graphs.erdos_renyi(n, 4.0, Random(seed)),
        "with_links": graphs.with_links(n, 2 * n, Random(seed)),
        "barabasi_albert": graphs.barabasi_albert(n, 2, Random(seed)),
        "random_regular": graphs.random_regular(n, 4, Random(seed)),
    }


@pytest.mark.parametrize("seed", range(3))
def test_links_go_both_ways_and_no_two_are_linked_twice(seed: int) -> None:
    for name, graph in models(200, seed).items():
        for i, near in enumerate(graph):
            assert i not in near, name
            assert len(set(near)) == len(near), name
            assert all(i in graph[j] for j in near), name


def test_one_seed_is_one_graph() -> None:
    assert models(100, 7) == models(100, 7)
    assert all(a != b for a, b in zip(models(100, 7).values(), models(100, 8).values()))


def test_models_have_the_links_that_they_are_to_have() -> None:
    graph = models(1000, 1)
    assert graphs.links(graph["with_links"]) == 2000
    assert graphs.links(graph["barabasi_albert"]) == 3 + 2 * 997  # three linked to each other, two each
    assert set(graphs.degrees(graph["random_regular"])) == {4}
    assert graphs.links(graph["erdos_renyi"]) == pytest.approx(2000, abs=4 * math.sqrt(2000))


def test_degrees_of_a_random_graph_are_poisson() -> None:
    degrees = graphs.degrees(graphs.erdos_renyi(20_000, 3.0, Random(2)))
    for k in range(7):
        expected = math.exp(-3) * 3**k / math.factorial(k)
        assert degrees.count(k) / 20_000 == pytest.approx(expected, abs=0.01)


def test_the_extremes_of_random_graphs() -> None:
    assert graphs.links(graphs.erdos_renyi(30, 0.0, Random(1))) == 0
    assert graphs.links(graphs.erdos_renyi(30, 29.0, Random(1))) == 30 * 29 // 2
    assert graphs.erdos_renyi(1, 4.0, Random(1)) == [[]]
    assert graphs.links(graphs.with_links(5, 10, Random(1))) == 10
    with pytest.raises(ValueError, match="at most 10"):
        graphs.with_links(5, 11, Random(1))
    assert set(graphs.degrees(graphs.random_regular(5, 4, Random(1)))) == {4}
    for n, degree in ((4, 4), (5, 3), (3, -2)):
        with pytest.raises(ValueError, match=f"no graph of {n} peers with {degree} links each"):
            graphs.random_regular(n, degree, Random(1))
    with pytest.raises(ValueError, match="at least one link"):
        graphs.barabasi_albert(10, 0, Random(1))


def test_the_old_ones_have_the_most_links_where_newcomers_prefer_them() -> None:
    degrees = graphs.degrees(graphs.barabasi_albert(5000, 2, Random(3)))
    assert sum(degrees[:50]) / 50 > 10 * sum(degrees[2500:]) / 2500


def test_components_are_found_the_largest_first() -> None:
    assert [sorted(part) for part in graphs.components(PATH)] == [[0, 1, 2, 3], [4]]
    assert graphs.components([]) == []
    assert graphs.without(PATH, [1]) == [[], [], [3], [2], []]
    assert [sorted(part) for part in graphs.components(graphs.without(PATH, [1]))] == [[2, 3], [0], [1], [4]]


def test_distances_balls_and_paths_agree_with_counting() -> None:
    assert graphs.distances(PATH, 0) == [0, 1, 2, 3, -1]
    assert graphs.balls(PATH, 0, 5) == [1, 2, 3, 3, 3]
    assert graphs.mean_path(PATH, [0, 1]) == pytest.approx((1 + 2 + 3 + 1 + 1 + 2) / 6)
    assert math.isnan(graphs.mean_path(PATH, [4]))
    graph = graphs.erdos_renyi(300, 3.0, Random(5))
    for source in range(0, 300, 50):
        away = graphs.distances(graph, source)
        assert graphs.balls(graph, source, 8) == [sum(0 < d <= r for d in away) for r in range(1, 9)]


def test_clustering_agrees_with_counting_and_with_chance() -> None:
    # 0 and 1: their two neighbours are linked; 2: one pair of three; 3: has but one neighbour
    assert graphs.clustering(TRIANGLE) == pytest.approx((1 + 1 + 1 / 3 + 0) / 4)
    # any two neighbours are linked with the probability of any two
    found = graphs.clustering(graphs.erdos_renyi(2000, 20.0, Random(4)))
    assert found == pytest.approx(20 / 1999, rel=0.1)
