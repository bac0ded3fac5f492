"""Serve a shop: browse, fill a basket, check out and pay, cancel.

The port and the workload; what must be true afterwards is in ``shop_books.py``.  Money is in pence.  An
order's id is chosen by the client with its basket: whoever asks for the same order again gets the same order.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from polyarch.blocks.online_retail import Invoice, catalogue_of, invoices
from polyarch.blocks.popularity import Popularity
from polyarch.blocks.tables import key_of
from polyarch.core import Job, Node, Operation, Random, Refused, Verdict, Visit, get, parameter, post
from polyarch.core.job import Done
from polyarch.jobs.shop_books import Books, Checks, Line, Order, Payment, Product, Reservation, Shipment

__all__ = ["PAGE", "Cancelled", "Declined", "NotFound", "OutOfStock", "Shop", "ShopJob"]

PAGE = 200
"""Rows that one page of a listing holds at most."""


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
