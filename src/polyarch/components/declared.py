"""Real parts as architectures declare them: what stands for each in a simulation, and what it is live.

The live side is imported when it is needed: a simulation loads no database driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from polyarch.blocks.connections import Connections
from polyarch.blocks.queue import Queue
from polyarch.blocks.simulated_queue import Broker, SimQueue
from polyarch.blocks.simulated_tables import Database, SimTables
from polyarch.blocks.switch import Policy, Switch
from polyarch.blocks.table_queue import DeclaredQueue
from polyarch.blocks.tables import Row, Tables
from polyarch.core import Env, Http, Node
from polyarch.core.messages import schema_of
from polyarch.core.node import Attachable, bind
from polyarch.core.system import Component

__all__ = ["Caddy", "Nats", "NodeJs", "PostgreSQL", "SQLite", "Traefik", "TransportSwitch"]

_shared: dict[tuple[Any, ...], Any] = {}
"""Live ports of this process, by what they lead to: its nodes share one pool of connections."""


class _DeclaredTables(Tables):
    """Can be given to a node as its tables, and is none itself yet."""

    def transaction(self) -> Any:
        raise TypeError(f"this {type(self).__name__} is declared: only a running node has transactions")


class PostgreSQL(Component, _DeclaredTables):
    """A PostgreSQL server with these tables; nodes that are wired to it hold ``Tables``."""

    def __init__(
        self, tables: Iterable[type[Row]], *, pool_size: int = 8, time_limit: float = 2.0, fsync: bool = True
    ) -> None:
        """``pool_size``: connections of each process."""
        self.tables = tuple(tables)
        self.pool_size = pool_size
        self.time_limit = time_limit
        self.fsync = fsync

    def simulated(self) -> Node:
        return Database(time_limit=self.time_limit)

    def attach(self, env: Env) -> Tables:
        return SimTables(schema_of(Database).reference(env, self.address), env)

    def attach_live(self, env: Env, address: str) -> Tables:
        from polyarch.components.postgres_tables import PostgresTables

        key = ("postgresql", address, self.tables)
        if key not in _shared:
            url = f"postgresql://polyarch@{address}/postgres"
            _shared[key] = PostgresTables(
                url, self.tables, pool_size=self.pool_size, time_limit=self.time_limit
            )
        return _Metered(_shared[key], env)

    def server(self, http_ports: Mapping[str, int]) -> Any:
        from polyarch.components.postgresql import PostgresServer

        return PostgresServer(fsync=self.fsync)


class _Metered(Tables):
    """One node's view of the tables that its process shares: what it exchanges is counted as the node's."""

    def __init__(self, tables: Any, env: Env) -> None:
        self._tables = tables
        self._env = env

    def transaction(self) -> Any:
        transaction = self._tables.transaction()
        transaction.on_traffic = cast("Any", self._env).traffic
        return transaction


class SQLite(Attachable, _DeclaredTables):
    """An SQLite file for each process: embedded, so it has no role of its own and dies with its process."""

    def __init__(
        self,
        tables: Iterable[type[Row]],
        *,
        synchronous: Literal["full", "normal"] = "full",
        time_limit: float = 2.0,
    ) -> None:
        self.tables = tuple(tables)
        self.synchronous = synchronous
        self.time_limit = time_limit
        self._databases: dict[Any, Database] = {}

    def attach(self, env: Env) -> Tables:
        # One database for each process, on the disk of the first of its nodes that asks: after a restart
        # that is the same one.
        process = cast("Any", env).process
        database = self._databases.get(process)
        if database is None or not database._env.up:
            declared = Database(
                statement_seconds=STATEMENT, row_seconds=ROW, time_limit=self.time_limit, one_writer=True
            )
            database = self._databases[process] = bind(declared, env, lambda wire: wire)
            database.open()
        return SimTables(database, env)

    def attach_live(self, env: Env, address: str) -> Tables:
        from polyarch.components.sqlite import SqliteTables

        process = cast("Any", env).process
        folder: Path = process.folder / "sqlite"
        folder.mkdir(parents=True, exist_ok=True)
        key = ("sqlite", folder / f"{process.name}.db", self.tables)
        if key not in _shared:
            _shared[key] = SqliteTables(
                key[1], self.tables, synchronous=self.synchronous, time_limit=self.time_limit
            )
        return cast("Tables", _shared[key])


STATEMENT = 10e-6
"""Core seconds for a statement of SQLite in the process of its user: a read of one row took 8 µs, a write 17,
through ``SqliteTables`` on the 2-core machine of the design's section 6."""
ROW = 1.2e-6
"""For each further row: a read of 22 rows took 33 µs."""


