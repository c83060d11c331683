"""Any server with an OpenAI-compatible interface, measured as it is deployed: with several requests in flight."""
