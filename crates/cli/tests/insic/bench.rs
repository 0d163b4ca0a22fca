//! The load generator, against a server that keeps what it is given.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binary::{Insic, Run};
use crate::keeper::{Fault, Keeper};
use crate::scripted::Reply;
use crate::scripted_tls;

pub(crate) fn insic(keeper: &Keeper) -> Insic {
    Insic::bare().with("INSIDB_URL", keeper.url()).with("INSIDB_API_KEY", "insi_env")
}

/// Runs `insic --json bench` with these arguments.
pub(crate) fn bench(keeper: &Keeper, arguments: &str) -> (Run, Value) {
    let words: Vec<_> = ["--json", "bench"].into_iter().chain(arguments.split_whitespace()).collect();
    let run = insic(keeper).run(&words);
    let report = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    (run, report)
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Every request is accounted for once.
#[track_caller]
pub(crate) fn assert_adds_up(report: &Value) {
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
    // The last one has its share of the time as the others have theirs: 5 in 50 ms, not in the 40 from the first to the last.
    let (_, report) = bench(&keeper, "--op set --rate 100 --requests 5");
    assert!(report["rate"].as_f64().unwrap() <= 100.0, "{report}");
}

#[test]
fn bytes_are_those_of_what_is_measured() {
    let keeper = Keeper::start();
    let per_request = |arguments: &str| {
        let (_, report) = bench(&keeper, &format!("--op set --requests 40 --connections 2 {arguments}"));
        assert_eq!(number(&report["requests"]["served"]), 40);
        (number(&report["bytes_sent"]) / 40, number(&report["bytes_received"]) / 40)
    };
    assert_eq!(per_request("--warmup 100ms"), per_request(""));
}

#[test]
fn a_report_says_what_was_asked_for() {
    let keeper = Keeper::start();
    let (_, report) = bench(&keeper, "--op get --requests 5 --warmup 10ms --no-fill");
    let settings = &report["settings"];
    assert_eq!((&settings["requests"], &settings["duration_seconds"]), (&5.into(), &Value::Null));
    assert_eq!((&settings["warmup_seconds"], &settings["fill"]), (&0.01.into(), &false.into()));
    assert_eq!(settings["page"], Value::Null);
    let (_, report) = bench(&keeper, "--op iterate --duration 50ms --keys 20 --limit 7 --offset 3");
    let settings = &report["settings"];
    assert_eq!((&settings["requests"], &settings["duration_seconds"]), (&Value::Null, &0.05.into()));
    assert_eq!((&settings["fill"], &settings["page"]), (&true.into(), &serde_json::json!({"limit": 7, "offset": 3})));
    let words = "bench --op iterate --requests 5 --keys 20 --limit 7 --offset 3".split(' ').collect::<Vec<_>>();
    let run = insic(&keeper).run(&words);
    assert!(run.stdout.contains("values of 100 bytes; pages of 7 keys at offset 3"), "{run:?}");
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
