//! `insic`, the command line of InsiDB.
//!
//! 1. `args` parses; a mistake ends here with exit 2.
//! 2. `settings` finds URL and key: flags, then the environment, then the profile that `insic login` saved.
//! 3. One file per command group calls the SDK, and prints through `output`: for people, or as JSON. `bench` alone opens
//!    connections of its own.
//! 4. `failure` turns what went wrong into a sentence, a hint and an exit code.

mod alias;
mod args;
mod bench;
mod cluster;
mod completions;
mod escape;
mod failure;
mod input;
mod keys;
mod limits;
mod login;
mod output;
mod ping;
mod profile;
mod session;
mod settings;
mod size;
mod store;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let exit = match args::Args::take() {
        Ok(args) => {
            let json = args.global.json;
            session::run(args).await.unwrap_or_else(|failure| failure.report(json))
        }
        Err(failure) => failure.report(args::asks_for_json()),
    };
    exit.into()
}
