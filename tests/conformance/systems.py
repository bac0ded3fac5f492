"""The systems that the conformance suite runs: every kind of message, handler, timer and write, once."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from polyarch.core import (
    Architecture,
    Broken,
    Env,
    Node,
    Record,
    Refused,
    Request,
    System,
    Thread,
    Timeout,
    Timer,
    Web,
    first,
    gather,
    get,
    oneway,
    post,
    rpc,
    settle,
)
from polyarch.core.node import Attachable
from polyarch.core.tasks import Ledger, Task
from polyarch.runtimes.base import Experimenter

Run = Callable[[Callable[[Experimenter], Coroutine[Any, Any, Any]]], Any]
"""The fixture ``run``: perform an experiment, give its result."""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(Record):
    x: int
    y: float


class Tree(Record):
    value: int
    children: tuple[Tree, ...] = ()


class Shape(Record):
    name: str
    points: tuple[Point, ...]
    pair: tuple[int, str]
    colour: Colour
    label: str | None = None
    tags: dict[str, int] = {}
    data: bytes = b""


class SoldOut(Refused, code="sold-out"):
    """A service's own refusal, with an ``__init__`` of its own."""

    def __init__(self, product: int, left: int) -> None:
        super().__init__(f"product {product}: {left} left")


class Server(Node):
    """Whatever a message can ask for."""

    async def start(self) -> None:
        self.heard: list[str] = []
        self.kept: list[int] = []
        self.timers: list[Timer] = []
        self.opened = self.future()

    # -- messages

    @rpc
    def has_been_here(self) -> bool:
        return self.restarted

    @rpc
    def add(self, a: int, b: int = 1) -> int:
        return a + b

    @rpc
    async def add_later(self, a: int, b: int, seconds: float) -> int:
        await self.sleep(seconds)
        return a + b

    @rpc
    async def add_noted(self, a: int, b: int, seconds: float) -> int:
        await self.sleep(seconds)
        self.heard.append(f"added {a} and {b}")
        return a + b

    @rpc(timeout=0.15)
    async def impatient(self, seconds: float) -> str:
        await self.sleep(seconds)
        return "done"

    @oneway
    def note(self, text: str) -> None:
        self.heard.append(text)

    @oneway
    async def note_later(self, text: str, seconds: float) -> None:
        await self.sleep(seconds)
        self.heard.append(text)

    @rpc
    def notes(self) -> list[str]:
        return self.heard

    @rpc
    def forget(self) -> None:
        self.heard = []

    # -- values

    @rpc
    def same(self, shape: Shape) -> Shape:
        assert type(shape.points) is tuple
        assert type(shape.points[0]) is Point
        assert type(shape.colour) is Colour
        return shape

    @rpc
    def deep(self, tree: Tree) -> Tree:
        return tree

    @rpc
    def change(self, numbers: list[int]) -> list[int]:
        numbers.append(99)
        self.kept = numbers
        return numbers

    @rpc
    def keep(self) -> list[int]:
        return self.kept

    @rpc
    def size(self, data: bytes) -> int:
        return len(data)

    @rpc
    def blob(self, size: int) -> bytes:
        return b"x" * size

    @rpc
    async def blob_later(self, size: int) -> bytes:
        await self.sleep(0.01)
        return b"x" * size

    # -- failures

    @rpc
    def refuse(self, how: str) -> None:
        if how == "sold-out":
            raise SoldOut(17, 0)
        if how == "private":

            class Private(Refused, code="private"):
                pass

            raise Private("a code that callers may not know")
        raise {"refused": Refused, "timeout": Timeout, "broken": Broken}[how]("in these words")

    @rpc
    def bug(self) -> None:
        raise ZeroDivisionError("by nothing")

    @rpc
    async def bug_later(self) -> None:
        await self.sleep(0.01)
        raise ZeroDivisionError("by nothing")

    @rpc
    def lie(self) -> int:
        return "no number"  # type: ignore[return-value]

    @rpc
    async def lie_later(self) -> int:
        await self.sleep(0.01)
        return "no number"  # type: ignore[return-value]

    @rpc
    def enormous(self) -> int:
        return 1 << 70

    # -- time

    @rpc
    def clock(self) -> float:
        return self.now

    @rpc
    def tick(self, every: float, once: float) -> None:
        """Tick again and again, and once; ``stop`` cancels."""
        self.timers = [
            self.every(every, self.heard.append, "tick"),
            self.after(once, self.note, "once"),
            self.after(once, self.note_later, "once later", 0.01),
        ]

    @rpc
    def stop(self) -> None:
        for timer in self.timers:
            timer.cancel()

    @rpc
    async def sleepers(self, count: int, seconds: float) -> float:
        """How long ``count`` sleeps take at once."""
        begin = self.now
        await gather(*(self.slept(seconds) for _ in range(count)))
        return self.now - begin

    async def slept(self, seconds: float) -> None:
        await self.sleep(seconds)

    @rpc
    async def in_threads(self, count: int, seconds: float) -> float:
        """How long so many threads take that block at once."""
        begin = self.now
        threads = [self.thread() for _ in range(count)]
        await gather(*(blocked(thread, seconds) for thread in threads))
        for thread in threads:
            thread.end()
        return self.now - begin

    @rpc
    async def working_threads(self, count: int, seconds: float) -> float:
        """How long so many threads take that compute at once."""
        begin = self.now
        threads = [self.thread() for _ in range(count)]
        await gather(*(worked(thread, seconds) for thread in threads))
        for thread in threads:
            thread.end()
        return self.now - begin

    @rpc
    async def in_own_thread(self, seconds: float) -> None:
        await self.blocking_call(seconds)

    @rpc
    async def twice_at_once(self) -> str:
        thread = self.thread()
        first = self.spawn(blocked(thread, 0.05))
        try:
            await thread.work(0.01)
        except RuntimeError as error:
            return str(error)
        finally:
            await first
            thread.end()
        return ""

    @rpc
    async def wait_open(self, patience: float) -> str:
        return str(await self.opened.within(patience))

    @rpc
    def open(self, word: str) -> None:
        self.opened.set(word)
        self.opened = self.future()

    # -- disk and randomness

    @rpc
    async def store(self, values: tuple[int, ...], length: int | None = None, sync: bool = True) -> None:
        if length is not None:
            self.disk.truncate("log", length)
        self.disk.append("log", *values)
        self.disk.put("shape", Shape("s", (Point(1, 2.0),), (1, "a"), Colour.BLUE))
        if sync:
            await self.disk.sync()

    @rpc
    def stored(self) -> tuple[int, ...]:
        return tuple(self.disk.entries("log", int))

    @rpc
    def stored_shape(self) -> Shape | None:
        return self.disk.get("shape", Shape | None, None)  # type: ignore[arg-type]

    @rpc
    def draw(self) -> str:
        return str(self.random.bits64())


