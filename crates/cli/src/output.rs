//! What commands print.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

/// Standard output, for people or as JSON. Every method fails with what writing to it fails with.
pub(crate) struct Output {
    stdout: BufWriter<Stdout>,
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

    /// A line of text.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.stdout, "{text}")
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// The word that something without an answer of its own was done: JSON has to say something, people know.
    pub(crate) fn ok(&mut self) -> io::Result<()> {
        if self.json { self.json(&serde_json::json!({ "status": "ok" })) } else { Ok(()) }
    }

    /// A stored value: its bytes and nothing else, but for a newline on a terminal.
    pub(crate) fn value(&mut self, value: &str) -> io::Result<()> {
        self.bytes(value.as_bytes())?;
        if self.is_terminal { self.stdout.write_all(b"\n") } else { Ok(()) }
    }

    /// A JSON document on a line of its own.
    pub(crate) fn json(&mut self, document: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, document)?;
        self.stdout.write_all(b"\n")
    }

    /// Part of a JSON document.
    pub(crate) fn json_part(&mut self, before: &str, part: &impl Serialize) -> io::Result<()> {
        self.stdout.write_all(before.as_bytes())?;
        Ok(serde_json::to_writer(&mut self.stdout, part)?)
    }

    /// A table: columns with two spaces between them, and no lines.
    pub(crate) fn table<const N: usize>(&mut self, header: [&str; N], rows: Vec<[String; N]>) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(&table.trim_fmt())
    }

    /// A remark for people, below what is printed so far: on standard error, and not beside JSON.
    pub(crate) fn remark(&mut self, text: &str) -> io::Result<()> {
        if !self.json {
            self.flush()?;
            // With standard error closed, nobody is there to read it.
            let _ = writeln!(io::stderr(), "{text}");
        }
        Ok(())
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
