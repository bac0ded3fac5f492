"""Rumour mongering: who has heard something new tells it to random others until that seems to be in vain.

Demers, Greene, Hauser, Irish, Larson, Shenker, Sturgis, Swinehart, Terry: "Epidemic algorithms for replicated
database maintenance", PODC 1987 (Xerox CSL-89-1), section 1.4.

A member is *susceptible* until it hears a rumour, *infective* while the rumour is hot there, and *removed*
when it has lost interest.  Once in a cycle, an infective member **push**es its hot rumours to a random other
one; or every member asks a random other one for its hot rumours (**pull**); or both.  It loses interest

* with **feedback** after contacts with somebody who knew already, or **blind**ly after any;
* by **coin** with probability 1/k each time, or by **counter** after k times.

(With pull, several may ask in one cycle: if any of them needed the rumour, the counter goes back to zero;
if none did, it goes up by one: footnote to table 3.  The paper's table 1, of push, comes out if only contacts
in vain *in a row* count, and if *all* who tell a member the same in one cycle hear that it was new there; its
formulas, which are below, come out without.)

It costs nothing when there is nothing new (push), and about m messages for each member in all.

What is the problem with this?  It may stop before everybody has heard it.  For push, whatever the rule, the
share s that is left is s = e^-m; with feedback and coin it is s = e^-(k+1)(1-s): 20 % for k = 1, 6 % for
k = 2.  So it needs something behind it that finds who was left: anti-entropy.
"""

from __future__ import annotations

from typing import Any, Literal

from polyarch.blocks.broadcast import SPREAD, BroadcastClient, News, Teller, spread_of
from polyarch.blocks.cycles import in_cycles
from polyarch.core import Architecture, Failure, Record, System, Verdict, oneway, parameter, rpc
from polyarch.jobs.broadcast import Broadcast

Style = Literal["push", "pull", "push-pull"]


class Answer(Record, array_like=True):
    """What a partner says."""

    needed: tuple[bool, ...]
    """Of each rumour that was pushed to it, whether it was new there."""
    hot: tuple[News, ...]
    """What is hot there, if it was asked for that."""


