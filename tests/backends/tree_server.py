#!/usr/bin/env python3
"""Stands for a server; run in place of llama-server by tests of managed servers.

With $TREE_CHILDREN it is one of many processes, as vLLM is: it starts a child that starts a child that ignores SIGTERM,
and a daemon in a session of its own. Each writes its number into the file that $TREE_PIDS names. $TREE_DOES says how it
behaves: "well", "dies" (after a line on stderr, $TREE_SAYS), "hangs", or "port taken once" (the file $TREE_PIDS tells
whether it was).
"""

import os
import signal
import socket
import sys
import time


def note() -> None:
    with open(os.environ["TREE_PIDS"], "a") as file:
        file.write(f"{os.getpid()}\n")


def idle() -> None:
    note()
    while True:
        time.sleep(60)


def child() -> None:
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        idle()
    idle()


def daemon() -> None:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        idle()
    os._exit(0)


def main() -> None:
    does = os.environ.get("TREE_DOES", "well")
    is_first = not os.path.exists(os.environ["TREE_PIDS"])
    note()
    if does == "port taken once" and is_first:
        sys.exit("couldn't bind HTTP server socket, Address already in use")
    if does == "dies":
        sys.exit(os.environ["TREE_SAYS"])
    for start in (child, daemon) if "TREE_CHILDREN" in os.environ else ():
        if os.fork() == 0:
            start()
    print("loading the model", flush=True)
    if does == "hangs":
        idle()
    listener = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])))
    while True:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.close()


main()
