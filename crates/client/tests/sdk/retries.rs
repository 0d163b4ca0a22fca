//! What is sent again, to whom, and what never is.

use std::time::{Duration, Instant};

use crate::scripted::{Reply, Server, nowhere};
use insidb_client::{Client, Code, Error};

fn client(urls: &[String]) -> Client {
    Client::builder().urls(urls).build().unwrap()
}

fn found() -> Reply {
    Reply::json(200, r#"{"data":"v"}"#)
}

#[tokio::test]
async fn a_write_is_repeated_when_its_answer_proves_that_nothing_was_done() {
    for code in [Code::NoLeader, Code::NoQuorum, Code::Overloaded, Code::DiskFull, Code::MemoryFull] {
        let server = Server::start([Reply::problem(503, code.as_str()), Reply::json(200, "{}")]);
        client(&[server.url()]).values().set("k", "v").await.unwrap();
        assert_eq!(server.requests().len(), 2, "{code}");
    }
}

#[tokio::test]
async fn a_write_that_may_have_been_done_is_never_repeated() {
    for reply in [
        Reply::problem(503, "outcome_unknown").with("retry-after", 1),
        Reply::problem(500, "internal"),
        Reply::json(503, "from a proxy"),
        Reply::HangUp,
    ] {
        let server = Server::start([reply, Reply::json(200, r#"{"data":"1"}"#)]);
        let error = client(&[server.url()]).values().bump("k", 1).await.unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_read_is_repeated_whatever_broke() {
    let server = Server::start([Reply::HangUp, Reply::problem(503, "no_leader"), Reply::json(502, "proxy"), found()]);
    assert_eq!(client(&[server.url()]).values().get("k").await.unwrap().value.as_deref(), Some("v"));
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn tries_are_bounded() {
    let server = Server::start(vec![Reply::problem(503, "no_leader"); 9]);
    let error = client(&[server.url()]).values().get("k").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NoLeader));
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn a_refusal_and_a_rate_limit_are_handed_out_at_once() {
    for reply in
        [Reply::problem(401, "unauthorized"), Reply::problem(429, "rate_limited"), Reply::problem(500, "internal")]
    {
        let server = Server::start([reply, found()]);
        client(&[server.url()]).values().get("k").await.unwrap_err();
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn retry_after_is_waited_for_unless_it_is_too_long() {
    let server = Server::start([Reply::problem(503, "overloaded").with("retry-after", 1), found()]);
    let start = Instant::now();
    client(&[server.url()]).values().get("k").await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));

    let server = Server::start([Reply::problem(503, "overloaded").with("retry-after", 60), found()]);
    let error = client(&[server.url()]).values().get("k").await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_passed_over_and_the_one_that_answered_is_kept() {
    let server = Server::start([Reply::json(200, "{}"), found()]);
    // More nodes than `tries_max`: each gets its one try.
    let values = client(&[nowhere(), nowhere(), nowhere(), nowhere(), nowhere(), server.url()]).values();
    values.set("k", "v").await.unwrap();
    values.get("k").await.unwrap();
    assert_eq!(server.lines(), ["POST /db/api/v1/vs", "GET /db/api/v1/vs?key=k"]);
}

#[tokio::test]
async fn a_redirect_to_the_leader_is_followed_with_body_and_key() {
    let leader = Server::start([Reply::json(200, "{}")]);
    let location = format!("{}/db/api/v1/vs", leader.url());
    let follower = Server::start([Reply::json(307, "").with("location", &location)]);
    Client::builder().url(follower.url()).key("insi_k").build().unwrap().values().set("k", "v").await.unwrap();
    let request = leader.requests().remove(0);
    assert_eq!(request.line(), "POST /db/api/v1/vs");
    assert_eq!(request.body, r#"{"key":"k","value":"v"}"#);
    assert_eq!(request.header("authorization"), Some("Bearer insi_k"));
}

/// Two nodes of which the first takes a request and never answers.
fn beside_a_silent_node() -> (Server, Server, Client) {
    let silent = Server::start(vec![Reply::Silence; 2]);
    let healthy = Server::start([found(), found()]);
    let urls = [silent.url(), healthy.url()];
    let client = Client::builder().urls(urls).timeout(Duration::from_millis(300)).build().unwrap();
    (silent, healthy, client)
}

#[tokio::test]
async fn a_read_goes_on_when_a_node_takes_it_and_never_answers() {
    let (silent, healthy, client) = beside_a_silent_node();
    for _ in 0..2 {
        assert_eq!(client.values().get("k").await.unwrap().value.as_deref(), Some("v"));
    }
    // The one that answered is asked first from then on.
    assert_eq!((silent.requests().len(), healthy.requests().len()), (1, 2));
}

#[tokio::test]
async fn a_write_that_a_silent_node_took_is_nobody_elses() {
    let (silent, healthy, client) = beside_a_silent_node();
    let error = client.values().bump("k", 1).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert_eq!((silent.requests().len(), healthy.requests().len()), (1, 0));
}

#[tokio::test]
async fn a_node_without_a_leader_is_passed_over_without_the_pause_that_it_asks_for() {
    for code in ["no_leader", "no_quorum"] {
        let cut_off = Server::start([Reply::problem(503, code).with("retry-after", 5)]);
        let healthy = Server::start([Reply::json(200, "{}")]);
        let start = Instant::now();
        client(&[cut_off.url(), healthy.url()]).values().set("k", "v").await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(5), "{code}: {:?}", start.elapsed());
        assert_eq!((cut_off.requests().len(), healthy.requests().len()), (1, 1), "{code}");
    }
}

#[tokio::test]
async fn a_node_that_answers_is_listened_to_also_when_the_last_one_cannot_be_reached() {
    let no_leader = || Reply::problem(503, "no_leader").with("retry-after", 1);
    let server = Server::start([no_leader(), found()]);
    let called = Instant::now();
    let answer = client(&[server.url(), nowhere()]).values().get("k").await.unwrap();
    assert_eq!(answer.value.as_deref(), Some("v"));
    assert!(called.elapsed() >= Duration::from_secs(1), "{:?}", called.elapsed());

    let server = Server::start(vec![Reply::problem(503, "no_leader"); 9]);
    let error = client(&[server.url(), nowhere()]).values().get("k").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NoLeader), "{error}");
}

#[tokio::test]
async fn an_election_is_outlasted_when_no_node_knows_a_leader_yet() {
    let electing = |rounds| vec![Reply::problem(503, "no_leader"); rounds];
    let first = Server::start(electing(4));
    let second = Server::start([electing(3), vec![Reply::json(200, "{}")]].concat());
    client(&[nowhere(), first.url(), second.url()]).values().set("k", "v").await.unwrap();
    assert_eq!(second.requests().len(), 4);
}

#[tokio::test]
async fn the_leader_that_a_node_named_is_asked_first_from_then_on() {
    let leader = Server::start(vec![Reply::json(200, "{}"); 2]);
    let location = format!("{}/db/api/v1/vs", leader.url());
    let follower = Server::start([Reply::json(307, "").with("location", &location)]);
    let values = client(&[follower.url(), leader.url()]).values();
    values.set("k", "v").await.unwrap();
    values.set("k", "w").await.unwrap();
    assert_eq!((follower.requests().len(), leader.requests().len()), (1, 2));
}

#[tokio::test]
async fn a_named_leader_that_is_gone_is_left_for_the_next_node() {
    let location = format!("{}/db/api/v1/vs", nowhere());
    let follower = Server::start([Reply::json(307, "").with("location", &location)]);
    let other = Server::start([Reply::json(200, "{}")]);
    client(&[follower.url(), other.url()]).values().set("k", "v").await.unwrap();
    assert_eq!(other.requests().len(), 1);
}

#[tokio::test]
async fn redirects_end() {
    let server = Server::start(vec![Reply::json(307, "").with("location", "/db/api/v1/vs"); 9]);
    let error = client(&[server.url()]).values().set("k", "v").await.unwrap_err();
    assert!(matches!(error, Error::UnexpectedAnswer { status: 307, .. }), "{error}");
    assert_eq!(server.requests().len(), 4);
}
