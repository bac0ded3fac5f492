"""A hash table over an overlay: one decider for each key, copies before answers, and keys that move with the
peers.  Where the overlay itself does not matter, peers here are told who is there."""

from __future__ import annotations

from typing import Any

import pytest

from polyarch.architectures.chord import Chord, ChordRing
from polyarch.blocks.dht import DHT, DISCLAIMED, DhtClient
from polyarch.blocks.overlay import NotAMember
from polyarch.blocks.ring import identifier
from polyarch.blocks.storing import NotResponsible, StoringPeer, Version
from polyarch.core import Architecture, Failure, System, Timeout, gather, parameter, rpc, settle
from polyarch.experiment.run import Question, run
from polyarch.jobs.kv import LINEARIZABLE, Kv
from polyarch.jobs.lookup import Holder
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession

KEYS = [f"key-{i}" for i in range(60)]


class Told(StoringPeer):
    """A key belongs to the peer at its place among those that are there, and then to those behind that."""

    there: tuple[str, ...]

    async def start(self) -> None:
        await super().start()
        self.known = self.there

    def place(self) -> int:
        if self.address not in self.known:
            raise NotAMember(self.address)
        return self.known.index(self.address)

    def links(self) -> int:
        return len(self.known) - 1

    def in_order(self, place: int) -> tuple[str, ...]:
        at = place % 7 % len(self.known)
        return self.known[at:] + self.known[:at]

    def responsible(self, place: int) -> bool:
        return self.in_order(place)[0] == self.address

    def others(self, place: int, count: int) -> tuple[str, ...]:
        return tuple(a for a in self.in_order(place) if a != self.address)[:count]

    async def find(self, place: int) -> str:
        return self.in_order(place)[0]

    @rpc
    async def whose(self, place: int) -> str:
        return self.in_order(place)[0]

    @rpc
    async def know(self, there: tuple[str, ...]) -> None:
        """From now on these are there."""
        self.known = there
        self.neighbours_changed()

    @rpc
    async def part(self) -> None:
        await self.hand_over()


class ToldClient(DhtClient):
    async def ask(self, peer: str, place: int) -> Holder:
        return Holder(await self.at(peer, Told).whose(place))


class ToldPeers(Architecture):
    """Peers that are told who is there."""

    name = "told"
    family = "test"
    source = "none"
    jobs = (Kv,)
    replicas: int = parameter(2, "peers that hold a key", least=1)
    mend_every: float = parameter(0.0, "time between two rounds of mending", least=0)

    def build(self, system: System) -> None:
        addresses = system.addresses("peer", 4)
        peer = Told(there=addresses[:3], replicas=self.replicas, mend_every=self.mend_every)
        system.role("peer", peer, count=4)
        system.clients(ToldClient(addresses=addresses[:3], replicas=self.replicas))


def told(**parameters: Any) -> SimSession:
    """Peers 0, 1 and 2 are there, 3 is not yet."""
    return SimSession(ToldPeers(**parameters), network=Network(latency=Constant(0.001)), detailed=True)


def key_of(position: int) -> str:
    """A key that belongs to the peer with this number, of 3."""
    return next(k for k in KEYS if identifier(k, 32) % 7 % 3 == position)


async def versions(x: Experimenter, key: str) -> list[int]:
    """The number of the version that each of the four peers holds; 0: none."""
    held = await gather(*(x.at(f"peer-{i}", Told).holdings() for i in range(4)))
    return [h.get(key, Version(0, "")).number for h in held]


# -- one decider, and copies -------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_write_is_at_all_holders_before_it_is_answered(replicas: int) -> None:
    key = key_of(1)

    async def experiment(x: Experimenter) -> list[int]:
        await x.client.put(key, "a")
        return await versions(x, key)

    held = told(replicas=replicas).perform(experiment)
    assert held == {1: [0, 1, 0, 0], 2: [0, 1, 1, 0], 3: [1, 1, 1, 0]}[replicas]


