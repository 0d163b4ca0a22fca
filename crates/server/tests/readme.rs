//! The tour of `README.md`, run as a newcomer would run it, and compared with what the page says.
//!
//! 1. Every `sh` block of the tour is a step; the `text` block behind it is what the step prints. Without one it prints
//!    nothing.
//! 2. Ports and directory are replaced by free ones, and one bash runs all steps.
//! 3. What must differ between runs is masked on both sides: ids, keys, dates, times, rates, processes. A line `…` of the page
//!    stands for any lines.
//!
//! `INSIDB_README_WRITE=1` writes what was printed into the page instead of comparing.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "the tour needs the PATH of whoever tests")]

use std::{
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The ports of the page. Those of the test lie below the range that the system hands out by itself, so that no other
/// test gets one between the look and the use. They follow one another, as the ports of several nodes do: three pairs,
/// and one more of each node for the others.
const PORTS: [&str; 11] = ["8080", "8081", "8082", "8083", "8084", "8085", "8086", "8087", "8088", "8443", "8444"];
/// The directory of the page.
const DIRECTORY: &str = "/tmp/insidb-tour";
const END_OF_STEP: &str = "<<end of step>> exit ";

/// One step: what to type, what it prints, and the lines of the page that hold the latter.
struct Step {
    script: String,
    printed: String,
    /// First line of the script in the page, from 1: for messages.
    line: usize,
    /// Where the `text` block is, fences included, as a range of lines; empty where there is none yet.
    printed_at: std::ops::Range<usize>,
}

#[test]
fn the_tour_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let page_path = root.join("README.md");
    let page = fs::read_to_string(&page_path).unwrap();
    let steps = steps(&page);
    assert!(steps.len() > 20, "the tour has {} steps only: has its heading or a fence changed?", steps.len());

    let printed = run(&steps);
    if std::env::var_os("INSIDB_README_WRITE").is_some() {
        fs::write(&page_path, rewritten(&page, &steps, &printed)).unwrap();
        return;
    }
    let mut differences = String::new();
    for (step, printed) in steps.iter().zip(&printed) {
        if !agrees(&step.printed, printed) {
            let Step { line, script, printed: said, .. } = step;
            write!(differences, "\nREADME.md:{line}:\n{script}the page says:\n{said}it printed:\n{printed}").unwrap();
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Runs the steps in one bash; answers what each printed, with the page's ports and directory.
fn run(steps: &[Step]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("tour").to_str().unwrap().to_owned();
    let ports = free_ports();
    let dev = format!("insid dev --public 127.0.0.1:{} --private 127.0.0.1:{} ", ports[0], ports[1]);
    let programs = programs();
    let mut script = String::from("trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n");
    for step in steps {
        let ported = replace_ports(&step.script, &PORTS, &ports);
        script += &ported.replace("insid dev ", &dev).replace(DIRECTORY, &directory);
        writeln!(script, "echo \"{END_OF_STEP}$?\"").unwrap();
    }
    let script_path = dir.path().join("tour.sh");
    fs::write(&script_path, script).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the tour finds its tools where the test does")]
    let search_path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-c", "exec bash \"$0\" 2>&1"])
        .arg(&script_path)
        .current_dir(dir.path())
        .env_clear()
        .env("PATH", format!("{}:{}", programs.display(), search_path))
        .env("HOME", dir.path())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap().replace(&directory, DIRECTORY);
    let text = replace_ports(&text, &ports, &PORTS);
    let mut printed = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        // What is printed without a newline at its end stands before the mark.
        let Some((before, exit)) = line.split_once(END_OF_STEP) else {
            current += line;
            current += "\n";
            continue;
        };
        if !before.is_empty() {
            current += before;
            current += "\n";
        }
        let step: &Step = &steps[printed.len()];
        assert_eq!(exit, "0", "README.md:{}: the step failed:\n{}{current}", step.line, step.script);
        printed.push(std::mem::take(&mut current));
    }
    assert_eq!(printed.len(), steps.len(), "bash ended early: {current}");
    printed
}

/// The directory that holds both programs.
fn programs() -> PathBuf {
    let directory = Path::new(env!("CARGO_BIN_EXE_insid")).parent().unwrap();
    let insic = directory.join("insic");
    assert!(
        insic.exists(),
        "{} is not there: build it first with `cargo build --bins`, or test the whole workspace",
        insic.display()
    );
    directory.to_owned()
}

