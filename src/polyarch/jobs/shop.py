"""Serve a shop: browse, fill a basket, check out and pay, cancel.

The port, the workload, and what must be true afterwards.  Money is in pence.  An order's id is chosen by
the client with its basket: whoever asks for the same order again gets the same order.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from polyarch.blocks.online_retail import Invoice, catalogue_of, invoices
from polyarch.blocks.popularity import Popularity
from polyarch.blocks.tables import Row, key_of
from polyarch.core import Job, Node, Operation, Random, Record, Refused, Verdict, Visit, get, parameter, post
from polyarch.core.job import Done

__all__ = [
    "Books",
    "Cancelled",
    "Declined",
    "Line",
    "NotFound",
    "Order",
    "OutOfStock",
    "Payment",
    "Product",
    "Reservation",
    "Shipment",
    "Shop",
    "ShopJob",
    "amounts",
]

PAGE = 200
"""Rows that one page of a listing holds at most."""

Quantity = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Status = Literal["placed", "confirmed", "shipped", "cancelling", "cancelled"]
HALF_DONE = ("placed", "cancelling")
"""States in which an order is on its way to another, and somebody must take it there."""


class Product(Row):
    """One article and how much of it is on the shelf."""

    code: str
    name: str
    price: Annotated[int, msgspec.Meta(ge=0)]
    """Pence for one."""
    stock: int


class Line(Record):
    """So many of one product."""

    product: str
    quantity: Quantity


class Order(Row):
    """An order as it stands: placed, confirmed, shipped; or cancelling, cancelled."""

    order_id: str
    customer: str
    """Empty for a guest."""
    lines: tuple[Line, ...]
    total: int = 0
    """Pence; known when it is confirmed."""
    status: Status = "placed"
    reason: str = ""
    """Why it was cancelled."""
    indexed = ("status",)


class Reservation(Row):
    """What an order has taken from the shelf."""

    order_id: str
    lines: tuple[Line, ...] = ()
    total: int = 0
    released: bool = False
    """Given back (or given up before it was made)."""


class Payment(Row):
    """What an order's customer was charged, and got back, in pence."""

    order_id: str
    customer: str = ""
    charged: int = 0
    refunded: int = 0
    closed: bool = False
    """Refunded (or given up before it was charged): it is never charged again."""


class Shipment(Row):
    """An order that went out, in so many parcels."""

    order_id: str
    parcels: int = 1


class Declined(Refused, code="declined"):
    """The shop says no and means it: a proper answer, which trying again does not change."""


class OutOfStock(Declined, code="out-of-stock"):
    """There is not enough of a product."""


class NotFound(Declined, code="not-found"):
    """There is no such product, basket or order."""


class Cancelled(Declined, code="cancelled"):
    """The order was cancelled: it cannot be checked out."""


class Shop(Node):
    """The port: what a shop's clients can ask for."""

    timeout = 5.0

    @get("/products")
    async def browse(self, after: str = "") -> tuple[Product, ...]:
        """Some products in the order of their codes, from the first one after ``after``."""
        raise NotImplementedError

    @get("/products/{code}")
    async def product(self, code: str) -> Product:
        """One product."""
        raise NotImplementedError

    @post("/baskets/{order_id}")
    async def fill(self, order_id: str, customer: str, lines: tuple[Line, ...]) -> int:
        """Put lines (instead of what is there) into the basket that is to become this order; how many.
        A guest's ``customer`` is empty."""
        raise NotImplementedError

    @post("/orders/{order_id}")
    async def checkout(self, order_id: str) -> Order:
        """Order what is in the basket, and pay.  ``OutOfStock``, ``Cancelled``, ``NotFound``.  After a
        Timeout: ask again, or for the order."""
        raise NotImplementedError

    @get("/orders/{order_id}")
    async def order(self, order_id: str) -> Order:
        """An order as it stands."""
        raise NotImplementedError

    @post("/orders/{order_id}/cancel")
    async def cancel(self, order_id: str) -> Order:
        """Give the goods back, and the money."""
        raise NotImplementedError

    @post("/products")
    async def supply(self, products: tuple[Product, ...]) -> int:
        """Add products, or set what they are; how many."""
        raise NotImplementedError

    @get("/audit/settle")
    async def settle(self, seconds: float = 1.0) -> int:
        """Wait until every order is shipped or cancelled, at most so long; how many are not."""
        raise NotImplementedError

    @get("/audit/orders")
    async def audit_orders(self, after: str = "") -> tuple[Order, ...]:
        """A page of all orders, from the first id after ``after``."""
        raise NotImplementedError

    @get("/audit/reservations")
    async def audit_reservations(self, after: str = "") -> tuple[Reservation, ...]:
        """A page of all reservations."""
        raise NotImplementedError

    @get("/audit/payments")
    async def audit_payments(self, after: str = "") -> tuple[Payment, ...]:
        """A page of all payments."""
        raise NotImplementedError

    @get("/audit/shipments")
    async def audit_shipments(self, after: str = "") -> tuple[Shipment, ...]:
        """A page of all shipments."""
        raise NotImplementedError