def test_operations_of_one_key_have_one_order() -> None:
    key = key_of(0)

    async def experiment(x: Experimenter) -> tuple[int, Any]:
        swapped = await gather(*(x.client.compare_and_set(key, None, i) for i in range(20)))
        return sum(swapped), await x.client.get(key)

    count, value = told().perform(experiment)
    assert count == 1
    assert value is not None


def test_a_key_that_was_only_asked_for_leaves_nothing_behind() -> None:
    session = told()
    key = key_of(0)

    async def experiment(x: Experimenter) -> tuple[list[Any], list[Any]]:
        asked = [await x.client.get(k) for k in KEYS]
        # Who waits for the reader of a key that is forgotten then does not write into the void.
        peer = x.at("peer-0", Told)
        asked += (await gather(peer.read(key), peer.swap(key, "b", "c", 1), peer.write(key, "a", 2)))[:2]
        await x.at("peer-0", Told).part()
        return asked, await versions(x, key)

    asked, held = session.perform(experiment)
    assert asked == [None] * len(KEYS) + [None, False]
    assert held == [0, 1, 1, 0], "the value is where it was given to on leaving, and nothing else is"
    nodes = [session.kernel.directory[f"peer-{i}"].node for i in range(4)]
    assert [list(node.kept) for node in nodes] == [[], [key], [key], []]


def test_a_value_is_not_read_before_its_holders_have_it() -> None:
    key = key_of(0)

    async def experiment(x: Experimenter) -> tuple[bool, Any]:
        await x.client.put(key, "a")
        await x.control.pause("peer-1")
        writing = x.spawn(x.at("peer-0", Told).write(key, "b", 1))
        await x.sleep(0.1)
        reading = x.spawn(x.at("peer-0", Told).read(key))
        await x.sleep(0.5)
        early = reading.done
        await x.control.resume("peer-1")
        await writing
        return early, await reading

    assert told().perform(experiment) == (False, "b")


def test_who_is_not_responsible_decides_nothing() -> None:
    key = key_of(0)

    async def experiment(x: Experimenter) -> list[Any]:
        other = x.at("peer-1", Told)
        return await settle(other.read(key), other.write(key, "a", 1), other.swap(key, None, "a", 2))

    assert all(isinstance(answer, NotResponsible) for answer in told().perform(experiment))


def test_a_request_that_comes_twice_is_executed_once() -> None:
    key = key_of(0)

    async def experiment(x: Experimenter) -> tuple[list[Any], Any]:
        peer = x.at("peer-0", Told)
        twice = await settle(peer.swap(key, None, "a", 7), peer.swap(key, None, "a", 7))
        await x.client.put(key, "b")
        twice += await settle(peer.swap(key, None, "a", 7), peer.write(key, "b", 8))
        return twice, await versions(x, key)

    answers, held = told().perform(experiment)
    assert answers == [True, True, True, None]
    assert held[0] == 3, "the copies wrote nothing"


def test_two_that_think_themselves_responsible_do_not_overwrite_each_other() -> None:
    """Peer 1 thinks that peer 0 has gone, and peer 0 knows nothing of that."""
    key = key_of(0)

    async def experiment(x: Experimenter) -> list[Any]:
        await x.client.put(key, "a")
        await x.at("peer-1", Told).know(("peer-1", "peer-2"))
        await x.sleep(0.1)
        decider = next(i for i in (1, 2) if identifier(key, 32) % 7 % 2 == i - 1)
        new, old = x.at(f"peer-{decider}", Told), x.at("peer-0", Told)
        if decider == 2:
            await new.know(("peer-1", "peer-2"))
        return await settle(new.write(key, "new", 1), old.write(key, "old", 2))

    new, old = told(replicas=3).perform(experiment)
    assert new is None
    assert isinstance(old, Timeout), "a holder that decides itself takes no copy from another decider"


# -- when peers come and go --------------------------------------------------------------------------------