/// The steps of the section "A tour".
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_tour = false;
    let mut fence: Option<&str> = None;
    for (number, line) in page.lines().enumerate() {
        match (fence, line.strip_prefix("```")) {
            (None, None) if line.starts_with("## ") => in_tour = line == "## A tour",
            (None, Some(kind)) => {
                fence = Some(kind);
                if in_tour && kind == "sh" {
                    let (script, printed) = (String::new(), String::new());
                    steps.push(Step { script, printed, line: number + 2, printed_at: 0..0 });
                } else if in_tour && kind == "text" {
                    steps.last_mut().unwrap().printed_at.start = number;
                }
            }
            (Some(kind), Some(_)) => {
                fence = None;
                match kind {
                    "sh" if in_tour => steps.last_mut().unwrap().printed_at = number + 1..number + 1,
                    "text" if in_tour => steps.last_mut().unwrap().printed_at.end = number + 1,
                    _ => {}
                }
            }
            (Some("sh"), None) if in_tour => push_line(&mut steps.last_mut().unwrap().script, line),
            (Some("text"), None) if in_tour => push_line(&mut steps.last_mut().unwrap().printed, line),
            _ => {}
        }
    }
    steps
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// The page with what was printed in place of what it says, where the two differ.
fn rewritten(page: &str, steps: &[Step], printed: &[String]) -> String {
    let lines: Vec<&str> = page.lines().collect();
    let mut new = String::new();
    let mut done = 0;
    for (step, printed) in steps.iter().zip(printed) {
        if agrees(&step.printed, printed) {
            continue;
        }
        for line in &lines[done..step.printed_at.start] {
            push_line(&mut new, line);
        }
        done = step.printed_at.end;
        if !printed.is_empty() {
            let gap = if step.printed_at.is_empty() { "\n" } else { "" };
            write!(new, "{gap}```text\n{printed}```\n").unwrap();
        }
    }
    for line in &lines[done..] {
        push_line(&mut new, line);
    }
    new
}

/// Whether the page and the run say the same, but for what is masked and what `…` leaves out.
fn agrees(page: &str, run: &str) -> bool {
    let (page, run): (Vec<_>, Vec<_>) = (page.lines().map(masked).collect(), run.lines().map(masked).collect());
    lines_agree(&page, &run)
}

fn lines_agree(page: &[String], run: &[String]) -> bool {
    match page.split_first() {
        None => run.is_empty(),
        Some((first, rest)) if first == "…" => (0..=run.len()).any(|skipped| lines_agree(rest, &run[skipped..])),
        Some((first, rest)) => {
            run.split_first().is_some_and(|(line, others)| line == first && lines_agree(rest, others))
        }
    }
}

/// A line without what differs from run to run, and without its padding.
fn masked(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    if line.starts_with("date: ") {
        return "date: *".to_owned();
    }
    let is_timed = ["uptime", "op_vs", ", up ", "  pid ", "-USR1"].iter().any(|word| line.contains(word));
    let mut masked = String::new();
    for word in line.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))) {
        let token = word.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
        let separator = &word[token.len()..];
        masked +=
            if differs(token) || (is_timed && token.starts_with(|c: char| c.is_ascii_digit())) { "*" } else { token };
        if !(separator == " " && masked.ends_with(' ')) {
            masked += separator;
        }
    }
    masked
}

/// API keys, UUIDs, and ids of nodes and requests.
fn differs(token: &str) -> bool {
    let is_hex = token.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    token.starts_with("insi_") || (is_hex && matches!(token.len(), 16 | 36))
}

fn free_ports() -> Vec<String> {
    let count = u32::try_from(PORTS.len()).unwrap();
    let begin = 20_000 + std::process::id() % 10_000;
    let is_free = |port: u32| TcpListener::bind(format!("127.0.0.1:{port}")).is_ok();
    let first = (begin..32_000).find(|first| (*first..first + count).all(is_free));
    let first = first.unwrap_or_else(|| panic!("not enough free ports from {begin} on"));
    (first..first + count).map(|port| port.to_string()).collect()
}

/// The text with the ports `from` replaced by the ports `to`.
fn replace_ports<From: AsRef<str>, To: AsRef<str>>(text: &str, from: &[From], to: &[To]) -> String {
    let ports = from.iter().zip(to).map(|(from, to)| (format!(":{}", from.as_ref()), format!(":{}", to.as_ref())));
    ports.fold(text.to_owned(), |text, (from, to)| text.replace(&from, &to))
}
