"""The shop holds in every arrangement whatever crashes, and each of its safeguards is needed."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from polyarch.architectures.client_server import ClientServer
from polyarch.architectures.microservices import Microservices
from polyarch.architectures.replicated import Replicated
from polyarch.architectures.three_tier import ThreeTier
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
from polyarch.core import Architecture, Failure, Over, Random, Record, Refused, System, gather, rpc, settle
from polyarch.core.job import Done
from polyarch.jobs.shop import Cancelled, NotFound, OutOfStock, Shop, ShopJob
from polyarch.jobs.shop_books import Books, Line, Order, Payment, Product, Reservation, Shipment, amounts
from polyarch.runtimes.base import Experimenter
from polyarch.runtimes.sim.session import SimSession


class Outcome(Record):
    """What came of a run."""

    history: list[Any]
    books: Books
    wrong: dict[str, str]
    trace_hash: str


async def load(x: Experimenter, job: ShopJob, seconds: float, clients: int, seed: int) -> list[Done]:
    """A closed loop of clients; the history."""
    visits = job.visits(Random(seed))
    history: list[Done] = []
    end = x.now + seconds

    async def client(number: int) -> None:
        while x.now < end:
            for operation in next(visits):
                begin = x.now
                try:
                    value, outcome, code = None, "ok", ""
                    value = await getattr(x.client, operation.name)(*operation.arguments)
                except Failure as failure:
                    outcome, code = "fail" if failure.definite else "info", failure.code
                times = (begin, begin, x.now)
                history.append(
                    Done(number, operation.name, operation.arguments, *times, outcome, value, code)  # type: ignore[arg-type]
                )
                if outcome != "ok":
                    await x.sleep(0.05)
                    break

    await gather(*(client(n) for n in range(clients)))
    return history


def run(
    architecture: Architecture,
    *,
    crash: str | None = None,
    disturb: dict[str, Any] | None = None,
    seconds: float = 1.5,
    clients: int = 6,
    seed: int = 1,
    **parameters: Any,
) -> Outcome:
    """A seeded load, a crash (and restart) or a disturbance in the middle, and what the checks say."""
    job = ShopJob(**{"products": 60, "browse_per_order": 1, "cancellations": 0.2, **parameters})
    system = System()
    architecture.build(system)

    async def trouble(x: Experimenter) -> None:
        await x.sleep(seconds / 3)
        if crash:
            await x.control.crash(crash)
        if disturb:
            await x.control.disturb(**disturb)
        await x.sleep(seconds / 3)
        if crash:
            await x.control.restart(crash)
        await x.control.heal()

    async def experiment(x: Experimenter) -> tuple[list[Done], Books]:
        await job.prepare(x.client)
        broken = x.spawn(trouble(x))
        history = await load(x, job, seconds, clients, seed)
        await broken
        await x.sleep(0.5)
        return history, await job.audit(x.client)

    with SimSession(system, seed=seed) as session:
        history, books = session.perform(experiment)
        assert [b for b in session.kernel.bugs if not isinstance(b[2], Failure)] == []
        wrong = {v.name: v.detail for v in job.check(history, books) if not v.holds}
        return Outcome(history, books, wrong, session.kernel.trace_hash)


ARRANGEMENTS: dict[str, Architecture] = {
    "client_server": ClientServer(),
    "three_tier": ThreeTier(),
    "replicated": Replicated(),
    "replicated behind caddy": Replicated(servers=2, switch="caddy", policy="two_choices"),
    "microservices": Microservices(),
    "microservices with shared data": Microservices(data="shared"),
}


def crashes() -> list[tuple[str, str]]:
    """One process of each role of each arrangement."""
    result = []
    for name, architecture in ARRANGEMENTS.items():
        system = System()
        architecture.build(system)
        result += [(name, f"{role}-0") for role in system.roles]
    return result


# -- everything in its place --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_without_faults_nothing_fails_and_everything_adds_up(name: str) -> None:
    outcome = run(ARRANGEMENTS[name])
    assert outcome.wrong == {}
    assert {d.outcome for d in outcome.history} == {"ok"}
    assert {o.status for o in outcome.books.orders} == {"shipped", "cancelled"}
    assert len(outcome.books.orders) > 100


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [run(Microservices(), crash="orders-0", seconds=0.6) for _ in range(2)]
    assert runs[0].trace_hash == runs[1].trace_hash
    assert runs[0].books == runs[1].books


@pytest.mark.parametrize(("name", "process"), crashes())
def test_a_crash_of_any_role_breaks_no_promise(name: str, process: str) -> None:
    outcome = run(ARRANGEMENTS[name], crash=process, seconds=1.2)
    assert outcome.wrong == {}
    late = [d for d in outcome.history if d.name == "checkout" and d.outcome == "ok" and d.start > 1.0]
    assert late, "it serves again"


@pytest.mark.parametrize("disturbance", [{"loss": 0.2}, {"duplicate": 0.3, "reorder": 0.3}, {"delay": 0.4}])
@pytest.mark.parametrize("name", ["three_tier", "replicated", "microservices"])
def test_lost_late_and_repeated_messages_break_no_promise(name: str, disturbance: dict[str, float]) -> None:
    outcome = run(ARRANGEMENTS[name], disturb={"sources": None, "targets": None, **disturbance}, clients=3)
    assert outcome.wrong == {}


def test_a_crash_of_a_logic_server_costs_only_what_it_was_doing() -> None:
    outcome = run(Replicated(), crash="logic-0")
    assert sum(d.outcome != "ok" for d in outcome.history) <= 6, "as many as there are clients"


def test_microservices_sell_on_while_fulfilment_or_the_queue_is_down() -> None:
    for process in ("fulfilment-0", "fulfilment-data-0", "queue-0"):
        outcome = run(Microservices(), crash=process)
        assert {d.outcome for d in outcome.history} == {"ok"}
        assert outcome.wrong == {}


def test_what_is_out_of_stock_is_refused_and_everything_else_still_adds_up() -> None:
    outcome = run(Microservices(), stock=200, products=20)
    refused = [d for d in outcome.history if d.outcome == "fail"]
    assert {d.code for d in refused} == {"out-of-stock"} <= ShopJob.answers
    assert outcome.wrong == {}
    assert any(o.status == "shipped" for o in outcome.books.orders)


# -- a customer's view --------------------------------------------------------------------------------------


def ask(test: Any, system: System | None = None) -> None:
    if system is None:
        ThreeTier().build(system := System())
    with SimSession(system, seed=1) as session:
        session.perform(test)
        assert not session.kernel.bugs


def test_whoever_checks_out_twice_orders_once() -> None:
    async def test(x: Experimenter) -> None:
        shop: Shop = x.client
        await shop.supply((Product("a", "A", 100, 10),))
        assert await shop.fill("o1", "", (Line("a", 2), Line("a", 1))) == 2
        outcomes = await settle(*(shop.checkout("o1") for _ in range(5)))
        assert {(o.status, o.total) for o in outcomes if isinstance(o, Order)} <= {
            ("confirmed", 300),
            ("shipped", 300),
        }
        assert all(isinstance(o, Order) for o in outcomes)
        assert await shop.settle(2.0) == 0
        assert (await shop.order("o1")).status == "shipped"
        assert (await shop.product("a")).stock == 7
        assert await shop.audit_payments() == (Payment("o1", "", 300),)
        assert (await shop.cancel("o1")).status == (await shop.cancel("o1")).status == "cancelled"
        assert (await shop.product("a")).stock == 10
        with pytest.raises(Cancelled, match="by the customer"):
            await shop.checkout("o1")
        assert await shop.audit_payments() == (Payment("o1", "", 300, 300, True),)

    ask(test)


def test_refusals_say_why_and_leave_nothing_behind() -> None:
    async def test(x: Experimenter) -> None:
        shop: Shop = x.client
        await shop.supply((Product("a", "A", 100, 1), Product("b", "B", 100, 9)))
        await shop.fill("o1", "c", (Line("b", 2), Line("a", 2)))
        with pytest.raises(OutOfStock, match="2 of a are wanted, 1 are left"):
            await shop.checkout("o1")
        assert (await shop.order("o1")).status == "cancelled"
        assert [p.stock for p in await shop.browse()] == [1, 9]
        await shop.fill("o2", "c", (Line("ghost", 1),))
        for wrong in (
            shop.checkout("o2"),
            shop.checkout("o3"),
            shop.product("x"),
            shop.order("x"),
            shop.cancel("x"),
        ):
            with pytest.raises(NotFound, match="there is no"):
                await wrong
        with pytest.raises(Refused, match="at least one line"):
            await shop.fill("o4", "c", ())
        with pytest.raises(Refused, match="quantity"):
            await Over(Shop, x.at("front-0", Orchestrator)).fill(
                "o4", "c", ({"product": "a", "quantity": 0},)
            )  # type: ignore[arg-type]

    ask(test)


# -- the safeguards, removed one by one ---------------------------------------------------------------------


class Parts(Architecture):
    """The microservices, with some of the services replaced."""

    family = source = "test"
    jobs = (ShopJob,)
    replaced: dict[type, type] = {}

    def build(self, system: System) -> None:
        def made(kind: type, **wires: Any) -> Any:
            return self.replaced.get(kind, kind)(**wires)

        tables = (*USERS, *PRODUCTS, *ORDERS, *PAYMENTS, *SHIPMENTS)
        data = system.component("data", PostgreSQL(tables))
        queue = system.component("queue", Nats(ack_wait=0.5))
        users, products = made(Users, tables=data), made(Products, tables=data)
        orders, payments = made(Orders, tables=data, queue=queue), made(Payments, tables=data)
        fulfilment = made(Fulfilment, tables=data, queue=queue, orders=orders)
        front = made(
            Orchestrator,
            users=users,
            products=products,
            orders=orders,
            payments=payments,
            fulfilment=fulfilment,
        )
        for name, node in {
            "users": users, "products": products, "orders": orders, "payments": payments,
            "fulfilment": fulfilment, "front": front,
        }.items():  # fmt: skip
            system.role(name, node)
        system.clients(ShopClient(front=front))


def without(kind: type, replacement: type, **how: Any) -> dict[str, str]:
    """What is wrong when a service is replaced; the same run with the right one is right."""
    assert run(Parts(), **how).wrong == {}
    parts = Parts()
    parts.replaced = {kind: replacement}
    return run(parts, **how).wrong


class ForgetfulPayments(Payments):
    """Charges whenever it is asked to."""

    @rpc
    async def charge(self, order_id: str, customer: str, pence: int) -> None:
        async with self.tables.transaction() as t:
            done = await t.get(Payment, order_id) or Payment(order_id, customer)
            if not done.closed:
                await t.put(replace(done, charged=done.charged + pence))


class ForgetfulProducts(Products):
    """Takes goods from the shelf whenever it is asked to."""

    @rpc
    async def reserve(self, order_id: str, lines: tuple[Line, ...]) -> int:
        wanted = amounts(lines)
        async with self.tables.transaction() as t:
            shelf = await t.get_many(Product, wanted)
            total = sum(p.price * wanted[p.code] for p in shelf.values())
            await t.put(*(replace(p, stock=p.stock - wanted[p.code]) for p in shelf.values()))
            await t.put(Reservation(order_id, lines, total))
        return total


class CarelessProducts(Products):
    """Looks at the shelf without locking it."""

    @rpc
    async def reserve(self, order_id: str, lines: tuple[Line, ...]) -> int:
        wanted = amounts(lines)
        async with self.tables.transaction() as t:
            shelf = await t.get_many(Product, wanted, lock=False)
            total = sum(p.price * wanted[p.code] for p in shelf.values())
            if await t.insert(Reservation(order_id, lines, total)):
                await t.put(*(replace(p, stock=p.stock - wanted[p.code]) for p in shelf.values()))
        return total


class OrdersWithoutOutbox(Orders):
    """Tells of a confirmed order once, and hopes."""

    async def sweep(self) -> None:
        pass


class OrchestratorWithoutSweep(Orchestrator):
    """Leaves what is half done."""

    async def sweep(self) -> None:
        pass


class OrchestratorWithoutUndo(Orchestrator):
    """When a step is refused, says so and does nothing."""

    async def carry_on(self, order: Order) -> Order:
        id = order.order_id
        if order.status == "cancelling":
            return await super().carry_on(order)
        total = await self.surely(lambda: self.products.reserve(id, order.lines))
        await self.surely(lambda: self.payments.charge(id, order.customer, total))
        return await self.surely(lambda: self.orders.confirm(id, total))


class ForgetfulFulfilment(Fulfilment):
    """Ships whatever is delivered."""

    async def ship(self, order_ids: tuple[str, ...]) -> None:
        async with self.tables.transaction() as t:
            gone = await t.get_many(Shipment, order_ids)
            await t.put(*(Shipment(id, gone[id].parcels + 1 if id in gone else 1) for id in order_ids))
        await self.orders.shipped(order_ids)


def lost(source: str, target: str) -> dict[str, Any]:
    return {"sources": [source], "targets": [target], "loss": 0.5}


def test_payments_that_forget_charge_twice_when_an_answer_is_lost() -> None:
    wrong = without(Payments, ForgetfulPayments, disturb=lost("payments-0", "front-0"))
    assert "no order is charged twice" in wrong


def test_products_that_forget_lose_stock_when_an_answer_is_lost() -> None:
    assert "stock adds up" in without(Products, ForgetfulProducts, disturb=lost("products-0", "front-0"))


def test_stock_that_is_not_locked_is_sold_twice() -> None:
    assert "stock adds up" in without(Products, CarelessProducts)


def test_without_the_outbox_an_order_is_never_shipped_when_the_queue_was_down() -> None:
    wrong = without(Orders, OrdersWithoutOutbox, crash="queue-0")
    assert "every sale is shipped once" in wrong


def test_without_the_sweep_a_crash_leaves_orders_half_done() -> None:
    wrong = without(Orchestrator, OrchestratorWithoutSweep, crash="front-0")
    assert "nothing is left half done" in wrong


def test_without_undoing_a_refused_order_is_left_half_done() -> None:
    wrong = without(Orchestrator, OrchestratorWithoutUndo, stock=200, products=20)
    assert "nothing is left half done" in wrong


def test_a_fulfilment_that_forgets_ships_twice_when_an_acknowledgement_is_lost() -> None:
    wrong = without(Fulfilment, ForgetfulFulfilment, disturb=lost("fulfilment-0", "queue-0"))
    assert "every sale is shipped once" in wrong


def test_a_step_that_comes_after_it_was_undone_is_declined() -> None:
    async def test(x: Experimenter) -> None:
        products, payments = x.at("products-0", Products), x.at("payments-0", Payments)
        orders = x.at("orders-0", Orders)
        lines = (Line("a", 1),)
        await products.supply((Product("a", "A", 100, 5),))
        await orders.place("o1", "c", lines)
        assert (await orders.cancel("o1", "changed my mind")).status == "cancelling"
        await products.release("o1")
        await payments.refund("o1")
        for late in (
            products.reserve("o1", lines),
            payments.charge("o1", "c", 100),
            orders.confirm("o1", 100),
        ):
            with pytest.raises(Cancelled):
                await late
        assert (await products.product("a")).stock == 5
        assert await payments.payments("") == (Payment("o1", closed=True),)

    Parts().build(system := System())
    ask(test, system)
