"""Chord: the ring forms, repairs itself, and finds the right member for every key."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from overlay_answers import lookups, wrong

from polyarch.architectures.chord import Chord, ChordClient, ChordRing, Found
from polyarch.blocks.overlay import NotAMember, Peer, ring_of
from polyarch.blocks.ring import identifier
from polyarch.core import BadArguments, Done, Failure, Random, System, Verdict, gather, rpc, settle
from polyarch.experiment.laws import check, laws
from polyarch.jobs.lookup import Census, Holder, Lookup, Member, Responsible
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.network import Constant, Network
from polyarch.runtimes.sim.session import SimSession


def nodes_of(session: SimSession) -> dict[str, Chord]:
    nodes = {a: env.node for a, env in session.kernel.directory.items()}
    return {a: node for a, node in nodes.items() if isinstance(node, Chord)}


def state(session: SimSession) -> dict[str, Any]:
    return {
        address: (node.predecessor, node.successors, tuple(node.fingers))
        for address, node in nodes_of(session).items()
    }


@pytest.fixture(scope="module")
def thousand() -> SimSession:
    """1,000 nodes that have joined one by one, and settled."""
    session = SimSession(ChordRing(nodes=1000), seed=1, detailed=False)

    async def form(x: Experimenter) -> None:
        await ChordRing(nodes=1000).ready(x)
        await x.sleep(10)

    session.perform(form)
    return session


def test_a_thousand_nodes_join_and_every_lookup_is_right(thousand: SimSession) -> None:
    async def ask(x: Experimenter) -> list[tuple[int, Holder | Failure]]:
        return await lookups(x, 2000)

    answers = thousand.perform(ask)
    assert not wrong(answers, [f"peer-{i}" for i in range(1000)])
    mean = sum(a.hops for _, a in answers if isinstance(a, Holder)) / len(answers)
    # ToN section V-C: 1/2 log2 N, and with a successor list of r nodes 1/2 log2 r - 1 less.
    assert mean == pytest.approx(math.log2(1000) / 2 - math.log2(8) / 2 + 1, abs=0.4)
    assert not thousand.kernel.bugs


def test_joining_and_building_directly_end_in_the_same_state(thousand: SimSession) -> None:
    built = SimSession(ChordRing(nodes=1000, formation="converged"), detailed=False)
    assert state(built) == state(thousand)


def test_a_ring_that_is_full_answers_right() -> None:
    """Every identifier is somebody's, so that a node's own is farther than any finger."""
    session = SimSession(ChordRing(nodes=2, bits=1))

    async def experiment(x: Experimenter) -> list[Any]:
        await x.sleep(5)
        return wrong(await lookups(x, 20, bits=1), ["peer-0", "peer-1"], bits=1)

    assert not session.perform(experiment)
    assert not session.kernel.bugs


@pytest.mark.parametrize("nodes", [1, 2, 3, 9])
def test_small_rings_end_in_the_same_state_too(nodes: int) -> None:
    joined = SimSession(ChordRing(nodes=nodes), seed=nodes)

    async def form(x: Experimenter) -> Any:
        await x.sleep(20)
        return await lookups(x, 20)

    assert not wrong(joined.perform(form), [f"peer-{i}" for i in range(nodes)])
    assert state(joined) == state(SimSession(ChordRing(nodes=nodes, formation="converged")))


@pytest.mark.parametrize(
    ("id", "given"),
    [
        ("CH-02", {"n": 100, "lookups": 500}),
        ("CH-03", {"n": 64, "lookups": 1000}),
        ("CH-07", {"n": 300, "r": 5, "lookups": 1000}),
        ("CH-06", {"n": 200, "r": 3, "p": 0.2, "lookups": 1000}),
        ("CH-09", {"n": 200, "per_node": 10}),
        ("CH-11", {"n": 500, "r": 3, "per_node": 20}),
        ("CH-13", {"n": 50, "r": 3, "rate": 0.05, "lookups": 500}),
        ("CH-14", {"n": 2, "repeats": 20}),
    ],
)
def test_laws_hold_at_other_settings_than_the_listed(id: str, given: dict[str, Any]) -> None:
    record = check(laws()[id], given=given)
    assert record.holds, record.wrong


def test_churn_faster_than_the_law_is_about_is_refused() -> None:
    with pytest.raises(ValueError, match="--rate 1: 100 peers would stay for 100 s each"):
        laws()["CH-12"](n=100, rate=1)


def crash_a_quarter(successors: int, confirm: bool, silent: bool = False, seed: int = 2) -> list[Any]:
    """The wrong answers out of 400 right after a quarter of 200 nodes has crashed, without any upkeep."""
    ring = ChordRing(nodes=200, formation="converged", successors=successors, confirm=confirm, stabilize=0)
    session = SimSession(ring, seed=seed)
    dead = Random(seed).sample(range(200), 50)

    async def experiment(x: Experimenter) -> list[Any]:
        for i in dead:
            session.kernel.crash(f"peer-{i}", silent=silent)
        return wrong(await lookups(x, 400), [f"peer-{i}" for i in range(200) if i not in dead])

    return session.perform(experiment)


def test_lookups_survive_the_crash_of_a_quarter() -> None:
    assert not crash_a_quarter(successors=16, confirm=True)


def test_lookups_survive_when_the_hosts_of_a_quarter_fall_silent() -> None:
    # Nobody refuses: each dead node on the way costs a timeout, after which the client asks again.
    answers = crash_a_quarter(successors=16, confirm=True, silent=True)
    assert sum(isinstance(a, Holder) for _, a in answers) == 0, "an answer was wrong"
    assert len(answers) < 20  # of 400


def test_without_asking_the_successor_dead_ones_are_given_as_answers() -> None:
    assert crash_a_quarter(successors=16, confirm=False)


def test_without_a_successor_list_the_ring_breaks() -> None:
    assert crash_a_quarter(successors=1, confirm=True)


def test_who_has_lost_its_whole_successor_list_does_not_take_the_others_with_it() -> None:
    session = SimSession(ChordRing(nodes=200, formation="converged", successors=3), seed=1)
    living = [f"peer-{i}" for i in range(200) if i % 3]

    async def experiment(x: Experimenter) -> list[int]:
        for i in range(0, 200, 3):
            session.kernel.crash(f"peer-{i}")
        counts = []
        for _ in range(2):
            lists = [nodes_of(session)[a].successors for a in living]
            counts.append(sum(all(s.address not in living for s in list_) for list_ in lists))
            counts.append(len(wrong(await lookups(x, 100), living)))
            await x.sleep(5)
        return counts

    lost, at_once, _, later = session.perform(experiment)
    assert lost > 0, "nobody has lost its list: this shows nothing"
    assert at_once < 60
    assert later == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_ring_heals_after_crashes_leaves_and_restarts(seed: int) -> None:
    architecture = ChordRing(nodes=40, arrival=0.05)
    session = SimSession(architecture, seed=seed)
    job = Lookup(keys=500)

    async def experiment(x: Experimenter) -> tuple[list[Any], list[Done], Any]:
        await architecture.ready(x)
        await job.prepare(x.client)
        history: list[Done] = []

        async def load() -> None:
            for number, (operation,) in enumerate(job.visits(x.random.fork("load"))):
                start = x.now
                if start > 32:
                    return
                try:
                    value, outcome = await x.client.lookup(*operation.arguments), "ok"
                except Failure as failure:
                    value, outcome = None, "fail" if failure.definite else "info"
                history.append(
                    Done(number, "lookup", operation.arguments, start, start, x.now, outcome, value)
                )

        loading = x.spawn(load())
        victims = x.random.sample(range(40), 12)
        for i in victims[:8]:
            await x.sleep(0.4)
            await x.control.crash(f"peer-{i}")
        for i in victims[8:]:
            await x.at(f"peer-{i}", Chord).leave()
        await x.sleep(3)
        alive = [f"peer-{i}" for i in range(40) if i not in victims]
        answers = wrong(await lookups(x, 100), alive)
        for i in victims[:8]:
            await x.control.restart(f"peer-{i}")
        await x.sleep(4)
        back = [*alive, *(f"peer-{i}" for i in victims[:8])]
        answers += wrong(await lookups(x, 100), back)
        await loading
        return answers, history, await job.audit(x.client)

    answers, history, audit = session.perform(experiment)
    assert not answers
    assert len(audit.members) == 36
    (verdict,) = job.check(history, audit)
    assert verdict.holds, verdict.detail
    assert sum(d.outcome == "ok" for d in history) > 0.99 * len(history) > 100
    assert not session.kernel.bugs


async def right_in_the_end(x: Experimenter, members: list[str]) -> list[Any]:
    """Wrong answers of the last of several rounds.  Every lookup of every round is answered; but on a busy
    machine a peer that is only late is taken for a dead one, and passed over until the next upkeep."""
    answers: list[Any] = []
    for _ in range(20):
        answers = wrong(await lookups(x, 200), members)
        if not answers:
            break
        await x.sleep(0.5)
    return answers


@pytest.mark.local
def test_sixteen_live_peers_answer_while_a_quarter_is_killed() -> None:
    architecture = ChordRing()
    with open_session("local", architecture, seed=1) as session:

        async def experiment(x: Experimenter) -> tuple[list[Any], Verdict]:
            await architecture.ready(x)
            answers = await right_in_the_end(x, [f"peer-{i}" for i in range(16)])
            for i in range(4):
                await x.control.crash(f"peer-{i}")
            answers += await right_in_the_end(x, [f"peer-{i}" for i in range(4, 16)])
            for i in range(4):
                await x.control.restart(f"peer-{i}")
            await architecture.ready(x)
            answers += await right_in_the_end(x, [f"peer-{i}" for i in range(16)])
            return answers, (await architecture.observe(x))[1][0]

        answers, ring = session.perform(experiment)
    assert not answers
    assert ring.holds, ring.detail


def test_who_leaves_hands_over_its_neighbours() -> None:
    session = SimSession(ChordRing(nodes=20, formation="converged", stabilize=0))
    ring = nodes_of(session)["peer-0"].ring

    async def experiment(x: Experimenter) -> Any:
        await x.at(ring[3], Chord).leave()
        return await gather(x.at(ring[2], Chord).neighbours(), x.at(ring[4], Chord).neighbours())

    before, after = session.perform(experiment)
    assert before.successors[0] == ring[4]
    assert after.predecessor == ring[2]


def test_a_silent_partition_heals() -> None:
    architecture = ChordRing(nodes=16)
    session = SimSession(architecture, seed=5)
    cut = [f"peer-{i}" for i in range(3)]

    async def experiment(x: Experimenter) -> list[Any]:
        await architecture.ready(x)
        rest = [f"peer-{i}" for i in range(3, 16)]
        await x.control.disturb(cut, rest, loss=1.0)
        await x.control.disturb(rest, cut, loss=1.0)
        await x.sleep(1.2)
        await x.control.heal()
        await x.sleep(8)
        return wrong(await lookups(x, 100), cut + rest)

    assert not session.perform(experiment)


def test_bad_questions_get_clear_answers() -> None:
    session = SimSession(ChordRing(nodes=4, formation="converged"))

    async def ask(x: Experimenter, key: Any) -> Any:
        return await x.client.lookup(key)

    for key in (1 << 32, -1):
        with pytest.raises(BadArguments, match="is not of 32 bits"):
            session.perform(lambda x, key=key: ask(x, key))
    with pytest.raises(ValueError, match="two of 300 nodes have the same identifier"):
        SimSession(ChordRing(nodes=300, bits=8))
    with pytest.raises(ValueError, match="--formation converged needs none"):
        SimSession(ChordRing(stabilize=0))


def test_the_check_sees_an_answer_that_names_another_member() -> None:
    members = tuple(Member(identifier(f"peer-{i}", 32), f"peer-{i}", 1) for i in range(8))
    census, job = Census(32, members), Lookup()
    job.before = census
    right = Responsible(32, members).of("some key").address
    answers = [f"peer-{i}" for i in range(8)]

    def judge(address: str, after: Census) -> bool:
        done = Done(0, "lookup", ("some key",), 0.0, 0.0, 1.0, "ok", Holder(address))
        return job.check([done], after)[0].holds

    assert [a for a in answers if judge(a, census)] == [right]
    # Had the right one restarted meanwhile, nothing could be said against those behind it.
    restarted = Census(32, tuple(Member(m.id, m.address, m.life + (m.address == right)) for m in members))
    assert sum(judge(a, restarted) for a in answers) == 2


def test_ten_thousand_nodes_need_little_memory_and_no_upkeep() -> None:
    ring = ChordRing(nodes=10_000, formation="converged", stabilize=0, bits=40)
    session = SimSession(ring, detailed=False)

    async def ask(x: Experimenter) -> list[Any]:
        return [await x.client.lookup(f"key-{i}") for i in range(100)]

    assert len(session.perform(ask)) == 100
    assert max(len(node.fingers) for node in nodes_of(session).values()) < 40
    # A node that does not share the names of its attributes with the others takes 600 bytes more.
    assert max(sys.getsizeof(node.__dict__) for node in nodes_of(session).values()) < 400
    assert isinstance(nodes_of(session)["peer-0"].me, Peer)


# -- joining again, virtual nodes, liars -----------------------------------------------------------------


@pytest.mark.parametrize("formation", ["joined", "converged"])
def test_who_has_left_or_crashed_joins_again_even_the_one_that_created_the_ring(formation: str) -> None:
    architecture = ChordRing(nodes=12, formation=formation)
    session = SimSession(architecture, seed=6)

    async def experiment(x: Experimenter) -> list[Any]:
        await architecture.ready(x)
        await x.at("peer-0", Chord).leave()
        for i in (0, 5, 11):
            await x.control.crash(f"peer-{i}")
        await x.sleep(4)
        for i in (0, 5, 11):
            await x.control.restart(f"peer-{i}")
        await architecture.ready(x)
        return wrong(await lookups(x, 100), [f"peer-{i}" for i in range(12)])

    assert not session.perform(experiment)


def test_who_restarts_does_not_think_that_the_ring_is_as_it_was_built() -> None:
    session = SimSession(ChordRing(nodes=8, formation="converged"))

    async def experiment(x: Experimenter) -> Any:
        await x.control.crash("peer-5")
        await x.control.restart("peer-5")
        return (await settle(x.at("peer-5", Chord).neighbours()))[0]

    assert isinstance(session.perform(experiment), NotAMember)


def test_a_ring_of_which_nobody_was_left_forms_again() -> None:
    architecture = ChordRing(nodes=6)
    session = SimSession(architecture, seed=7)

    async def experiment(x: Experimenter) -> list[Any]:
        await architecture.ready(x)
        for i in range(6):
            await x.control.crash(f"peer-{i}")
        for i in (3, 1, 4, 2, 5):
            await x.control.restart(f"peer-{i}")
        await x.sleep(20)
        return wrong(await lookups(x, 50), [f"peer-{i}" for i in range(1, 6)])

    assert not session.perform(experiment)


def test_a_ring_of_one_comes_back_alone() -> None:
    session = SimSession(ChordRing(nodes=1))

    async def experiment(x: Experimenter) -> Holder:
        await x.sleep(1)
        await x.control.crash("peer-0")
        await x.control.restart("peer-0")
        await x.sleep(1)
        return await x.client.lookup("key")

    assert session.perform(experiment).address == "peer-0"


def test_virtual_nodes_are_places_of_one_process_and_fall_together() -> None:
    architecture = ChordRing(nodes=8, virtual=5)
    session = SimSession(architecture, seed=8)

    async def experiment(x: Experimenter) -> tuple[int, list[Any]]:
        await architecture.ready(x)
        census: Census = await x.client.census()
        await x.control.crash("peer-3")
        await x.sleep(8)
        alive = [f"peer-{i}" for i in range(40) if i // 5 != 3]
        return len(census.members), wrong(await lookups(x, 200), alive)

    assert [p.name for p in session.system.processes()] == [f"peer-{i}" for i in range(8)]
    assert session.perform(experiment) == (40, [])


class Liar(Chord):
    """Answers every question with what ``lie`` says."""

    lie: str = "garbage"

    @rpc
    async def find_successor(self, key: int, hops: int = 0, timeouts: int = 0) -> Found:
        if self.lie == "garbage":
            return "garbage"  # type: ignore[return-value]
        return Found(Peer(1, self.lie), hops, timeouts)


@pytest.mark.parametrize("lie", ["garbage", "nobody"])
def test_a_peer_that_answers_garbage_is_passed_over_and_one_that_lies_hangs_nobody(lie: str) -> None:
    system = System()
    honest, liars = system.addresses("peer", 7), system.addresses("liar", 1)
    ring = ring_of((*honest, *liars), 32)
    system.role("peer", Chord(ring=ring, addresses=(*honest, *liars)), count=7)
    system.role("liar", Liar(ring=ring, addresses=(*honest, *liars), lie=lie))
    system.clients(ChordClient(addresses=honest))
    session = SimSession(system)

    async def experiment(x: Experimenter) -> tuple[list[Any], float]:
        begun, keys = x.now, range(0, 1 << 32, 1 << 24)
        return await settle(*(x.client.lookup(key) for key in keys)), x.now - begun

    answers, seconds = session.perform(experiment)
    assert seconds < 10
    assert all(isinstance(a, Holder) for a in answers)
    named = {a.address for a in answers}
    assert ("nobody" in named) is (lie == "nobody")
    assert bool(session.kernel.bugs) is (lie == "garbage"), "who answers what is no answer is told on"


def test_nobody_answers_a_lookup_on_an_empty_overlay_and_the_client_says_so_at_once() -> None:
    session = SimSession(ChordRing(nodes=5, formation="converged"))

    async def experiment(x: Experimenter) -> Any:
        for i in range(5):
            await x.control.crash(f"peer-{i}")
        begun = x.now
        (answer,) = await settle(x.client.lookup("key"))
        return answer, x.now - begun

    answer, seconds = session.perform(experiment)
    assert isinstance(answer, Failure)
    assert seconds < 1


def test_where_messages_are_slow_peers_learn_to_wait_for_each_other() -> None:
    """A hop takes 0.24 s, so a lookup of more than four is not answered within the second that peers give
    each other at first."""
    ring = ChordRing(nodes=64, formation="converged", successors=2)
    session = SimSession(ring, seed=7, network=Network(latency=Constant(0.12)))

    async def experiment(x: Experimenter) -> tuple[list[Any], float]:
        await x.sleep(30)
        answers = wrong(await lookups(x, 300), [f"peer-{i}" for i in range(64)])
        return answers, (await x.client.tally())["retries"]

    answers, retries = session.perform(experiment)
    assert not answers
    assert retries < 0.1  # 0.4 if they do not
