"""A cluster of nodes on loopback, for the measurements."""

import http.client, json, os, pathlib, random, signal, socket, subprocess, tempfile, time, urllib.error, urllib.request

from run import ROOT, post, wait_for

SECRET = "a-secret-for-measuring"


def low_port():
    """A port below those that outgoing connections take, so that a node that is down finds its own again."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Node:
    def __init__(self, number, scratch):
        self.number, self.dir = number, scratch / f"node{number}"
        self.public, self.private, self.peer = (f"127.0.0.1:{low_port()}" for _ in range(3))
        self.config, self.child = scratch / f"node{number}.toml", None


class Cluster:
    """Nodes 0 to n-1, all voters in both groups, with one tenant that has no limits worth the name."""

    def __init__(self, count, settings=""):
        self.scratch = tempfile.TemporaryDirectory()
        scratch = pathlib.Path(self.scratch.name)
        self.settings = settings
        self.nodes = [Node(number, scratch) for number in range(count)]
        binary = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "insid"
        self.binary = binary
        for node in self.nodes:
            self.start(node, founds=node.number == 0)
            if node.number == 0:
                self.await_ready(node)
        root_key = subprocess.run([binary, "root-key", "--config", self.nodes[0].config], capture_output=True, text=True,
                                  check=True, env={**os.environ, "INSIDB_INSTANCE_SECRET": SECRET}).stdout.strip()
        self.root_key = root_key
        self.await_whole()
        admin = f"http://{self.nodes[0].private}/db/api/v1/admin"
        made = post(f"{admin}/api/create", root_key, {"key_name": "bench"})
        limits = {"rate_per_second_data_limit": 100_000_000, "bytes_on_disk": 1 << 40, "bytes_in_memory": 1 << 40}
        post(f"{admin}/limits/set", root_key, {"key_uuid": made["key_uuid"], "limits": limits})
        self.key = made["key"]

    def start(self, node, founds=False):
        join = [] if founds else [other.peer for other in self.nodes]
        node.config.write_text(
            f'data_dir = "{node.dir}"\npublic_address = "{node.public}"\nprivate_address = "{node.private}"\n'
            f'peer_address = "{node.peer}"\njoin = {json.dumps(join)}\nlog_level = "warn"\n{self.settings}\n')
        node.child = subprocess.Popen([self.binary, "run", "--config", node.config], stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL, env={**os.environ, "INSIDB_INSTANCE_SECRET": SECRET})

    def kill(self, node):
        node.child.kill()
        node.child.wait()
        node.child = None

    def close(self):
        for node in self.nodes:
            if node.child:
                node.child.send_signal(signal.SIGTERM)
        for node in self.nodes:
            if node.child:
                node.child.wait()
        self.scratch.cleanup()

    def get(self, address, path, timeout=2):
        request = urllib.request.Request(f"http://{address}{path}", headers={"Authorization": f"Bearer {self.root_key}"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.loads(answer.read())
        except (OSError, urllib.error.URLError, http.client.HTTPException):
            return None

    def await_ready(self, node):
        def ready():
            try:
                return urllib.request.urlopen(f"http://{node.private}/readyz", timeout=2).status == 200
            except (OSError, urllib.error.URLError, http.client.HTTPException):
                return False
        wait_for(f"node {node.number} to be ready", ready, seconds=300)

    def await_whole(self):
        """Until every node votes in both groups."""
        for node in self.nodes:
            self.await_ready(node)

        def whole():
            status = self.get(self.nodes[0].private, "/db/api/v1/admin/cluster/status")
            if not status or len(status["nodes"]) != len(self.nodes):
                return False
            votes = lambda member: member is not None and member["role"] in ("leader", "voter")
            return all(votes(node["values"]) and votes(node["cache"]) for node in status["nodes"])
        wait_for("all nodes to vote", whole, seconds=120)

    def leader(self):
        """The node that leads the group of the Value Store."""
        def find():
            by_id = {}
            for node in self.nodes:
                ping = node.child and self.get(node.public, "/db/api/v1/ping")
                if ping:
                    by_id[ping["node"]] = node
                    leader = ping["leader"]
            return by_id.get(leader) if by_id else None
        return wait_for("a leader", find)
