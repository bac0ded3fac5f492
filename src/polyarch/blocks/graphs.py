"""Random graphs, as overlays of peers have them, and what is measured on a graph.

A graph is a list of neighbour lists: ``graph[i]`` are the numbers of those that i is linked to.  Links go
both ways, and there is at most one between two.  The models are *grown*: who comes later links to
those that are there, so that of two that are linked the one with the higher number opened the link.

Erdős and Rényi: "On the evolution of random graphs", 1960 (``erdos_renyi``, ``with_links``).
Barabási and Albert: "Emergence of scaling in random networks", Science 286, 1999 (``barabasi_albert``).
Steger and Wormald: "Generating random regular graphs quickly", 1999 (``random_regular``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from polyarch.core.randomness import Random

__all__ = [
    "Graph", "balls", "barabasi_albert", "clustering", "components", "degrees", "distances", "erdos_renyi",
    "links", "mean_path", "picked", "random_regular", "with_links", "without",
]  # fmt: skip

Graph = Sequence[Sequence[int]]
"""Neighbour lists by number."""

# -- models -----------------------------------------------------------------------------------------------


def picked(n: int, p: float, random: Random) -> Iterator[int]:
    """The numbers below ``n``, each with probability ``p``; takes as long as there are picked (Batagelj and
    Brandes, "Efficient generation of large random networks", 2005)."""
    if p <= 0:
        return
    if p >= 1:
        yield from range(n)
        return
    scale = 1 / math.log(1 - p)
    at = -1
    while True:
        at += 1 + int(math.log(1 - random.random()) * scale)
        if at >= n:
            return
        yield at


def erdos_renyi(n: int, mean_degree: float, random: Random) -> list[list[int]]:
    """G(n, p): each two are linked with the same probability p, independently; p = mean_degree / (n - 1)."""
    graph: list[list[int]] = [[] for _ in range(n)]
    p = mean_degree / (n - 1) if n > 1 else 0.0
    for i in range(n):
        for j in picked(i, p, random):
            graph[i].append(j)
            graph[j].append(i)
    return graph


def with_links(n: int, count: int, random: Random) -> list[list[int]]:
    """G(n, M): ``count`` links, each such graph with the same probability."""
    if count > n * (n - 1) // 2:
        raise ValueError(f"{count} links: {n} peers have at most {n * (n - 1) // 2}")
    graph: list[list[int]] = [[] for _ in range(n)]
    linked: set[tuple[int, int]] = set()
    while len(linked) < count:
        j, i = sorted((random.below(n), random.below(n)))
        if i != j and (i, j) not in linked:
            linked.add((i, j))
            graph[i].append(j)
            graph[j].append(i)
    return graph


def barabasi_albert(n: int, m: int, random: Random) -> list[list[int]]:
    """Preferential attachment: each newcomer links to ``m`` different ones, chosen with probabilities
    proportional to their degrees.  The first m + 1 are all linked to each other."""
    if m < 1:
        raise ValueError(f"m = {m}: a newcomer needs at least one link")
    graph: list[list[int]] = [[] for _ in range(n)]
    ends: list[int] = []  # everybody as often as it has links
    for i in range(n):
        if i <= m:
            chosen = list(range(i))
        else:
            drawn: dict[int, None] = {}
            while len(drawn) < m:
                drawn[random.choice(ends)] = None
            chosen = list(drawn)
        for j in chosen:
            graph[i].append(j)
            graph[j].append(i)
            ends += (i, j)
    return graph


def random_regular(n: int, degree: int, random: Random) -> list[list[int]]:
    """All have the same degree, and each such graph has nearly the same probability: ends of links are paired
    at random, as long as that gives a new link; when none is left that fits, all is begun again."""
    if not 0 <= degree < n or n * degree % 2:
        raise ValueError(f"there is no graph of {n} peers with {degree} links each")
    while True:
        graph = _paired(n, degree, random)
        if graph is not None:
            return graph


def _paired(n: int, degree: int, random: Random) -> list[list[int]] | None:
    graph: list[list[int]] = [[] for _ in range(n)]
    ends = [i for i in range(n) for _ in range(degree)]
    while ends:
        random.shuffle(ends)
        left: list[int] = []
        for i, j in zip(ends[::2], ends[1::2]):
            if i == j or j in graph[i]:
                left += (i, j)
            else:
                graph[i].append(j)
                graph[j].append(i)
        if len(left) == len(ends) and not _fits(graph, left):
            return None
        ends = left
    return graph


def _fits(graph: Graph, ends: Sequence[int]) -> bool:
    """Whether any two of these ends could still be linked."""
    return any(i != j and j not in graph[i] for i in ends for j in ends)


# -- measures ---------------------------------------------------------------------------------------------


def degrees(graph: Graph) -> list[int]:
    """How many neighbours each has."""
    return [len(neighbours) for neighbours in graph]


def links(graph: Graph) -> int:
    """How many links there are."""
    return sum(map(len, graph)) // 2


def without(graph: Graph, gone: Iterable[int]) -> list[list[int]]:
    """The graph after these have lost all their links."""
    lost = bytearray(len(graph))
    for i in gone:
        lost[i] = 1
    return [[] if lost[i] else [j for j in near if not lost[j]] for i, near in enumerate(graph)]


def components(graph: Graph) -> list[list[int]]:
    """The parts within which everybody reaches everybody; the largest first."""
    met = bytearray(len(graph))
    parts = []
    for start in range(len(graph)):
        if met[start]:
            continue
        met[start] = 1
        part = [start]
        for i in part:  # it grows meanwhile
            for j in graph[i]:
                if not met[j]:
                    met[j] = 1
                    part.append(j)
        parts.append(part)
    return sorted(parts, key=len, reverse=True)


def distances(graph: Graph, source: int) -> list[int]:
    """How many links the shortest path from ``source`` to each has (breadth-first search); -1: there is
    none."""
    away = [-1] * len(graph)
    away[source] = 0
    queue = [source]
    for i in queue:
        for j in graph[i]:
            if away[j] < 0:
                away[j] = away[i] + 1
                queue.append(j)
    return away


def balls(graph: Graph, source: int, radius: int) -> list[int]:
    """How many others are at most 1, 2, …, ``radius`` links away from ``source``."""
    sizes, met, border, reached = [], {source}, [source], 0
    for _ in range(radius):
        outside = []
        for i in border:
            for j in graph[i]:
                if j not in met:
                    met.add(j)
                    outside.append(j)
        border = outside
        reached += len(border)
        sizes.append(reached)
    return sizes


def mean_path(graph: Graph, sources: Iterable[int]) -> float:
    """The mean length of the shortest paths from these to all that they reach."""
    total = count = 0
    for source in sources:
        found = [d for d in distances(graph, source) if d > 0]
        total += sum(found)
        count += len(found)
    return total / count if count else math.nan


def clustering(graph: Graph) -> float:
    """The mean clustering coefficient: of the pairs of somebody's neighbours, the share that are
    linked to each other (Watts and Strogatz, 1998); 0 for who has fewer than two."""
    near = [frozenset(neighbours) for neighbours in graph]
    total = 0.0
    for mine, neighbours in zip(near, graph):
        if len(neighbours) > 1:
            between = sum(len(mine & near[i]) for i in neighbours)  # each such link counted at both ends
            total += between / (len(neighbours) * (len(neighbours) - 1))
    return total / len(graph) if graph else math.nan
