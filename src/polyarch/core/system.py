"""Declaring an architecture: its parameters, its roles, and what is wired to what.

    class Replicated(Architecture):
        "The three tiers, with N stateless logic servers behind an application-layer switch."

        family = "horizontal"
        source = "Tanenbaum and van Steen, Distributed Systems, 4th ed., section 2.3.2"
        jobs = (Shop,)
        servers: int = parameter(3, "logic servers behind the switch", least=1)

        def build(self, system: System) -> None:
            data = system.component("data", PostgreSQL())
            logic = Logic(tables=data)
            system.role("logic", logic, count=self.servers)
            switch = Switch(backends=system.addresses(logic))
            system.role("switch", switch)
            system.clients(ShopClient(front=switch))

Wires are object references: a declared node given as another's field is where its messages will go.  A
role is a kind of process; each of its ``count`` processes holds one of each of the role's nodes, and is
what a crash kills.  Within a role, wires stay inside the process; into a role of several processes one
cannot wire: put a switch in front, or give the addresses.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from polyarch.core.messages import schema_of
from polyarch.core.node import Attachable, Env, Node, config_of, fields_of
from polyarch.core.records import Record

__all__ = ["Architecture", "Component", "Parameter", "Process", "Role", "System", "Verdict", "parameter"]

C = TypeVar("C", bound="Component")


class Verdict(Record):
    """Whether something that must be true is."""

    name: str
    """What should hold, as a sentence: ``no order was charged twice``."""
    holds: bool
    detail: str = ""
    """The evidence: how much was checked, or the first thing that was wrong."""
    undecided: bool = False
    """It is not known: the search for evidence ended without a result."""
    promised: bool = True
    """False: the architecture does not claim it (``Architecture.disclaims``): told, but no failure."""

    @property
    def broken(self) -> bool:
        """Whether a promise was not kept."""
        return self.promised and not self.holds


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of an architecture: a command-line option, a line of its page, an axis of a sweep."""

    default: Any
    doc: str
    least: float | None = None
    most: float | None = None
    unit: str = ""
    name: str = ""
    type: Any = None

    def parse(self, value: Any) -> Any:
        """A value of the right type and range, from a command-line word or a Python value; ``ValueError``
        says what would be right."""
        try:
            parsed = msgspec.convert(value, self.type, strict=not isinstance(value, str))
        except msgspec.ValidationError:
            raise ValueError(f"--{self.option} takes {self.wanted}, not {value!r}") from None
        for bound, wrong in ((self.least, "least"), (self.most, "most")):
            if bound is not None and (parsed < bound if wrong == "least" else parsed > bound):
                raise ValueError(f"--{self.option} takes {self.wanted}, not {value!r}")
        return parsed

    @property
    def option(self) -> str:
        """``servers_per_region`` -> ``servers-per-region``"""
        return self.name.replace("_", "-")

    @property
    def wanted(self) -> str:
        """``an integer from 1 to 9``"""
        if typing.get_origin(self.type) is Literal:
            return "one of " + ", ".join(map(str, typing.get_args(self.type)))
        names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
        text = names.get(self.type, str(self.type))
        if self.least is not None and self.most is not None:
            text += f" from {self.least:g} to {self.most:g}"
        elif self.least is not None:
            text += f" of at least {self.least:g}"
        elif self.most is not None:
            text += f" of at most {self.most:g}"
        return text + (f" ({self.unit})" if self.unit else "")


def parameter(
    default: Any, doc: str, *, least: float | None = None, most: float | None = None, unit: str = ""
) -> Any:
    """A parameter of an architecture or a job: ``servers: int = parameter(3, "logic servers", least=1)``."""
    return Parameter(default, doc, least, most, unit)


