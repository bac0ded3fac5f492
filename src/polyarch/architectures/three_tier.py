"""Presentation, logic and data apart: a web front, an application server, and PostgreSQL.

The front speaks HTTP and JSON and holds no logic; the logic holds no data.  Each tier is a process that can
be replaced, secured and sized by itself, and each is one that the whole shop waits for.
"""

from __future__ import annotations

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
from polyarch.blocks.shop_web import Front, ShopClient
from polyarch.blocks.table_queue import TableQueue, Waiting
from polyarch.components.declared import PostgreSQL
from polyarch.core import Architecture, System, parameter
from polyarch.jobs.shop import ShopJob

__all__ = ["ThreeTier"]


class ThreeTier(Architecture):
    """Presentation, logic and data apart: a web front, an application server, and PostgreSQL."""

    family = "vertical"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 2.3.1 (multitiered)"
    jobs = (ShopJob,)
    claims = (
        "accepted orders survive a crash of any tier",
        "each tier is a single point of failure",
    )

    cores: int = parameter(1, "cores of each tier's host, in a simulation", least=1)

    def build(self, system: System) -> None:
        tables = (*USERS, *PRODUCTS, *ORDERS, *PAYMENTS, *SHIPMENTS, Waiting)
        data = system.component("data", PostgreSQL(tables), cores=self.cores)
        queue = TableQueue(data)
        users = Users(tables=data)
        products = Products(tables=data)
        orders = Orders(tables=data, queue=queue)
        payments = Payments(tables=data)
        fulfilment = Fulfilment(tables=data, queue=queue, orders=orders)
        shop = Orchestrator(
            users=users, products=products, orders=orders, payments=payments, fulfilment=fulfilment
        )
        system.role("logic", shop, users, products, orders, payments, fulfilment, cores=self.cores)
        front = Front(behind=shop)
        system.role("front", front, cores=self.cores)
        system.clients(ShopClient(front=front))