class Rumours(Teller):
    """One member."""

    addresses: tuple[str, ...]
    style: Style = "push"
    feedback: bool = True
    """Whether a contact with somebody who needed the rumour is no reason to lose interest."""
    loss: Literal["coin", "counter"] = "counter"
    k: int = 1
    in_a_row: bool = False
    """Whether a contact that was not in vain sets the counter back."""
    all_new: bool = False
    """Whether all who tell it the same in one cycle hear that it was new, or the first of them."""
    period: float = 1.0
    """Seconds of a cycle."""
    together: bool = False
    """Whether all act at the same moments."""

    async def start(self) -> None:
        self.begin()
        # What is hot, and the contacts in vain so far.
        self.hot: dict[int, int] = {}
        # Of the hot rumours that were asked for in this cycle, whether anybody needed them.
        self.asked: dict[int, bool] = {}
        self.fresh: dict[int, None] = {}  # what was new in this cycle
        self.push, self.pull = "push" in self.style, "pull" in self.style
        in_cycles(self, self.period, self.cycle, together=self.together)

    def spread(self, news: News) -> None:
        self.hot[news.message] = 0

    def hear(self, news: News) -> bool:
        """A rumour has come; whether it was needed."""
        needed = self.receive(news)
        if needed:
            self.spread(news)
            self.fresh[news.message] = None
        return needed or (self.all_new and news.message in self.fresh)

    def rumours(self) -> tuple[News, ...]:
        return tuple(self.store[message] for message in self.hot)

    def cycle(self) -> Any:
        """What was asked for in the last cycle counts as one contact; and now there is another one."""
        for message, needed in self.asked.items():
            self.lose_interest(message, needed)
        self.asked, self.fresh = {}, {}
        if (self.pull or self.hot) and len(self.addresses) > 1:
            return self.contact()
        return None

    async def contact(self) -> None:
        """Tell a random other one what is hot here, or ask what is hot there."""
        partner = self.address
        while partner == self.address:
            partner = self.random.choice(self.addresses)
        told = self.rumours() if self.push else ()
        self.sent += 1
        if not self.pull and not self.feedback:
            self.at(partner).tell(told)
            answer = Answer((False,) * len(told), ())
        else:
            try:
                answer = await self.at(partner).exchange(told, self.pull)
            except Failure:
                return  # a contact that did not come about
        for news, needed in zip(told, answer.needed):
            self.lose_interest(news.message, needed)
        if answer.hot:
            needed_here = tuple(self.hear(news) for news in answer.hot)
            if self.feedback:
                self.sent += 1
                self.at(partner).reply(tuple(news.message for news in answer.hot), needed_here)

    def lose_interest(self, message: int, needed: bool) -> None:
        """After a contact: perhaps this rumour is hot no more."""
        if message not in self.hot:
            return
        if self.feedback and needed:
            if self.pull or self.in_a_row:
                self.hot[message] = 0
            return
        self.hot[message] += 1
        if self.random.chance(1 / self.k) if self.loss == "coin" else self.hot[message] >= self.k:
            del self.hot[message]

    @rpc
    async def exchange(self, told: tuple[News, ...], asks: bool) -> Answer:
        """Hear what a partner has, and tell it what is hot here if it asks."""
        self.sent += 1  # the answer
        hot = self.rumours() if asks else ()
        for news in hot:
            self.asked.setdefault(news.message, False)
        return Answer(tuple(self.hear(news) for news in told), hot)

    @oneway
    def tell(self, told: tuple[News, ...]) -> None:
        """Hear what a partner has, who does not care whether it was needed."""
        for news in told:
            self.hear(news)

    @oneway
    def reply(self, messages: tuple[int, ...], needed: tuple[bool, ...]) -> None:
        """Feedback of somebody who asked."""
        for message, was_needed in zip(messages, needed):
            if was_needed and message in self.asked:
                self.asked[message] = True


class RumourMongering(Architecture):
    """Who has heard something new tells it to random others until that seems to be in vain."""

    name = "rumour_mongering"
    family = "peer-to-peer"
    source = "Demers et al., Epidemic algorithms for replicated database maintenance, PODC 1987, section 1.4"
    jobs = (Broadcast,)
    claims = (
        "no single point of failure",
        "costs nothing when there is nothing new (push)",
        "s = e^-m (push)",
    )
    metrics = SPREAD

    nodes: int = parameter(16, "peers", least=1)
    style: Style = parameter("push", "who tells whom at a contact")
    feedback: bool = parameter(True, "only contacts in vain make one lose interest; false: all (blind)")
    loss: Literal["coin", "counter"] = parameter(
        "counter", "interest is lost by chance 1/k, or after k times"
    )
    k: int = parameter(4, "contacts (in vain) until interest is lost", least=1)
    in_a_row: bool = parameter(False, "counter: only contacts in vain in a row count")
    all_new: bool = parameter(False, "all who tell one member in a cycle what is new to it hear that it is")
    period: float = parameter(0.2, "time of a cycle", least=0.001, unit="s")
    together: bool = parameter(False, "all act at the same moments, as in the paper's cycles")

    @property
    def disclaims(self) -> tuple[str, ...]:
        """Coverage is a matter of chance."""
        return ("what was published reached all who stayed", "all who stayed delivered the same messages")

    def build(self, system: System) -> None:
        addresses = system.addresses("peer", self.nodes)
        peer = Rumours(
            addresses=addresses,
            style=self.style,
            feedback=self.feedback,
            loss=self.loss,
            k=self.k,
            in_a_row=self.in_a_row,
            all_new=self.all_new,
            period=self.period,
            together=self.together,
        )
        system.role("peer", peer, count=self.nodes)
        system.clients(BroadcastClient(addresses=addresses, patience=max(1.0, 12 * self.period)))

    async def observe(self, x: Any) -> tuple[dict[str, Any], list[Verdict]]:
        return await spread_of(x), []
