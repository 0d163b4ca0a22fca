//! Who may do what: a walk of the whole route table with every kind of key, and the life of keys and aliases.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Client, Server};
use serde_json::{Value, json};

/// Every route of the public listener, with a request that a valid key may make.
const PUBLIC: &[(&str, &str, &str)] = &[
    ("GET", "/vs?key=k", ""),
    ("HEAD", "/vs?key=k", ""),
    ("POST", "/vs", r#"{"key":"k","value":"v"}"#),
    ("POST", "/vs/get", r#"{"key":"k"}"#),
    ("POST", "/vs/setnx", r#"{"key":"k","value":"v"}"#),
    ("POST", "/vs/cas", r#"{"key":"k","old_value":"v","new_value":"v"}"#),
    ("POST", "/vs/bump", r#"{"key":"n","value":"1"}"#),
    ("GET", "/vs/iterate?prefix=k", ""),
    ("POST", "/vs/iterate", r#"{"prefix":"k"}"#),
    ("DELETE", "/vs?key=k", ""),
    ("GET", "/cache?key=k", ""),
    ("POST", "/cache", r#"{"key":"k","value":"v"}"#),
    ("POST", "/cache/get", r#"{"key":"k"}"#),
    ("POST", "/cache/setnx", r#"{"key":"k","value":"v"}"#),
    ("POST", "/cache/cas", r#"{"key":"k","old_value":"v","new_value":"v"}"#),
    ("GET", "/cache/iterate?prefix=k", ""),
    ("POST", "/cache/iterate", r#"{"prefix":"k"}"#),
    ("DELETE", "/cache?key=k", ""),
    ("GET", "/get?key=k", ""),
    ("POST", "/set", r#"{"key":"k","value":"v"}"#),
    ("POST", "/setnx", r#"{"key":"k","value":"v"}"#),
    ("POST", "/cas", r#"{"key":"k","old_value":"v","new_value":"v"}"#),
    ("POST", "/bump", r#"{"key":"n","value":"1"}"#),
    ("GET", "/iterate/prefix", ""),
    ("POST", "/delete", r#"{"key":"k"}"#),
    ("DELETE", "/delete?key=k", ""),
    ("GET", "/cache/get?key=k", ""),
    ("POST", "/cache/set", r#"{"key":"k","value":"v"}"#),
    ("GET", "/cache/iterate/prefix", ""),
    ("POST", "/cache/delete", r#"{"key":"k"}"#),
    ("DELETE", "/cache/delete?key=k", ""),
    ("GET", "/limits", ""),
    ("GET", "/ping", ""),
    ("GET", "/alias/set", ""),
    ("POST", "/alias/set", ""),
    ("POST", "/alias/delete", r#"{"alias":"insi_none"}"#),
    ("GET", "/alias/list", ""),
];

/// Every route of the private listener that takes a key.
const PRIVATE: &[(&str, &str, &str)] = &[
    ("POST", "/admin/api/create", r#"{"key_name":"walked"}"#),
    ("POST", "/admin/api/delete", r#"{"key":"insi_none"}"#),
    ("POST", "/admin/limits/set", r#"{"api_key":"insi_none","limits":{}}"#),
    ("POST", "/admin/limits/get", r#"{"api_key":"insi_none"}"#),
    ("POST", "/admin/insight/entity", r#"{"root_api_key":"insi_none"}"#),
    ("POST", "/admin/insight/entities", "{}"),
    ("POST", "/admin/insight/entity_by_alias", r#"{"alias":"insi_none"}"#),
    ("GET", "/admin/metrics/ops", ""),
];

fn admin(server: &Server, path: &str, body: Value) -> (u16, Value) {
    let answer = server.admin("POST", path, &body.to_string());
    let json = serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!(answer.text()));
    (answer.status, json)
}

fn alias_of(client: &mut Client) -> String {
    client.request("POST", "/alias/set", "").json()["alias"].as_str().unwrap().to_owned()
}

#[test]
fn every_route_asks_for_a_valid_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let tenant = server.create_key("tenant");
    let deleted = server.create_key("deleted");
    let deleted_alias = alias_of(&mut server.client(&deleted));
    assert_eq!(admin(&server, "/admin/api/delete", json!({"key": deleted})), (200, json!({"success": "true"})));
    let (_, expired) =
        admin(&server, "/admin/api/create", json!({"key_name": "expired", "expires_at": "2020-01-01T00:00:00Z"}));
    let expired = expired["key"].as_str().unwrap();

    for (address, routes) in [(server.public, PUBLIC), (server.private, PRIVATE)] {
        for (method, path, body) in routes {
            let mut keys = vec![None, Some("insi_wrong"), Some(deleted.as_str()), Some(&deleted_alias), Some(expired)];
            if address == server.private {
                keys.push(Some(tenant.as_str()));
            }
            for key in keys {
                let client = Client::connect(address);
                let mut client = match key {
                    Some(key) => client.key(key),
                    None => client,
                };
                let answer = client.request(method, path, body);
                assert_eq!(answer.status, 401, "{method} {path} with {key:?}: {answer:?}");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
                assert!(!answer.body.windows(5).any(|window| window == b"insi_"), "no key in an answer");
            }
        }
    }
}

#[test]
fn a_valid_key_may_use_its_routes_and_sees_nothing_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (owner, other) = (server.create_key("owner"), server.create_key("other"));
    let mut of_owner = server.client(&owner);
    for store in ["/vs", "/cache"] {
        assert_eq!(of_owner.post(store, json!({"key": "secret", "value": "mine"})).status, 200);
    }
    let mut of_other = server.client(&other);
    for (method, path, body) in PUBLIC {
        let answer = of_other.request(method, path, body);
        assert!([200, 404, 409].contains(&answer.status), "{method} {path}: {answer:?}");
    }
    for (method, path, body) in PRIVATE {
        let answer = server.admin(method, path, body);
        assert!([200, 404].contains(&answer.status), "{method} {path}: {answer:?}");
        let on_public = of_other.request(method, path, body);
        assert_eq!(on_public.status, 404, "{method} {path} is private");
    }
    for store in ["/vs", "/cache"] {
        assert_eq!(of_other.get(&format!("{store}?key=secret")).status, 404);
        assert_eq!(of_other.request("DELETE", &format!("{store}?key=secret"), "").status, 200);
        assert_eq!(of_other.post(&format!("{store}/setnx"), json!({"key": "secret", "value": "theirs"})).status, 200);
        assert_eq!(of_other.get(&format!("{store}/iterate?prefix=s")).json(), json!(["secret"]));
        assert_eq!(of_owner.get(&format!("{store}?key=secret")).json(), json!({"data": "mine"}));
        assert_eq!(of_owner.get(&format!("{store}?key=secret")).header("x-insidb-revision"), Some("1"));
    }
    assert_eq!(server.client(&server.root_key).get("/vs/iterate").json(), json!([]), "the root key's own scope");
}

#[test]
fn aliases_act_for_their_key_until_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (key, uuid) = server.create_key_with_id("tenant");
    let other = server.create_key("other");
    let mut client = server.client(&key);
    let alias = alias_of(&mut client);
    let mut through_alias = server.client(&alias);
    assert_eq!(client.post("/vs", json!({"key": "k", "value": "v"})).status, 200);
    assert_eq!(through_alias.get("/vs?key=k").json(), json!({"data": "v"}));
    assert_eq!(through_alias.get("/ping").json()["entity"], "tenant");

    let refused = through_alias.request("POST", "/alias/set", "");
    assert_eq!((refused.status, refused.text()), (400, "An alias cannot create aliases"));
    let refused = through_alias.post("/alias/delete", json!({"alias": alias}));
    assert_eq!((refused.status, refused.text()), (403, "An alias cannot delete aliases"));
    let refused = server.client(&other).post("/alias/delete", json!({"alias": alias}));
    assert_eq!((refused.status, refused.text()), (403, "The alias belongs to another API key"));
    assert_eq!(client.post("/alias/delete", json!({"alias": "insi_none"})).status, 404);
    assert_eq!(client.post("/alias/delete", json!({"alias": key})).status, 404);

    let listed = client.get("/alias/list").json();
    let id = listed["aliases"][0].as_str().unwrap().to_owned();
    assert_eq!(through_alias.get("/alias/list").json(), listed);
    for which in [&alias, &id] {
        let (status, entity) = admin(&server, "/admin/insight/entity_by_alias", json!({"alias": which}));
        assert_eq!((status, &entity["entity"]["key_uuid"]), (200, &json!(uuid)));
        assert_eq!(entity["entity"]["aliases"], json!([id]));
    }
    assert_eq!(client.post("/alias/delete", json!({"alias": id})).json(), json!({"status": "ok"}));
    assert_eq!(through_alias.get("/vs?key=k").status, 401, "at once");
    assert_eq!(client.get("/alias/list").json(), json!({"aliases": []}));

    let aliases: Vec<String> = (0..16).map(|_| alias_of(&mut client)).collect();
    let refused = client.request("GET", "/alias/set", "");
    assert_eq!((refused.status, refused.text()), (400, "The API key has 16 aliases, the most there may be"));
    assert_eq!(admin(&server, "/admin/api/delete", json!({"key_uuid": uuid})).0, 200);
    for alias in aliases.iter().chain([&key]) {
        assert_eq!(server.client(alias).get("/ping").status, 401);
    }
}

#[test]
fn operators_make_see_and_limit_keys() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let expiring = json!({"key_name": "tenant", "expires_at": "2099-01-01T00:00:00Z"});
    let (status, made) = admin(&server, "/admin/api/create", expiring);
    assert_eq!((status, &made["key_name"]), (200, &json!("tenant")));
    let (key, uuid) = (made["key"].as_str().unwrap(), made["key_uuid"].as_str().unwrap());
    assert_eq!((key.starts_with("insi_"), key.len()), (true, 48));
    assert_eq!(server.client(key).post("/vs", json!({"key": "k", "value": "v"})).status, 200);

    let limits =
        json!({"bytes_on_disk": 1_073_741_824, "bytes_in_memory": 262_144_000, "rate_per_second_data_limit": 25});
    let whole = json!({"usage": {"bytes_on_disk": 2, "bytes_in_memory": 0}, "max_limits": limits});
    for which in [json!({"api_key": key}), json!({"key_uuid": uuid})] {
        assert_eq!(admin(&server, "/admin/limits/get", which), (200, whole.clone()));
    }
    for which in [json!({"root_api_key": key}), json!({"key_uuid": uuid})] {
        let (status, entity) = admin(&server, "/admin/insight/entity", which);
        assert_eq!((status, &entity["entity"]["usage"]), (200, &whole));
        assert_eq!(entity["entity"]["expires_at"], "2099-01-01T00:00:00Z");
        assert!(entity["entity"]["data_scope_uuid"].is_string());
    }
    let set = json!({"api_key": key, "limits": {"bytes_in_memory": 7}});
    assert_eq!(admin(&server, "/admin/limits/set", set).0, 200);
    let max_limits = server.client(key).get("/limits").json()["max_limits"].clone();
    assert_eq!(
        max_limits,
        json!({"bytes_on_disk": 1_073_741_824, "bytes_in_memory": 7, "rate_per_second_data_limit": 25})
    );
    let (_, page) = admin(&server, "/admin/insight/entities", json!({"offset": 0, "limit": 10}));
    assert_eq!(page["entities"].as_array().unwrap().len(), 1);
    assert_eq!(admin(&server, "/admin/insight/entities", json!({"offset": 1})).1, json!({"entities": []}));
    assert_eq!(server.client(&server.root_key).get("/limits").json()["max_limits"], json!({}));

    for (path, body, status, text) in [
        ("/admin/api/create", json!({}), 400, "Field `key_name` is missing"),
        ("/admin/api/create", json!({"key_name": ""}), 400, "Field `key_name` must have 1 to 256 bytes"),
        (
            "/admin/api/create",
            json!({"key_name": "t", "expires_at": "soon"}),
            400,
            "Field `expires_at` must be an RFC 3339 time: 2030-01-31T12:00:00Z",
        ),
        ("/admin/api/delete", json!({}), 400, "The key is missing: give `key` or `key_uuid`"),
        ("/admin/api/delete", json!({"key_uuid": "x"}), 400, "Field `key_uuid` must be a UUID"),
        ("/admin/api/delete", json!({"key": "insi_none"}), 404, "API key not found"),
        ("/admin/api/delete", json!({"key": server.root_key}), 403, "The root key cannot be deleted"),
        (
            "/admin/limits/set",
            json!({"api_key": key, "limits": {"bytes_on_disk": -1}}),
            400,
            "Field `limits.bytes_on_disk` must be 0 or more",
        ),
        ("/admin/limits/set", json!({"api_key": key, "limits": [1, 2, 3]}), 400, "Field `limits` must be an object"),
        ("/admin/limits/get", json!({"api_key": "insi_none"}), 404, "API key not found"),
        ("/admin/insight/entities", json!({"limit": 0}), 400, "Field `limit` must be 1 to 1000"),
        ("/admin/insight/entity_by_alias", json!({"alias": key}), 404, "API key not found"),
    ] {
        assert_eq!(admin(&server, path, body.clone()), (status, json!(text)), "{path} {body}");
    }
}

#[test]
fn monitors_need_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let root = server.root_key.clone();
    assert_eq!(server.client(&root).get("/vs?key=absent").status, 404);
    for base in ["", harness::BASE] {
        for path in ["/livez", "/readyz", "/metrics"] {
            let mut client = Client::connect(server.private);
            client.send(format!("GET {base}{path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
            let answer = client.read_answer("GET").unwrap();
            assert_eq!(answer.status, 200, "{base}{path}");
            if path == "/metrics" {
                let counted = "insidb_http_requests_total{class=\"values\",status=\"404\"} 1";
                assert!(answer.text().lines().any(|line| line == counted), "{}", answer.text());
            }
        }
        let mut public = Client::connect(server.public);
        public.send(format!("GET {base}/metrics HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(public.read_answer("GET").unwrap().status, 404);
    }
    let ops = server.admin("GET", "/admin/metrics/ops", "").json();
    assert!(ops["op_vs"].as_f64().unwrap() > 0.0, "{ops}");
}
