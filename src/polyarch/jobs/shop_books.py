"""The books of a shop: what it writes down, and what must be true of them when all is over.

Money is in pence.  An order takes its goods from the shelf (a reservation), its customer's money (a payment),
and goes out (a shipment); each may be written down by another service, on another disk, and all of it must
add up in the end, whatever failed on the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

import msgspec

from polyarch.blocks.tables import Row
from polyarch.core.job import Done, Verdict
from polyarch.core.records import Record

__all__ = [
    "HALF_DONE",
    "Books",
    "Checks",
    "Line",
    "Order",
    "Payment",
    "Product",
    "Reservation",
    "Shipment",
    "amounts",
]

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


class Books(Record):
    """Everything that the shop has written down."""

    products: tuple[Product, ...]
    orders: tuple[Order, ...]
    reservations: tuple[Reservation, ...]
    payments: tuple[Payment, ...]
    shipments: tuple[Shipment, ...]


def amounts(lines: Iterable[Line]) -> Counter[str]:
    """How many of each product."""
    total: Counter[str] = Counter()
    for line in lines:
        total[line.product] += line.quantity
    return total


class Checks:
    """The history, as the clients saw it, and the books, held against each other."""

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
