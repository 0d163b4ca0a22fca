"""Processes that a measurement starts, each of which it also ends: in order when it can, and by the kernel when it cannot.

Nobody else's process is touched: there is no look-up by name here.
"""

import ctypes, os, pathlib, shutil, signal, socket, subprocess, time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Where the programs of this project are looked for: a release build, unless INSIDB_BENCH_BIN_DIR says otherwise.
BUILT = pathlib.Path(os.environ.get("INSIDB_BENCH_BIN_DIR") or
                     pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release").resolve()

# What in this environment is about this program, or about clients, and no setting of a node.
NO_SETTINGS = ("INSIDB_BENCH_BIN_DIR", "INSIDB_URL", "INSIDB_ADMIN_URL", "INSIDB_API_KEY", "INSIDB_INSTANCE_SECRET")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in NO_SETTINGS} | {"INSIDB_LOG_LEVEL": "warn"}

# How to get what is not there.
INSTALL = {"wrk": "Debian's package wrk", "redis-server": "Debian's package redis-server",
           "redis-benchmark": "Debian's package redis-tools", "etcd": "Debian's package etcd-server",
           "insid": "cargo build --release --bin insid", "insic": "cargo build --release --bin insic",
           "bare": "cargo build --release -p insidb-server --example bare"}

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


class OutOfTime(Exception):
    """The run has taken as long as it may."""


def program(name):
    """The path of a program, or none when it is not there."""
    ours = {"insid": BUILT / "insid", "insic": BUILT / "insic", "bare": BUILT / "examples" / "bare"}
    return shutil.which(str(ours.get(name, name)))


def demand(*names):
    missing = [f"{name}: {INSTALL[name]}" for name in names if not program(name)]
    if missing:
        raise SystemExit("not there, and needed:\n  " + "\n  ".join(missing))


def end_with_parent():
    """Runs in the child: should this program be killed, so is what it started."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A child that serves. What it says on standard error is kept in `log`, for the case that it ends by itself."""

    # What goes before each command: see `run.py --batch`.
    under = ()

    def __init__(self, name, command, log, environment=ENVIRONMENT, stdout=subprocess.DEVNULL):
        self.name, self.log = name, pathlib.Path(log)
        self.begun_by = {"args": [str(word) for word in (*self.under, *command)], "env": environment, "stdout": stdout}
        self.begin()

    def begin(self):
        with open(self.log, "ab") as stderr:
            self.child = subprocess.Popen(stdin=subprocess.DEVNULL, stderr=stderr, text=True, preexec_fn=end_with_parent, **self.begun_by)

    def wait_for(self, what, condition, seconds=60):
        """What the condition answers, as soon as that is true; fails when the process ends or the time has passed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise SystemExit(f"{self.name} ended with {self.child.returncode}:\n{self.log.read_text(errors='replace')[-2000:]}")
            if found := condition():
                return found
            time.sleep(0.005)
        raise SystemExit(f"timed out waiting for {what}")

    def cpu_seconds(self):
        """What it and its children that have ended have used so far."""
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")

    def read_bytes(self):
        """What it has had read from a disk so far, and not from the kernel's memory."""
        lines = pathlib.Path(f"/proc/{self.child.pid}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))

    def resident_bytes(self, field="VmRSS"):
        """Of now, or with `VmHWM` the most since it was started."""
        lines = pathlib.Path(f"/proc/{self.child.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self):
        """In order; what takes longer than half a minute is killed."""
        self.child.terminate()
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()


def output(command, seconds, environment=ENVIRONMENT):
    """What a client that ends by itself prints; it may take so many seconds."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=seconds,
                              env=environment, preexec_fn=end_with_parent)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{pathlib.Path(command[0]).name} was not done after {seconds} s") from None
    if done.returncode:
        raise SystemExit(f"{pathlib.Path(command[0]).name} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_open(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
