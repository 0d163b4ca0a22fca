"""Asking a node one thing at a time: what operators ask, what it tells about itself, and API keys by the thousand."""

import http.client, json, re, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor

BASE = "/db/api/v1"
# What no tenant of a measurement meets.
LIMITS = {"rate_per_second_data_limit": 100_000_000, "bytes_on_disk": 1 << 40, "bytes_in_memory": 1 << 40}
# Connections that create API keys.
CREATORS = 32


def request(address, method, path, key=None, body=None, timeout_s=10):
    """Status and body; status 0 when no answer came."""
    head = {"Authorization": f"Bearer {key}"} if key else {}
    data = json.dumps(body).encode() if body is not None else None
    asked = urllib.request.Request(f"http://{address}{BASE}{path}", data, head, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (OSError, http.client.HTTPException):
        return 0, b""


def is_ready(private):
    return request(private, "GET", "/readyz")[0] == 200


def create_keys(private, root, count):
    """So many API keys, each a tenant without a limit that it meets, in the order of their making."""
    def create(numbers):
        host, port = private.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        def ask(path, body):
            connection.request("POST", f"{BASE}/admin{path}", json.dumps(body), {"Authorization": f"Bearer {root}"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise SystemExit(f"{path} was answered {answer.status}: {text.decode(errors='replace')}")
            return json.loads(text or b"{}")
        found = []
        for number in numbers:
            made = ask("/api/create", {"key_name": f"bench-{number}"})
            ask("/limits/set", {"key_uuid": made["key_uuid"], "limits": LIMITS})
            found.append(made["key"])
        connection.close()
        return found
    with ThreadPoolExecutor(CREATORS) as pool:
        return [key for keys in pool.map(create, (range(first, count, CREATORS) for first in range(min(CREATORS, count)))) for key in keys]


def metrics(private):
    """The node's metrics: values by name and labels, as they are written."""
    with urllib.request.urlopen(f"http://{private}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))}


def stored_keys(private, store):
    return int(metrics(private)[f'insidb_stored_keys{{store="{store}"}}'])


def log_syncs(private):
    """How many syncs of the log there were so far, and the seconds that they took."""
    found = metrics(private)
    return found["insidb_log_fsync_seconds_count"], found["insidb_log_fsync_seconds_sum"]


def answers_by_status(private):
    """How many answers of each status there were so far."""
    found = {}
    for name, value in metrics(private).items():
        if name.startswith("insidb_http_requests_total"):
            status = int(re.search(r'status="(\d+)"', name)[1])
            found[status] = found.get(status, 0) + int(value)
    return found
