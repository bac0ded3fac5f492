"""Is a history of transactions strictly serializable?  Is there one order of all of them, each between its
call and its return, in which each sees what those before it have left?

Decided by the serialization graph (Bernstein, Hadzilacos and Goodman, "Concurrency control and recovery in
database systems", 1987, section 2.3), which can be drawn because the things that transactions change say how
often they have been changed: whoever sees version 7 comes after the transaction that made 7, and before the
one that made 8 (Adya's dependencies; Kingsbury and Alvaro, "Elle: inferring isolation anomalies from
experimental observations", 2020).  To these edges come those of real time.  An order exists if there is no
cycle.

Transactions that never returned may have happened or not: some must be those that made the versions which
nobody else has made.  Only that is searched for.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterator, Sequence

__all__ = ["Deed", "Outcome", "check"]

Slot = tuple[str, int]
"""A thing and one of its versions."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Deed:
    """One transaction, on numbers that it reads and adds to."""

    label: str
    start: float
    end: float
    """Infinity: it never returned, and ``saw`` is empty."""
    saw: dict[str, tuple[int, int]]
    """For each thing: its version and its value before."""
    change: dict[str, int]
    """What it added to each thing that it changed."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was found."""

    holds: bool | None
    """None: not decided within the budget."""
    detail: str
    culprits: tuple[Deed, ...] = ()
    """If it does not hold: deeds that contradict each other."""


class _Contradiction(Exception):
    def __init__(self, detail: str, *culprits: Deed) -> None:
        super().__init__(detail)
        self.outcome = Outcome(False, detail, culprits)


def check(deeds: Sequence[Deed], opening: dict[str, int], *, budget: int = 10_000) -> Outcome:
    """Decide; ``opening``: the values of version 0.  ``budget``: choices among deeds that never returned."""
    try:
        graph = _Graph(deeds, opening)
    except _Contradiction as contradiction:
        return contradiction.outcome
    first: Outcome | None = None
    for tries, placed in enumerate(graph.placements(budget)):
        if placed is None or tries >= budget:
            return graph.undecided()
        outcome = graph.order(placed)
        if outcome.holds:
            return outcome
        first = first or outcome
    if first is not None and any(run.size > 1 for run in graph.runs):
        return graph.undecided()  # the changes of a run may be in other orders, which were not tried
    return first or graph.unexplained()


@dataclasses.dataclass
class _Run:
    """Changes of a thing, one after another, that nobody is known to have made, and between which nobody is
    known to have looked."""

    thing: str
    version: int
    """Of the first of them."""
    size: int
    delta: int
    """What they have added together."""
    makers: list[Deed] = dataclasses.field(default_factory=list)

    def put(self, deed: Deed) -> None:
        self.size -= 1
        self.delta -= deed.change[self.thing]
        self.makers.append(deed)

    def take(self) -> None:
        deed = self.makers.pop()
        self.size += 1
        self.delta += deed.change[self.thing]