def test_a_newcomer_decides_only_when_it_has_what_was_decided_before() -> None:
    """Peer 3 takes peer 0's place, and peer 0 does not know it yet."""
    key = key_of(0)
    there = ("peer-3", "peer-0", "peer-1", "peer-2")
    assert identifier(key, 32) % 7 % 3 == 0

    async def experiment(x: Experimenter) -> list[Any]:
        await x.client.put(key, "a")
        newcomer = x.at("peer-3", Told)
        mine = identifier(key, 32) % 7 % 4 == 0
        await newcomer.know(there if mine else there[:3])
        early = (await settle(newcomer.read(key)))[0]
        for i in range(3):
            await x.at(f"peer-{i}", Told).know(there if mine else there[:3])
        return [early, await newcomer.read(key)]

    early, late = told(replicas=1).perform(experiment)
    assert isinstance(early, NotResponsible)
    assert late == "a"


def test_keys_are_handed_over_to_a_newcomer_that_nobody_asks() -> None:
    async def experiment(x: Experimenter) -> int:
        await gather(*(x.client.put(key, "a") for key in KEYS))
        there = ("peer-0", "peer-1", "peer-2", "peer-3")
        for i in range(4):
            await x.at(f"peer-{i}", Told).know(there)
        await x.sleep(1.0)
        return len(await x.at("peer-3", Told).holdings())

    assert told(replicas=1).perform(experiment) == sum(identifier(k, 32) % 7 % 4 == 3 for k in KEYS) > 0


def test_when_the_decider_has_gone_the_next_one_sees_to_the_copies() -> None:
    key = key_of(0)

    async def experiment(x: Experimenter) -> list[int]:
        await x.client.put(key, "a")
        await x.control.crash("peer-0")
        for i in (1, 2):
            await x.at(f"peer-{i}", Told).know(("peer-1", "peer-2"))
        await x.sleep(0.5)
        held = await gather(*(x.at(f"peer-{i}", Told).holdings() for i in (1, 2)))
        return [h[key].number for h in held]

    assert told().perform(experiment) == [1, 1]


def test_who_hands_over_decides_nothing_any_more() -> None:
    key = key_of(0)

    async def experiment(x: Experimenter) -> Any:
        await x.client.put(key, "a")
        await x.control.pause("peer-1")
        parting = x.spawn(x.at("peer-0", Told).part())
        await x.sleep(0.01)
        (answer,) = await settle(x.at("peer-0", Told).write(key, "b", 1))
        await x.control.resume("peer-1")
        await parting
        return answer

    assert isinstance(told().perform(experiment), NotResponsible)


def test_what_is_held_elsewhere_now_is_forgotten() -> None:
    async def experiment(x: Experimenter) -> dict[str, float]:
        await gather(*(x.client.put(key, "a") for key in KEYS))
        for i in range(4):
            await x.at(f"peer-{i}", Told).know(("peer-0", "peer-1", "peer-2", "peer-3"))
        await x.sleep(8.0)
        held = await gather(*(x.at(f"peer-{i}", Told).holdings() for i in range(4)))
        return sum(map(len, held)) / len(KEYS)

    assert told(replicas=2, mend_every=0.5).perform(experiment) == 2


def test_a_holder_that_has_lost_its_memory_gets_its_copies_again() -> None:
    key = key_of(0)

    async def experiment(x: Experimenter) -> list[list[int]]:
        await x.client.put(key, "a")
        await x.control.crash("peer-1")
        await x.control.restart("peer-1")
        before = await versions(x, key)
        await x.sleep(2.0)
        return [before, await versions(x, key)]

    assert told(mend_every=0.5).perform(experiment) == [[1, 0, 0, 0], [1, 1, 0, 0]]
    assert told(mend_every=0.0).perform(experiment) == [[1, 0, 0, 0], [1, 0, 0, 0]]


# -- on Chord ----------------------------------------------------------------------------------------------


async def lost(x: Experimenter) -> int:
    return sum([await x.client.get(key) is None for key in KEYS])


