"""Messages mean the same on every runtime: calls, one-ways, values, failures, order, costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from systems import (
    Client,
    Colour,
    Crowd,
    Front,
    Late,
    Left,
    Loose,
    Member,
    Other,
    Patient,
    Point,
    Relay,
    Run,
    Server,
    Shape,
    Strange,
    Tree,
    accounted,
)

from polyarch.core import (
    BadArguments,
    Broken,
    Failure,
    Over,
    Refused,
    Request,
    Timeout,
    TooLarge,
    UnknownMethod,
    Unreachable,
    gather,
    settle,
)
from polyarch.core.wire import MAX_FRAME
from polyarch.runtimes import open_session
from polyarch.runtimes.base import Experimenter, Session

SHAPE = Shape("triangle", (Point(1, 2.5), Point(-3, 4)), (7, "é"), Colour.BLUE, tags={"a": 1}, data=b"\0\xff")


async def failure_of(call: Any, kind: Any = Failure) -> Any:
    """The failure (or other error) that a call ends with.  (``pytest.raises`` fails with a BaseException,
    which is not an experiment's to raise.)"""
    try:
        result = await call
    except kind as failure:
        return failure
    raise AssertionError(f"it did not fail, but gave {result!r}")


async def heard(x: Experimenter, count: int, patience: float = 5.0) -> list[str]:
    """What the server has heard, when it is ``count`` things (or does not become so)."""
    server = x.at("server-0", Server)
    end = x.now + patience
    while len(notes := await server.notes()) < count and x.now < end:
        await x.sleep(0.01)
    return notes


# -- calls and one-ways -------------------------------------------------------------------------------


def test_a_call_gives_what_a_plain_or_an_async_handler_returns(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        assert await server.add(1, 2) == 3
        assert await server.add(b=5, a=1) == 6
        assert await server.add(41) == 42, "defaults are the signature's"
        assert await server.add_later(1, 2, 0.01) == 3
        assert await x.client.add(3, 4) == 7

    run(experiment)


def test_one_ways_of_a_link_arrive_in_the_order_in_which_they_were_sent(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        texts = tuple(f"note {i}" for i in range(200))
        await x.client.note(texts)
        assert await heard(x, 200) == list(texts)

    run(experiment)


def test_an_async_one_way_runs_beside_the_others(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        server.note_later("slow", 0.1)
        server.note("quick")
        assert await heard(x, 2) == ["quick", "slow"]

    run(experiment)


def test_concurrent_calls_interleave_at_their_awaits(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server, timeout=10.0)
        begin = x.now
        sums = await gather(*(server.add_later(i, i, 0.2) for i in range(50)))
        assert sums == [2 * i for i in range(50)]
        assert x.now - begin < 5.0, "fifty times 0.2 s one after another would be 10 s"

    run(experiment)


def test_threads_compute_and_block_beside_the_node_and_its_own_thread_does_not(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server, timeout=10.0)
        begin = x.now
        beside = x.spawn(server.in_threads(8, 0.3))
        await server.add(1, 2)
        answered = x.now - begin
        took = await beside
        assert answered < 0.3, "the node answers while its threads block"
        assert 0.3 <= took < 2.0, "eight threads block at the same time"
        begin = x.now
        await gather(server.in_own_thread(0.2), server.in_own_thread(0.2))
        assert x.now - begin >= 0.4, "blocking calls of the node's own thread come one after another"

    run(experiment)


def test_threads_that_compute_take_the_time_of_cores(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server, timeout=30.0)
        before = (await x.control.resources())["server-0"]["cpu_s"]
        took = await server.working_threads(4, 0.1)
        after = (await x.control.resources())["server-0"]["cpu_s"]
        assert after - before > 0.35, "four threads have computed"
        assert took >= 0.1

    run(experiment)


def test_a_thread_does_one_thing_at_a_time(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        assert "one thing at a time" in await x.at("server-0", Server).twice_at_once()

    run(experiment)


def test_gather_first_and_settle_give_results_and_failures_in_their_ways(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        assert await x.at("relay-0", Relay, timeout=5.0).outcomes() == [
            "int 2",
            "Refused refused: in these words",
            "int 3",
            "timeout: in these words",
            "[6, 7]",
            "refused: in these words",
        ]

    run(experiment)


def test_what_comes_before_start_has_returned_waits_for_it(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.crash("late-0")
        await x.control.restart("late-0")
        assert await x.at("late-0", Late, timeout=5.0).answer() == 42

    run(experiment)


def test_a_node_may_call_itself(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        assert await x.at("relay-0", Relay).down(3, "deep") == "deep 10"

    run(experiment)


# -- places -------------------------------------------------------------------------------------------


def test_wires_within_a_replicated_role_stay_in_the_process_and_share_nothing(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        for i in range(2):
            assert await x.at(f"left-{i}", Left).ask([1, 2]) == (f"left-{i}", f"right-{i}")

    run(experiment)


@pytest.mark.parametrize("runtime", ["sim", pytest.param("local", marks=pytest.mark.local)])
def test_several_nodes_can_share_a_process_and_die_with_it(runtime: str) -> None:
    async def experiment(x: Experimenter) -> None:
        members = tuple(f"member-{i}" for i in range(5))
        assert sorted(await x.control.resources()) == ["client", "door-0", "member-0", "member-1"]
        assert await x.at("member-0", Member).neighbours(members) == list(members)
        await x.control.crash("member-0")
        outcomes = await settle(*(x.at(member, Member).name() for member in members))
        assert [isinstance(outcome, str) for outcome in outcomes] == [False] * 3 + [True] * 2

    with open_session(runtime, Crowd(), per_process=3) as session:
        session.perform(experiment)


def test_an_unknown_address_is_unreachable_and_a_one_way_to_it_is_lost(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        assert type(await failure_of(x.at("server-9", Server).add(1))) is Unreachable
        x.at("server-9", Server).note("nobody hears it")
        assert await x.at("server-0", Server).notes() == []

    run(experiment)


# -- values -------------------------------------------------------------------------------------------


def test_records_tuples_enums_options_dicts_and_bytes_come_back_equal_and_of_the_same_type(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        back = await x.at("server-0", Server).same(SHAPE)
        assert back == SHAPE
        assert [type(part) for part in (back.points, back.points[0], back.pair, back.colour, back.data)] == [
            tuple, Point, tuple, Colour, bytes,
        ]  # fmt: skip
        assert type(back.points[1].y) is float, "an integer that was given where a float is wanted"
        tree = Tree(1, (Tree(2), Tree(3, (Tree(4),))))
        assert await x.at("server-0", Server).deep(tree) == tree

    run(experiment)


def test_mutable_arguments_and_results_are_copies(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server, mine = x.at("server-0", Server), [1, 2]
        answer = await server.change(mine)
        assert (mine, answer) == ([1, 2], [1, 2, 99])
        answer.append(0)
        kept = await server.keep()
        assert kept == [1, 2, 99]
        kept.clear()
        assert await server.keep() == [1, 2, 99]

    run(experiment)


# -- what does not fit ----------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_refused_with_the_method_and_the_argument(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        wrong: Any = "1"
        known = len((await x.control.traffic()).bugs)
        server: Any = x.at("server-0", Server)
        strange, loose = x.at("server-0", Strange), x.at("server-0", Loose)
        cases = {
            "wrong type": (server.add("one"), "Server.add: argument 'a': Expected `int`"),
            "too many": (strange.add("1", [], 3), "Server.add takes 1 to 2 arguments (a, b), got 3"),
            "missing": (strange.impatient(), "Server.impatient takes 1 arguments (seconds), got 0"),
            "another type": (loose.add(1.5, "b"), "Server.add: argument 'a': Expected `int`"),
            "wrong item": (server.change([1, "b"]), "Server.change: argument 'numbers': Expected `int`"),
            "wrong field": (
                server.same(Shape("s", (Point(wrong, 2.0),), (1, "a"), Colour.RED)),
                "argument 'shape': Expected `int`, got `str` - at `$.points[0].x`",
            ),
            "wrong deep down": (
                server.deep(Tree(1, (Tree(2, (Tree(wrong),)),))),
                "Server.deep: argument 'tree': Expected `int`, got `str`",
            ),
            "too large an integer": (server.add(1 << 70), "add: "),
            "nothing that can be sent": (server.change(object()), "change: "),
        }
        for kind, (call, words) in cases.items():
            failure = await failure_of(call)
            assert type(failure) is BadArguments, kind
            assert words in failure.detail, kind
        assert len((await x.control.traffic()).bugs) == known, "who sends nonsense is no bug of the server"

    run(experiment)


def test_one_ways_that_do_not_fit_are_dropped_and_complained_about(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        x.at("server-0", Strange).note(5)
        x.at("server-0", Other).add(5)
        assert await x.at("server-0", Server).notes() == []
        complaints = " ".join((await x.control.traffic()).complaints)
        assert "server-0: bad-arguments: Server.note: argument 'text': Expected `str`" in complaints
        assert "has no message 'add'" in complaints

    run(experiment)


def test_a_message_that_the_node_does_not_have_is_refused_and_says_what_it_has(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        other = x.at("server-0", Other)
        for call in other.nothing_like_it(), other.note("a one-way, called"):
            failure = await failure_of(call)
            assert type(failure) is UnknownMethod
            assert "it has: add, add_later, add_noted" in failure.detail

    run(experiment)


def test_a_message_that_is_too_large_is_refused_before_it_leaves(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        failure = await failure_of(server.size(b"x" * MAX_FRAME))
        assert type(failure) is TooLarge
        assert str(MAX_FRAME) in failure.detail

        async def note() -> None:
            server.note("x" * MAX_FRAME)

        assert type(await failure_of(note())) is TooLarge
        assert await server.size(b"x" * (MAX_FRAME - 100)) == MAX_FRAME - 100, "the largest one arrives"
        assert await server.add(1) == 2

    run(experiment)


def test_an_answer_that_cannot_be_given_is_broken_for_its_work_was_done(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        failures = [
            await failure_of(call)
            for call in (
                server.blob(MAX_FRAME),
                server.blob_later(MAX_FRAME),
                server.lie(),
                server.lie_later(),
                server.enormous(),
            )
        ]
        assert [type(failure) for failure in failures] == [Broken] * 5
        assert str(MAX_FRAME) in failures[0].detail
        assert "Server.lie answered 'no number': Expected `int`, got `str`" in failures[2].detail
        assert await server.add(1) == 2

    run(experiment)


# -- failures -------------------------------------------------------------------------------------------


def test_refusals_keep_their_class_their_code_and_their_words_through_any_number_of_nodes(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        for asked in x.at("server-0", Server), x.at("relay-0", Relay):
            for how, definite in (("refused", True), ("timeout", False), ("broken", False)):
                failure = await failure_of(asked.refuse(how))
                assert (failure.code, failure.detail, failure.definite) == (how, "in these words", definite)
            sold_out = await failure_of(asked.refuse("sold-out"))
            assert type(sold_out).__name__ == "SoldOut"
            assert (sold_out.code, sold_out.detail) == ("sold-out", "product 17: 0 left")
            private = await failure_of(asked.refuse("private"))
            assert isinstance(private, Refused)
            assert (private.code, str(private)) == ("private", "private: a code that callers may not know")

    run(experiment)


def test_a_bug_in_a_handler_is_broken_to_its_caller_and_reported(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        known = len((await x.control.traffic()).bugs)
        for call in server.bug(), server.bug_later():
            failure = await failure_of(call)
            assert type(failure) is Broken
            assert failure.detail == "ZeroDivisionError: by nothing"
        bugs = (await x.control.traffic()).bugs[known:]
        assert len(bugs) == 2
        assert all(bug.startswith("server-0: ZeroDivisionError: by nothing (systems.py:") for bug in bugs)
        assert await server.add(1) == 2, "the node lives on"

    run(experiment)


def test_an_exception_of_the_experiment_comes_out_of_perform(session: Session) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.client.add(1)
        raise LookupError("what I wanted to know")

    with pytest.raises(LookupError, match="what I wanted to know"):
        session.perform(experiment)

    async def refused(x: Experimenter) -> None:
        await x.at("server-0", Server).refuse("sold-out")

    with pytest.raises(Refused, match="product 17"):
        session.perform(refused)


# -- timeouts -------------------------------------------------------------------------------------------


def test_a_call_waits_as_long_as_the_reference_the_message_or_the_class_says(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        assert type(await failure_of(server.impatient(1.0))) is Timeout, "the message says 0.15 s"
        assert await x.at("server-0", Server, timeout=30.0).impatient(0.3) == "done", "the reference 30 s"
        assert type(await failure_of(server.add_later(1, 2, 3.0))) is Timeout, "the class 1 s"
        assert await x.at("patient-0", Patient).wait(1.2) == "done", "this class: for ever"
        short = x.at("patient-0", Patient, timeout=0.05)
        assert type(await failure_of(short.wait(1.0))) is Timeout
        assert await x.at("patient-0", Patient, timeout=float("inf")).wait(0.01) == "done"

    run(experiment)


def test_an_answer_that_comes_too_late_disturbs_no_later_call(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server, timeout=0.1)
        for _ in range(3):
            assert type(await failure_of(server.add_later(1, 1, 0.15))) is Timeout
            assert await x.at("server-0", Server).add_later(2, 2, 0.1) == 4

    run(experiment)


# -- HTTP -----------------------------------------------------------------------------------------------


def test_operations_over_http_give_the_same_results_and_failures_as_direct_calls(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        front = Over(Front, x.at("front-0", Front))
        assert await front.sum(20, 22) == 42
        assert await front.sum(b=5, a=1) == 6
        assert await front.sum(41) == 42
        assert await front.shape(SHAPE, count=2) == (SHAPE, SHAPE)
        failure = await failure_of(front.refuse("sold-out"))
        assert (failure.code, failure.detail, failure.definite) == ("sold-out", "product 17: 0 left", True)
        assert type(await failure_of(front.refuse("timeout"))) is Timeout
        anyhow: Any = front
        wrong = {
            "Front.sum: missing a required argument: 'a'": anyhow.sum(b=1),
            "Front.sum: got an unexpected keyword argument 'c'": anyhow.sum(1, c=1),
            "Front.sum: too many positional arguments": anyhow.sum(1, 2, 3),
        }
        for words, call in wrong.items():
            assert str(await failure_of(call, TypeError)) == words

    run(experiment)


def test_requests_that_fit_no_route_get_the_status_that_says_why(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        front = x.at("front-0", Front)
        asked = {
            ("GET", "/sums/1?b=2"): 200,
            ("GET", "/sums/one"): 400,
            ("GET", "/sums/1?c=2"): 400,
            ("POST", "/shapes"): 400,
            ("GET", "/nothing"): 404,
            ("POST", "/sums/1"): 405,
            ("POST", "/refusals/refused"): 409,
            ("POST", "/refusals/timeout"): 504,
            ("GET", "/"): 200,
        }
        for (method, target), status in asked.items():
            assert (await front.http(Request(method, target))).status == status, target

    run(experiment)


# -- costs ----------------------------------------------------------------------------------------------


def test_an_operation_costs_the_same_messages_bytes_and_depth_on_every_runtime(
    labs: Callable[[str], Session],
) -> None:
    async def experiment(x: Experimenter) -> dict[str, tuple[Any, int, int, int]]:
        server, relay, client = x.at("server-0", Server), x.at("relay-0", Relay), x.at("client-0", Client)
        operations = {
            "a call": server.add(1, 2),
            "a call that waits": server.add_later(1, 2, 0.01),
            "records": server.same(SHAPE),
            "a call through the client": client.add(1, 2),
            "two at once, deep down": relay.down(3, "word"),
            "within a process": x.at("left-0", Left).ask([1, 2]),
        }
        return {what: await accounted(x, operation) for what, operation in operations.items()}

    on_sim, on_local = labs("sim").perform(experiment), labs("local").perform(experiment)
    assert on_sim == on_local
    assert on_sim["a call"][1] == 2
    assert on_sim["a call through the client"][1::2] == (4, 4)
    assert on_sim["two at once, deep down"][1::2] == (7, 4), "a one-way, and two calls at once"
    assert on_sim["within a process"][1::2] == (2, 2)


def test_the_traffic_of_the_system_is_the_same_on_every_runtime_and_leaves_the_experimenter_out(
    labs: Callable[[str], Session],
) -> None:
    async def experiment(x: Experimenter) -> tuple[int, int, dict[str, int]]:
        before = await x.control.traffic()
        for i in range(10):
            await x.client.add(i)
            await x.at("server-0", Server).add(i)
        await x.client.note(("a", "b"))
        await heard(x, 2)
        after = await x.control.traffic()
        methods = {m: n - before.by_method.get(m, 0) for m, n in after.by_method.items()}
        await x.at("server-0", Server).forget()
        return (
            after.messages - before.messages,
            after.bytes - before.bytes,
            {m: n for m, n in methods.items() if n},
        )

    on_sim, on_local = labs("sim").perform(experiment), labs("local").perform(experiment)
    assert on_sim == on_local
    assert on_sim[2] == {"add": 20, "note": 2}


def test_an_operation_over_http_costs_the_same_messages_and_depth_and_about_as_many_bytes(
    labs: Callable[[str], Session],
) -> None:
    async def experiment(x: Experimenter) -> tuple[Any, int, int, int]:
        return await accounted(x, Over(Front, x.at("front-0", Front)).sum(1, 2))

    (one, messages, size, depth), live = labs("sim").perform(experiment), labs("local").perform(experiment)
    assert (one, messages, depth) == (live[0], live[1], live[3]) == (3, 4, 4)
    assert 0.7 < size / live[2] < 1.3


def test_two_failures_cannot_have_one_code() -> None:
    with pytest.raises(TypeError, match="the code 'unreachable' is that of"):

        class Away(Refused, code="unreachable"):
            pass
