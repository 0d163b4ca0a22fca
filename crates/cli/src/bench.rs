//! `insic bench`: a load generator, and what it found.
//!
//! 1. `args` is what was asked for; `target` finds the nodes, and each is asked once by the SDK, so that a wrong URL, key
//!    or certificate fails as it does with every other command.
//! 2. `crew` opens all connections, on threads of their own.
//! 3. `fill` sets all keys, when reads are to find something.
//! 4. `measure` sends requests of a `workload` by a `schedule`, closed or open; `connection` carries them, as bytes that
//!    `request` has prepared, and `answer` reads what comes back.
//! 5. `tally` counts; `report` prints, with `notes` on what the figures do not say.
//!
//! It shares the machine with the server as a rule, so a request costs as little as it can: it does not go through the
//! SDK, which does more for each call than the server does.

mod alarm;
mod answer;
mod args;
mod connection;
mod crew;
mod fill;
mod hdr;
mod keys;
mod measure;
mod notes;
mod progress;
mod report;
mod request;
mod run;
mod schedule;
mod tally;
mod target;
mod workload;

use std::path::Path;
use std::sync::Arc;

pub(crate) use args::Command;
use insidb_client::ConfigError;

use self::target::Target;
use crate::failure::{Exit, Failure};
use crate::profile::Profile;
use crate::session::Session;
use crate::settings;

/// Whom to ask, and as whom.
struct Service {
    targets: Vec<Arc<Target>>,
    api_keys: Arc<[String]>,
    /// Data operations a second that the first API key may do; root has no bound.
    rate_limit: Option<u64>,
}

pub(crate) async fn run(command: Command, session: &mut Session) -> Result<Exit, Failure> {
    let shares = command.shares()?;
    if command.threads > command.connections {
        return Err(Failure::usage(
            "there are more threads than connections",
            "lower --threads, or raise --connections",
        ));
    }
    if let Some(path) = &command.hdr {
        // Now, and not when all is measured: whether the file can be written.
        write_distribution(path, "")?;
    }
    let service = reach(&command, session).await?;
    let is_filled = command.is_filled(&shares);
    if let Some(limit) = service.rate_limit {
        let fill_seconds = if is_filled { Some(notes::fill_seconds(command.keys, limit)?) } else { None };
        session.out.remark(&notes::rate_limit(limit, fill_seconds))?;
    }
    let is_shown = !session.out.json;
    if is_filled {
        run::fill(&command, &service, is_shown).await?;
    }
    let mut findings = run::measure(&command, shares, &service, is_shown).await?;
    notes::add(&mut findings, service.rate_limit);
    findings.print(command.series, &mut session.out)?;
    if let Some(path) = &command.hdr {
        write_distribution(path, &hdr::distribution(&findings.tally.all().latency))?;
    }
    match notes::failure(&findings.tally, service.rate_limit) {
        Some(failure) => Err(failure),
        None => Ok(Exit::Done),
    }
}

/// Finds the nodes and the API keys, and asks every node once.
async fn reach(command: &Command, session: &mut Session) -> Result<Service, Failure> {
    let mut profile = session.settings.in_use()?;
    let api_keys = match &command.api_keys_file {
        Some(path) => read_api_keys(path)?,
        None => vec![session.stdin.secret(settings::key_of(&mut profile)?)?],
    };
    if profile.url.is_empty() {
        return Err(ConfigError::NoUrl.into());
    }
    let ca_pem = profile.ca.as_deref().map(settings::read_ca).transpose()?;
    let mut targets = Vec::new();
    let mut rate_limit = None;
    for url in &profile.url {
        let one = Profile { url: vec![url.clone()], ..profile.clone() };
        let client = settings::builder(&one)?.key(api_keys[0].clone()).build()?;
        client.ping().await?;
        // Both stores are asked for it, and one of them may be without a leader while the other is measured.
        if let Ok(limits) = client.limits().await {
            rate_limit = limits.max_limits.rate_per_second_data_limit;
        }
        targets.push(Arc::new(Target::find(url, ca_pem.as_deref()).await?));
    }
    Ok(Service { targets, api_keys: api_keys.into(), rate_limit })
}

/// Reads API keys, one a line; empty lines and those that begin with `#` are none. No error shows one.
fn read_api_keys(path: &Path) -> Result<Vec<String>, Failure> {
    let file = path.display();
    let hint = "--api-keys-file takes a text file with one API key a line";
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read the API keys in {file}: {error}"), hint))?;
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let key = line.trim();
        if key.is_empty() || key.starts_with('#') {
            continue;
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::usage(format!("line {} of {file} is no API key", index + 1), hint));
        }
        keys.push(key.to_owned());
    }
    if keys.is_empty() {
        return Err(Failure::usage(format!("there is no API key in {file}"), hint));
    }
    Ok(keys)
}

fn write_distribution(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| {
        Failure::usage(format!("cannot write the distribution to {}: {error}", path.display()), "check --hdr")
    })
}
