"""Three nodes (or one) of a release build on this machine, for the measurements beside it."""

import json, os, pathlib, signal, subprocess, time, urllib.error, urllib.request

from peers import BUILT, free_port, wait_for

BINARY = BUILT / "insid"
ENVIRONMENT = {**os.environ, "INSIDB_INSTANCE_SECRET": "the-bench's-own-secret", "INSIDB_LOG_LEVEL": "warn"}


class Node:
    def __init__(self, scratch, number):
        self.data = scratch / f"node{number}"
        self.config = scratch / f"node{number}.toml"
        self.public, self.private, self.peer = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.child = None


class Cluster:
    """Nodes that found a cluster when it is entered, and end when it is left."""

    def __init__(self, scratch, count, settings=""):
        self.nodes = [Node(scratch, number) for number in range(count)]
        self.settings = settings
        self.has_founded = False

    def __enter__(self):
        try:
            for node in self.nodes:
                self.spawn(node)
                if not self.has_founded:
                    self.await_ready(node)
                    self.has_founded = True
            self.root = subprocess.run([BINARY, "root-key", "--config", self.nodes[0].config], env=ENVIRONMENT,
                                       capture_output=True, text=True, check=True).stdout.strip()
            self.await_whole()
            made = self.admin("/admin/api/create", {"key_name": "bench"})
            limits = {"rate_per_second_data_limit": 100_000_000, "bytes_on_disk": 1 << 40, "bytes_in_memory": 1 << 40}
            self.admin("/admin/limits/set", {"key_uuid": made["key_uuid"], "limits": limits})
            self.key = made["key"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            if node.child:
                node.child.kill()
                node.child.wait()

    def spawn(self, node):
        join = ", ".join(f'"{other.peer}"' for other in self.nodes) if self.has_founded or node is not self.nodes[0] else ""
        node.config.write_text(
            f'data_dir = "{node.data}"\npublic_address = "{node.public}"\nprivate_address = "{node.private}"\n'
            f'peer_address = "{node.peer}"\njoin = [{join}]\n{self.settings}\n')
        node.child = subprocess.Popen([BINARY, "run", "--config", node.config], env=ENVIRONMENT,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self, node):
        node.child.send_signal(signal.SIGKILL)
        node.child.wait()
        node.child = None

    def running(self):
        return [node for node in self.nodes if node.child]

    def await_ready(self, node):
        wait_for("a node to be ready", lambda: request(node.private, "GET", "/readyz")[0] == 200)

    def status(self):
        code, body = request(self.running()[0].private, "GET", "/admin/cluster/status", self.root)
        return json.loads(body) if code == 200 else None

    def await_whole(self, timeout_s=30, equal=True):
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
            self.await_ready(node)
        await_within(timeout_s, "the cluster to be whole", whole)

    def leader(self, store="/vs"):
        """The node that leads a store's group."""
        field = {"/vs": "leader", "/cache": "cache_leader"}[store]
        def find():
            status = self.status()
            peers = {node["node"]: node["address"] for node in status["nodes"]} if status else {}
            address = peers.get(status and status[field])
            return next((node for node in self.running() if node.peer == address), None)
        return wait_for("a leader", find)

    def admin(self, path, body):
        code, answer = request(self.running()[0].private, "POST", path, self.root, body)
        if code != 200:
            raise SystemExit(f"{path} was answered {code}: {answer}")
        return json.loads(answer or b"{}")


def await_within(seconds, what, condition):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"timed out waiting for {what}")
        time.sleep(0.02)


def request(address, method, path, key=None, body=None, timeout_s=10):
    """Status and body; status 0 when no answer came."""
    head = {"Authorization": f"Bearer {key}"} if key else {}
    data = json.dumps(body).encode() if body is not None else None
    asked = urllib.request.Request(f"http://{address}/db/api/v1{path}", data, head, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (OSError, urllib.error.URLError):
        return 0, b""
