"""Asks HTTP URLs and TCP addresses a bounded number of times; prints what came back as JSON.

Usage: client.py COUNT TARGET...   where a target is http://... or tcp://host:port
"""

import json
import socket
import sys
import urllib.parse
import urllib.request


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def order(address):
    parts = urllib.parse.urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        stream = connection.makefile("rw", newline="\n")
        greeting = stream.readline()
        if not greeting.startswith("220 "):
            raise ValueError(f"unexpected greeting {greeting!r}")
        stream.write("PING from-python\n")
        stream.flush()
        return stream.readline().strip()


def main():
    count, targets = int(sys.argv[1]), sys.argv[2:]
    result = {"sent": 0, "failed": 0, "errors": [], "last": {}}
    for _ in range(count):
        for target in targets:
            result["sent"] += 1
            try:
                ask = order if target.startswith("tcp://") else fetch
                result["last"][target] = ask(target)
            except (OSError, ValueError) as error:
                result["failed"] += 1
                result["errors"].append(f"{target}: {error}")
    result["errors"] = result["errors"][:10]
    print(json.dumps(result))


main()
