"""The janitor: a small process that starts all others of a run, and after which nothing is left.

The main process of a run may be stopped by Ctrl-C, fail, or be killed with SIGKILL: then it cannot clean up.
So it starts one janitor (``guardian.Janitor``) and asks *it* to spawn the nodes and components.  The janitor
outlives the main process by a moment: when the other end of its control socket closes, it kills every
descendant, removes the run's folder, and exits.  If the janitor itself is killed, the kernel kills its
children (PR_SET_PDEATHSIG), the main process removes the folder, and if that is dead too, the next run does.

Control is JSON lines: commands on standard input, replies and events on standard output.

    {"id": 1, "do": "spawn", "argv": [...], "env": {...}, "cwd": null, "log": "/run/x.log",
     "user": null, "namespace": false, "stop_signal": 15}                        -> {"id": 1, "pid": 123}
    {"id": 2, "do": "kill", "pid": 123, "signum": 9, "whole": true}  -> {"id": 2, "sent": true}
    {"id": 3, "do": "shutdown", "grace": 1.0}                -> {"event": "ended"}, and it exits
    events: {"event": "ready", "folder": ...}, {"event": "exited", "pid": 123, "status": -9}

It runs as a plain file with ``python -I -S`` and imports only the standard library, so that it starts in
some 20 ms.  It is single-threaded, which matters twice: it forks, and PDEATHSIG fires when the *thread* that
forked ends.  Linux only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Container, Iterable

PREFIX = "polyarch-"
LOCK = ".lock"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IPC_RMID = 0
CLONE_NEWUSER = 0x1000_0000

_libc = ctypes.CDLL(None, use_errno=True)


def parents() -> dict[int, int]:
    """The parent of every process of the machine, by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    # The command's name is in parentheses and may hold anything; the parent comes after.
                    found[int(name)] = int(stat.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                pass  # it ended while we looked
    return found


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, parents before their children."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:  # grows while it is walked
        found += children.get(each, ())
    return found[1:]


def send(signum: int, pids: Iterable[int]) -> None:
    """Send a signal to those that still exist."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            pass


def remove_segments(creators: Container[int], since: float) -> None:
    """Remove the System V shared memory that these processes made after ``since`` (Unix time) and nobody
    uses.  PostgreSQL keeps a 56-byte segment as a lock on its data, which stays behind after SIGKILL."""
    with open("/proc/sysvipc/shm") as table:
        names = table.readline().split()
        for line in table:
            segment = dict(zip(names, map(int, line.split())))
            if segment["cpid"] in creators and not segment["nattch"] and segment["ctime"] >= int(since):
                _libc.shmctl(segment["shmid"], IPC_RMID, None)


def remove_folder(folder: str, seconds: float = 2.0) -> None:
    """Remove a folder and all below; tries again for a while if somebody is still writing into it."""
    deadline = time.monotonic() + seconds
    while os.path.exists(folder):
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        if os.path.exists(folder):
            time.sleep(0.02)


def make_folder(main: int) -> tuple[str, int]:
    """A new folder for the run of process ``main``, and the descriptor that holds its lock.

    The lock says that the run is alive, in whatever pid namespace: a folder whose lock can be taken is one
    whose main process and janitor were both killed, and is removed here."""
    root = tempfile.gettempdir()
    for name in os.listdir(root):
        if name.startswith(PREFIX):
            _remove_if_abandoned(os.path.join(root, name))
    folder = tempfile.mkdtemp(prefix=f"{PREFIX}{main}-", dir=root)
    os.chmod(folder, 0o711)  # PostgreSQL, as another user, must be able to pass through
    new = os.path.join(folder, LOCK + ".new")
    lock = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(new, os.path.join(folder, LOCK))  # so that the lock is never seen before it is held
    return folder, lock


def _remove_if_abandoned(folder: str) -> None:
    try:
        if os.lstat(folder).st_uid != os.getuid():
            return
        lock = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return  # not ours, not a run's folder, or gone already
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def spawn(
    argv: list[str],
    *,
    env: dict[str, str],
    cwd: str | None,
    log: str,
    user: int | None = None,
    namespace: bool = False,
) -> int:
    """Start a process and return its pid.

    It has a process group of its own, no standard input, its output appended to ``log``, and dies with us.
    ``user`` is the uid and gid to become; with ``namespace`` it only believes that it has become that, in a
    user namespace, and keeps our access to files.  Raises OSError if it cannot be started."""
    janitor = os.getpid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    read, write = os.pipe()  # closed by a successful exec; else carries the errno
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores these two, and exec would keep it
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if user is not None and namespace:
                _appear_as(user)
            elif user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            # After setuid, which clears it.
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != janitor:  # it died before the line above
                os._exit(1)
            if cwd is not None:
                os.chdir(cwd)
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            os.write(write, str(error.errno or errno.EINVAL).encode())
        finally:
            os._exit(127)
    os.close(output)
    os.close(write)
    with os.fdopen(read, "rb") as outcome:
        failed = outcome.read()
    if failed:
        os.waitpid(pid, 0)
        raise OSError(int(failed), os.strerror(int(failed)), argv[0])
    return pid


def _appear_as(user: int) -> None:
    """Enter a user namespace in which our uid and gid are called ``user``."""
    outside = {"uid_map": os.getuid(), "gid_map": os.getgid()}
    if _libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "no user namespace")
    for name, text in {"setgroups": "deny", **{k: f"{user} {v} 1" for k, v in outside.items()}}.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


class Run:
    """The processes of one run."""

    def __init__(self, folder: str, tell: Callable[[dict[str, object]], None]) -> None:
        self.folder = folder
        self.tell = tell
        self.began = time.time()
        self.children: dict[int, int] = {}  # pid -> the signal that asks it to stop
        self.seen: set[int] = set()  # every process that was ever ours

    def obey(self, command: dict[str, object]) -> float | None:
        """Carry out a command; the grace period in seconds if it was a shutdown."""
        args = dict(command)
        number, do = args.pop("id"), args.pop("do")
        if do == "shutdown":
            return float(args["grace"])  # type: ignore[arg-type]
        try:
            answer = self.spawn(**args) if do == "spawn" else self.kill(**args)  # type: ignore[arg-type]
        except OSError as error:
            answer = {"errno": error.errno, "error": error.strerror, "file": error.filename}
        self.tell({"id": number, **answer})
        return None

    def spawn(
        self,
        argv: list[str],
        env: dict[str, str],
        cwd: str | None,
        log: str,
        user: int | None,
        namespace: bool,
        stop_signal: int,
    ) -> dict[str, object]:
        pid = spawn(argv, env={**os.environ, **env}, cwd=cwd, log=log, user=user, namespace=namespace)
        self.children[pid] = stop_signal
        self.seen.add(pid)
        return {"pid": pid}

    def kill(self, pid: int, signum: int, whole: bool) -> dict[str, object]:
        """Signal a child, and if ``whole`` all its descendants.  Only we reap it, so its pid is its own."""
        if pid not in self.children:
            return {"sent": False}
        family = [pid, *self.freeze(pid)] if whole else [pid]
        send(signum, family)
        if whole and signum == signal.SIGKILL:
            self.await_end(family)
        elif whole and signum != signal.SIGSTOP:
            send(signal.SIGCONT, family)
        return {"sent": True}

    def freeze(self, pid: int) -> list[int]:
        """All descendants of ``pid``, which is stopped with them, so that none is born while we count."""
        family: list[int] = []
        send(signal.SIGSTOP, [pid])
        while len(found := descendants(pid)) > len(family):
            family = found
            send(signal.SIGSTOP, family)
        return family

    def await_end(self, family: list[int]) -> None:
        """Wait a moment until all have really ended, orphans too: a server that is started again on the same
        data would find it still in use."""
        deadline = time.monotonic() + 1
        while any(os.path.exists(f"/proc/{pid}") for pid in family) and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.001)

    def reap(self) -> bool:
        """Collect those that ended and tell of them; False if no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.seen.add(pid)  # also the orphans that came to us
            if self.children.pop(pid, None) is not None:
                self.tell({"event": "exited", "pid": pid, "status": os.waitstatus_to_exitcode(status)})

    def end(self, grace: float) -> None:
        """Ask all to stop, kill what has not after ``grace`` seconds, and remove every trace."""
        deadline = time.monotonic() + grace
        if grace > 0:
            for pid, stop in self.children.items():
                send(stop, [pid])
                send(signal.SIGCONT, [pid])
        while self.reap() and time.monotonic() < deadline:
            time.sleep(0.005)
        deadline = time.monotonic() + 5  # only a process stuck in the kernel takes longer
        while self.reap() and time.monotonic() < deadline:
            send(signal.SIGKILL, descendants(os.getpid()))
            time.sleep(0.002)
        remove_segments(self.seen, self.began)
        remove_folder(self.folder)


def main() -> None:
    """Serve the process that started us until it says so or is gone."""
    parent = os.getppid()
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    ended: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, so that the wake-up is written
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    gone = False

    def tell(message: dict[str, object]) -> None:
        nonlocal gone
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(1, data) :]
        except OSError:
            gone = True

    folder, _lock = make_folder(parent)
    run = Run(folder, tell)
    grace: float | None = None
    try:
        poll = select.poll()
        for descriptor in (0, wake):
            poll.register(descriptor, select.POLLIN)
        try:
            # Also when a forked copy of the parent still holds our control socket open.
            poll.register(os.pidfd_open(parent), select.POLLIN)
        except OSError:
            pass  # an old kernel, or the parent is dead: the socket tells
        tell({"event": "ready", "folder": folder})
        pending = b""
        while not (gone or ended or grace is not None):
            for descriptor, _ in poll.poll():
                if descriptor == wake:
                    os.read(wake, 4096)
                elif descriptor == 0 and (data := os.read(0, 1 << 16)):
                    *lines, pending = (pending + data).split(b"\n")
                    for line in lines:
                        grace = run.obey(json.loads(line)) if grace is None else grace
                else:
                    gone = True
            run.reap()
    finally:  # whatever happens to us, too
        run.end(grace or 0.0)
    tell({"event": "ended"})


if __name__ == "__main__":
    main()
