"""The services of a shop, each with data of its own, and the orchestrator that combines them.

    Orchestrator ── fill ──────────────> Users         customers, baskets
                 ── place … confirm ───> Orders        orders, outbox ── queue ──> Fulfilment   shipments
                 ── reserve, release ──> Products      catalogue, stock, reservations
                 ── charge, refund ────> Payments      payments

A checkout is a saga (Garcia-Molina and Salem, "Sagas", SIGMOD 1987): a step in each service, and for each
step another that undoes it.  What makes it hold whatever dies or is late:

* Every step is known by the order's id: a second attempt finds what the first did and does nothing.
* The order's row decides.  It goes from *placed* to *confirmed* or to *cancelling*, in one transaction.
* An undoing step leaves a mark even where there was nothing to undo: a step that comes later is declined.
* Whatever is placed or cancelling for long is carried on by the next sweep, on any orchestrator.
* A confirmed order and the message about it are written in one transaction (an *outbox*), and published
  until the queue has it; who takes it ships an order once, however often it comes.

Services reach their data, the queue and each other only through ``tables``, ``queue`` and references.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec.structs import replace

from polyarch.blocks.queue import Queue
from polyarch.blocks.tables import Row, Tables
from polyarch.core import BadArguments, Conflict, Failure, Node, Record, Refused, Timeout, Web, rpc
from polyarch.jobs.shop import PAGE, Cancelled, Declined, NotFound, OutOfStock, Shop
from polyarch.jobs.shop_books import HALF_DONE, Line, Order, Payment, Product, Reservation, Shipment, amounts

__all__ = [
    "ORDERS",
    "PAYMENTS",
    "PRODUCTS",
    "SHIPMENTS",
    "USERS",
    "Fulfilment",
    "Orchestrator",
    "Orders",
    "Payments",
    "Products",
    "Users",
]

T = TypeVar("T")


class User(Row):
    """A customer who is no guest."""

    name: str


class Basket(Row):
    """What somebody is about to order."""

    order_id: str
    customer: str
    lines: tuple[Line, ...]


class Outbox(Row):
    """An order whose confirmation is yet to be published."""

    order_id: str


class Confirmed(Record):
    """The message that an order is to be shipped."""

    order_id: str


# The tables of each service.
USERS = (User, Basket)
PRODUCTS = (Product, Reservation)
ORDERS = (Order, Outbox)
PAYMENTS = (Payment,)
SHIPMENTS = (Shipment,)


class Users(Node):
    """Customers and their baskets."""

    tables: Tables

    @rpc
    async def fill(self, order_id: str, customer: str, lines: tuple[Line, ...]) -> int:
        """Replace a basket.  A customer's first basket registers the customer."""
        async with self.tables.transaction() as t:
            if customer:
                await t.insert(User(customer))
            await t.put(Basket(order_id, customer, lines))
        return len(lines)

    @rpc
    async def basket(self, order_id: str) -> Basket:
        """What is in a basket."""
        async with self.tables.transaction() as t:
            basket = await t.get(Basket, order_id, lock=False)
        if basket is None:
            raise NotFound(f"there is no basket {order_id!r}")
        return basket


