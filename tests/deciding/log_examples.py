"""Logs as programs write them, few rows each, with invented numbers: (file name, content, form, sizes, left out)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Sizes = Mapping[tuple[int, int], float]


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1760000000,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "SECRET"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 120,
        "completion_tokens": 330,
        "total_tokens": 450,
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 300},
    },
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1760000001,
    "status": "completed",
    "usage": {
        "input_tokens": 75,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 40,
        "output_tokens_details": {"reasoning_tokens": 10},
        "total_tokens": 115,
    },
}


def batch(number: int, response: Any, error: Any = None) -> dict[str, Any]:
    return {"id": f"batch_req_{number}", "custom_id": f"r{number}", "response": response, "error": error}


def span(attributes: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    def typed(value: Any) -> dict[str, Any]:
        return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}

    listed = [{"key": key, "value": typed(value)} for key, value in attributes.items()]
    return {"name": "chat m", "startTimeUnixNano": "1760000000000000000", "attributes": listed, **others}


OTLP = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "app"}}]},
            "scopeSpans": [
                {
                    "spans": [
                        span({"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 500}),
                        span(
                            {
                                "gen_ai.operation.name": "chat",
                                "gen_ai.usage.input_tokens": 500,
                                "gen_ai.usage.output_tokens": 60,
                                "gen_ai.usage.cache_read.input_tokens": 384,
                                "gen_ai.prompt": "SECRET",
                            }
                        ),
                        span({"http.method": "GET"}),
                        span(
                            {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 9, "error.type": "timeout"},
                            status={"code": 2},
                        ),
                    ]
                }
            ],
        }
    ]
}
GUIDELLM = {
    "metadata": {"version": 1},
    "benchmarks": [
        {
            "config": {"strategy": {"type_": "concurrent"}},
            "requests": {
                "successful": [
                    {
                        "request_id": "a",
                        "prompt_tokens": 128,
                        "output_tokens": 64,
                        "request_latency": 1.0,
                        "output": "SECRET",
                    },
                    {"request_id": "b", "prompt_tokens": 130, "output_tokens": 32, "request_latency": 1.0},
                ],
                "incomplete": [{"request_id": "c", "prompt_tokens": 131, "output_tokens": 5, "request_latency": None}],
                "errored": [{"request_id": "d", "prompt_tokens": 132, "output_tokens": None, "request_latency": 0.1}],
            },
        }
    ],
}
SGLANG = {
    "backend": "sglang",
    "dataset_name": "random",
    "sharegpt_output_len": None,
    "random_input_len": 1024,
    "completed": 2,
    "total_input_tokens": 300,
    "total_output_tokens": 50,
    "request_throughput": 1.0,
    "input_lens": [100, 200, 50],
    "output_lens": [20, 30, 0],
    "ttfts": [0.1, 0.2, 0.0],
    "itls": [[0.01], [0.01], []],
    "generated_texts": ["SECRET", "SECRET", ""],
    "errors": ["", "", "connection reset"],
}
LANGFUSE = [
    {
        "id": "1",
        "traceId": "t",
        "type": "SPAN",
        "startTime": "2026-01-01T00:00:00Z",
        "usageDetails": {},
        "level": "DEFAULT",
    },
    {
        "id": "2",
        "traceId": "t",
        "type": "GENERATION",
        "startTime": "2026-01-01T00:00:01Z",
        "completionStartTime": None,
        "input": [{"role": "user", "content": "SECRET"}],
        "usageDetails": {"input": 4, "cache_read_input_tokens": 2000, "output": 300, "total": 2304},
        "level": "DEFAULT",
    },
    {
        "id": "3",
        "traceId": "t",
        "type": "GENERATION",
        "startTime": "2026-01-01T00:00:02Z",
        "usageDetails": {"input": 50, "output": 0, "total": 50},
        "level": "ERROR",
        "statusMessage": "rate limit",
    },
]
LITELLM = (
    "request_id,call_type,api_key,spend,total_tokens,prompt_tokens,completion_tokens,startTime,endTime,model,cache_hit,"
    "status,metadata\n"
    'a,acompletion,k,0.1,2304,2004,300,2026-01-01 00:00:00,2026-01-01 00:00:03,m,False,success,"{""usage_object"": '
    '{""cache_read_input_tokens"": 2000}}"\n'
    'b,acompletion,k,0.0,2304,2004,300,2026-01-01 00:00:04,2026-01-01 00:00:04,m,True,success,"{}"\n'
    'c,acompletion,k,0.0,0,0,0,2026-01-01 00:00:05,2026-01-01 00:00:05,m,False,failure,"{}"\n'
    'd,aembedding,k,0.0,12,12,0,2026-01-01 00:00:06,2026-01-01 00:00:06,e,False,success,"{}"\n'
)
LLAMA_LOG = """\
srv  params_from_: Chat format: Hermes 2 Pro
slot launch_slot_: id  0 | task 0 | processing task
slot update_slots: id  0 | task 0 | new prompt, n_ctx_slot = 65024, n_keep = 0, n_prompt_tokens = 33
slot print_timing: id  0 | task 0 |
prompt eval time =     990.30 ms /    33 tokens (   30.01 ms per token,    33.32 tokens per second)
       eval time =   19521.92 ms /   710 tokens (   27.50 ms per token,    36.37 tokens per second)
      total time =   20512.22 ms /   743 tokens
