"""The shop's workload is the profile's, its traces are read exactly, and its checks find what is wrong."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from polyarch.blocks.online_retail import COLUMNS, Invoice, Sale, invoices
from polyarch.core import Operation, Random, Visit
from polyarch.core.http import routes_of
from polyarch.core.job import Done
from polyarch.jobs.shop import Shop, ShopJob
from polyarch.jobs.shop_books import Books, Line, Order, Payment, Product, Reservation, Shipment

REAL = Path(__file__).parents[3] / "shared/data/online_retail.csv"
ORDERS = 4000


@pytest.fixture(scope="module")
def visits() -> list[Visit]:
    """The looks and the orders until there are ``ORDERS`` orders."""
    endless, found, orders = ShopJob().visits(Random(1)), [], 0
    while orders < ORDERS:
        found.append(next(endless))
        orders += found[-1][0].name == "fill"
    return found


def operations(visits: list[Visit], name: str) -> list[Operation]:
    return [o for visit in visits for o in visit if o.name == name]


def quantile(values: list[float], p: float) -> float:
    return sorted(values)[round(p * (len(values) - 1))]


# -- the generator ------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_visits_and_another_seed_gives_others(visits: list[Visit]) -> None:
    assert list(itertools.islice(ShopJob().visits(Random(1)), 50)) == visits[:50]
    assert list(itertools.islice(ShopJob().visits(Random(2)), 50)) != visits[:50]


def test_every_operation_is_one_of_the_ports_and_can_be_asked_for_over_http(visits: list[Visit]) -> None:
    routes = routes_of(Shop)
    for operation in itertools.chain.from_iterable(visits[:300]):
        request = routes[operation.name].request(operation.arguments)
        path, _, query = request.target.partition("?")
        found = routes[operation.name].match([s for s in path.split("/") if s])
        assert found is not None
        assert routes[operation.name].arguments(found, query, request.body) == operation.arguments


def test_the_mean_length_of_a_visit_is_what_the_job_says(visits: list[Visit]) -> None:
    assert sum(map(len, visits)) / len(visits) == pytest.approx(ShopJob().mean_visit, rel=0.03)
    quiet = ShopJob(browse_per_order=0, cancellations=0)
    assert quiet.mean_visit == 3
    assert {len(v) for v in itertools.islice(quiet.visits(Random(1)), 100)} == {3}


def test_order_ids_are_never_given_twice(visits: list[Visit]) -> None:
    assert len({o.arguments[0] for o in operations(visits, "fill")}) == ORDERS


def test_lines_quantities_guests_and_cancellations_are_those_of_the_profile(visits: list[Visit]) -> None:
    profile = ShopJob.profile
    fills = operations(visits, "fill")
    sizes = [float(len(o.arguments[2])) for o in fills]
    assert sum(sizes) / ORDERS == pytest.approx(profile["lines_per_order_mean"], rel=0.06)
    amounts = [float(line.quantity) for o in fills for line in o.arguments[2]]
    for values, name in ((sizes, "lines_per_order_quantiles"), (amounts, "quantity_quantiles")):
        for p, value in profile[name]:
            if 0.2 < p < 0.98:
                assert quantile(values, p) == pytest.approx(value, rel=0.15, abs=1), (name, p)
    guests = sum(not o.arguments[1] for o in fills) / ORDERS
    assert guests == pytest.approx(profile["guest_share"], abs=0.015)
    cancels = len(operations(visits, "cancel"))
    assert cancels / (cancels + ORDERS) == pytest.approx(profile["cancellation_share"], abs=0.015)


def test_products_are_as_popular_as_in_the_profile(visits: list[Visit]) -> None:
    looked_at = Counter(o.arguments[0] for o in operations(visits, "product"))
    weights = [(r + 1) ** -0.6 for r in range(1997)]
    bought = Counter(line.product for o in operations(visits, "fill") for line in o.arguments[2])
    for top, share in ((10, 0.0521), (100, 0.2544)):
        # Looks follow Zipf's law exactly.  A basket has each product once, which brings lines near the data.
        looks = sum(n for _, n in looked_at.most_common(top)) / looked_at.total()
        assert looks == pytest.approx(sum(weights[:top]) / sum(weights), rel=0.05)
        lines = sum(n for _, n in bought.most_common(top)) / bought.total()
        assert lines == pytest.approx(share, abs=0.02)


def test_prices_and_orders_per_customer_are_those_of_the_profile(visits: list[Visit]) -> None:
    prices = [p.price / 100 for p in ShopJob().catalogue]
    for p, value in ShopJob.profile["unit_price_gbp_quantiles"][:-1]:
        assert quantile(prices, p) == pytest.approx(value, rel=0.15, abs=0.1)
    orders = Counter(o.arguments[1] for o in operations(visits, "fill") if o.arguments[1])
    once = sum(n == 1 for n in orders.values()) / len(orders)
    assert 0.75 < once < 0.95, "three quarters to nine tenths of the customers order once"
    assert max(orders.values()) > 5


def test_a_small_catalogue_has_small_baskets() -> None:
    job = ShopJob(products=3)
    sizes = {
        len(v[0].arguments[2])
        for v in itertools.islice(ShopJob(products=3, browse_per_order=0).visits(Random(1)), 50)
    }
    assert sizes <= {1, 2}
    assert len(job.catalogue) == 3


# -- traces -------------------------------------------------------------------------------------------------

HEADER = "invoice,stock_code,description,quantity,invoice_time,unit_price_gbp,customer_id,country\n"
LATER = "536366,85123A,HOLDER,6,2010-12-01T08:26,2.55,17850,United Kingdom\n"
GOOD = "536365,85123A,HOLDER,6,2010-12-01T08:26,2.55,17850,United Kingdom\n"


def written(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "orders.csv"
    path.write_bytes(b"".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def test_the_real_file_is_read_whole() -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here")
    job = ShopJob()
    replay = list(job.trace(REAL))
    fills = [visit[0] for _, visit in replay if visit[0].name == "fill"]
    # Of 512 invoices, 43 cancel and 30 are write-offs; of the profile's 439 orders 16 are free of charge.
    assert len(fills) == 423
    assert sum(len(f.arguments[2]) for f in fills) / len(fills) == pytest.approx(22.48, rel=0.02)
    assert [at for at, _ in replay] == sorted(at for at, _ in replay)
    assert replay[0][0] == 0
    assert replay[-1][0] > 4 * 86400
    cancels = [visit[0].arguments[0] for _, visit in replay if visit[0].name == "cancel"]
    assert len(cancels) + job.left_out["cancellations of orders that are not in the file"] <= 43
    assert set(cancels) < {f.arguments[0] for f in fills}
    sold = Counter[str]()
    for fill in fills:
        for line in fill.arguments[2]:
            sold[line.product] += line.quantity
    assert all(p.stock >= sold[p.code] and p.price > 0 for p in job.catalogue)
    assert set(sold) == {p.code for p in job.catalogue}


def test_lines_are_grouped_by_invoice_and_a_cancellation_finds_its_order(tmp_path: Path) -> None:
    job = ShopJob(stock=1)
    replay = list(
        job.trace(
            written(
                tmp_path,
                HEADER,
                GOOD,
                "536365,85123A,HOLDER,4,2010-12-01T08:26,2.55,17850,UK\n",
                '536365,71053,"LANTERN, ""WHITE""",2,2010-12-01T08:26,3.39,17850,UK\n',
                "536366,POST,POSTAGE,1,2010-12-01T08:27,18,17850,UK\n",
                "536367,22633,WARMER,1,2010-12-01T08:28,1.85,,UK\n",
                "536368,22633,damaged,-5,2010-12-01T08:28,0,,UK\n",
                "C536369,71053,LANTERN,-2,2010-12-01T08:29,3.39,17850,UK\n",
                "C536370,71053,LANTERN,-2,2010-12-01T08:30,3.39,17850,UK\n",
            )
        )
    )
    basket = ("536365", "17850", (Line("85123A", 10), Line("71053", 2)))
    assert replay == [
        (0.0, (Operation("fill", basket), Operation("checkout", ("536365",)))),
        (120.0, (Operation("fill", ("536367", "", (Line("22633", 1),))), Operation("checkout", ("536367",)))),
        (180.0, (Operation("cancel", ("536365",)),)),
    ]
    assert job.catalogue[:2] == [
        Product("85123A", "HOLDER", 255, 10),
        Product("71053", 'LANTERN, "WHITE"', 339, 2),
    ]
    assert job.left_out["cancellations of orders that are not in the file"] == 1


