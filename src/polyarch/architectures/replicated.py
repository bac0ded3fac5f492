"""Three tiers with any number of stateless logic servers behind an application-layer switch.

The logic keeps nothing between two requests, so any server can take any of them: the switch spreads them by
a policy, and leaves a server alone that it cannot reach.  Data and switch are still one of each.
"""

from __future__ import annotations

from typing import Literal

from polyarch.blocks.shop import (
    ORDERS,
    PAYMENTS,
    PRODUCTS,
    SHIPMENTS,
    USERS,
    Fulfilment,
    Orchestrator,
    Orders,
    Payments,
    Products,
    Users,
)
from polyarch.blocks.shop_web import RemoteFront, ShopClient
from polyarch.blocks.switch import Policy, Switch
from polyarch.blocks.table_queue import TableQueue, Waiting
from polyarch.components.declared import Caddy, PostgreSQL
from polyarch.core import Architecture, Http, System, parameter
from polyarch.jobs.shop import ShopJob

__all__ = ["Replicated"]


class Replicated(Architecture):
    """Three tiers with any number of stateless logic servers behind an application-layer switch."""

    family = "horizontal"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 3.4.3 (server clusters)"
    jobs = (ShopJob,)
    claims = (
        "accepted orders survive a crash of any process",
        "a logic server is no single point of failure",
    )

    servers: int = parameter(3, "logic servers behind the switch", least=1, most=1000)
    switch: Literal["ours", "caddy"] = parameter("ours", "the switch: the one in blocks/switch.py, or Caddy")
    policy: Policy = parameter("least_connections", "which server the switch gives a request")
    cores: int = parameter(1, "cores of each host, in a simulation", least=1)

    def build(self, system: System) -> None:
        tables = (*USERS, *PRODUCTS, *ORDERS, *PAYMENTS, *SHIPMENTS, Waiting)
        # The server has 60 connections, for all of the logic servers together.
        pool = max(1, min(8, 50 // self.servers))
        data = system.component("data", PostgreSQL(tables, pool_size=pool), cores=self.cores)
        queue = TableQueue(data)
        users = Users(tables=data)
        products = Products(tables=data)
        orders = Orders(tables=data, queue=queue)
        payments = Payments(tables=data)
        fulfilment = Fulfilment(tables=data, queue=queue, orders=orders)
        shop = Orchestrator(
            users=users, products=products, orders=orders, payments=payments, fulfilment=fulfilment
        )
        system.role(
            "logic", shop, users, products, orders, payments, fulfilment,
            count=self.servers, cores=self.cores,
        )  # fmt: skip
        backends = system.addresses(shop)
        switch: Http
        if self.switch == "caddy":
            switch = system.component("switch", Caddy(backends, self.policy), cores=self.cores).http
        else:
            switch = Switch(backends=backends, policy=self.policy)
            system.role("switch", switch, cores=self.cores)
        front = RemoteFront(switch=switch)
        system.role("front", front, cores=self.cores)
        system.clients(ShopClient(front=front))
