"""AIPerf and guidellm against the same server, where they are installed: in an environment of their own, on the PATH.

Both are told the same as our client, and run on the same one core. They tell percentiles of the time to first token;
its errors are these minus the server's mean of the same requests.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

INPUT_TOKENS = 8
REQUESTS = 1000
TIMEOUT_S = 300
WORDS = 2000


def rows(url: str, concurrencies: Sequence[int], lengths: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each concurrency and length of each program; one that failed says why in ``unavailable``."""
    found = []
    for name, run in (("AIPerf", _aiperf), ("guidellm", _guidellm)):
        program = shutil.which(name.lower())
        if program is None:
            continue
        for tokens, c in itertools.product(lengths, concurrencies):
            row: dict[str, Any] = {"client": name, "concurrency": c, "tokens": tokens}
            with tempfile.TemporaryDirectory() as folder:
                _write_tokenizer(Path(folder))
                before = _server_ttft(url)
                try:
                    rate, p50_ms, p99_ms = run(program, url, c, tokens, Path(folder))
                except (subprocess.SubprocessError, OSError, LookupError, ValueError) as error:
                    found.append({**row, "unavailable": f"{type(error).__name__}: {str(error)[-200:]}"})
                    continue
                after = _server_ttft(url)
            taken_ms = 1e3 * (after[0] - before[0]) / max(1.0, after[1] - before[1])
            errors = {"ttft_error_ms_p50": p50_ms - taken_ms, "ttft_error_ms_p99": p99_ms - taken_ms}
            found.append({**row, "requests_per_s": rate, **errors})
    return found


def _server_ttft(url: str) -> tuple[float, float]:
    """Sum in seconds and count of the times to first token so far."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    total, count = (re.search(rf"time_to_first_token_seconds_{part}\S* (\S+)", text) for part in ("sum", "count"))
    if total is None or count is None:
        raise ValueError("the stub server tells no times to first token")
    return float(total[1]), float(count[1])


def _write_tokenizer(folder: Path) -> None:
    """A vocabulary of words between spaces, in the form that transformers reads."""
    model = {"type": "WordLevel", "vocab": {word: k for k, word in enumerate(_words())}, "unk_token": "[UNK]"}
    whole = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}
    absent = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    (folder / "tokenizer.json").write_text(json.dumps(whole | absent))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"})
    )


def _words() -> Iterator[str]:
    yield "[UNK]"
    yield from (f"w{k}" for k in range(WORDS))


def _run(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "NO_COLOR": "1"}
    with (folder / "log").open("w") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, timeout=TIMEOUT_S, check=True)


def _aiperf(program: str, url: str, c: int, tokens: int, folder: Path) -> tuple[float, float, float]:
    """Requests/s, and the median and 99th percentile of the time to first token in ms."""
    command = [program, "profile", "-m", "stub", "--url", url, "--endpoint-type", "completions", "--streaming"]
    command += ["--tokenizer", str(folder), "--concurrency", str(c), "--request-count", str(REQUESTS)]
    command += ["--synthetic-input-tokens-mean", str(INPUT_TOKENS), "--output-tokens-mean", str(tokens)]
    command += ["--use-legacy-max-tokens", "--ui", "none", "--no-gpu-telemetry", "--no-server-metrics"]
    _run([*command, "--export-level", "summary", "--artifact-dir", str(folder / "out")], folder)
    said = json.loads((folder / "out" / "profile_export_aiperf.json").read_text())
    ttft = said["time_to_first_token"]
    return said["request_throughput"]["avg"], ttft["p50"], ttft["p99"]


def _guidellm(program: str, url: str, c: int, tokens: int, folder: Path) -> tuple[float, float, float]:
    """Requests/s, and the median and 99th percentile of the time to first token in ms."""
    prompts = [" ".join(f"w{(7 * k + 13 * j) % WORDS}" for j in range(INPUT_TOKENS)) for k in range(2 * REQUESTS)]
    lengths = {"prompt_tokens_count": INPUT_TOKENS, "output_tokens_count": tokens}
    lines = [json.dumps({"prompt": prompt, **lengths}) for prompt in prompts]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    command = [program, "run", "--backend", f"kind=openai_http,target={url},model=stub,request_format=/v1/completions"]
    command += ["--profile", f"kind=concurrent,streams={c}", "--constraint", f"kind=max_requests,count={REQUESTS}"]
    command += ["--tokenizer", f"kind=hf_auto,model={folder}", "--data", f"kind=json_file,path={folder}/prompts.jsonl"]
    _run([*command, "--output", f"kind=json,path={folder}/out.json", "--disable-console"], folder)
    metrics = json.loads((folder / "out.json").read_text())["benchmarks"][0]["metrics"]
    ttft = metrics["time_to_first_token_ms"]["successful"]["percentiles"]
    return metrics["requests_per_second"]["successful"]["mean"], ttft["p50"], ttft["p99"]
