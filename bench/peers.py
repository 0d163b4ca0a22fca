"""InsiDB and what stands beside it, each started on free loopback ports with data in a scratch directory.

A peer that is not installed is left out, and said to be.
"""

import json, os, pathlib, shutil, signal, socket, subprocess, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, condition):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise SystemExit(f"timed out waiting for {what}")


def post(url, key, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or b"{}")


def is_open(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


class Peer:
    """A process that serves, and how it is asked: `http` by wrk at `address`, or `redis` by redis-benchmark at `port`."""

    def __init__(self, name, child, protocol, address, key=""):
        self.name, self.child, self.protocol, self.address, self.key = name, child, protocol, address, key

    @property
    def port(self):
        return int(self.address.rsplit(":", 1)[1])

    def cpu_seconds(self):
        """What its process has used so far."""
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        return int(pathlib.Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        self.child.wait()


def start_insid(scratch, create_key=True):
    """The child, its public address, and a tenant's key without a limit that anybody meets."""
    data = scratch / "insid"
    child = subprocess.Popen(
        [BUILT / "insid", "dev", "--data-dir", data, "--public", "127.0.0.1:0", "--private", "127.0.0.1:0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "INSIDB_LOG_LEVEL": "warn"})
    addresses = wait_for("insid", lambda: (data / "addresses.json").exists() and json.loads((data / "addresses.json").read_text()))
    if not create_key:
        return child, addresses["public"], None
    root = (data / "root.key").read_text().strip()
    admin = f"http://{addresses['private']}/db/api/v1/admin"
    made = post(f"{admin}/api/create", root, {"key_name": "bench"})
    limits = {"rate_per_second_data_limit": 100_000_000, "bytes_on_disk": 1 << 40, "bytes_in_memory": 1 << 40}
    post(f"{admin}/limits/set", root, {"key_uuid": made["key_uuid"], "limits": limits})
    return child, addresses["public"], made["key"]


def insid(scratch):
    child, address, key = start_insid(scratch)
    return Peer("insid", child, "http", address, key)


def bare(_):
    """The example `bare` of the server: HTTP and JSON, and no store."""
    child = subprocess.Popen([BUILT / "examples" / "bare"], stdout=subprocess.PIPE, text=True)
    return Peer("bare", child, "http", child.stdout.readline().strip())


def redis(name, scratch, *settings):
    home, port = scratch / name, free_port()
    home.mkdir()
    child = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", home, "--save", "", *settings],
                             stdout=subprocess.DEVNULL)
    wait_for(name, lambda: is_open(port))
    return Peer(name, child, "redis", f"127.0.0.1:{port}")


def redis_fsync(scratch):
    return redis("redis-fsync", scratch, "--appendonly", "yes", "--appendfsync", "always")


def redis_memory(scratch):
    return redis("redis-memory", scratch, "--appendonly", "no")


def etcd(scratch):
    client, peer = free_port(), free_port()
    child = subprocess.Popen(
        ["etcd", "--data-dir", scratch / "etcd", "--listen-client-urls", f"http://127.0.0.1:{client}",
         "--advertise-client-urls", f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}",
         "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster", f"default=http://127.0.0.1:{peer}",
         "--quota-backend-bytes", str(8 << 30)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("etcd", lambda: is_open(client))
    return Peer("etcd", child, "http", f"127.0.0.1:{client}")


PEERS = {"insid": (insid, BUILT / "insid"), "bare": (bare, BUILT / "examples" / "bare"),
         "redis-fsync": (redis_fsync, "redis-server"), "redis-memory": (redis_memory, "redis-server"), "etcd": (etcd, "etcd")}


def start(names, scratch):
    """Those of the names that are there, by name."""
    started = {}
    try:
        for name in names:
            begin, needs = PEERS[name]
            if shutil.which(str(needs)) is None:
                print(f"left out: {name}, since {needs} is not there")
                continue
            started[name] = begin(scratch)
    except BaseException:
        for peer in started.values():
            peer.stop()
        raise
    return started


def fdatasync_seconds(scratch, seconds):
    """A bare loop of write and fdatasync on a file that is filled before: the seconds of each turn, in order of size."""
    path = scratch / "fdatasync"
    with open(path, "wb", buffering=0) as file:
        file.write(bytes(1 << 24))
        os.fsync(file.fileno())
        block, turns, at = bytes(512), [], 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            begin = time.perf_counter()
            os.pwrite(file.fileno(), block, at % (1 << 24))
            os.fdatasync(file.fileno())
            turns.append(time.perf_counter() - begin)
            at += len(block)
    path.unlink()
    return sorted(turns)
