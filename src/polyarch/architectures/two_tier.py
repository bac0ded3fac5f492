"""Thin and fat clients: the same application, cut at five places between its client and its server.

An application has a user interface, logic (here *processing*), and data.  With two machines there is one
cut, and five places for it (van Steen and Tanenbaum, figure 2.16).  What is left of the cut is on the
client:

    a   what shows the screen | the rest of the user interface, logic, data      a terminal
    b   user interface        | logic, data                                      forms, as on the early web
    c   user interface, checks| the rest of the logic, data                      forms that check themselves
    d   user interface, logic | data                                             a fat client and a database
    e   all that and some data| all data                                         a fat client with a cache

The application keeps values under keys (job ``kv``).  Its user types a key (and a value) into a screen; its
logic checks what was typed, reads ``rows`` rows, each found through the one before, to get from a key to
its entry, and changes that if nobody else has in the meantime; its data are rows with versions.

The layers are written once, each against the next one, and the cut is where a layer's calls are messages.
The server's work occupies its cores.  A client is its user's own machine, of which there are as many as
users: its work takes time, and nobody else waits for it.

What is the problem with this?  No cut is best.  Median lookup in ms (sim; a link of 0.5 or 50 ms one way;
clients as fast as the server, or 50 times slower), and per operation messages and bytes; and what one core
of the server carries, per second, from 64 users (0.5 ms, fast clients, 10 us a message):

        near, fast   near, slow   far, fast   far, slow   messages   bytes   carried
    a          4.0          4.0         202         202      127     6,970       347
    b          3.0           60         102         160      2.2       131     1,130
    c          3.1           63         102         162      2.0       118     1,137
    d          5.0           89         303         386      6.2       270     2,858
    e          2.8           88         202         286      3.2       136    16,468

Where one overtakes another (median lookup, 50 operations/s; `polyarch compare kv two_tier:split={a,b,c,d,e}
--vary latency=0.1ms,1ms,10ms,100ms`): with clients as fast as the server e is best up to 0.13 ms, then b and
c; with clients 10 times slower a up to 5.6 ms, 50 times slower a up to 38 ms, and then b.

A terminal (a) is for clients that can do nothing, near their server, and its server does everything.  Forms
(b, c) are for links that are slow, as they cross them once; checks on the client save a crossing for each
form that is wrong.  A fat client (d) crosses the link for every row, one after another, and is for near
databases of which much is asked; with data of its own (e) it is the fastest where it reads what it has read
before, and reads what is no longer true for as long as it keeps it.  And the fatter the client, the less
the server knows of who does what to its data: d and e let the client's program, whoever wrote it, write any
row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec

from polyarch.blocks.values import Values
from polyarch.core import (
    Architecture,
    BadArguments,
    Conflict,
    Node,
    Record,
    Refused,
    System,
    gather,
    parameter,
    rpc,
)
from polyarch.jobs.kv import FRESH, LINEARIZABLE, NOTHING_LOST, KeyValue, Kv, Value

__all__ = ["Costs", "Desk", "Form", "Server", "Split", "TwoTier"]

Split = Literal["a", "b", "c", "d", "e"]
Work = Callable[[float], Awaitable[Any]]
"""Takes so many seconds of the server's core, or as much longer as the machine is slower."""

SCREEN = 24 * 80
"""Characters of a terminal's screen."""


class Costs(Record):
    """Seconds of a server's core."""

    screen: float
    """For each key pressed, and each screen shown."""
    check: float
    """To check a form."""
    logic: float
    """To work on what a form asks for."""
    data: float
    """For each row read or written."""


class Row(Record):
    """A row as it is, and how often it was written."""

    value: Value
    version: int


class Form(Record):
    """What the user has typed: ``get``, ``put`` or ``compare_and_set``, and what fits it."""

    what: str
    key: str
    value: Value = None
    expected: Value = None


class Reply(Record):
    """What the application says: a value, whether it was changed, or what is wrong with the form."""

    value: Value = None
    done: bool = True
    wrong: str = ""


# -- data ---------------------------------------------------------------------------------------------------


class Data(Protocol):
    """Rows by name."""

    async def read(self, name: str) -> Row:
        """A row; version 0 if it was never written."""

    async def write(self, name: str, value: Value, version: int) -> bool:
        """Write a row if its version is still this one."""


