"""What goes wrong in a schedule: random faults, alone and in patterns in which distributed systems break.

Each schedule has only some kinds of faults, a few patterns, and a pace of its own: so they meet in more ways
than if each had all (Groce et al., "Swarm testing", ISSTA 2012).  Nothing here knows any protocol: it aims at
processes, and at whoever the architecture says leads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from polyarch.core.randomness import Random
from polyarch.faults.spec import Fault

__all__ = ["LEADER", "ONCE_ANOTHER_LEADS", "ONCE_LED", "OTHERS", "RANDOM_FAULTS", "Mischief"]

RANDOM_FAULTS = (
    "crash", "torn", "pause", "partition", "loss", "delay", "duplicate", "reorder", "skew", "drift",
    "operate",
)  # fmt: skip
"""Kinds of faults that a seed chooses from.  ``torn``: a crash that leaves a part of what was not synced.
``drift``: a clock that runs slower or faster.  ``operate``: what ``Architecture.operate`` does."""
LEADER = "leader"
"""In place of a process: the one that the architecture says leads, when the fault begins."""
OTHERS = "others"
"""In place of processes: all but the one that leads, when the fault begins."""
ONCE_LED = "once led"
"""As the text of a fault, with seconds behind it: it begins so long after somebody leads, if nobody does."""
ONCE_ANOTHER_LEADS = "once another leads"
"""Likewise, if somebody does: it waits for another one."""
_MOST = 60  # faults of the patterns of one schedule, about
_PATTERNS: dict[str, tuple[str, ...]] = {
    "storm": ("crash",),
    "brief_leaders": ("crash", "partition"),
    "left_behind": ("crash", "partition"),
    "unheard": ("partition",),
    "shifting": ("partition",),
    "two_worlds": ("crash", "partition"),
    "late": ("delay", "partition"),
}
"""Patterns, and the kinds of faults that they are made of."""


class Mischief:
    """Draws the faults of one schedule.  Processes are interchangeable, but for who leads."""

    def __init__(
        self, random: Random, kinds: Sequence[str], names: Sequence[str], clients: int, duration: float
    ) -> None:
        self.random = random
        self.kinds = list(kinds)
        self.names = list(names)
        self.clients = [f"client-{i}" if i else "client" for i in range(clients)]
        self.duration = duration
        self.pace = 0.005 * math.exp(random.random() * math.log(200))  # from 5 ms to 1 s

    def faults(self) -> list[Fault]:
        if not self.kinds or not self.names:
            return []
        patterns = [p for p, kinds in _PATTERNS.items() if all(kind in self.kinds for kind in kinds)]
        shape = self.random.random()
        found: list[Fault] = []
        if patterns and shape < 0.6:
            count = min(len(patterns), 1 + self.random.below(2))
            found += self._patterns(self.random.sample(patterns, count))
        if not patterns or shape > 0.4:
            found += self._singles()
        return [f for f in found if f.start < self.duration * 0.95]

    # -- patterns --------------------------------------------------------------------------------------------

    def _patterns(self, chosen: Sequence[str]) -> Iterator[Fault]:
        """One after another, with pauses in which the system may mend itself, or not quite."""
        random, at, count = self.random, self.random.between(0.0, 1.0), 0
        rest = random.choice((0.05, 0.3, 1.0))
        while at < self.duration * 0.95 and count < _MOST:
            for fault in getattr(self, f"_{random.choice(chosen)}")(at):
                count += 1
                at = max(at, fault.start, fault.end or 0.0)
                yield fault
            at += random.exponential(rest)

    def _soon(self, mean: float = 0.0) -> float:
        return self.random.exponential(mean or self.pace)

    def _alone(self) -> str:
        """Who leads, or anybody."""
        return LEADER if self.random.chance(0.6) else self.random.choice(self.names)

    def _some(self, least: int = 0) -> list[str]:
        count = least + self.random.below(len(self.names) + 1 - least)
        return self.random.sample(self.names, count)

    def _operate(self, at: float) -> Iterator[Fault]:
        if "operate" in self.kinds and self.random.chance(0.7):
            for _ in range(1 + self.random.below(2)):
                yield self._fault("operate", at + self._soon(0.01), None, (), amount=self._number())

    def _number(self) -> float:
        return float(self.random.below(1 << 30))

    def _storm(self, at: float) -> Iterator[Fault]:
        """All lose power for a moment; then some do again and again, and are restarted at once."""
        random = self.random
        if random.chance(0.7):
            yield self._fault("crash", at, at + 0.001, self.names)
        down = random.choice((0.0005, 0.0005, self.pace))
        pace = random.choice((0.002, 0.005, 0.02, self.pace))
        weak = random.choice(self.names) if random.chance(0.5) else ""
        for _ in range(2 + random.below(40 if weak else 16)):
            at += self._soon(pace)
            victims = [weak] if weak else random.sample(self.names, min(len(self.names), 1 + random.below(2)))
            yield self._fault("crash", at, at + down, [LEADER] if random.chance(0.1) else victims)

    def _brief_leaders(self, at: float) -> Iterator[Fault]:
        """Whoever leads reaches only some, or others crash as soon as it leads; soon it is gone itself."""
        random = self.random
        early, alone = random.chance(0.8), random.chance(0.5)
        soon = random.choice((0.001, 0.005, 0.03))
        for _ in range(2 + random.below(5)):
            crash = at + self._soon(soon)
            back = crash + random.between(0.0, 0.3)
            others = [OTHERS] if random.chance(0.7) else random.sample(self.names, 1)
            first = self._fault("crash", at, back, others)
            if not alone:
                first = self._cut(at, back, [LEADER], self._some(1), random.chance(0.7))
            if random.chance(0.7):
                yield self._once_led(first, 0.0) if early else first
            yield from self._operate(at)
            gone = self._fault("crash", crash, back + random.choice((0.0, 0.2)), [LEADER])
            if random.chance(0.2):
                gone = self._cut(crash, back, [LEADER], list(self.names))
            yield self._once_led(gone, crash - at) if early else gone
            if random.chance(0.3):
                yield self._fault("crash", back, back + 0.3, random.sample(self.names, 1))
            at = back + self._soon(0.1)

    def _once_led(self, fault: Fault, lag: float, when: str = ONCE_LED) -> Fault:
        return msgspec.structs.replace(fault, text=f"{when} +{lag:.6f}")

    def _two_worlds(self, at: float) -> Iterator[Fault]:
        """Whoever leads is cut off, perhaps with others; as soon as another one leads, somebody forgets it
        and comes back into another world.  In both worlds the system is operated."""
        random = self.random
        turn = at + random.between(0.1, 0.6)
        end = turn + random.between(0.1, 0.6)
        for start, over in ((at, turn), (turn, end)):
            with_it = self._some()[: 1 + len(self.names) // 4] if random.chance(0.7) else []
            rest = [name for name in self.names if name not in with_it]
            yield self._cut(start, over, [LEADER, *with_it], rest)
        yield from self._operate(at)
        forgets = self._fault("crash", at, at + random.between(0.01, 0.3), random.sample(self.names, 1))
        yield self._once_led(forgets, self._soon(0.001), ONCE_ANOTHER_LEADS)
        for fault in self._operate(at):
            yield self._once_led(fault, self._soon(0.01), ONCE_ANOTHER_LEADS)

    def _left_behind(self, at: float) -> Iterator[Fault]:
        """Somebody does not hear of what happens, and is back when another one crashes."""
        behind = self.random.choice(self.names)
        back = at + 0.02 + self._soon(0.2)
        yield self._cut(at, back, [behind], [n for n in self.names if n != behind])
        yield from self._operate(at)
        crash = max(at, back - self.random.between(0.0, 0.02))
        yield self._fault("crash", crash, crash + self._soon(0.2), [LEADER])

    def _unheard(self, at: float) -> Iterator[Fault]:
        """One is cut off from another one, and a while later from everybody: but not from all clients."""
        one, rival = self._alone(), self.random.choice(self.names)
        with_it, others = self._split(self.clients)
        middle = at + (0.0 if self.random.chance(0.4) else self.random.between(0.05, 1.0))
        end = middle + 0.05 + self._soon(0.4)
        if middle > at:
            yield self._cut(at, middle, [one], [rival, *others])
        # The same one: by now another may lead.
        yield self._cut(middle, end, [one, *with_it], [*(n for n in self.names if n != one), *others])

    def _shifting(self, at: float) -> Iterator[Fault]:
        """Each falls apart in another way than the one before, at once."""
        random = self.random
        length = random.choice((0.05, 0.15, 0.4))
        for _ in range(2 + random.below(4)):
            end = at + 0.01 + self._soon(length)
            names = list(self.names)
            random.shuffle(names)
            size = 1 + random.below(max(1, len(names) - 1))
            left = [LEADER, *names[: size - 1]] if random.chance(0.4) else names[:size]
            right = [n for n in names if n not in left]
            if right:
                yield self._cut(at, end, left, right, random.chance(0.8))
            yield from self._operate(at)
            if random.chance(0.3) and "crash" in self.kinds:
                crash = random.between(at, end)
                yield self._fault("crash", crash, crash + self._soon(0.1), [self._alone()])
            at = end

    def _late(self, at: float) -> Iterator[Fault]:
        """Somebody falls behind; what it is then sent comes late, and again.  Meanwhile others go."""
        random = self.random
        behind = random.choice(self.names)
        rest = [n for n in self.names if n != behind]
        back = at + 0.03 + self._soon(0.1)
        yield self._cut(at, back, [behind], rest)
        until = back + random.between(0.01, 0.08)
        held = random.choice((0.06, 0.06, 0.3, 1.5))
        if "duplicate" in self.kinds:
            yield self._fault("duplicate", back, until, self.names, [behind], amount=1.0)
        yield self._fault("delay", back, until, self.names, [behind], amount=held)
        if rest:
            then = until + random.between(0.0, 0.06)
            end = then + random.between(0.02, 0.1)
            other = random.choice(rest)
            yield self._cut(then, end, [other], [n for n in self.names if n != other])
            if "crash" in self.kinds:
                yield self._fault("crash", end, end + random.between(0.1, 0.4), [LEADER])

    # -- single faults ---------------------------------------------------------------------------------------

    def _singles(self) -> Iterator[Fault]:
        random, kinds = self.random, self.kinds
        chosen = random.sample(kinds, min(len(kinds), 1 + random.below(4)))
        # Most of what goes wrong needs one of these two.
        chosen += [kind for kind in ("crash", "partition") if kind in kinds and random.chance(0.5)]
        end = 0.0
        for _ in range(random.below(12)):
            # Most come close after another one, while the system still mends itself.
            if end and random.chance(0.6):
                start = end + random.exponential(0.3) - random.between(0.0, 0.1)
            else:
                start = random.between(0.0, self.duration * 0.95)
            start = min(max(start, 0.0), self.duration * 0.95)
            kind, length = random.random(), random.exponential(0.4)
            if kind < 0.15:
                length = random.between(0.001, 0.02)  # before anybody notices
            elif kind < 0.3:
                length += 1.5  # until all have noticed
            end = start + max(length, 0.001)
            yield from getattr(self, f"_single_{random.choice(chosen)}")(start, end)

    def _fault(
        self,
        kind: str,
        start: float,
        end: float | None,
        sources: Sequence[str],
        targets: Sequence[str] = (),
        both_ways: bool = False,
        amount: float = 0.0,
    ) -> Fault:
        start = round(start, 6)
        end = None if end is None else max(round(end, 6), start + 1e-6)
        return Fault(kind, tuple(sources), tuple(targets), both_ways, amount, start, end, "")

    def _victims(self) -> list[str]:
        """Whoever leads, one of all, a minority, or everybody."""
        random = self.random
        shape = random.random()
        if shape < 0.4:
            return [LEADER]
        if shape < 0.75:
            return [random.choice(self.names)]
        if shape < 0.95:
            return random.sample(self.names, 1 + random.below(max(1, len(self.names) // 2)))
        return list(self.names)

    def _single_crash(self, start: float, end: float, kept: float = 0.0) -> Iterator[Fault]:
        for name in self._victims():
            yield self._fault("crash", start, end, [name], amount=kept)

    def _single_torn(self, start: float, end: float) -> Iterator[Fault]:
        return self._single_crash(start, end, round(self.random.between(0.01, 1.0), 3))

    def _single_pause(self, start: float, end: float) -> Iterator[Fault]:
        for name in self._victims():
            yield self._fault("pause", start, end, [name])

    def _single_skew(self, start: float, end: float) -> Iterator[Fault]:
        amount = round(self.random.between(-0.5, 0.5) * self.random.random(), 6)
        yield self._fault("skew", start, end, self._victims()[:1], amount=amount)

    def _single_drift(self, start: float, end: float) -> Iterator[Fault]:
        amount = round(math.exp(self.random.between(-2.3, 0.7)), 3)
        yield self._fault("drift", start, end, self._victims()[:1], amount=amount)

    def _single_partition(self, start: float, end: float) -> Iterator[Fault]:
        random, names = self.random, list(self.names)
        random.shuffle(names)
        n, shape = len(names), random.random()
        if shape < 0.35 or n < 3:  # somebody, or who leads, alone with some of the clients
            alone = LEADER if random.chance(0.5) else names[0]
            with_it, others = self._split(self.clients)
            rest = [name for name in self.names if name != alone]
            yield self._cut(start, end, [alone, *with_it], [*rest, *others])
        elif shape < 0.6:  # halves
            size = 1 + random.below(n - 1)
            left, right = self._split(self.clients)
            yield self._cut(start, end, names[:size] + left, names[size:] + right)
        elif shape < 0.75:  # a bridge: one node that both halves reach
            size = 1 + random.below(n - 2)
            yield self._cut(start, end, names[1 : 1 + size], names[1 + size :])
        elif shape < 0.9:  # a ring of majorities: each sees a majority, no two the same
            reach = n // 4 + 1 if n > 3 else 1
            for i, name in enumerate(names):
                far = [names[j] for j in range(i + 1, n) if min(j - i, n - j + i) > reach]
                if far:
                    yield self._cut(start, end, [name], far)
        else:  # one way
            size = 1 + random.below(n - 1)
            yield self._cut(start, end, names[:size], names[size:], both_ways=False)

    def _split(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Some to the left, some to the right; or all reach both."""
        if self.random.chance(0.4):
            return [], []
        left = [name for name in names if self.random.chance(0.5)]
        return left, [name for name in names if name not in left]

    def _cut(
        self, start: float, end: float, a: Sequence[str], b: Sequence[str], both_ways: bool = True
    ) -> Fault:
        return self._fault("partition", start, end, a, b, both_ways, 1.0)

    def _links(self, kind: str, start: float, end: float, amount: float) -> Iterator[Fault]:
        everybody = [*self.names, *self.clients]
        if self.random.chance(0.5):
            yield self._fault(kind, start, end, everybody, everybody, False, amount)
        else:
            size = min(len(self.names), 1 + self.random.below(3))
            yield self._fault(
                kind, start, end, self.random.sample(self.names, size), everybody, False, amount
            )

    def _single_loss(self, start: float, end: float) -> Iterator[Fault]:
        return self._links("loss", start, end, round(self.random.between(0.01, 0.4), 3))

    def _single_delay(self, start: float, end: float) -> Iterator[Fault]:
        return self._links("delay", start, end, round(self.random.exponential(0.08), 4))

    def _single_duplicate(self, start: float, end: float) -> Iterator[Fault]:
        return self._links("duplicate", start, end, round(self.random.between(0.01, 0.4), 3))

    def _single_reorder(self, start: float, end: float) -> Iterator[Fault]:
        return self._links("reorder", start, end, round(self.random.between(0.05, 0.5), 3))

    def _single_operate(self, start: float, end: float) -> Iterator[Fault]:
        yield self._fault("operate", start, None, (), amount=self._number())
