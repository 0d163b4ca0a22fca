//! Transcripts: `tests/scripts/both` hold for both keyspaces, the others for one. Every command is a log entry and a
//! transaction of its own; after each, the books are checked against a walk over all rows.
//!
//! Names stand for ids: a scope, an API key's id and its secret's hash are all made of the name's letters. `scope`,
//! `quota` and `end` do what each keyspace needs for the same effect, so that the transcripts can be the same.

use std::{collections::BTreeMap, error::Error, fmt::Write as _, fs, path::Path};

use goldenscript::{ArgumentConsumer, Context};
use state::{
    apply::{Payload, StateMachine},
    command::{Admin, Admitted, Batch, Cleanup, Command, Condition, Data, Fence, KeyRef, Registry, Write},
    ids::{ApiKeyId, Keyspace, NodeId, Position, ScopeId},
    keys::{Limits, LimitsPatch},
    kv::{Page, PageStart},
};
use storage::{Engine, KeyRange, Read};

use crate::{
    host::{DiskHost, Host, MemoryHost, PlainHost},
    words::*,
};

type Answer = Result<String, Box<dyn Error>>;

#[test]
fn values_on_the_plain_engine() {
    run_all::<PlainHost>(Keyspace::Values);
}

#[test]
fn cache_on_the_plain_engine() {
    run_all::<PlainHost>(Keyspace::Cache);
}

#[test]
fn values_on_the_memory_engine() {
    run_all::<MemoryHost>(Keyspace::Values);
}

#[test]
fn cache_on_the_memory_engine() {
    run_all::<MemoryHost>(Keyspace::Cache);
}

#[test]
fn values_on_the_disk_engine() {
    run_all::<DiskHost>(Keyspace::Values);
}

#[test]
fn cache_on_the_disk_engine() {
    run_all::<DiskHost>(Keyspace::Cache);
}

fn run_all<H: Host>(keyspace: Keyspace) {
    let own = match keyspace {
        Keyspace::Values => "values",
        Keyspace::Cache => "cache",
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    for dir in ["both", own] {
        let mut scripts: Vec<_> = fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path()).collect();
        scripts.sort();
        assert!(!scripts.is_empty());
        for script in scripts {
            goldenscript::run(&mut Runner::<H>::new(keyspace), script).unwrap();
        }
    }
}

struct Runner<H: Host> {
    host: H,
    machine: StateMachine<H::Engine>,
    keyspace: Keyspace,
    /// The cache's quotas, which its leader would stamp into the commands.
    quotas: BTreeMap<ScopeId, u64>,
    position: Position,
    time_unix_ms: u64,
}

impl<H: Host> goldenscript::Runner for Runner<H> {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Answer {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            "set" | "setnx" | "cas" | "delete" | "bump" | "write" => self.data(&command.name, &mut args),
            "get" | "ls" | "usage" | "totals" | "rows" => self.query(&command.name, &mut args),
            "scope" | "quota" | "end" => self.tenant(&command.name, &mut args),
            "create-key" | "delete-key" | "set-limits" | "create-alias" | "delete-alias" => {
                self.admin(&command.name, &mut args)
            }
            "caller" | "entity" | "entity-by-alias" | "entities" | "deletions" => {
                self.control_query(&command.name, &mut args)
            }
            "close" | "purge" | "finish" => self.cleanup(&command.name, &mut args),
            "fence" => {
                let (scope, at) = (scope(positional(&mut args)?), positional(&mut args)?);
                self.apply(Command::Fence(Fence { scope, control_index: at.parse()? }))
            }
            "register" | "reset" | "registry" => self.registry(&command.name, &mut args),
            "blank" | "membership" | "position" | "time" | "applied" => self.log(&command.name, &mut args),
            "reopen" | "snapshot" => self.move_house(&command.name),
            other => Err(format!("no command {other}").into()),
        }?;
        args.reject_next()?;
        Ok(output)
    }

    fn end_command(&mut self, _: &goldenscript::Command, _: &Context) -> Answer {
        let recount = self.machine.reader().recount()?;
        let applied = self.machine.applied();
        assert_eq!(recount.state_hash, applied.state_hash);
        assert_eq!(recount.totals, applied.totals);
        Ok(String::new())
    }
}

impl<H: Host> Runner<H> {
    fn new(keyspace: Keyspace) -> Self {
        let host = H::new();
        let machine = host.open(keyspace);
        let position = Position { term: 1, index: 0 };
        Self { host, machine, keyspace, quotas: BTreeMap::new(), position, time_unix_ms: 0 }
    }