class Rows(Data):
    """The data themselves."""

    def __init__(self, node: Node, costs: Costs) -> None:
        self.work, self.costs = node.work, costs
        self.values = Values(node.disk)

    async def read(self, name: str) -> Row:
        await self.work(self.costs.data)
        found = Row(self.values.data.get(name), _number(self.values.data.get(f"version {name}")))
        await self.values.durable()
        return found

    async def write(self, name: str, value: Value, version: int) -> bool:
        await self.work(self.costs.data)
        if _number(self.values.data.get(f"version {name}")) != version:
            return False
        self.values.change({name: value, f"version {name}": version + 1})
        await self.values.durable()
        return True


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


class SomeRows(Data):
    """Rows that were read lately, on the client; all others, and every write, are the server's."""

    def __init__(self, node: Node, behind: Data, keep: float) -> None:
        self.node, self.behind, self.keep = node, behind, keep
        self.rows: dict[str, tuple[float, Row]] = {}

    async def read(self, name: str) -> Row:
        until, row = self.rows.get(name, (0.0, Row(None, 0)))
        if self.node.now >= until:
            row = await self.behind.read(name)
            self.rows[name] = (self.node.now + self.keep, row)
        return row

    async def write(self, name: str, value: Value, version: int) -> bool:
        self.rows.pop(name, None)  # whatever comes of it, the row here is old
        return await self.behind.write(name, value, version)


# -- logic --------------------------------------------------------------------------------------------------


class Logic:
    """Checks what was typed, and does what it asks for."""

    def __init__(self, data: Data, work: Work, costs: Costs, rows: int) -> None:
        self.data, self.work, self.costs, self.rows = data, work, costs, rows

    async def check(self, form: Form) -> str:
        """What is wrong with a form."""
        await self.work(self.costs.check)
        return "" if form.key.strip() else "a key is needed"

    async def submit(self, form: Form) -> Reply:
        """Do what a form asks for, if it is right."""
        if wrong := await self.check(form):
            return Reply(None, False, wrong)
        await self.work(self.costs.logic)
        for _ in range(5):
            for i in range(self.rows - 1):
                await self.data.read(f"way {i} to {form.key}")
            row = await self.data.read(form.key)
            if form.what == "get":
                return Reply(row.value)
            if form.what == "compare_and_set" and row.value != form.expected:
                return Reply(None, False)
            if await self.data.write(form.key, form.value, row.version):
                return Reply()
        raise Conflict("others keep changing it")


# -- the user interface -------------------------------------------------------------------------------------


class Screen:
    """What users type at their terminals, and what they see.  ``submit``: where forms go."""

    def __init__(self, submit: Callable[[Form], Awaitable[Reply]], work: Work, costs: Costs) -> None:
        self.submit, self.work, self.costs = submit, work, costs
        self.lines: dict[str, dict[int, str]] = {}

    async def press(self, terminal: str, place: int, key: str) -> str:
        """A key was pressed, at some place of a line: what changes on the screen."""
        await self.work(self.costs.screen)
        self.lines.setdefault(terminal, {})[place] = key
        return key

    async def type(self, terminal: str, text: str) -> None:
        """All keys of a line."""
        for place, key in enumerate(text):
            await self.press(terminal, place, key)

    async def enter(self, terminal: str) -> str:
        """The line is complete, and is a form: the screen that comes of it."""
        line = self.lines.pop(terminal, {})
        text = "".join(line[place] for place in sorted(line))
        try:
            form = msgspec.json.decode(text, type=Form)
        except msgspec.MsgspecError as error:
            raise BadArguments(f"no form: {text!r}") from error
        reply = await self.submit(form)
        await self.work(self.costs.screen)
        return msgspec.json.encode(reply).decode().ljust(SCREEN)


class Terminal:
    """The screen of the server, from afar.  Keys go out as they are pressed; the user looks at what has come
    back before the line is entered."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def type(self, terminal: str, text: str) -> None:
        await gather(*(self.server.press(terminal, place, key) for place, key in enumerate(text)))

    async def enter(self, terminal: str) -> str:
        return await self.server.enter(terminal)


# -- the two machines ---------------------------------------------------------------------------------------


class Server(Node):
    """Has all the layers; a client calls it at the one below the cut."""

    timeout = 5.0
    costs: Costs
    rows: int

    async def start(self) -> None:
        self.data = Rows(self, self.costs)
        self.logic = Logic(self.data, self.work, self.costs, self.rows)
        self.screen = Screen(self.logic.submit, self.work, self.costs)

    @rpc
    async def press(self, terminal: str, place: int, key: str) -> str:
        """a: a key; what changes on the screen."""
        return await self.screen.press(terminal, place, key)

    @rpc
    async def enter(self, terminal: str) -> str:
        """a: the key at the end of a line; the new screen."""
        return await self.screen.enter(terminal)

    @rpc
    async def submit(self, form: Form) -> Reply:
        """b, c: a form.  It is checked here in any case: a client can be anybody's program."""
        return await self.logic.submit(form)

    @rpc
    async def read(self, name: str) -> Row:
        """d, e: a row."""
        return await self.data.read(name)

    @rpc
    async def write(self, name: str, value: Value, version: int) -> bool:
        """d, e: a changed row."""
        return await self.data.write(name, value, version)