@pytest.mark.parametrize(
    ("replicas", "leave", "some"), [(1, True, False), (3, True, False), (1, False, True)]
)
def test_leaving_in_good_order_loses_nothing_and_crashing_does(
    replicas: int, leave: bool, some: bool
) -> None:
    session = SimSession(ChordRing(nodes=16, replicas=replicas, formation="converged"), seed=3)

    async def experiment(x: Experimenter) -> int:
        await gather(*(x.client.put(key, "a") for key in KEYS))
        for i in range(0, 16, 2):
            if leave:
                await x.at(f"peer-{i}", Chord).leave()
            await x.control.crash(f"peer-{i}")
            await x.sleep(2.0)
        return await lost(x)

    assert (session.perform(experiment) > 0) is some


def test_three_replicas_survive_crashes_one_after_another_and_the_copies_come_back() -> None:
    session = SimSession(ChordRing(nodes=16, formation="converged"), seed=4)

    async def experiment(x: Experimenter) -> tuple[int, dict[str, float]]:
        await gather(*(x.client.put(key, "a") for key in KEYS))
        for i in range(10):
            await x.control.crash(f"peer-{i}")
            await x.sleep(3.0)
        return await lost(x), await x.client.stored()

    missing, stored = session.perform(experiment)
    assert missing == 0
    assert stored == {"keys": len(KEYS), "copies": 3.0, "short": 0}
    assert set(stored) == set(DHT)


def test_of_more_crashes_than_replicas_at_once_some_keys_are_lost_and_the_client_is_told_so_not_kept() -> (
    None
):
    session = SimSession(ChordRing(nodes=16, formation="converged"), seed=5)

    async def experiment(x: Experimenter) -> tuple[int, int]:
        await gather(*(x.client.put(key, "a") for key in KEYS))
        ring = sorted((identifier(f"peer-{i}", 32), f"peer-{i}") for i in range(16))
        for _, peer in ring[4:9]:
            await x.control.crash(peer)
        await x.sleep(6.0)
        owned = [k for k in KEYS if ring[3][0] < identifier(k, 32) <= ring[6][0]]
        return await lost(x), len(owned)

    missing, owned = session.perform(experiment)
    assert missing == owned > 0, "those all of whose three holders were among the dead"


def test_virtual_nodes_of_one_process_do_not_hold_copies_for_each_other() -> None:
    session = SimSession(ChordRing(nodes=6, virtual=4, formation="converged"), seed=6)

    async def experiment(x: Experimenter) -> list[set[int]]:
        await gather(*(x.client.put(key, "a") for key in KEYS))
        held = await gather(*(x.at(f"peer-{i}", Chord).holdings() for i in range(24)))
        return [{i // 4 for i in range(24) if key in held[i]} for key in KEYS]

    assert all(len(processes) == 3 for processes in session.perform(experiment))


@pytest.mark.parametrize(("replicas", "virtual", "seed"), [(3, 1, 0), (3, 2, 1), (1, 1, 0), (1, 1, 2)])
def test_a_history_is_linearizable_while_peers_leave_and_join_in_good_order(
    replicas: int, virtual: int, seed: int
) -> None:
    ring = ChordRing(replicas=replicas, virtual=virtual)
    (verdict, *_) = run(Question(ring, Kv(), seed=seed, duration=5.0, churn=("poisson:1",))).verdicts
    assert verdict.name == LINEARIZABLE
    assert verdict.holds, verdict.detail


def test_linearizability_is_promised_while_membership_is_stable_and_not_when_peers_crash() -> None:
    ring = ChordRing(nodes=8)
    assert not set(DISCLAIMED) & set(ring.disclaims_under(()))
    assert set(DISCLAIMED) <= set(ring.disclaims_under(("crash:peer-0@1",)))


def test_a_store_without_any_peer_says_so_in_time() -> None:
    session = SimSession(ChordRing(nodes=3, formation="converged"))

    async def experiment(x: Experimenter) -> tuple[list[Any], float]:
        for i in range(3):
            await x.control.crash(f"peer-{i}")
        begun = x.now
        return await settle(x.client.get("a"), x.client.put("a", 1)), x.now - begun

    answers, seconds = session.perform(experiment)
    assert all(isinstance(a, Failure) and a.definite for a in answers)
    assert seconds < 10
