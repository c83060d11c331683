"""The openai backend against servers of every behaviour: what is refused, when, and in which words."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

import backends
from backends.base import BackendError, Config, InvalidConfig, Request
from tests.backends.canned_server import Rules, canned_server
from tests.backends.test_openai_kinds import LLAMA_SERVER, MLX, OLLAMA, OTHER, SGLANG, TENSORRT_LLM, VLLM
from tests.helpers import ROOT, stub_server

KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture
def backend():
    backend = backends.create("openai")
    yield backend
    backend.close()


def refusal(action, *arguments) -> str:
    with pytest.raises(InvalidConfig) as refused:
        action(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_the_only_model_is_taken_where_none_is_named(backend):
    with canned_server(VLLM) as canned:
        model = backend.resolve(Config("", url=canned.url))
        assert (model.name, model.source, model.context_length) == ("m", "server", 8192)
        assert model.parameters is None
        assert backend.load(Config("", url=canned.url)).model == model


def test_an_address_may_end_in_v1(backend):
    with canned_server(VLLM) as canned:
        assert backend.resolve(Config("m", url=f"{canned.url}/v1/")).name == "m"


def test_an_unknown_model_is_refused_with_the_names_there_are_whatever_the_server_checks(backend):
    with canned_server(LLAMA_SERVER) as canned:
        said = refusal(backend.resolve, Config("gpt-4", url=canned.url))
    assert "no model 'gpt-4'; it has m" in said


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\x1b]0;title\x07\x1b[31mred\nb", "a ]0;title [31mred b"), ("a\ud800b", "a b"), ("", "unnamed")],
)
def test_a_model_may_have_any_name_and_is_shown_in_plain_words(backend, name, shown):
    pages = {"/v1/models": {"data": [{"id": name}]}}
    with canned_server(pages, Rules()) as canned:
        assert backend.load(Config("", url=canned.url)).model.name == shown
        backend.prepare(Request(4, 3))
        assert backend.run(Request(4, 3)).output_tokens == 3
        assert canned.rules.asked[-1]["model"] == name


def test_a_server_that_was_started_again_is_not_taken_for_the_one_that_was_loaded(backend):
    """Its processes are others: their load would count as foreign, and its energy as none."""
    port = str(free_port())
    with stub_server("--port", port) as url:
        first = backend.load(Config("", url=url))
        backend.client_description()
    with pytest.raises(BackendError, match="has ended since"):
        backend.client_description()
    with stub_server("--port", port):
        with pytest.raises(BackendError, match="has ended since"):
            backend.client_description()
        assert first.server_pids
        assert backend.load(Config("", url=url)).server_pids not in ((), first.server_pids)
        backend.client_description()


def test_a_model_that_is_served_no_more_is_noticed_before_a_loop(backend):
    pages = {"/v1/models": {"data": [{"id": "one"}]}}
    with canned_server(pages, Rules()) as canned:
        backend.load(Config("", url=canned.url))
        backend.client_description()
        pages["/v1/models"]["data"][0]["id"] = "two"
        with pytest.raises(BackendError, match="serves 'one' no more"):
            backend.client_description()


def test_several_models_must_be_chosen_from(backend):
    pages = {"/v1/models": {"data": [{"id": "small"}, {"id": "large"}]}}
    with canned_server(pages) as canned:
        assert "small, large" in refusal(backend.resolve, Config("", url=canned.url))
        assert backend.resolve(Config("large", url=canned.url)).name == "large"


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("127.0.0.1:8000", "http://HOST:PORT"),
        ("ftp://host", "http://HOST:PORT"),
        ("http://", "http://HOST:PORT"),
        ("http://host:port", "http://HOST:PORT"),
        ("http://host:99999", "http://HOST:PORT"),
        ("http://user:pass-word@host:80", "--api-key-env"),
        ("http://no-such-host.invalid:80", "no server answers"),
    ],
)
def test_addresses_that_lead_nowhere_are_refused(backend, url, word):
    said = refusal(backend.resolve, Config("m", url=url))
    assert word in said
    assert "pass-word" not in said


def test_a_server_that_is_not_there_is_refused(backend):
    said = refusal(backend.resolve, Config("m", url=f"http://127.0.0.1:{free_port()}"))
    assert "no server answers" in said
    assert "--url" in said


def test_a_server_that_comes_back_is_waited_for(backend):
    port = free_port()
    started = time.monotonic()
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import time; time.sleep(0.7); import sys; sys.argv[1:] = ['--port', '{port}']; "
            "from tests.stub_server import main; main()",
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            assert backend.load(Config("stub", url=f"http://127.0.0.1:{port}")).model.name == "stub"
        finally:
            process.kill()
    assert time.monotonic() - started > 0.6


@pytest.mark.parametrize(
    ("pages", "word"),
    [
        ({}, "no OpenAI-compatible server"),
        ({"/v1/models": "<html>hello</html>"}, "no OpenAI-compatible server"),
        ({"/v1/models": {"models": []}}, "no OpenAI-compatible server"),
        ({"/v1/models": {"data": []}}, "serves no model"),
        ({"/v1/models": 401}, "--api-key-env"),
        ({"/v1/models": 403}, "--api-key-env"),
    ],
)
def test_what_is_no_open_server_is_refused(backend, pages, word):
    with canned_server(pages) as canned:
        assert word in refusal(backend.resolve, Config("m", url=canned.url))


def test_a_server_that_is_still_loading_is_a_failure_and_no_refusal(backend):
    with canned_server({"/v1/models": 503}) as canned, pytest.raises(BackendError) as failure:
        backend.resolve(Config("m", url=canned.url))
    assert "503" in str(failure.value)
    assert not isinstance(failure.value, InvalidConfig)


def test_http_and_https_taken_for_each_other_are_told_apart(backend):
    with canned_server(VLLM) as canned:
        said = refusal(backend.resolve, Config("m", url=canned.url.replace("http:", "https:")))
    assert "write http://" in said


def test_bytes_that_are_no_http_are_named(backend):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x15\x03\x01\x00\x02\x02\x46")

        thread = threading.Thread(target=answer)
        thread.start()
        said = refusal(backend.resolve, Config("m", url=f"http://127.0.0.1:{port}"))
        thread.join()
    assert "https://" in said


def test_the_key_comes_from_the_environment_and_is_nowhere_kept(backend, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", KEY)
    with stub_server("--key", KEY) as url:
        loaded = backend.load(Config("stub", url=url, api_key_env="SERVER_KEY"))
        backend.prepare(Request(4, 2))
        assert backend.run(Request(4, 2)).output_tokens == 2
        described = backend.client_description()
        assert KEY not in json.dumps(described) + repr(loaded) + repr(backend) + repr(backend.client(described))
        assert described["api_key_env"] == "SERVER_KEY"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_without_a_key_is_refused(backend, monkeypatch, value):
    monkeypatch.delenv("SERVER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SERVER_KEY", value)
    assert "export SERVER_KEY=" in refusal(
        backend.resolve, Config("m", url="http://127.0.0.1:1", api_key_env="SERVER_KEY")
    )


@pytest.mark.parametrize("value", ["sk-1\nX-Other: 2", "sk-ü"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(backend, monkeypatch, value):
    monkeypatch.setenv("SERVER_KEY", value)
    said = refusal(backend.resolve, Config("m", url="http://127.0.0.1:1", api_key_env="SERVER_KEY"))
    assert "SERVER_KEY" in said
    assert "sk-" not in said


def test_a_wrong_key_is_refused_without_being_shown(backend, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", KEY)
    with stub_server("--key", "another") as url:
        said = refusal(backend.load, Config("stub", url=url, api_key_env="SERVER_KEY"))
        assert "SERVER_KEY" in said
        assert "--api-key-env" in refusal(backend.load, Config("stub", url=url))
    assert KEY not in said


def test_exact_requests_are_exact(backend):
    with stub_server() as url:
        loaded = backend.load(Config("stub", url=url))
        assert loaded.settings["exact_sizes"] is True
        assert loaded.settings["prompts"] == "token ids"
        for m, n in [(1, 1), (1, 5), (7, 1), (300, 9)]:
            request = Request(m, n, seed=m)
            assert backend.prepare(request).sizes is None
            before_ns = time.monotonic_ns()
            done = backend.run(request)
            assert (done.input_tokens, done.output_tokens) == (m, n)
            assert before_ns < done.start_ns < done.prefill_end_ns <= done.end_ns < time.monotonic_ns()


@pytest.mark.parametrize(
    ("rules", "word"),
    [
        (Rules(takes=("ids",), ends_after=4, ignores_eos=False), "6 output tokens it counted 19 and 4"),
        (Rules(tells_usage=False), "no usage"),
        (Rules(takes=()), "takes no request"),
    ],
)
def test_a_server_that_can_not_be_exact_is_refused_with_the_reason(backend, rules, word):
    with canned_server(OTHER, rules) as canned, pytest.raises(BackendError) as refused:
        backend.load(Config("m", url=canned.url))
    assert word in str(refused.value)


@pytest.mark.parametrize(("pages", "server"), [(OLLAMA, None), (MLX, "BaseHTTP/0.6 Python/3.12")])
def test_servers_that_end_where_they_like_are_refused_before_anything_is_asked_of_them(backend, pages, server):
    with canned_server(pages, Rules(ends_after=3), server=server) as canned:
        said = refusal(backend.load, Config("m", url=canned.url))
        assert "can't be kept from ending early" in said
        assert "--allow-inexact" in said
        assert canned.rules.asked == []
        loaded = backend.load(Config("m", url=canned.url, allow_inexact=True))
        assert loaded.settings["exact_sizes"] is False
        assert backend.prepare(Request(40, 9)).sizes == (40, 3)
        done = backend.run(Request(40, 9))
        assert (done.input_tokens, done.output_tokens) == (40, 3)


def test_a_server_that_is_exact_for_some_sizes_only_is_refused_at_the_others(backend):
    with canned_server(VLLM, Rules(ends_after=8, ignores_eos=False)) as canned:
        backend.load(Config("m", url=canned.url))
        assert backend.prepare(Request(4, 8)).sizes is None
        assert "it counted 4 and 8" in refusal(backend.prepare, Request(4, 9))
        with pytest.raises(BackendError, match="not prepared"):
            backend.run(Request(4, 9))


def test_a_strict_server_is_asked_in_fields_that_it_knows(backend):
    known = frozenset(["model", "prompt", "max_tokens", "stream", "stream_options", "temperature"])
    with canned_server(OTHER, Rules(takes=("ids",), known=known)) as canned:
        backend.load(Config("m", url=canned.url))
        assert backend.prepare(Request(5, 5)).sizes is None


@pytest.mark.parametrize(
    "pages", [VLLM, LLAMA_SERVER, SGLANG, TENSORRT_LLM, OTHER], ids=["vllm", "llama", "sglang", "trt", "other"]
)
def test_no_two_prompts_begin_alike(backend, pages):
    with canned_server(pages, Rules(vocabulary=49152)) as canned:
        backend.load(Config("m", url=canned.url))
        backend.prepare(Request(8, 2))
        for _ in range(30):
            backend.run(Request(8, 2))
        prompts = [body["prompt"] for body in canned.rules.asked]
    assert len({prompt[0] for prompt in prompts}) == len(prompts) > 30


def test_token_ids_are_those_of_ordinary_tokens(backend):
    with canned_server(LLAMA_SERVER, Rules()) as canned:
        backend.load(Config("m", url=canned.url))
        backend.prepare(Request(2000, 1))
        ids = canned.rules.asked[-1]["prompt"]
    assert 49152 // 4 <= min(ids) <= max(ids) < 3 * 49152 // 4


@pytest.mark.parametrize("vocabulary", [32_000, 4_000, 300])
def test_a_vocabulary_that_is_not_told_is_found_out(backend, vocabulary):
    with canned_server(OTHER, Rules(takes=("ids",), vocabulary=vocabulary)) as canned:
        settings = backend.load(Config("m", url=canned.url)).settings
    assert settings["end_token_id"] <= vocabulary


def test_a_chats_template_is_counted(backend):
    with canned_server(OTHER, Rules(takes=("chat",), added_tokens=11)) as canned:
        settings = backend.load(Config("m", url=canned.url)).settings
        assert (settings["template_tokens"], settings["prompts"]) == (11, "words")
        assert settings["endpoint"] == "/v1/chat/completions"
        assert backend.prepare(Request(12, 4)).sizes is None
        assert backend.prepare(Request(64, 4)).sizes is None
        assert "adds 11 tokens" in refusal(backend.prepare, Request(11, 4))


def test_words_of_several_tokens_are_left_out(backend):
    rules = Rules(takes=("text",), added_tokens=1, tokens_of=lambda word: 1 if len(word) < 5 else 2)
    with canned_server(OTHER, rules) as canned:
        backend.load(Config("m", url=canned.url))
        assert backend.prepare(Request(500, 2)).sizes is None
        assert max(map(len, canned.rules.asked[-1]["prompt"].split())) < 5


def test_words_that_can_not_be_counted_are_refused(backend):
    rules = Rules(takes=("text",), tokens_of=len)
    with canned_server(OTHER, rules) as canned:
        assert "it counted" in refusal(backend.load, Config("m", url=canned.url))
        backend.load(Config("m", url=canned.url, allow_inexact=True))
        m, n = backend.prepare(Request(10, 4)).sizes
        assert (m, n) == (sum(map(len, canned.rules.asked[-1]["prompt"].split())), 4)


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (Request(8000, 193), "8192"),
        (Request(4000, 4000, concurrency=1), "cache of 5824"),
        (Request(4, 4, concurrency=257), "256"),
        (Request(1000, 4, concurrency=6), "cache of 5824 together"),
        (Request(0, 1), "at least 1"),
        (Request(1, 0), "at least 1"),
    ],
)
def test_what_is_beyond_the_limits_that_are_told_is_refused_before_it_is_sent(backend, request_, word):
    with canned_server(VLLM) as canned:
        backend.load(Config("m", url=canned.url))
        asked = len(canned.rules.asked)
        assert word in refusal(backend.prepare, request_)
        assert len(canned.rules.asked) == asked


def test_limits_that_are_not_told_refuse_nothing(backend):
    with stub_server() as url:
        backend.load(Config("stub", url=url))
        assert backend.prepare(Request(100_000, 2, concurrency=500)).sizes is None


def test_a_context_that_turns_out_too_short_fails_with_the_servers_words(backend):
    with canned_server({"/v1/models": {"data": [{"id": "stub"}]}}, Rules(vocabulary=1 << 20)) as canned:
        backend.load(Config("stub", url=canned.url))
        canned.rules.status = 400
        with pytest.raises(BackendError, match="400"):
            backend.prepare(Request(9, 9))


@pytest.mark.parametrize(
    "fault", ["429", "500", "garbage", "garbage-json", "error-event", "early-close", "cut", "die", "short"]
)
def test_a_fault_of_the_server_is_an_error_with_a_reason(backend, fault):
    with stub_server("--fault", fault, "--fault-from", "3") as url:
        backend.load(Config("stub", url=url))
        request = Request(6, 6)
        backend.prepare(request)
        with pytest.raises(BackendError) as failure:
            backend.run(request)
    assert str(failure.value)
    assert "\n" not in str(failure.value)


def test_cached_tokens_are_told_or_their_absence_is(backend):
    with stub_server() as url:
        assert backend.load(Config("stub", url=url)).settings["tells_cached_tokens"] is False
    with stub_server("--cached", "0") as url:
        assert backend.load(Config("stub", url=url)).settings["tells_cached_tokens"] is True


def test_figures_are_read_and_a_server_that_is_gone_has_none(backend):
    with stub_server() as url:
        backend.load(Config("stub", url=url))
        before = backend.server_figures()
        backend.prepare(Request(7, 5))
        after = backend.server_figures()
        assert after["prompt_tokens_total"] - before["prompt_tokens_total"] == 7
        assert after["generation_tokens_total"] - before["generation_tokens_total"] == 5
        assert after["requests_running"] == 0
    assert backend.server_figures() == {}
    backend.close()
    assert backend.server_figures() == {}


@pytest.mark.parametrize(
    "change",
    [
        {"kv_cache": False},
        {"compile": "graph"},
        {"prefill_chunk": 8},
        {"dtype": "int3"},
        {"threads": 3},
        {"device": "cuda:1"},
    ],
)
def test_options_that_a_running_server_decides_itself_are_refused(backend, change):
    with canned_server(VLLM) as canned:
        said = refusal(backend.resolve, Config("m", url=canned.url, **change))
    assert str(next(iter(change.values()))) in said


@pytest.mark.parametrize("change", [{}, {"url": "http://127.0.0.1:1", "serve": "vllm"}])
def test_a_server_is_either_there_or_started(backend, change):
    assert "--serve" in refusal(backend.resolve, Config("m", **change))


def test_a_server_can_be_loaded_again_after_it_was_closed(backend):
    backend.close()
    with stub_server() as url:
        for _ in range(2):
            backend.load(Config("stub", url=url))
            backend.prepare(Request(3, 3))
            backend.close()
            backend.close()
            with pytest.raises(BackendError):
                backend.run(Request(3, 3))


PROGRAM = """#!{python}
import sys
if "--broken" in sys.argv:
    sys.exit("error: invalid argument: --broken")
