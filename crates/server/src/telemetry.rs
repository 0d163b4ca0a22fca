//! What the node tells about itself: log events and metrics. No key, no value, no secret is in either.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal, stderr},
    panic, thread,
};

use anyhow::Context;
use consensus::env::Env;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

mod log_buffer;
mod metrics;

pub(crate) use log_buffer::LogBuffer;
pub(crate) use metrics::Metrics;

/// openraft tells what it thinks, and calls an error what is none for an operator, such as a change of the members that comes
/// while another is under way. What ends a group is told as the node's fault; the rest is for those who ask for it.
const OPENRAFT: &str = "openraft";
const OPENRAFT_LEVEL: &str = "openraft=off";

/// Which events are logged.
///
/// # Errors
/// What is wrong with the directives.
pub(crate) fn parse_filter(directives: &str) -> Result<EnvFilter, String> {
    let directives =
        if directives.contains(OPENRAFT) { directives.to_owned() } else { format!("{OPENRAFT_LEVEL},{directives}") };
    EnvFilter::builder().parse(directives).map_err(|error| format!("it holds no log directives: {error}"))
}

/// Begins to log to standard error, until the buffer is ended.
///
/// # Errors
/// When there is no thread for it.
pub(crate) fn start_logging(filter: EnvFilter, format: LogFormat, env: &dyn Env) -> anyhow::Result<LogBuffer> {
    let buffer = LogBuffer::start(env, stderr()).context("cannot start the thread of the log")?;
    let for_people = match format {
        LogFormat::Auto => stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let registry = tracing_subscriber::registry().with(filter);
    if for_people {
        registry.with(fmt::layer().with_ansi(stderr().is_terminal()).with_writer(buffer.clone())).init();
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(buffer.clone())).init();
    }
    report_panics();
    Ok(buffer)
}

/// A panic is an event of the log like any other: a bare line on standard error is lost where a machine reads the log.
fn report_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(tracing::field::display);
        let said = info.payload_as_str().unwrap_or("no text");
        // Taken only where RUST_BACKTRACE asks for it.
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
        tracing::error!(place, said, thread = thread::current().name(), backtrace, "a fault in the code");
    }));
}
