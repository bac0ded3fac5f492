"""Each service is a process with data of its own; an orchestrator stands in front, a message queue between.

Nobody reads another's tables: what a service knows it is told in messages.  A service can be replaced, scaled
and lost by itself; what was one transaction becomes a saga (``blocks/shop.py`` says how it holds).
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
from polyarch.blocks.shop_web import ShopClient
from polyarch.components.declared import Nats, PostgreSQL
from polyarch.core import Architecture, System, parameter
from polyarch.jobs.shop import ShopJob

__all__ = ["Microservices"]


class Microservices(Architecture):
    """Each service is a process with data of its own; an orchestrator stands in front, a queue between."""

    family = "services"
    source = "Newman, Building Microservices, 2nd ed., chapters 1, 4 and 6"
    jobs = (ShopJob,)
    claims = (
        "accepted orders survive a crash of any process",
        "customers can browse while users, orders, payments, fulfilment or the queue are down",
        "customers can check out while fulfilment or the queue is down",
    )

    data: Literal["separate", "shared"] = parameter(
        "separate", "a PostgreSQL server for each service, or one for all"
    )
    cores: int = parameter(1, "cores of each host, in a simulation", least=1)

    def build(self, system: System) -> None:
        if self.data == "separate":
            of_users, of_products, of_orders, of_payments, of_fulfilment = (
                system.component(f"{name}-data", PostgreSQL(tables), cores=self.cores)
                for name, tables in (
                    ("users", USERS),
                    ("products", PRODUCTS),
                    ("orders", ORDERS),
                    ("payments", PAYMENTS),
                    ("fulfilment", SHIPMENTS),
                )
            )
        else:
            tables = (*USERS, *PRODUCTS, *ORDERS, *PAYMENTS, *SHIPMENTS)
            shared = system.component("data", PostgreSQL(tables), cores=self.cores)
            of_users = of_products = of_orders = of_payments = of_fulfilment = shared
        queue = system.component("queue", Nats(), cores=self.cores)
        users = Users(tables=of_users)
        products = Products(tables=of_products)
        orders = Orders(tables=of_orders, queue=queue)
        payments = Payments(tables=of_payments)
        fulfilment = Fulfilment(tables=of_fulfilment, queue=queue, orders=orders)
        shop = Orchestrator(
            users=users, products=products, orders=orders, payments=payments, fulfilment=fulfilment
        )
        system.role("users", users, cores=self.cores)
        system.role("products", products, cores=self.cores)
        system.role("orders", orders, cores=self.cores)
        system.role("payments", payments, cores=self.cores)
        system.role("fulfilment", fulfilment, cores=self.cores)
        system.role("front", shop, cores=self.cores)
        system.clients(ShopClient(front=shop))
