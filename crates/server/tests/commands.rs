//! The command line: exit codes, the one plain line, and a production node with TLS from `init` to its first answer.

#![allow(clippy::unwrap_used)]

mod harness;

use std::process::{Child, Command, Output, Stdio};

use harness::{https, wait_for};

fn insid(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_insid"));
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn output(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = insid(arguments).envs(environment.iter().copied()).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_configuration_is_checked_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("insid.toml");
    let shown = path.to_str().unwrap();

    std::fs::write(&path, "scans_max = 7\n").unwrap();
    let environment = [("INSIDB_CONNECTIONS_MAX", "9"), ("INSIDB_INSTANCE_SECRET", "hush")];
    let (code, said, _) = output(&["check-config", shown], &environment);
    assert_eq!(code, Some(0));
    for line in ["scans_max = 7", "connections_max = 9", "max_value_size = 1048576"] {
        assert!(said.lines().any(|found| found == line), "{line} in {said}");
    }
    assert!(!said.contains("hush"));

    std::fs::write(&path, "\nscan_max = 7\n").unwrap();
    for command in [vec!["check-config", shown], vec!["run", "--config", shown]] {
        let (code, _, said) = output(&command, &[]);
        let expected = format!("insid: {shown}:2: there is no setting `scan_max`; the nearest is `scans_max`\n");
        assert_eq!((code, said), (Some(2), expected));
    }
    std::fs::write(&path, "").unwrap();
    let (code, _, said) = output(&["run", "--config", shown], &[]);
    assert_eq!(code, Some(2));
    assert!(said.starts_with("insid: there is no instance secret: set `instance_secret_file`"), "{said}");
    assert_eq!(output(&["run", "--config", "/nowhere/insid.toml"], &[]).0, Some(2));
    assert_eq!(output(&["walk"], &[]).0, Some(2));
}

#[test]
fn the_root_key_is_printed_from_file_or_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("insid.toml");
    let shown = path.to_str().unwrap();
    std::fs::write(dir.path().join("secret"), "my-secret\n").unwrap();
    std::fs::write(&path, format!("instance_secret_file = \"{}/secret\"\n", dir.path().display())).unwrap();
    // printf %s my-secret | sha256sum | cut -c1-64 | tr -d '\n' | base64 -w0
    let expected =
        "MTg2ZWY3NmU5ZDZhNzIzZWNiNTcwZDRkOWMyODc0ODdkMDAxZTVkMzVmN2VkNGEzMTMzNTBhNDA3OTUwMzE4ZQ==\n".to_owned();
    let command = ["root-key", "--config", shown];
    assert_eq!(output(&command, &[]), (Some(0), expected, String::new()));
    let (code, other, _) = output(&command, &[("INSIDB_INSTANCE_SECRET", "another")]);
    assert_eq!((code, other.len()), (Some(0), 89));
    assert_ne!(output(&command, &[]).1, other);
    std::fs::write(&path, "").unwrap();
    let (code, said, _) = output(&command, &[]);
    assert_eq!((code, said.as_str()), (Some(2), ""));
}

#[test]
fn a_taken_address_ends_with_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let (code, _, said) = output(&["dev", "--data-dir", dir.path().to_str().unwrap(), "--public", &address], &[]);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    let how = format!("insid: cannot listen on {address} (`public_address`; `insid dev` takes --public): ");
    assert!(said.starts_with(&how), "{said}");
}

/// Ends the child with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn init_makes_what_run_needs_and_tls_serves() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("node");
    let init = [
        "init",
        "--data-dir",
        data_dir.to_str().unwrap(),
        "--public",
        "127.0.0.1:0",
        "--private",
        "127.0.0.1:0",
        "--certificate-for",
        "localhost",
    ];
    let (code, said, errors) = output(&init, &[]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("insid run --config"), "{said}");
    let (code, _, said) = output(&init, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("nothing was changed"), "{said}");

    let config = data_dir.join("insid.toml");
    let child = insid(&["run", "--config", config.to_str().unwrap(), "--log-level", "error"]);
    let mut running = Running({ child }.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap());
    let addresses = wait_for("addresses.json", || {
        assert_eq!(running.0.try_wait().unwrap(), None, "insid ended at its start");
        let json = std::fs::read(data_dir.join("addresses.json")).ok()?;
        serde_json::from_slice::<serde_json::Value>(&json).ok()
    });
    for listener in ["public", "private"] {
        let answer = https(addresses[listener].as_str().unwrap().parse().unwrap(), &data_dir.join("tls.crt"));
        assert!(answer.starts_with("HTTP/1.1 401 ") || answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
}
