"""Filling what is measured, before it is: all keys once and in order, as fast as each takes them.

InsiDB has one write for each key; etcd takes transactions of up to 128 puts, Redis a pipeline.
"""

import json, signal, socket, subprocess, time, urllib.request
from base64 import b64encode

import admin, load
from operations import COUNTER, HOT
from processes import ENVIRONMENT, OutOfTime, end_with_parent, is_open

CONNECTIONS = 128
ETCD_PUTS = 100
ETCD_REQUEST_BYTES = 500_000
REDIS_PIPELINE_BYTES = 1 << 20


def fill(peer, store, keys, value_bytes, scratch, deadline):
    """All keys of one store, and the hot one; says how long it took."""
    began = time.monotonic()
    if peer.protocol == "redis":
        fill_redis(peer.port, keys, value_bytes, deadline)
    elif peer.name == "etcd":
        fill_by_wrk(peer, store, keys, value_bytes, scratch, deadline, etcd_batch(keys, value_bytes))
        # It reads more slowly behind large transactions (3.4 copies a buffer that they made large for each read), until it is
        # started anew.
        peer.processes[0].stop()
        peer.processes[0].begin()
        peer.processes[0].wait_for("etcd", lambda: is_open(peer.port))
        check(peer, keys, etcd_count(peer))
        ask_etcd(peer, "put", {"key": base64(HOT), "value": base64("x" * value_bytes)})
    else:
        before = admin.stored_keys(peer.private, store) if peer.private else 0
        fill_by_wrk(peer, store, keys, value_bytes, scratch, deadline, 1)
        if peer.private:
            check(peer, keys, admin.stored_keys(peer.private, store) - before)
        status, _ = admin.request(peer.address_of(store), "POST", f"/{store}", peer.api_keys[0], {"key": HOT, "value": "x" * value_bytes})
        if status != 200:
            raise SystemExit(f"{peer.name} answered {status} to a set")
    took = time.monotonic() - began
    print(f"  filled: {peer.name}, {store if peer.is_ours else 'all'}, {keys:,} keys of {value_bytes:,} bytes in {took:.1f} s", flush=True)
    settle(peer, deadline)


def etcd_batch(keys, value_bytes):
    """Puts of one transaction: of no key twice, and within what etcd takes."""
    return max(1, min(keys, ETCD_PUTS, ETCD_REQUEST_BYTES * 3 // 4 // value_bytes))


def check(peer, keys, found):
    if found < keys:
        raise SystemExit(f"{peer.name} was filled with {keys:,} keys and has {found:,}")


def fill_by_wrk(peer, store, keys, value_bytes, scratch, deadline, batch):
    """wrk ends by time alone: it is interrupted when its script says that it is past the last key."""
    requests = -(-keys // batch)
    # The slack: what is under way at the end, and what a slow connection still holds, gets its answer meanwhile.
    path = load.script(scratch, peer, None, keys, value_bytes, store=store, batch=batch, fill_end=requests + 4 * CONNECTIONS)
    command = load.wrk_command(peer.address_of(store), path, CONNECTIONS, 86_400)
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                             env=ENVIRONMENT, preexec_fn=end_with_parent)
    try:
        out = ""
        with deadline.alarm():
            for line in child.stdout:
                out += line
                if line == "FILLED\n":
                    child.send_signal(signal.SIGINT)
        child.wait(30)
    finally:
        child.kill()
        child.wait()
    load.result(out)


def ask_etcd(peer, what, body):
    with urllib.request.urlopen(f"http://{peer.address}/v3/kv/{what}", json.dumps(body).encode(), timeout=60) as answer:
        return json.loads(answer.read())


def etcd_count(peer):
    # All keys, as etcd says it: from the zero byte to the zero byte.
    every = base64("\0")
    return int(ask_etcd(peer, "range", {"key": every, "range_end": every, "count_only": True}).get("count", 0))


def base64(text):
    return b64encode(text.encode()).decode()


def redis_command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def fill_redis(port, keys, value_bytes, deadline):
    value = b"x" * value_bytes
    batch = max(1, REDIS_PIPELINE_BYTES // (value_bytes + 60))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        def send(commands):
            connection.sendall(b"".join(commands))
            left = len(b"+OK\r\n") * len(commands)
            while left:
                answer = connection.recv(left)
                if not answer or b"-" in answer:
                    raise SystemExit(f"Redis answered {answer.decode(errors='replace')}")
                left -= len(answer)
        for first in range(0, keys, batch):
            if deadline.is_past():
                raise OutOfTime
            send([redis_command(b"SET", b"key:%016d" % number, value) for number in range(first, min(first + batch, keys))])
        send([redis_command(b"SET", HOT.encode(), value), redis_command(b"SET", COUNTER.encode(), b"0")])


def is_rewriting(port):
    """Whether Redis writes its log anew, beside what it is asked."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(redis_command(b"INFO", b"persistence"))
        return b"aof_rewrite_in_progress:1" in connection.recv(1 << 16)


def settle(peer, deadline, idle_share=0.1):
    """Waits until a peer has done what the filling left for later: for half a second it uses next to no CPU."""
    while not deadline.is_past():
        before = peer.cpu_seconds()
        time.sleep(0.5)
        if peer.cpu_seconds() - before < 0.5 * idle_share and not (peer.protocol == "redis" and is_rewriting(peer.port)):
            return
    raise OutOfTime
