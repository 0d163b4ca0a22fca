#!/usr/bin/env python3
"""How long no write is acknowledged when the leader's process is killed.

Three nodes on this machine. One client a store writes through a follower, one write after another, each tried until it
is acknowledged. The leader's process is killed with SIGKILL; what counts is the time from there until the first write
is acknowledged that was sent behind it. Then the node is started again, and the next round waits until it votes.
Needs: a release build of insid. Usage: bench/failover.py [--trials N]
"""

import argparse, http.client, json, statistics, threading, time

from nodes import Cluster


class Writer(threading.Thread):
    """Writes through one node until it is told to stop; notes when each acknowledged write was sent and answered."""

    def __init__(self, cluster, node, store):
        super().__init__(daemon=True)
        self.cluster, self.node, self.store = cluster, node, store
        self.acknowledged, self.stop = [], False

    def run(self):
        connection, body = None, json.dumps({"key": "k", "value": "v"})
        headers = {"Authorization": f"Bearer {self.cluster.key}"}
        while not self.stop:
            sent_at = time.monotonic()
            try:
                connection = connection or http.client.HTTPConnection(self.node.public, timeout=5)
                connection.request("POST", f"/db/api/v1/{self.store}", body, headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.acknowledged.append((sent_at, time.monotonic()))
            except (OSError, http.client.HTTPException):
                connection = None

    def first_behind(self, moment):
        return next((answered for sent, answered in list(self.acknowledged) if sent > moment), None)


def trial(cluster):
    leader = cluster.leader()
    follower = next(node for node in cluster.nodes if node is not leader)
    writers = {store: Writer(cluster, follower, store) for store in ("vs", "cache")}
    for writer in writers.values():
        writer.start()
    begin = time.monotonic()
    wait_until("writes", lambda: all(writer.first_behind(begin + 0.2) for writer in writers.values()))
    killed_at = time.monotonic()
    cluster.kill(leader)
    wait_until("writes behind the kill", lambda: all(writer.first_behind(killed_at) for writer in writers.values()))
    silence = {store: writer.first_behind(killed_at) - killed_at for store, writer in writers.items()}
    for writer in writers.values():
        writer.stop = True
        writer.join()
    cluster.start(leader)
    cluster.await_whole()
    return silence


def wait_until(what, condition):
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"timed out waiting for {what}")
        time.sleep(0.001)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--trials", type=int, default=20)
    arguments = arguments.parse_args()
    cluster = Cluster(3)
    try:
        silences = [trial(cluster) for _ in range(arguments.trials)]
    finally:
        cluster.close()
    print("| writes to | trials | median ms | worst ms | all, ms |")
    print("| --- | ---: | ---: | ---: | --- |")
    for store, name in (("vs", "Value Store"), ("cache", "Cache")):
        found = sorted(silence[store] * 1000 for silence in silences)
        shown = ", ".join(f"{ms:.0f}" for ms in found)
        print(f"| {name} | {len(found)} | {statistics.median(found):.0f} | {found[-1]:.0f} | {shown} |")


if __name__ == "__main__":
    main()