class _Graph:
    """What is known of who has made and who has seen which version."""

    def __init__(self, deeds: Sequence[Deed], opening: dict[str, int]) -> None:
        self.deeds = [deed for deed in deeds if deed.end != math.inf]
        self.unknown = sorted((d for d in deeds if d.end == math.inf and d.change), key=lambda d: d.start)
        self.values: dict[Slot, tuple[int, Deed | None]] = {(t, 0): (v, None) for t, v in opening.items()}
        self.makers: dict[Slot, Deed] = {}
        self.readers: dict[Slot, list[Deed]] = {}
        self.latest = dict.fromkeys(opening, 0)
        for deed in self.deeds:
            for thing, (version, value) in deed.saw.items():
                self._is(thing, version, value, deed)
                if thing not in deed.change:
                    self.readers.setdefault((thing, version), []).append(deed)
                    continue
                self._is(thing, version + 1, value + deed.change[thing], deed)
                other = self.makers.setdefault((thing, version + 1), deed)
                if other is not deed:
                    words = f"both made change {version + 1} of {thing}: {other.label} and {deed.label}"
                    raise _Contradiction(words, other, deed)
        self.runs = list(self._runs())

    def _runs(self) -> Iterator[_Run]:
        for thing, last in self.latest.items():
            begun = 0
            for version in range(1, last + 1):
                if (thing, version) in self.makers:
                    begun = version
                elif (thing, version) in self.values:
                    delta = self.values[thing, version][0] - self.values[thing, begun][0]
                    yield _Run(thing, begun + 1, version - begun, delta)
                    begun = version

    def _is(self, thing: str, version: int, value: int, deed: Deed) -> None:
        known, other = self.values.setdefault((thing, version), (value, deed))
        if known != value:
            words = f"after {version} changes {thing} held {known} and {value}"
            who = (other, deed) if other is not None else (deed,)
            raise _Contradiction(f"{words}: {' and '.join(d.label for d in who)}", *who)
        self.latest[thing] = max(self.latest.get(thing, 0), version)

    # -- who made the versions that nobody is known to have made -----------------------------------------

    def placements(self, budget: int) -> Iterator[dict[Slot, Deed] | None]:
        """All ways to give the runs to deeds that never returned; None when the budget is spent."""
        kinds: dict[tuple[tuple[str, int], ...], list[Deed]] = {}
        for deed in reversed(self.unknown):  # of equal ones the one that began first is as good as any
            kinds.setdefault(tuple(deed.change.items()), []).append(deed)
        steps = 0

        def choices(things: list[str]) -> Iterator[list[_Run]]:
            if not things:
                yield []
                return
            for run in self.runs:
                if run.thing == things[0] and run.size:
                    for rest in choices(things[1:]):
                        yield [run, *rest]

        def fill(least: int) -> Iterator[dict[Slot, Deed] | None]:
            """``least``: the first kind that may go into the run that is being filled."""
            nonlocal steps
            gap = next((run for run in self.runs if run.size), None)
            if gap is None:
                yield self._placed()
                return
            for number, equals in list(enumerate(kinds.values()))[least:]:
                if not equals or gap.thing not in equals[-1].change:
                    continue
                deed = equals.pop()
                for others in choices([t for t in deed.change if t != gap.thing]):
                    steps += 1
                    if steps > 100 * budget:
                        yield None
                        return
                    chosen = [gap, *others]
                    for run in chosen:
                        run.put(deed)
                    if not any(run.size == 0 and run.delta for run in chosen):
                        yield from fill(number if gap.size else 0)
                    for run in chosen:
                        run.take()
                equals.append(deed)

        return fill(0)

    def _placed(self) -> dict[Slot, Deed]:
        return {
            (run.thing, run.version + i): deed
            for run in self.runs
            for i, deed in enumerate(sorted(run.makers, key=lambda d: d.start))
        }

    def undecided(self) -> Outcome:
        """Too much to try."""
        return Outcome(None, f"undecided: {len(self.unknown)} operations may have happened or not")

    def unexplained(self) -> Outcome:
        """No choice of the deeds that never returned makes what was seen."""
        run = self.runs[0]
        witness = self.values[run.thing, run.version + run.size - 1][1]
        which = f"{run.version}" if run.size == 1 else f"{run.version} to {run.version + run.size - 1}"
        words = f"nobody made change {which} of {run.thing}"
        if witness is None:
            return Outcome(False, words)
        return Outcome(False, f"{words}, after which it was seen: {witness.label}", (witness,))

    # -- one order ---------------------------------------------------------------------------------------

    def order(self, placed: dict[Slot, Deed]) -> Outcome:
        """Take the deeds in an order that follows the edges and real time, if there is one."""
        makers = {**self.makers, **placed}
        deeds = [*self.deeds, *dict.fromkeys(placed.values())]
        before: dict[Deed, list[Deed]] = {deed: [] for deed in deeds}
        for thing, last in self.latest.items():
            for version in range(last + 1):
                maker, following = makers.get((thing, version)), makers.get((thing, version + 1))
                readers = self.readers.get((thing, version), [])
                for reader in readers:
                    if maker is not None:
                        before[reader].append(maker)
                if following is not None:
                    before[following] += readers
                    if maker is not None:
                        before[following].append(maker)
        after: dict[Deed, list[Deed]] = {deed: [] for deed in deeds}
        for deed, earlier in before.items():
            for other in earlier:
                after[other].append(deed)
        left = {deed: len(earlier) for deed, earlier in before.items()}
        place = {deed: i for i, deed in enumerate(deeds)}
        ready = [(deed.start, place[deed]) for deed in deeds if not left[deed]]
        ends = [(deed.end, place[deed]) for deed in deeds]
        heapq.heapify(ready)
        heapq.heapify(ends)
        done = [False] * len(deeds)
        for _ in deeds:
            while ends and done[ends[0][1]]:
                heapq.heappop(ends)
            if not ready or ready[0][0] > ends[0][0]:  # whoever has returned by then must come first
                return self._cycle(deeds[ends[0][1]], before, done, place)
            deed = deeds[heapq.heappop(ready)[1]]
            done[place[deed]] = True
            for later in after[deed]:
                left[later] -= 1
                if not left[later]:
                    heapq.heappush(ready, (later.start, place[later]))
        return Outcome(True, f"{len(deeds)} operations on {len(self.latest)} things")

    def _cycle(
        self,
        blocked: Deed,
        before: dict[Deed, list[Deed]],
        done: list[bool],
        place: dict[Deed, int],
    ) -> Outcome:
        """Follow what each waits for, from one that has returned and can still not be taken."""
        path = [blocked]
        while True:
            waits = [d for d in before[path[-1]] if not done[place[d]]]
            if not waits:  # it begins only when the first has returned: the circle is closed by time
                break
            if waits[0] in path:
                path = path[path.index(waits[0]) :]
                break
            path.append(waits[0])
        path.reverse()
        words = "; then ".join(deed.label for deed in path[:6]) + ("; …" if len(path) > 6 else "")
        detail = f"each of these must come before the next, and the last before the first: {words}"
        return Outcome(False, detail, tuple(path))
