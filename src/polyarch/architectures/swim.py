"""SWIM: everybody watches one random other at a time, and news of who failed rides on these messages.

Das, Gupta, Motivala: "SWIM: scalable weakly-consistent infection-style process group membership protocol",
DSN 2002.  Sections below are the paper's.

**Detection** (3.1).  Once in a protocol period each member *pings* another one.  If no *ack* comes in time,
it asks k others to ping that one for it (*ping-req*), so that loss on one path accuses nobody.  If none of
them gets an ack until the period ends, the member has failed, or is suspected.

**Round robin** (4.3).  Members are pinged in a random order, and in a new one each time all have been, so
that every failure is noticed by everybody within 2n-1 periods, and not only with high probability.

**Suspicion** (4.2).  Who does not answer is *suspected* first, and declared dead only if it does not say
within some periods that it lives: by an *incarnation number*, which nobody else may raise.

**Dissemination** (4.1).  What changes rides on pings and acks, each news lambda log n times at most, those
first that were told least often.

Load is the same for every member however many there are: one ping, one ack.

What is the problem with this?  Each member keeps the list of all; who is cut off or slow for longer than the
suspicion lasts is declared dead although it lives; and for a while members disagree.

Three rules are memberlist's and not the paper's.  Of two statements the one with the higher incarnation
holds, even against a death, so that who was wrongly declared dead may come back (unless ``rejoin`` is off).
A message to somebody who is suspected says so.  And now and then somebody who is held to be dead is tried, or
two groups would never find each other again after a partition.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from polyarch.blocks.cycles import in_cycles
from polyarch.blocks.watchers import Watcher, WatcherClient
from polyarch.core import (
    Architecture,
    Failure,
    Record,
    Refused,
    System,
    Verdict,
    first,
    oneway,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.membership import Membership, View

Status = Literal["alive", "suspect", "dead"]
RANK = {"alive": 0, "suspect": 1, "dead": 2}


class State(Record, array_like=True):
    """What is said about a member: of its latest incarnation, the worst."""

    address: str
    status: Status
    incarnation: int

    def overrides(self, other: State) -> bool:
        """Section 4.2: who says what against whom."""
        return (self.incarnation, RANK[self.status]) > (other.incarnation, RANK[other.status])


News = tuple[State, ...]


def doubtful(state: State) -> State:
    """What another group says: whom it holds to be dead may live in this one, and must be able to say so."""
    return State(state.address, "suspect", state.incarnation) if state.status == "dead" else state


class Left(Refused, code="left"):
    """The member that was asked has been declared dead, and believes it."""


class Swim(Watcher):
    """One member."""

    addresses: tuple[str, ...]
    """Where members may be found: to join through."""
    converged: bool = False
    """Whether all know all from the beginning."""
    period: float = 1.0
    """T', seconds of a protocol period."""
    patience: float = 0.3
    """Part of a period to wait for an ack; who is asked to ping for another is waited for twice as long."""
    proxies: int = 3
    """k: members that are asked to ping for another."""
    probing: Literal["round-robin", "random"] = "round-robin"
    suspicion: int = 3
    """A suspect has so many times ln(n+1) periods to say that it lives; 0: no suspicion."""
    retell: int = 3
    """lambda: each news is told so many times ln(n+1) times; 0: never."""
    multicast: bool = False
    """Whether news is sent to all at once instead (section 3.2)."""
    carried: int = 6
    """The most news that one message carries."""
    rejoin: bool = True
    """Whether who was wrongly declared dead comes back."""
    together: bool = False
    """Whether all periods begin at the same moments."""

    async def start(self) -> None:
        self.begin()
        incarnation = self.disk.get("incarnation", int, -1) + 1
        self.me = State(self.address, "alive", incarnation)
        self.left = False
        self.states: dict[str, State] = {}
        # The order in which others are pinged, and who is next.
        self.order: list[str] = []
        self.turn = 0
        # News that is still told, and how often it was.
        self.news: dict[str, tuple[State, int]] = {}
        self.heard: dict[str, float] = {}
        if incarnation or not self.converged:
            self.spawn(self.join())
        else:
            self.states = {a: State(a, "alive", 0) for a in self.addresses if a != self.address}
            self.order = list(self.states)
            self.random.shuffle(self.order)
        self.disk.put("incarnation", incarnation)
        await self.disk.sync()
        in_cycles(self, self.period, self.probe, together=self.together)

    # -- joining ------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Ask any member for its list; the first of all begins alone."""
        mine = self.addresses.index(self.address)
        others = [a for a in self.addresses if a != self.address]
        contacts = others if self.me.incarnation else self.addresses[:mine]
        while contacts and not self.states:
            try:
                members = await self.at(self.random.choice(contacts), timeout=self.period).meet(self.me, ())
            except Failure:
                await self.sleep(self.period * self.random.between(0.2, 0.5))
            else:
                for state in members:
                    self.hear(state)

    @rpc
    async def meet(self, sender: State, states: News) -> News:
        """Somebody joins through this member, or two who had lost each other tell all that they know."""
        if self.left:
            raise Left(self.address)
        mine = (self.me, *self.states.values())
        self.learn(sender.address, (sender, *map(doubtful, states)))
        return mine

    async def seek(self) -> None:
        """There may be two groups, after a partition, or when all were away: once in a period somebody of the
        group tries one who is not on its list."""
        listed = dict.fromkeys((self.address, *self.order))
        lost = [a for a in self.addresses if a not in listed]
        self.sent += 1
        try:
            theirs = await self.at(self.random.choice(lost)).meet(self.me, tuple(self.states.values()))
        except Failure:
            return
        self.learn(theirs[0].address, tuple(map(doubtful, theirs)))

    @rpc
    async def leave(self) -> None:
        """Leave in good order: some others are told, and tell it on."""
        self.left = True
        told = self.order if self.multicast else self.random.sample(self.order, min(3, len(self.order)))
        for other in told:
            self.sent += 1
            self.at(other).rumour(State(self.address, "dead", self.me.incarnation))

    # -- detection (section 3.1) --------------------------------------------------------------------------

    async def probe(self) -> None:
        """One protocol period."""
        n = len(self.order) + 1
        if self.rejoin and not self.left and n < len(self.addresses) and self.random.chance(1 / n):
            self.spawn(self.seek())
        target = None if self.left else self.next_target()
        if target is None:
            return
        self.periods += 1
        state = self.states[target]
        if not await self.answers(target) and self.states.get(target) == state:
            self.accuse(state)

    async def answers(self, target: str) -> bool:
        """Whether a member answers to this one, or to one of k others."""
        wait = self.patience * self.period
        try:
            self.sent += 1
            acked = await self.at(target, timeout=wait).ping(self.me, self.tell(target))
        except Failure:
            pass
        else:
            self.learn(target, acked)
            return True
        others = [a for a in self.order if a != target]
        asked = self.random.sample(others, min(self.proxies, len(others)))
        if not asked:
            return False
        self.sent += len(asked)
        requests = (self.at(a, timeout=2 * wait).ping_req(target, self.me, self.tell(a)) for a in asked)
        try:
            (acked,) = await first(1, *requests)
        except Failure:
            return False
        self.learn(target, acked)
        return True

    @rpc
    async def ping(self, sender: State, news: News) -> News:
        """Are you there?  The answer is the ack."""
        if self.left:
            raise Left(self.address)
        self.learn(sender.address, (sender, *news))
        self.sent += 1
        return (self.me, *self.tell(sender.address))

    @rpc
    async def ping_req(self, target: str, sender: State, news: News) -> News:
        """Ping somebody for the sender; fails if there is no ack."""
        if self.left:
            raise Left(self.address)
        self.learn(sender.address, (sender, *news))
        self.sent += 1
        acked = await self.at(target, timeout=self.patience * self.period).ping(self.me, self.tell(target))
        self.learn(target, acked)
        self.sent += 1
        return acked

    def next_target(self) -> str | None:
        """Whom to ping in this period (section 4.3)."""
        if self.probing == "random":
            return self.random.choice(self.order) if self.order else None
        if self.turn >= len(self.order):
            self.random.shuffle(self.order)
            self.turn = 0
        self.turn += 1
        return self.order[self.turn - 1] if self.order else None

    # -- suspicion (section 4.2) --------------------------------------------------------------------------

    def accuse(self, state: State) -> None:
        """A member did not answer."""
        status: Status = "suspect" if self.suspicion else "dead"
        if state.status == "alive":
            self.hear(State(state.address, status, state.incarnation))

    def condemn(self, suspect: State) -> None:
        """The time is up in which a suspect might have said that it lives."""
        if self.states.get(suspect.address) == suspect:
            self.hear(State(suspect.address, "dead", suspect.incarnation))

    def defend(self, said: State) -> None:
        """Somebody says that this member is suspected, or dead: it lives, and says so."""
        if said.status == "dead" and not self.rejoin:
            self.left = True
        elif said.status != "alive":
            self.me = State(self.address, "alive", said.incarnation + 1)
            self.disk.put("incarnation", self.me.incarnation)
            self.announce(self.me)

    # -- dissemination (section 4.1) ----------------------------------------------------------------------

    def learn(self, sender: str, news: News) -> None:
        """A message of a member has come, with news."""
        self.heard[sender] = self.now
        for state in news:
            if self.states.get(state.address) != state:
                self.hear(state)

    def hear(self, state: State, tell_on: bool = True) -> None:
        """Something is said about a member: believe it if it overrides what was known, and tell it on."""
        if state.address == self.address:
            if self.overrides(state, self.me):
                self.defend(state)
            return
        known = self.states.get(state.address)
        if known is not None and not self.overrides(state, known):
            return
        self.states[state.address] = state
        if known is None or known.status != state.status:
            self.notice(state.address, state.status, self.heard.get(state.address))
        if state.status == "dead":
            if known is not None and known.status != "dead":
                at = self.order.index(state.address)
                self.turn -= at < self.turn
                del self.order[at]
        elif known is None or known.status == "dead":
            self.order.insert(self.random.below(len(self.order) + 1), state.address)
        if state.status == "suspect":
            self.after(self.suspicion * self.log_n() * self.period, self.condemn, state)
        if tell_on:
            self.announce(state)

    def overrides(self, state: State, known: State) -> bool:
        """Whether a statement holds against what is known."""
        if not self.rejoin and "dead" in (state.status, known.status):
            return known.status != "dead"  # the paper's rule: a death is final
        return state.overrides(known)

    @oneway
    def rumour(self, state: State) -> None:
        """News that somebody sends to all; or its last words."""
        self.hear(state, tell_on=not self.multicast)

    def announce(self, state: State) -> None:
        """News of this member's own, or heard for the first time: tell it on."""
        if self.multicast:
            for other in self.order:
                self.sent += 1
                self.at(other).rumour(state)
        elif self.retell:
            self.news[state.address] = (state, 0)

    def tell(self, to: str) -> News:
        """What rides on the next message: what was told least often; and what is said against its receiver,
        so that it may defend itself."""
        held = self.states.get(to)
        against = (held,) if held is not None and held.status != "alive" else ()
        if not self.news:
            return against
        told = list(self.news.items())
        if len(told) > self.carried:
            told = sorted(told, key=lambda item: item[1][1])[: self.carried]
        limit = self.retell * self.log_n()
        for address, (state, times) in told:
            if times + 1 < limit:
                self.news[address] = (state, times + 1)
            else:
                del self.news[address]
        return (*against, *(state for _, (state, _) in told))

    def log_n(self) -> int:
        return math.ceil(math.log(len(self.order) + 2))

    def alive(self) -> list[str]:
        if self.left:
            raise Left(self.address)
        return [self.address, *self.order]


