//! The load generator when the service refuses, breaks off, or is not there.

use serde_json::Value;

use crate::bench::{assert_adds_up, bench, insic, number};
use crate::binary::Insic;
use crate::keeper::{Fault, Keeper};
use crate::scripted::nowhere;

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
    let row = run.stdout.lines().find(|line| line.trim_start().starts_with("all")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["all", "0", "0", "-", "-", "-", "-", "-", "-"]);
    let keeper = Keeper::faulty(None, |_, _| Fault::Refuse(400, "value_too_large"));
    let run = insic(&keeper).run(&["bench", "--op", "set", "--requests", "2", "--connections", "1"]);
    run.says("value_too_large").says("`max_value_size` in the node's configuration");

    let keeper = Keeper::faulty(None, |_, _| Fault::HangUp);
    let run = insic(&keeper).run(&["--json", "bench", "--op", "set", "--requests", "3", "--connections", "1"]);
    assert_eq!(run.exit, 4, "{run:?}");
    run.says("none of 3 requests was answered").says("the server closed the connection without an answer");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    // Nothing was served, which is not quick.
    assert_eq!(report["latency_us"], Value::Null);
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
