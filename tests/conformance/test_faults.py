"""Crashes, pauses, cut and bad links, clocks and disks: they mean the same on every runtime."""

from __future__ import annotations

import pytest
from systems import Client, Colour, Late, Patient, Point, Run, Server, Shape
from test_messages import failure_of, heard

from polyarch.core import Broken, Failure, Refused, Task, Timeout, Unreachable, settle
from polyarch.runtimes.base import Experimenter


async def outcome_of(task: Task) -> object:
    """A task's result or its failure."""
    (outcome,) = await settle(task)
    return outcome


# -- crashes ------------------------------------------------------------------------------------------


def test_a_caller_of_a_crashed_process_is_refused_until_it_is_restarted(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.crash("server-0")
        failure = await failure_of(x.client.add(1))
        if isinstance(failure, Broken):  # the client had not yet seen that its connection was dead
            failure = await failure_of(x.client.add(1))
        assert type(failure) is Unreachable
        x.at("server-0", Server).note("into the void")
        await x.sleep(0.05)
        await x.control.restart("server-0")
        assert await x.client.add(1) == 2
        assert await x.at("server-0", Server).notes() == []

    run(experiment)


@pytest.mark.parametrize("process", ["server-0", "patient-0"])
def test_a_crash_in_the_middle_of_a_handler_breaks_the_call_at_once(run: Run, process: str) -> None:
    async def experiment(x: Experimenter) -> None:
        client = x.at("client-0", Client)
        call = client.add_later(1, 2, 20.0, 60.0) if process == "server-0" else client.wait(20.0)
        task = x.spawn(call)
        await x.sleep(0.1)
        await x.control.crash(process)
        begin = x.now
        assert type(await outcome_of(task)) is Broken
        assert x.now - begin < 10.0, "neither the handler's end nor the timeout is waited for"

    run(experiment)


def test_the_crash_of_a_caller_leaves_the_handler_running_and_nothing_behind(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        task = x.spawn(x.client.add_noted(1, 2, 0.3))
        await x.sleep(0.1)
        await x.control.crash("client")
        assert type(await outcome_of(task)) is Broken
        assert await heard(x, 1) == ["added 1 and 2"]
        await x.control.restart("client")
        assert await x.client.add(2, 2) == 4

    run(experiment)


def test_a_crash_while_it_is_paused_breaks_even_calls_that_would_wait_for_ever(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        assert await x.client.wait(0.0) == "done"
        await x.control.pause("patient-0")
        task = x.spawn(x.client.wait(0.0))
        await x.sleep(0.1)
        await x.control.crash("patient-0")
        assert isinstance(await outcome_of(task), Failure)
        await x.control.restart("patient-0")
        assert await x.client.wait(0.0) == "done"

    run(experiment)


def test_a_crash_of_a_node_that_has_not_started_fails_those_who_wait_for_it(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.crash("late-0")
        await x.control.restart("late-0")
        task = x.spawn(x.at("late-0", Late, timeout=float("inf")).answer())
        await x.sleep(0.02)
        await x.control.crash("late-0")
        assert isinstance(await outcome_of(task), Failure)
        await x.control.restart("late-0")
        assert await x.at("late-0", Late, timeout=10.0).answer() == 42

    run(experiment)


def test_crashing_restarting_and_resuming_what_is_so_already_changes_nothing(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        x.at("server-0", Server).note("still here")
        await x.control.restart("server-0")
        await x.control.resume("server-0")
        assert await heard(x, 1) == ["still here"]
        await x.control.crash("server-0")
        await x.control.crash("server-0")
        await x.control.pause("server-0")
        await x.control.restart("server-0")
        assert await x.client.add(1) == 2

    run(experiment)


def test_a_process_that_does_not_exist_is_named_together_with_those_that_do(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        c = x.control
        for power in c.crash, c.restart, c.pause, c.resume, c.skew:
            error = str(await failure_of(power("serve"), LookupError))
            assert "no process is called 'serve'; there are: " in error
            assert "server-0" in error
        await failure_of(c.disturb(["serve"], None, loss=1.0), LookupError)

    run(experiment)


# -- disks --------------------------------------------------------------------------------------------


def test_what_was_synced_survives_a_crash_and_what_was_not_is_lost(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        await server.store((1, 2, 3), length=0)
        await server.store((4,), sync=False)
        assert await server.stored() == (1, 2, 3, 4), "its writer sees it"
        await x.control.crash("server-0")
        await x.control.restart("server-0")
        assert await server.stored() == (1, 2, 3)
        assert await server.stored_shape() == Shape("s", (Point(1, 2.0),), (1, "a"), Colour.BLUE)

    run(experiment)


def test_a_truncated_log_stays_truncated_through_restarts_and_grows_from_there(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        await server.store((1, 2, 3, 4), length=0)
        await server.store((9,), length=2)
        for _ in range(2):
            await x.control.crash("server-0")
            await x.control.restart("server-0")
            assert await server.stored() == (1, 2, 9)
        await server.store((10,))
        await server.store((), length=1, sync=False)
        assert await server.stored() == (1,)
        await x.control.crash("server-0")
        await x.control.restart("server-0")
        assert await server.stored() == (1, 2, 9, 10), "the truncation was not synced"

    run(experiment)


def test_a_restarted_node_draws_other_random_numbers_than_before(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        drawn = [await server.draw() for _ in range(5)]
        await x.control.crash("server-0")
        await x.control.restart("server-0")
        assert not set(drawn) & {await server.draw() for _ in range(5)}

    run(experiment)


def test_a_node_knows_whether_it_has_run_before(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.crash("server-0")
        await x.control.restart("server-0")
        assert await x.at("server-0", Server).has_been_here()
        assert not x.restarted, "nobody restarts the experimenter"

    run(experiment)


# -- pauses and timers ----------------------------------------------------------------------------------


def test_timers_fire_once_or_again_and_again_until_they_are_cancelled(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        await server.tick(0.02, 0.05)
        notes = await heard(x, 10)
        assert sorted(set(notes)) == ["once", "once later", "tick"]
        assert notes.count("once") == notes.count("once later") == 1
        await server.stop()
        count = len(await server.notes())
        await x.sleep(0.2)
        assert len(await server.notes()) == count
        await server.tick(10.0, 0.1)
        await server.stop()
        await x.sleep(0.2)
        assert len(await server.notes()) == count, "cancelled before they had fired"

    run(experiment)


def test_a_future_wakes_all_who_wait_for_it_or_times_out(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server, timeout=10.0)
        waiting = [x.spawn(server.wait_open(8.0)) for _ in range(3)]
        hasty = x.spawn(server.wait_open(0.05))
        assert type(await outcome_of(hasty)) is Timeout
        await server.open("sesame")
        assert [await task for task in waiting] == ["sesame"] * 3

    run(experiment)


def test_sleeps_at_once_take_as_long_as_one(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        assert 0.099 < await x.at("server-0", Server, timeout=20.0).sleepers(100, 0.1) < 5.0

    run(experiment)


def test_during_a_pause_calls_time_out_and_no_timer_fires(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server)
        await server.tick(0.02, 100.0)
        await heard(x, 1)
        await x.control.pause("server-0")
        assert type(await failure_of(x.client.add(1, 1, 0.3))) is Timeout
        await x.sleep(0.3)
        await x.control.resume("server-0")
        count = len(await server.notes())
        assert count < 15, "0.6 s of pause would have been 30 ticks"
        assert len(await heard(x, count + 3)) >= count + 3, "afterwards it ticks again"

    run(experiment)


def test_a_call_that_comes_during_a_short_pause_is_answered_after_it(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.pause("server-0")
        task = x.spawn(x.client.add(1, 2, 20.0))
        await x.sleep(0.1)
        assert not task.done
        await x.control.resume("server-0")
        assert await task == 3

    run(experiment)


def test_a_paused_caller_gets_the_answer_that_has_come_meanwhile(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        task = x.spawn(x.client.add_later(1, 2, 0.1, 20.0))
        await x.sleep(0.03)
        await x.control.pause("client")
        await x.sleep(0.2)
        assert not task.done
        await x.control.resume("client")
        assert await task == 3

    run(experiment)


# -- links ------------------------------------------------------------------------------------------------


def test_a_partition_lets_nothing_through_either_way_until_it_is_healed(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        there = await x.control.disturb(["client"], ["server-0"], loss=1.0)
        back = await x.control.disturb(["server-0"], ["client"], loss=1.0)
        await x.client.note(("lost",))
        assert type(await failure_of(x.client.add(1, 1, 0.2))) is Timeout
        assert await x.at("server-0", Server).add(1) == 2, "the experimenter is beside it all"
        await x.control.heal(there)
        await x.control.heal(back)
        assert await x.client.add(1) == 2
        assert await x.at("server-0", Server).notes() == []

    run(experiment)


def test_in_a_one_way_partition_the_handler_runs_though_its_answer_is_lost(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.disturb(["server-0"], ["client"], loss=1.0)
        assert type(await failure_of(x.client.add_noted(1, 2, 0.0, 0.3))) is Timeout
        assert await heard(x, 1) == ["added 1 and 2"]
        await x.control.heal()
        assert await x.client.add(1) == 2

    run(experiment)


def test_a_partition_from_everybody_spares_the_experimenter(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.disturb(None, None, loss=1.0)
        assert type(await failure_of(x.client.add(1, 1, 0.2))) is Timeout
        assert await x.at("server-0", Server).add(1) == 2
        await x.control.crash("patient-0")
        await x.control.restart("patient-0")
        assert await x.at("patient-0", Patient).wait(0.0) == "done"
        await x.control.heal()
        assert await x.client.add(1) == 2

    run(experiment)


@pytest.mark.parametrize(("source", "target"), [("client", "front-0"), ("front-0", "client")])
def test_a_partition_stops_http_requests_and_responses_too(run: Run, source: str, target: str) -> None:
    async def experiment(x: Experimenter) -> None:
        client = x.at("client-0", Client)
        assert await client.over_http(41) == b"42"
        await x.control.disturb([source], [target], loss=1.0)
        assert type(await failure_of(client.over_http(41, 0.3))) is Timeout
        await x.control.heal()
        assert await client.over_http(41, 5.0) == b"42"

    run(experiment)


def test_http_to_a_crashed_process_is_refused_and_works_after_its_restart(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        client = x.at("client-0", Client)
        assert await client.over_http(1) == b"2"
        await x.control.crash("front-0")
        outcomes = [type(await failure_of(client.over_http(1))) for _ in range(2)]
        assert outcomes[0] in (Broken, Unreachable)
        assert outcomes[1] is Unreachable
        await x.control.restart("front-0")
        assert await client.over_http(1, 5.0) == b"2"

    run(experiment)


def test_a_delay_is_added_in_its_direction_only_and_keeps_the_order(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.disturb(["client"], ["server-0"], delay=0.15)
        begin = x.now
        assert await x.client.add(1, 1, 10.0) == 2
        assert 0.149 < x.now - begin < 5.0
        texts = tuple(map(str, range(50)))
        await x.client.note(texts)
        assert await heard(x, 50) == list(texts)

    run(experiment)


def test_loss_loses_some_messages_and_not_all(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.disturb(["client"], ["server-0"], loss=0.5)
        await x.client.note(tuple(map(str, range(200))))
        await x.control.heal()
        await x.client.note(("end",))
        while "end" not in (notes := await x.at("server-0", Server).notes()):
            await x.sleep(0.01)
        assert 50 < len(notes) < 150

    run(experiment)


def test_a_duplicated_one_way_comes_twice_and_a_duplicated_call_has_one_result(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.disturb(["client"], ["server-0"], duplicate=1.0)
        await x.control.disturb(["server-0"], ["client"], duplicate=1.0)
        await x.client.note(("twice",))
        assert await heard(x, 2) == ["twice", "twice"]
        for i in range(5):
            assert await x.client.add_noted(i, i, 0.001) == 2 * i, "a second answer is nobody's"
        assert len(await heard(x, 12)) == 12, "every request came twice"

    run(experiment)


def test_reordering_lets_later_messages_overtake(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.disturb(["client"], ["server-0"], reorder=0.5)
        texts = [f"{i:03}" for i in range(100)]
        await x.client.note(tuple(texts))
        notes = await heard(x, 100)
        assert notes != texts
        assert sorted(notes) == texts

    run(experiment)


# -- clocks -----------------------------------------------------------------------------------------------


def test_a_skewed_clock_is_ahead_runs_at_its_own_speed_and_stays_so_after_a_restart(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        server = x.at("server-0", Server, timeout=20.0)
        await x.control.skew("server-0", offset=1000.0)
        assert 990.0 < await server.clock() - x.now < 1010.0
        await x.control.skew("server-0", drift=10.0)
        begin = x.now
        assert 4.99 < await server.sleepers(1, 5.0) < 60.0, "by its own clock"
        assert 0.49 < x.now - begin < 4.0, "by ours: ten times as fast"
        await x.control.crash("server-0")
        await x.control.restart("server-0")
        assert await server.clock() > 5 * x.now

    run(experiment)


def test_a_refusal_is_definite_and_a_timeout_is_not(run: Run) -> None:
    async def experiment(x: Experimenter) -> None:
        await x.control.pause("server-0")
        assert not (await failure_of(x.client.add(1, 1, 0.1))).definite
        await x.control.crash("server-0")
        await x.control.crash("patient-0")
        await settle(x.client.add(1))
        failure = await failure_of(x.client.add(1))
        assert isinstance(failure, Refused)
        assert failure.definite

    run(experiment)
