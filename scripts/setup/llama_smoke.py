"""Run one small quantised request through llama.cpp; a build that this processor can't run dies of a signal here."""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from backends.base import Config, Request
from backends.llama_cpp import backend

with tempfile.TemporaryDirectory() as cache:
    os.environ["JOULEBENCH_CACHE_DIR"] = cache
    backend = backend.create()
    for dtype in ("Q8_0", "Q4_0"):
        backend.load(Config("tiny-test", device="cpu", dtype=dtype, threads=1))
        backend.prepare(Request(64, 4))
        backend.run(Request(64, 4))
    backend.close()
