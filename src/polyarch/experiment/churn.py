"""Churn: peers that come and go while the system works, as a workload of its own.

    poisson:0.5                      peers leave, and others come back, each at random times, 0.5 per second
    sessions:exponential:60:10       each peer is there for 60 s on average, then away for 10 s, over and over
    sessions:weibull:0.5:60:10       the same, by another law of how long they stay: Weibull of shape 0.5;
                                     pareto:1.5 of exponent 1.5; lognormal:1 of sigma 1
    ...:peer                         which role; ``peer`` unless said, or the only one that there is
    ...:crash                        they stop without a word; else they are asked to ``leave()`` before

Who leaves is stopped, and who comes back is started again, from its disk, and joins as its protocol says.

All are there when the system is prepared.  Before the load as many leave as are away on average (by the
law of their sessions; of ``poisson`` a tenth), so that the number of peers is steady; and whoever is there
then is in the middle of a session (the residual life of a renewal process), not at its beginning.  When the
load is over all come back.

Joins and leaves of ``poisson`` know nothing of each other: the number of peers is a random walk, and of a few
peers none may be left after some seconds (``Churned.present_least``).  Sessions keep it near its mean.

Stutzbach and Rejaie, "Understanding churn in peer-to-peer networks", IMC 2006, measured how long peers stay
in Gnutella, Kad and BitTorrent: neither exponential nor Pareto; Weibull or log-normal fits.  The time away
is exponential here.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from polyarch.core.errors import Failure
from polyarch.core.messages import schema_of
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import Role, System
from polyarch.core.tasks import Task, gather, settle
from polyarch.experiment.record import Churned
from polyarch.faults.spec import together
from polyarch.runtimes.base import Control

__all__ = ["BadChurn", "Churn", "Churning", "Sessions", "parse"]

_EXAMPLE = "such as poisson:0.5, sessions:exponential:60:10 or sessions:weibull:0.5:60:10:peer:crash"
_AWAY = 0.1
"""The share that is away at first, of a Poisson process, which does not say."""
_AT_ONCE = 64
"""Peers that leave at the same time before the load."""
_PATIENCE = 5.0
"""Seconds that a peer has to leave in good order."""


class BadChurn(ValueError):
    """Words of ``--churn`` that cannot be understood or done; says what would be right."""


class Sessions(Record):
    """How long peers stay, by what law, and how long they are away; seconds."""

    law: str
    shape: float
    """Weibull's shape, Pareto's exponent, the sigma of the log-normal; nothing to the exponential."""
    present: float
    """Mean."""
    away: float
    """Mean; exponential."""

    SHAPES: ClassVar[Mapping[str, tuple[str, float]]] = {
        "exponential": ("", 0.0),
        "weibull": ("shape", 0.0),
        "pareto": ("exponent", 1.0),
        "lognormal": ("sigma", 0.0),
    }
    """The laws; what their parameter is called, and above what it must be."""

    def session(self, random: Random) -> float:
        """How long somebody stays who comes now."""
        rest = 1.0 - random.random()
        if self.law == "weibull":
            return self._scale * math.pow(-math.log(rest), 1 / self.shape)
        if self.law == "pareto":
            return self._scale * math.pow(rest, -1 / self.shape)
        if self.law == "lognormal":
            return random.lognormal(self._scale, self.shape)
        return random.exponential(self.present)

    def rest(self, random: Random) -> float:
        """How long somebody still stays who is there: a uniform part of a session that is likelier to be met
        the longer it is."""
        if self.law == "weibull":
            session = self._scale * math.pow(_gamma(1 + 1 / self.shape, random), 1 / self.shape)
        elif self.law == "pareto":
            session = self._scale * math.pow(1.0 - random.random(), -1 / (self.shape - 1))
        elif self.law == "lognormal":
            session = random.lognormal(self._scale * math.exp(self.shape**2), self.shape)
        else:
            return random.exponential(self.present)
        return session * random.random()

    @property
    def _scale(self) -> float:
        """Such that the mean is ``present``."""
        if self.law == "weibull":
            return self.present / math.gamma(1 + 1 / self.shape)
        if self.law == "pareto":
            return self.present * (self.shape - 1) / self.shape
        return self.present * math.exp(-(self.shape**2) / 2)


def _gamma(a: float, random: Random) -> float:
    """Gamma-distributed, of shape ``a`` >= 1 and scale 1 (Marsaglia and Tsang, ACM TOMS 26(3), 2000)."""
    d = a - 1 / 3
    while True:
        z = random.normal()
        v = (1 + z / math.sqrt(9 * d)) ** 3
        if v > 0 and math.log(1.0 - random.random()) < z * z / 2 + d * (1 - v + math.log(v)):
            return d * v


class Churn(Record):
    """What ``--churn`` says."""

    role: str
    rate: float
    """Leaves per second, and joins per second; 0: there are sessions."""
    sessions: Sessions | None
    crash: bool
    text: str


def parse(text: str, roles: Mapping[str, Role]) -> Churn:
    """Read a churn of a system with these roles."""
    try:
        return _read(text, roles)
    except BadChurn as error:
        raise BadChurn(f"--churn {text!r}: {error}") from None


def _read(text: str, roles: Mapping[str, Role]) -> Churn:
    kind, *words = text.split(":")
    rate, sessions = 0.0, None
    if kind == "poisson":
        rate, words = _number("rate", words[:1]), words[1:]
    elif kind == "sessions":
        law, words = (words or [""])[0], words[1:]
        if law not in Sessions.SHAPES:
            raise BadChurn(f"sessions are {', '.join(Sessions.SHAPES)}, not {law!r} ({_EXAMPLE})")
        named, above = Sessions.SHAPES[law]
        shape = _number(named, words[:1], above) if named else 0.0
        words = words[bool(named) :]
        present, away = _number("mean time there", words[:1]), _number("mean time away", words[1:2])
        sessions, words = Sessions(law, shape, present, away), words[2:]
    else:
        raise BadChurn(f"churn is poisson or sessions, not {kind!r} ({_EXAMPLE})")
    crash = words[-1:] == ["crash"]
    words = words[:-1] if crash else words
    if len(words) > 1:
        raise BadChurn(f"what is {words[1]!r} for?  ({_EXAMPLE})")
    return Churn(_role(words, roles).name, rate, sessions, crash, text)


def _role(words: Sequence[str], roles: Mapping[str, Role]) -> Role:
    ours = [role.name for role in roles.values() if role.component is None]
    if words:
        name = words[0]
    elif "peer" in ours or len(ours) == 1:
        name = "peer" if "peer" in ours else ours[0]
    else:
        raise BadChurn(f"of which role?  Add :ROLE; roles are {', '.join(ours)}")
    if name not in roles:
        raise BadChurn(f"no role is called {name!r}; roles are {', '.join(ours)}")
    role = roles[name]
    if role.component is not None:
        raise BadChurn(f"{name} is a {type(role.component).__name__}: it does not come and go")
    if len(role.process_names()) < 2:
        raise BadChurn(f"there is one {name} only, and nobody is left when it goes")
    return role


def _number(what: str, words: Sequence[str], above: float = 0.0) -> float:
    if not words:
        raise BadChurn(f"the {what} is missing ({_EXAMPLE})")
    try:
        value = float(words[0])
    except ValueError:
        raise BadChurn(f"the {what} is a number, not {words[0]!r} ({_EXAMPLE})") from None
    if not above < value < 1e9:
        raise BadChurn(f"the {what} is a number above {above:g}, not {words[0]}")
    return value


class Churning:
    """One churn of one running system.  Which peer does what, and when, is decided by the seed."""

    def __init__(self, churn: Churn, system: System, random: Random) -> None:
        self.churn = churn
        self.random = random.fork(churn.text)
        self.peers = [process for process in system.processes() if process.role.name == churn.role]
        self.present = _Some(range(len(self.peers)))
        self.away = _Some(())
        self.clock: float | None = None
        """Seconds of load so far (it stands still between loads); None: nothing has begun."""
        self.due: list[tuple[float, int]] = []
        """A heap: when each peer's session, or its time away, is over; of a Poisson process one entry."""
        self.turns: dict[int, Task] = {}
        """What each peer is about: it ends before the next thing begins."""
        self.error: BaseException | None = None
        self.away_before = self.joined = self.left = self.crashed = self.void = 0
        self.least = self.most = len(self.peers)
        self.sum = self.counted = 0.0

    async def begin(self, x: Any) -> None:
        """As many leave as are away on average; once, before the first load."""
        if self.clock is not None:
            return
        self.clock, sessions, random, n = 0.0, self.churn.sessions, self.random, len(self.peers)
        if sessions is None:
            gone = sorted(random.sample(range(n), max(1, round(_AWAY * n))))
            self.due = [(self._gap(), 0)]
        else:
            share = sessions.away / (sessions.present + sessions.away)
            gone = [i for i in range(n) if random.chance(share)][: n - 1]
            out = frozenset(gone)
            for i in range(n):
                rest = random.exponential(sessions.away) if i in out else sessions.rest(random)
                self.due.append((rest, i))
            heapq.heapify(self.due)
        for i in gone:
            self.present.remove(i)
            self.away.add(i)
        for at in range(0, len(gone), _AT_ONCE):
            await gather(*(self._leave(x, i) for i in gone[at : at + _AT_ONCE]))
        self.away_before = len(gone)
        self.left = self.crashed = 0
        self.least = self.most = len(self.present)

    async def run(self, x: Any, begin: float, end: float) -> None:
        """Peers come and go while a load lasts, which begins and ends then by ``x``'s clock."""
        assert self.clock is not None
        offset = self.clock - begin
        while self.due[0][0] < end + offset and self.error is None:
            at, i = self.due[0]
            if at - offset > x.now:
                await x.sleep(at - offset - x.now)
            self._count(at)
            if self.churn.sessions is None:
                leaves = self.random.chance(0.5)
                heapq.heapreplace(self.due, (at + self._gap(), 0))
                some = self.present if leaves else self.away
                if len(some) > leaves:  # somebody is there to come back, or somebody would be left
                    self._turn(x, some.draw(self.random))
                else:
                    self.void += 1
            elif i in self.away or len(self.present) > 1:
                self._turn(x, i)
                heapq.heapreplace(self.due, (at + self._lasts(i), i))
            else:
                self.void += 1
                heapq.heapreplace(self.due, (at + self._lasts(i), i))
        if end > x.now:
            await x.sleep(end - x.now)
        self._count(end + offset)
        self.clock = end + offset
        await self._quiet()

    async def all_back(self, x: Any) -> None:
        """The load is over: nobody stays away."""
        control: Control = x.control
        gone = sorted(self.away)
        await together(control.restart, [self.peers[i].name for i in gone])
        for i in gone:
            self.away.remove(i)
            self.present.add(i)

    def done(self) -> Churned:
        """What was done."""
        return Churned(
            churn=self.churn.text,
            role=self.churn.role,
            away_before=self.away_before,
            joined=self.joined,
            left=self.left,
            crashed=self.crashed,
            void=self.void,
            present_mean=round(self.sum / self.clock, 3) if self.clock else None,
            present_least=self.least,
            present_most=self.most,
        )

    def _gap(self) -> float:
        """Until the next join or leave of a Poisson process: of both together, at twice the rate."""
        return self.random.exponential(0.5 / self.churn.rate)

    def _lasts(self, i: int) -> float:
        """How long the session lasts, or the time away, that has just begun."""
        assert self.churn.sessions is not None
        if i in self.present:
            return self.churn.sessions.session(self.random)
        return self.random.exponential(self.churn.sessions.away)

    def _count(self, at: float) -> None:
        """Time has passed with as many as there were."""
        self.sum += len(self.present) * (at - self.counted)
        self.counted = at

    def _turn(self, x: Any, i: int) -> None:
        """Who is there leaves; who is away comes back."""
        leaves = i in self.present
        come, go = (self.away, self.present) if leaves else (self.present, self.away)
        go.remove(i)
        come.add(i)
        self.least = min(self.least, len(self.present))
        self.most = max(self.most, len(self.present))
        before = self.turns.get(i)

        async def turn() -> None:
            if before is not None:
                await before
            await (self._leave(x, i) if leaves else self._join(x, i))

        task = self.turns[i] = x.spawn(turn())
        task.watch(lambda task: self._ended(i, task))

    def _ended(self, i: int, task: Task) -> None:
        self.error = self.error or task.error
        if self.turns.get(i) is task:
            del self.turns[i]

    async def _quiet(self) -> None:
        """Until everybody has done what it began."""
        for task in list(self.turns.values()):
            await task
        if self.error is not None:
            raise self.error

    async def _join(self, x: Any, i: int) -> None:
        await x.control.restart(self.peers[i].name)
        self.joined += 1

    async def _leave(self, x: Any, i: int) -> None:
        """In good order, if it can and shall; and then it stops."""
        process, good = self.peers[i], False
        if not self.churn.crash:
            able = [(address, type(node)) for address, node in process.nodes if _can_leave(type(node))]
            answers = await settle(*(x.at(address, of, timeout=_PATIENCE).leave() for address, of in able))
            good = bool(able) and not any(isinstance(answer, Failure) for answer in answers)
        await x.control.crash(process.name)
        if good:
            self.left += 1
        else:
            self.crashed += 1


def _can_leave(of: type) -> bool:
    method = schema_of(of).methods.get("leave")
    return method is not None and not method.is_oneway and not method.required()


class _Some:
    """Some of the peers, by number; one of them can be drawn in constant time, and in a fixed order."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = list(numbers)
        self._places = {number: place for place, number in enumerate(self._numbers)}

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def add(self, number: int) -> None:
        self._places[number] = len(self._numbers)
        self._numbers.append(number)

    def remove(self, number: int) -> None:
        """The last one takes its place."""
        place, last = self._places.pop(number), self._numbers.pop()
        if last != number:
            self._numbers[place] = last
            self._places[last] = place

    def draw(self, random: Random) -> int:
        return random.choice(self._numbers)
