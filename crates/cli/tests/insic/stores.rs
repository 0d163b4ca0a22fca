//! get, set, setnx, cas, delete, bump, ls.

use std::io::{Read, Seek, SeekFrom};
use std::process::Stdio;

use crate::binary::Insic;
use crate::scripted::{Reply, Server};

fn ok() -> Reply {
    Reply::json(200, "{}").with("x-insidb-revision", 7)
}

fn data(value: &str) -> Reply {
    Reply::json(200, &format!(r#"{{"data":"{value}"}}"#)).with("x-insidb-revision", 7)
}

#[test]
fn get_prints_the_bytes_and_nothing_else() {
    let server = Server::start([data("v"), data(""), data("a\\u0000\\nb\\n"), Reply::problem(404, "key_not_found")]);
    let insic = Insic::of(&server);
    insic.run(&["get", "k"]).is(0, "v");
    insic.run(&["get", "k"]).is(0, "");
    insic.run(&["get", "k"]).is(0, "a\0\nb\n");
    insic.run(&["get", "k"]).is(1, "").says("no such key");
    assert_eq!(server.lines()[0], "GET /db/api/v1/vs?key=k");
    assert_eq!(server.requests()[0].header("authorization"), Some("Bearer insi_env"));
}

#[test]
fn get_as_json() {
    let stale = data("v").with("x-insidb-cache-generation", 3).with("x-insidb-staleness-ms", 12);
    let server = Server::start([data("v"), stale, Reply::problem(404, "key_not_found")]);
    let insic = Insic::of(&server);
    insic.run(&["--json", "get", "k"]).is(0, "{\"data\":\"v\",\"revision\":7}\n");
    insic
        .run(&["cache", "get", "--stale", "k", "--json"])
        .is(0, "{\"data\":\"v\",\"revision\":7,\"cache_generation\":3,\"staleness_ms\":12}\n");
    assert_eq!(insic.run(&["get", "k", "--json"]).is(1, "{\"data\":null}\n").stderr, "");
    assert_eq!(server.lines()[1], "GET /db/api/v1/cache?consistency=stale&key=k");
}

#[test]
fn writes_are_silent_and_conditions_exit_1() {
    let server = Server::start([
        ok(),
        ok(),
        Reply::problem(409, "key_exists"),
        ok(),
        Reply::problem(409, "value_differs"),
        ok(),
        Reply::problem(409, "value_differs").with("x-insidb-revision", 8),
        ok(),
    ]);
    let insic = Insic::of(&server);
    assert_eq!(insic.run(&["set", "k", "-5"]).is(0, "").stderr, "");
    insic.run(&["setnx", "k", "v"]).is(0, "");
    insic.run(&["setnx", "k", "v"]).is(1, "").says("the key exists");
    insic.run(&["cas", "k", "a", "b"]).is(0, "");
    insic.run(&["cas", "k", "a", "b"]).is(1, "").says("nothing was changed");
    insic.run(&["delete", "k"]).is(0, "");
    insic.run(&["--json", "cas", "k", "a", "b"]).is(1, "{\"done\":false,\"revision\":8}\n");
    insic.run(&["--json", "delete", "k"]).is(0, "{\"done\":true,\"revision\":7}\n");
    assert_eq!(server.requests()[0].body, r#"{"key":"k","value":"-5"}"#);
}

#[test]
fn the_cache_has_the_same_commands_but_bump() {
    let server = Server::start([data("v"), ok(), ok(), ok(), ok(), Reply::json(200, "[]")]);
    let insic = Insic::of(&server);
    for command in [
        vec!["get", "k"],
        vec!["set", "k", "v"],
        vec!["setnx", "k", "v"],
        vec!["cas", "k", "a", "b"],
        vec!["delete", "k"],
        vec!["ls", "k"],
    ] {
        assert_eq!(insic.run(&[vec!["cache"], command].concat()).exit, 0);
    }
    assert_eq!(
        server.lines(),
        [
            "GET /db/api/v1/cache?key=k",
            "POST /db/api/v1/cache",
            "POST /db/api/v1/cache/setnx",
            "POST /db/api/v1/cache/cas",
            "DELETE /db/api/v1/cache",
            "GET /db/api/v1/cache/iterate?prefix=k&limit=100",
        ]
    );
    insic.run(&["cache", "bump", "k"]).is(2, "").says("unrecognized subcommand 'bump'");
}

#[test]
fn bump_prints_the_sum() {
    let server = Server::start([data("15"), data("0"), data("16"), Reply::problem(400, "not_an_integer")]);
    let insic = Insic::of(&server);
    insic.run(&["bump", "k", "5"]).is(0, "15\n");
    insic.run(&["bump", "k", "-99"]).is(0, "0\n");
    insic.run(&["--json", "bump", "k"]).is(0, "{\"data\":\"16\",\"revision\":7}\n");
    insic.run(&["bump", "k"]).is(1, "").says("error: detail of not_an_integer");
    insic.run(&["bump", "k", "1.5"]).is(2, "");
    let bodies: Vec<_> = server.requests().into_iter().map(|request| request.body).collect();
    let expected = ["5", "-99", "1", "1"].map(|delta| format!(r#"{{"key":"k","value":"{delta}"}}"#));
    assert_eq!(bodies, expected);
}

#[test]
fn a_dash_reads_the_value_byte_for_byte() {
    let server = Server::start([ok(), ok()]);
    let insic = Insic::of(&server);
    insic.pipe("hé\0\n".as_bytes(), &["set", "k", "-"]).is(0, "");
    insic.pipe(b"old", &["cas", "k", "-", "new"]).is(0, "");
    assert_eq!(server.requests()[0].body, r#"{"key":"k","value":"hé\u0000\n"}"#);
    assert_eq!(server.requests()[1].body, r#"{"key":"k","old_value":"old","new_value":"new"}"#);

    insic.pipe(b"\xff", &["set", "k", "-"]).is(2, "").says("no UTF-8");
    insic.pipe(b"x", &["cas", "k", "-", "-"]).is(2, "").says("two arguments are `-`");
    insic.pipe(b"x", &["--key", "-", "set", "k", "-"]).is(2, "").says("two arguments are `-`");
    assert_eq!(server.requests().len(), 2);
}

fn page(keys: std::ops::Range<usize>) -> Reply {
    Reply::json(200, &serde_json::to_string(&keys.map(|key| format!("k{key:04}")).collect::<Vec<_>>()).unwrap())
}

#[test]
fn ls_lists_one_key_a_line_up_to_its_limit() {
    let server = Server::start([page(0..2), page(0..1000), page(1000..2000), Reply::json(200, "[]"), page(0..2)]);
    let insic = Insic::of(&server);
    insic.run(&["ls", "k", "--limit", "2", "--after", "k"]).is(0, "k0000\nk0001\n");
    let many = insic.run(&["ls", "k", "--limit", "1001"]);
    assert_eq!((many.exit, many.stdout.lines().count(), many.stdout.lines().next_back()), (0, 1001, Some("k1000")));
    insic.run(&["--json", "ls", "k"]).is(0, "[]\n");
    insic.run(&["--json", "ls"]).is(0, "[\"k0000\",\"k0001\"]\n");
    insic.run(&["ls", "--limit", "0"]).is(2, "");
    assert_eq!(
        server.lines(),
        [
            "GET /db/api/v1/vs/iterate?prefix=k&limit=2&after=k",
            "GET /db/api/v1/vs/iterate?prefix=k&limit=1000",
            "GET /db/api/v1/vs/iterate?prefix=k&limit=1000&after=k0999",
            "GET /db/api/v1/vs/iterate?prefix=k&limit=100",
            "GET /db/api/v1/vs/iterate?limit=100",
        ]
    );
}

#[test]
fn ls_says_also_to_scripts_that_it_left_off_by_itself() {
    let server = Server::start([page(0..100), page(0..100), page(0..99), page(0..100)]);
    let insic = Insic::of(&server);
    let cut = insic.run(&["ls", "k"]);
    assert_eq!((cut.exit, cut.stdout.lines().count()), (0, 100));
    cut.says("there may be more");
    let cut = insic.run(&["--json", "ls", "k"]);
    assert_eq!(serde_json::from_str::<Vec<String>>(&cut.stdout).unwrap().len(), 100);
    let notice: serde_json::Value = serde_json::from_str(&cut.stderr).unwrap();
    assert!(notice["notice"].as_str().unwrap().contains("there may be more"), "{notice}");
    for arguments in [&["ls", "k"][..], &["ls", "k", "--limit", "100"]] {
        assert_eq!(insic.run(arguments).stderr, "", "{arguments:?}");
    }
}

#[test]
fn ls_gives_scripts_the_bytes_as_they_are() {
    let server = Server::start([Reply::json(200, r#"["a\u001b[2J","b\tc"]"#)]);
    Insic::of(&server).run(&["ls", "k"]).is(0, "a\u{1b}[2J\nb\tc\n");
}

#[test]
fn what_was_listed_stands_before_the_failure() {
    let server = Server::start([page(0..1000), Reply::problem(401, "unauthorized")]);
    let mut both = tempfile::tempfile().unwrap();
    let mut command = Insic::of(&server).command(&["--json", "ls", "k", "--all"]);
    let status = command.stdout(both.try_clone().unwrap()).stderr(both.try_clone().unwrap()).status().unwrap();
    assert_eq!(status.code(), Some(3));
    let mut text = String::new();
    both.seek(SeekFrom::Start(0)).unwrap();
    both.read_to_string(&mut text).unwrap();
    let (keys, failure) = text.split_once('{').unwrap();
    assert!(keys.starts_with("[\"k0000\",") && keys.ends_with("\"k0999\""), "{keys}");
    assert!(failure.starts_with("\"error\":"), "{failure}");
}

#[test]
fn ls_all_goes_on_to_the_end() {
    let server = Server::start([page(0..1000), page(1000..1001)]);
    let all = Insic::of(&server).run(&["ls", "k", "--all"]);
    assert_eq!((all.exit, all.stdout.lines().count()), (0, 1001));
    Insic::of(&server).run(&["ls", "k", "--all", "--limit", "5"]).is(2, "").says("cannot be used with");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let keys = vec!["k".repeat(1000); 1000];
    let server = Server::start(vec![Reply::json(200, &serde_json::to_string(&keys).unwrap()); 2]);
    let mut child = Insic::of(&server).command(&["ls", "k", "--limit", "2000"]).spawn().unwrap();
    // One byte, then the pipe is closed with far more than its buffer still to come.
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn output_that_cannot_be_written_is_told() {
    let server = Server::start([data("v")]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Insic::of(&server).command(&["get", "k"]).stdout(Stdio::from(full)).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: cannot write to standard output: "));
}
