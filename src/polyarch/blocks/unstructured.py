"""Peers of an unstructured overlay: each knows its neighbours, and nothing says who has what.

An overlay is a random graph, grown by the peers themselves (``blocks/graphs.py`` has the same graphs built
directly).  A newcomer knows of those that came before it (a *host cache*), and opens its links by messages:

``random``      to each of them with the same probability (Erdős and Rényi);
``scale-free``  to where random walks end, which is where many links are (Barabási and Albert);
``regular``     into the middle of random links: it takes their place, and nobody's degree changes (as in Law
                and Siu, "Distributed construction of random expander networks", INFOCOM 2003).

Both ends keep a link.  Upkeep asks all neighbours now and then; who is dead, or does not know us any more, is
lost, and *who had opened the link* finds another neighbour as it found the first: so the mean degree stays
what it was, however many come and go.  In a regular overlay everybody with too few does; if one is lacking,
somebody else will have one too many.

What is the problem with this?  Nobody knows who has what: what a search finds depends on how many it asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from polyarch.blocks.forming import formed
from polyarch.blocks.graphs import (
    barabasi_albert,
    components,
    erdos_renyi,
    picked,
    random_regular,
)
from polyarch.blocks.overlay import TALLY, NotAMember, Participant, figures
from polyarch.blocks.ring import identifier
from polyarch.core.errors import BadArguments, Failure, Refused
from polyarch.core.messages import oneway, rpc
from polyarch.core.randomness import Random
from polyarch.core.records import Record
from polyarch.core.system import Architecture, System, Verdict, parameter
from polyarch.core.tasks import settle
from polyarch.jobs.lookup import Lookup, holders

__all__ = ["BITS", "SEARCHES", "Counts", "Kind", "Plan", "Unstructured", "UnstructuredOverlay"]

BITS = 32
"""Keys are hashed to so many bits."""

Kind = Literal["random", "scale-free", "regular"]

SEARCHES = {
    **TALLY,
    "messages_per_search": "search messages that peers handled, for each search",
    "messages_per_hit": "the same, for each search that found somebody",
    "coverage": "mean share of all peers that a search asked",
    "duplicates": "share of the questions that came to peers who had had them already",
    "largest_component": "share of all peers that are in the largest connected part of the overlay (under "
    "faults that last to the end of the load: then)",
}
"""What ``UnstructuredOverlay.observe`` measures."""


_TRIES = 8  # to find a neighbour, until who comes back is a member without any


class NoLinks(Refused, code="no-links"):
    """The member that was asked to give a link away has none."""


class Plan(Record):
    """What an overlay is to be: the same for all its peers."""

    graph: Kind
    degree: float
    """The mean number of neighbours."""
    addresses: tuple[str, ...]
    """All peers, in the order in which they come."""
    numbers: dict[str, int]
    """Their places in it."""
    links: tuple[tuple[int, ...], ...] = ()
    """Everybody's neighbours, where the overlay is built directly."""

    @classmethod
    def of(cls, graph: Kind, degree: float, addresses: tuple[str, ...], wiring: int | None = None) -> Plan:
        """``wiring``: the seed of a graph that is built directly; None: the peers join one by one.
        ``ValueError`` if there is no such graph."""
        n = len(addresses)
        if graph != "random" and (degree % 2 or degree < 2):
            raise ValueError(f"--degree {degree:g}: a {graph} graph needs an even degree of at least 2")
        if graph == "regular" and degree >= n:
            raise ValueError(f"--degree {degree:g}: there are {n - 1} others to be linked to")
        links: list[list[int]] = []
        if wiring is not None:
            random = Random(wiring).fork("overlay")
            if graph == "random":
                links = erdos_renyi(n, degree, random)
            elif graph == "scale-free":
                links = barabasi_albert(n, round(degree / 2), random)
            else:
                links = random_regular(n, round(degree), random)
        numbers = {address: i for i, address in enumerate(addresses)}
        return cls(graph, degree, addresses, numbers, tuple(map(tuple, links)))


class Counts(Record, array_like=True):
    """What a peer has done since it started."""

    searches: int = 0
    """Searches that it was asked for by clients."""
    found: int = 0
    """Of them, those that found a holder."""
    handled: int = 0
    """Search messages that it handled."""
    asked: int = 0
    """Of them, those that asked whether it has a key."""
    repeated: int = 0
    """Of those, the ones that it had been asked before."""