class SwimGroup(Architecture):
    """Each member pings a random other one; who does not answer is suspected, then declared dead."""

    name = "swim"
    family = "peer-to-peer"
    source = "Das, Gupta, Motivala, SWIM, DSN 2002"
    jobs = (Membership,)
    claims = ("no single point of failure", "two messages for each member and period, however many members")
    metrics = {
        "messages_per_period": "messages that a member sends in a protocol period, mean",
        "suspicions": "times that a member began to suspect another one",
        "deaths": "times that a member declared another one dead, or heard that it was",
    }

    nodes: int = parameter(16, "peers", least=1)
    period: float = parameter(0.5, "T', a protocol period", least=0.001, unit="s")
    patience: float = parameter(0.3, "part of a period to wait for an ack", least=0.001, most=0.33)
    proxies: int = parameter(3, "k: members that are asked to ping for another", least=0)
    probing: Literal["round-robin", "random"] = parameter("round-robin", "whom to ping next")
    suspicion: int = parameter(3, "times ln(n+1) periods that a suspect has; 0: no suspicion", least=0)
    retell: int = parameter(3, "lambda: times ln(n+1) that news is told on; 0: never", least=0)
    carried: int = parameter(6, "the most news that a message carries", least=1)
    multicast: bool = parameter(False, "send news to all at once, instead of on pings and acks")
    rejoin: bool = parameter(True, "who was wrongly declared dead comes back")
    formation: Literal["joined", "converged"] = parameter("joined", "join one by one, or know all at once")
    together: bool = parameter(False, "all periods begin at the same moments")

    @property
    def disclaims(self) -> tuple[str, ...]:
        """No detector that only waits is accurate."""
        return ("nobody who stayed was declared dead",)

    def build(self, system: System) -> None:
        addresses = system.addresses("peer", self.nodes)
        common: dict[str, Any] = {name: getattr(self, name) for name in self.parameters}
        del common["nodes"], common["formation"]
        peer = Swim(addresses=addresses, converged=self.formation == "converged", **common)
        system.role("peer", peer, count=self.nodes)
        system.clients(WatcherClient(addresses=addresses, period=self.period))

    async def ready(self, x: Any) -> None:
        await x.client.settled()

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        addresses = (f"peer-{i}" for i in range(self.nodes))
        views = [v for v in await settle(*(x.client.view(a) for a in addresses)) if isinstance(v, View)]
        kinds = [notice.kind for view in views for notice in view.notices]
        found = {"suspicions": kinds.count("suspect"), "deaths": kinds.count("dead")}
        load = await x.client.load()
        return found if load is None else {"messages_per_period": load, **found}, []