def test_extra_columns_their_order_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    header = ",".join(["more", *reversed(COLUMNS)])
    path = written(tmp_path, b"\xef\xbb\xbf", header, "\n", "x,,2.5,2010-12-01T08:26,1,NAME,85123A,1\n\n")
    assert list(invoices(path, Counter())) == [Invoice("1", False, 0.0, "", (Sale("85123A", 1),))]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "is empty: its first line must be invoice,stock_code"),
        ([HEADER.replace("quantity", "qty"), GOOD], "line 1: no column 'quantity'"),
        ([HEADER, GOOD, "536366,85123A,HOLDER\n"], "line 3: 3 fields; the header names 8"),
        ([HEADER, GOOD.replace(",6,", ",six,")], "line 2: quantity 'six': a whole number"),
        ([HEADER, GOOD.replace(",6,", ",,")], "line 2: quantity ''"),
        ([HEADER, GOOD.replace("2010-12-01T08:26", "1/12/2010 8:26")], "line 2: invoice_time"),
        ([HEADER, GOOD.replace("2.55", "2,55")], "line 2: 9 fields"),
        ([HEADER, GOOD.replace("2.55", "cheap")], "line 2: unit_price_gbp 'cheap'"),
        ([HEADER, GOOD.replace("2.55", "nan")], "line 2: unit_price_gbp 'nan'"),
        ([HEADER, GOOD.replace("2.55", "1e99")], "line 2: unit_price_gbp '1e99'"),
        ([HEADER, GOOD.replace("85123A", "")], "line 2: stock_code is empty"),
        ([HEADER, GOOD, LATER.replace("08:26", "07:26")], "line 3: 2010-12-01T07:26 is before"),
        ([HEADER, GOOD, LATER, GOOD], "line 4: invoice 536365 again"),
        ([HEADER, GOOD, GOOD.encode().replace(b"HOLDER", b"\xa35 HOLDER")], "line 3: byte 0xa3 is not UTF-8"),
        ([HEADER, GOOD.replace("HOLDER", '"HOLDER')], "line 2: "),
        ([HEADER, GOOD.replace("85123A", "POST")], "sells nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_by_its_line(
    tmp_path: Path, lines: list[str | bytes], says: str
) -> None:
    with pytest.raises(ValueError) as error:
        ShopJob().trace(written(tmp_path, *lines))  # at once, before anything runs
    assert says in str(error.value)
    assert "\n" not in str(error.value)


