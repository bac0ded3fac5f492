"""Kademlia: buckets keep who lives, lookups find the closest around the dead, and everybody learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from overlay_answers import lookups, wrong

from polyarch.architectures.kademlia import MAINLINE, Found, Kademlia, KademliaClient, KademliaNetwork
from polyarch.blocks.buckets import Buckets
from polyarch.blocks.overlay import Peer
from polyarch.blocks.pairs import Pairs, Tokens
from polyarch.blocks.ring import identifier
from polyarch.core import BadArguments, Failure, Random, Refused, System, Verdict, rpc, settle
from polyarch.experiment.laws import check
from polyarch.experiment.run import Question, run
from polyarch.jobs.lookup import Holder, Lookup
from polyarch.laws.kademlia import AfterFailures, GreedySteps, LookupCost
from polyarch.laws.kademlia_state import Parameters, Retention
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter, SessionError
from polyarch.runtimes.sim.session import SimSession


def named(numbers: Sequence[int]) -> list[str]:
    return [f"peer-{i}" for i in numbers]


def nodes_of(session: SimSession) -> dict[str, Kademlia]:
    nodes = {a: env.node for a, env in session.kernel.directory.items()}
    return {a: node for a, node in nodes.items() if isinstance(node, Kademlia)}


async def wrong_lookups(x: Experimenter, members: Sequence[str], count: int, bits: int = 64) -> list[Any]:
    """Answers to random keys that do not name the closest of ``members``, and failures."""
    return wrong(await lookups(x, count, bits), members, "xor", bits)


# -- buckets ----------------------------------------------------------------------------------------------

ME = 0


def peer(n: int) -> Peer:
    """A contact in the first bucket of ``ME``, of 16 bits."""
    return Peer(1 << 15 | n, f"far-{n}")


def full(k: int = 3, **settings: Any) -> Buckets:
    buckets = Buckets(ME, 16, k, **settings)
    for n in range(k):
        assert buckets.heard(peer(n)) is None
    return buckets


def test_who_is_heard_moves_behind_all_others() -> None:
    buckets = full()
    buckets.heard(peer(0))
    assert list(buckets[0]) == [peer(1), peer(2), peer(0)]


def test_a_newcomer_to_a_full_bucket_is_not_let_in_before_its_oldest_contact_was_asked() -> None:
    buckets = full()
    assert buckets.heard(peer(9)) == peer(0)
    assert peer(9) not in buckets
    assert list(buckets[0]) == [peer(0), peer(1), peer(2)]


def test_a_contact_that_was_heard_of_lately_is_not_asked_for_a_newcomer() -> None:
    buckets = full(questionable=900.0)
    assert buckets.heard(peer(9), 899.0) is None
    assert buckets.heard(peer(9), 901.0) == peer(0)


def test_the_newcomer_that_came_last_takes_the_place_of_who_fails() -> None:
    buckets = full(spares=2)
    for n in (7, 8, 9, 8):
        assert buckets.heard(peer(n)) is None
    buckets.failed(peer(1), dead=False)
    assert list(buckets[0]) == [peer(0), peer(2), peer(8)]
    buckets.failed(peer(0), dead=False)
    buckets.failed(peer(2), dead=False)
    assert list(buckets[0]) == [peer(2), peer(8), peer(9)], "only two waited: 7 was forgotten for 9"


def test_who_does_not_answer_is_told_to_nobody_and_replaced_first() -> None:
    buckets = full()
    buckets.failed(peer(2), dead=False)
    assert buckets.doubted() == [peer(2)]
    assert peer(2) not in buckets.closest(peer(2).id, 3)
    assert buckets.heard(peer(9)) is None
    assert list(buckets[0]) == [peer(0), peer(1), peer(9)]


def test_who_answers_again_is_trusted_again() -> None:
    buckets = full()
    for _ in range(4):
        buckets.failed(peer(2), dead=False)
    buckets.heard(peer(2))
    buckets.failed(peer(2), dead=False)
    assert peer(2) in buckets
    buckets.heard(peer(2))
    assert not buckets.doubted()
    assert buckets.closest(peer(2).id, 1) == [peer(2)]


def test_a_node_that_is_cut_off_keeps_its_contacts_for_a_while() -> None:
    buckets = full()
    for n in range(3):
        buckets.failed(peer(n), dead=False)
    assert len(buckets.closest(0, 3)) == 3, "all in doubt is better than none"
    for _ in range(4):
        for n in range(3):
            buckets.failed(peer(n), dead=False)
    assert len(buckets) == 0


def test_the_dead_are_forgotten_at_once() -> None:
    buckets = full()
    buckets.failed(peer(1), dead=True)
    assert list(buckets) == [peer(0), peer(2)]


@pytest.mark.parametrize("doubtful", [False, True])
def test_the_closest_contacts_are_the_closest(doubtful: bool) -> None:
    random = Random(5)
    buckets = Buckets(random.below(1 << 16), 16, 4)
    for id in random.sample(range(1 << 16), 300):
        buckets.heard(Peer(id, str(id)))
    known = list(buckets)
    if doubtful:
        for contact in known[::3]:
            buckets.failed(contact, dead=False)
        known = [c for c in known if c not in buckets.doubted()]
    for _ in range(200):
        key, count = random.below(1 << 16), 1 + random.below(12)
        nearest = sorted(known, key=lambda c: c.id ^ key)[:count]
        assert sorted(buckets.closest(key, count), key=lambda c: c.id ^ key) == nearest


# -- networks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joined() -> SimSession:
    """200 peers that have joined one by one."""
    architecture = KademliaNetwork(nodes=200, k=8)
    session = SimSession(architecture, seed=1, detailed=False)
    session.perform(architecture.ready)
    return session


def test_peers_that_joined_one_by_one_answer_right(joined: SimSession) -> None:
    assert not joined.perform(lambda x: wrong_lookups(x, named(range(200)), 500))
    assert not joined.kernel.bugs


def test_joining_and_building_directly_fill_the_same_buckets(joined: SimSession) -> None:
    built = SimSession(KademliaNetwork(nodes=200, k=8, formation="converged"), detailed=False)
    one, other = nodes_of(joined), nodes_of(built)
    entries = filled = 0
    for address, node in one.items():
        sizes = [len(node.buckets[p]) for p in range(64)]
        due = [len(other[address].buckets[p]) for p in range(64)]
        assert [size > 0 for size in sizes] == [size > 0 for size in due]
        assert all(size <= most for size, most in zip(sizes, due))
        entries, filled = entries + sum(due), filled + sum(sizes)
    assert filled > 0.97 * entries
    # Who came first is known to more (whoever has been there long is kept), but nobody is unknown.
    known = [sum(Peer(n.me.id, a) in m.buckets for m in one.values()) for a, n in one.items()]
    assert min(known) >= 8


@pytest.mark.parametrize("nodes", [1, 2, 3, 9])
def test_small_networks_form_and_answer_too(nodes: int) -> None:
    architecture = KademliaNetwork(nodes=nodes)
    session = SimSession(architecture, seed=nodes)

    async def experiment(x: Experimenter) -> list[Any]:
        await architecture.ready(x)
        return await wrong_lookups(x, named(range(nodes)), 20)

    assert not session.perform(experiment)


def test_whoever_is_asked_learns_who_asks() -> None:
    session = SimSession(KademliaNetwork(nodes=2))
    nodes = nodes_of(session)

    async def experiment(x: Experimenter) -> None:
        await x.sleep(1)
        nodes["peer-0"].buckets = nodes["peer-0"].no_contacts()
        await x.at("peer-1", Kademlia).lookup(7)

    session.perform(experiment)
    assert list(nodes["peer-0"].buckets) == [nodes["peer-1"].me]


@pytest.mark.parametrize("silent", [False, True])
def test_lookups_go_around_a_quarter_that_has_crashed(silent: bool) -> None:
    session = SimSession(KademliaNetwork(nodes=200, formation="converged", k=8), seed=2)
    dead = Random(2).sample(range(200), 50)

    async def experiment(x: Experimenter) -> tuple[list[Any], dict[str, float]]:
        for i in dead:
            session.kernel.crash(f"peer-{i}", silent=silent)
        living = named([i for i in range(200) if i not in dead])
        return await wrong_lookups(x, living, 200), await x.client.tally()

    answers, tally = session.perform(experiment)
    assert sum(isinstance(a, Holder) for _, a in answers) == 0, "an answer was wrong"
    # If the hosts of the dead are silent, a client that happens to ask two of them gives up.
    assert len(answers) <= (20 if silent else 0)
    assert tally["timeouts"] == pytest.approx(0.25 * tally["rpcs"], rel=0.3)


def test_without_other_contacts_in_a_bucket_a_crash_of_its_only_one_leads_astray() -> None:
    session = SimSession(KademliaNetwork(nodes=200, formation="converged", k=1, replicas=1), seed=2)
    dead = Random(2).sample(range(200), 50)

    async def experiment(x: Experimenter) -> list[Any]:
        for i in dead:
            session.kernel.crash(f"peer-{i}")
        return await wrong_lookups(x, named([i for i in range(200) if i not in dead]), 100)

    assert session.perform(experiment)


@pytest.mark.parametrize(("seed", "settings"), [(0, {}), (1, {"spares": 0}), (2, {**MAINLINE, "refresh": 3})])
def test_the_network_bears_crashes_leaves_and_restarts(seed: int, settings: dict[str, Any]) -> None:
    architecture = KademliaNetwork(nodes=40, arrival=0.05, **settings)
    session = SimSession(architecture, seed=seed)

    async def experiment(x: Experimenter) -> tuple[list[Any], list[Any], Any]:
        await architecture.ready(x)
        victims = x.random.sample(range(40), 12)
        for i in victims[:8]:
            await x.control.crash(f"peer-{i}")
        for i in victims[8:]:
            await x.at(f"peer-{i}", Kademlia).leave()
        living = [i for i in range(40) if i not in victims]
        fewer = await wrong_lookups(x, named(living), 100)
        for i in victims[:8]:
            await x.control.restart(f"peer-{i}")
        await x.sleep(2)
        back = await wrong_lookups(x, named([*living, *victims[:8]]), 100)
        return fewer, back, await Lookup().audit(x.client)

    fewer, back, audit = session.perform(experiment)
    assert not fewer
    assert not back
    assert len(audit.members) == 36
    assert not session.kernel.bugs


@pytest.mark.parametrize(("spares", "left"), [(0, 0.01), (8, 0.12)])
def test_refreshing_finds_the_dead_sooner_if_contacts_are_pinged_for_newcomers(
    spares: int, left: float
) -> None:
    architecture = KademliaNetwork(nodes=100, k=8, refresh=5, spares=spares, formation="converged")
    session = SimSession(architecture, seed=4, detailed=False)
    dead = dict.fromkeys(Random(4).sample(named(range(100)), 20))

    async def experiment(x: Experimenter) -> float:
        for victim in dead:
            await x.control.crash(victim)
        await x.sleep(10)
        contacts = [c for a, node in nodes_of(session).items() if a not in dead for c in node.buckets]
        return sum(c.address in dead for c in contacts) / len(contacts)

    assert session.perform(experiment) < left


def test_who_restarts_in_a_network_that_was_built_joins_it_and_is_found() -> None:
    session = SimSession(KademliaNetwork(nodes=30, formation="converged"), seed=1)

    async def experiment(x: Experimenter) -> list[Any]:
        await x.control.crash("peer-7")
        assert not await wrong_lookups(x, [a for a in named(range(30)) if a != "peer-7"], 200)
        await x.control.restart("peer-7")
        await x.sleep(2)
        return await wrong_lookups(x, named(range(30)), 200)

    assert not session.perform(experiment)


def test_peers_that_have_lost_all_contacts_come_back() -> None:
    architecture = KademliaNetwork(nodes=4, refresh=1)
    session = SimSession(architecture, seed=3)

    async def experiment(x: Experimenter) -> list[Any]:
        await architecture.ready(x)
        for i in (1, 2, 3):
            await x.control.crash(f"peer-{i}")
        await x.sleep(3)
        assert not nodes_of(session)["peer-0"].buckets.depth
        for i in (1, 2, 3):
            await x.control.restart(f"peer-{i}")
        await x.sleep(3)
        return await wrong_lookups(x, named(range(4)), 30)

    assert not session.perform(experiment)


@pytest.mark.local
def test_sixteen_live_peers_answer_while_a_quarter_is_killed() -> None:
    architecture = KademliaNetwork()
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> list[Any]:
            await architecture.ready(x)
            answers: list[Any] = []
            for dead in (0, 4):
                for i in range(dead):
                    await x.control.crash(f"peer-{i}")
                for _ in range(10):  # on a busy machine a peer may be late, and is passed over once
                    found = await wrong_lookups(x, named(range(dead, 16)), 100)
                    if not found:
                        break
                answers += found
            return answers

        assert not session.perform(experiment)


# -- what comes from outside --------------------------------------------------------------------------------


def test_bad_questions_get_clear_answers() -> None:
    session = SimSession(KademliaNetwork(nodes=4, formation="converged", bits=40))
    for key in (1 << 40, -1):
        with pytest.raises(BadArguments, match="is not of 40 bits"):
            session.perform(lambda x, key=key: x.client.lookup(key))
        with pytest.raises(BadArguments, match="is not of 40 bits"):
            session.perform(lambda x, key=key: x.at("peer-0", Kademlia).find_node(None, key))
    with pytest.raises(ValueError, match="two of 300 nodes have the same identifier"):
        SimSession(KademliaNetwork(nodes=300, bits=8))


def test_a_lookup_in_an_empty_network_fails_and_does_not_hang() -> None:
    session = SimSession(KademliaNetwork(nodes=3, formation="converged"))

    async def experiment(x: Experimenter) -> tuple[Failure, float]:
        for i in range(3):
            await x.control.crash(f"peer-{i}")
        before = x.now
        (answer,) = await settle(x.client.lookup(1))
        return answer, x.now - before

    answer, took = session.perform(experiment)
    assert isinstance(answer, Failure)
    assert took < 10


class Liar(Kademlia):
    """Names itself and nobodies as the closest to everything, and far too many of them."""

    @rpc
    async def find_node(self, sender: Peer | None, key: int) -> tuple[Peer, ...]:
        if sender is not None:
            self.learn(sender)
        return (
            Peer(key, self.address),
            Peer(-5, "peer-0"),
            *(Peer(key ^ i, f"nobody-{i}") for i in range(1000)),
        )


class Babbler(Kademlia):
    """Answers what no signature allows."""

    @rpc
    async def find_node(self, sender: Peer | None, key: int) -> tuple[Peer, ...]:
        return "closest"  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [Liar, Babbler])
def test_peers_that_answer_garbage_do_not_lead_astray(kind: type[Kademlia]) -> None:
    system = System()
    good, bad = system.addresses("peer", 20), system.addresses("bad", 3)
    everybody = tuple(sorted(Peer(identifier(a, 64), a) for a in (*good, *bad)))
    system.role("peer", Kademlia(everybody=everybody), count=20)
    system.role("bad", kind(everybody=everybody), count=3)
    system.clients(KademliaClient(addresses=good, bits=64, rule="xor"))
    session = SimSession(system)
    # Who babbles is no use, and found nowhere; a liar lives where it lives, and nowhere else.
    found = [*good, *bad] if kind is Liar else good
    assert not session.perform(lambda x: wrong_lookups(x, found, 100))
    assert all(len(node.buckets) <= 22 for node in nodes_of(session).values())


def test_who_says_to_be_somewhere_else_than_it_is_gets_into_no_bucket() -> None:
    session = SimSession(KademliaNetwork(nodes=4, formation="converged", bits=40))

    async def experiment(x: Experimenter) -> tuple[Peer, ...]:
        for id in (1 << 60, -5, 7):
            await x.at("peer-0", Kademlia).ping(Peer(id, "forged"))
        return await x.at("peer-0", Kademlia).contacts()

    assert {p.address for p in session.perform(experiment)} == {"peer-1", "peer-2", "peer-3"}
    assert not session.kernel.bugs


# -- pairs and the hash table -------------------------------------------------------------------------------


def test_a_pair_is_found_by_all_and_needs_a_token_where_tokens_are_wanted() -> None:
    session = SimSession(KademliaNetwork(nodes=30, formation="converged", **MAINLINE))

    async def experiment(x: Experimenter) -> Any:
        stored = await x.at("peer-3", Kademlia).publish("song", "here")
        found = await settle(*(x.at(a, Kademlia).retrieve("song") for a in named(range(30))))
        before = sum(node.handled for node in nodes_of(session).values())
        await settle(*(x.at(a, Kademlia).retrieve("song") for a in named(range(30))))
        asked = sum(node.handled for node in nodes_of(session).values()) - before
        assert asked < 30 * 4, "a lookup ends with the first value"
        missing = await x.at("peer-3", Kademlia).retrieve("silence")
        me = Peer(identifier("peer-3", 64), "peer-3")
        (refused,) = await settle(x.at("peer-4", Kademlia).store(me, "song", "there", 60.0, 12345))
        return stored, set(found), missing, refused

    stored, found, missing, refused = session.perform(experiment)
    assert (stored, found, missing) == (8, {"here"}, None)
    assert isinstance(refused, Refused)
    assert "token" in refused.detail


def test_pairs_end_and_are_not_kept_without_bound() -> None:
    pairs = Pairs(most=3)
    for i in range(5):
        pairs.store(f"key-{i}", "value", now=0.0, lasts=10.0 + i)
    assert [pairs.get(f"key-{i}", 0.0) for i in range(5)] == [None, None, "value", "value", "value"]
    assert pairs.get("key-2", 12.0) is None
    assert [key for key, _, _ in pairs.items(12.5, quiet=12.5)] == ["key-3", "key-4"]
    assert not list(pairs.items(12.5, quiet=12.6))


def test_a_token_is_good_for_one_address_and_two_lives_of_the_secret() -> None:
    tokens = Tokens(salt=1, every=300.0)
    token = tokens.give("peer-1", 0.0)
    assert tokens.good(token, "peer-1", 599.0)
    assert not tokens.good(token, "peer-1", 600.0)
    assert not tokens.good(token, "peer-2", 0.0)


def test_values_survive_the_crash_of_who_decides_and_the_leaving_of_the_next() -> None:
    session = SimSession(KademliaNetwork(nodes=16, formation="converged"))

    async def experiment(x: Experimenter) -> list[Any]:
        await x.client.put("key", 1)
        values = [await x.client.get("key")]
        await x.control.crash((await x.client.lookup("key")).address)
        begin = x.now
        values.append(await x.client.get("key"))
        # Who is asked now looks at once whether those live who would decide before it.
        assert x.now - begin < 0.3
        await x.client.compare_and_set("key", 1, 2)
        await x.at((await x.client.lookup("key")).address, Kademlia).leave()
        values.append(await x.client.get("key"))
        await x.sleep(5)
        return [*values, await x.client.stored()]

    *values, stored = session.perform(experiment)
    assert values == [1, 1, 2]
    assert stored == {"keys": 1, "copies": 3, "short": 0}


# -- laws at settings that are not listed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "settings"),
    [
        (LookupCost, {"n": 300, "k": 6, "alpha": 2, "lookups": 300}),
        (GreedySteps, {"k": 3, "smallest": 200, "largest": 1000, "different": True, "lookups": 3000}),
        (AfterFailures, {"n": 300, "p": 0.3, "lookups": 200}),
        (Retention, {"k": 3, "spares": 2}),
        (Parameters, {}),
    ],
)
def test_laws_hold_at_other_settings(law: Any, settings: dict[str, Any]) -> None:
    record = check(law, 7, settings)
    assert record.holds, record.wrong


def test_the_best_of_k_contacts_gains_as_many_bits_as_theory_says() -> None:
    from polyarch.laws.kademlia import bits_gained

    assert bits_gained(1) == pytest.approx(2)
    assert 1 / math.log(2) / bits_gained(8) == pytest.approx(0.3263, abs=1e-4)


def test_found_tells_how_much_was_asked() -> None:
    session = SimSession(KademliaNetwork(nodes=50, k=5, formation="converged"))
    found = session.perform(lambda x: x.at("peer-0", Kademlia).lookup(12345))
    assert isinstance(found, Found)
    assert 5 <= found.rpcs <= 15
    assert found.timeouts == 0


def test_a_newcomer_that_looks_itself_up_asks_others() -> None:
    """It is the closest itself: with k = 1 it asked nobody."""
    architecture = KademliaNetwork(nodes=4, k=1)
    session = SimSession(architecture)

    async def experiment(x: Experimenter) -> list[Any]:
        await architecture.ready(x)
        return await wrong_lookups(x, named(range(4)), 20)

    assert not session.perform(experiment)


def test_who_is_left_alone_among_few_is_soon_a_network_by_itself() -> None:
    architecture = KademliaNetwork(nodes=3)
    session = SimSession(architecture)

    async def experiment(x: Experimenter) -> list[Any]:
        await architecture.ready(x)
        for peer in ("peer-0", "peer-1"):
            await x.control.crash(peer)
        await wrong_lookups(x, ["peer-2"], 20)  # it finds out
        await x.sleep(1.5)
        return await wrong_lookups(x, ["peer-2"], 20)

    assert not session.perform(experiment)


def test_a_network_that_does_not_form_says_soon_what_it_lacks() -> None:
    class Lost(KademliaNetwork):
        async def is_connected(self, x: Any) -> Verdict:
            verdict = await super().is_connected(x)
            return replace(verdict, holds=False)

    with pytest.raises(SessionError, match=r"not ready .*members find each other\? 32 of 32 .* not found: "):
        run(Question(Lost(nodes=32), Lookup()))
