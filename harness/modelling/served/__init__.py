"""Costs under load: seconds and joules of requests of m input and n output tokens with c of them in flight."""