class Unstructured(Participant):
    """A peer that keeps its place in an overlay; how it searches is for others to say."""

    plan: Plan
    copies: int = 1
    """How many peers have each key."""
    arrival: float = 0.0
    """Seconds between two joins."""
    repair: float = 1.0
    """Seconds between two rounds of upkeep; 0: none."""
    memory: float = 5.0
    """Seconds for which a search is remembered, at least."""

    timeout = 1.0

    async def start(self) -> None:
        await super().start()
        plan = self.plan
        self.number = plan.numbers[self.address]
        self.member = False
        self.neighbours: tuple[str, ...] = ()
        self.opened: tuple[str, ...] = ()
        """The neighbours to whom this peer opened the link."""
        self.wanted = 0
        """How many links it opens."""
        self.giving: str | None = None
        """The neighbour whose link is just being given to a newcomer."""
        self.mending = False
        self.searches = self.found = self.asked = self.repeated = 0
        # Searches heard of lately, and from whom first: this period's, and those of the one before.
        self.heard: dict[int, str] = {}
        self.heard_before: dict[int, str] = {}
        self.period_ends = 0.0
        if plan.links and not self.restarted:
            near = plan.links[self.number]
            self.neighbours = tuple([plan.addresses[i] for i in near])
            if plan.graph != "regular":
                self.opened = tuple([plan.addresses[i] for i in near if i < self.number])
            self.wanted = len(self.opened)
            self.member = True
        else:
            self.spawn(self.enter())
        if self.repair:
            self.every(self.repair, self.upkeep, jitter=0.1)

    # -- joining ------------------------------------------------------------------------------------------

    async def enter(self) -> None:
        """Join the overlay: at first after those that come before this peer; later whoever is there."""
        plan, i, n = self.plan, self.number, len(self.plan.addresses)
        half, p = round(plan.degree / 2), min(1.0, plan.degree / max(1, n - 1))
        core = {"random": 0, "scale-free": half, "regular": round(plan.degree)}[plan.graph]
        targets: list[int] = []
        self.wanted = min(half, n - 1)
        if self.restarted:
            if plan.graph == "random":  # as many as peers open on average
                self.wanted = len(list(picked(n - 1, p / 2, self.random)))
        else:
            await self.sleep(self.arrival * i)
            if plan.graph == "random":
                targets = list(picked(i, p, self.random))
            elif i <= core:  # the first ones are all linked to each other
                targets = list(range(i))
            if targets or plan.graph == "random" or not i:
                self.wanted = len(targets)
        for target in targets:
            await self.open(plan.addresses[target])
        oldest, tries = n if self.restarted or not i else i, 0
        while self.lacking() > 0:
            if not await self.find_neighbour(self.somebody(oldest)):
                # Not there yet, or not there any more: ask somebody older, and in the end anybody.
                oldest = oldest // 2 or n
                tries += 1
                if self.restarted and tries == _TRIES:
                    self.member = True  # perhaps all have been away: others wait for us as we do for them
                await self.sleep(self.random.between(0.1, 0.5))
        self.member = True

    def lacking(self) -> int:
        """How many neighbours are to be found."""
        if self.plan.graph == "regular":
            first = not self.member and not self.restarted
            wanted = round(self.plan.degree)
            return (min(self.number, wanted) if first else wanted) - len(self.neighbours)
        return self.wanted - len(self.opened)

    def somebody(self, oldest: int) -> str:
        """Another one of the oldest peers (this one, if it is the only one)."""
        if oldest <= self.number:
            return self.plan.addresses[self.random.below(oldest)]
        other = self.random.below(max(1, oldest - 1))
        return self.plan.addresses[(other + (other >= self.number)) % oldest]

    async def find_neighbour(self, known: str) -> bool:
        """Open one more link through a known peer, as the graph wants it; or, in a regular overlay, come
        between two if two neighbours are lacking."""
        try:
            if self.plan.graph == "scale-free":
                known = await self.at(known).wander(len(self.plan.addresses).bit_length())
            elif self.plan.graph == "regular" and self.lacking() > 1:
                other = await self.at(known).give(self.address, self.neighbours)
                self.neighbours += (known, other)
                return True
        except NoLinks:
            if self.neighbours:
                return False
        except Failure:
            return False
        return await self.open(known)

    async def open(self, target: str) -> bool:
        """Open a link to this peer; False if it has one already, or cannot be reached."""
        if target in self.neighbours or target == self.address:
            return False
        try:
            await self.at(target).connect(self.address)
        except Failure:
            return False
        if target not in self.neighbours:
            self.neighbours += (target,)
        if self.plan.graph != "regular":
            self.opened += (target,)
        return True

    @rpc
    async def connect(self, peer: str) -> None:
        """``peer`` opens a link to us."""
        if not self.member:
            raise NotAMember(self.address)
        if peer not in self.neighbours:
            self.neighbours += (peer,)

    @rpc(timeout=10.0)
    async def wander(self, steps: int) -> str:
        """Where a random walk of so many more steps ends: anybody, with a probability that is proportional
        to the number of neighbours."""
        if steps > 0 and self.neighbours:
            return await self.at(self.random.choice(self.neighbours)).wander(steps - 1)
        return self.address

    @rpc
    async def give(self, newcomer: str, known: tuple[str, ...]) -> str:
        """Give a link to a newcomer, who comes between its two ends: the other end.  ``known``: neighbours
        that it has already."""
        if self.member and not self.neighbours:
            raise NoLinks(self.address)
        suited = [n for n in self.neighbours if n not in known and n != newcomer]
        if not self.member or self.giving or not suited or self.address in known:
            raise NotAMember(self.address) if not self.member else Refused("no link to give away now")
        self.giving = other = self.random.choice(suited)
        try:
            await self.at(other).exchange(self.address, newcomer)
        finally:
            self.giving = None
        self.neighbours = (*(n for n in self.neighbours if n != other), newcomer)
        return other

    @rpc
    async def exchange(self, old: str, new: str) -> None:
        """``new`` takes the place of a neighbour."""
        if old not in self.neighbours or new in self.neighbours or self.giving == old or new == self.address:
            raise Refused(f"{old} is no neighbour that {self.address} can exchange")
        self.neighbours = (*(n for n in self.neighbours if n != old), new)

    # -- upkeep -------------------------------------------------------------------------------------------

    async def upkeep(self) -> None:
        """Lose those who are dead or do not know us, and find others in their place."""
        if not self.member or self.mending:
            return
        self.mending = True
        near = self.neighbours
        for n, known in zip(near, await settle(*(self.at(n).is_linked(self.address) for n in near))):
            if known is not True and n in self.neighbours:
                self.lose(n)
        # Not for ever: who is asked may be dead too, and the next round comes.
        for _ in range(max(self.lacking(), 1)):
            if self.lacking() > 0 or not self.neighbours:
                await self.find_neighbour(self.somebody(len(self.plan.addresses)))
        self.mending = False

    @rpc
    async def is_linked(self, peer: str) -> bool:
        """Whether ``peer`` is a neighbour of ours."""
        return peer in self.neighbours

    def lose(self, n: str) -> None:
        """A neighbour is no more."""
        self.neighbours = tuple([other for other in self.neighbours if other != n])
        self.opened = tuple([other for other in self.opened if other != n])

    @rpc(timeout=5.0)
    async def leave(self) -> None:
        """Leave in good order: tell all neighbours; in a regular overlay, two and two get each other."""
        near, self.neighbours, self.opened, self.member = self.neighbours, (), (), False
        for i, n in enumerate(near):
            partner = near[i ^ 1] if self.plan.graph == "regular" and i ^ 1 < len(near) else ""
            self.at(n).departed(self.address, partner)

    @oneway
    def departed(self, peer: str, partner: str) -> None:
        """A neighbour leaves; ``partner`` has lost it too, and wants us instead."""
        if peer in self.neighbours:
            self.lose(peer)
            if partner and partner not in self.neighbours and partner != self.address:
                self.neighbours += (partner,)

    # -- what searches need -------------------------------------------------------------------------------

    def check_question(self, key: int) -> None:
        """Raises if this peer cannot search for that."""
        if not 0 <= key < 1 << BITS:
            raise BadArguments(f"the key {key} is not of {BITS} bits")
        if not self.member:
            raise NotAMember(self.address)

    def has(self, key: int) -> bool:
        """Whether this peer has the key."""
        return self.address in holders(key, self.plan.addresses, self.copies)

    def new_search(self) -> int:
        """A number for a search that begins here; if it comes round to us, it is a duplicate."""
        search = self.random.bits64()
        self.remember(search, "")
        return search

    def first_time(self, search: int, sender: str) -> bool:
        """Whether a search was not heard of yet; remembers it, and who told."""
        self.asked += 1
        if search in self.heard or search in self.heard_before:
            self.repeated += 1
            return False
        self.remember(search, sender)
        return True

    def remember(self, search: int, sender: str) -> None:
        if self.now >= self.period_ends:
            self.heard_before, self.heard = self.heard, {}
            self.period_ends = self.now + self.memory
        self.heard[search] = sender

    def heard_from(self, search: int) -> str:
        """Who told of a search first: the way back to who began it.  Empty if it is forgotten."""
        return self.heard.get(search) or self.heard_before.get(search, "")

    # -- being looked at ----------------------------------------------------------------------------------

    def place(self) -> int:
        if not self.member:
            raise NotAMember(self.address)
        return identifier(self.address, BITS)

    def links(self) -> int:
        return len(self.neighbours)

    @rpc
    async def known(self) -> tuple[str, ...]:
        """Its neighbours."""
        if not self.member:
            raise NotAMember(self.address)
        return self.neighbours

    @rpc
    async def counts(self) -> Counts:
        """What it has done."""
        return Counts(self.searches, self.found, self.handled, self.asked, self.repeated)


