"""load.py SECONDS [CLIENTS]: asks 127.0.0.1:843 for the policy, over and over, or until SIGTERM.

Prints `REQUESTS requests, FAILED failed` and the reason for each kind of failure; exits 1 when one
failed. A request fails when it is refused, reset, or not answered whole within 10 seconds.
"""

import collections
import signal
import socket
import sys
import threading
import time

REQUEST = b"<policy-file-request/>\0"
seconds = float(sys.argv[1])
clients = int(sys.argv[2]) if len(sys.argv) > 2 else 8
answered = collections.Counter()
failures = collections.Counter()
told_to_end = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())


def ask():
    with socket.create_connection(("127.0.0.1", 843), timeout=10) as connection:
        connection.sendall(REQUEST)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    if not answer.endswith(b"</cross-domain-policy>\0"):
        raise ValueError(f"not a whole policy: {answer[-40:]!r}")


def client(number, end):
    while time.monotonic() < end and not told_to_end.is_set():
        try:
            ask()
            answered[number] += 1
        except (OSError, ValueError) as error:
            failures[f"{type(error).__name__}: {error}"] += 1
        time.sleep(0.002)


end = time.monotonic() + seconds
threads = [threading.Thread(target=client, args=(number, end)) for number in range(clients)]
for thread in threads:
    thread.start()
print("asking", flush=True)
for thread in threads:
    thread.join()
failed = sum(failures.values())
print(f"{sum(answered.values()) + failed} requests, {failed} failed")
for reason, count in failures.items():
    print(f"  {count}: {reason}")
sys.exit(1 if failed or not answered else 0)
