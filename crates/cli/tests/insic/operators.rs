//! keys, limits, alias.

use crate::binary::Insic;
use crate::scripted::{Reply, Server};

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

const LIMITS: &str = r#"{"usage":{"bytes_on_disk":1024,"bytes_in_memory":7},"max_limits":{"bytes_on_disk":1073741824,"bytes_in_memory":262144000,"rate_per_second_data_limit":25}}"#;

fn entity(name: &str, limits: &str) -> String {
    format!(
        r#"{{"key_name":"{name}","key_uuid":"{UUID}","data_scope_uuid":"s","aliases":["a1","a2"],"expires_at":null,"usage":{limits}}}"#
    )
}

#[test]
fn keys_are_made_and_shown_once() {
    let created = format!(r#"{{"key_name":"n","key":"insi_new","key_uuid":"{UUID}"}}"#);
    let server = Server::start([Reply::json(200, &created), Reply::json(200, &created)]);
    let insic = Insic::of(&server);
    insic
        .run(&["keys", "create", "n", "--expires-at", "2030-01-01T00:00:00Z"])
        .is(0, &format!("name  n\nuuid  {UUID}\nkey   insi_new\n"))
        .says("shown this once");
    insic.run(&["--json", "keys", "create", "n"]).is(0, &format!("{created}\n"));
    assert_eq!(server.requests()[0].body, r#"{"key_name":"n","expires_at":"2030-01-01T00:00:00Z"}"#);
}

#[test]
fn a_key_is_named_by_uuid_or_text() {
    let gone = Reply::json(200, r#"{"success":"true"}"#);
    let server = Server::start([gone.clone(), gone.clone(), gone, Reply::problem(404, "api_key_not_found")]);
    let insic = Insic::of(&server);
    insic.run(&["keys", "delete", UUID]).is(0, "");
    insic.run(&["--json", "keys", "delete", "insi_text"]).is(0, "{\"status\":\"ok\"}\n");
    insic.pipe(b"insi_piped\n", &["keys", "delete", "-"]).is(0, "");
    insic.run(&["keys", "delete", UUID]).is(1, "").says("detail of api_key_not_found");
    let bodies: Vec<_> = server.requests().into_iter().map(|request| request.body).collect();
    let by_uuid = format!(r#"{{"key_uuid":"{UUID}"}}"#);
    assert_eq!(bodies, [&by_uuid, r#"{"key":"insi_text"}"#, r#"{"key":"insi_piped"}"#, &by_uuid]);
}

#[test]
fn keys_are_listed() {
    let root = r#"{"usage":{"bytes_on_disk":0,"bytes_in_memory":0},"max_limits":{}}"#;
    let page = format!(r#"{{"entities":[{},{}]}}"#, entity("a name", LIMITS), entity("root", root));
    let server =
        Server::start([Reply::json(200, &page), Reply::json(200, &page), Reply::json(200, r#"{"entities":[]}"#)]);
    let insic = Insic::of(&server);
    insic.run(&["keys", "list"]).is(
        0,
        &format!(
            "NAME    UUID                                  DISK           MEMORY         RATE/S    EXPIRES\n\
             a name  {UUID}  1024 of 1GiB   7 of 250MiB    25        never\n\
             root    {UUID}  0 of no limit  0 of no limit  no limit  never\n"
        ),
    );
    let json: serde_json::Value = serde_json::from_str(&insic.run(&["--json", "keys", "list"]).stdout).unwrap();
    assert_eq!((json[0]["key_name"].as_str(), json.as_array().unwrap().len()), (Some("a name"), 2));
    insic.run(&["--json", "keys", "list"]).is(0, "[]\n");
    assert_eq!(server.requests()[0].body, r#"{"offset":0,"limit":1000}"#);
}

#[test]
fn a_name_forges_no_row_and_does_not_act_on_the_terminal() {
    let hostile = entity(r"a\nroot\u001b[1A", LIMITS);
    let server = Server::start([
        Reply::json(200, &format!(r#"{{"entities":[{hostile}]}}"#)),
        Reply::json(200, &format!(r#"{{"entity":{hostile}}}"#)),
        Reply::json(200, &format!(r#"{{"key_name":"a\nkey   insi_forged","key":"insi_new","key_uuid":"{UUID}"}}"#)),
    ]);
    let insic = Insic::of(&server);
    let list = insic.run(&["keys", "list"]);
    assert_eq!(list.stdout.lines().nth(1).unwrap().split("  ").next(), Some(r"a\nroot\u{1b}[1A"));
    assert_eq!(list.stdout.lines().count(), 2);
    let show = insic.run(&["keys", "show", UUID]);
    assert_eq!(show.stdout.lines().next(), Some(r"name     a\nroot\u{1b}[1A"));
    let created = format!("name  a\\nkey   insi_forged\nuuid  {UUID}\nkey   insi_new\n");
    insic.run(&["keys", "create", "a\nkey   insi_forged"]).is(0, &created);
}

#[test]
fn one_key_is_shown() {
    let one = format!(r#"{{"entity":{}}}"#, entity("n", LIMITS));
    let server = Server::start(vec![Reply::json(200, &one); 3]);
    let insic = Insic::of(&server);
    insic.run(&["keys", "show", UUID]).is(
        0,
        &format!(
            "name     n\nuuid     {UUID}\nscope    s\naliases  a1, a2\nexpires  never\n\
             disk     1024 of 1GiB\nmemory   7 of 250MiB\nrate/s   25\n"
        ),
    );
    insic.run(&["--json", "keys", "show", "--alias", "a1"]).is(0, &format!("{}\n", entity("n", LIMITS)));
    insic.run(&["keys", "show"]).is(2, "");
    insic.run(&["keys", "show", UUID, "--alias", "a1"]).is(2, "");
    assert_eq!(
        server.lines(),
        ["POST /db/api/v1/admin/insight/entity", "POST /db/api/v1/admin/insight/entity_by_alias"]
    );
}

#[test]
fn limits_are_shown_and_set() {
    let server = Server::start([
        Reply::json(200, LIMITS),
        Reply::json(200, LIMITS),
        Reply::json(200, "{}"),
        Reply::json(200, "{}"),
    ]);
    let insic = Insic::of(&server);
    insic.run(&["limits", "show"]).is(
        0,
        "        USED  LIMIT\n\
         disk    1024  1GiB\n\
         memory  7     250MiB\n\
         rate/s  -     25\n",
    );
    insic.run(&["limits", "show", UUID, "--json"]).is(0, &format!("{LIMITS}\n"));
    insic.run(&["limits", "set", UUID, "--bytes-on-disk", "10MiB", "--rate-per-second", "0"]).is(0, "");
    insic.run(&["--json", "limits", "set", "insi_k", "--bytes-in-memory", "5"]).is(0, "{\"status\":\"ok\"}\n");
    insic.run(&["limits", "set", UUID]).is(2, "");
    insic.run(&["limits", "set", UUID, "--bytes-on-disk", "1.5GiB"]).is(2, "").says("a whole number of bytes");
    let asked: Vec<_> = server.requests().into_iter().map(|request| (request.line(), request.body)).collect();
    let disk =
        format!(r#"{{"key_uuid":"{UUID}","limits":{{"bytes_on_disk":10485760,"rate_per_second_data_limit":0}}}}"#);
    let expected = [
        ("GET /db/api/v1/limits", ""),
        ("POST /db/api/v1/admin/limits/get", &format!(r#"{{"key_uuid":"{UUID}"}}"#)),
        ("POST /db/api/v1/admin/limits/set", &disk),
        ("POST /db/api/v1/admin/limits/set", r#"{"api_key":"insi_k","limits":{"bytes_in_memory":5}}"#),
    ];
    assert_eq!(asked, expected.map(|(line, body)| (line.to_owned(), body.to_owned())));
}

#[test]
fn aliases() {
    let server = Server::start([
        Reply::json(200, r#"{"alias":"insi_a"}"#),
        Reply::json(200, r#"{"aliases":["a1","a2"]}"#),
        Reply::json(200, r#"{"aliases":["a1","a2"]}"#),
        Reply::json(200, r#"{"status":"ok"}"#),
        Reply::problem(400, "too_many_aliases"),
    ]);
    let insic = Insic::of(&server);
    insic.run(&["alias", "create"]).is(0, "insi_a\n").says("shown this once");
    insic.run(&["alias", "list"]).is(0, "a1\na2\n");
    insic.run(&["alias", "list", "--json"]).is(0, "{\"aliases\":[\"a1\",\"a2\"]}\n");
    insic.run(&["alias", "delete", "a1"]).is(0, "");
    insic.run(&["alias", "create"]).is(3, "").says("insic alias delete");
    assert_eq!(server.requests()[3].body, r#"{"alias":"a1"}"#);
}
