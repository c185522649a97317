"""One terminal of the lab that downloads over plain HTTP.

Connects before t0, asks at t0, writes the body to a file. Prints one JSON object a line: `ready`, then `completed`.
"""

import argparse
import http.client
import json
import sys
import time


def say(**event):
    print(json.dumps(event), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--t0", required=True, help="the file that will hold t0, in seconds since the Unix epoch")
    options = parser.parse_args()

    connection = http.client.HTTPConnection(options.host, options.port)
    connection.connect()
    say(event="ready")
    time.sleep(max(0.0, wait_for_t0(options.t0) - time.time()))

    connection.request("GET", options.path)
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"the origin answered {response.status} {response.reason}")
    expected = int(response.headers["Content-Length"])
    buffer = memoryview(bytearray(1 << 18))
    received = 0
    with open(options.to, "wb") as file:
        while count := response.readinto(buffer):
            file.write(buffer[:count])
            received += count
    if received != expected:
        sys.exit(f"received {received} of {expected} bytes")
    say(event="completed", path=options.to, at=time.time())
    # The lab ends every terminal at the same time, when all are complete.
    while True:
        time.sleep(3600)


def wait_for_t0(path):
    while True:
        try:
            with open(path) as file:
                return float(file.read())
        except FileNotFoundError:
            time.sleep(0.02)


if __name__ == "__main__":
    main()
