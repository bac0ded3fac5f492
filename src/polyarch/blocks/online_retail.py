"""Real orders in the format of the Online Retail data set (Chen 2015, UCI, doi 10.24432/C5BW33).

A line of the file is one product of one invoice; an invoice's lines stand together, and time goes forward.
An invoice whose number begins with C cancels earlier purchases.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

__all__ = ["Catalogued", "Invoice", "Sale", "catalogue_of", "invoices"]

COLUMNS = (
    "invoice",
    "stock_code",
    "description",
    "quantity",
    "invoice_time",
    "unit_price_gbp",
    "customer_id",
)
PRODUCT = re.compile(r"\d{5}[0-9A-Za-z]*")
"""Stock codes of products; others are postage, discounts, samples, bank charges, manual corrections."""


class Sale(NamedTuple):
    """So many of one product."""

    product: str
    quantity: int


class Invoice(NamedTuple):
    """One order, or the cancellation of one."""

    id: str
    cancels: bool
    seconds: float
    """Since the first line of the file."""
    customer: str
    """Empty for a guest."""
    lines: tuple[Sale, ...]


class Catalogued(NamedTuple):
    """One product that a file sells."""

    code: str
    name: str
    price: int
    """Pence, in its first sale."""
    sold: int
    """Units, in the whole file."""


class _Row(NamedTuple):
    """One line of the file, read and checked."""

    number: int
    invoice: str
    product: str
    name: str
    quantity: int
    time: datetime
    pence: int
    customer: str


def invoices(path: Path, left_out: Counter[str]) -> Iterator[Invoice]:
    """The orders and cancellations of a file, one after another.  ``left_out`` counts what was skipped, by
    reason.  ``ValueError``, with the number of the line and what would be right, for what cannot be read."""
    for (invoice, cancels, seconds), rows in _sales(path, left_out):
        amounts: Counter[str] = Counter()
        for row in rows:
            amounts[row.product] += abs(row.quantity)
        lines = tuple(Sale(*item) for item in amounts.items())
        yield Invoice(invoice, cancels, seconds, rows[0].customer, lines)


def catalogue_of(path: Path, left_out: Counter[str]) -> list[Catalogued]:
    """The products that a file sells.  Reads all of it, so that whatever is wrong is found."""
    products: dict[str, Catalogued] = {}
    for (_, cancels, _), rows in _sales(path, left_out):
        for row in rows:
            if not cancels:
                known = products.get(row.product) or Catalogued(row.product, row.name, row.pence, 0)
                products[row.product] = known._replace(sold=known.sold + row.quantity)
    if not products:
        raise ValueError(f"{path} sells nothing: it has no line of a product with a quantity and a price")
    return list(products.values())


def _sales(path: Path, left_out: Counter[str]) -> Iterator[tuple[tuple[str, bool, float], list[_Row]]]:
    """The lines that sell a product or cancel a sale, by invoice: (invoice, cancels, seconds), lines."""
    begin: datetime | None = None
    seen: set[str] = set()
    for invoice, group in groupby(_rows(path), lambda row: row.invoice):
        rows = list(group)
        begin = begin or rows[0].time
        if invoice in seen:
            where = f"{path}, line {rows[0].number}"
            raise ValueError(f"{where}: invoice {invoice} again: its lines must stand together")
        seen.add(invoice)
        cancels = invoice.startswith("C")
        kept = [row for row in rows if _is_sale(row, cancels, left_out)]
        if kept:
            yield (invoice, cancels, (rows[0].time - begin).total_seconds()), kept
        else:
            left_out["invoices without a sale"] += 1


def _is_sale(row: _Row, cancels: bool, left_out: Counter[str]) -> bool:
    if not PRODUCT.fullmatch(row.product):
        left_out["lines that are no product (postage, discounts, …)"] += 1
    elif row.pence <= 0:
        left_out["lines without a price (write-offs)"] += 1
    elif (row.quantity < 0) != cancels or not row.quantity:
        left_out["lines whose quantity is no sale's"] += 1
    else:
        return True
    return False


def _rows(path: Path) -> Iterator[_Row]:
    """The lines of the file, checked."""
    with path.open("rb") as file:
        reader = csv.reader(_text(path, file), strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise ValueError(f"{path} is empty: its first line must be {','.join(COLUMNS)}")
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise ValueError(
                    f"{path}, line 1: no column {missing[0]!r}; the columns must be {', '.join(COLUMNS)}"
                )
            places = [header.index(name) for name in COLUMNS]
            last = None
            for fields in reader:
                number = reader.line_num
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise ValueError(
                        f"{path}, line {number}: {len(fields)} fields; the header names {len(header)}"
                    )
                row = _row(f"{path}, line {number}", number, *(fields[i].strip() for i in places))
                if last is not None and row.time < last:
                    raise ValueError(
                        f"{path}, line {row.number}: {row.time:%Y-%m-%dT%H:%M} is before the line above: "
                        "the file must be in the order of time"
                    )
                last = row.time
                yield row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}: not comma-separated values") from None


def _row(
    where: str,
    number: int,
    invoice: str,
    code: str,
    name: str,
    quantity: str,
    time: str,
    price: str,
    customer: str,
) -> _Row:
    if not invoice or not code:
        raise ValueError(f"{where}: {'invoice' if not invoice else 'stock_code'} is empty")
    if not re.fullmatch(r"-?\d{1,9}", quantity, re.ASCII):
        raise ValueError(f"{where}: quantity {quantity!r}: a whole number such as 6 or -1 is needed")
    try:
        when = datetime.fromisoformat(time)
    except ValueError:
        raise ValueError(f"{where}: invoice_time {time!r}: a time such as 2010-12-01T08:26 is due") from None
    if when.tzinfo is not None:
        raise ValueError(f"{where}: invoice_time {time!r}: a local time such as 2010-12-01T08:26 is needed")
    try:
        pence = Decimal(price) * 100
        whole = int(pence.to_integral_value())
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError(f"{where}: unit_price_gbp {price!r}: pounds such as 2.55 are needed") from None
    if abs(whole) > 10**9:
        raise ValueError(f"{where}: unit_price_gbp {price!r}: at most 10,000,000 pounds")
    return _Row(number, invoice, code, name, int(quantity), when, whole, customer)


def _text(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    """The file's lines as text."""
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: byte {error.object[error.start]:#04x} is not UTF-8: "
                f"convert the file, as with iconv -f latin1 -t utf-8"
            ) from None