class Nats(Component, DeclaredQueue):
    """A NATS server with JetStream; nodes that are wired to it hold a ``Queue``."""

    def __init__(self, *, ack_wait: float = 5.0) -> None:
        self.ack_wait = ack_wait

    def simulated(self) -> Node:
        return Broker(ack_wait=self.ack_wait)

    def attach(self, env: Env) -> Queue:
        return SimQueue(schema_of(Broker).reference(env, self.address), env)

    def attach_live(self, env: Env, address: str) -> Queue:
        from polyarch.components.nats import NatsQueue

        key = ("nats", address, self.ack_wait)
        if key not in _shared:
            _shared[key] = queue = NatsQueue(f"nats://{address}", ack_wait=self.ack_wait)

            def count(messages: int, size: int | None) -> None:
                # It is told in tasks of asyncio: whose operation it was is not known there.
                current, env.current = env.current, None
                cast("Any", env).traffic(messages, size)
                env.current = current

            queue.on_traffic = count
        return cast("Queue", _shared[key])

    def server(self, http_ports: Mapping[str, int]) -> Any:
        from polyarch.components.nats import NatsServer

        return NatsServer()


class Caddy(Component):
    """Caddy before nodes that speak HTTP; nodes that are wired to it hold an ``Http``."""

    after_nodes = True

    def __init__(
        self,
        backends: tuple[str, ...],
        policy: Policy = "round_robin",
        *,
        weights: Mapping[str, float] | None = None,
        choices: int = 2,
        shun_seconds: float = 0.5,
        check_seconds: float = 0.0,
    ) -> None:
        """``backends``: addresses of the nodes.  The others mean what they mean to ``Switch``."""
        if policy not in ("random", "round_robin", "weighted", "least_connections", "two_choices"):
            raise ValueError(f"Caddy is not used with the policy {policy}: our switch has it")
        self.backends = backends
        self.policy = policy
        self.weights = whole(weights or {}, "Caddy")
        self.choices = choices
        self.shun_seconds = shun_seconds
        self.check_seconds = check_seconds

    @property
    def http(self) -> Http:
        """This, as the node that others are to hold in its place."""
        return cast("Http", self)

    def simulated(self) -> Node:
        return Switch(
            backends=self.backends, policy=self.policy, weights=dict(self.weights), choices=self.choices,
            shun_seconds=self.shun_seconds, check_seconds=self.check_seconds,
        )  # fmt: skip

    def attach(self, env: Env) -> Http:
        return cast("Http", schema_of(Switch).reference(env, self.address))

    def attach_live(self, env: Env, address: str) -> Http:
        # The runtime knows that HTTP to this address goes to Caddy.
        return self.attach(env)

    def server(self, http_ports: Mapping[str, int]) -> Any:
        from polyarch.components.caddy import CaddyServer

        at = _upstreams(self.backends, http_ports)
        policy = "least_conn" if self.policy == "least_connections" else self.policy
        checks: dict[str, Any] = {}
        if self.check_seconds:
            checks = {"health_path": "/", "check_every": self.check_seconds}
        return CaddyServer(
            tuple(at.values()), policy=policy, weights={at[b]: w for b, w in self.weights.items()},
            choices=self.choices, shun_seconds=self.shun_seconds, **checks,
        )  # fmt: skip


def whole(weights: Mapping[str, float], program: str) -> dict[str, int]:
    """Weights of servers, for a program that takes whole ones only; ValueError if one is not."""
    for weight in weights.values():
        if weight < 1 or weight != int(weight):
            raise ValueError(f"{program} takes whole weights, from 1 on, not {weight:g}")
    return {backend: int(weight) for backend, weight in weights.items()}


def _upstreams(backends: Iterable[str], http_ports: Mapping[str, int]) -> dict[str, str]:
    """Where nodes listen: ``host:port`` of each address."""
    return {address: f"127.0.0.1:{http_ports[address]}" for address in backends}


