//! One run: what the command groups share.

use crate::args::{Args, Command};
use crate::failure::{Exit, Failure};
use crate::input::Stdin;
use crate::output::Output;
use crate::settings::Settings;
use crate::{alias, bench, cluster, completions, keys, limits, login, ping, store};

/// Where a command reads, where it prints, and how it reaches the service.
pub(crate) struct Session {
    pub(crate) settings: Settings,
    pub(crate) stdin: Stdin,
    pub(crate) out: Output,
}

/// Runs the command.
pub(crate) async fn run(args: Args) -> Result<Exit, Failure> {
    let out = Output::new(args.global.json);
    let mut session = Session { settings: Settings::new(args.global), stdin: Stdin::default(), out };
    let ended = dispatch(args.command, &mut session).await;
    // In any case, so that what is printed stands before the failure that is told next.
    let flushed = session.out.flush();
    let exit = ended?;
    flushed?;
    Ok(exit)
}

async fn dispatch(command: Command, session: &mut Session) -> Result<Exit, Failure> {
    match command {
        Command::Values(command) => store::run_values(command, session).await,
        Command::Cache(command) => store::run_cache(command, session).await,
        Command::Keys(command) => keys::run(command, session).await,
        Command::Limits(command) => limits::run(command, session).await,
        Command::Alias(command) => alias::run(command, session).await,
        Command::Cluster(command) => cluster::run(command, session).await,
        Command::Bench(command) => bench::run(*command, session).await,
        Command::Ping(command) => ping::run(command, session).await,
        Command::Login(command) => login::run(command, session).await,
        Command::Completions(command) => completions::run(command, session),
    }
}
