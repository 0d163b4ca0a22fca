//! `insic completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::{Exit, Failure};
use crate::session::Session;

#[derive(Args)]
pub(crate) struct Command {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(command: Command, session: &mut Session) -> Result<Exit, Failure> {
    // Into memory first: the generator panics when its output breaks.
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut crate::args::Args::command(), "insic", &mut script);
    session.out.bytes(&script)?;
    Ok(Exit::Done)
}
