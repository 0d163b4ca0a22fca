//! The load generator, against a server that keeps what it is given.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binary::{Insic, Run};
use crate::keeper::{Fault, Keeper};
use crate::scripted::{Reply, nowhere};
use crate::scripted_tls;

fn insic(keeper: &Keeper) -> Insic {
    Insic::bare().with("INSIDB_URL", keeper.url()).with("INSIDB_API_KEY", "insi_env")
}

/// Runs `insic --json bench` with these arguments.
fn bench(keeper: &Keeper, arguments: &str) -> (Run, Value) {
    let words: Vec<_> = ["--json", "bench"].into_iter().chain(arguments.split_whitespace()).collect();
    let run = insic(keeper).run(&words);
    let report = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    (run, report)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Every request is accounted for once.
#[track_caller]
fn assert_adds_up(report: &Value) {
    let requests = &report["requests"];
    let answered: u64 = ["served", "refused", "failed", "unanswered"].iter().map(|kind| number(&requests[*kind])).sum();
    assert_eq!(number(&requests["sent"]), answered, "{report}");
    let served: u64 = report["operations"].as_array().unwrap().iter().map(|of| number(&of["served"])).sum();
    assert_eq!(number(&requests["served"]), served, "{report}");
    let latency = &report["latency_us"];
    let rising: Vec<_> = ["min", "p50", "p90", "p99", "p99_9", "max"].iter().map(|of| number(&latency[*of])).collect();
    assert!(rising.is_sorted(), "{latency}");
}

#[test]
fn the_server_has_done_as_many_requests_as_were_asked_for() {
    for arguments in ["", "--pipeline 5", "--threads 3", "--rate 20000", "--rate 20000 --threads 2 --pipeline 4"] {
        let keeper = Keeper::start();
        let (run, report) = bench(&keeper, &format!("--op bump --requests 1003 --connections 7 --keys 11 {arguments}"));
        assert_eq!((run.exit, run.stderr.as_str()), (0, ""), "{arguments}");
        assert_adds_up(&report);
        assert_eq!(number(&report["requests"]["served"]), 1_003);
        assert_eq!(number(&report["operations"][0]["served"]), 1_003);
        assert!(number(&report["latency_us"]["max"]) > 0 && report["rate"].as_f64().unwrap() > 0.0);
        assert_eq!(number(&report["connections"]["opened"]), 7);
        let stored = keeper.stored();
        assert_eq!(stored.values().map(|count| count.parse::<u64>().unwrap()).sum::<u64>(), 1_003, "{arguments}");
        assert_eq!(stored.len(), 11);
        assert!(stored.keys().all(|(_, key)| key.len() == 20 && key.starts_with("bench:")));
    }
}

#[test]
fn reads_find_the_keys_that_were_set_before_and_come_by_their_share() {
    let keeper = Keeper::start();
    let (run, report) = bench(&keeper, "--reads 80 --requests 2000 --keys 300 --connections 4 --value-size 1KiB");
    assert_eq!(run.exit, 0, "{run:?}");
    assert_adds_up(&report);
    assert_eq!(number(&report["requests"]["negative"]), 0);
    let reads = keeper.count("GET /db/api/v1/vs?key=bench/");
    assert!(reads.abs_diff(1_600) < 120, "{reads}");
    assert_eq!(keeper.count("POST /db/api/v1/vs "), 300 + 2_000 - reads);
    assert_eq!(number(&report["operations"][0]["served"]), reads as u64);
    let stored = keeper.stored();
    assert_eq!(stored.len(), 300);
    assert!(stored.values().all(|value| value.len() == 1_024));
    assert!(number(&report["bytes_received"]) > 1_024 * reads as u64);
}

#[test]
fn operations_ask_what_they_are_named_after() {
    let keeper = Keeper::start();
    let mix = "--op get:2,set,setnx,cas,delete,iterate --requests 1400 --keys 20 --store cache --connections 2";
    let (run, report) = bench(&keeper, &format!("{mix} --consistency stale --limit 7 --offset 3"));
    assert_eq!(run.exit, 0, "{run:?}");
    assert_adds_up(&report);
    assert_eq!(number(&report["requests"]["failed"]), 0, "{report}");
    for (line, expected) in [
        ("GET /db/api/v1/cache?key=bench/", 400),
        ("POST /db/api/v1/cache HTTP", 220),
        ("POST /db/api/v1/cache/setnx ", 200),
        ("POST /db/api/v1/cache/cas ", 200),
        ("DELETE /db/api/v1/cache?key=bench/", 200),
        ("GET /db/api/v1/cache/iterate?prefix=bench/&offset=3&limit=7&consistency=stale ", 200),
    ] {
        assert!(keeper.count(line).abs_diff(expected) < 90, "{line}: {}", keeper.count(line));
    }
    assert!(
        keeper.count("GET /db/api/v1/cache?key=")
            == keeper
                .asked()
                .iter()
                .filter(|asked| {
                    asked.line.starts_with("GET /db/api/v1/cache?") && asked.line.contains("&consistency=stale ")
                })
                .count()
    );
}

#[test]
fn an_absent_key_is_an_answer_like_any_other() {
    let keeper = Keeper::start();
    let (run, report) = bench(&keeper, "--op get --no-fill --requests 50 --connections 2");
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!((number(&report["requests"]["served"]), number(&report["requests"]["negative"])), (50, 50));
    assert_eq!(keeper.asked().len(), 50);
}

#[test]
fn a_seed_repeats_the_requests() {
    let keys = |seed: &str| {
        let keeper = Keeper::start();
        bench(&keeper, &format!("--op set --requests 200 --connections 1 --distribution zipf --seed {seed}"));
        keeper.asked().into_iter().map(|asked| asked.key).collect::<Vec<_>>()
    };
    assert_eq!(keys("5"), keys("5"));
    assert_ne!(keys("5"), keys("6"));
}

#[test]
fn refusals_are_counted_by_their_codes_and_are_in_no_latency() {
    let keeper = Keeper::faulty(Some(25), |number, _| match number {
        0..40 => Fault::None,
        _ if number % 2 == 0 => Fault::Refuse(429, "rate_limited"),
        _ => Fault::Refuse(503, "no_leader"),
    });
    let (run, report) = bench(&keeper, "--op set --requests 100 --connections 3");
    assert_eq!(run.exit, 0, "{run:?}");
    assert_adds_up(&report);
    let requests = &report["requests"];
    assert_eq!((number(&requests["served"]), number(&requests["refused"]), number(&requests["failed"])), (40, 60, 0));
    assert_eq!(
        report["errors"],
        serde_json::json!([
            {"status": 429, "code": "rate_limited", "count": 30},
            {"status": 503, "code": "no_leader", "count": 30},
        ])
    );
    let notes = report["notes"].to_string();
    assert!(notes.contains("25 a second") && notes.contains("insic limits set --rate-per-second N UUID"), "{notes}");
}

#[test]
fn a_run_in_which_nothing_is_served_fails() {
    let keeper = Keeper::faulty(Some(0), |_, _| Fault::Refuse(429, "rate_limited"));
    insic(&keeper)
        .run(&["bench"])
        .is(3, "")
        .says("its rate limit is 0")
        .says("insic limits set --rate-per-second N UUID");
    assert_eq!(keeper.asked().len(), 0);
    let run = insic(&keeper).run(&["bench", "--op", "set", "--requests", "20", "--connections", "2"]);
    assert_eq!(run.exit, 3, "{run:?}");
    run.says("error: no request was served: 20 were answered with 429 rate_limited")
        .says("hint: the API key's rate limit of 0");

    let keeper = Keeper::faulty(None, |_, _| Fault::HangUp);
    let run = insic(&keeper).run(&["--json", "bench", "--op", "set", "--requests", "3", "--connections", "1"]);
    assert_eq!(run.exit, 4, "{run:?}");
    run.says("none of 3 requests was answered").says("the server closed the connection without an answer");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((number(&report["requests"]["unanswered"]), number(&report["connections"]["broken"])), (3, 3));
}

#[test]
fn a_connection_that_breaks_is_opened_anew_and_counted() {
    let keeper = Keeper::faulty(None, |number, _| if number % 10 == 9 { Fault::HangUp } else { Fault::None });
    let (run, report) = bench(&keeper, "--op bump --requests 100 --connections 1");
    assert_eq!(run.exit, 0, "{run:?}");
    assert_adds_up(&report);
    let requests = &report["requests"];
    assert_eq!((number(&requests["served"]), number(&requests["unanswered"])), (90, 10));
    assert_eq!(number(&report["connections"]["broken"]), 10);
    // The last request is one that breaks, and nothing comes behind it.
    assert_eq!(number(&report["connections"]["opened"]), 10);
}

#[test]
fn filling_repeats_what_is_refused_for_the_moment_and_what_is_lost() {
    let keeper = Keeper::faulty(None, |number, _| match number {
        3 | 5 => Fault::Refuse(503, "no_leader"),
        20 | 31 => Fault::HangUp,
        _ => Fault::None,
    });
    let (run, report) = bench(&keeper, "--op get --requests 60 --keys 50 --connections 3");
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(keeper.stored().len(), 50);
    assert_eq!(number(&report["requests"]["negative"]), 0);
}

#[test]
fn a_rate_limit_is_told_before_the_run() {
    let keeper = Keeper::faulty(Some(100), |_, _| Fault::None);
    let run = insic(&keeper).run(&["bench", "--keys", "700", "--requests", "10", "--connections", "2"]);
    assert_eq!(run.exit, 0, "{run:?}");
    run.says(
        "the API key's rate limit is 100 requests a second; setting the keys first takes 7 s, --no-fill leaves it out",
    );
    let run = insic(&keeper).run(&["bench", "--no-fill", "--requests", "10", "--connections", "2"]);
    assert_eq!(run.stderr, "note: the API key's rate limit is 100 requests a second\n");
}

#[test]
fn filling_that_is_refused_for_good_fails() {
    let keeper = Keeper::faulty(None, |_, _| Fault::Refuse(400, "disk_quota_exceeded"));
    let run = insic(&keeper).run(&["bench", "--keys", "5", "--connections", "2"]);
    assert_eq!((run.exit, run.stdout.as_str()), (3, ""), "{run:?}");
    run.says("filling came to a halt at 0 of 5 keys: it was answered with 400 disk_quota_exceeded")
        .says("insic limits set");
}

#[test]
fn requests_are_spread_over_api_keys_and_nodes() {
    let (one, two) = (Keeper::start(), Keeper::start());
    let home = Insic::bare();
    let file = home.home.path().join("keys");
    fs::write(&file, "# tenants\ninsi_a\n\n  insi_b\ninsi_c\n").unwrap();
    let urls = format!("{},{}", one.url(), two.url());
    let arguments = ["bench", "--url", &urls, "--api-keys-file", file.to_str().unwrap(), "--op", "set"];
    let run =
        home.run(&[&arguments[..], &["--requests", "600", "--connections", "4", "--fill", "--keys", "10"]].concat());
    assert_eq!(run.exit, 0, "{run:?}");
    assert!(!run.stdout.contains("insi_") && !run.stderr.contains("insi_"), "{run:?}");
    let asked = [one.asked(), two.asked()].concat();
    assert_eq!(asked.len(), 30 + 600);
    assert!(!one.asked().is_empty() && !two.asked().is_empty());
    for api_key in ["insi_a", "insi_b", "insi_c"] {
        let of_this = asked.iter().filter(|asked| asked.api_key == api_key);
        assert!(of_this.clone().count().abs_diff(210) < 70);
        assert_eq!(of_this.map(|asked| &asked.key).collect::<HashSet<_>>().len(), 10);
    }

    fs::write(&file, "insi_a\nno key at all\n").unwrap();
    home.run(&arguments).is(2, "").says("line 2 of").says("is no API key");
    fs::write(&file, "\n#\n").unwrap();
    home.run(&arguments).is(2, "").says("there is no API key in");
}

/// In the middle of a run at 1,000 requests a second, all connections wait for 400 ms: so do the 400 requests that are due
/// meanwhile. A closed loop asks nothing meanwhile, and does not see it.
#[test]
fn a_stall_is_in_the_latency_of_all_that_fell_due_in_it() {
    let p90_us = |rate: &str| {
        let keeper = Keeper::faulty(None, |number, _| {
            if number == 100 {
                #[expect(clippy::disallowed_methods, reason = "the fault itself")]
                std::thread::sleep(Duration::from_millis(400));
            }
            Fault::None
        });
        let (run, report) = bench(&keeper, &format!("--op set --requests 600 --connections 2 {rate}"));
        assert_eq!(run.exit, 0, "{run:?}");
        assert_adds_up(&report);
        assert!(number(&report["latency_us"]["max"]) >= 399_000);
        number(&report["latency_us"]["p90"])
    };
    let open = p90_us("--rate 1000");
    // The 60 requests that waited longest are at the beginning of the stall.
    assert!(open > 300_000, "{open}");
    let closed = p90_us("");
    assert!(closed < 200_000, "{closed}");
}

#[test]
fn what_was_due_and_not_sent_is_told() {
    let keeper = Keeper::faulty(None, |number, _| {
        if number == 10 {
            #[expect(clippy::disallowed_methods, reason = "the fault itself: longer than the run lasts")]
            std::thread::sleep(Duration::from_millis(600));
        }
        Fault::None
    });
    let (run, report) = bench(&keeper, "--op set --rate 1000 --duration 300ms --connections 1");
    assert_eq!(run.exit, 0, "{run:?}");
    assert_adds_up(&report);
    let requests = &report["requests"];
    assert_eq!(number(&requests["sent"]) + number(&requests["unsent"]), 300, "{report}");
    assert_eq!(number(&requests["sent"]), keeper.asked().len() as u64);
    assert!(report["notes"].to_string().contains("were due and not sent"), "{report}");
}

#[test]
fn an_open_loop_takes_the_time_that_its_rate_says() {
    let keeper = Keeper::start();
    let (_, report) = bench(&keeper, "--op set --rate 500 --requests 151 --warmup 200ms");
    assert_adds_up(&report);
    assert_eq!(number(&report["requests"]["served"]), 151);
    // Those of the warm-up are not counted.
    assert_eq!(keeper.asked().len(), 100 + 151);
    assert!(report["seconds"].as_f64().unwrap() >= 0.3, "{report}");
}

#[test]
fn ctrl_c_ends_the_run_and_shows_what_was_found() {
    for rate in [&[][..], &["--rate", "2000"]] {
        let keeper = Keeper::start();
        let arguments = [&["--json", "bench", "--op", "bump", "--duration", "1h", "--connections", "3"], rate].concat();
        let child = insic(&keeper).command(&arguments).spawn().unwrap();
        keeper.wait_for(200);
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_adds_up(&report);
        assert_eq!(report["interrupted"], true);
        assert!(number(&report["requests"]["served"]) >= 200 - 3);
        assert_eq!(number(&report["requests"]["sent"]), keeper.asked().len() as u64);
    }
}

#[test]
fn people_get_tables_and_files() {
    let keeper = Keeper::start();
    let home = insic(&keeper);
    let file = home.home.path().join("latency.hgrm");
    let arguments = "bench --op get:1,set:1 --requests 500 --keys 20 --connections 2 --series --hdr";
    let words: Vec<_> = arguments.split(' ').chain([file.to_str().unwrap()]).collect();
    let run = home.run(&words);
    assert_eq!((run.exit, run.stderr.as_str()), (0, ""), "{run:?}");
    let lines: Vec<Vec<&str>> = run.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..4], ["SERVED", "RATE/S", "MEAN", "ms"]);
    let served: BTreeMap<_, u64> = lines[1..4].iter().map(|row| (row[0], row[1].parse().unwrap())).collect();
    assert_eq!(served["get"] + served["set"], 500);
    assert_eq!(served["all"], 500);
    assert!(run.stdout.contains("\nSECOND"), "{}", run.stdout);
    assert!(run.stdout.contains("closed loop; 2 connections; 20 keys, uniform; values of 100 bytes"), "{}", run.stdout);
    let distribution = fs::read_to_string(file).unwrap();
    assert!(distribution.contains("Percentile") && distribution.contains("Total count    =          500"));
}