given = dict(zip(sys.argv, sys.argv[1:]))
sys.path.insert(0, {root!r})
sys.argv[1:] = ["--model", given["--alias"], "--port", given["--port"], "--context", "512"]
from tests.stub_server import main
main()
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program of llama-server's name and flags, and a cache of our own."""
    folder = tmp_path / "llama-server" / "bin"
    folder.mkdir(parents=True)
    path = folder / "llama-server"
    path.write_text(PROGRAM.format(python=sys.executable, root=str(ROOT)))
    path.chmod(0o755)
    monkeypatch.setenv("JOULEBENCH_SERVERS", str(tmp_path))
    monkeypatch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("JOULEBENCH_SERVER_LOG", str(tmp_path / "server.log"))


SERVED = Config("tiny-test", serve="llama-server", server_flags=("-np", "3"))


def test_a_server_is_started_described_and_ended(backend, program, tmp_path):
    model = backend.resolve(SERVED)
    assert (model.source, model.context_length) == ("preset", 4096)
    assert not (tmp_path / "cache").exists()
    loaded = backend.load(SERVED)
    assert loaded.model == replace(model, context_length=512)
    assert loaded.server_pids == ()
    assert "--port PORT" in loaded.settings["command_line"]
    assert loaded.settings["command_line"].endswith("-np 3")
    backend.prepare(Request(5, 4))
    assert backend.run(Request(5, 4)).output_tokens == 4
    children = psutil.Process().children(recursive=True)
    assert children
    backend.close()
    assert not psutil.wait_procs(children, timeout=10)[1]


