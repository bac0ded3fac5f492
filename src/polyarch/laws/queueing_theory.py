"""Queues on paper: what the laws of queueing and balancing expect, and how far chance may take them from it.

*How far.*  A mean time over J requests is random because arrivals and services are.  In a Markov chain an
arrival that finds i - 1 requests, and a departure that leaves so many, change what follows by u_i (requests
times time: the differences of the solution of Poisson's equation); their numbers, less what is expected of
them, are martingales.  So J times the variance of the mean time is the sum over i of
p_i ((u_i - T)^2 + u_i^2), with p_i the share of arrivals at that level (asymptotically, for large J; Whitt,
"Planning queueing simulations", Management Science 35(11), 1989, has the same for M/M/1).

*Control variates* (Lavenberg and Welch, Management Science 27(3), 1981).  Most of that is a run that happened
to have a few more arrivals or longer services than it should.  How many came in how much time, and what they
took, is known for every run, and so is what it should have been: what it does to the mean, to first order, is
taken off.  The mean stays right whatever is taken off times a number that is 0 on average, and what is left
of the variance is 2 sum p_i (u_i - u)^2, with u = sum p_i u_i.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

SIGMAS = 3.3
"""Standard errors that a measurement may be off: one in a thousand is more."""


class Known(NamedTuple):
    """A mean time that is known, in mean services, and what moves a measurement of it."""

    time: float
    response: float
    """u above: what one more request costs all, in mean services; time + load times its derivative."""
    spread: float
    """Standard error of the mean of one request, after control; of J, divide by the root of J."""
    loose: float
    """The same without control."""

    def error(self, jobs: float, edges: float = 0.0) -> float:
        """Relative standard error of a mean over so many.  ``edges``: the part of the runs in which control
        does not take hold, as it is near their beginning or end; 1: it is not tried."""
        edges = min(1.0, edges)
        square = (1 - edges) * self.spread**2 + edges * self.loose**2
        return math.sqrt(square / jobs) / self.time

    def controlled(self, mean: float, gap: float, service: float) -> float:
        """A measured mean, had arrivals and services been what they are on average.  ``gap``, ``service``:
        the means that were drawn, in those that they should have."""
        return mean - (self.response - self.time) * (1 - gap) - self.response * (service - 1)


# -- one line, several who serve ------------------------------------------------------------------------


def erlang_b(c: int, a: float) -> float:
    """The share that is lost, of ``a`` erlangs offered to ``c`` servers without a queue (Erlang 1917)."""
    lost = 1.0
    for k in range(1, c + 1):
        lost = a * lost / (k + a * lost)
    return lost


def erlang_c(c: int, rho: float) -> float:
    """The share that waits, with ``c`` servers that are busy for ``rho`` of the time."""
    lost = erlang_b(c, c * rho)
    return lost / (1 - rho * (1 - lost))


def central_queue(servers: int, load: float) -> float:
    """Mean time in M/M/c, in services."""
    return 1 + erlang_c(servers, load) / (servers * (1 - load))


def _states(servers: int, load: float, most: int = 0) -> Any:
    """How often so many are there, in M/M/c; with ``most``: in M/M/c/K."""
    count = most + 1 if most else servers + 2 + math.ceil(math.log(1e-13) / math.log(load))
    steps = np.log(servers * load) - np.log(np.minimum(np.arange(1, count), servers))
    weights = np.concatenate(([0.0], np.cumsum(steps)))
    weights = np.exp(weights - weights.max())
    return weights / weights.sum()


def _responses(states: Any, rate: float, reward: Any) -> tuple[float, Any]:
    """The mean of a reward, and what one request more at each level brings of it from then on."""
    mean = float((states * reward).sum())
    below = np.cumsum(states * (mean - reward))[:-1]
    above = np.cumsum((states * (reward - mean))[::-1])[::-1][1:]
    # Both are the same; each is exact where its summands have one sign.  (What is never there, to the last
    # digit, brings nothing.)
    later = np.where(reward[:-1] < mean, below, above) / rate
    return mean, np.divide(later, states[:-1], out=np.zeros_like(later), where=states[:-1] > 1e-300)


def _known(time: float, found: Any, u: Any) -> Known:
    response = float((found * u).sum())
    spread = math.sqrt(2 * float((found * (u - response) ** 2).sum()))
    return Known(time, response, spread, math.sqrt(float((found * ((u - time) ** 2 + u**2)).sum())))


@cache
def many_servers(servers: int, load: float) -> Known:
    """The time in M/M/c."""
    states, rate = _states(servers, load), servers * load
    there, u = _responses(states, rate, np.arange(len(states), dtype=float))
    return _known(there / rate, states[:-1], u)


def relaxation(servers: int, load: float) -> float:
    """Mean services until M/M/c has forgotten what it was, to a factor e: for long; at first it is faster."""
    return 1 / servers / (1 - math.sqrt(load)) ** 2


def error_of_waiting(servers: int, load: float, jobs: int) -> float:
    """Standard error of the share of those that wait in M/M/c, as counted, without control."""
    states, rate = _states(servers, load), servers * load
    busy = (np.arange(len(states)) >= servers).astype(float)
    share, u = _responses(states, rate, rate * busy)
    share /= rate
    arriving, leaving = u + busy[:-1] - share, u
    return math.sqrt(float((states[:-1] * (arriving**2 + leaving**2)).sum()) / jobs)


class Full(NamedTuple):
    """M/M/c/K."""

    lost: float
    """The share of requests that find it full."""
    time: float
    """Of the others, in mean services."""
    lost_spread: float
    """Standard errors of one request; of J, divide by the root of J."""
    time_spread: float


@cache
def full_queue(servers: int, most: int, load: float) -> Full:
    """M/M/c/K: ``servers`` serve, and at most ``most`` are there."""
    states, rate = _states(servers, load, most), servers * load
    there, lost, open_ = np.arange(most + 1.0), float(states[-1]), states[:-1]
    time = float((states * there).sum()) / rate / (1 - lost)
    refusing = np.where(there == most, rate, 0.0)
    _, u = _responses(states, rate, refusing)
    lost_square = float((open_ * ((u - lost) ** 2 + u**2)).sum()) + lost * (1 - lost) ** 2
    # The time in all less the mean time of those who were let in.
    _, u = _responses(states, rate, there - time * (rate - refusing))
    time_square = float((open_ * ((u - time) ** 2 + u**2)).sum()) / (1 - lost) ** 2
    return Full(lost, time, math.sqrt(lost_square), math.sqrt(time_square))


# -- a line for each, the shortest of some drawn ----------------------------------------------------------


def supermarket(load: float, d: int) -> float:
    """Mean time for infinitely many servers (Mitzenmacher, corollary 4)."""
    if d == 1:
        return 1 / (1 - load)
    total, i = 0.0, 1
    while True:
        term: float = load ** ((d**i - d) / (d - 1))
        total += term
        if term < 1e-15:
            return total
        i += 1


class Supermarket(NamedTuple):
    """The supermarket model near its limit."""

    known: Known
    """In the limit, as for independent queues with ``d`` = 1."""
    one_more: float
    """With n servers the mean time is longer by this / n, to first order in 1/n."""
    forgets: float
    """Mean services until a deviation is a factor e smaller: the slowest mode."""

    def time(self, servers: int) -> float:
        """The mean time with so many."""
        return self.known.time + self.one_more / servers

    def unknown(self, servers: int) -> float:
        """The relative size of what is left out: of the order of the square of what is not."""
        return (self.one_more / servers / self.known.time) ** 2


@cache
def near_the_limit(load: float, d: int) -> Supermarket:
    """The supermarket model of many servers, to first order in 1/n: Gast and Van Houdt, "A refined mean field
    approximation", SIGMETRICS 2018, theorem 1, for x_i, the share of servers with at least i requests.  Their
    servers are drawn with replacement; for ``d`` different ones the drift has a term in 1/n of its own."""
    assert d > 1
    levels = 2
    while load ** ((d**levels - 1) / (d - 1)) > 1e-13:
        levels += 1
    x = np.array([load ** ((d**i - 1) / (d - 1)) for i in range(levels + 1)])
    at_least, higher = x[:-1], x[1:]  # x_(i-1) and x_i for i = 1, 2, …
    arrivals = at_least**d - higher**d
    slope = load * d * higher ** (d - 1)
    drift = np.diag(-slope - 1) + np.diag(slope[:-1], -1) + np.diag(np.ones(levels - 1), 1)
    noise = np.diag(2 * load * arrivals)
    eye = np.eye(levels)
    covariance = np.linalg.solve(np.kron(drift, eye) + np.kron(eye, drift), -noise.ravel())
    variance = covariance.reshape(levels, levels).diagonal()
    curve = load * d * (d - 1) * higher ** (d - 2) * variance
    # P(all of d different ones have i) = x^d - d (d - 1) / 2 x^(d-1) (1 - x) / n + …
    drawn = load * d * (d - 1) / 2
    less = drawn * (higher ** (d - 1) * (1 - higher) - at_least ** (d - 1) * (1 - at_least))
    push = 0.5 * (np.concatenate(([0.0], curve[:-1])) - curve) + less
    shift = np.linalg.solve(drift, -push)
    u = np.linalg.solve(drift.T, -np.ones(levels))
    known = _known(float(higher.sum()) / load, arrivals, u)
    slowest = float(np.linalg.eigvals(drift).real.max())
    return Supermarket(known, float(shift.sum()) / load, -1 / slowest)


def round_robin(servers: int, load: float) -> float:
    """Mean time in E_c/M/1, which is what each server sees: 1 / (1 - s), s = A*(1 - s)."""
    phases, root = servers * load, load
    for _ in range(100_000):
        new = (phases / (phases + 1 - root)) ** servers
        if abs(new - root) < 1e-15:
            break
        root = new
    return 1 / (1 - root)


def shortest_of_two(load: float) -> float:
    """Mean time of JSQ before two servers: the Markov chain of both queues, truncated, by iteration."""
    size = max(30, round(9 / (1 - load)))
    arrive, serve = 2 * load / (2 * load + 2), 1 / (2 * load + 2)
    i, j = np.indices((size, size))
    to_i = np.where(i < j, arrive, np.where(i == j, arrive / 2, 0.0))
    to_j = arrive - to_i
    p = np.zeros((size, size))
    p[0, 0] = 1.0
    previous = 0.0
    for turn in range(400_000):
        new = np.zeros_like(p)
        new[1:, :] += (p * to_i)[:-1, :]
        new[-1, :] += (p * to_i)[-1, :]
        new[:, 1:] += (p * to_j)[:, :-1]
        new[:, -1] += (p * to_j)[:, -1]
        new[:-1, :] += serve * p[1:, :]
        new[0, :] += serve * p[0, :]
        new[:, :-1] += serve * p[:, 1:]
        new[:, 0] += serve * p[:, 0]
        p = new
        if turn % 500 == 0:
            mean = float((p * (i + j)).sum()) / (2 * load)
            if abs(mean - previous) < 1e-6:
                break
            previous = mean
    return mean


WALK = 20_000_000
"""Steps of the walks, of all together."""


@cache
def shortest_queue(servers: int, load: float, d: int = 0, steps: int = WALK) -> float:
    """Mean time of JSQ (``d``: of the shortest of so many drawn): by the chain for two servers; else by walks
    over queue lengths, many at once, which know neither messages nor times: for each ``load`` that come one
    may leave."""
    if servers == 1 or d == 1:
        return 1 / (1 - load)
    if servers == 2:
        return shortest_of_two(load)
    dice = np.random.Generator(np.random.PCG64([servers, d]))
    walks = 400
    each = steps // walks
    # Until it has forgotten that it began empty: as M/M/c does, or the supermarket.
    forgets = servers * relaxation(servers, load)
    if d > 1:
        forgets = max(forgets, servers * near_the_limit(load, d).forgets)
    warm = min(each, round(5 * (1 + load) * forgets))
    lengths = np.zeros((walks, servers), dtype=np.int32)
    row = np.arange(walks)
    total = 0.0
    for step in range(warm + each):
        coming = dice.random(walks) < load / (1 + load)
        server = dice.integers(servers, size=walks)
        if d == 0 or d >= servers:
            least = lengths.argmin(axis=1)  # it does not matter which of the shortest
        elif d == 2:
            other = (server + dice.integers(1, servers, size=walks)) % servers
            least = np.where(lengths[row, server] <= lengths[row, other], server, other)
        else:
            drawn = dice.random((walks, servers)).argpartition(d, axis=1)[:, :d]
            least = drawn[row, np.take_along_axis(lengths, drawn, 1).argmin(axis=1)]
        at = np.where(coming, least, server)
        lengths[row, at] = np.maximum(0, lengths[row, at] + np.where(coming, 1, -1))
        if step >= warm:
            total += float(lengths.sum())
    return total / walks / each / (servers * load)