# -- the checks ---------------------------------------------------------------------------------------------

CATALOGUE = [Product("a", "A", 100, 10), Product("b", "B", 250, 10)]
LINES = (Line("a", 2), Line("b", 1))


def done(name: str, order_id: str, outcome: str = "ok", *more: Any) -> Done:
    return Done(1, name, (order_id, *more), 0.0, 0.0, 0.1, outcome)  # type: ignore[arg-type]


HISTORY = [
    done("fill", "sold", "ok", "c", LINES), done("checkout", "sold"),
    done("fill", "back", "ok", "c", LINES), done("checkout", "back"), done("cancel", "back"),
    done("fill", "no", "ok", "c", LINES), done("checkout", "no", "fail"),
    done("fill", "maybe", "ok", "c", LINES), done("checkout", "maybe", "info"),
]  # fmt: skip
BOOKS = Books(
    (replace(CATALOGUE[0], stock=8), replace(CATALOGUE[1], stock=9)),
    (Order("back", "c", LINES, 450, "cancelled"), Order("sold", "c", LINES, 450, "shipped")),
    (Reservation("back", LINES, 450, True), Reservation("sold", LINES, 450)),
    (Payment("back", "c", 450, 450, True), Payment("sold", "c", 450)),
    (Shipment("sold"),),
)  # fmt: skip


