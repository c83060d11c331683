"""Models behind an OpenAI-compatible server, one that runs already or one that is started for the measurement.

What answers at the address, how it must be asked and what it can take is found out when it is loaded. Its requests are
sent by ``client``, in this process or in others; ``run`` sends one by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backends.base import (
    BackendError,
    Capabilities,
    Completion,
    Config,
    InvalidConfig,
    Loaded,
    Model,
    Prepared,
    Reply,
    Request,
    ServingBackend,
    refuse_request,
    refuse_unused,
)
from backends.openai import metrics
from backends.openai.address import parse_url
from backends.openai.client import ClientSettings, OpenAIClient, RefusedByServer, settings_from_json
from backends.openai.control import Control, NoAnswer
from backends.openai.described import completed, describe
from backends.openai.discovery import Served, discover, read_key, still_serves
from backends.openai.exactness import Asking, find_asking, mismatch
from backends.openai.placement import Placement, flag, place, place_started, running
from backends.openai.prompts import RequestForm
from backends.openai.servers.managed import ManagedServer, ServerPlan, start
from backends.openai.stream import one_line

if TYPE_CHECKING:
    import psutil

DEVICES = ("cpu", "cuda", "metal")
FIRST_PROBE = 1 << 62
"""Number of the first request that is sent to find something out; those of trials stay far below."""
PATIENCE_S = 20.0
"""How long a server that was there before may be away: others may be starting it again."""
PROBE_TIMEOUT_S = 120.0
"""For the first small requests, on which some servers load the model."""
NEWS_WITHIN_S = 1.0
"""How long after a request's failure the end of its server may become known."""
_NOT_NOW, _NOT_SO = (429, 503), (400, 413, 422)
"""How a server says that it can't take a request at the moment, and that it never takes one like this."""


