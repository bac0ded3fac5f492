"""Peers that come and go: by the laws that were asked for, counted, and the same for the same seed."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import msgspec
import pytest
from small_systems import Client, Draw, Server

from polyarch.architectures.chord import ChordRing
from polyarch.architectures.three_tier import ThreeTier
from polyarch.core import Architecture, Refused, System, parameter, rpc
from polyarch.core.randomness import Random
from polyarch.experiment.churn import BadChurn, Sessions, parse
from polyarch.experiment.compare import Pace, compare
from polyarch.experiment.load import Load
from polyarch.experiment.run import Question, Trial, run
from polyarch.jobs.lookup import Lookup

LAWS = [
    Sessions("exponential", 0.0, 10.0, 5.0),
    Sessions("weibull", 0.5, 10.0, 5.0),
    Sessions("weibull", 2.0, 10.0, 5.0),
    Sessions("pareto", 3.5, 10.0, 5.0),
    Sessions("lognormal", 0.8, 10.0, 5.0),
]


def second_moment(s: Sessions) -> float:
    """Of the sessions, from the formulas of the distributions."""
    if s.law == "weibull":
        return (s.present / math.gamma(1 + 1 / s.shape)) ** 2 * math.gamma(1 + 2 / s.shape)
    if s.law == "pareto":
        least = s.present * (s.shape - 1) / s.shape
        return least**2 * s.shape / (s.shape - 2)
    return s.present**2 * (math.exp(s.shape**2) if s.law == "lognormal" else 2)


@pytest.mark.parametrize("sessions", LAWS, ids=lambda s: f"{s.law}-{s.shape:g}")
def test_sessions_have_their_mean_and_what_is_left_of_one_that_runs_has_that_of_renewal_theory(sessions):
    random, n = Random(1), 40_000
    drawn = [sessions.session(random) for _ in range(n)]
    square = second_moment(sessions)
    error = math.sqrt((square - sessions.present**2) / n)
    assert statistics.fmean(drawn) == pytest.approx(sessions.present, abs=5 * error)
    rest = [sessions.rest(random) for _ in range(n)]
    expected = square / (2 * sessions.present)
    assert statistics.fmean(rest) == pytest.approx(expected, abs=6 * statistics.stdev(rest) / math.sqrt(n))


def test_half_of_the_pareto_sessions_are_shorter_than_their_median():
    random, sessions = Random(2), Sessions("pareto", 1.5, 10.0, 5.0)
    median = 10.0 / 3 * 2 ** (1 / 1.5)
    assert sum(sessions.session(random) < median for _ in range(10_000)) == pytest.approx(5000, abs=250)


class Peer(Server):
    async def start(self) -> None:
        if self.disk.get("left", bool, False):
            self.disk.put("came back", True)

    @rpc
    async def leave(self) -> None:
        self.disk.put("left", True)
        await self.disk.sync()


class Stubborn(Server):
    @rpc
    async def leave(self) -> None:
        raise Refused("not now")


class Crowd(Architecture):
    """Peers, any of which can answer."""

    name = "crowd"
    family = "peer-to-peer"
    source = "none"
    jobs = (Draw,)
    peers: int = parameter(200, "peers", least=1)
    manners: str = parameter("good", "whether they have a way to leave: good, none or stubborn")

    def build(self, system: System) -> None:
        kind = {"good": Peer, "none": Server, "stubborn": Stubborn}[self.manners]
        system.role("peer", kind(), count=self.peers)
        system.clients(Client(servers=system.addresses("peer", self.peers), patient=True))


def watched(churn: str, seconds: float, *, peers: int = 200, manners: str = "good", seed: int = 1) -> Any:
    """What was done, and when: (time, whether somebody came, who)."""
    question = Question(Crowd(peers=peers, manners=manners), Draw(), seed=seed, churn=[churn])
    trial = Trial(question)
    events: list[tuple[float, bool, str]] = []
    control = trial.session.control
    crash, restart, kernel = control.crash, control.restart, trial.session.kernel

    async def crashed(name: str) -> None:
        events.append((kernel.now * 1e-9, False, name))
        await crash(name)

    async def restarted(name: str) -> None:
        events.append((kernel.now * 1e-9, True, name))
        await restart(name)

    control.crash, control.restart = crashed, restarted
    begin = kernel.now * 1e-9
    trial.load(Load(duration=seconds, rate=1.0), churn=True)
    (churning,) = trial.churn
    done = churning.done()
    trial.close()
    times = [(at - begin, came, who) for at, came, who in events]
    return done, times[done.away_before :]


def test_a_poisson_process_joins_and_leaves_at_its_rate_at_independent_times():
    done, events = watched("poisson:5", 200.0)
    comes = [at for at, came, _ in events if came]
    goes = [at for at, came, _ in events if not came]
    assert (len(comes), len(goes)) == (done.joined, done.left)
    for times in comes, goes:
        assert len(times) == pytest.approx(1000, abs=5 * math.sqrt(1000))
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(1.0, abs=0.12)
    assert done.crashed == done.void == 0
    assert done.away_before == 20
    assert done.present_least <= done.present_mean <= done.present_most


@pytest.mark.parametrize("law", ["exponential", "weibull:0.5", "pareto:1.5", "lognormal:1"])
def test_sessions_are_steady_from_the_beginning_with_the_share_there_that_they_should_have(law):
    done, events = watched(f"sessions:{law}:10:5", 60.0)
    goes = [at for at, came, _ in events if not came]
    assert done.present_mean == pytest.approx(200 * 10 / 15, abs=12)
    assert len(goes) == pytest.approx(200 * 60 / 15, rel=0.12)  # each leaves once in 15 s
    assert sum(at < 20 for at in goes) == pytest.approx(len(goes) / 3, rel=0.2)


def test_each_stays_for_a_session_and_is_away_for_a_while_of_the_stated_means():
    _, events = watched("sessions:exponential:4:1", 300.0, peers=40)
    last: dict[str, float] = {}
    lengths: dict[bool, list[float]] = {True: [], False: []}
    for at, came, who in events:
        if who in last and at < 280:
            lengths[came].append(at - last[who])
        last[who] = at
    away, there = lengths[True], lengths[False]
    assert len(there) > 1000
    assert statistics.fmean(there) == pytest.approx(4.0, rel=0.1)
    assert statistics.fmean(away) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    ("manners", "crash", "good"), [("good", "", True), ("good", ":crash", False), ("none", "", False)]
)
def test_who_leaves_says_so_if_it_can_and_shall_and_is_counted_as_what_it_did(manners, crash, good):
    done, _ = watched(f"poisson:2{crash}", 20.0, peers=20, manners=manners)
    assert done.joined > 0
    assert (done.left > 0, done.crashed > 0) == (good, not good)


def test_who_refuses_to_leave_is_stopped_all_the_same_and_no_good_leave():
    done, _ = watched("poisson:2", 10.0, peers=20, manners="stubborn")
    assert done.crashed > 0 == done.left


def test_one_always_stays_and_what_nobody_could_do_is_counted():
    done, _ = watched("poisson:20:crash", 20.0, peers=2)
    assert done.present_least == 1
    assert done.void > 10
    done, _ = watched("sessions:exponential:1:20", 20.0, peers=3)
    assert done.present_least == 1
    assert done.void > 0


def test_one_seed_gives_one_churn_and_another_seed_another():
    def record(seed: int) -> Any:
        question = Question(Crowd(peers=20), Draw(), seed=seed, duration=5.0, rate=20.0, churn=["poisson:2"])
        return msgspec.structs.replace(run(question), wall_s=0.0)

    assert record(1) == record(1)
    assert record(1).churn != record(2).churn
    assert record(1).churn[0].left > 0


def test_when_the_load_is_over_all_are_there_again():
    trial = Trial(Question(Crowd(peers=20), Draw(), churn=["poisson:2:crash"]))
    trial.load(Load(duration=10.0, rate=10.0), churn=True)
    down = [name for name, p in trial.session.kernel.processes.items() if not p.up]
    assert down
    trial.verdicts(trial.history())
    assert all(p.up for p in trial.session.kernel.processes.values())
    trial.close()


def test_between_loads_nobody_comes_or_goes_and_then_it_goes_on():
    trial = Trial(Question(Crowd(peers=20), Draw(), churn=["poisson:5"]))
    (churning,) = trial.churn
    for _ in range(4):
        trial.load(Load(duration=2.5, rate=10.0), churn=True)
        done = churning.done()
        trial.load(Load(duration=50.0, rate=1.0))
        assert churning.done() == done
    trial.close()
    assert done.joined + done.left + done.void == pytest.approx(100, abs=50)


def test_lookups_under_churn_are_measured_and_those_that_fail_are_counted():
    ring = ChordRing(nodes=32, stabilize=4.0, successors=2)
    calm = run(Question(ring, Lookup(), duration=10.0, rate=50.0))
    record = run(Question(ring, Lookup(), duration=10.0, rate=50.0, churn=["poisson:4:crash"]))
    assert calm.operations.ok == calm.operations.attempted
    assert record.operations.ok < record.operations.attempted
    assert record.metrics["timeouts"] > 0
    (churned,) = record.churn
    assert churned.churn == "poisson:4:crash"
    assert churned.joined > 20 < churned.crashed


def test_a_comparison_churns_while_it_measures_latency_and_all_are_back_before_the_kills():
    questions = [Question(Crowd(peers=n), Draw(), duration=2.0, churn=["poisson:5"]) for n in (10, 20)]
    result = compare(questions, Pace(rounds=2, saturation=0.1, clients=2, steady=2.0))
    for record in result.runs:
        (churned,) = record.churn
        assert 5 < churned.joined + churned.left + churned.void < 45  # 40 in both rounds together
        assert record.holds


@pytest.mark.local
def test_a_live_churn_stops_and_starts_processes():
    question = Question(Crowd(peers=4), Draw(), runtime="local", duration=2.0, churn=["poisson:1.5"], seed=3)
    record = run(question)
    (churned,) = record.churn
    assert churned.left + churned.joined >= 2
    assert churned.crashed == 0
    assert record.holds
    assert record.operations.ok == record.operations.attempted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "churn is poisson or sessions"),
        ("poison:1", "churn is poisson or sessions, not 'poison'"),
        ("poisson", "the rate is missing"),
        ("poisson:x", "the rate is a number, not 'x'"),
        ("poisson:0", "a number above 0, not 0"),
        ("poisson:nan", "a number above 0, not nan"),
        ("poisson:1e99", "a number above 0"),
        ("poisson:1:peers", "no role is called 'peers'; roles are peer"),
        ("poisson:1:peer:now", "what is 'now' for"),
        ("sessions", "sessions are exponential, weibull, pareto, lognormal"),
        ("sessions:zipf:1:2", "not 'zipf'"),
        ("sessions:exponential:1", "the mean time away is missing"),
        ("sessions:weibull:1:2", "the mean time away is missing"),
        ("sessions:pareto:1:2:3", "the exponent is a number above 1, not 1"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(text, says):
    system = System()
    Crowd(peers=5).build(system)
    with pytest.raises(BadChurn, match=says) as caught:
        parse(text, system.roles)
    assert repr(text) in str(caught.value)


def test_a_role_that_cannot_churn_is_refused():
    system = System()
    ThreeTier().build(system)
    for text, says in (
        ("poisson:1", "of which role.  Add :ROLE; roles are"),
        ("poisson:1:data", "is a PostgreSQL: it does not come and go"),
        ("poisson:1:logic", "there is one logic only"),
    ):
        with pytest.raises(BadChurn, match=says):
            parse(text, system.roles)
    with pytest.raises(BadChurn, match="peer has a churn already"):
        run(Question(Crowd(peers=5), Draw(), churn=["poisson:1", "poisson:2"]))
