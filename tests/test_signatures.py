"""A signature is a schema: what does not fit it is refused on arrival, bounds too."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from msgspec import Meta

from polyarch.core import BadArguments, Broken, Node, rpc
from polyarch.core.messages import schema_of

Die = Annotated[int, Meta(ge=1, le=6)]
Word = Annotated[str, Meta(pattern="^[a-z]+$")]


class Table(Node):
    @rpc
    def throw(self, die: Die, share: Annotated[float, Meta(gt=0, lt=1)] | None = None) -> Die:
        return die + 1

    @rpc
    def spell(self, words: tuple[Word, ...], dice: tuple[Die, ...] = ()) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "arguments", "wrong"),
    [
        ("throw", (1,), ""),
        ("throw", (6, 0.5), ""),
        ("throw", (6, None), ""),
        ("throw", (0,), "'die': Expected `int` >= 1"),
        ("throw", (7,), "'die': Expected `int` <= 6"),
        ("throw", (1.5,), "'die': Expected `int`"),
        ("throw", (1, 0.0), "'share': Expected `float` > 0"),
        ("throw", (1, float("nan")), "'share': Expected `float` > 0"),
        ("spell", (("ab", "c"),), ""),
        ("spell", (("ab", "C"),), "'words': Expected `str` matching regex"),
        ("spell", (("ab",), (1, 6)), ""),
        ("spell", (("ab",), (1, 9)), "'dice': Expected `int` <= 6"),
    ],
)
def test_what_is_out_of_bounds_is_refused(name: str, arguments: tuple[Any, ...], wrong: str):
    method = schema_of(Table).methods[name]
    assert method.shared
    if not wrong:
        assert method.check(arguments)[: len(arguments)] == arguments
        return
    with pytest.raises(BadArguments, match=wrong):
        method.check(arguments)
    with pytest.raises(BadArguments, match=wrong):
        method.invoke(Table(), arguments)


def test_an_answer_out_of_bounds_is_not_given():
    check = schema_of(Table).methods["throw"].check_result
    assert check(6) == 6
    with pytest.raises(Broken, match="<= 6"):
        check(7)
