"""Sessions in servers, in cookies, in a store, and soft: what a crash costs each, and what nobody may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from polyarch.architectures.session_store import SessionStore, Store
from polyarch.architectures.signed_cookies import SignedCookies
from polyarch.architectures.soft_state import SoftState
from polyarch.architectures.stateful_servers import StatefulServers
from polyarch.blocks.sessions import Session, SessionServer
from polyarch.blocks.signing import Forged, Signer
from polyarch.blocks.switch import Switch
from polyarch.core import (
    Architecture,
    Conflict,
    Done,
    Failure,
    Random,
    Request,
    Response,
    TooLarge,
    settle,
)
from polyarch.core.http import failure_of
from polyarch.experiment.performance import perform
from polyarch.experiment.record import RunRecord
from polyarch.experiment.run import Question, run
from polyarch.experiment.schedule import Setting, draw
from polyarch.jobs.session import NOTHING_LOST, SessionJob, SessionLost
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession

ALL = [StatefulServers, SignedCookies, SessionStore, SoftState]
LASTING = [SignedCookies, SessionStore, SoftState]


def ran(architecture: Architecture, *faults: str, **more: Any) -> RunRecord:
    asked = {"duration": 5.0, "rate": 200.0, **more}
    return run(Question(architecture=architecture, job=SessionJob(), faults=list(faults), **asked))


def kept(record: RunRecord) -> bool:
    return next(v.holds for v in record.verdicts if v.name == NOTHING_LOST)


def tried(architecture: Architecture, test: Callable[[Experimenter], Awaitable[Any]]) -> Any:
    async def experiment(x: Experimenter) -> Any:
        return await test(x)

    with SimSession(architecture, seed=5) as session:
        return session.perform(experiment)


async def asked(x: Experimenter, verb: str, target: str, body: bytes = b"", cookie: str = "") -> Response:
    headers = {"cookie": f"session={cookie}"} if cookie else {}
    response: Response = await x.at("switch-0", Switch).http(Request(verb, target, body, headers))
    return response


def cookie_of(response: Response) -> str:
    (cookie,) = response.cookies
    return cookie.partition("=")[2].partition(";")[0]


@pytest.mark.parametrize("architecture", ALL)
def test_without_faults_everything_that_was_answered_is_kept(architecture: Any) -> None:
    record = ran(architecture())
    assert record.holds
    assert kept(record)
    assert record.operations.ok == record.operations.attempted > 800


def test_postgresql_keeps_sessions_as_well_as_our_own_store() -> None:
    record = ran(SessionStore(store="postgresql"), "crash:server-0@2-4", "crash:store-0@3-3.5")
    assert record.holds
    assert kept(record)
    assert record.metrics["sessions_lost"] == 0
    assert record.operations.ok > 700


@pytest.mark.parametrize("architecture", LASTING)
def test_a_crash_of_a_server_costs_no_session_where_it_keeps_none(architecture: Any) -> None:
    record = ran(architecture(), "crash:server-0@2-4", "crash:server-1@3-5")
    assert record.holds
    assert kept(record)
    assert record.metrics["sessions_lost"] == 0


def test_a_crash_costs_stateful_servers_their_sessions_and_those_that_come_back_once_more() -> None:
    for_good = ran(StatefulServers(), "crash:server-0@2")
    comes_back = ran(StatefulServers(), "crash:server-0@2-4")
    assert not kept(for_good)
    assert for_good.holds, "it is not promised"
    # A third of the 50 users that are there, and what users have left behind is looked at in the end.
    assert 8 <= for_good.operations.failed <= 26
    assert comes_back.operations.failed > 1.3 * for_good.operations.failed
    by_cookie = ran(StatefulServers(sticky="cookie"), "crash:server-0@2-4")
    assert by_cookie.operations.failed < for_good.operations.failed + 5, "nobody is sent back"


def test_stateful_servers_need_a_switch_that_is_sticky_unless_there_is_only_one() -> None:
    assert kept(ran(StatefulServers(servers=1, sticky="no")))
    record = ran(StatefulServers(sticky="no"))
    assert record.operations.failed > 0.5 * record.operations.attempted
    assert kept(ran(SoftState(sticky="no"), "crash:server-0@2-4")), "soft state is only slower"


@pytest.mark.parametrize(("architecture", "lost"), [(StatefulServers, 20), (SoftState, 0)])
def test_a_new_server_takes_the_sessions_of_its_users_away_from_stateful_ones(
    architecture: Any, lost: int
) -> None:
    async def test(x: Experimenter) -> int:
        switch = x.at("switch-0", Switch)
        await switch.leave("server-3")
        users = [f"user-{i}" for i in range(80)]
        for user in users:
            await x.client.add(user, "a book")
        await switch.join("server-3")
        outcomes = await settle(*map(x.client.basket, users))
        assert all(isinstance(o, SessionLost) or o == ("a book",) for o in outcomes)
        return sum(isinstance(o, SessionLost) for o in outcomes)

    assert tried(architecture(servers=4), test) == pytest.approx(lost, abs=0.5 * lost)


@pytest.mark.parametrize("architecture", LASTING)
def test_nothing_is_lost_under_random_faults(architecture: Any) -> None:
    job = SessionJob(users=3)
    setting = Setting(architecture(), job, rate=20.0, clients=1)  # one browser that knows them all
    results = [perform(draw(setting, seed), made=(setting.architecture, job)) for seed in range(5)]
    assert [v for r in results for v in r.violations] == []
    done = [d for r in results for d in r.history]
    assert sum(d.outcome == "ok" for d in done) > 0.7 * len(done) > 350


# -- signatures ---------------------------------------------------------------------------------------------


def test_a_cookie_that_was_changed_is_refused_wherever_it_was_changed() -> None:
    async def test(x: Experimenter) -> None:
        token = cookie_of(await asked(x, "POST", "/session", b'{"user": "eve"}'))
        assert (await asked(x, "GET", "/basket", cookie=token)).status == 200
        copy, _, tag = token.partition(".")
        others = [f"{copy}.", copy, f".{tag}", f"{copy}.{tag}x", f"{copy}.ä", f"{tag}.{copy}"]
        for i in range(0, len(token) - 1, 3):
            others.append(token[:i] + ("B" if token[i] == "A" else "A") + token[i + 1 :])
        stolen = Signer(b"another key")
        richer = stolen.copy(Session("eve", "0", ("a diamond",)))
        others.append(f"{richer}.{stolen.tag(richer)}")
        for other in others:
            response = await asked(x, "GET", "/basket", cookie=other)
            assert isinstance(failure_of(response), Forged), other

    tried(SignedCookies(), test)


@pytest.mark.parametrize(
    ("idle", "parameters", "ends"),
    [
        (0.9, {"lifetime": 1.0}, False), (1.1, {"lifetime": 1.0}, True),
        (0.9, {"rotate": 1.0}, False), (2.1, {"rotate": 1.0}, True), (60.0, {}, False),
    ],
)  # fmt: skip
def test_what_was_signed_is_good_for_its_lifetime_and_as_long_as_its_key(
    idle: float, parameters: dict[str, float], ends: bool
) -> None:
    async def test(x: Experimenter) -> Any:
        await x.sleep(0.5)
        for item in ("a book", "a pen"):
            await x.client.add("u", item)
            await x.sleep(idle if item == "a pen" else 0.6)  # used, it goes on
        return (await settle(x.client.basket("u")))[0]

    found = tried(SignedCookies(**parameters), test)  # type: ignore[arg-type]
    assert isinstance(found, SessionLost) if ends else found == ("a book", "a pen")


def test_nobody_meets_a_key_that_he_does_not_know_and_a_crash_of_the_keeper_changes_none() -> None:
    # Each user changes a basket some four times a second: nobody is idle for a period of the keys.
    record = ran(SignedCookies(rotate=1.5), "crash:keeper-0@1-1.2", "crash:server-0@2-2.5", rate=400.0)
    assert record.operations.failed <= 3


def test_soft_state_believes_no_copy_that_does_not_fit_its_signature() -> None:
    async def test(x: Experimenter) -> None:
        await x.client.add("eve", "a book")
        for i in range(3):
            await x.control.crash(f"server-{i}")
            await x.control.restart(f"server-{i}")
        stolen = Signer(b"another key")
        richer = stolen.copy(Session("eve", "0", ("a diamond",)))
        headers = {"cookie": f"session={stolen.tag(richer)}", "session-copy": richer}
        response = await x.at("switch-0", Switch).http(Request("GET", "/basket", b"", headers))
        assert isinstance(failure_of(response), Forged)
        assert await x.client.basket("eve") == ("a book",)

    tried(SoftState(), test)


def test_an_old_cookie_is_as_good_as_a_new_one_which_a_store_prevents() -> None:
    async def test(x: Experimenter) -> tuple[str, ...]:
        old = cookie_of(await asked(x, "POST", "/session", b'{"user": "u"}'))
        new = cookie_of(await asked(x, "POST", "/basket", b'{"item": "a book"}', old))
        assert (await asked(x, "GET", "/basket", cookie=new)).body == b'["a book"]'
        return (await asked(x, "GET", "/basket", cookie=old)).body.decode()  # type: ignore[return-value]

    assert tried(SignedCookies(), test) == "[]"
    assert tried(SessionStore(), test) == '["a book"]'


def test_two_tabs_overwrite_each_other_in_cookies_and_not_in_a_store() -> None:
    async def test(x: Experimenter) -> tuple[list[int], list[str]]:
        token = cookie_of(await asked(x, "POST", "/session", b'{"user": "u"}'))
        both = [asked(x, "POST", "/basket", b'{"item": "%d"}' % i, token) for i in range(2)]
        answers: Any = await settle(*both)
        refused = [failure_of(a) for a in answers if a.status != 200]
        assert all(isinstance(failure, Conflict) for failure in refused)
        tokens = [cookie_of(a) for a in answers if a.status == 200]
        return len(tokens), (await asked(x, "GET", "/basket", cookie=tokens[-1])).body  # type: ignore[return-value]

    assert tried(SignedCookies(), test) == (2, b'["1"]'), "both were answered, one is lost"
    assert tried(SessionStore(), test)[0] == 1, "the other was refused"


def test_what_does_not_fit_into_a_cookie_is_refused_and_the_rest_stays() -> None:
    async def test(x: Experimenter) -> int:
        for i in range(1000):
            try:
                await x.client.add("u", f"item {i} of a user who cannot decide")
            except TooLarge:
                assert len(await x.client.basket("u")) == i
                assert (await x.client.seen()).longest_cookie <= 4096
                return i
        raise AssertionError("a cookie of any size")

    assert 40 < tried(SignedCookies(), test) < 100


# -- where sessions are -------------------------------------------------------------------------------------


def test_what_users_leave_behind_is_forgotten_after_its_lease_and_comes_back_with_them() -> None:
    async def test(x: Experimenter) -> list[int]:
        await x.client.add("u", "a book")
        held = [await x.at("server-0", SessionServer).held()]
        await x.sleep(2.0)
        held.append(await x.at("server-0", SessionServer).held())
        if held[-1] == 0:
            assert await x.client.basket("u") == ("a book",)
        return held

    assert tried(SoftState(servers=1, lease=1.0), test) == [1, 0]
    assert tried(StatefulServers(servers=1), test) == [1, 1]


def test_the_store_answers_only_what_is_on_its_disk() -> None:
    class Hasty(Store):
        async def start(self) -> None:
            await super().start()

            async def at_once() -> None:
                pass

            self.sessions.durable = at_once  # type: ignore[method-assign]

    class HastyStore(SessionStore):
        def build(self, system: Any) -> None:
            super().build(system)
            system.roles["store"].nodes[0].__class__ = Hasty

    async def test(x: Experimenter) -> tuple[str, ...]:
        await x.client.add("u", "a book")
        await x.control.crash("store-0")
        with pytest.raises(Failure):
            await x.client.basket("u")
        await x.control.restart("store-0")
        basket: tuple[str, ...] = await x.client.basket("u")
        return basket

    assert tried(SessionStore(), test) == ("a book",)
    with pytest.raises(SessionLost):
        tried(HastyStore(), test)


# -- the job ------------------------------------------------------------------------------------------------


def history(*lines: tuple[str, tuple[str, ...], float, float, str, Any]) -> list[Done]:
    codes = {"lost": ("fail", "session-lost")}
    made = []
    for name, arguments, start, end, outcome, value in lines:
        known, code = codes.get(outcome, (outcome, ""))
        made.append(Done(0, name, arguments, start, start, end, known, value, code))  # type: ignore[arg-type]
    return made


ADDED = ("add", ("u", "a"), 1.0, 2.0, "ok", 1)


@pytest.mark.parametrize(
    ("lines", "holds"),
    [
        ([ADDED, ("basket", ("u",), 3.0, 4.0, "ok", ["a"])], (True, True)),
        ([ADDED, ("basket", ("u",), 3.0, 4.0, "ok", [])], (False, True)),
        ([ADDED, ("basket", ("u",), 1.5, 4.0, "ok", [])], (True, True)),
        ([ADDED, ("basket", ("u",), 3.0, 4.0, "ok", ["a", "a"])], (True, False)),
        ([ADDED, ("basket", ("u",), 3.0, 4.0, "ok", ["a", "b"])], (True, False)),
        ([ADDED, ("basket", ("u",), 3.0, 4.0, "lost", None)], (False, True)),
        ([ADDED, ("log_out", ("u",), 3.0, 4.0, "ok", [])], (False, True)),
        ([ADDED, ("log_in", ("u",), 3, 4, "ok", None), ("basket", ("u",), 5, 6, "ok", [])], (True, True)),
        ([ADDED, ("log_in", ("u",), 3, 4, "fail", None), ("basket", ("u",), 5, 6, "ok", [])], (False, True)),
        (
            [ADDED, ("log_out", ("u",), 3, 4, "info", None), ("basket", ("u",), 5, 6, "lost", None)],
            (True, True),
        ),
        ([("log_in", ("u",), 0, 1, "ok", None), ("basket", ("u",), 3.0, 4.0, "lost", None)], (False, True)),
        ([("add", ("u", "a"), 1.0, 2.0, "info", None), ("basket", ("u",), 3, 4, "ok", [])], (True, True)),
        ([("add", ("u", "a"), 1.0, 2.0, "fail", None), ("basket", ("u",), 3, 4, "ok", ["a"])], (True, False)),
    ],
)
def test_the_job_tells_what_was_lost_and_what_was_never_put_in(
    lines: list[Any], holds: tuple[bool, bool]
) -> None:
    verdicts = SessionJob().check(history(*lines), None)
    assert tuple(v.holds for v in verdicts) == holds


def test_a_user_of_a_check_does_everything_in_one_visit_as_browsers_do_not_share_cookies() -> None:
    visits = SessionJob(**SessionJob.small).visits(Random(3))
    for _, visit in zip(range(50), visits):
        assert [o.name for o in visit].count("log_in") == 1
        assert visit[0].name == "log_in"
        assert len({o.arguments[0] for o in visit}) == 1
    setting = Setting(StatefulServers(), SessionJob(**SessionJob.small), rate=20.0)
    assert perform(draw(setting, 1), made=(setting.architecture, setting.job)).history


@pytest.mark.local
def test_live_sessions_survive_the_kill_of_a_server_that_has_none() -> None:
    record = ran(SoftState(), "crash:server-0@0.5-1", runtime="local", duration=2.0)
    assert record.holds, [v for v in record.verdicts if not v.holds]
    assert kept(record)
    assert record.operations.ok > 200