    fn data(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
        let scope = scope(positional(args)?);
        let writes = match name {
            "set" | "setnx" => {
                let condition = if name == "set" { Condition::Always } else { Condition::Absent };
                let (key, value) = args.next_key().ok_or("no key=value")?;
                vec![put(key, value, condition)]
            }
            "cas" => {
                let condition = condition(args)?;
                let (key, value) = args.next_key().ok_or("no key=value")?;
                vec![put(key, value, condition)]
            }
            "delete" => {
                let condition = condition(args)?;
                vec![Write::Delete { key: parse_key(positional(args)?), condition }]
            }
            "bump" => vec![bump(positional(args)?, positional(args)?)?],
            _ => std::iter::from_fn(|| args.next_pos()).map(parse_write).collect::<Result<_, _>>()?,
        };
        let quota_bytes = self.quotas.get(&scope).copied();
        let api_key = args.take_key("by").map_or(ApiKeyId::ROOT, api_key);
        let data = Data { scope, api_key, request: None, quota_bytes, writes };
        self.apply(match args.take_key("at") {
            Some(at) => Command::Admitted(Admitted { data, control_index: at.parse()? }),
            None => Command::Data(data),
        })
    }

    fn query(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
        let reader = self.machine.reader();
        if name == "totals" {
            let totals = reader.totals()?;
            return Ok(format!("bytes={} keys={}", totals.bytes, totals.keys));
        }
        let scope = scope(positional(args)?);
        match name {
            "get" => Ok(match reader.get(scope, &parse_key(positional(args)?))? {
                Some(stored) => {
                    format!("{:?} revision={}", String::from_utf8_lossy(stored.value()), stored.revision())
                }
                None => "none".into(),
            }),
            "ls" => {
                let start = match (args.take_key("after"), args.take_key("offset")) {
                    (Some(after), _) => PageStart::After(after.into()),
                    (None, offset) => PageStart::Offset(offset.unwrap_or("0").parse()?),
                };
                let limit = args.take_key("limit").unwrap_or("100").parse()?;
                let page = Page::new(args.take_key("prefix").unwrap_or(""), start, limit).ok_or("no such page")?;
                let keys: Vec<_> = reader.keys(scope, &page).collect::<Result<_, _>>()?;
                let keys: Vec<_> = keys.iter().map(|key| String::from_utf8_lossy(key.as_bytes())).collect();
                Ok(format!("{keys:?}"))
            }
            "usage" => Ok(format!("{:?}", reader.usage(scope)?)),
            _ => {
                let id = scope.0.as_bytes();
                let names = |row: &[u8]| row.windows(id.len()).any(|window| window == id);
                let rows = self.host.engine().view();
                let left = rows.scan(KeyRange::prefix(&[])).map(Result::unwrap);
                Ok(format!("{}", left.filter(|(key, value)| names(key) || names(value)).count()))
            }
        }
    }

    fn tenant(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
        let tenant = positional(args)?;
        let quota: Option<u64> = args.take_key("quota").map(str::parse).transpose()?;
        match (self.keyspace, name) {
            (Keyspace::Values, "scope") => self.apply(create_key(tenant, tenant, limits(quota), None)),
            (Keyspace::Values, "quota") => {
                let patch = LimitsPatch { bytes_on_disk: quota, ..LimitsPatch::default() };
                self.apply(Command::Admin(Admin::SetLimits(KeyRef::Id(api_key(tenant)), patch)))
            }
            (Keyspace::Values, _) => {
                self.apply(Command::Admin(Admin::DeleteKey(KeyRef::Id(api_key(tenant)))))?;
                Ok("ended".into())
            }
            (Keyspace::Cache, "scope" | "quota") => {
                self.quotas.insert(scope(tenant), limits(quota).bytes_on_disk);
                self.entry(Payload::Blank)?; // so that positions are the same too
                Ok("Accepted".into())
            }
            (Keyspace::Cache, _) => {
                self.apply(Command::Cleanup(Cleanup::CloseScope(scope(tenant))))?;
                Ok("ended".into())
            }
        }
    }

    fn admin(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
        let first = positional(args)?;
        let admin = match name {
            "create-key" => {
                let expires = args.take_key("expires").map(str::parse).transpose()?;
                let hash_of = args.take_key("hash").unwrap_or(first);
                let scope_of = args.take_key("scope").unwrap_or(first);
                let command = create_key(first, hash_of, Limits::default(), expires);
                let Command::Admin(Admin::CreateKey { id, hash, name, limits, expires_at_unix_ms, .. }) = command
                else {
                    unreachable!()
                };
                Admin::CreateKey { id, scope: scope(scope_of), hash, name, limits, expires_at_unix_ms }
            }
            "delete-key" => Admin::DeleteKey(key_ref(first)),
            "set-limits" => {
                let mut number = |name| args.take_key(name).map(str::parse).transpose();
                let patch = LimitsPatch {
                    bytes_on_disk: number("disk")?,
                    bytes_in_memory: number("memory")?,
                    rate_per_second_data_limit: number("rate")?,
                };
                Admin::SetLimits(key_ref(first), patch)
            }
            "create-alias" => {
                let alias = positional(args)?;
                let hash_of = args.take_key("hash").unwrap_or(alias);
                Admin::CreateAlias { owner: api_key(first), id: api_key(alias), hash: hash(hash_of) }
            }
            _ => Admin::DeleteAlias { owner: api_key(first), alias: key_ref(positional(args)?) },
        };
        let version = self.machine.shared().control_version();
        let answer = self.apply(Command::Admin(admin))?;
        let changed = self.machine.shared().control_version() != version;
        assert_eq!(changed, !answer.starts_with("refused"), "the control version follows the changes");
        Ok(answer)
    }