class Desk(KeyValue):
    """Users at their machines, each with the layers above the cut."""

    server: Server
    split: Split
    costs: Costs
    rows: int
    power: float
    keep: float
    typos: float

    async def start(self) -> None:
        self.terminals = 0
        work, server = self.of_the_users_machine, self.server
        data = SomeRows(self, server, self.keep) if self.split == "e" else server
        logic = Logic(data, work, self.costs, self.rows)
        # What a form goes to when it is complete, by the cut.
        submit = {"b": server.submit, "c": self.checked, "d": logic.submit, "e": logic.submit}
        self.logic = logic
        self.screen: Screen | Terminal
        if self.split == "a":
            self.screen = Terminal(server)
        else:
            self.screen = Screen(submit[self.split], work, self.costs)

    async def of_the_users_machine(self, seconds: float) -> None:
        """Work of a machine that nobody else uses, and that is not this one: it only takes time."""
        await self.sleep(seconds / self.power)

    async def checked(self, form: Form) -> Reply:
        """c: the client finds what is wrong by itself."""
        if wrong := await self.logic.check(form):
            return Reply(None, False, wrong)
        return await self.server.submit(form)

    async def fill_in(self, form: Form) -> Reply:
        """What a user does: type a form, now and then without its key, and look at the screen."""
        self.terminals += 1
        terminal = f"{self.address} {self.terminals}"
        if self.random.chance(self.typos):
            reply = await self.line(terminal, Form(form.what, "", form.value, form.expected))
            if not reply.wrong:
                raise Refused("a form without a key was taken")
        return await self.line(terminal, form)

    async def line(self, terminal: str, form: Form) -> Reply:
        await self.screen.type(terminal, msgspec.json.encode(form).decode())
        return msgspec.json.decode(await self.screen.enter(terminal), type=Reply)

    @rpc
    async def get(self, key: str) -> Value:
        return (await self.fill_in(Form("get", key))).value

    @rpc
    async def put(self, key: str, value: str | int) -> None:
        await self.fill_in(Form("put", key, value))

    @rpc
    async def compare_and_set(self, key: str, expected: Value, value: str | int) -> bool:
        return (await self.fill_in(Form("compare_and_set", key, value, expected))).done


class TwoTier(Architecture):
    """The same application, cut at one of five places between a client and a server."""

    name = "two_tier"
    family = "vertical"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 2.3.2, figure 2.16"
    jobs = (Kv,)
    claims = (
        "linearizable, but for a client with data of its own",
        "what was answered survives a crash of the server, which is a single point of failure",
    )
    scales = "cores"

    split: Split = parameter("b", "the cut: a terminal (a) to a fat client with data of its own (e)")
    power: float = parameter(1.0, "speed of a client's machine; the server's core is 1", least=1e-3)
    rows: int = parameter(3, "rows that are read for a lookup, one after another", least=1, most=100)
    keep: float = parameter(1.0, "e: how long the client uses a row that it has read", least=0, unit="s")
    typos: float = parameter(0.1, "share of forms that are wrong at first", least=0, most=0.9)
    screen: float = parameter(20e-6, "work for a key pressed, or a screen shown", least=0, unit="s")
    check: float = parameter(50e-6, "work to check a form", least=0, unit="s")
    logic: float = parameter(500e-6, "work on what a form asks for", least=0, unit="s")
    data: float = parameter(100e-6, "work to read or write a row", least=0, unit="s")
    cores: int = parameter(1, "cores of the server's host, in a simulation", least=1)

    @property
    def disclaims(self) -> tuple[str, ...]:
        # A client that looks at what it has kept does not see the newest, at the end neither.
        return (LINEARIZABLE, FRESH, NOTHING_LOST) if self.split == "e" else ()

    @property
    def not_borne(self) -> tuple[str, ...]:
        # A form that is delivered twice is done twice; of rows, versions tell.
        return ("duplicate",)

    def build(self, system: System) -> None:
        costs = Costs(self.screen, self.check, self.logic, self.data)
        server = Server(costs=costs, rows=self.rows)
        system.role("server", server, cores=self.cores)
        desk = Desk(
            server=server, split=self.split, costs=costs, rows=self.rows, power=self.power, keep=self.keep,
            typos=self.typos,
        )  # fmt: skip
        system.clients(desk)
