//! What each method sends, and how it reads a success.

use std::time::Duration;

use crate::scripted::{Reply, Server};
use insidb_client::{ApiKey, Client, Error, request};

fn client(server: &Server) -> Client {
    Client::builder().url(server.url()).admin_url(server.url()).key("insi_test").build().unwrap()
}

fn ok() -> Reply {
    Reply::json(200, "{}")
}

#[tokio::test]
async fn every_request_carries_the_key_and_asks_for_problem_documents() {
    let server = Server::start([ok()]);
    client(&server).values().set("k", "v").await.unwrap();
    let request = server.requests().remove(0);
    assert_eq!(request.header("authorization"), Some("Bearer insi_test"));
    assert_eq!(request.header("accept"), Some("application/json, application/problem+json"));
    assert_eq!(request.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn both_stores_speak_alike() {
    let replies = [Reply::json(200, r#"{"data":"v"}"#), ok(), ok(), ok(), ok(), Reply::json(200, r#"["a","b"]"#)];
    let server = Server::start([replies.clone(), replies].concat());
    let client = client(&server);
    let page =
        request::Iterate { prefix: Some("a&b".into()), limit: Some(2), after: Some("a+".into()), ..Default::default() };

    macro_rules! walk {
        ($store:expr) => {
            let store = $store;
            assert_eq!(store.get("k é").await.unwrap().value.as_deref(), Some("v"));
            store.set("k", "\"\0\n").await.unwrap();
            assert!(store.setnx("k", "v").await.unwrap().value);
            assert!(store.cas("k", "", "new").await.unwrap().value);
            store.delete("k").await.unwrap();
            assert_eq!(store.iterate(&page).await.unwrap().value, ["a", "b"]);
        };
    }
    walk!(client.values());
    walk!(client.cache());

    let asked: Vec<_> = server.requests().into_iter().map(|request| (request.line(), request.body)).collect();
    for (requests, store) in asked.chunks(6).zip(["vs", "cache"]) {
        let base = format!("/db/api/v1/{store}");
        let expected = [
            (format!("GET {base}?key=k+%C3%A9"), ""),
            (format!("POST {base}"), r#"{"key":"k","value":"\"\u0000\n"}"#),
            (format!("POST {base}/setnx"), r#"{"key":"k","value":"v"}"#),
            (format!("POST {base}/cas"), r#"{"key":"k","old_value":"","new_value":"new"}"#),
            (format!("DELETE {base}"), r#"{"key":"k"}"#),
            (format!("GET {base}/iterate?prefix=a%26b&limit=2&after=a%2B"), ""),
        ];
        assert_eq!(requests, expected.map(|(line, body)| (line, body.to_owned())));
    }
}

#[tokio::test]
async fn bump_answers_the_sum() {
    let server = Server::start([Reply::json(200, r#"{"data":"9223372036854775807"}"#)]);
    assert_eq!(client(&server).values().bump("k", -5).await.unwrap().value, i64::MAX);
    let request = server.requests().remove(0);
    assert_eq!(
        (request.line().as_str(), request.body.as_str()),
        ("POST /db/api/v1/vs/bump", r#"{"key":"k","value":"-5"}"#)
    );
}

#[tokio::test]
async fn answers_carry_revision_generation_and_staleness() {
    let server = Server::start([
        Reply::json(200, r#"{"data":"v"}"#)
            .with("x-insidb-revision", 7)
            .with("x-insidb-cache-generation", 3)
            .with("x-insidb-staleness-ms", 250),
        Reply::problem(404, "key_not_found").with("x-insidb-cache-generation", 4),
        Reply::problem(409, "key_exists").with("x-insidb-revision", 9),
        Reply::problem(409, "value_differs").with("x-insidb-revision", 9),
    ]);
    let cache = client(&server).cache();
    let answer = cache.clone().stale().get("k").await.unwrap();
    assert_eq!((answer.revision, answer.cache_generation), (Some(7), Some(3)));
    assert_eq!(answer.staleness, Some(Duration::from_millis(250)));
    assert_eq!(server.lines(), ["GET /db/api/v1/cache?consistency=stale&key=k"]);

    let absent = cache.get("k").await.unwrap();
    assert_eq!((absent.value, absent.cache_generation), (None, Some(4)));
    let conflict = cache.setnx("k", "v").await.unwrap();
    assert_eq!((conflict.value, conflict.revision), (false, Some(9)));
    assert!(!cache.cas("k", "a", "b").await.unwrap().value);
}

#[tokio::test]
async fn long_keys_travel_in_a_body() {
    let server = Server::start([Reply::json(200, r#"{"data":"v"}"#), Reply::json(200, "[]")]);
    let values = client(&server).values();
    let key = "k".repeat(100_000);
    values.get(&key).await.unwrap();
    values.iterate(&request::Iterate { prefix: Some(key.clone()), ..Default::default() }).await.unwrap();
    assert_eq!(server.lines(), ["POST /db/api/v1/vs/get", "POST /db/api/v1/vs/iterate"]);
    assert_eq!(server.requests()[0].body, format!(r#"{{"key":"{key}"}}"#));
    assert_eq!(server.requests()[1].body, format!(r#"{{"prefix":"{key}"}}"#));
}

#[tokio::test]
async fn a_cursor_walks_behind_the_last_key() {
    let server = Server::start([Reply::json(200, r#"["a1","a2"]"#), Reply::json(200, r#"["a3"]"#)]);
    let mut cursor = client(&server).values().keys("a").after("a0").page_keys(2);
    let mut keys = Vec::new();
    while let Some(key) = cursor.next().await.unwrap() {
        keys.push(key);
    }
    assert_eq!(keys, ["a1", "a2", "a3"]);
    assert_eq!(cursor.next().await.unwrap(), None);
    assert_eq!(
        server.lines(),
        ["GET /db/api/v1/vs/iterate?prefix=a&limit=2&after=a0", "GET /db/api/v1/vs/iterate?prefix=a&limit=2&after=a2"]
    );
}

const LIMITS: &str = r#"{"usage":{"bytes_on_disk":1,"bytes_in_memory":2},
    "max_limits":{"bytes_on_disk":3,"bytes_in_memory":4,"rate_per_second_data_limit":5}}"#;

#[tokio::test]
async fn the_callers_own_routes() {
    let server = Server::start([
        Reply::json(200, r#"{"status":"ok","entity":"e","node":"1","leader":"","uptime":"1s"}"#),
        Reply::json(200, LIMITS),
        Reply::json(200, r#"{"usage":{"bytes_on_disk":1,"bytes_in_memory":2},"max_limits":{}}"#),
        Reply::json(200, r#"{"alias":"insi_a"}"#),
        Reply::json(200, r#"{"status":"ok"}"#),
        Reply::json(200, r#"{"aliases":["id"]}"#),
    ]);
    let client = client(&server);
    assert_eq!(client.ping().await.unwrap().entity, "e");
    assert_eq!(client.limits().await.unwrap().max_limits.rate_per_second_data_limit, Some(5));
    assert_eq!(client.limits().await.unwrap().max_limits, Default::default());
    assert_eq!(client.create_alias().await.unwrap(), "insi_a");
    client.delete_alias("id").await.unwrap();
    assert_eq!(client.aliases().await.unwrap(), ["id"]);
    assert_eq!(
        server.lines(),
        [
            "GET /db/api/v1/ping",
            "GET /db/api/v1/limits",
            "GET /db/api/v1/limits",
            "POST /db/api/v1/alias/set",
            "POST /db/api/v1/alias/delete",
            "GET /db/api/v1/alias/list",
        ]
    );
    assert_eq!(server.requests()[4].body, r#"{"alias":"id"}"#);
}

#[tokio::test]
async fn the_operators_routes() {
    let entity = format!(
        r#"{{"key_name":"n","key_uuid":"u","data_scope_uuid":"s","aliases":[],"expires_at":null,"usage":{LIMITS}}}"#
    );
    let one = format!(r#"{{"entity":{entity}}}"#);
    let server = Server::start([
        Reply::json(200, r#"{"key_name":"n","key":"insi_k","key_uuid":"u"}"#),
        ok(),
        ok(),
        Reply::json(200, LIMITS),
        Reply::json(200, &one),
        Reply::json(200, &one),
        Reply::json(200, &format!(r#"{{"entities":[{entity}]}}"#)),
        Reply::json(200, r#"{"op_vs":1.5,"op_cache":0,"op_system":2}"#),
        Reply::problem(503, "no_leader"),
        Reply::json(200, "ready"),
        Reply::json(200, "live"),
        Reply::json(200, "metric 1\n"),
    ]);
    let admin = client(&server).admin();
    assert_eq!(admin.create_key("n", Some("2030-01-01T00:00:00Z".into())).await.unwrap().key, "insi_k");
    admin.delete_key(ApiKey::Text("insi_k".into())).await.unwrap();
    let patch = request::LimitsPatch { bytes_on_disk: Some(1), ..Default::default() };
    admin.set_limits(ApiKey::Uuid("u".into()), patch).await.unwrap();
    assert_eq!(admin.limits(ApiKey::Uuid("u".into())).await.unwrap().usage.bytes_in_memory, 2);
    assert_eq!(admin.entity(ApiKey::Uuid("u".into())).await.unwrap().data_scope_uuid, "s");
    assert_eq!(admin.entity_by_alias("a").await.unwrap().key_name, "n");
    assert_eq!(admin.entities(5, Some(1)).await.unwrap().len(), 1);
    assert_eq!(admin.ops().await.unwrap().op_vs, 1.5);
    assert!(!admin.is_ready().await.unwrap());
    assert!(admin.is_ready().await.unwrap());
    admin.live().await.unwrap();
    assert_eq!(admin.metrics().await.unwrap(), "metric 1\n");

    let asked: Vec<_> = server.requests().into_iter().map(|request| (request.line(), request.body)).collect();
    let expected = [
        ("POST /db/api/v1/admin/api/create", r#"{"key_name":"n","expires_at":"2030-01-01T00:00:00Z"}"#),
        ("POST /db/api/v1/admin/api/delete", r#"{"key":"insi_k"}"#),
        ("POST /db/api/v1/admin/limits/set", r#"{"key_uuid":"u","limits":{"bytes_on_disk":1}}"#),
        ("POST /db/api/v1/admin/limits/get", r#"{"key_uuid":"u"}"#),
        ("POST /db/api/v1/admin/insight/entity", r#"{"key_uuid":"u"}"#),
        ("POST /db/api/v1/admin/insight/entity_by_alias", r#"{"alias":"a"}"#),
        ("POST /db/api/v1/admin/insight/entities", r#"{"offset":5,"limit":1}"#),
        ("GET /db/api/v1/admin/metrics/ops", ""),
        ("GET /db/api/v1/readyz", ""),
        ("GET /db/api/v1/readyz", ""),
        ("GET /db/api/v1/livez", ""),
        ("GET /db/api/v1/metrics", ""),
    ];
    assert_eq!(asked, expected.map(|(line, body)| (line.to_owned(), body.to_owned())));
}

#[tokio::test]
async fn a_base_path_stays_and_a_missing_url_is_told() {
    let server = Server::start([ok()]);
    let client = Client::builder().url(format!("{}/behind/", server.url())).build().unwrap();
    client.values().set("k", "v").await.unwrap();
    assert_eq!(server.lines(), ["POST /behind/db/api/v1/vs"]);
    assert_eq!(server.requests()[0].header("authorization"), None);
    let error = client.admin().ops().await.unwrap_err();
    assert!(matches!(error, Error::Config(insidb_client::ConfigError::NoAdminUrl)), "{error}");
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_without_showing_them() {
    for url in ["nonsense", "ftp://host", "http://user:secret@host", "http://host?key=secret", "http://host#secret"] {
        let error = Client::builder().url(url).build().err().unwrap().to_string();
        assert!(error.starts_with("a URL is refused: ") && !error.contains("secret"), "{error}");
    }
    let error = Client::builder().url("http://host").key("insi_\nsecret").build().err().unwrap();
    assert_eq!(error, insidb_client::ConfigError::Key);
    let error = Client::builder().ca_certificate("no PEM").build().err().unwrap();
    assert!(matches!(error, insidb_client::ConfigError::CaCertificate(_)), "{error}");
}
