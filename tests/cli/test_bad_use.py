"""Bad use gives one clear line, exit code 2, and nothing is started."""

from __future__ import annotations

import pytest

from polyarch.cli.options import COMMON
from polyarch.experiment import catalogue


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("rnu raft", 'Did you mean "run"'),
        ("run", "needs an ARCHITECTURE"),
        ("run rafft", "did you mean 'raft'"),
        ("run kv", "kv is a job; architectures that offer it: "),
        ("run raft kvv", "did you mean 'kv'"),
        ("run raft chord", "chord is an architecture; jobs that it offers: lookup"),
        ("run raft lookup", "raft does not do the job lookup"),
        ("run raft kv more", "what is 'more' for"),
        ("run raft --on locall", 'Did you mean "local"'),
        ("run raft --servres 3", "did you mean --servers"),
        ("run raft --servres", "did you mean --servers"),
        ("run raft --nonsense 3", "the parameters of raft, kv are --servers"),
        ("run raft --servers", "--servers needs a value"),
        ("run raft --servers x", "an integer of at least 1, not 'x'"),
        ("run raft --servers 0", "an integer of at least 1, not '0'"),
        ("run raft --servers 1.5", "an integer of at least 1, not '1.5'"),
        ("run raft --servers 1000000000", "at most 10,000,000"),
        ("run raft --servers 1000001", "a simulation holds at most 1,000,000"),
        ("run chord --nodes 20000 --on local", "--per-process"),
        ("run raft --skew -1", "a number from 0 to 4, not '-1'"),
        ("run raft --heartbeat nan", "not nan"),
        ("run raft --heartbeat inf", "not inf"),
        ("run raft --seed 1.5", "an integer, not '1.5'"),
        ("run raft --seed -1", "--seed takes an integer from 0"),
        ("run raft --seed 99999999999999999999", "--seed takes an integer from 0"),
        ("run raft --duration 0", "--duration takes a number above 0"),
        ("run raft --duration nan", "--duration takes a number above 0"),
        ("run raft --duration ten", "--duration"),
        ("run raft --rate inf", "--rate takes a number above 0"),
        ("run raft --rate 1e8", "at most 10,000,000 can be checked"),
        ("run raft --clients 0", "--clients takes an integer of at least 1"),
        ("run raft --clients 2.5", "an integer, not '2.5'"),
        ("run raft --clients 1000000000", "at most 100,000"),
        ("run raft --rate 1 --clients 1", "not both"),
        ("run raft --per-process 0", "--per-process takes an integer of at least 1"),
        ("run raft --latency soon", "--latency is a time"),
        ("run raft --latency 5ms-1ms", "ends before it starts"),
        ("run raft --latency exp:1e999s", "is a time"),
        ("run raft --latency lognormal:1ms:nan", "lognormal:MEDIAN:SIGMA"),
        ("run raft --bandwidth -1", "--bandwidth takes megabytes"),
        ("run raft --on local --latency 1ms", "use --on sim"),
        ("run raft --fault crush:server-0@1", "did you mean 'crash'"),
        ("run raft --fault crash:server-9@1", "did you mean 'server-"),
        ("run raft --fault crash:server-0@99", "is over"),
        ("run raft --fault loss:0.1", "when?"),
        ("run three_tier --on local --fault delay:1ms:logic|data@0-1", "is a real PostgreSQL"),
        ("run raft --fault crash:6:server@1", "6 of 5 server: there are not so many"),
        ("run raft --fault crash:best:20%:server@1", "none is best connected"),
        ("run raft --churn poison:1", "churn is poisson or sessions"),
        ("run chord --churn poisson:-1", "the rate is a number above 0"),
        ("compare kv --churn sessions:exponential:10", "the mean time away is missing"),
        ("compare lookup --churn poisson:1 --nodes 1", "nobody is left"),
        ("run chord kv --replicas 10", "chord: --replicas 10: with --successors 8"),
        ("compare kv --architectures pastry --replicas 10", "pastry: --replicas 10: with --leaves 16"),
        ("run pastry --keep-alive 0", "--keep-alive 0: joining needs it"),
        ("run hyparview --active 2", "an integer of at least 3"),
        ("run scamp --lease 0.01", "--lease 0.01: subscribing takes up to 0.5 s"),
        ("check chord kv --replicas 10", "--replicas 10: with --successors 8"),
        ("run kademlia kv --k 2", "kademlia: --replicas 3: with --k 2"),
        ("run raft --trace /nowhere", "'/nowhere' is not there"),
        ("run raft --trace /tmp", "'/tmp' is a folder"),
        ("run raft --trace /etc/hostname", "the job kv cannot replay traces"),
        ("run raft --speedup 2", "--speedup goes with --trace"),
        ("run raft --serve", "no front that speaks HTTP"),
        ("run raft --serve --on sim", "--serve needs real sockets"),
        ("run client_server --serve --rate 5", "give no --rate"),
        ("run client_server --serve --port 70000", "from 0 to 65535"),
        ("run raft --port 8000", "--port goes with --serve"),
        ("run raft --json", "--json needs a value"),
        ("run raft --json --seed", "--json takes the name of a file"),
        ("run raft --json /tmp", "Is a directory"),
        ("run raft --json /proc/none/record.json", "cannot be written"),
        ("show rafft", "did you mean 'raft'"),
        ("compare", "needs a JOB"),
        ("compare raft", "raft is an architecture"),
        ("compare kv --architectures raft,raft", "names raft twice"),
        ("compare kv --architectures ,", "names separated by commas"),
        ("compare kv --architectures raft,bully", "bully does not do the job kv"),
        ("compare kv raft,raft", "names raft twice"),
        ("compare kv raft --vary servers", "--vary takes PARAMETER=v1,v2"),
        ("compare kv raft --vary servers=3", "with two values or more"),
        ("compare kv raft --vary servers=3,", "with two values or more"),
        ("compare kv raft --vary =3,5", "--vary takes PARAMETER=v1,v2"),
        ("compare kv raft --vary servers=3,3", "3 is there twice"),
        ("compare kv raft --vary servers=3,5.5", "an integer of at least 1, not '5.5'"),
        ("compare kv raft --vary servres=3,5", "did you mean --servers"),
        ("compare kv raft --vary servers=3,0", "an integer of at least 1, not '0'"),
        ("compare kv raft --vary servers=3,5 --servers 7", "it is given as --servers too"),
        ("compare kv raft --vary rate=10,fast", "--rate takes a number, not 'fast'"),
        ("compare kv raft --vary rate=10,10.0", "two of 10, 10.0 are the same"),
        ("compare kv raft --vary rate=10,-1", "--rate takes a number above 0"),
        ("compare kv raft --vary latency=1ms,soon", "--latency is a time"),
        ("compare kv raft --vary churn=poisson:1,poison:2", "churn is poisson or sessions"),
        ("compare kv raft --figure hops", "--figure goes with --vary"),
        ("compare kv --rounds 0", "--rounds takes an integer from 1"),
        ("compare kv --report /proc/none", "cannot be written"),
    ],
)
def test_bad_use_is_one_line_that_says_what_would_be_right(polyarch, command, says):
    assert says in polyarch.complaint(*command.split())