class Parameterised:
    """A class whose annotated ``parameter(…)`` fields are given by keyword, checked, and listed."""

    parameters: ClassVar[dict[str, Parameter]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {n: v for n, v in cls.__dict__.items() if isinstance(v, Parameter)}
        hints = typing.get_type_hints(cls) if own else {}
        for name, p in own.items():
            if name not in hints:
                raise TypeError(f"{cls.__name__}.{name}: a parameter needs a type")
            own[name] = dataclasses.replace(p, name=name, type=hints[name])
            setattr(cls, name, p.default)
        cls.parameters = {**cls.parameters, **own}

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has: {known}")
            setattr(self, name, self.parameters[name].parse(value))

    @property
    def values(self) -> dict[str, Any]:
        """The value of every parameter, defaults too."""
        return {name: getattr(self, name) for name in self.parameters}


class Component(Attachable):
    """A real part that is not made of nodes (PostgreSQL, NATS, Caddy): a role of its own.

    On ``sim`` a node takes its place (``simulated``); on ``local`` the real thing is started.  In both,
    the nodes that are wired to it hold the port that ``attach`` gives them.
    """

    role: str = ""
    """Its role's name in the system; set by ``System.component``."""

    @property
    def address(self) -> str:
        """The address of the node that stands for it in a simulation."""
        return f"{self.role}-0"

    @abc.abstractmethod
    def simulated(self) -> Node:
        """The node that does its work in a simulation, with the same port and a stated cost."""

    @abc.abstractmethod
    def attach(self, env: Env) -> Any:
        """The port object for a node of a simulation."""

    @abc.abstractmethod
    def attach_live(self, env: Env, address: str) -> Any:
        """The port object for a live node; ``address`` is where the real component listens."""

    @abc.abstractmethod
    def server(self, http_ports: Mapping[str, int]) -> Any:
        """The live component (``components.base.Component``): start, healthy, address, kill, stop.
        ``http_ports``: where the nodes that speak HTTP listen; empty unless ``after_nodes``."""

    after_nodes: ClassVar[bool] = False
    """Whether it can be started only when the nodes listen."""


@functools.lru_cache(maxsize=32)
def _numbered(stem: str, count: int) -> tuple[str, ...]:
    """``stem-0``, ``stem-1``, …: the same strings for all who ask, as there may be 100,000 of them."""
    return tuple(f"{stem}-{i}" for i in range(count))


@dataclasses.dataclass
class Role:
    """A kind of process: its nodes, and how many of it there are."""

    name: str
    nodes: tuple[Node, ...]
    count: int
    cores: int = 1
    cost: float | None = None
    regions: tuple[str, ...] = ()
    component: Component | None = None
    per_process: int = 1
    """How many instances share a process (and are killed together)."""

    def process_names(self) -> list[str]:
        """``logic-0``, ``logic-1``, …: what faults name."""
        return list(_numbered(self.name, -(-self.count // self.per_process)))


@dataclasses.dataclass
class Process:
    """One process of a role: ``logic-1`` with the nodes in it, as (address, declaration)."""

    name: str
    role: Role
    index: int
    nodes: list[tuple[str, Node]]


class System:
    """What an architecture builds: roles, their nodes and their wires."""

    def __init__(self, *, per_process: int = 1) -> None:
        """``per_process``: how many instances of a role of one node share a process, where there are many."""
        self.per_process = per_process
        self.roles: dict[str, Role] = {}
        self.client: Node | None = None
        self._of: dict[int, tuple[Role, str]] = {}  # id of a declared node: its role, its address stem
        self._places: dict[str, tuple[Role | None, int]] | None = None

    def role(
        self,
        name: str,
        *nodes: Node,
        count: int = 1,
        cores: int = 1,
        cost: float | None = None,
        regions: Sequence[str] = (),
        together: int = 1,
    ) -> Role:
        """Declare ``count`` processes, each with one of each of ``nodes``.  ``cores``: of each one's host,
        ``cost``: core seconds for each message (both for simulations); ``regions``: process *i* stands
        in region *i* modulo their number.  ``together``: of a role of one node, so many of the ``count``
        instances share a process in any case (they are one peer's virtual nodes)."""
        if not nodes:
            raise ValueError(f"role {name!r} has no nodes")
        if count < 1:
            raise ValueError(f"role {name!r}: a count of {count}; at least 1 is needed")
        per_process = self.per_process * together if len(nodes) == 1 else 1
        return self._add(Role(name, nodes, count, cores, cost, tuple(regions), None, per_process))

    def component(self, name: str, component: C, *, cores: int = 1) -> C:
        """Declare a real part as a role of one process."""
        component.role = name
        node = component.simulated()
        # A simulated component states its own costs, in its own parameters.
        self._add(Role(name, (node,), 1, cores, 0.0, (), component))
        return component

    def _add(self, role: Role) -> Role:
        if role.name in self.roles:
            raise ValueError(f"two roles are called {role.name!r}")
        self.roles[role.name] = role
        for node in role.nodes:
            if id(node) in self._of:
                raise ValueError(f"{type(node).__name__} is in role {self._of[id(node)][0].name!r} already")
            stem = role.name if len(role.nodes) == 1 else type(node).__name__.lower()
            self._of[id(node)] = (role, stem)
        return role

    def clients(self, client: Node) -> None:
        """How the job's clients reach the system: a node with the operations of the job's port."""
        self.client = client

    def addresses(self, node: Node | str, count: int | None = None) -> tuple[str, ...]:
        """The addresses of all instances of a declared node; or, before it is declared, of ``count``
        processes of the one-node role of that name."""
        if isinstance(node, str):
            return _numbered(node, count or self.roles[node].count)
        role, stem = self._of[id(node)]
        return _numbered(stem, role.count)

    def processes(self) -> list[Process]:
        """All processes, in the order of declaration."""
        result = []
        for role in self.roles.values():
            kinds = [(self.addresses(node), node) for node in role.nodes]
            for i, name in enumerate(role.process_names()):
                instances = range(i * role.per_process, min((i + 1) * role.per_process, role.count))
                nodes = [(addresses[n], node) for n in instances for addresses, node in kinds]
                result.append(Process(name, role, i, nodes))
        return result

    def role_of(self, address: str) -> tuple[Role | None, int]:
        """The role of the node at an address and its number in it; (None, 0) for a client."""
        if self._places is None:
            self._places = {
                address: (role, i)
                for role, stem in self._of.values()
                for i, address in enumerate(_numbered(stem, role.count))
            }
        return self._places.get(address, (None, 0))

    def wired(self, wire: Any, role: Role | None, index: int) -> str | Attachable | tuple[Any, ...]:
        """Where a wire leads, seen from instance ``index`` of ``role`` (None: from a client): the address
        of a node, or a component or other attachable."""
        if isinstance(wire, tuple):
            return tuple(self.wired(w, role, index) for w in wire)
        if isinstance(wire, Attachable) and not isinstance(wire, Node):
            return wire
        if not isinstance(wire, Node):
            raise TypeError(f"{wire!r} is neither a node nor a component: it cannot be wired")
        if id(wire) not in self._of:
            raise ValueError(f"{type(wire).__name__} is wired to something but is in no role")
        target, stem = self._of[id(wire)]
        if target is role:
            return f"{stem}-{index}"
        if target.count == 1:
            return f"{stem}-0"
        raise ValueError(
            f"{type(wire).__name__} is in {target.count} processes of role {target.name!r}: "
            "wire a switch to it, or give system.addresses(…)"
        )

    def check(self) -> None:
        """All wires lead to nodes that take the messages of what they are typed as; there is a client."""
        for role in self.roles.values():
            for node in role.nodes:
                self._check_wires(node, role)
        if self.client is None:
            raise ValueError("the architecture says no clients(…)")
        self._check_wires(self.client, None)

    def _check_wires(self, node: Node, role: Role | None) -> None:
        fields = fields_of(type(node))
        for name, wire in config_of(node)[1].items():
            self.wired(wire, role, 0)
            if isinstance(wire, Node) and (lacking := _not_taken(type(wire), fields[name])):
                place, leads_to = f"{type(node).__name__}.{name}", type(wire).__name__
                raise ValueError(f"{place} is wired to {leads_to}, which does not take: {lacking}")


def _not_taken(kind: type, port: type) -> str:
    """The messages of a port that a class of nodes does not take."""
    taken = schema_of(kind).methods
    return ", ".join(name for name in schema_of(port).methods if name not in taken)


class Architecture(Parameterised, abc.ABC):
    """One arrangement of roles that offers jobs; one file of the catalogue.  Its docstring's first line is
    its summary."""

    name: ClassVar[str] = ""
    """The name on the command line; the file's name unless given."""
    family: ClassVar[str]
    source: ClassVar[str]
    """Where it comes from: paper or book, section."""
    jobs: ClassVar[tuple[type, ...]]
    """The jobs that it offers."""
    claims: ClassVar[tuple[str, ...]] = ()
    """What it promises, and the verdicts and the blast radius then confirm or refute."""
    gaps: ClassVar[dict[str, str]] = {}
    """Jobs that it does not offer, and why."""
    scales: ClassVar[str] = ""
    """The parameter that says how large it is, which ``polyarch scale`` sets; unless given, the first that
    there is of ``nodes``, ``servers``, ``shards`` and ``cores``."""
    metrics: ClassVar[dict[str, str]] = {}
    """Its own metrics: name to meaning and unit."""

    @property
    def disclaims(self) -> tuple[str, ...]:
        """Names of verdicts that it does not promise, with these parameters: they are told, but are no
        failure of the run."""
        return ()

    def disclaims_under(self, faults: Sequence[str]) -> tuple[str, ...]:
        """``disclaims`` of a run with these faults and this churn (as on the command line): what holds while
        membership is stable, say, may be promised only then."""
        return self.disclaims

    @property
    def not_borne(self) -> tuple[str, ...]:
        """Kinds of faults that it does not promise to bear, with these parameters (``skew``, where clocks are
        trusted): ``polyarch check`` does not do them at random, unless they are asked for by name."""
        return ()

    @property
    def takeover(self) -> float:
        """Seconds after which others have taken over from a process that has died, with these parameters, if
        that is a matter of waiting (a TTL, a lease): comparisons keep one down for longer than that, and so
        tell what fails for a while from what fails until it is back."""
        return 0.0

    def unfit(self, job: type) -> str | None:
        """Why it cannot do a job with these parameters, though it offers it; None: it can."""
        return None

    @abc.abstractmethod
    def build(self, system: System) -> None:
        """Declare the roles, their nodes and wires, and the clients."""

    def system(self, *, per_process: int = 1) -> System:
        """What it builds, checked: wires lead to what takes their messages, and the clients offer all
        operations of its jobs."""
        system = System(per_process=per_process)
        self.build(system)
        system.check()
        client = type(system.client)
        for job in self.jobs:
            if lacking := _not_taken(client, job.port):  # type: ignore[attr-defined]
                raise ValueError(f"the clients, {client.__name__}, do not offer what its job asks: {lacking}")
        return system

    async def ready(self, x: Any) -> None:
        """Returns when the system is ready for load (an overlay has formed, a leader is elected); ``x`` is
        the runtime's ``Experimenter``."""

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        """After the load: its own ``metrics``, and verdicts on its own state."""
        return {}, []

    async def glance(self, x: Any) -> dict[str, Any]:
        """At the end of a load, while faults that last so long still hold: those of its metrics that show
        them.  Quick: the faults wait for it."""
        return {}

    def invariants(self, nodes: Mapping[str, Any], seen: dict[Any, Any]) -> Iterable[str]:
        """What is wrong with the states of the nodes that run, by address: ``polyarch check`` asks again and
        again.  ``seen``: remembered for the run.  Each text is ``what should hold: what was found``."""
        return ()

    def leader(self, nodes: Mapping[str, Any]) -> str | None:
        """The address of the node that matters most now (a leader, a coordinator, who holds the token), if
        there is one: ``polyarch check`` aims at it."""
        return None

    async def operate(self, x: Any, random: Any) -> None:
        """One thing that an operator might do while it runs (add a server, remove another one), chosen by
        ``random``; what may fail is caught here.  ``polyarch check`` does it at any time, and in bad ones."""
