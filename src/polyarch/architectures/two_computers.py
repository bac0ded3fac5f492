"""Two computers that ask each other for work: the smallest distributed system there is.

Van Steen and Tanenbaum, 4th ed., section 2.3 (clients and servers are roles, and a peer plays both); as a
textbook's first picture: two computers, a network, and messages that say from whom and to whom they are.

        user -> A  --( from A, to B: sum 3 4 )--->  B
                   <--( from B, to A: 7 )---------
                A  <--( from B, to A: sort 3 1 2 )-- B <- user
                   ---( from A, to B: 1 2 3 )------>

Neither is a client or a server: A asks B for increments and sums, B asks A to sort and to wait, and each does
for the other what it is asked.  Every message is a letter: it names its sender and its receiver, and a
computer takes no letter that is for somebody else.

What is the problem with this?  Each of them waits for the other.  A program of one thread that calls and
waits (``waiting`` is ``hold``) does nothing else meanwhile: when both call at the same moment, each waits for
an answer that the other will give when it has got its own.  Nobody is dead, and nothing happens until a
time-out ends it, by when others have come and do the same: of 2,022 operations in 20 s (100 per second, 1 ms
of work each, `sim`) 20 were answered in time; at 10 per second 92 of 225.  Two that serve while they wait
(``serve``) answer all, half of them within 3 ms.  And what each needs the other alone can give: when A was
killed after 5 s, 1,502 of 2,022 were refused, also those of B's users, whose computer was well.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

from polyarch.core import (
    Architecture,
    BadArguments,
    Failure,
    Future,
    Node,
    Record,
    Refused,
    System,
    Timeout,
    Verdict,
    parameter,
    rpc,
    settle,
)
from polyarch.jobs.compute import RIGHT, Compute, ComputeJob, Seconds

Task = Literal["increment", "add", "sort", "block"]
Waiting = Literal["serve", "hold"]
NUMBERS = {"increment": 1, "add": 2, "block": 1}
"""How many each task takes; a list to sort may have any number."""


class Misdelivered(Refused, code="misdelivered"):
    """The letter is for somebody else."""


class Letter(Record):
    """A message: who says what to whom."""

    sender: str
    receiver: str
    task: Task
    numbers: tuple[int | float, ...]
    """Of a question what to do it with, of an answer what came out."""
    work: Seconds = 0.0
    """Seconds of a core that it takes."""
    blocking: Seconds = 0.0
    """Seconds of waiting for something else that it takes."""


class Met(Record):
    """What a computer has met so far."""

    asked: int
    """Letters that it has sent, for its users."""
    done: int
    """Letters that it has answered, for the other one."""
    unanswered: int
    """Letters of its own that were not answered in time."""


class Computer(Node):
    """One of the two."""

    other: str
    """The other one's address."""
    waiting: Waiting = "serve"

    async def start(self) -> None:
        self.asked = self.done = self.unanswered = 0
        self.busy = False
        self.queue: deque[Future[None]] = deque()

    @rpc(timeout=10.0)
    async def want(
        self, task: Task, numbers: tuple[int | float, ...], work: Seconds, blocking: Seconds
    ) -> Letter:
        """A user of this computer wants something that the other one does."""
        letter = Letter(self.address, self.other, task, numbers, work, blocking)
        await self.turn()
        self.asked += 1
        try:
            answer = await self.at(self.other, Computer).ask(letter)
        except Timeout:
            self.unanswered += 1
            raise
        finally:
            self.over()
        return self.mine(answer)

    @rpc
    async def ask(self, letter: Letter) -> Letter:
        """The other one wants something of this one."""
        self.mine(letter)
        if letter.task != "sort" and len(letter.numbers) != NUMBERS[letter.task]:
            raise BadArguments(
                f"{letter.task} takes {NUMBERS[letter.task]}, not {len(letter.numbers)} numbers"
            )
        await self.turn()
        try:
            await self.work(letter.work)
            await (self.sleep if self.waiting == "serve" else self.blocking_call)(letter.blocking)
            result = RIGHT[letter.task](*([letter.numbers] if letter.task == "sort" else letter.numbers))
        finally:
            self.over()
        self.done += 1
        numbers = tuple(result) if letter.task == "sort" else (result,)
        return Letter(self.address, letter.sender, letter.task, numbers)

    def mine(self, letter: Letter) -> Letter:
        """A letter that is for this computer, and from the other one; ``Misdelivered``."""
        if (letter.sender, letter.receiver) != (self.other, self.address):
            raise Misdelivered(f"from {letter.sender} to {letter.receiver}; this is {self.address}")
        return letter

    @rpc
    async def met(self) -> Met:
        """What it has met."""
        return Met(self.asked, self.done, self.unanswered)

    # -- one thing at a time ------------------------------------------------------------------------------

    async def turn(self) -> None:
        """Wait until nothing else is being done here, if this computer does one thing at a time."""
        if self.waiting == "hold":
            if self.busy:
                mine: Future[None] = self.future()
                self.queue.append(mine)
                await mine  # whoever ends gives the turn on
            self.busy = True

    def over(self) -> None:
        """The next one's turn."""
        if self.queue:
            self.queue.popleft().set(None)
        else:
            self.busy = False


class Users(Compute):
    """The users of both: those who sit at A want sums, those at B want lists sorted."""

    a: Computer
    b: Computer

    async def increment(
        self, value: int, work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> int:
        return int((await self.a.want("increment", (value,), work, blocking)).numbers[0])

    async def add(
        self, a: float, b: float, work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> float:
        return (await self.a.want("add", (a, b), work, blocking)).numbers[0]

    async def sort(
        self, numbers: tuple[float, ...], work: Seconds = 0.0, blocking: Seconds = 0.0, client: int = 0
    ) -> tuple[float, ...]:
        return (await self.b.want("sort", numbers, work, blocking)).numbers

    async def block(self, seconds: Seconds, work: Seconds = 0.0, client: int = 0) -> float:
        return (await self.b.want("block", (seconds,), work, seconds)).numbers[0]


class TwoComputers(Architecture):
    """Two computers that ask each other for work: A asks B for sums, B asks A to sort."""

    family = "peer-to-peer"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 2.3"
    jobs = (ComputeJob,)
    claims = ("each is client and server at once", "each is a single point of failure for the other's users")
    metrics = {
        "a_asked": "letters from A to B, for A's users",
        "b_asked": "letters from B to A, for B's users",
        "unanswered": "letters that were not answered in time",
    }

    waiting: Waiting = parameter("serve", "what a computer does while it waits: serve the other, or nothing")
    cores: int = parameter(1, "cores of each computer, in a simulation", least=1)

    def build(self, system: System) -> None:
        a = Computer(other="b-0", waiting=self.waiting)
        b = Computer(other="a-0", waiting=self.waiting)
        system.role("a", a, cores=self.cores)
        system.role("b", b, cores=self.cores)
        system.clients(Users(a=a, b=b))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        a, b = await settle(x.at("a-0", Computer).met(), x.at("b-0", Computer).met())
        if isinstance(a, Failure) or isinstance(b, Failure):
            return {}, []
        metrics = {"a_asked": a.asked, "b_asked": b.asked, "unanswered": a.unanswered + b.unanswered}
        return metrics, []
