"""One server process does everything: it speaks HTTP, holds the logic, and keeps the data in SQLite.

The smallest thing that can work.  A call between services is a call within the process; a transaction is a
write to a local file, one at a time.  The queue is a table in the same file.  There is one of everything, so
a crash of the server stops the shop; what was committed is there when it is started again.
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
from polyarch.blocks.shop_web import ShopClient
from polyarch.blocks.table_queue import TableQueue, Waiting
from polyarch.components.declared import SQLite
from polyarch.core import Architecture, System, parameter
from polyarch.jobs.shop import ShopJob

__all__ = ["ClientServer"]


class ClientServer(Architecture):
    """One server process does everything: it speaks HTTP, holds the logic, and keeps the data in SQLite."""

    family = "client-server"
    source = "van Steen and Tanenbaum, Distributed Systems, 4th ed., section 2.3.1"
    jobs = (ShopJob,)
    claims = (
        "accepted orders survive a crash of the server",
        "the server is a single point of failure",
    )

    cores: int = parameter(1, "cores of the server's host, in a simulation", least=1)

    def build(self, system: System) -> None:
        tables = SQLite((*USERS, *PRODUCTS, *ORDERS, *PAYMENTS, *SHIPMENTS, Waiting))
        queue = TableQueue(tables)
        users = Users(tables=tables)
        products = Products(tables=tables)
        orders = Orders(tables=tables, queue=queue)
        payments = Payments(tables=tables)
        fulfilment = Fulfilment(tables=tables, queue=queue, orders=orders)
        shop = Orchestrator(
            users=users, products=products, orders=orders, payments=payments, fulfilment=fulfilment
        )
        system.role("server", shop, users, products, orders, payments, fulfilment, cores=self.cores)
        system.clients(ShopClient(front=shop))
