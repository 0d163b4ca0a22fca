"""InsiDB and what stands beside it, each started on free loopback ports with data in a scratch directory."""

import json, pathlib, subprocess
from urllib.parse import quote

import admin
from local import Cluster
from processes import ENVIRONMENT, INSTALL, Process, free_port, is_open, program

ONE_TENANT = 1
# What the name of another build begins with; its folder follows.
BUILD = "insid of "


class Peer:
    """Who is asked, and how: `http` by wrk, or `redis` by redis-benchmark.

    `is_ours` tells InsiDB in some form from the rest; `api_keys` are the tenants' keys.
    """

    def __init__(self, name, processes, protocol, address, api_keys=("",), private=None, is_ours=False):
        self.name, self.processes, self.protocol, self.address = name, processes, protocol, address
        self.api_keys, self.private, self.is_ours = list(api_keys), private, is_ours

    @property
    def port(self):
        return int(self.address.rsplit(":", 1)[1])

    def address_of(self, store):
        """Where a store's requests go."""
        return self.address

    def check(self):
        """Called after each run: whether it is still what it was."""

    def cpu_seconds(self):
        return sum(process.cpu_seconds() for process in self.processes)

    def read_bytes(self):
        return sum(process.read_bytes() for process in self.processes)

    def resident_bytes(self, field="VmRSS"):
        return sum(process.resident_bytes(field) for process in self.processes)

    def stop(self):
        for process in self.processes:
            process.stop()


class OfThree(Peer):
    """A cluster through the leader of the store that is asked, or through a follower."""

    def __init__(self, name, cluster, leads):
        super().__init__(name, cluster.processes(), "http", None, [cluster.key], is_ours=True)
        self.cluster, self.leads = cluster, leads
        self.leaders = {store: cluster.leader(store) for store in ("vs", "cache")}

    def address_of(self, store):
        leader = self.leaders[store]
        return (leader if self.leads else next(node for node in self.cluster.nodes if node is not leader)).public

    def check(self):
        if any(self.cluster.leader(store) is not leader for store, leader in self.leaders.items()):
            raise SystemExit("a leadership moved during the run: its figures say nothing")


def insid_dev(data, settings=None, insid=None):
    """One node and its addresses, when it is ready. Started again in the same directory, it is the same node. `insid` is the
    program of another build."""
    (data / "addresses.json").unlink(missing_ok=True)
    environment = ENVIRONMENT | {f"INSIDB_{name.upper()}": str(value) for name, value in (settings or {}).items()}
    command = [insid or program("insid"), "dev", "--data-dir", data, "--public", "127.0.0.1:0", "--private", "127.0.0.1:0"]
    process = Process("insid", command, data.with_suffix(".log"), environment)
    return process, process.wait_for("insid", lambda: read_json(data / "addresses.json"), 600)


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def file_name(name):
    """A peer's name as a part of a path."""
    return quote(name, safe="")


def root_key(data):
    return (data / "root.key").read_text().strip()


def insid(scratch, options, name="insid", program=None):
    data = scratch / file_name(name)
    process, addresses = insid_dev(data, options["settings"], program)
    keys = admin.create_keys(addresses["private"], root_key(data), ONE_TENANT)
    return [Peer(name, [process], "http", addresses["public"], keys, addresses["private"], is_ours=True)]


def build(folder):
    """The name of the peer that is the `insid` of another build, which lies in this folder."""
    return f"{BUILD}{folder}"


def insid_tenants(scratch, options):
    """One node under two names: asked by one tenant, and by many."""
    [one] = insid(scratch, options)
    many = admin.create_keys(one.private, root_key(scratch / "insid"), options["tenants"])
    name = f"insid, {options['tenants']:,} tenants"
    return [one, Peer(name, one.processes, "http", one.address, many, one.private, is_ours=True)]


