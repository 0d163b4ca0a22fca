//! The deliberate bugs of `mutations/`: each still applies, says what finds it, and is listed in `docs/testing.md`.
//! That they are found is what `just mutations` shows; it takes too long for each change.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

fn patches() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("mutations")).unwrap().map(|file| file.unwrap().path());
    let mut patches: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "patch")).collect();
    patches.sort();
    patches
}

fn name(patch: &Path) -> String {
    patch.file_stem().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn every_patch_applies() {
    for patch in patches() {
        // As outside of a repository, so that paths are those below the present directory, wherever that lies.
        let mut git = Command::new("git");
        git.args(["apply", "--check"]).arg(&patch).current_dir(root()).env("GIT_DIR", "/nonexistent");
        let output = git.output().unwrap();
        assert!(output.status.success(), "{}: {}", name(&patch), String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_header_says_what_the_runner_needs() {
    for patch in patches() {
        let text = fs::read_to_string(&patch).unwrap();
        let (header, diff) = text.split_once("diff --git ").unwrap();
        let mut lines = header.lines().filter(|line| !line.is_empty());
        for field in ["Bug: ", "Caught by: ", "Command: ", "Output: "] {
            let line = lines.next().unwrap_or_default();
            let is_said = line.strip_prefix(field).is_some_and(|value| !value.trim().is_empty());
            assert!(is_said, "{}: {field:?} is not in {line:?}", name(&patch));
        }
        assert_eq!(lines.next(), None, "{}", name(&patch));
        let touched = diff.lines().filter_map(|line| line.strip_prefix("+++ b/"));
        for file in touched {
            // A bug in a test would prove nothing.
            assert!(file.starts_with("crates/") && file.contains("/src/"), "{}: {file}", name(&patch));
        }
    }
}

#[test]
fn the_documentation_lists_just_these() {
    let docs = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let (_, section) = docs.split_once("\n## Mutation checks\n").expect("a section on them");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let cell = |row: &str| Some(row.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let listed: Vec<String> = section.lines().filter_map(cell).collect();
    let names: Vec<String> = patches().iter().map(|patch| name(patch)).collect();
    assert_eq!(listed, names);
    assert!(names.len() >= 12, "these are few: {names:?}");
}