class Products(Node):
    """The catalogue, and who has how much of it."""

    tables: Tables

    @rpc
    async def browse(self, after: str) -> tuple[Product, ...]:
        """A page of the catalogue."""
        async with self.tables.transaction() as t:
            return tuple(await t.select(Product, after=after, limit=PAGE // 10))

    @rpc
    async def product(self, code: str) -> Product:
        """One product."""
        async with self.tables.transaction() as t:
            product = await t.get(Product, code, lock=False)
        if product is None:
            raise NotFound(f"there is no product {code!r}")
        return product

    @rpc
    async def supply(self, products: tuple[Product, ...]) -> int:
        """Add products, or set what they are."""
        async with self.tables.transaction() as t:
            await t.put(*products)
        return len(products)

    @rpc
    async def reserve(self, order_id: str, lines: tuple[Line, ...]) -> int:
        """Take an order's goods from the shelf, once; what they cost.  ``OutOfStock``: nothing is taken."""
        wanted = amounts(lines)
        async with self.tables.transaction() as t:
            done = await t.get(Reservation, order_id)
            if done is not None:
                if done.released:
                    raise Cancelled(f"the goods of {order_id} were given back")
                return done.total
            shelf = await t.get_many(Product, wanted)
            for code, number in wanted.items():
                if code not in shelf:
                    raise NotFound(f"there is no product {code!r}")
                if shelf[code].stock < number:
                    raise OutOfStock(f"{number} of {code} are wanted, {shelf[code].stock} are left")
            total = sum(shelf[code].price * number for code, number in wanted.items())
            await t.put(*(replace(p, stock=p.stock - wanted[p.code]) for p in shelf.values()))
            if not await t.insert(Reservation(order_id, lines, total)):
                raise Conflict(f"{order_id} is being reserved or released by somebody else")
        return total

    @rpc
    async def release(self, order_id: str) -> None:
        """Put an order's goods back, once; a ``reserve`` that comes later is declined."""
        async with self.tables.transaction() as t:
            if await t.insert(Reservation(order_id, released=True)):
                return
            held = await t.get(Reservation, order_id)
            if held is None or held.released:
                return
            back = amounts(held.lines)
            shelf = await t.get_many(Product, back)
            restocked = (replace(p, stock=p.stock + back[p.code]) for p in shelf.values())
            await t.put(*restocked, replace(held, released=True))

    @rpc
    async def reservations(self, after: str) -> tuple[Reservation, ...]:
        """A page of all reservations."""
        return await _page(self.tables, Reservation, after)


class Payments(Node):
    """Who paid what."""

    tables: Tables

    @rpc
    async def charge(self, order_id: str, customer: str, pence: int) -> None:
        """Charge an order, once."""
        async with self.tables.transaction() as t:
            if not await t.insert(Payment(order_id, customer, charged=pence)):
                done = await t.get(Payment, order_id)
                if done is None or done.closed:
                    raise Cancelled(f"the payment of {order_id} was given back")

    @rpc
    async def refund(self, order_id: str) -> None:
        """Give back what an order was charged, once; a ``charge`` that comes later is declined."""
        async with self.tables.transaction() as t:
            if not await t.insert(Payment(order_id, closed=True)):
                done = await t.get(Payment, order_id)
                if done is not None and not done.closed:
                    await t.put(replace(done, refunded=done.charged, closed=True))

    @rpc
    async def payments(self, after: str) -> tuple[Payment, ...]:
        """A page of all payments."""
        return await _page(self.tables, Payment, after)


class Orders(Node):
    """Orders, and the news that one is confirmed."""

    tables: Tables
    queue: Queue
    sweep_every: float = 0.5
    """Seconds between two looks for confirmations that were not published."""

    async def start(self) -> None:
        self.every(self.sweep_every, self.sweep)

    @rpc
    async def place(self, order_id: str, customer: str, lines: tuple[Line, ...]) -> Order:
        """Note that an order is wanted; or the order, if it is there."""
        order = Order(order_id, customer, lines)
        async with self.tables.transaction() as t:
            if await t.insert(order):
                return order
            return await t.get(Order, order_id, lock=False) or order

    @rpc
    async def order(self, order_id: str) -> Order:
        """An order as it stands."""
        async with self.tables.transaction() as t:
            order = await t.get(Order, order_id, lock=False)
        if order is None:
            raise NotFound(f"there is no order {order_id!r}")
        return order

    @rpc
    async def confirm(self, order_id: str, total: int) -> Order:
        """Decide that a placed order is one.  ``Cancelled`` if it was decided otherwise."""
        async with self.tables.transaction() as t:
            order = await t.get(Order, order_id)
            if order is None:
                raise NotFound(f"there is no order {order_id!r}")
            if order.status in ("cancelling", "cancelled"):
                raise Cancelled(order.reason)
            if order.status != "placed":
                return order
            order = replace(order, status="confirmed", total=total)
            await t.put(order, Outbox(order_id))
        self.spawn(self._publish(order_id))
        return order

    @rpc
    async def cancel(self, order_id: str, reason: str) -> Order:
        """Decide that an order is none, or no more; its goods and money are yet to be given back."""
        async with self.tables.transaction() as t:
            order = await t.get(Order, order_id)
            if order is None:
                raise NotFound(f"there is no order {order_id!r}")
            if order.status not in ("cancelling", "cancelled"):
                order = replace(order, status="cancelling", reason=reason)
                await t.put(order)
        return order

    @rpc
    async def close(self, order_id: str) -> Order:
        """Goods and money of a cancelled order are back."""
        async with self.tables.transaction() as t:
            order = await t.get(Order, order_id)
            if order is None:
                raise NotFound(f"there is no order {order_id!r}")
            if order.status == "cancelling":
                order = replace(order, status="cancelled")
                await t.put(order)
        return order

    @rpc
    async def shipped(self, order_ids: tuple[str, ...]) -> None:
        """These orders went out."""
        async with self.tables.transaction() as t:
            orders = await t.get_many(Order, order_ids)
            gone = [replace(o, status="shipped") for o in orders.values() if o.status == "confirmed"]
            if gone:
                await t.put(*gone)

    @rpc
    async def half_done(self) -> tuple[Order, ...]:
        """Orders that somebody must carry on."""
        async with self.tables.transaction() as t:
            found = [await t.select(Order, status=status, limit=PAGE) for status in HALF_DONE]
        return tuple(order for orders in found for order in orders)

    @rpc
    async def unsettled(self) -> int:
        """How many orders are neither shipped nor cancelled."""
        async with self.tables.transaction() as t:
            return sum([await t.count(Order, status=s) for s in (*HALF_DONE, "confirmed")])

    @rpc
    async def orders(self, after: str) -> tuple[Order, ...]:
        """A page of all orders."""
        return await _page(self.tables, Order, after)

    async def _publish(self, order_id: str) -> None:
        """Publish a confirmation, then forget it; what fails stays in the outbox."""
        await self.queue.publish("confirmed", Confirmed(order_id), id=order_id)
        async with self.tables.transaction() as t:
            await t.delete(Outbox, order_id)

    async def sweep(self) -> None:
        """Publish what is left in the outbox: one whose publisher died, or could not reach the queue."""
        async with self.tables.transaction() as t:
            left = await t.select(Outbox, limit=PAGE)
        for row in left:
            await self._publish(row.order_id)


class Fulfilment(Node):
    """Ships what is confirmed."""

    tables: Tables
    queue: Queue
    orders: Orders

    async def start(self) -> None:
        self.spawn(self._work())

    async def _work(self) -> None:
        while True:
            try:
                deliveries = await self.queue.take("confirmed", "fulfilment", Confirmed, at_most=32)
                if deliveries:
                    await self.ship(tuple(d.message.order_id for d in deliveries))
                for delivery in deliveries:
                    await delivery.ack()
            except Failure:  # what was not acknowledged comes again
                await self.sleep(0.1 + 0.1 * self.random.random())

    async def ship(self, order_ids: tuple[str, ...]) -> None:
        """Send these orders out, each once; the order of the two steps makes a repetition find its work."""
        async with self.tables.transaction() as t:
            gone = await t.get_many(Shipment, order_ids)
            fresh = [Shipment(id) for id in dict.fromkeys(order_ids) if id not in gone]
            if fresh:
                await t.put(*fresh)
        await self.orders.shipped(order_ids)

    @rpc
    async def shipments(self, after: str) -> tuple[Shipment, ...]:
        """A page of all shipments."""
        return await _page(self.tables, Shipment, after)


class Orchestrator(Web, Shop):
    """Combines the services into the shop.  It keeps nothing: there may be any number of it."""

    title = "A shop"
    users: Users
    products: Products
    orders: Orders
    payments: Payments
    fulfilment: Fulfilment
    attempts: int = 4
    """How often a step is tried whose outcome is not known."""
    sweep_every: float = 1.0
    """Seconds between two looks for what was left half done."""

    async def start(self) -> None:
        self.seen: set[str] = set()
        self.every(self.sweep_every, self.sweep, jitter=0.2)

    async def browse(self, after: str = "") -> tuple[Product, ...]:
        return await self.products.browse(after)

    async def product(self, code: str) -> Product:
        return await self.products.product(code)

    async def supply(self, products: tuple[Product, ...]) -> int:
        return await self.products.supply(products)

    async def fill(self, order_id: str, customer: str, lines: tuple[Line, ...]) -> int:
        if not order_id or not lines:
            raise BadArguments("a basket needs an order_id and at least one line")
        return await self.surely(lambda: self.users.fill(order_id, customer, lines))

    async def checkout(self, order_id: str) -> Order:
        basket = await self.surely(lambda: self.users.basket(order_id))
        order = await self.surely(lambda: self.orders.place(order_id, basket.customer, basket.lines))
        order = await self.carry_on(order)
        if order.status in ("cancelling", "cancelled"):
            raise Cancelled(order.reason)
        return order

    async def order(self, order_id: str) -> Order:
        return await self.orders.order(order_id)

    async def cancel(self, order_id: str) -> Order:
        order = await self.surely(lambda: self.orders.cancel(order_id, "cancelled by the customer"))
        return await self.carry_on(order)

    async def carry_on(self, order: Order) -> Order:
        """Take an order to its end from wherever it stands.  A definite refusal undoes what was done;
        what fails otherwise is a Timeout: the next sweep goes on."""
        id = order.order_id
        try:
            declined: Declined | None = None
            if order.status == "placed":
                try:
                    total = await self.surely(lambda: self.products.reserve(id, order.lines))
                    await self.surely(lambda: self.payments.charge(id, order.customer, total))
                    return await self.surely(lambda: self.orders.confirm(id, total))
                except Declined as refusal:
                    declined = refusal
                    reason = f"{refusal.code}: {refusal.detail}"
                    order = await self.surely(lambda: self.orders.cancel(id, reason))
            if order.status == "cancelling":
                await self.surely(lambda: self.products.release(id))
                await self.surely(lambda: self.payments.refund(id))
                order = await self.surely(lambda: self.orders.close(id))
        except Refused as refusal:
            raise Timeout(f"order {id} is not finished: {refusal}") from None
        if declined is not None:
            raise declined
        return order

    async def surely(self, step: Callable[[], Awaitable[T]]) -> T:
        """Try an idempotent step until its outcome is known.  A Refused comes out only if no attempt can
        have happened, or the service declined; else a Timeout."""
        worst: Failure | None = None
        for attempt in range(self.attempts):
            if attempt:
                await self.sleep(0.05 * 2**attempt * (0.5 + self.random.random()))
            try:
                return await step()
            except Declined:
                raise
            except Failure as failure:
                if worst is None or worst.definite:
                    worst = failure
        assert worst is not None
        raise worst

    async def sweep(self) -> None:
        """Carry on what was half done at the last look too: whoever began it has died, or gave up."""
        orders = await self.orders.half_done()
        old = [order for order in orders if order.order_id in self.seen]
        self.seen = {order.order_id for order in orders}
        for order in old:
            try:
                await self.carry_on(order)
            except Failure:
                pass  # declined, and undone; or for the next sweep

    async def settle(self, seconds: float = 1.0) -> int:
        end = self.now + min(seconds, 3.0)
        while True:
            left = await self.orders.unsettled()
            if not left or self.now >= end:
                return left
            await self.sleep(0.1)

    async def audit_orders(self, after: str = "") -> tuple[Order, ...]:
        return await self.orders.orders(after)

    async def audit_reservations(self, after: str = "") -> tuple[Reservation, ...]:
        return await self.products.reservations(after)

    async def audit_payments(self, after: str = "") -> tuple[Payment, ...]:
        return await self.payments.payments(after)

    async def audit_shipments(self, after: str = "") -> tuple[Shipment, ...]:
        return await self.fulfilment.shipments(after)


R = TypeVar("R", bound=Row)


async def _page(tables: Tables, table: type[R], after: str) -> tuple[R, ...]:
    async with tables.transaction() as t:
        return tuple(await t.select(table, after=after, limit=PAGE))