async def blocked(thread: Thread, seconds: float) -> None:
    await thread.blocking_call(seconds)


async def worked(thread: Thread, seconds: float) -> None:
    await thread.work(seconds)


class Other:
    """A port that is not the server's: the same names mean something else."""

    timeout = 1.0

    @rpc
    def note(self, text: str) -> None: ...

    @oneway
    def add(self, a: int) -> None: ...

    @rpc
    def nothing_like_it(self) -> None: ...


class Strange:
    """The server's messages with other parameters."""

    timeout = 1.0

    @rpc
    def add(self, a: str, b: list[int], c: int) -> int: ...

    @rpc
    def impatient(self) -> str: ...

    @oneway
    def note(self, number: int) -> None: ...


class Loose:
    """The server's messages with parameters that let anything pass at the sender."""

    timeout = 1.0

    @rpc
    def same(self, shape: Shape) -> Shape: ...

    @rpc
    def add(self, a: float, b: str) -> int: ...


class Patient(Node):
    """Callers wait for ever."""

    timeout: ClassVar[float | None] = None

    @rpc
    async def wait(self, seconds: float) -> str:
        await self.sleep(seconds)
        return "done"


class Left(Node):
    """Two nodes in one process, several times: wires stay inside."""

    right: Right

    @rpc
    async def ask(self, numbers: list[int]) -> tuple[str, str]:
        before = list(numbers)
        there = await self.right.where(numbers)
        assert numbers == before, "nodes of one process share nothing either"
        return self.address, there


class Right(Node):
    @rpc
    def where(self, numbers: list[int]) -> str:
        numbers.append(1)
        return self.address


class Late(Node):
    """Its start takes a while, and asks somebody else first."""

    server: Server

    async def start(self) -> None:
        await self.sleep(0.1)
        self.sum = await self.server.add(20, 22)

    @rpc
    def answer(self) -> int:
        return self.sum


class Relay(Node):
    """Between a caller and the server, to the depth that is asked for."""

    server: Server

    @rpc
    async def down(self, levels: int, word: str) -> str:
        if levels:
            return await self.at(self.address).down(levels - 1, word)
        self.server.note(word)
        left, right = await gather(self.server.add(1, 2), self.server.add(3, 4))
        return f"{word} {left + right}"

    @rpc
    async def refuse(self, how: str) -> None:
        await self.server.refuse(how)

    @rpc
    async def outcomes(self) -> list[str]:
        """What settle, gather and first make of good and bad answers."""
        s = self.server
        settled = await settle(s.add(1), s.refuse("refused"), s.add(2))
        words = [f"{type(o).__name__} {o}" for o in settled]
        try:
            await gather(s.add_later(1, 1, 0.02), s.refuse("timeout"), s.refuse("refused"))
        except Timeout as failure:
            words.append(str(failure))
        quick = await first(2, s.add_later(1, 1, 0.5), s.add(5), s.refuse("refused"), s.add(6))
        words.append(str(sorted(quick)))
        try:
            await first(2, s.refuse("refused"), s.add(1))
        except Refused as failure:
            words.append(str(failure))
        return words


