//! How answers that are no success, and no answers at all, become errors.

use std::net::TcpListener;
use std::time::Duration;

use crate::scripted::{Reply, Server, nowhere};
use insidb_client::{Client, Code, Error, RateLimit, Usage};

fn client(server: &Server) -> Client {
    Client::builder().url(server.url()).tries_max(1).build().unwrap()
}

#[tokio::test]
async fn every_code_is_told_apart_for_a_read_and_for_a_write() {
    let replies = Code::ALL.iter().map(|code| Reply::problem(code.status(), code.as_str()));
    let server = Server::start(replies.flat_map(|reply| [reply.clone(), reply]));
    let values = client(&server).values();
    for code in Code::ALL {
        // Neither call takes any code for an answer of its own, but for get's `key_not_found`.
        let read = values.iterate(&Default::default()).await.unwrap_err();
        assert!(matches!(read, Error::Refused(_)), "{code}: {read}");
        assert_eq!(read.code(), Some(*code));

        let write = values.set("k", "v").await.unwrap_err();
        assert_eq!(write.code(), Some(*code));
        let is_unknown = matches!(code, Code::Internal | Code::OutcomeUnknown);
        assert_eq!(matches!(write, Error::OutcomeUnknown { .. }), is_unknown, "{code}: {write}");
        assert!(write.to_string().contains(&format!("detail of {code}")), "{write}");
        let is_safe = matches!(code.status(), 408 | 429 | 503) && !is_unknown;
        assert_eq!(write.is_retry_safe(), is_safe, "{code}");
    }
}

#[tokio::test]
async fn headers_of_a_refusal_are_read() {
    let server = Server::start([
        Reply::problem(400, "disk_quota_exceeded")
            .with("x-current-disk-usage", 90)
            .with("x-disk-usage-limit", 100)
            .with("x-request-id", "r1"),
        Reply::problem(400, "memory_quota_exceeded")
            .with("x-current-memory-usage", 91)
            .with("x-memory-usage-limit", 101),
        Reply::problem(429, "rate_limited")
            .with("retry-after", 2)
            .with("x-ratelimit-limit", 25)
            .with("x-ratelimit-burst", 30),
        Reply::problem(429, "rate_limited")
            .with("retry-after", 60)
            .with("x-ratelimit-limit", 0)
            .with("x-ratelimit-burst", 0),
    ]);
    let values = client(&server).values();
    let error = values.set("k", "v").await.unwrap_err();
    assert_eq!(error.to_string(), "detail of disk_quota_exceeded (90 of 100 bytes in use)");
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.usage, Some(Usage { bytes: 90, bytes_max: 100 }));
    assert_eq!(refusal.request_id.as_deref(), Some("r1"));

    let error = values.set("k", "v").await.unwrap_err();
    assert_eq!(error.refusal().unwrap().usage, Some(Usage { bytes: 91, bytes_max: 101 }));

    let error = values.set("k", "v").await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    assert_eq!(error.refusal().unwrap().rate_limit, Some(RateLimit { per_second: 25, burst: 30 }));
    assert!(error.is_retry_safe());

    let error = values.set("k", "v").await.unwrap_err();
    assert_eq!(error.refusal().unwrap().rate_limit, Some(RateLimit { per_second: 0, burst: 0 }));
    assert!(!error.is_retry_safe());
}

#[tokio::test]
async fn answers_of_others_are_not_taken_for_insidbs() {
    let plain = |status, body: &str| Reply::Answer {
        status,
        headers: vec![("content-type", "text/plain; charset=utf-8".into())],
        body: body.into(),
    };
    let server = Server::start([
        plain(400, "Key is too large"),
        Reply::json(404, "<html>not here</html>"),
        Reply::json(200, "<html>log in first</html>"),
        Reply::json(200, "<html>log in first</html>"),
        Reply::json(502, "<html>bad gateway</html>"),
        Reply::problem(503, "a_code_of_a_later_version"),
        Reply::json(302, ""),
    ]);
    let values = client(&server).values();
    let error = values.get("k").await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.code()), ("Key is too large", None));
    let error = values.get("k").await.unwrap_err();
    assert_eq!(error.to_string(), "HTTP status 404, without a reason that InsiDB would give");
    let error = values.get("k").await.unwrap_err();
    assert!(matches!(error, Error::UnexpectedAnswer { status: 200, .. }), "{error}");
    // A write that somebody accepted: whatever was done, the sum is not known.
    let error = values.bump("k", 1).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    let error = values.set("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    let error = values.set("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    let error = values.get("k").await.unwrap_err();
    assert!(matches!(error, Error::UnexpectedAnswer { status: 302, .. }), "{error}");
}

#[tokio::test]
async fn a_lost_answer_leaves_a_write_unknown_and_no_key_in_the_message() {
    let server = Server::start([Reply::HangUp, Reply::HangUp]);
    let values = client(&server).values();
    let write = values.set("stored_key", "v").await.unwrap_err();
    assert!(matches!(write, Error::OutcomeUnknown { .. }) && !write.is_retry_safe(), "{write}");
    let read = values.get("stored_key").await.unwrap_err();
    assert!(matches!(read, Error::Interrupted { .. }) && read.is_retry_safe(), "{read}");
    for error in [write, read] {
        assert!(!error.to_string().contains("stored_key") && !format!("{error:?}").contains("stored_key"));
    }
}

#[tokio::test]
async fn a_time_out_leaves_a_write_unknown() {
    // The system takes the connection, and nobody ever reads from it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let client = Client::builder().url(url).timeout(Duration::from_millis(100)).tries_max(9).build().unwrap();
    let error = client.values().set("k", "v").await.unwrap_err();
    assert!(error.to_string().ends_with("timed out"), "{error}");
    assert!(matches!(error, Error::OutcomeUnknown { .. }));
    silent.set_nonblocking(true).unwrap();
    assert!(silent.accept().is_ok() && silent.accept().is_err(), "one try, and no more");
}

#[tokio::test]
async fn nobody_there_is_told_apart_from_no_answer() {
    let client = Client::builder().url(nowhere()).tries_max(1).build().unwrap();
    let error = client.values().set("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_retry_safe(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn an_answer_past_its_bound_is_not_read() {
    let server = Server::start([Reply::json(200, &format!(r#"{{"data":"{}"}}"#, "v".repeat(2000)))]);
    let client = Client::builder().url(server.url()).answer_bytes_max(1000).tries_max(1).build().unwrap();
    let error = client.values().get("k").await.unwrap_err();
    assert!(error.to_string().contains("answer_bytes_max"), "{error}");
}
