"""What a declaration is checked for: a node's class has filled in all that its bases leave to it, wires lead
to what takes their messages, and the clients offer what the jobs ask."""

from __future__ import annotations

import pytest

from polyarch.blocks.overlay import Participant
from polyarch.core import Architecture, Node, System, oneway, rpc
from polyarch.core.hooks import open_hooks
from polyarch.experiment.catalogue import architectures
from polyarch.jobs.kv import Kv


class Port(Node):
    """A port, and a hook beside it."""

    @rpc
    async def ask(self, number: int) -> int:
        """An operation."""
        raise NotImplementedError

    @oneway
    def tell(self, number: int) -> None:
        """Another one."""
        raise NotImplementedError("say what it does")

    def weight(self) -> int:
        raise NotImplementedError

    def checked(self, number: int) -> int:
        if number:
            raise NotImplementedError
        return 1


class Half(Port):
    async def ask(self, number: int) -> int:
        return number


class Whole(Half):
    def tell(self, number: int) -> None:
        pass

    def weight(self) -> int:
        return 1


class Deaf(Half):
    withheld = frozenset({"tell"})

    def weight(self) -> int:
        return 1


def test_a_node_whose_class_leaves_something_open_cannot_be_declared_and_the_error_says_what_and_where():
    with pytest.raises(TypeError, match=r"Half lacks tell \(\S*test_declarations.py:\d+\), weight \("):
        Half()
    Whole()


def test_what_raises_not_implemented_in_one_case_only_is_no_hook():
    assert not open_hooks(Whole)
    assert not any("checked" in hook for hook in open_hooks(Port))


def test_a_message_that_a_class_does_not_take_needs_no_handler():
    Deaf()


def test_a_peer_that_does_not_say_where_it_stands_is_no_peer():
    with pytest.raises(TypeError, match=r"Participant lacks place \(polyarch/blocks/overlay.py:\d+\), links"):
        Participant()


class Idle(Node):
    """Takes no messages."""


class Asking(Node):
    port: Port


class Small(Architecture):
    """As little as there can be."""

    family = "none"
    source = "none"
    jobs = ()
    server: type[Node] = Whole
    client: type[Node] = Asking

    def build(self, system: System) -> None:
        server = self.server()
        system.role("server", server)
        system.clients(self.client(port=server) if self.client is Asking else self.client())


def test_a_wire_that_leads_to_what_does_not_take_its_messages_is_found_when_the_system_is_built():
    small = Small()
    small.system()
    small.server = Deaf
    with pytest.raises(ValueError, match=r"^Asking\.port is wired to Deaf, which does not take: tell$"):
        small.system()
    small.server = Idle
    with pytest.raises(ValueError, match=r"^Asking\.port is wired to Idle, which does not take: ask, tell$"):
        small.system()


def test_clients_that_do_not_offer_an_operation_of_a_job_are_found_when_the_system_is_built():
    class Store(Small):
        jobs = (Kv,)
        client = Whole

    wanted = "^the clients, Whole, do not offer what its job asks: compare_and_set, get, put$"
    with pytest.raises(ValueError, match=wanted):
        Store().system()


def test_every_architecture_of_the_catalogue_builds_such_a_system():
    for architecture in architectures().values():
        architecture().system()