def wrong(books: Books, history: list[Done] = HISTORY) -> dict[str, str]:
    job = ShopJob()
    job.catalogue = CATALOGUE
    return {v.name: v.detail for v in job.check(history, books) if not v.holds}


def changed(field: str, row: Any) -> Books:
    """The good books with one row replaced (or added)."""
    key = row.__struct_fields__[0]
    rows = {getattr(r, key): r for r in getattr(BOOKS, field)} | {getattr(row, key): row}
    return replace(BOOKS, **{field: tuple(rows.values())})


def test_good_books_pass_whatever_became_of_the_unknown() -> None:
    assert wrong(BOOKS) == {}
    extra: dict[str, Any] = {
        "orders": (*BOOKS.orders, Order("maybe", "c", LINES, 450, "shipped")),
        "reservations": (*BOOKS.reservations, Reservation("maybe", LINES, 450)),
        "payments": (*BOOKS.payments, Payment("maybe", "c", 450)),
        "shipments": (*BOOKS.shipments, Shipment("maybe")),
        "products": (replace(CATALOGUE[0], stock=6), replace(CATALOGUE[1], stock=8)),
    }
    assert wrong(replace(BOOKS, **extra)) == {}


def planted() -> Iterator[tuple[str, Books, str]]:
    sold, back = BOOKS.orders[1], BOOKS.orders[0]
    lost = replace(BOOKS, orders=(back,))
    yield "no order is lost", lost, "sold, accepted at 0.100 s, is not in the data"
    yield (
        "no order is lost",
        changed("orders", replace(sold, status="cancelled")),
        "though nobody cancelled it",
    )
    yield "no order is lost", changed("orders", replace(sold, lines=LINES[:1])), "other lines"
    yield "a refusal means no", changed("orders", Order("no", "c", LINES, 450, "shipped")), "no, refused"
    yield "cancelled stays cancelled", changed("orders", replace(back, status="shipped")), "is shipped"
    yield (
        "no order is charged twice",
        changed("payments", Payment("sold", "c", 900)),
        "charged £9.00 and costs £4.50",
    )
    yield (
        "every sale is paid, and nothing else",
        changed("payments", Payment("sold", "c", 0)),
        "£0.00 is paid",
    )
    yield (
        "every sale is paid, and nothing else",
        changed("payments", Payment("back", "c", 450)),
        "£4.50 was taken for back",
    )
    yield (
        "every sale is paid, and nothing else",
        changed("payments", Payment("ghost", "c", 1)),
        "not in the data",
    )
    yield "totals add up", changed("orders", replace(sold, total=449)), "costs £4.49, its lines £4.50"
    yield (
        "stock adds up",
        changed("products", replace(CATALOGUE[0], stock=9)),
        "a: 9 on the shelf and 2 taken, of 10",
    )
    yield "stock adds up", changed("products", replace(CATALOGUE[1], stock=-1)), "b has a stock of -1"
    yield (
        "stock adds up",
        changed("reservations", replace(BOOKS.reservations[1], released=True)),
        "not taken from the shelf",
    )
    yield (
        "stock adds up",
        changed("reservations", replace(BOOKS.reservations[0], released=False)),
        "its goods are not back",
    )
    yield (
        "every sale is shipped once",
        replace(BOOKS, shipments=()),
        "sold is shipped and was shipped 0 times",
    )
    yield "every sale is shipped once", changed("shipments", Shipment("sold", 2)), "2 times"
    yield (
        "every sale is shipped once",
        changed("shipments", Shipment("ghost")),
        "ghost was shipped and is not in the data",
    )
    yield "nothing is left half done", changed("orders", Order("maybe", "c", LINES)), "maybe is placed"


@pytest.mark.parametrize(("name", "books", "says"), list(planted()))
def test_each_check_finds_what_was_planted_and_names_it(name: str, books: Books, says: str) -> None:
    assert says in wrong(books)[name]


def test_a_history_of_plain_values_is_checked_too() -> None:
    plain = [
        replace(
            d,
            arguments=(*d.arguments[:2], [{"product": "a", "quantity": 2}, {"product": "b", "quantity": 1}]),
        )
        if d.name == "fill"
        else d
        for d in HISTORY
    ]
    assert wrong(BOOKS, plain) == {}