def three(scratch, options):
    home = scratch / "three"
    home.mkdir()
    cluster = Cluster(home, 3, options["settings"]).begin()
    return [OfThree("leader of three", cluster, leads=True), OfThree("follower of three", cluster, leads=False)]


def bare(scratch, options):
    """The example `bare` of the server: HTTP and JSON, and no store."""
    process = Process("bare", [program("bare"), options["value_bytes"]], scratch / "bare.log", stdout=subprocess.PIPE)
    address = process.child.stdout.readline().strip()
    _, answer = admin.request(address, "GET", "/vs?key=any")
    if len(json.loads(answer)["data"]) != options["value_bytes"]:
        process.kill()
        raise SystemExit(f"the example `bare` that is there takes no length of values: {INSTALL['bare']}")
    return [Peer("bare", [process], "http", address)]


def redis(name, scratch, *settings):
    home, port = scratch / name, free_port()
    home.mkdir()
    command = [program("redis-server"), "--port", port, "--bind", "127.0.0.1", "--dir", home, "--save", "", *settings]
    process = Process(name, command, scratch / f"{name}.log")
    process.wait_for(name, lambda: is_open(port))
    return [Peer(name, [process], "redis", f"127.0.0.1:{port}")]


def redis_fsync(scratch, _):
    return redis("redis-fsync", scratch, "--appendonly", "yes", "--appendfsync", "always")


def redis_memory(scratch, _):
    return redis("redis-memory", scratch, "--appendonly", "no")


def etcd(scratch, _):
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    command = [program("etcd"), "--data-dir", scratch / "etcd", "--listen-client-urls", client, "--advertise-client-urls", client,
               "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
               "--quota-backend-bytes", 8 << 30]
    process = Process("etcd", command, scratch / "etcd.log")
    process.wait_for("etcd", lambda: is_open(int(client.rsplit(":", 1)[1])))
    return [Peer("etcd", [process], "http", client.removeprefix("http://"))]


# How each is started, and the programs that it needs. Without those of InsiDB there is nothing to measure; a peer is left out.
PEERS = {"insid": (insid, ["insid"]), "tenants": (insid_tenants, ["insid"]), "three": (three, ["insid"]), "bare": (bare, ["bare"]),
         "redis-fsync": (redis_fsync, ["redis-server", "redis-benchmark"]),
         "redis-memory": (redis_memory, ["redis-server", "redis-benchmark"]), "etcd": (etcd, ["etcd"])}
OURS = ("insid", "tenants", "three")


def is_ours(name):
    """Whether it is InsiDB in some form."""
    return name in OURS or name.startswith(BUILD)


def kind(name):
    """How the peer of this name is started, and the programs that it needs."""
    if not name.startswith(BUILD):
        return PEERS[name]
    path = pathlib.Path(name.removeprefix(BUILD)) / "insid"
    return lambda scratch, options: insid(scratch, options, name, path), ["insid"]


def missing(names):
    """Those of the peers that are not installed, with what they lack."""
    lacking = {name: [need for need in kind(name)[1] if not program(need)] for name in names}
    return {name: needs for name, needs in lacking.items() if needs}


class Started:
    """The peers of these names, by the names of what is asked; they are killed when it is left, and their data is of no use then."""

    def __init__(self, names, scratch, **options):
        self.names, self.scratch, self.options, self.peers = names, pathlib.Path(scratch), options, {}

    def __enter__(self):
        try:
            for name in self.names:
                self.peers |= {peer.name: peer for peer in kind(name)[0](self.scratch, self.options)}
        except BaseException:
            self.__exit__()
            raise
        return self.peers

    def __exit__(self, *_):
        for process in {process: None for peer in self.peers.values() for process in peer.processes}:
            process.kill()


class One(Started):
    """A single peer; it ends when it is left."""

    def __init__(self, name, scratch, settings=None):
        super().__init__([name], scratch, settings=settings or {}, value_bytes=100, tenants=1)

    def __enter__(self):
        [peer] = super().__enter__().values()
        return peer