def test_an_empty_file_name_is_refused(polyarch):
    assert "--json takes the name of a file" in polyarch.complaint("run", "raft", "--json", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is empty"),
        (b"\x89PNG\x00\xff", "line 1"),
        (b"invoice,stock_code\n", "trace.csv"),
        (None, "line 11"),
    ],
)
def test_a_trace_that_cannot_be_read_is_named_with_its_line(polyarch, tmp_path, text, says):
    header = "invoice,stock_code,description,quantity,invoice_time,unit_price_gbp,customer_id,country\n"
    line = "536365,85123A,HOLDER,6,2010-12-01 08:26:00,2.55,17850,United Kingdom\n"
    file = tmp_path / "trace.csv"
    file.write_bytes((header + 9 * line + "5363").encode() if text is None else text)
    complaint = polyarch.complaint("run", "client_server", "--trace", file)
    assert says in complaint
    assert "trace.csv" in complaint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def x(:\n", "mine.py:1: SyntaxError"),
        ("import os\nraise RuntimeError('one\\ntwo')\n", "mine.py:2: RuntimeError: one two"),
        ("import sys\nsys.exit(0)\n", "mine.py:2: SystemExit"),
        ("import nonesuch\n", "mine.py:1: ModuleNotFoundError"),
        ("", "defines 0 architectures; exactly one is wanted"),
        (None, "is not there"),
    ],
)
def test_a_file_of_the_users_own_that_is_wrong_is_named_with_its_line(polyarch, tmp_path, text, says):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    assert says in polyarch.complaint("run", file)


def test_an_architecture_that_cannot_be_built_says_why(polyarch, store):
    store.write_text(store.read_text().replace('system.role("server", store)', "store.nonsense"))
    assert "one_store cannot be built: AttributeError" in polyarch.complaint("run", store)


@pytest.mark.parametrize(
    ("what", "instead", "says"),
    [
        ("def put(self", "def set(self", "TypeError: Store lacks put (polyarch/jobs/kv.py:"),
        ("store: Store", "store: Http", "Client.store is wired to Store, which does not take: http"),
    ],
)
def test_a_node_that_leaves_out_what_others_count_on_is_named_before_anything_runs(
    polyarch, store, what, instead, says
):
    store.write_text(store.read_text().replace(what, instead).replace("import Arch", "import Http, Arch"))
    assert f"one_store cannot be built: {says}" in polyarch.complaint("run", store)


def test_an_error_that_nobody_foresaw_is_one_line_and_can_be_looked_into(polyarch, store):
    broken = "async def ready(self, x):\n        raise KeyError('gone')\n\n    def build("
    store.write_text(store.read_text().replace("def build(", broken))
    code, _, err = polyarch("run", store, "--duration", "0.1")
    assert code == 3
    assert "POLYARCH_DEBUG=1" in err


def test_no_parameter_of_the_catalogue_has_the_name_of_a_common_option():
    for kind in (*catalogue.architectures().values(), *catalogue.jobs().values()):
        assert not {p.option for p in kind.parameters.values()} & set(COMMON), kind.name
