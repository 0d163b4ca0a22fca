//! `insid`, the InsiDB server: everything that knows HTTP, configuration, real time and real sockets.
//!
//! `commands` starts; `server` puts the parts together and runs them until a signal; `node` is the state and
//! its log, `service` the product's verbs over them, `http` the way in, `listen` the sockets.

use std::{io::Write, process::ExitCode};

use clap::Parser;

use crate::{
    cli::{Cli, Command},
    config::Environment,
};

mod cli;
mod commands;
mod config;
pub mod embed;
mod env;
mod files;
mod http;
mod listen;
mod node;
pub mod peer;
mod rate;
mod secret;
mod server;
mod service;
mod telemetry;

/// The program `insid`: does what its arguments ask for, and answers its exit code.
pub fn main() -> ExitCode {
    let environment = Environment::of_process();
    // On bad usage clap says what is wrong and ends the process with code 2.
    let done = match Cli::parse().command {
        Command::Dev(arguments) => commands::dev(&arguments, &environment),
        Command::Run(arguments) => commands::run(&arguments, &environment),
        Command::Init(arguments) => commands::init(&arguments),
        Command::RootKey(arguments) => commands::root_key(&arguments, &environment),
        Command::CheckConfig(arguments) => commands::check_config(&arguments, &environment),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where standard error is gone, the exit code still tells.
            drop(writeln!(std::io::stderr(), "insid: {}", failure.line()));
            ExitCode::from(failure.exit_code())
        }
    }
}