class Front(Web):
    """HTTP before the server."""

    server: Server

    @get("/sums/{a}")
    async def sum(self, a: int, b: int = 1) -> int:
        return await self.server.add(a, b)

    @post("/shapes")
    async def shape(self, shape: Shape, count: int) -> tuple[Shape, ...]:
        return (await self.server.same(shape),) * count

    @post("/refusals/{how}")
    async def refuse(self, how: str) -> None:
        await self.server.refuse(how)


class Client(Node):
    """The clients' end; it waits as long as it is told to."""

    timeout: ClassVar[float | None] = None
    server: Server
    patient: Patient
    front: Front

    @rpc
    async def add(self, a: int, b: int = 1, patience: float = 1.0) -> int:
        return await self.at(self.server, Server, timeout=patience).add(a, b)

    @rpc
    async def add_later(self, a: int, b: int, seconds: float, patience: float = 10.0) -> int:
        return await self.at(self.server, Server, timeout=patience).add_later(a, b, seconds)

    @rpc
    async def add_noted(self, a: int, b: int, seconds: float, patience: float = 10.0) -> int:
        return await self.at(self.server, Server, timeout=patience).add_noted(a, b, seconds)

    @rpc
    async def wait(self, seconds: float) -> str:
        return await self.patient.wait(seconds)

    @rpc
    def note(self, texts: tuple[str, ...]) -> None:
        for text in texts:
            self.server.note(text)

    @rpc
    async def over_http(self, a: int, patience: float = 1.0) -> bytes:
        front = self.at(self.front, Front, timeout=patience)
        return (await front.http(Request("GET", f"/sums/{a}"))).body


class Lab(Architecture):
    """One of everything."""

    family = "client-server"
    source = "none"
    jobs = ()

    def build(self, system: System) -> None:
        server, right, patient = Server(), Right(), Patient()
        front = Front(server=server)
        system.role("server", server)
        system.role("patient", patient)
        system.role("relay", Relay(server=server))
        system.role("late", Late(server=server))
        system.role("pair", Left(right=right), right, count=2)
        system.role("front", front)
        system.clients(Client(server=server, patient=patient, front=front))


class Member(Node):
    """One of many."""

    @rpc
    async def neighbours(self, addresses: tuple[str, ...]) -> list[str]:
        return await gather(*(self.at(address).name() for address in addresses))

    @rpc
    def name(self) -> str:
        return self.address


class CrowdClient(Node):
    member: Member

    @rpc
    def nothing(self) -> None: ...


class Crowd(Architecture):
    """Many nodes, some of which share a process, and one that clients know."""

    family = "peers"
    source = "none"
    jobs = ()

    def build(self, system: System) -> None:
        door = Member()
        system.role("door", door)
        system.role("member", Member(), count=5)
        system.clients(CrowdClient(member=door))


class Broke(Architecture):
    """Ends its own processes while they start."""

    family = "none"
    source = "none"
    jobs = ()

    def build(self, system: System) -> None:
        if sys.argv[0].endswith("child.py"):
            raise RuntimeError("no way to start")
        member = Member()
        system.role("member", member)
        system.clients(CrowdClient(member=member))


class Wall(Attachable):
    """A port that no node can be given."""

    def attach(self, env: Env) -> Any:
        raise ValueError("no way to attach")

    def attach_live(self, env: Env, address: str) -> Any:
        raise ValueError("no way to attach")


class Blind(Node):
    wall: Wall


class Walled(Architecture):
    """Its node cannot be built where it should run."""

    family = "none"
    source = "none"
    jobs = ()

    def build(self, system: System) -> None:
        member = Member()
        system.role("member", member)
        system.role("blind", Blind(wall=Wall()))
        system.clients(CrowdClient(member=member))


async def accounted(x: Experimenter, operation: Coroutine[Any, Any, Any]) -> tuple[Any, int, int, int]:
    """The operation's result, and what it cost: messages, bytes, depth."""
    ledger = Ledger()
    task = Task(x._env, operation, ledger, 0)
    task.resume()
    result = await task
    return result, ledger.messages, ledger.bytes, task.depth
