"""Other programs' load clients against the same server, where they are installed."""


def rows(*a):
    return []
