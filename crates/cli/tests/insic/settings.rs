//! Where URL and key come from, and the profile that `login` saves.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::binary::Insic;
use crate::scripted::{Reply, Server};
use crate::scripted_tls;

fn pong() -> Reply {
    Reply::json(200, r#"{"status":"ok","entity":"demo","node":"1","leader":"1","uptime":"3s"}"#)
}

fn keys(server: &Server) -> Vec<String> {
    server.requests().iter().map(|request| request.header("authorization").unwrap().to_owned()).collect()
}

#[test]
fn what_is_missing_is_told() {
    let insic = Insic::bare();
    insic.run(&["get", "k"]).is(2, "").says("error: no URL is set").says("INSIDB_URL").says("insic login");
    let insic = insic.with("INSIDB_URL", "http://127.0.0.1:1").with("INSIDB_API_KEY", "");
    insic.run(&["get", "k"]).is(2, "").says("error: no API key is set").says("INSIDB_API_KEY");
    insic.run(&["--key", "k", "keys", "list"]).is(2, "").says("error: no admin URL is set").says("INSIDB_ADMIN_URL");
    insic.run(&["--key", "k", "--ca", "/nonexistent.pem", "ping"]).is(2, "").says("/nonexistent.pem").says("--ca");
    insic.pipe(b"\n", &["--key", "-", "ping"]).is(2, "").says("empty");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_default_profile() {
    let [flag, environment, profile] = [(); 3].map(|()| Server::start(vec![pong(); 3]));
    let home = Insic::bare();
    home.run(&["login", "--url", &profile.url(), "--key", "insi_profile"]).is(0, "");
    home.run(&["ping"]).is(0, "ok: demo on node 1, up 3s; the leader is 1\n");
    let home = home.with("INSIDB_URL", environment.url()).with("INSIDB_API_KEY", "insi_env");
    home.run(&["ping"]).is(0, "ok: demo on node 1, up 3s; the leader is 1\n");
    assert_eq!(home.run(&["--url", &flag.url(), "ping"]).exit, 0);
    assert_eq!(home.pipe(b"insi_piped\n", &["ping", "--key", "-", "--url", &flag.url()]).exit, 0);
    // A profile that is named on the command line is as good as a flag.
    assert_eq!(home.run(&["--profile", "default", "ping"]).exit, 0);
    assert_eq!(keys(&flag), ["Bearer insi_env", "Bearer insi_piped"]);
    assert_eq!(keys(&environment), ["Bearer insi_env"]);
    assert_eq!(keys(&profile), ["Bearer insi_profile"; 3]);
}

#[test]
fn login_saves_a_profile_for_its_owner_alone() {
    let server = Server::start(vec![pong(); 4]);
    let insic = Insic::bare();
    let run = insic.run(&["login", "--url", &server.url(), "--admin-url", "http://localhost:1", "--key", "insi_a"]);
    run.is(0, "").says("Saved as profile `default` in ");
    let file = fs::metadata(insic.profiles()).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    let directory = fs::metadata(insic.profiles().parent().unwrap()).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700);

    // A second one stands beside it, and an old file that others may read is closed.
    fs::set_permissions(insic.profiles(), fs::Permissions::from_mode(0o644)).unwrap();
    let saved = insic.pipe(b"insi_b\n", &["--json", "login", "--profile", "b", "--url", &server.url(), "--key", "-"]);
    saved.is(0, &format!("{{\"profile\":\"b\",\"path\":\"{}\"}}\n", insic.profiles().display()));
    assert_eq!(fs::metadata(insic.profiles()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        fs::read_to_string(insic.profiles()).unwrap(),
        format!(
            "[b]\nurl = [\"{url}\"]\nkey = \"insi_b\"\n\n\
             [default]\nurl = [\"{url}\"]\nadmin_url = [\"http://localhost:1\"]\nkey = \"insi_a\"\n",
            url = server.url()
        )
    );

    // A new key for a known URL.
    insic.run(&["login", "--profile", "b", "--key", "insi_c"]).is(0, "");
    assert_eq!(insic.run(&["ping", "--profile", "b"]).exit, 0);
    assert_eq!(keys(&server), ["Bearer insi_a", "Bearer insi_b", "Bearer insi_c", "Bearer insi_c"]);
}

#[test]
fn login_saves_nothing_that_does_not_work() {
    let server = Server::start([Reply::problem(401, "unauthorized")]);
    let insic = Insic::bare();
    insic.run(&["login", "--key", "insi_a"]).is(2, "").says("no URL is set");
    insic.run(&["login", "--url", &server.url(), "--key", "insi_a"]).is(3, "").says("error: detail of unauthorized");
    insic.run(&["login", "--url", "nonsense", "--key", "insi_a", "--no-check"]).is(2, "").says("a URL is refused");
    assert!(!insic.profiles().exists());
    insic.run(&["login", "--url", &server.url(), "--key", "insi_a", "--no-check"]).is(0, "");
    assert!(insic.profiles().exists());
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_profile_that_is_not_there_or_not_legible() {
    let insic = Insic::bare();
    insic.run(&["--profile", "p", "ping"]).is(2, "").says("there is no profile `p`").says("none is saved yet");
    insic.run(&["login", "--url", "http://localhost:1", "--key", "insi_a", "--no-check"]).is(0, "");
    insic.run(&["--profile", "p", "ping"]).is(2, "").says("there are default;");

    fs::write(insic.profiles(), "[default]\nkey = insi_secret\n").unwrap();
    let run = insic.run(&["ping"]);
    run.is(2, "").says("is no file of profiles: see line 2").says("insic login");
    assert!(!run.stderr.contains("insi_secret"));

    // The mistake begins with its line.
    fs::write(insic.profiles(), "[default]\nsecret = 1\n").unwrap();
    insic.run(&["ping"]).is(2, "").says("is no file of profiles: see line 2");
}

#[test]
fn a_private_ca_is_trusted_and_kept_in_the_profile() {
    let (server, pem) = scripted_tls::start([pong(), pong()]);
    let insic = Insic::bare();
    let ca = insic.home.path().join("ca.pem");
    fs::write(&ca, pem).unwrap();
    insic.run(&["login", "--url", &server.url(), "--key", "insi_a", "--ca", ca.to_str().unwrap()]).is(0, "");
    assert_eq!(insic.run(&["ping"]).exit, 0);
    fs::write(&ca, "nothing").unwrap();
    insic.run(&["ping"]).is(2, "").says("the CA certificate is refused");
}

#[test]
fn a_node_that_speaks_https_is_not_asked_in_the_clear_again() {
    for command in [&["ping"][..], &["set", "k", "v"]] {
        let (server, _) = scripted_tls::start([pong()]);
        let plain = server.url().replace("https://", "http://");
        let run = Insic::bare().with("INSIDB_URL", plain).with("INSIDB_API_KEY", "insi_a").run(command);
        assert_ne!(run.exit, 0);
        run.says("Try the URL with https://");
    }
}

#[test]
fn several_urls_are_tried_in_turn() {
    let server = Server::start(vec![pong(); 3]);
    let nowhere = crate::scripted::nowhere;
    let urls = format!("{}, {}", nowhere(), server.url());
    let insic = Insic::bare().with("INSIDB_URL", &urls).with("INSIDB_API_KEY", "insi_env");
    assert_eq!(insic.run(&["ping"]).exit, 0);
    assert_eq!(insic.run(&["--url", &urls, "ping"]).exit, 0);
    assert_eq!(insic.run(&["--url", &nowhere(), "--url", &server.url(), "ping"]).exit, 0);
    assert_eq!(server.requests().len(), 3);
}