class NodeJs(Component):
    """A script of the package that serves HTTP, run by Node.js; a node stands for it in a simulation."""

    after_nodes = True

    def __init__(
        self,
        script: str,
        stand_in: Node,
        config: Mapping[str, Any],
        peers: Mapping[str, str],
        *,
        required: bool = True,
    ) -> None:
        """``config`` is given to the script, with the ports of its ``peers``: name to address of a node.
        ``required`` False: where Node.js is missing, live runs go without the service."""
        self.script = script
        self.stand_in = stand_in
        self.config = dict(config)
        self.peers = dict(peers)
        self.required = required

    def simulated(self) -> Node:
        return self.stand_in

    def attach(self, env: Env) -> Any:
        return schema_of(type(self.stand_in)).reference(env, self.address)

    def attach_live(self, env: Env, address: str) -> Any:
        return self.attach(env)

    def server(self, http_ports: Mapping[str, int]) -> Any:
        from polyarch.components.nodejs import NodeJsServer

        ports = {name: http_ports[address] for name, address in self.peers.items()}
        config = {**self.config, **ports, "name": self.address}
        return NodeJsServer(self.script, config, required=self.required)


class TransportSwitch(Component):
    """Our transport-layer switch before nodes that speak HTTP; who is wired to it holds an ``Http``."""

    after_nodes = True

    def __init__(
        self,
        backends: tuple[str, ...],
        policy: Policy = "round_robin",
        *,
        weights: Mapping[str, float] | None = None,
        choices: int = 2,
        bound: float = 1.25,
        affinity: Literal["connection", "client"] = "connection",
        requests_each: int = 0,
        shun_seconds: float = 0.5,
        check_seconds: float = 0.5,
        processes: int = 1,
    ) -> None:
        """``backends``: addresses of the nodes.  ``requests_each``: for which a client uses a connection, in
        simulations; 0: it keeps it.  ``processes``: of the live switch, which share its port; each counts
        only its own connections.  ``check_seconds`` is the live one's too.  The others:
        ``forwarder.Settings``."""
        self.backends = backends
        self.policy = policy
        self.weights = dict(weights or {})
        self.choices = choices
        self.bound = bound
        self.affinity = affinity
        self.requests_each = requests_each
        self.shun_seconds = shun_seconds
        self.check_seconds = check_seconds
        self.processes = processes

    @property
    def http(self) -> Http:
        """This, as the node that others are to hold in its place."""
        return cast("Http", self)

    def simulated(self) -> Node:
        return Connections(
            backends=self.backends, policy=self.policy, weights=self.weights, choices=self.choices,
            bound=self.bound, affinity=self.affinity, requests_each=self.requests_each,
            shun_seconds=self.shun_seconds,
        )  # fmt: skip

    def attach(self, env: Env) -> Http:
        return cast("Http", schema_of(Connections).reference(env, self.address))

    def attach_live(self, env: Env, address: str) -> Http:
        # The runtime knows that HTTP to this address goes to the switch.
        return self.attach(env)

    def server(self, http_ports: Mapping[str, int]) -> Any:
        from polyarch.components.transport_switch import TransportSwitchServer

        at = _upstreams(self.backends, http_ports)
        return TransportSwitchServer(
            tuple(at.values()), policy=self.policy, weights={at[b]: w for b, w in self.weights.items()},
            choices=self.choices, bound=self.bound, affinity=self.affinity, shun_seconds=self.shun_seconds,
            check_seconds=self.check_seconds, processes=self.processes,
        )  # fmt: skip


class Traefik(TransportSwitch):
    """Traefik as the transport-layer switch, where it is installed.  In a simulation our switch stands for
    it, which is kinder: a server that does not accept costs no client its connection."""

    def __init__(
        self, backends: tuple[str, ...], policy: Policy, *, weights: Mapping[str, float] | None = None,
        requests_each: int = 0, check_seconds: float = 0.5,
    ) -> None:  # fmt: skip
        if policy not in ("round_robin", "weighted"):
            raise ValueError(f"Traefik does not spread connections by {policy}: say --policy round_robin")
        super().__init__(
            backends, policy, weights=whole(weights or {}, "Traefik"), requests_each=requests_each,
            check_seconds=check_seconds,
        )  # fmt: skip

    def server(self, http_ports: Mapping[str, int]) -> Any:
        from polyarch.components.traefik import TraefikServer

        at = _upstreams(self.backends, http_ports)
        weights = {at[b]: int(w) for b, w in self.weights.items()}
        return TraefikServer(tuple(at.values()), weights=weights, check_seconds=self.check_seconds)
