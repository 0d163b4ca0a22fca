//! Running `insic`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::scripted::Server;

/// A user's surroundings: a home of their own, and nothing in the environment.
pub(crate) struct Insic {
    pub(crate) home: TempDir,
    environment: Vec<(&'static str, String)>,
}

/// What a run left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Insic {
    /// Without URL and key.
    pub(crate) fn bare() -> Self {
        Self { home: TempDir::new().unwrap(), environment: Vec::new() }
    }

    /// With both listeners of `server` and the key `insi_env` in the environment.
    pub(crate) fn of(server: &Server) -> Self {
        Self::bare()
            .with("INSIDB_URL", server.url())
            .with("INSIDB_ADMIN_URL", server.url())
            .with("INSIDB_API_KEY", "insi_env")
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// The program, ready to be started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_insic"));
        command.env_clear().env("XDG_CONFIG_HOME", self.home.path()).envs(self.environment.iter().cloned());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).output().unwrap())
    }

    /// Runs with `input` piped in.
    pub(crate) fn pipe(&self, input: &[u8], arguments: &[&str]) -> Run {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        // A program that does not read may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input);
        Run::of(child.wait_with_output().unwrap())
    }

    pub(crate) fn profiles(&self) -> PathBuf {
        self.home.path().join("insidb/profiles.toml")
    }
}

impl Run {
    fn of(output: std::process::Output) -> Self {
        Self {
            exit: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asserts exit code and standard output.
    #[track_caller]
    pub(crate) fn is(&self, exit: i32, stdout: &str) -> &Self {
        assert_eq!((self.exit, self.stdout.as_str()), (exit, stdout), "{self:?}");
        self
    }

    /// Asserts that standard error holds `text`.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "{self:?}");
        self
    }
}
