"""Nodes of a cluster on this machine."""

import json, time

import admin
from processes import ENVIRONMENT, Process, free_port, output, program

SECRET = {"INSIDB_INSTANCE_SECRET": "the-bench's-own-secret"}


class Node:
    def __init__(self, scratch, number):
        self.name, self.data, self.config = f"node{number}", scratch / f"node{number}", scratch / f"node{number}.toml"
        self.public, self.private, self.peer = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.process = None


class Cluster:
    """Nodes that found a cluster at its begin, and end with it."""

    def __init__(self, scratch, count, settings=None):
        self.nodes = [Node(scratch, number) for number in range(1, count + 1)]
        self.environment = ENVIRONMENT | SECRET | {f"INSIDB_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        self.has_founded = False

    def begin(self):
        try:
            for node in self.nodes:
                self.spawn(node)
                if not self.has_founded:
                    self.await_ready(node)
                    self.has_founded = True
            self.root = output([program("insid"), "root-key", "--config", self.nodes[0].config], 10, environment=self.environment).strip()
            self.await_whole()
            [self.key] = admin.create_keys(self.nodes[0].private, self.root, 1)
        except BaseException:
            self.end()
            raise
        return self

    def end(self):
        for process in self.processes():
            process.kill()

    def __enter__(self):
        return self.begin()

    def __exit__(self, *_):
        self.end()

    def processes(self):
        return [node.process for node in self.running()]

    def spawn(self, node):
        join = ", ".join(f'"{other.peer}"' for other in self.nodes) if self.has_founded or node is not self.nodes[0] else ""
        node.config.write_text(
            f'data_dir = "{node.data}"\npublic_address = "{node.public}"\nprivate_address = "{node.private}"\n'
            f'peer_address = "{node.peer}"\njoin = [{join}]\n')
        node.process = Process(node.name, [program("insid"), "run", "--config", node.config],
                               node.config.with_suffix(".log"), self.environment)

    def kill(self, node):
        node.process.kill()
        node.process = None

    def running(self):
        return [node for node in self.nodes if node.process]

    def await_ready(self, node, seconds=60):
        node.process.wait_for(f"{node.name} to be ready", lambda: admin.is_ready(node.private), seconds)

    def status(self):
        code, body = admin.request(self.running()[0].private, "GET", "/admin/cluster/status", self.root)
        return json.loads(body) if code == 200 else None

    def await_whole(self, timeout_s=60, equal=True):
        """Until all running nodes vote in both groups and, unless writes go on, have applied the same."""
        def whole():
            status = self.status()
            if not status or len(status["nodes"]) != len(self.running()):
                return False
            for group in ("values", "cache"):
                members = [node[group] for node in status["nodes"]]
                if not all(member and member["role"] in ("leader", "voter") for member in members):
                    return False
                applied = {member["applied_index"] for member in members}
                if None in applied or (equal and len(applied) != 1):
                    return False
            return True
        for node in self.running():
            self.await_ready(node, timeout_s)
        await_within(timeout_s, "the cluster to be whole", whole)

    def leader(self, store="vs"):
        """The node that leads a store's group."""
        field = {"vs": "leader", "cache": "cache_leader"}[store]
        def find():
            status = self.status()
            peers = {node["node"]: node["address"] for node in status["nodes"]} if status else {}
            address = peers.get(status and status[field])
            return next((node for node in self.running() if node.peer == address), None)
        return await_within(60, f"a leader of {store}", find)


def await_within(seconds, what, condition):
    """What the condition answers, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"timed out waiting for {what}")
        time.sleep(0.02)
    return found
