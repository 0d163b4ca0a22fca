"""The machine that a run is made on: figures of two machines, or of two days, are not compared."""

import os, pathlib, platform, statistics, subprocess, time

from processes import BUILT, ENVIRONMENT, ROOT, program

BLOCK_BYTES, FILE_BYTES = 512, 1 << 24
VERSIONS = {"redis-server": ["--version"], "etcd": ["--version"], "wrk": ["-v"]}
# These keep nothing through a loss of power, and "sync" in no time.
IN_MEMORY = ("tmpfs", "ramfs")


def describe():
    return {"cores": os.cpu_count(), "processor": processor(), "memory_gib": round(memory_bytes() / (1 << 30), 1),
            "kernel": f"{platform.system()} {platform.release()}", "commit": commit(), "build": BUILT.name,
            "settings": {name: value for name, value in ENVIRONMENT.items() if name.startswith("INSIDB_")},
            "versions": {name: version(name) for name in VERSIONS if program(name)}}


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def memory_bytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def commit():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def version(name):
    done = subprocess.run([program(name), *VERSIONS[name]], capture_output=True, text=True)
    return (done.stdout or done.stderr).splitlines()[0]


def file_system(path):
    """Of which type it is, as the longest mount point over the path says."""
    path, best = str(pathlib.Path(path).resolve()), ("", "unknown")
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def fdatasync_seconds(scratch, seconds):
    """A bare loop of write and fdatasync on a file that is filled before: the seconds of each turn."""
    path = scratch / "fdatasync"
    with open(path, "wb", buffering=0) as file:
        file.write(bytes(FILE_BYTES))
        os.fsync(file.fileno())
        block, turns, at = bytes(BLOCK_BYTES), [], 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            begin = time.perf_counter()
            os.pwrite(file.fileno(), block, at % FILE_BYTES)
            os.fdatasync(file.fileno())
            turns.append(time.perf_counter() - begin)
            at += len(block)
    path.unlink()
    return turns


def sync_us(rounds):
    """Of so many looks at the loop: the median of their medians in microseconds, the lowest and highest of these, and turns a second."""
    if not rounds:
        return None
    p50s_us = [statistics.median(turns) * 1e6 for turns in rounds]
    return {"p50_us": statistics.median(p50s_us), "p50_us_lowest": min(p50s_us), "p50_us_highest": max(p50s_us),
            "per_second": statistics.median(len(turns) / sum(turns) for turns in rounds), "looks": len(rounds)}