class OpenAIServer(ServingBackend):
    def __init__(self) -> None:
        self._config = Config(model="")
        self._control: Control | None = None
        self._served: Served | None = None
        self._asking: Asking | None = None
        self._runner: asyncio.Runner | None = None
        self._numbers = itertools.count(FIRST_PROBE)
        self._prepared: Request | None = None
        self._managed: ManagedServer | None = None
        self._processes: list[psutil.Process] = []
        self.on_progress: Callable[[str], None] = lambda said: print(said, file=sys.stderr, flush=True)

    def capabilities(self) -> Capabilities:
        return Capabilities(devices=DEVICES, dtypes=(), concurrency="closed loop", samples_tokens=True)

    def resolve(self, config: Config) -> Model:
        _refuse_options(config)
        if config.serve is not None:
            return describe(config)
        control = _control(config, config.url)
        try:
            return discover(control, config.model, config.api_key_env).model()
        except NoAnswer as error:
            raise InvalidConfig(str(error)) from None
        finally:
            control.close()

    def load(self, config: Config) -> Loaded:
        self.close()
        _refuse_options(config)
        self._config = config
        try:
            return self._load(config)
        except BaseException as error:
            blamed = self.blame(error) if isinstance(error, BackendError) else error
            self.close()
            raise blamed from None

    def _load(self, config: Config) -> Loaded:
        described = None
        if config.serve is not None:
            described = describe(config)
            self._managed = started = start(_server_plan(config), progress=self._say_progress)
            self._control = _control(config, started.url)
            found = self._await_server()
            placement = place_started(config, started.pid, started.command)
        else:
            self._control = _control(config, config.url)
            # Nobody owns the port of a server that is being started again.
            found = self._await_server()
            placement = place(config, self._control.address)
            self._processes = running(placement.pids)
        self._served = served = _with_flags(found, placement)
        self._asking = asking = self._find_asking(served)
        return Loaded(
            model=completed(described, served.told) if described else served.model(),
            device=placement.device.kind,
            device_names=placement.device.names,
            gpu_uuids=placement.device.gpu_uuids,
            settings=self._settings(served, asking) | self._command_line(placement),
            server_pids=placement.pids,
            no_energy=placement.no_energy,
            concurrency="closed loop",
            most_in_flight=served.told.most_in_flight,
        )

    def _say_progress(self, seconds: float, line: str) -> None:
        self.on_progress(f"the server has been starting for {seconds:.0f} s: {line}")

    def blame(self, error: BackendError) -> BackendError:
        """What lies behind a request's failure: how a server that was started here ended, if it did."""
        managed = self._managed
        return managed.death() if managed is not None and not managed.alive(NEWS_WITHIN_S) else error

    def _await_server(self) -> Served:
        """Find out what is served; a server that doesn't answer gets a while. Raises BackendError or InvalidConfig."""
        assert self._control is not None
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return discover(self._control, self._config.model, self._config.api_key_env)
            except InvalidConfig:
                raise
            except BackendError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)

    def _find_asking(self, served: Served) -> Asking:
        kind = served.kind
        if kind.inexact and not self._config.allow_inexact:
            raise InvalidConfig(_inexact(kind.name, kind.inexact))
        try:
            asking = self._patiently(lambda: find_asking(self._ask, kind, served.name, served.told.vocabulary_size))
        except RefusedByServer as error:
            if error.status not in (401, 403):
                raise
            named = self._config.api_key_env
            remedy = f"correct the one in {named}" if named else "name the variable that holds it: --api-key-env NAME"
            raise InvalidConfig(f"the server wants another key ({error.status}); {remedy}") from None
        if asking.problem and not self._config.allow_inexact:
            raise InvalidConfig(_inexact(kind.name, asking.problem))
        return asking

    def _patiently(self, find: Callable[[], Asking]) -> Asking:
        """What is found, tried again for a while where the server is busy. Raises BackendError or InvalidConfig."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return find()
            except RefusedByServer as error:
                if error.status not in _NOT_NOW or time.monotonic() > until:
                    raise
                time.sleep(0.5)

    def _ask(self, form: RequestForm, request: Request, within_s: float | None = PROBE_TIMEOUT_S) -> Reply:
        """Send one request by itself and read its answer, whatever its sizes. Raises BackendError."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        client = OpenAIClient(self._client_settings(form, exact=False), read_key(self._config.api_key_env))
        try:
            return self._runner.run(_exchange(client, request, next(self._numbers), within_s))
        except BackendError as error:
            raise self.blame(error) from None

    def _client_settings(self, form: RequestForm, exact: bool) -> ClientSettings:
        assert self._control is not None
        return ClientSettings(self._control.address.url, form, exact=exact)

    def _settings(self, served: Served, asking: Asking) -> dict[str, str | int | float | bool | None]:
        told, form, reply = served.told, asking.form, asking.reply
        return {
            "server": served.kind.name,
            "server_version": told.version,
            "context_length": told.context_length,
            "most_in_flight": told.most_in_flight,
            "cache_tokens": told.cache_tokens,
            "endpoint": form.path,
            "prompts": "words" if form.words else "token ids",
            "first_token_id": None if form.words else form.first_id,
            "end_token_id": None if form.words else form.end_id,
            "template_tokens": form.template_tokens,
            "exact_sizes": asking.problem is None,
            "tells_cached_tokens": reply.cached_tokens is not None,
            "tells_tokens_of_pieces": reply.counted,
            "no_metrics": None if self.server_figures() else served.kind.no_metrics,
            **{name: one_line(value) if isinstance(value, str) else value for name, value in told.settings.items()},
        }

    def _command_line(self, placement: Placement) -> dict[str, str]:
        if not placement.command:
            return {}
        key = read_key(self._config.api_key_env)
        words = [word.replace(key, "…") if key else word for word in placement.command]
        return {"command_line": shlex.join(words)}

    def prepare(self, request: Request) -> Prepared:
        served, asking = self._loaded()
        self._refuse_beyond(request, served)
        self._prepared = None
        one = Request(request.input_tokens, request.output_tokens, request.seed)
        reply = self._tried(asking.form, one)
        wrong = mismatch(one, reply)
        if wrong and not self._config.allow_inexact:
            # Once may be a slip, which isn't how the server does it.
            wrong = mismatch(one, self._tried(asking.form, one))
            if wrong:
                raise InvalidConfig(_inexact(served.kind.name, wrong))
        self._prepared = request
        return Prepared(sizes=(reply.input_tokens, reply.output_tokens) if wrong else None)

    def _tried(self, form: RequestForm, request: Request) -> Reply:
        """A reply to a request of a size not tried yet, which takes what it takes. Raises BackendError."""
        try:
            return self._ask(form, request, within_s=None)
        except RefusedByServer as error:
            if error.status not in _NOT_SO:
                raise
            m, n = request.input_tokens, request.output_tokens
            raise InvalidConfig(f"the server takes no requests of {m} input and {n} output tokens: {error}") from None

    def _refuse_beyond(self, request: Request, served: Served) -> None:
        """Refuse sizes and concurrency beyond what the server tells of its limits. Raises InvalidConfig."""
        told, c = served.told, request.concurrency
        m, n = request.input_tokens, request.output_tokens
        refuse_request(request, told.context_length)
        if told.cache_tokens is not None and m + n > told.cache_tokens:
            raise InvalidConfig(
                f"{m} input and {n} output tokens are more than the server's cache of {told.cache_tokens} holds; "
                "ask for fewer tokens or give the server more memory for its cache"
            )
        if told.cache_tokens is not None and c * (m + 1) > told.cache_tokens:
            raise InvalidConfig(
                f"{c} requests of {m} input tokens don't fit into the server's cache of {told.cache_tokens} together; "
                "ask for fewer at once or give the server more memory for its cache"
            )
        if told.most_in_flight is not None and c > told.most_in_flight:
            raise InvalidConfig(
                f"{c} requests in flight are more than the {told.most_in_flight} that the server works on at once; "
                f"use -c {told.most_in_flight} or less, or start the server with room for more"
            )

    def run(self, request: Request) -> Completion:
        _, asking = self._loaded()
        if self._prepared != request:
            raise BackendError("this request was not prepared")
        if request.concurrency != 1:
            raise BackendError("several requests in flight are sent by clients, not by run")
        reply = self._ask(asking.form, request, within_s=None)
        wrong = mismatch(request, reply)
        if wrong and not self._config.allow_inexact:
            raise BackendError(f"the server did not keep to the sizes: {wrong}")
        return Completion(reply.start_ns, reply.token_ns[0], reply.end_ns, reply.input_tokens, reply.output_tokens)

    def client_description(self) -> dict[str, Any]:
        served, asking = self._loaded()
        self._refuse_other_server(served)
        settings = self._client_settings(asking.form, exact=not self._config.allow_inexact)
        return {"settings": settings.as_json(), "api_key_env": self._config.api_key_env}

    def _refuse_other_server(self, served: Served) -> None:
        """See that the server that was loaded is the one that is there. Raises BackendError."""
        for process in self._processes:
            if not process.is_running():
                raise BackendError(f"the server's process (pid {process.pid}) has ended since it was found")
        if self._control is not None and not still_serves(self._control, served.name):
            raise BackendError(
                f"the server serves '{one_line(served.name)}' no more: it was started with another model"
            )

    def client(self, description: Mapping[str, Any]) -> OpenAIClient:
        return OpenAIClient(settings_from_json(description["settings"]), read_key(description["api_key_env"]))

    def server_figures(self) -> dict[str, float]:
        """See ``ServingBackend``; threads may call it while requests are in flight. Never raises."""
        control, served = self._control, self._served
        if control is None or served is None or not served.kind.figures:
            return {}
        try:
            answer = control.get(served.kind.metrics_path)
            text = answer.body.decode(errors="replace") if answer.status == 200 else ""
            return metrics.figures(text, served.kind.figures)
        except (NoAnswer, ValueError):
            return {}

    def versions(self) -> dict[str, str]:
        if self._served is None:
            return {}
        return {self._served.kind.name: self._served.told.version or "unknown"}

    def _loaded(self) -> tuple[Served, Asking]:
        if self._served is None or self._asking is None:
            raise BackendError("no server is loaded")
        return self._served, self._asking

    def close(self) -> None:
        self._prepared = self._served = self._asking = None
        self._processes = []
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self._managed is not None:
            self._managed.close()
            self._managed = None