#[test]
fn a_series_has_all_answers_and_only_when_it_is_asked_for() {
    let keeper = Keeper::start();
    let (_, report) = bench(&keeper, "--op set --rate 300 --duration 1500ms --series");
    let series = report["series"].as_array().unwrap();
    assert!(series.len() >= 2, "{report}");
    let served: u64 = series.iter().map(|second| number(&second["served"])).sum();
    assert_eq!(served, number(&report["requests"]["served"]));
    assert_eq!(served + number(&report["requests"]["unsent"]), 450);
    assert!(series.iter().all(|second| number(&second["p50_us"]) <= number(&second["max_us"])));
    let (_, report) = bench(&keeper, "--op set --requests 5");
    assert_eq!(report["series"], Value::Null);
}

#[test]
fn over_tls_with_a_ca_of_its_own() {
    let pong = Reply::json(200, r#"{"status":"ok","entity":"demo","node":"1","leader":"1","uptime":"3s"}"#);
    let limits = Reply::json(200, r#"{"usage":{"bytes_on_disk":0,"bytes_in_memory":0},"max_limits":{}}"#);
    let sets = vec![Reply::json(200, "{}"); 40];
    let (server, pem) = scripted_tls::start([vec![pong, limits], sets].concat());
    let insic = Insic::bare().with("INSIDB_URL", server.url()).with("INSIDB_API_KEY", "insi_env");
    let ca = insic.home.path().join("ca.pem");
    fs::write(&ca, pem).unwrap();
    let arguments = ["--json", "--ca", ca.to_str().unwrap(), "bench", "--op", "set", "--requests", "40"];
    let run = insic.run(&[&arguments[..], &["--connections", "2", "--pipeline", "2"]].concat());
    assert_eq!(run.exit, 0, "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(number(&report["requests"]["served"]), 40);
    assert_eq!(server.lines()[2..], vec!["POST /db/api/v1/vs"; 40]);
}

#[test]
fn what_cannot_be_run_is_told_as_with_other_commands() {
    let bare = Insic::bare();
    bare.run(&["bench"]).is(2, "").says("no API key is set");
    let insic = Insic::bare().with("INSIDB_URL", nowhere()).with("INSIDB_API_KEY", "insi_env");
    insic.run(&["bench"]).is(4, "").says("error: cannot reach http://127.0.0.1:").says("hint: is a node running");
    insic.run(&["bench", "--store", "cache", "--op", "bump"]).is(2, "").says("the Cache has no bump");
    insic.run(&["bench", "--threads", "3", "--connections", "2"]).is(2, "").says("more threads than connections");
    insic.run(&["bench", "--hdr", "/nonexistent/file"]).is(2, "").says("/nonexistent/file").says("--hdr");
    for (wrong, says) in [
        ("--op put", "the operations are get, set"),
        ("--distribution normal", "zipf:THETA"),
        ("--duration 10", "a whole number with its unit"),
        ("--value-size 17MiB", "at most 16MiB"),
        ("--reads 101", "101"),
        ("--reads 50 --op get", "cannot be used with"),
        ("--duration 1s --requests 1", "cannot be used with"),
        ("--fill --no-fill", "cannot be used with"),
        ("--keys 0", "--keys"),
        ("--connections 0", "--connections"),
    ] {
        let words: Vec<_> = ["bench"].into_iter().chain(wrong.split(' ')).collect();
        insic.run(&words).is(2, "").says(says);
    }
    let help = insic.run(&["bench", "--help"]);
    assert_eq!(help.exit, 0);
    assert!(help.stdout.contains("open loop") && help.stdout.contains("bench/"), "{}", help.stdout);
}
