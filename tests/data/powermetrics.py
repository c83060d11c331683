"""Stands in for macOS's powermetrics: streams property lists at real pace, as POWERMETRICS_SCENARIO says."""

import os
import plistlib
import re
import sys
import time

scenario = os.environ.get("POWERMETRICS_SCENARIO", "plain")
interval_s = int(sys.argv[sys.argv.index("-i") + 1]) / 1000
if os.environ.get("POWERMETRICS_FAST"):
    interval_s = min(interval_s, 0.1)
worker = int(os.environ.get("POWERMETRICS_WORKER", "0"))


def document(elapsed_s):
    elapsed_ns = int(elapsed_s * 1e9)
    rails = {"cpu": 4000.0, "gpu": 10000.0, "ane": 0.0}
    processor = {f"{rail}_power": power for rail, power in rails.items()}
    processor |= {"combined_power": sum(rails.values())}
    gpu = {"freq_hz": 372.088, "idle_ratio": 0.1, "gpu_energy": int(10000 * elapsed_s)}
    if scenario == "batches":
        # The chip publishes the CPU's count every tenth interval, and a little of it right after; none at the start.
        global unpublished_j
        unpublished_j += 4.0 * elapsed_s
        published_j = unpublished_j if number % 10 == 8 else 0.2 * unpublished_j if number % 10 == 9 else 0.0
        unpublished_j -= published_j
        processor["cpu_power"] = 1000 * published_j / elapsed_s
    if scenario == "macos12":
        # macOS 12: whole millijoules over the interval, DRAM and the package, no combined power.
        processor = {"package_energy": int(16500 * elapsed_s), "dram_energy": int(1500 * elapsed_s)}
        processor |= {"cpu_energy": int(4000 * elapsed_s), "ane_energy": 0}
    pressure = "Heavy" if scenario == "hot" else "Nominal"
    tasks = [
        {"name": "worker", "pid": worker, "energy_impact": 30.0},
        {"name": "other", "pid": 1, "energy_impact": 90.0},
        {"name": "ALL_TASKS", "pid": -2, "energy_impact": 120.0},
    ]
    fields = {"elapsed_ns": elapsed_ns, "is_delta": True, "hw_model": "Mac14,2", "thermal_pressure": pressure}
    fields |= {"processor": processor, "gpu": gpu}
    if "tasks" in sys.argv[sys.argv.index("--samplers") + 1] and scenario != "no impact":
        fields |= {"tasks": tasks}
    return plistlib.dumps(fields)


if scenario == "talkative":
    sys.stderr.write("powermetrics: a warning of no importance\n" * 25_000)  # 1 MB
out = sys.stdout.buffer
unpublished_j = 0.0
last = time.monotonic()
for number in range(600):
    time.sleep(interval_s * 1.079)
    now = time.monotonic()
    text = document(now - last)
    last = now
    if number == 10 and scenario in ("dies", "truncated"):
        if scenario == "truncated":
            out.write(text[: len(text) // 2])
            out.flush()
        sys.exit("powermetrics: something broke" if scenario == "dies" else 0)
    if scenario in ("garbage", "garbage first") and number == (0 if scenario.endswith("first") else 10):
        text = text.replace(b"<dict>", b"<dict", 1)
    if number == 10 and "POWERMETRICS_DAMAGE" in os.environ:
        # What is written between the tags of an entry.
        text = re.sub(*(part.encode() for part in os.environ["POWERMETRICS_DAMAGE"].split("=>")), text, flags=re.S)
    try:
        # As the real program writes: the NUL that parts two documents comes with the later one.
        out.write((b"\0" if number else b"") + text)
        out.flush()
    except BrokenPipeError:
        os._exit(0)
