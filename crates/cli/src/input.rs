//! Arguments that are `-`, and are read from standard input instead.

use std::io::{self, Read};

use crate::failure::Failure;

/// Standard input, which gives one argument at most.
#[derive(Default)]
pub(crate) struct Stdin {
    is_taken: bool,
}

impl Stdin {
    /// A value: byte for byte, a newline at its end included.
    pub(crate) fn value(&mut self, argument: String) -> Result<String, Failure> {
        if argument == "-" { self.read() } else { Ok(argument) }
    }

    /// An API key or alias: white space around it is none of it.
    pub(crate) fn secret(&mut self, argument: String) -> Result<String, Failure> {
        let text = if argument == "-" { self.read()? } else { argument };
        let secret = text.trim();
        if secret.is_empty() {
            return Err(Failure::usage("an API key is given, but empty", "put it into --key, or pipe it to `--key -`"));
        }
        Ok(secret.to_owned())
    }

    fn read(&mut self) -> Result<String, Failure> {
        if std::mem::replace(&mut self.is_taken, true) {
            return Err(Failure::usage("two arguments are `-`", "standard input gives one: write the other out"));
        }
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map_err(|error| {
            Failure::usage(format!("cannot read standard input: {error}"), "`-` takes what is piped in")
        })?;
        String::from_utf8(bytes)
            .map_err(|_| Failure::usage("what standard input gives is no UTF-8 text", "encode it, as base64 does"))
    }
}
