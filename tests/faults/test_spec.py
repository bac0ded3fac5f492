"""The words of ``--fault``: read back as they were meant, and refused with one line otherwise."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polyarch.architectures.three_tier import ThreeTier
from polyarch.core.randomness import Random
from polyarch.core.system import System
from polyarch.faults.spec import KINDS, BadFault, Fault, doable, parse

ROLES = {"web": ["web-0"], "logic": ["logic-0", "logic-1", "logic-2"], "data": ["data-0"]}
EVERYTHING = ("web-0", "logic-0", "logic-1", "logic-2", "data-0")


def read(text: str) -> Fault:
    return parse(text, ROLES, Random(1))


names = st.lists(st.sampled_from(EVERYTHING), min_size=1, unique=True).map(tuple)
milliseconds = st.integers(0, 10_000)
word = st.one_of(
    st.sampled_from([*KINDS, *"@:|>-,*%", "any:", "best:", "20%:", "3:", "logic", "web-0", "client", "ms"]),
    st.text(max_size=5),
    st.floats().map(str),
)


@given(st.lists(word, max_size=12).map("".join))
@example("crash:" + "9" * 400 + "@1")
@example("crash:web@" + "9" * 400)
@example("loss:٣@0-1")
@example("skew:web:@0-1")
def test_whatever_is_written_is_a_fault_or_one_line_about_it(text: str):
    try:
        fault = read(text)
    except BadFault as error:
        assert repr(text) in str(error)  # noqa: PT017
    else:
        assert fault.text == text
        assert fault.start >= 0
        assert fault.end is None or fault.end > fault.start
        assert fault.sources


@given(st.sampled_from(["crash", "pause"]), names, milliseconds, milliseconds)
def test_a_fault_of_processes_is_read_as_written(kind, who, start, length):
    fault = read(f"{kind}:{','.join(who)}@{start}ms-{start + length + 1}ms")
    assert (fault.kind, fault.sources) == (kind, who)
    assert (fault.start, fault.end) == pytest.approx((start / 1e3, (start + length + 1) / 1e3))


@given(st.sampled_from(["loss", "duplicate", "reorder"]), st.integers(0, 100), names, names, st.booleans())
def test_a_fault_of_links_is_read_as_written(kind, percent, sources, targets, both_ways):
    text = f"{kind}:{percent}%:{','.join(sources)}{'|' if both_ways else '>'}{','.join(targets)}@0-1"
    if sources == targets and len(sources) == 1:
        with pytest.raises(BadFault, match="both sides"):
            read(text)
        return
    fault = read(text)
    assert (fault.kind, fault.sources, fault.targets, fault.both_ways) == (kind, sources, targets, both_ways)
    assert fault.amount == pytest.approx(percent / 100)


def test_a_role_means_all_its_processes_and_a_star_everything():
    assert read("crash:logic@1").sources == ("logic-0", "logic-1", "logic-2")
    assert read("crash:*@1").sources == EVERYTHING
    assert read("loss:0.1@0-1").sources == (*EVERYTHING, "client")


def test_any_of_a_role_is_chosen_by_the_seed():
    chosen = {parse("crash:any:logic@1", ROLES, Random(seed)).sources for seed in range(20)}
    assert chosen == {("logic-0",), ("logic-1",), ("logic-2",)}
    assert read("crash:any:logic@1") == read("crash:any:logic@1")


def test_a_share_of_a_role_is_so_many_different_ones_chosen_by_the_seed():
    peers = {"peer": [f"peer-{i}" for i in range(64)]}
    chosen = [parse("crash:20%:peer@1", peers, Random(seed)).sources for seed in range(200)]
    assert {len(set(names)) for names in chosen} == {13}  # 12.8
    assert len(set(chosen)) == 200
    often = {name: sum(name in names for names in chosen) for name in peers["peer"]}
    assert 15 <= min(often.values()) <= max(often.values()) <= 66  # 200 draws, 40.6 each on average
    assert len(parse("pause:5:peer@1-2", peers, Random(1)).sources) == 5
    assert len(parse("crash:100%:peer@1", peers, Random(1)).sources) == 64
    assert len(parse("loss:0.5:25%:peer>peer@1-2", peers, Random(1)).sources) == 16


def test_of_an_attack_the_whole_role_is_a_candidate_and_how_many_is_known():
    for text, best in ("best:34%:logic", 1), ("best:2:logic", 2), ("best:logic", 1):
        fault = read(f"crash:{text}@1")
        assert (fault.sources, fault.best) == (("logic-0", "logic-1", "logic-2"), best)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("crash:120%:logic@1", "120% of 3 logic: there are not so many"),
        ("crash:4:logic@1", "4 of 3 logic: there are not so many"),
        ("crash:best:4:logic@1", "4 of 3 logic: there are not so many"),
        ("crash:0%:logic@1", "0% of 3 logic: that is no process"),
        ("crash:1%:logic@1", "that is no process"),
        ("crash:1.5:logic@1", "that is no process"),
        ("crash:20%:logi@1", "nothing is called 'logi'; did you mean 'logic'"),
        ("crash:best:20%:web-0@1", "nothing is called 'web-0'"),
        ("loss:0.1:best:1:logic>web@1-2", "nothing is called"),
        ("skew:best:20%:logic:1@1-2", "only crash and pause"),
        ("crsh:web@1", "did you mean 'crash'"),
        ("crash:wbe@1", "did you mean 'web'"),
        ("crash:web", "when?"),
        ("crash@1", "does not say what it happens to"),
        ("crash:client@1", "only their links"),
        ("crash:web@2-1", "ends .1 s. before it has begun .2 s."),
        ("crash:web@-1", "is no time"),
        ("crash:web@nan", "is no time"),
        ("pause:web@1", "pause needs an end"),
        ("partition:web@1-2", "two sides"),
        ("loss:1.1@0-1", "is no probability"),
        ("loss:0.1:web@0-1", "links are"),
        ("delay:-1ms@0-1", "is no time"),
        ("skew:web@0-1", "skew:WHO:SECONDS"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(text, says):
    with pytest.raises(BadFault, match=says):
        read(text)


def on_three_tiers(text: str, runtime: str) -> Fault:
    system = System()
    ThreeTier().build(system)
    roles = {role.name: role.process_names() for role in system.roles.values()}
    return doable(parse(text, roles, Random(1)), system, runtime, 10.0)


@pytest.mark.parametrize("text", ["loss:0.1:logic|data@0-1", "partition:data>logic@0-1", "skew:data:1@0-1"])
def test_what_cannot_be_done_to_a_live_component_is_refused_and_can_be_simulated(text):
    with pytest.raises(BadFault, match="data-0 is a real PostgreSQL"):
        on_three_tiers(text, "local")
    assert on_three_tiers(text, "sim").text == text


def test_a_live_component_can_be_killed_and_a_fault_of_all_links_spares_its_own():
    assert on_three_tiers("crash:data@0-1", "local").sources == ("data-0",)
    assert on_three_tiers("loss:0.1@0-1", "local").sources == ("logic-0", "front-0", "client")
    assert "data-0" in on_three_tiers("loss:0.1@0-1", "sim").sources


def test_an_attack_on_those_who_do_not_tell_their_links_is_refused():
    with pytest.raises(BadFault, match="none is best connected: they do not tell"):
        on_three_tiers("crash:best:logic@1", "sim")


def test_a_fault_of_a_load_that_is_over_is_refused():
    with pytest.raises(BadFault, match="when the load of 10 s is over"):
        on_three_tiers("crash:logic@10", "sim")
