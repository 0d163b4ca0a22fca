#!/usr/bin/env python3
"""How long writes stop when the leader's process is killed.

Three local nodes. In each trial, for the Value Store and then for the Cache, the node that leads the store's group is killed
with SIGKILL, and one client writes through another node, again and again, until a write is acknowledged: the time from the
kill to that answer is taken. Then the node is started again, and votes. Prints median and worst as a Markdown table. Needs:
a release build of insid. Usage: bench/failover.py [--trials N]
"""

import argparse, http.client, json, pathlib, statistics, tempfile, time

from local import Cluster


STORES = {"/vs": "Value Store", "/cache": "Cache"}


def next_write(node, path, key, killed_at):
    """Seconds from the kill to the next acknowledged write, and how many were refused before."""
    body = json.dumps({"key": "k", "value": "v"})
    connection, refused = None, 0
    while time.monotonic() < killed_at + 30:
        try:
            if connection is None:
                host, port = node.public.split(":")
                connection = http.client.HTTPConnection(host, int(port), timeout=10)
            connection.request("POST", f"/db/api/v1{path}", body, {"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                return time.monotonic() - killed_at, refused
            refused += 1
            time.sleep(0.002)
        except (OSError, http.client.HTTPException):
            connection = None
    raise SystemExit(f"no write to {path} within 30 s")


def trial(cluster, number, path):
    leader = cluster.leader(path)
    others = [node for node in cluster.nodes if node is not leader]
    cluster.kill(leader)
    found = next_write(others[number % len(others)], path, cluster.key, time.monotonic())
    cluster.spawn(leader)
    cluster.await_whole()
    return found


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--trials", type=int, default=20)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Cluster(pathlib.Path(scratch), 3) as cluster:
        trials = {path: [] for path in STORES}
        for number in range(arguments.trials):
            for path, found in trials.items():
                found.append(trial(cluster, number, path))
    print(f"{arguments.trials} trials\n")
    print("| from `kill -9` of the leader to the next acknowledged write | median ms | worst ms | refusals meanwhile, median |")
    print("| --- | ---: | ---: | ---: |")
    for path, name in STORES.items():
        times, refusals = ([row[column] for row in trials[path]] for column in (0, 1))
        print(f"| {name} | {statistics.median(times) * 1000:.0f} | {max(times) * 1000:.0f} | {statistics.median(refusals):.0f} |")


if __name__ == "__main__":
    main()