slot   operator(): id  1 | task 7 | new prompt, n_ctx_slot = 12288, n_keep = 5, task.n_tokens = 1,210
slot print_timing: id  1 | task 7 | prompt eval time =   50.00 ms /   210 tokens (1 ms per token)
slot print_timing: id  1 | task 7 |        eval time =  137.90 ms /   700 tokens (1 ms per token)
"""
OPENAI_PAGE = {
    "object": "page",
    "data": [
        {
            "object": "bucket",
            "start_time": 1760000000,
            "end_time": 1760086400,
            "results": [
                {
                    "object": "organization.usage.completions.result",
                    "input_tokens": 1000,
                    "output_tokens": 500,
                    "input_cached_tokens": 800,
                    "num_model_requests": 5,
                }
            ],
        },
        {"object": "bucket", "start_time": 1760086400, "end_time": 1760172800, "results": []},
    ],
}
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": "SECRET"}]}, "finishReason": "STOP"}],
    "usageMetadata": {
        "promptTokenCount": 20,
        "candidatesTokenCount": 150,
        "thoughtsTokenCount": 380,
        "cachedContentTokenCount": 16,
        "totalTokenCount": 550,
    },
}
MOONCAKE = [
    {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 0, "input_length": 1600, "output_length": 6, "hash_ids": [0, 1, 3, 4]},
    {"timestamp": 3052, "input_length": 1100, "output_length": 7, "hash_ids": [0, 1, 2]},
]
AIPERF = [
    {
        "metadata": {"request_start_ns": 1759813207532900363, "benchmark_phase": "profiling", "was_cancelled": False},
        "metrics": {
            "input_sequence_length": {"value": 400, "unit": "tokens"},
            "output_sequence_length": {"value": 12, "unit": "tokens"},
            "reasoning_token_count": {"value": 8, "unit": "tokens"},
        },
        "error": None,
    },
    {
        "metadata": {"request_start_ns": 1759813208532900363, "benchmark_phase": "warmup", "was_cancelled": False},
        "metrics": {"input_sequence_length": {"value": 1, "unit": "tokens"}, "output_sequence_length": {"value": 1}},
        "error": None,
    },
]
PER_REQUEST = [
    {
        "start_time": 1.0,
        "end_time": 2.0,
        "request": "SECRET",
        "response": "SECRET",
        "info": {"input_tokens": 1082, "output_tokens": 247, "output_token_times": [1.1, 1.2]},
        "error": None,
    },
    {
        "start_time": 1.5,
        "end_time": 2.0,
        "request": "SECRET",
        "response": "",
        "info": {"input_tokens": 900, "output_tokens": 0, "output_token_times": []},
        "error": {"error_type": "TimeoutError", "error_msg": "SECRET"},
    },
]
LLAMA = {
    "content": "SECRET",
    "tokens_predicted": 64,
    "tokens_evaluated": 512,
    "tokens_cached": 575,
    "timings": {"cache_n": 500, "prompt_n": 12, "predicted_n": 64, "prompt_ms": 97.5},
}
OPENROUTER = (
    "generation_id,created_at,cost_total,tokens_prompt,tokens_completion,tokens_reasoning,tokens_cached,model_permaslug,"
    "cancelled,finish_reason_normalized\n"
    "g1,2026-03-30 02:37:51.271,0.01,100,200,150,40,m,false,stop\n"
    "g2,2026-03-30 02:38:51.271,0.01,90,3,0,0,m,true,\n"
)

EXAMPLES: list[tuple[str, str, str, Sizes, Mapping[str, int], float | None]] = [
    ("chat.jsonl", lines(CHAT), "openai", {(120, 330): 1}, {}, 64.0),
    ("chat.json", json.dumps(CHAT, indent=2), "openai", {(120, 330): 1}, {}, 64.0),
    ("chats.json", json.dumps([CHAT, CHAT], indent=2), "openai", {(120, 330): 2}, {}, 64.0),
    ("both.jsonl", lines(CHAT, RESPONSE), "openai", {(120, 330): 1, (75, 40): 1}, {}, 32.0),
    ("gateway.jsonl", lines({"ts": 1, "response": {"body": CHAT}}), "openai", {(120, 330): 1}, {}, 64.0),
    (
        "batch.jsonl",
        lines(
            batch(1, None, {"code": "batch_expired", "message": "SECRET"}),
            batch(2, {"status_code": 200, "body": CHAT}),
            batch(3, {"status_code": 500, "body": {"error": {"message": "SECRET"}}}),
        ),
        "openai",
        {(120, 330): 1},
        {"failed": 2},
        64.0,
    ),
    (
        "stream.jsonl",
        lines({"object": "chat.completion.chunk", "choices": [{"delta": {"content": "SECRET"}}], "usage": None}, CHAT),
        "openai",
        {(120, 330): 1},
        {"part of a stream": 1},
        64.0,
    ),
    ("page.json", json.dumps(OPENAI_PAGE), "openai-usage", {(200, 100): 5}, {}, 160.0),
    ("openrouter.csv", OPENROUTER, "openrouter", {(100, 200): 1}, {"cancelled": 1}, 40.0),
    (
        "claude.jsonl",
        lines(
            {"type": "user", "message": {"role": "user", "content": "SECRET"}},
            {
                "type": "assistant",
                "message": {
                    "id": "msg_1",
                    "content": [{"type": "thinking", "thinking": "SECRET"}],
                    "usage": {"input_tokens": 4, "cache_creation_input_tokens": 100, "output_tokens": 1},
                },
            },
            {
                "type": "assistant",
                "message": {
                    "id": "msg_1",
                    "content": [{"type": "text", "text": "SECRET"}],
                    "usage": {
                        "input_tokens": 4,
                        "cache_creation_input_tokens": 100,
                        "cache_read_input_tokens": 2000,
                        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0},
                        "output_tokens": 300,
                    },
                },
            },
        ),
        "anthropic",
        {(2104, 300): 1},
        {"no generation": 1, "repeated": 1},
        2000.0,
    ),
    (
        "bedrock.jsonl",
        lines(
            {
                "modelId": "m",
                "input": {"inputTokenCount": 14, "cacheReadInputTokenCount": 86},
                "output": {"outputTokenCount": 9},
            }
        ),
        "bedrock",
        {(100, 9): 1},
        {},
        86.0,
    ),
    ("gemini.jsonl", lines(GEMINI), "gemini", {(20, 530): 1}, {}, 16.0),
    (
        "litellm.csv",
        LITELLM,
        "litellm",
        {(2004, 300): 1},
        {"answered from a cache": 1, "failed": 1, "no generation": 1},
        2000.0,
    ),
    ("langfuse.json", json.dumps(LANGFUSE), "langfuse", {(2004, 300): 1}, {"failed": 1, "no generation": 1}, 2000.0),
    ("langfuse.jsonl", lines(*LANGFUSE), "langfuse", {(2004, 300): 1}, {"failed": 1, "no generation": 1}, 2000.0),
    (
        "page2.json",
        json.dumps({"data": LANGFUSE}),
        "langfuse",
        {(2004, 300): 1},
        {"failed": 1, "no generation": 1},
        2000.0,
    ),
    ("otlp.json", json.dumps(OTLP), "otel", {(500, 60): 1}, {"failed": 1, "no generation": 2}, 384.0),
    ("otlp.jsonl", lines(OTLP, OTLP), "otel", {(500, 60): 2}, {"failed": 2, "no generation": 4}, 384.0),
    (
        "spans.jsonl",
        lines({"attributes": {"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3}, "status": "OK"}),
        "otel",
        {(7, 3): 1},
        {},
        None,
    ),
    ("sglang.jsonl", lines(SGLANG, SGLANG), "sglang-bench", {(100, 20): 2, (200, 30): 2}, {"failed": 2}, None),
    (
        "benchmarks.json",
        json.dumps(GUIDELLM),
        "guidellm",
        {(128, 64): 1, (130, 32): 1},
        {"cancelled": 1, "failed": 1},
        None,
    ),
    ("aiperf.jsonl", lines(*AIPERF), "aiperf", {(400, 12): 1}, {"warm-up": 1}, None),
    ("per_request.json", json.dumps(PER_REQUEST), "inference-perf", {(1082, 247): 1}, {"failed": 1}, None),
    (
        "ollama.jsonl",
        lines(
            {"model": "m", "response": "SECRET", "done": False},
            {"model": "m", "response": "", "done": True, "prompt_eval_count": 26, "eval_count": 90},
        ),
        "ollama",
        {(26, 90): 1},
        {"part of a stream": 1},
        None,
    ),
    ("llama.jsonl", lines(LLAMA), "llama-server", {(512, 64): 1}, {}, 500.0),
    ("server.log", LLAMA_LOG, "llama-server-log", {(33, 710): 1, (1210, 700): 1}, {}, 500.0),
    (
        "BurstGPT_3.csv",
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "19440110.0,17,43,GPT-4,906,446,1352,Conversation log\n19440161.0,d5,2,ChatGPT,36,0,36,API log\n",
        "burstgpt",
        {(906, 446): 1},
        {"failed": 1},
        None,
    ),
    ("mooncake.jsonl", lines(*MOONCAKE), "mooncake", {(1100, 5): 1, (1600, 6): 1, (1100, 7): 1}, {}, (1024 + 1099) / 3),
    (
        "azure.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n",
        "azure",
        {(374, 44): 1},
        {},
        None,
    ),
    (
        "vidur.csv",
        "arrived_at,num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n0.1,8,4,12,2.0\n",
        "vidur",
        {(8, 4): 1},
        {},
        None,
    ),
    (
        "splitwise.csv",
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
        "0,2,0,0.5,1,1024,64\n1,2,0,0.7,4,512,32\n",
        "splitwise",
        {(1024, 64): 1, (512, 32): 4},
        {},
        None,
    ),
    (
        "servegen.jsonl",
        lines({"request_id": 0, "type": "text", "input_length": 61, "output_length": 2370, "duration": 14000}),
        "servegen",
        {(61, 2370): 1},
        {},
        None,
    ),
    (
        "totals.csv",
        "model,input_tokens,output_tokens\na,10,5\nb,20,7\nTotal,30,12\n",
        "columns",
        {(10, 5): 1, (20, 7): 1},
        {"total row": 1},
        None,
    ),
    (
        "unnamed_total.csv",
        "input_tokens,output_tokens\n100,50\n200,70\n310,90\n610,210\n",
        "columns",
        {(100, 50): 1, (200, 70): 1, (310, 90): 1},
        {"total row": 1},
        None,
    ),
    (
        "titles.csv",
        "Usage report\nfor January\n\nModel;Prompt Tokens;Completion Tokens\nm;1.234;56\nm;78;9\n",
        "columns",
        {(1234, 56): 1, (78, 9): 1},
        {},
        None,
    ),
    (
        "twice.csv",
        "input_tokens,output_tokens\n1,2\ninput_tokens,output_tokens\n3,4\n",
        "columns",
        {(1, 2): 1, (3, 4): 1},
        {"repeated header": 1},
        None,
    ),
    (
        "thousands.csv",
        'input_tokens,output_tokens\n"1,234",5\n"1 000",6\n',
        "columns",
        {(1234, 5): 1, (1000, 6): 1},
        {},
        None,
    ),
    (
        "decimals.csv",
        "input_tokens;output_tokens\n374,0;44,0\n1024,0;1,0\n",
        "columns",
        {(374, 44): 1, (1024, 1): 1},
        {},
        None,
    ),
    (
        "lists.json",
        json.dumps({"input_tokens": [1, 2, 2], "output_tokens": [3, 4, 4]}),
        "columns",
        {(1, 3): 1, (2, 4): 2},
        {},
        None,
    ),
    (
        "status.csv",
        "input_tokens,output_tokens,status,http_status\n1,2,success,200\n3,4,timeout,\n5,6,cancelled,499\n7,8,ok,503\n",
        "columns",
        {(1, 2): 1},
        {"cancelled": 1, "failed": 2},
        None,
    ),
    (
        "usage_column.csv",
        'id,usage\n1,"{""prompt_tokens"": 5, ""completion_tokens"": 6, ""total_tokens"": 11}"\n',
        "openai",
        {(5, 6): 1},
        {},
        None,
    ),
    (
        "cached_beside.csv",
        "prompt_tokens,completion_tokens,cached_tokens\n4,300,2100\n2000,30,0\n",
        "columns",
        {(2104, 300): 1, (2000, 30): 1},
        {},
        1050.0,
    ),
    (
        "daily.csv",
        "date,model,total_input_tokens,total_output_tokens,requests\n2026-01-01,m,1000,100,10\n",
        "totals",
        {(100, 10): 10},
        {},
        None,
    ),
    (
        "bench_summary.json",
        json.dumps({"completed": 4, "request_throughput": 1.0, "total_input_tokens": 402, "total_output_tokens": 40}),
        "bench-totals",
        {(100, 10): 2, (101, 10): 2},
        {},
        None,
    ),
]
