//! Exit codes, messages and hints.

use crate::binary::Insic;
use crate::scripted::{Reply, Server, nowhere};

#[test]
fn exit_codes_of_refusals() {
    for (status, code, exit) in [
        (400, "value_too_large", 2),
        (400, "invalid_parameter", 2),
        (404, "route_not_found", 2),
        (400, "disk_quota_exceeded", 3),
        (401, "unauthorized", 3),
        (403, "forbidden", 3),
        (403, "address_forbidden", 3),
        (429, "rate_limited", 3),
        (500, "internal", 4),
        (503, "outcome_unknown", 4),
    ] {
        let server = Server::start([Reply::problem(status, code)]);
        let run = Insic::of(&server).run(&["set", "k", "v"]);
        run.is(exit, "").says(&format!("detail of {code}"));
        assert!(run.stderr.starts_with("error: "), "{run:?}");
    }
}

#[test]
fn a_refusal_says_what_to_do_next() {
    let quota = Reply::problem(400, "memory_quota_exceeded")
        .with("x-current-memory-usage", 90)
        .with("x-memory-usage-limit", 100);
    let server = Server::start([quota, Reply::problem(429, "rate_limited").with("retry-after", 2)]);
    let insic = Insic::of(&server);
    insic.run(&["cache", "set", "k", "v"]).is(3, "").says(
        "error: detail of memory_quota_exceeded (90 of 100 bytes in use)\n\
         hint: delete what is not needed, or have the limit raised: `insic limits set`\n",
    );
    insic.run(&["get", "k"]).is(3, "").says("hint: try again in 2 s\n");
}

#[test]
fn a_rate_limit_of_0_is_not_waited_for() {
    let refusal = Reply::problem(429, "rate_limited")
        .with("retry-after", 60)
        .with("x-ratelimit-limit", 0)
        .with("x-ratelimit-burst", 0);
    let server = Server::start([refusal.clone(), refusal]);
    let insic = Insic::of(&server);
    let run = insic.run(&["get", "k"]);
    run.is(3, "").says("hint: the key's rate limit is 0").says("`insic limits set --rate-per-second N UUID`\n");
    assert!(!run.stderr.contains("try again"), "{run:?}");
    let json = insic.run(&["--json", "get", "k"]);
    json.is(3, "").says("the key's rate limit is 0");
    assert!(!json.stderr.contains("retry_after_seconds"), "{json:?}");
}

#[test]
fn what_a_node_says_does_not_act_on_the_terminal() {
    let body =
        r#"{"type":"about:blank","title":"T","status":400,"detail":"d\u001b[2J\u009b\nhint: x","code":"key_empty"}"#;
    let server = Server::start(vec![Reply::json(400, body); 2]);
    let insic = Insic::of(&server);
    assert_eq!(insic.run(&["get", "k"]).is(2, "").stderr, "error: d\\u{1b}[2J\\u{9b}\\nhint: x\n");
    insic.run(&["--json", "get", "k"]).is(2, "").says(r#"{"error":{"message":"d\u001b[2J\u009b\nhint: x","#);
}

#[test]
fn nobody_there_and_no_answer_exit_4() {
    let insic = Insic::bare().with("INSIDB_URL", nowhere()).with("INSIDB_API_KEY", "insi_env");
    insic.run(&["get", "k"]).is(4, "").says("error: cannot reach http://127.0.0.1:").says("hint: is a node running");

    let server = Server::start([Reply::HangUp]);
    Insic::of(&server)
        .run(&["set", "k", "v"])
        .is(4, "")
        .says("error: the outcome is unknown: ")
        .says("hint: the write may or may not have been done");
}

#[test]
fn failures_as_json() {
    let server = Server::start([Reply::problem(429, "rate_limited").with("retry-after", 2)]);
    let insic = Insic::of(&server);
    insic.run(&["--json", "get", "k"]).is(3, "").says(
        "{\"error\":{\"message\":\"detail of rate_limited\",\"hint\":\"try again in 2 s\",\"code\":\"rate_limited\",\
         \"status\":429,\"retry_after_seconds\":2,\"exit\":3}}\n",
    );
    let usage = insic.run(&["get", "--json"]);
    assert_eq!(usage.exit, 2);
    let report: serde_json::Value = serde_json::from_str(&usage.stderr).unwrap();
    assert_eq!(report["error"]["exit"], 2);
}

#[test]
fn a_key_is_never_printed_back() {
    let server = Server::start([Reply::problem(401, "unauthorized"), Reply::problem(404, "api_key_not_found")]);
    let insic = Insic::of(&server);
    let root = format!("{}==", "s".repeat(86));
    let wrong: [&[&str]; 11] = [
        &["--key", "insi_secret", "get", "k"],
        &["keys", "delete", "insi_secret"],
        &["--key", "insi_\u{1}secret", "get", "k"],
        &["login", "insi_secret"],
        &["insi_secret"],
        &["keys", "show", "u", "insi_secret"],
        &["--json", "login", "insi_secret"],
        &["login", &root],
        &["ls", "--limit=insi_secret"],
        &["ls", &format!("--limit={root}")],
        &["--url", "http://insi_secret@localhost", "get", "k"],
    ];
    for arguments in wrong {
        let run = insic.run(arguments);
        assert_ne!(run.exit, 0, "{arguments:?}");
        assert!(!run.stderr.is_empty());
        for text in [&run.stdout, &run.stderr] {
            assert!(!text.contains("secret") && !text.contains(&root), "{arguments:?}: {text}");
        }
    }
}

#[test]
fn help_and_completions() {
    let insic = Insic::bare();
    let help = insic.run(&["--help"]);
    assert_eq!((help.exit, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("Exit codes:"));
    assert!(!insic.with("INSIDB_API_KEY", "insi_secret").run(&["--help"]).stdout.contains("insi_secret"));
    for shell in ["bash", "zsh", "fish"] {
        let script = Insic::bare().run(&["completions", shell]);
        assert_eq!(script.exit, 0);
        assert!(script.stdout.contains("setnx"), "{shell}");
    }
    Insic::bare().run(&["completions", "tcsh"]).is(2, "");
    assert_eq!(Insic::bare().run(&[]).exit, 2);
}
