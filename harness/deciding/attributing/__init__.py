"""The joules of each request of a mixed load, from logs and meters."""
