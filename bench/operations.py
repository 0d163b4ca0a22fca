"""The operations that can be measured: what each is asked of InsiDB, of Redis and of etcd, and beside whom.

Those on the Cache are called as those on the Value Store, with `cache ` in front.
"""

from dataclasses import dataclass

COMPARE_AND_SET = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('set',KEYS[1],ARGV[2]) else return 0 end"
ANY_KEY = "key:0000__rand_int__"
# The keys that everybody wants at once.
HOT, COUNTER = "key:0000000000000hot", "counter:000000000hot"


@dataclass(frozen=True)
class Operation:
    kind: str
    store: str = "vs"
    writes: int = 0  # of 100 requests, in a mix
    limit: int = 100
    offset: int = 0
    is_after: bool = False
    # The one status that is no failure, beside 200.
    refusal: int | None = None

    def redis(self, value):
        """As redis-benchmark takes it; none when Redis has nothing like it."""
        commands = {"get": ["GET", ANY_KEY], "set": ["SET", ANY_KEY, value], "setnx": ["SETNX", HOT, value],
                    "cas": ["EVAL", COMPARE_AND_SET, "1", HOT, value, value], "bump": ["INCR", COUNTER]}
        return commands.get(self.kind)

    def etcd_has_it(self):
        return self.kind in ("get", "set", "mix", "setnx", "cas") or (self.kind == "iterate" and not self.offset)

    def bare_has_it(self):
        return self.kind in ("get", "set", "mix")

    def is_asked_of(self, peer):
        """Whether the peer of this name does it: the Value Store stands beside what is durable, the Cache beside what is not."""
        match peer:
            case "bare":
                return self.bare_has_it()
            case "etcd":
                return self.store == "vs" and self.etcd_has_it()
            case "redis-fsync":
                return self.store == "vs" and self.redis("") is not None
            case "redis-memory":
                return self.store == "cache" and self.redis("") is not None
        return True


def named(name):
    """`set`, `cache get`, `mix 95/5` (gets/sets), `iterate 100`, `iterate 100 at 10000`, `iterate 100 after`, …"""
    words = name.split()
    store = "cache" if words[0] == "cache" else "vs"
    kind, *rest = words[1:] if store == "cache" else words
    try:
        match [kind, *rest]:
            case ["get" | "set"]:
                return Operation(kind, store)
            case ["setnx"]:
                # The key is there: each is refused.
                return Operation(kind, store, refusal=409)
            case ["cas"]:
                return Operation(kind, store)
            case ["bump"] if store == "vs":
                return Operation(kind, store)
            case ["mix", shares]:
                gets, sets = (int(share) for share in shares.split("/"))
                if gets + sets == 100:
                    return Operation(kind, store, writes=sets)
            case ["iterate", limit]:
                return Operation(kind, store, limit=int(limit))
            case ["iterate", limit, "after"]:
                return Operation(kind, store, limit=int(limit), is_after=True)
            case ["iterate", limit, "at", offset]:
                return Operation(kind, store, limit=int(limit), offset=int(offset))
    except ValueError:
        pass
    raise SystemExit(f"no operation: {name!r}; get, set, setnx, cas, bump, mix 95/5, iterate 100, iterate 100 at 10000 and "
                     "iterate 100 after are, and all but bump with `cache ` in front")
