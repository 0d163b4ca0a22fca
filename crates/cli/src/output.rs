//! What commands print.
//!
//! 1. Text for people is escaped, so that no key or name acts on a terminal or forges a line (`escape`).
//! 2. `get` and `ls` escape on a terminal only: a script gets the bytes as they are.
//! 3. Standard output is handed over before anything is said on standard error, and each in one piece, so that the two
//!    stand in order where both end up in one place.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::escape;

/// Standard output, for people or as JSON. Every method fails with what writing to it fails with.
pub(crate) struct Output<W: Write = Stdout> {
    stdout: BufWriter<W>,
    /// Whether JSON was asked for.
    pub(crate) json: bool,
    is_terminal: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self { stdout: BufWriter::new(stdout), json, is_terminal }
    }
}

impl<W: Write> Output<W> {
    /// One line of text, whatever is in it.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.stdout, "{}", escape::controls(text, &[]))
    }

    /// A stored key, on a line of its own.
    pub(crate) fn key(&mut self, key: &str) -> io::Result<()> {
        if self.is_terminal { self.line(key) } else { writeln!(self.stdout, "{key}") }
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// The word that something without an answer of its own was done: JSON has to say something, people know.
    pub(crate) fn ok(&mut self) -> io::Result<()> {
        if self.json { self.json(&serde_json::json!({ "status": "ok" })) } else { Ok(()) }
    }

    /// A stored value: its bytes and nothing else. On a terminal its lines and tabs, and a newline.
    pub(crate) fn value(&mut self, value: &str) -> io::Result<()> {
        if self.is_terminal {
            writeln!(self.stdout, "{}", escape::controls(value, &['\n', '\t']))
        } else {
            self.bytes(value.as_bytes())
        }
    }

    /// A JSON document on a line of its own.
    pub(crate) fn json(&mut self, document: &impl Serialize) -> io::Result<()> {
        self.json_part("", document)?;
        self.stdout.write_all(b"\n")
    }

    /// Part of a JSON document.
    pub(crate) fn json_part(&mut self, before: &str, part: &impl Serialize) -> io::Result<()> {
        self.stdout.write_all(before.as_bytes())?;
        self.stdout.write_all(escape::json(part)?.as_bytes())
    }

    /// A table: columns with two spaces between them, and no lines.
    pub(crate) fn table<const N: usize>(&mut self, header: [&str; N], rows: Vec<[String; N]>) -> io::Result<()> {
        let rows = rows.iter().map(|row| row.each_ref().map(|cell| escape::controls(cell, &[]).into_owned()));
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        writeln!(self.stdout, "{}", table.trim_fmt())
    }

    /// A remark for people, below what is printed so far: on standard error, and not beside JSON.
    pub(crate) fn remark(&mut self, text: &str) -> io::Result<()> {
        if !self.json {
            self.flush()?;
            say(&escape::controls(text, &[]));
        }
        Ok(())
    }

    /// What programs must not miss either: on standard error, and beside JSON as JSON.
    pub(crate) fn notice(&mut self, text: &str) -> io::Result<()> {
        if self.json {
            self.flush()?;
            say(&escape::json(&Notice { notice: text })?);
            Ok(())
        } else {
            self.remark(text)
        }
    }

    /// A remark that only makes sense to somebody who reads along.
    pub(crate) fn terminal_remark(&mut self, text: &str) -> io::Result<()> {
        if self.is_terminal { self.remark(text) } else { Ok(()) }
    }

    /// Hands everything over. What is left unflushed when the program ends is lost without a word.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// A notice, as `--json` says it.
#[derive(Serialize)]
struct Notice<'a> {
    notice: &'a str,
}

/// Says `text` on standard error, in one piece: it is not buffered, and what is written bit by bit mixes with what other
/// programs write there.
pub(crate) fn say(text: &str) {
    // With standard error closed, nobody is there to read it, and the exit code is all that is left.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HOSTILE: &str = "a\x1b[2J\u{9b}31m\tb\nroot";

    /// What `print` prints.
    fn printed(is_terminal: bool, print: impl FnOnce(&mut Output<Vec<u8>>) -> io::Result<()>) -> String {
        let mut out = Output { stdout: BufWriter::new(Vec::new()), json: false, is_terminal };
        print(&mut out).unwrap();
        String::from_utf8(out.stdout.into_inner().unwrap()).unwrap()
    }

    #[test]
    fn keys_and_values_are_escaped_on_a_terminal_alone() {
        assert_eq!(printed(true, |out| out.key(HOSTILE)), "a\\u{1b}[2J\\u{9b}31m\\tb\\nroot\n");
        assert_eq!(printed(true, |out| out.value(HOSTILE)), "a\\u{1b}[2J\\u{9b}31m\tb\nroot\n");
        assert_eq!(printed(false, |out| out.key(HOSTILE)), format!("{HOSTILE}\n"));
        assert_eq!(printed(false, |out| out.value(HOSTILE)), HOSTILE);
    }

    #[test]
    fn lines_and_tables_are_always_escaped() {
        for is_terminal in [true, false] {
            let shown = "a\\u{1b}[2J\\u{9b}31m\\tb\\nroot";
            assert_eq!(printed(is_terminal, |out| out.line(HOSTILE)), format!("{shown}\n"));
            let rows = vec![[HOSTILE.to_owned(), "1".to_owned()]];
            let header = format!("{:width$}  N\n", "NAME", width = shown.len());
            assert_eq!(printed(is_terminal, |out| out.table(["NAME", "N"], rows)), format!("{header}{shown}  1\n"));
        }
    }

    #[test]
    fn json_holds_no_control_character_and_the_same_text() {
        let text = format!("{HOSTILE}\x7f é値\u{85}");
        let json = printed(true, |out| out.json(&text));
        assert_eq!(json, "\"a\\u001b[2J\\u009b31m\\tb\\nroot\\u007f é値\\u0085\"\n");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