def commands() -> list[tuple[int, list[str]]]:
    """Process and command line of each of our descendants."""
    return [(child.pid, child.cmdline()) for child in psutil.Process().children(recursive=True)]


def test_a_started_server_that_dies_is_named_and_started_again(backend, program):
    backend.load(SERVED)
    backend.prepare(Request(5, 4))
    error = BackendError("the server closed the connection in mid answer")
    assert backend.blame(error) is error
    os.kill(next(pid for pid, words in commands() if words[1:2] and words[1].endswith("/llama-server")), signal.SIGKILL)
    until = time.monotonic() + 10
    said = ""
    while "SIGKILL" not in said and time.monotonic() < until:
        with contextlib.suppress(BackendError):
            said = str(backend.blame(error))
    assert "llama-server was killed by SIGKILL" in said
    with pytest.raises(BackendError, match="llama-server was killed"):
        backend.run(Request(5, 4))
    backend.load(SERVED)
    assert backend.prepare(Request(5, 4)).sizes is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"serve": "ollama"}, "unknown server 'ollama'"),
        ({"model": ""}, "-m MODEL"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"dtype": "int3"}, "int3"),
        ({"server_pid": 1}, "--server-pid"),
        ({"server_flags": ("--port", "80")}, "--port"),
        ({"server_flags": ("--api-key", "sk-1")}, "--api-key-env"),
    ],
)
def test_a_server_that_can_not_be_started_so_is_refused_before_it_is(backend, program, change, word):
    said = refusal(backend.resolve, replace(SERVED, **change))
    assert word in said
    assert "sk-1" not in said


def test_flags_that_the_server_refuses_are_told_in_its_words(backend, program):
    with pytest.raises(BackendError, match="invalid argument: --broken"):
        backend.load(replace(SERVED, server_flags=("--broken",)))