def amounts(lines: Iterable[Line]) -> Counter[str]:
    """How many of each product."""
    total: Counter[str] = Counter()
    for line in lines:
        total[line.product] += line.quantity
    return total


class Books(Record):
    """Everything that the shop has written down."""

    products: tuple[Product, ...]
    orders: tuple[Order, ...]
    reservations: tuple[Reservation, ...]
    payments: tuple[Payment, ...]
    shipments: tuple[Shipment, ...]


R = TypeVar("R", bound=Row)


class ShopJob(Job):
    """Serve a shop: browse, fill a basket, check out and pay, cancel.

    A visit looks at products, fills a basket, checks out, looks at the order, and sometimes cancels it.
    Popularity, basket sizes, quantities, prices, guests, returning customers and cancellations are those
    of a real retailer (``shop_profile.json``).  How much people look before they buy is not in the data:
    the default is the shopping mix of the TPC-W benchmark, 80 % browsing and 20 % ordering interactions,
    which for the two ordering interactions of a visit (basket, checkout) makes 8 looks.
    """

    name = "shop"
    port = Shop
    answers = frozenset({"declined", "out-of-stock", "not-found", "cancelled"})
    runtime = "local"

    profile: dict[str, Any] = msgspec.json.decode(
        files("polyarch.jobs").joinpath("shop_profile.json").read_bytes()
    )

    products: int = parameter(profile["products"], "products in the catalogue", least=1, most=100_000)
    stock: int = parameter(1_000_000, "units of each product at the start", least=0, most=10**9)
    browse_per_order: float = parameter(8.0, "mean number of looks at products before each order", least=0)
    guests: float = parameter(profile["guest_share"], "share of orders without a customer", least=0, most=1)
    cancellations: float = parameter(
        profile["cancellation_share"], "cancellations as a share of all documents", least=0, most=0.5
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self._cancel = self.cancellations / (1 - self.cancellations)
        # Each look is a visit of its own; an order's is fill, checkout, order, and a cancel now and then.
        self.mean_visit = (self.browse_per_order + 3 + self._cancel) / (self.browse_per_order + 1)
        self.catalogue = list(self._invented())
        """What ``prepare`` puts on the shelves, and ``check`` adds up again."""
        self.left_out: Counter[str] = Counter()
        """What of a trace was not replayed: reason to number."""

    # -- the workload ---------------------------------------------------------------------------------------

    def _invented(self) -> Iterator[Product]:
        # Prices belong to the catalogue, not to a run: evenly from the distribution, in random order.
        quantiles, n = self.profile["unit_price_gbp_quantiles"], self.products
        pounds = [_at(quantiles, (i + 0.5) / n) for i in range(n)]
        Random(1997).shuffle(pounds)
        for i, price in enumerate(pounds):
            yield Product(f"p{i:05d}", f"Product {i}", round(100 * price), self.stock)

    def visits(self, random: Random) -> Iterator[Visit]:
        popularity = Popularity(self.products, self.profile["popularity_zipf_exponent"])
        # What is popular shall not be one end of the table.
        codes = [p.code for p in self.catalogue]
        Random(7).shuffle(codes)

        def draw() -> str:
            return codes[popularity.draw(random)]

        customers = _Customers(self.profile["orders_per_customer_quantiles"])
        go_on = self.browse_per_order / (1 + self.browse_per_order)
        while True:
            while random.chance(go_on):  # a geometric number with the right mean
                # One look in ten is at a list.
                yield (Operation("browse" if random.chance(0.1) else "product", (draw(),)),)
            order_id = f"{random.bits64():016x}"
            customer = "" if random.chance(self.guests) else customers.next(random)
            count = round(_at(self.profile["lines_per_order_quantiles"], random.random()))
            chosen: dict[str, None] = {}
            # To draw the last unpopular ones of a small catalogue would take for ever.
            while len(chosen) < min(count, (self.products + 1) // 2):
                chosen[draw()] = None
            lines = tuple(
                Line(code, round(_at(self.profile["quantity_quantiles"], random.random()))) for code in chosen
            )
            visit = [
                Operation("fill", (order_id, customer, lines)),
                Operation("checkout", (order_id,)),
                Operation("order", (order_id,)),
            ]
            if random.chance(self._cancel):
                visit.append(Operation("cancel", (order_id,)))
            yield tuple(visit)

    def trace(self, path: Path) -> Iterator[tuple[float, Visit]]:
        """Replay real orders in the format of Online Retail; ``ValueError`` for what cannot be read.

        The file is read twice: now, for the catalogue that ``prepare`` will fill (each product at the
        first price it was sold at, with enough stock), and again as the visits are asked for.  What is no
        product (postage, discounts, bank charges) or no sale (write-offs) is left out and counted in
        ``left_out``.  A cancellation cancels its customer's latest order with one of its products; one of
        an order from before the file is left out.
        """
        self.left_out.clear()
        self.catalogue = [
            Product(p.code, p.name, p.price, max(self.stock, p.sold))
            for p in catalogue_of(path, self.left_out)
        ]
        return self._replayed(invoices(path, Counter()))

    def _replayed(self, trace: Iterable[Invoice]) -> Iterator[tuple[float, Visit]]:
        orders: dict[str, list[tuple[str, frozenset[str]]]] = {}  # by customer, latest last
        for invoice in trace:
            products = frozenset(line.product for line in invoice.lines)
            known = orders.setdefault(invoice.customer, [])
            if not invoice.cancels:
                known.append((invoice.id, products))
                lines = tuple(Line(line.product, line.quantity) for line in invoice.lines)
                fill = Operation("fill", (invoice.id, invoice.customer, lines))
                yield invoice.seconds, (fill, Operation("checkout", (invoice.id,)))
                continue
            match = next((o for o in reversed(known) if o[1] & products), None)
            if match is None or not invoice.customer:
                self.left_out["cancellations of orders that are not in the file"] += 1
                continue
            known.remove(match)
            yield invoice.seconds, (Operation("cancel", (match[0],)),)

    async def prepare(self, client: Any) -> None:
        for i in range(0, len(self.catalogue), PAGE):
            await client.supply(tuple(self.catalogue[i : i + PAGE]))

    # -- the correctness model ------------------------------------------------------------------------------

    async def audit(self, client: Any) -> Books:
        # What a crash left half done is put right in a sweep; a lost message comes again after a while.
        for _ in range(15):
            if not await client.settle(1.0):
                break
        return Books(
            await _all(client.browse),
            await _all(client.audit_orders),
            await _all(client.audit_reservations),
            await _all(client.audit_payments),
            await _all(client.audit_shipments),
        )

    def check(self, history: Sequence[Done], audit: Any) -> list[Verdict]:
        books = audit if isinstance(audit, Books) else msgspec.convert(msgspec.to_builtins(audit), Books)
        return Checks(history, books, self.catalogue).verdicts()


class _Customers:
    """Who orders next: a new customer, or one who comes back, as often as in the profile."""

    def __init__(self, quantiles: Sequence[tuple[float, float]]) -> None:
        self._quantiles = quantiles
        self._mean = sum(round(_at(quantiles, (i + 0.5) / 1000)) for i in range(1000)) / 1000
        self._count = 0
        self._returning: list[str] = []

    def next(self, random: Random) -> str:
        if self._returning and not random.chance(1 / self._mean):
            at = random.below(len(self._returning))
            self._returning[at], self._returning[-1] = self._returning[-1], self._returning[at]
            return self._returning.pop()
        self._count += 1
        customer = f"c{self._count:06d}"
        self._returning += [customer] * (round(_at(self._quantiles, random.random())) - 1)
        return customer


def _at(quantiles: Sequence[tuple[float, float]], u: float) -> float:
    """The value at probability ``u``.  Between known quantiles it is linear; in the last hundredth, of which
    only the largest value in 10,000 is known, it follows the power law that leads there."""
    for (p, low), (q, high) in itertools.pairwise(quantiles):
        if u <= q < 1:
            return low + (high - low) * (u - p) / (q - p)
    rest = max((1 - u) / (1 - p), 0.01)
    return low * math.pow(rest, -math.log(high / low) / math.log(100))


async def _all(page: Callable[[str], Any]) -> tuple[Any, ...]:
    """All rows of a listing that comes in pages."""
    rows: list[Any] = []
    after = ""
    while more := await page(after):
        rows += more
        after = str(key_of(more[-1]))
    return tuple(rows)


class Checks:
    """The history and the books, held against each other."""

    def __init__(self, history: Sequence[Done], books: Books, catalogue: Sequence[Product]) -> None:
        self.books = books
        self.catalogue = {p.code: p for p in catalogue}
        self.orders = {o.order_id: o for o in books.orders}
        self.reservations = {r.order_id: r for r in books.reservations}
        self.payments = {p.order_id: p for p in books.payments}
        self.shipments = {s.order_id: s for s in books.shipments}
        self.checkouts = {d.arguments[0]: d for d in history if d.name == "checkout"}
        self.cancels = {d.arguments[0]: d for d in history if d.name == "cancel"}
        self.filled = {d.arguments[0]: d for d in history if d.name == "fill" and d.outcome == "ok"}

    def verdicts(self) -> list[Verdict]:
        accepted = [d for d in self.checkouts.values() if d.outcome == "ok"]
        refused = [d for d in self.checkouts.values() if d.outcome == "fail"]
        sold = [o for o in self.orders.values() if o.status in ("confirmed", "shipped")]
        shelf = self.books.products
        payments, cancels, orders = self.payments.values(), self.cancels.values(), self.orders.values()
        sales = f"{len(sold)} sales"
        return [
            _verdict("no order is lost", f"{len(accepted)} accepted", map(self._lost, accepted)),
            _verdict("a refusal means no", f"{len(refused)} refused", map(self._came_true, refused)),
            _verdict("cancelled stays cancelled", f"{len(cancels)} asked", map(self._not_cancelled, cancels)),
            _verdict("no order is charged twice", f"{len(payments)} payments", map(self._twice, payments)),
            _verdict("every sale is paid, and nothing else", sales, self._unpaid(sold)),
            _verdict("totals add up", sales, map(self._wrong_total, sold)),
            _verdict("stock adds up", f"{len(shelf)} products", self._wrong_stock()),
            _verdict("every sale is shipped once", sales, self._wrong_shipments(sold)),
            _verdict("nothing is left half done", f"{len(orders)} orders", map(_half_done, orders)),
        ]

    def _lost(self, checkout: Done) -> str | None:
        """An accepted order that is not in the data, or not as it was ordered."""
        id = checkout.arguments[0]
        order = self.orders.get(id)
        if order is None:
            return f"{id}, accepted at {checkout.end:.3f} s, is not in the data"
        may_be_cancelled = id in self.cancels and self.cancels[id].outcome != "fail"
        if order.status in ("cancelling", "cancelled") and not may_be_cancelled:
            return f"{id}, accepted at {checkout.end:.3f} s, is {order.status} though nobody cancelled it"
        if id in self.filled and order.lines != _lines(self.filled[id]):
            return f"{id} has other lines than were put into its basket"
        return None

    def _came_true(self, checkout: Done) -> str | None:
        order = self.orders.get(checkout.arguments[0])
        if order is not None and order.status in ("confirmed", "shipped"):
            return f"{order.order_id}, refused ({checkout.code}) at {checkout.end:.3f} s, is {order.status}"
        return None

    def _not_cancelled(self, cancel: Done) -> str | None:
        order = self.orders.get(cancel.arguments[0])
        status = order.status if order is not None else "not in the data"
        if cancel.outcome == "ok" and status not in ("cancelling", "cancelled"):
            return f"{cancel.arguments[0]} was cancelled at {cancel.end:.3f} s, and is {status}"
        return None

    def _due(self, id: str) -> int | None:
        """What the order costs, by its reservation or its lines; None if it is not in the data."""
        order = self.orders.get(id)
        if order is None:
            return None
        prices = [(self.catalogue.get(code), n) for code, n in amounts(order.lines).items()]
        return sum(p.price * n for p, n in prices if p is not None)

    def _twice(self, payment: Payment) -> str | None:
        due = self._due(payment.order_id)
        if due is not None and payment.charged > due:
            return f"{payment.order_id} was charged {_pounds(payment.charged)} and costs {_pounds(due)}"
        return None

    def _unpaid(self, sold: Sequence[Order]) -> Iterator[str | None]:
        for order in sold:
            payment = self.payments.get(order.order_id, Payment(order.order_id))
            if payment.charged - payment.refunded != order.total:
                yield (
                    f"{order.order_id} is {order.status} for {_pounds(order.total)}, of which "
                    f"{_pounds(payment.charged - payment.refunded)} is paid"
                )
        sales = {order.order_id for order in sold}
        for id, payment in self.payments.items():
            if id not in sales and payment.charged != payment.refunded:
                status = self.orders[id].status if id in self.orders else "not in the data"
                kept = _pounds(payment.charged - payment.refunded)
                yield f"{kept} was taken for {id}, which is {status}"

    def _wrong_total(self, order: Order) -> str | None:
        due = self._due(order.order_id)
        if order.total != due:
            return f"{order.order_id} costs {_pounds(order.total)}, its lines {_pounds(due or 0)}"
        return None

    def _wrong_stock(self) -> Iterator[str | None]:
        for order in self.orders.values():
            held = self.reservations.get(order.order_id, Reservation(order.order_id, released=True))
            if order.status in ("confirmed", "shipped"):
                if held.released or amounts(held.lines) != amounts(order.lines):
                    yield f"{order.order_id} is {order.status}, and its goods are not taken from the shelf"
            elif order.status == "cancelled" and not held.released:
                yield f"{order.order_id} is cancelled, and its goods are not back"
        taken: Counter[str] = Counter()
        for reservation in self.reservations.values():
            if not reservation.released:
                taken += amounts(reservation.lines)
        shelf = {p.code: p.stock for p in self.books.products}
        for code, at_first in self.catalogue.items():
            left = shelf.get(code)
            if left is None:
                yield f"{code} is not in the data"
            elif left < 0:
                yield f"{code} has a stock of {left}"
            elif left + taken[code] != at_first.stock:
                yield f"{code}: {left} on the shelf and {taken[code]} taken, of {at_first.stock}"

    def _wrong_shipments(self, sold: Sequence[Order]) -> Iterator[str | None]:
        for order in sold:
            parcels = self.shipments[order.order_id].parcels if order.order_id in self.shipments else 0
            if parcels != 1:
                yield f"{order.order_id} is {order.status} and was shipped {parcels} times"
        for shipment in self.shipments.values():
            if shipment.order_id not in self.orders:
                yield f"{shipment.order_id} was shipped and is not in the data"
            elif shipment.parcels > 1:
                yield f"{shipment.order_id} was shipped {shipment.parcels} times"


def _lines(fill: Done) -> tuple[Line, ...]:
    """What was put into a basket; a history holds plain values."""
    return msgspec.convert(msgspec.to_builtins(fill.arguments[2]), tuple[Line, ...])


def _half_done(order: Order) -> str | None:
    return f"{order.order_id} is {order.status}" if order.status in HALF_DONE else None


def _verdict(name: str, of: str, problems: Iterable[str | None]) -> Verdict:
    """A sentence with counts, and the first problem."""
    found = list(dict.fromkeys(p for p in problems if p))
    first = f"; the first: {found[0]}" if found else ""
    return Verdict(name, not found, f"{of}, {len(found)} wrong{first}")


def _pounds(pence: int) -> str:
    return f"£{pence / 100:.2f}"
