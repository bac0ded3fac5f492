"""Whatever happens to the main process or the janitor, nothing of a run is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from polyarch.runtimes.local.guardian import Janitor

pytestmark = pytest.mark.local
SLEEP = ["sleep", "1000"]


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie, which only waits to be collected, counts."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually(condition: Callable[[], bool], seconds: float = 3.0) -> bool:
    """Whether the condition becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def run(test: Callable[[Janitor], Awaitable[None]]) -> None:
    async def body() -> None:
        async with await Janitor.start() as janitor:
            await test(janitor)

    asyncio.run(body())


def start_main(tmp_path: Path, script: str) -> tuple[subprocess.Popen[str], Path, list[int]]:
    """A main process with its own janitor; its folder, and the pids that it printed."""
    program = f"""
import asyncio, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
from polyarch.runtimes.local.guardian import Janitor
async def main():
    janitor = await Janitor.start()
    log = janitor.folder / "log"
    async def spawn(*argv):
        return (await janitor.spawn(argv, log=log)).pid
    pids = [janitor.pid]
{textwrap.indent(textwrap.dedent(script), "    ")}
    print(janitor.folder, *pids, flush=True)
    await asyncio.sleep(100)
asyncio.run(main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    folder, *pids = process.stdout.readline().split()
    return process, Path(folder), [int(pid) for pid in pids]


DAEMON = """
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
print(os.getpid(), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killing_the_parent_leaves_no_process_and_no_folder(tmp_path: Path, signum: int) -> None:
    script = f"""
    pids += [await spawn("sleep", "1000"), await spawn("sh", "-c", "trap '' TERM INT; sleep 1000; :")]
    await spawn(sys.executable, "-c", {DAEMON!r})
    while not (daemon := log.read_text()):
        await asyncio.sleep(0.01)
    pids.append(int(daemon))
    """
    main, folder, pids = start_main(tmp_path, script)
    assert len(pids) == 4
    assert folder.exists()
    assert not any(map(gone, pids))
    main.send_signal(signum)
    main.wait()
    assert eventually(lambda: all(map(gone, pids)))
    assert eventually(lambda: not folder.exists())


def test_killing_the_janitor_kills_its_children_and_the_parent_removes_the_folder() -> None:
    async def test(janitor: Janitor) -> None:
        process = await janitor.spawn(SLEEP, log=janitor.folder / "log")
        os.kill(janitor.pid, signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
        assert eventually(lambda: gone(process.pid))
        assert not janitor.folder.exists()
        with pytest.raises(ChildProcessError):
            await janitor.spawn(SLEEP, log=Path("/dev/null"))

    run(test)


def test_a_folder_whose_parent_and_janitor_were_killed_is_removed_by_the_next_run(tmp_path: Path) -> None:
    main, folder, pids = start_main(tmp_path, "pids.append(await spawn('sleep', '1000'))")
    main.send_signal(signal.SIGSTOP)  # so that it cannot clean up
    os.kill(pids[0], signal.SIGKILL)
    main.kill()
    main.wait()
    assert eventually(lambda: all(map(gone, pids)))
    assert folder.exists()
    other, other_folder, _ = start_main(tmp_path, "")
    assert not folder.exists()
    third, _, _ = start_main(tmp_path, "")
    assert other_folder.exists(), "the folder of a run that is alive is left alone"
    for each in other, third:
        each.kill()
        each.wait()
    assert eventually(lambda: not os.listdir(tmp_path))


def test_stopping_ends_even_what_ignores_the_polite_signal_within_two_seconds() -> None:
    async def test(janitor: Janitor) -> None:
        log = janitor.folder / "log"
        processes = [
            await janitor.spawn(SLEEP, log=log),
            await janitor.spawn(["sh", "-c", "trap '' TERM; echo ready; sleep 1000; :"], log=log),
            await janitor.spawn(SLEEP, log=log),
        ]
        await processes[2].kill(signal.SIGSTOP)
        while not log.read_text():
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await janitor.stop()
        assert time.monotonic() - began < 10
        statuses = [await process.wait() for process in processes]
        assert statuses == [-signal.SIGTERM, -signal.SIGKILL, -signal.SIGTERM]
        assert not janitor.folder.exists()

    run(test)


def test_the_whole_family_is_paused_resumed_and_killed() -> None:
    async def test(janitor: Janitor) -> None:
        script = "setsid sleep 1000 & sleep 1000"  # a child in a session of its own, as PostgreSQL's are
        leader = await janitor.spawn(["sh", "-c", script], log=janitor.folder / "log")
        me = psutil.Process(leader.pid)
        assert eventually(lambda: len(me.children(recursive=True)) == 2)
        family = [me, *me.children(recursive=True)]
        await leader.kill(signal.SIGSTOP, whole=True)
        assert eventually(lambda: all(each.status() == psutil.STATUS_STOPPED for each in family))
        await leader.kill(signal.SIGCONT, whole=True)
        assert eventually(lambda: all(each.status() != psutil.STATUS_STOPPED for each in family))
        await leader.kill(whole=True)
        assert await leader.wait() == -signal.SIGKILL
        assert not any(psutil.pid_exists(each.pid) for each in family), "all have ended when kill returns"
        assert await leader.kill() is False, "nobody is signalled by a pid that is free again"

    run(test)


def test_exits_are_told_with_their_status_even_when_immediate() -> None:
    async def test(janitor: Janitor) -> None:
        seen: list[int] = []
        process = await janitor.spawn(["sleep", "0.1"], log=janitor.folder / "log")
        process.on_exit = seen.append
        codes = [
            await (await janitor.spawn(["sh", "-c", f"exit {code}"], log=janitor.folder / "log")).wait()
            for code in range(3)
        ]
        assert codes == [0, 1, 2]
        assert await process.wait() == 0
        assert seen == [0]
        assert process.exited

    run(test)


def test_a_program_that_does_not_exist_is_an_os_error_and_the_janitor_lives_on() -> None:
    async def test(janitor: Janitor) -> None:
        with pytest.raises(FileNotFoundError, match="no-such-program"):
            await janitor.spawn(["no-such-program"], log=janitor.folder / "log")
        assert await (await janitor.spawn(["true"], log=janitor.folder / "log")).wait() == 0

    run(test)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_process_of_another_user_also_dies_with_the_janitor() -> None:
    async def test(janitor: Janitor) -> None:
        process = await janitor.spawn(SLEEP, log=janitor.folder / "log", user=65534)
        assert psutil.Process(process.pid).uids().real == 65534
        os.kill(janitor.pid, signal.SIGKILL)
        assert eventually(lambda: gone(process.pid))

    run(test)