class UnstructuredOverlay(Architecture):
    """What the architectures on such an overlay have in common."""

    family = "peer-to-peer"
    jobs = (Lookup,)
    claims = ("no single point of failure",)
    metrics = SEARCHES

    nodes: int = parameter(16, "peers", least=1)
    graph: Kind = parameter("random", "what the overlay looks like")
    degree: float = parameter(4.0, "mean number of neighbours", least=0)
    copies: int = parameter(1, "peers that have each key", least=0)
    repair: float = parameter(1.0, "time between two rounds of upkeep; 0: none", least=0, unit="s")
    formation: Literal["joined", "converged"] = parameter("joined", "join one by one, or start linked")
    arrival: float = parameter(0.02, "time between two joins", least=0, unit="s")
    wiring: int = parameter(0, "converged: which graph of the kind; its seed", least=0)

    @property
    def not_borne(self) -> tuple[str, ...]:
        """A search that loses its messages finds nothing, and says so."""
        return ("crash", "torn", "pause", "partition", "loss", "delay")

    def plan(self, system: System) -> Plan:
        """The overlay's plan."""
        wiring = self.wiring if self.formation == "converged" else None
        return Plan.of(self.graph, self.degree, system.addresses("peer", self.nodes), wiring)

    def keeping(self) -> dict[str, Any]:
        """The fields of ``Unstructured`` that are parameters here."""
        return {"copies": self.copies, "arrival": self.arrival, "repair": self.repair}

    async def ready(self, x: Any) -> None:
        if self.formation == "joined":
            await x.sleep(max(0.0, self.arrival * self.nodes - x.now))
        await formed(x, self.all_are_members)

    async def all_are_members(self, x: Any) -> Verdict:
        """Whether nobody has still to join."""
        members = len((await x.client.census()).members)
        return Verdict("all peers are members", members >= self.nodes, f"{members} of {self.nodes}")

    async def glance(self, x: Any) -> dict[str, Any]:
        graph = await links_held(x, tuple(f"peer-{i}" for i in range(self.nodes)))
        return {"largest_component": len(components(graph)[0]) / self.nodes}

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        addresses = tuple(f"peer-{i}" for i in range(self.nodes))
        measured: dict[str, Any] = await figures(x, self.nodes)
        done = await ask_all(x, addresses, "counts")
        handled, asked, repeated, searches, found = (
            sum(getattr(counts, name) for counts in done if counts is not None)
            for name in ("handled", "asked", "repeated", "searches", "found")
        )
        if searches:
            measured["messages_per_search"] = handled / searches
            measured["coverage"] = (asked - repeated) / searches / self.nodes
        if found:
            measured["messages_per_hit"] = handled / found
        if asked:
            measured["duplicates"] = repeated / asked
        measured |= await self.glance(x)
        absent = done.count(None)
        detail = f"{self.nodes - absent} of {self.nodes} peers answer"
        return measured, [Verdict("all peers are there", not absent, detail)]


async def ask_all(x: Any, peers: Sequence[str], question: str) -> list[Any]:
    """The answer of each of these peers to ``counts`` or ``known``; None from those that give none."""
    answers: list[Any] = []
    for i in range(0, len(peers), 256):
        told = await settle(*(getattr(x.at(p, Unstructured), question)() for p in peers[i : i + 256]))
        answers += [None if isinstance(answer, Failure) else answer for answer in told]
    return answers


async def links_held(x: Any, peers: Sequence[str]) -> list[list[int]]:
    """The graph of the links that these peers hold, both ends of them: those to others are left out, and who
    does not answer has none."""
    numbers = {p: i for i, p in enumerate(peers)}
    told = [known or () for known in await ask_all(x, peers, "known")]
    held = [{numbers[n] for n in known if n in numbers} for known in told]
    return [sorted(j for j in near if i in held[j]) for i, near in enumerate(held)]
