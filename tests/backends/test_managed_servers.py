"""Servers that are started for a measurement: their command line, readiness, faults, and that none outlives us."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from backends.base import BackendError, InvalidConfig, NotInstalled, OutOfMemory
from backends.llama_cpp import gguf_file
from backends.openai import port_owner
from backends.openai.servers import managed, server_log
from backends.openai.servers.base import find_program
from backends.openai.servers.managed import ServerPlan
from tests.helpers import ROOT

MARK = "JOULEBENCH_TEST_MARK"
TINY = ServerPlan("llama-server", "tiny-test")

# Stands for the worker: starts the server, is busy while it lives, and says how it ended.
PARENT = """
import sys, time
from pathlib import Path
from backends.openai.servers import managed
print("begins", flush=True)
with managed.start(managed.ServerPlan("llama-server", "tiny-test"), Path(sys.argv[1]), timeout_s=60) as server:
    print(server.pid, flush=True)
    while server.alive():
        time.sleep(0.02)
print(server.death(), flush=True)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULEBENCH_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A program in place of llama-server; the file with the numbers of its processes."""
    program = tmp_path / "servers" / "llama-server" / "bin" / "llama-server"
    program.parent.mkdir(parents=True)
    source = (ROOT / "tests" / "backends" / "tree_server.py").read_text()
    program.write_text(source.replace("#!/usr/bin/env python3", f"#!{sys.executable} -IS", 1))
    program.chmod(0o755)
    monkeypatch.setenv("JOULEBENCH_SERVERS", str(tmp_path / "servers"))
    monkeypatch.setenv("TREE_PIDS", str(tmp_path / "pids"))
    return tmp_path / "pids"


@pytest.fixture
def tree(stub, monkeypatch):
    """The same as a server of many processes."""
    monkeypatch.setenv("TREE_CHILDREN", "1")
    return stub


def start(plan=TINY, log=None, **options):
    return managed.start(plan, log, timeout_s=60, **options)


def noted(pids, count):
    """The numbers in the file, once there are so many."""
    until = time.monotonic() + 20
    while len(pids.read_text().split()) < count:
        assert time.monotonic() < until
        time.sleep(0.02)
    return [int(pid) for pid in pids.read_text().split()]


def lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def marked(mark):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if lives(process.pid)]


def await_none(find, seconds=30.0):
    until = time.monotonic() + seconds
    while left := find():
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.05)


def test_server_and_all_it_started_end_with_the_block(tree, tmp_path):
    progress = []
    with start(log=tmp_path / "log", progress=lambda *said: progress.append(said)) as server:
        pids = noted(tree, 4)
        assert server.pid == pids[0]
        assert all(map(lives, pids))
        ours = {process.pid for process in psutil.Process().children(recursive=True)}
        if sys.platform == "linux":
            assert set(pids) <= ours  # the daemon too: its load is the server's
        assert server.alive()
        assert port_owner.find_owner("127.0.0.1", server.port) == port_owner.Owner(server.pid)
        supervisors = ours - set(pids)
    assert not server.alive()
    assert not any(map(lives, [*pids, *supervisors]))
    server.close()
    said = (tmp_path / "log").read_text()
    assert "loading the model" in said
    assert f"--port {server.port}" in said


def test_command_line_is_ours_then_the_users(stub):
    with start(ServerPlan("llama-server", "tiny-test", ("-np", "4"), threads=3, device="cpu")) as server:
        command = server.command
    assert command[-2:] == ["-np", "4"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--threads") + 1] == "3"
    assert command[command.index("--device") + 1] == "none"
    assert command[command.index("--alias") + 1] == "tiny-test"
    assert Path(command[command.index("-m") + 1]).is_file()
    assert "--metrics" in command
    assert server.url == f"http://127.0.0.1:{server.port}"


def test_threads_are_one_less_than_cores_unless_the_users_flags_say(stub, monkeypatch):
    monkeypatch.setattr("backends.llama_cpp.threads.default_threads", lambda: 1)
    with start() as server:
        assert server.command[server.command.index("--threads") + 1] == "1"
    monkeypatch.setattr("backends.llama_cpp.threads.default_threads", lambda: 8)
    with start() as server:
        assert server.command[server.command.index("--threads") + 1] == "7"
    with start(ServerPlan("llama-server", "tiny-test", ("--threads=5",))) as server:
        assert "--threads" not in server.command
        assert "--threads=5" in server.command


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (ServerPlan("sglang", "tiny-test"), "--serve takes llama-server or vllm"),
        (ServerPlan("llama-server", "tiny-test", ("--port", "80")), "leave '--port' out"),
        (ServerPlan("llama-server", "tiny-test", ("--host=0.0.0.0",)), "leave '--host' out"),
        (ServerPlan("vllm", "smollm2-135m", ("--model", "x")), "leave '--model' out"),
        (ServerPlan("vllm", "smollm2-135m", ("--dtype=half",)), "leave '--dtype' out"),
        (ServerPlan("llama-server", "tiny-test", ("--api-key", "s3cret")), "--api-key-env"),
        (ServerPlan("llama-server", "tiny-test", ("--hf-token=s3cret",)), "'--hf-token' would be recorded"),
        (ServerPlan("llama-server", "tiny-tset"), "did you mean tiny-test"),
        (ServerPlan("llama-server", "absent.gguf"), "no GGUF file"),
        (ServerPlan("llama-server", "meta-llama/Llama-3.2-1B"), "give a preset or a .gguf file"),
        (ServerPlan("llama-server", "tiny-test", dtype="bfloat16"), "no dtype 'bfloat16'"),
        (ServerPlan("llama-server", "tiny-test", device="cuda:1"), "--device auto or cpu"),
        (ServerPlan("vllm", "tiny-test"), "take smollm2-135m"),
        (ServerPlan("vllm", "smollm2-135m", device="cpu"), "leave --device cpu out"),
    ],
)
def test_what_can_not_work_is_refused(stub, plan, words, monkeypatch):
    both = stub.parent / "servers" / "vllm" / "bin"
    both.mkdir(parents=True)
    shutil.copy(stub.parent / "servers" / "llama-server" / "bin" / "llama-server", both / "vllm")
    monkeypatch.setattr("backends.openai.servers.vllm.random_folder", lambda *named: Path("folder"))
    with pytest.raises(InvalidConfig) as refused:
        start(plan)
    assert words in str(refused.value)
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not stub.exists()  # nothing was started


def test_flags_that_only_sound_like_keys_are_taken(stub):
    flags = ("--max-num-batched-tokens", "64", "--skip-tokenizer-init", "--api-key-file", "f", "--keep", "-1")
    with start(ServerPlan("llama-server", "tiny-test", flags)) as server:
        assert server.command[-len(flags) :] == list(flags)


def test_absent_program_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("backends.openai.servers.base.CHECKOUT", tmp_path)
    with pytest.raises(NotInstalled, match=r"bash scripts/setup/servers.sh llama-server"):
        start()


def test_file_without_vocabulary_is_refused(stub, tmp_path, monkeypatch):
    import gguf

    path = tmp_path / "old.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("none")
    import numpy as np

    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InvalidConfig, match="has no vocabulary"):
        start(ServerPlan("llama-server", str(path)))


def test_key_is_handed_over_and_written_nowhere(stub, tmp_path):
    plan = ServerPlan("llama-server", "tiny-test", api_key="s3cret")
    with start(plan, tmp_path / "log") as server:
        assert psutil.Process(server.pid).environ()["LLAMA_API_KEY"] == "s3cret"
    assert "s3cret" not in repr(plan) + " ".join(server.command) + (tmp_path / "log").read_text()


def test_server_gets_no_packages_of_ours(stub, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), "/theirs"]))
    with start() as server:
        assert psutil.Process(server.pid).environ()["PYTHONPATH"] == "/theirs"


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ("error: invalid argument: --nope", InvalidConfig, "invalid argument: --nope; correct what follows --"),
        ("E ggml_backend: failed to allocate buffer of size 7", OutOfMemory, "failed to allocate buffer of size 7"),
        ("E load: the file is damaged: error 3\nexiting due to model loading error", BackendError, "damaged: error 3"),
    ],
)
def test_early_death_is_told_by_its_last_words(stub, monkeypatch, said, error, words):
    monkeypatch.setenv("TREE_DOES", "dies")
    monkeypatch.setenv("TREE_SAYS", said)
    with pytest.raises(error, match=words) as raised:
        start()
    assert type(raised.value) is error


def test_server_that_never_gets_ready_is_ended(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("TREE_DOES", "hangs")
    seen = []
    with pytest.raises(BackendError, match=r"not ready within 2.5 s: loading the model \(log: .*log\)"):
        managed.start(TINY, tmp_path / "log", lambda *said: seen.append(said), timeout_s=2.5)
    assert not any(map(lives, noted(tree, 4)))
    assert seen[-1][1] == "loading the model"
    assert 1 <= seen[-1][0] <= 2.6


def test_port_that_was_taken_meanwhile_is_given_up(stub, monkeypatch):
    monkeypatch.setenv("TREE_DOES", "port taken once")
    with start() as server:
        assert server.alive()


def test_log_of_the_run_may_be_named_by_the_environment(stub, tmp_path, monkeypatch):
    monkeypatch.setenv(server_log.LOG_VARIABLE, str(tmp_path / "run" / ".." / "server.log"))
    (tmp_path / "run").mkdir()
    with start() as server:
        assert "loading" in server.log.read_text()
    assert (tmp_path / "server.log").exists()


def test_server_killed_in_mid_run_is_noticed_and_leaves_nothing(tree):
    with start() as server:
        pids = noted(tree, 4)
        os.kill(server.pid, signal.SIGKILL)
        await_none(lambda: [pid for pid in pids if lives(pid)])
        assert not server.alive()
        assert "llama-server was killed by SIGKILL" in str(server.death())
        with start() as again:
            assert again.alive()


@pytest.mark.skipif(sys.platform != "linux", reason="needs child subreapers")
@pytest.mark.parametrize("victims", ["outer", "inner"])
def test_a_killed_supervisor_leaves_nothing(tree, victims):
    with start() as server:
        pids = noted(tree, 4)
        inner = psutil.Process(server.pid).parent()
        (inner.parent() if victims == "outer" else inner).kill()
        await_none(lambda: [pid for pid in pids if lives(pid)])
        await_none(server.alive)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel to end orphans")
def test_both_supervisors_killed_at_once_leave_nothing_of_the_servers_session(tree):
    with start() as server:
        pids = noted(tree, 4)
        (daemon,) = [pid for pid in pids if os.getsid(pid) != server.pid]
        inner = psutil.Process(server.pid).parent()
        for process in (inner.parent(), inner):
            process.send_signal(signal.SIGSTOP)  # neither can act on the other's end
        for process in (inner.parent(), inner):
            process.kill()
        await_none(server.alive)
        assert [pid for pid in pids if lives(pid)] == [daemon]
    os.kill(daemon, signal.SIGKILL)  # in a session of its own, and nobody is left who knew it


def test_storm_of_signals_ends_the_server_once_and_wholly(tree):
    with start() as server:
        pids = noted(tree, 4)
        inner = psutil.Process(server.pid).parent()
        for _ in range(20):
            for process in (inner, inner.parent()):
                try:
                    process.send_signal(random.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
                except psutil.Error:
                    pass
            time.sleep(0.01)
        await_none(lambda: [pid for pid in pids if lives(pid)])
        assert not server.alive()


def test_ten_kills_at_random_instants_leave_no_process(tree, tmp_path):
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"seed {seed}")  # shown when this fails
    started = []
    for number in range(10):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), MARK: f"{os.getpid()}-{number}"}
        environment["TREE_PIDS"] = str(tmp_path / f"pids-{number}")
        command = [sys.executable, "-c", PARENT, str(tmp_path / f"log-{number}")]
        parent = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # a server that is killed before it was ready is told there
            text=True,
            start_new_session=True,
        )
        started.append((number, parent, rng.choice(["us", "server", "both"]), rng.uniform(0, 4)))
    begun = time.monotonic()
    for number, parent, victims, after_s in sorted(started, key=lambda each: each[3]):
        time.sleep(max(0.0, begun + after_s - time.monotonic()))
        pids = Path(tmp_path / f"pids-{number}")
        written = pids.read_text().split() if pids.exists() else []
        server = int(written[0]) if written else None
        if victims != "us" and server:
            os.kill(server, signal.SIGKILL)
        if victims != "server" or not server:
            parent.kill()
    for number, parent, _, _ in started:
        said = parent.communicate(timeout=60)[0]
        assert "was killed by SIGKILL" in said or parent.returncode == -signal.SIGKILL
        await_none(partial(marked, f"{os.getpid()}-{number}"))
        pids = Path(tmp_path / f"pids-{number}")
        assert not pids.exists() or not any(map(lives, map(int, pids.read_text().split())))


def test_real_llama_server_serves_a_preset():
    try:
        find_program("llama-server")
    except NotInstalled:
        pytest.skip("bash scripts/setup/servers.sh llama-server builds it")
    with start(ServerPlan("llama-server", "tiny-test", ("-np", "2", "-c", "1024"), dtype="Q8_0")) as server:
        assert b'"completion_tokens":8' in post(server, b'{"prompt": [3, 4], "max_tokens": 8, "ignore_eos": true}')
        os.kill(server.pid, signal.SIGKILL)
        await_none(server.alive)


def test_real_llama_server_says_what_is_wrong_with_its_flags():
    try:
        find_program("llama-server")
    except NotInstalled:
        pytest.skip("bash scripts/setup/servers.sh llama-server builds it")
    with pytest.raises(InvalidConfig, match="invalid argument: --nope"):
        start(ServerPlan("llama-server", "tiny-test", ("--nope",)))


@pytest.mark.slow
def test_real_vllm_serves_a_preset_and_none_of_its_processes_is_left():
    try:
        find_program("vllm")
    except NotInstalled:
        pytest.skip("bash scripts/setup/servers.sh vllm installs it")
    flags = ("--enforce-eager", "--max-model-len", "1024", "--kv-cache-memory-bytes", "300000000")
    with managed.start(ServerPlan("vllm", "smollm2-135m", flags), timeout_s=280) as server:
        answer = post(server, b'{"prompt": [3, 4], "max_tokens": 8, "ignore_eos": true, "detokenize": false}')
        assert b'"completion_tokens":8' in answer
        stub = psutil.Process(server.pid).children(recursive=True)
        assert any("Worker" in process.name() for process in stub)
        os.kill(server.pid, signal.SIGKILL)
        await_none(lambda: [process for process in stub if lives(process.pid)], 10)


def post(server, body):
    head = f"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_vocabulary_of_random_files_has_a_text_for_every_token():
    import gguf

    reader = gguf.GGUFReader(gguf_file.preset_file("tiny-test", "F16", 0))
    field = reader.fields["tokenizer.ggml.tokens"]
    texts = [bytes(field.parts[index]).decode() for index in field.data]
    assert len(set(texts)) == len(texts) == 256
    assert all(texts)
    # Without types each token is a normal one: no bytes that a server would hold back.
    assert "tokenizer.ggml.token_type" not in reader.fields