    fn control_query(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
        let reader = self.machine.reader();
        Ok(match name {
            "caller" => match reader.caller(&hash(positional(args)?))? {
                Some(caller) => {
                    let kind = if caller.is_alias { "alias" } else { "entity" };
                    format!("{kind} {} of {}", name_of(caller.id.0), show_entity(&caller.entity))
                }
                None => "none".into(),
            },
            "entity" => reader.entity(&key_ref(positional(args)?))?.as_ref().map_or("none".into(), show_entity),
            "entity-by-alias" => {
                reader.entity_by_alias(&key_ref(positional(args)?))?.as_ref().map_or("none".into(), show_entity)
            }
            "entities" => {
                let (offset, limit) = (positional(args)?.parse()?, positional(args)?.parse()?);
                let names = reader.entities(offset, limit)?.into_iter().map(|entity| entity.name);
                names.collect::<Vec<_>>().join(" ")
            }
            _ => reader.deletions()?.into_iter().map(|scope| name_of(scope.0)).collect::<Vec<_>>().join(" "),
        })
    }

    fn cleanup(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
        let scope = scope(positional(args)?);
        let cleanup = match name {
            "close" => Cleanup::CloseScope(scope),
            "purge" => Cleanup::Purge { scope, rows_max: args.take_key("rows").unwrap_or("100").parse()? },
            _ => Cleanup::Finish(scope),
        };
        self.apply(Command::Cleanup(cleanup))
    }

    fn registry(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
        let registry = match name {
            "register" => Registry::Register {
                node: NodeId(positional(args)?.parse()?),
                previous: args.take_key("previous").map(str::parse).transpose()?,
                nonce: args.take_key("nonce").ok_or("no nonce")?.parse()?,
            },
            "reset" => Registry::Reset { generation: positional(args)?.parse()? },
            _ => return Ok(format!("{:?}", self.machine.reader().registry()?)),
        };
        self.apply(Command::Registry(registry))
    }

    fn log(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
        match name {
            "blank" => self.entry(Payload::Blank),
            "membership" => self.entry(Payload::Membership(positional(args)?.as_bytes())),
            "position" => {
                self.position = Position { term: positional(args)?.parse()?, index: positional(args)?.parse()? };
                Ok(String::new())
            }
            "time" => {
                self.time_unix_ms = positional(args)?.parse()?;
                Ok(String::new())
            }
            _ => {
                let applied = self.machine.reader().applied()?;
                assert_eq!(&applied, self.machine.applied());
                let mut out = format!("position={:?} time={}", applied.position, applied.time_unix_ms);
                if let Some(membership) = applied.membership {
                    let bytes = String::from_utf8_lossy(&membership.bytes).into_owned();
                    write!(out, " membership={bytes} from {:?}", membership.position)?;
                }
                Ok(out)
            }
        }
    }

    fn move_house(&mut self, name: &str) -> Answer {
        let applied = self.machine.applied().clone();
        if name == "snapshot" {
            let pieces: Vec<Vec<u8>> = self.machine.reader().export().collect::<Result<_, _>>()?;
            let host = H::new();
            self.machine = host.open(self.keyspace);
            self.machine.install(pieces.into_iter().map(Ok))?;
            self.host = host;
        } else {
            self.machine = self.host.open(self.keyspace);
        }
        assert_eq!(&applied, self.machine.applied());
        Ok("same".into())
    }

    fn apply(&mut self, command: Command) -> Answer {
        let batch = Batch { time_unix_ms: self.time_unix_ms, commands: vec![command] };
        self.entry(Payload::Batch(&batch))
    }

    fn entry(&mut self, payload: Payload<'_>) -> Answer {
        let position = Position { term: self.position.term, index: self.position.index + 1 };
        let mut applying = self.machine.begin();
        let outcomes = applying.apply(position, payload)?;
        applying.commit()?;
        self.position = position;
        Ok(outcomes.into_iter().map(show_outcome).collect())
    }
}