async def _exchange(client: OpenAIClient, request: Request, number: int, within_s: float | None) -> Reply:
    try:
        await client.open(1)
        async with asyncio.timeout(within_s):
            answer = await client.send(0, request, number)
    except TimeoutError:
        raise BackendError(f"the server did not finish one request within {within_s:g} s") from None
    finally:
        with contextlib.suppress(BackendError):
            await client.close()
    return client.read(answer)


def _with_flags(served: Served, placement: Placement) -> Served:
    """What is served, with what only the server's command line tells of its limits."""
    told = served.told
    in_flight = told.most_in_flight or flag(placement.command, served.kind.in_flight_flags)
    return replace(served, told=replace(told, most_in_flight=in_flight))


def _control(config: Config, url: str | None) -> Control:
    assert url is not None
    return Control(parse_url(url), read_key(config.api_key_env))


def _server_plan(config: Config) -> ServerPlan:
    assert config.serve is not None
    return ServerPlan(
        config.serve,
        config.model,
        flags=config.server_flags,
        threads=config.threads,
        device=config.device,
        dtype=config.dtype,
        seed=config.seed,
        api_key=read_key(config.api_key_env),
    )


def _refuse_options(config: Config) -> None:
    """Refuse what no server can be asked for. Raises InvalidConfig."""
    refuse_unused(config, "openai", "kv_cache", "compile", "prefill_chunk", "random_weights")
    if config.device not in ("auto", *DEVICES):
        raise InvalidConfig(
            f"--device {config.device}: a server chooses its devices itself; leave it out, or say {', '.join(DEVICES)}"
        )
    if config.url is not None:
        refuse_unused(config, "openai", "dtype", "threads", "seed", "server_flags")
    elif config.server_pid is not None:
        raise InvalidConfig("--server-pid names a process that runs already; leave it out with --serve")
    if (config.url is None) == (config.serve is None):
        raise InvalidConfig("the openai backend needs either a server's address, --url, or one to start, --serve")


def _inexact(kind: str, problem: str) -> str:
    return (
        f"this server ({kind}) doesn't give exactly the tokens asked for: {problem}; "
        "--allow-inexact measures requests at the sizes they come out with"
    )


create = OpenAIServer
