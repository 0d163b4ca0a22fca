//! A server that keeps what it is given, as a node does, and counts what it is asked; a test may put faults in.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;

/// What a test does to a request.
pub(crate) enum Fault {
    /// Nothing: it is served.
    None,
    /// It is refused.
    Refuse(u16, &'static str),
    /// The connection is closed without an answer.
    HangUp,
}

/// What was asked of the stores, in the order of arrival.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) api_key: String,
    pub(crate) key: String,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    stored: HashMap<(String, String), String>,
}

/// What becomes of a request, by its number and what it asks.
type Decide = dyn Fn(usize, &Asked) -> Fault + Send + Sync;

struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
    /// Decides by the number of the request. Called while everything else waits: what it does, all connections feel.
    fault: Box<Decide>,
    rate_limit: Option<u64>,
    is_over: AtomicBool,
}

/// The running server; it ends with the value.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn start() -> Self {
        Self::faulty(None, |_, _| Fault::None)
    }

    /// With a rate limit that it tells, and leaves to `fault`.
    pub(crate) fn faulty(
        rate_limit: Option<u64>,
        fault: impl Fn(usize, &Asked) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            arrived: Condvar::new(),
            fault: Box::new(fault),
            rate_limit,
            is_over: AtomicBool::new(false),
        });
        #[expect(clippy::disallowed_methods, reason = "a test's own thread")]
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if shared.is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let shared = shared.clone();
                    #[expect(clippy::disallowed_methods, reason = "a test's own thread")]
                    std::thread::spawn(move || serve(stream, &shared));
                }
            }
        });
        Self { shared, address, acceptor: Some(acceptor) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.state.lock().unwrap().asked.clone()
    }

    /// How many requests were of this kind, by the beginning of their lines.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.asked().iter().filter(|asked| asked.line.starts_with(line)).count()
    }

    /// What is stored, by API key and key.
    pub(crate) fn stored(&self) -> HashMap<(String, String), String> {
        self.shared.state.lock().unwrap().stored.clone()
    }

    /// Waits until so many requests have arrived.
    pub(crate) fn wait_for(&self, count: usize) {
        let state = self.shared.state.lock().unwrap();
        drop(self.shared.arrived.wait_while(state, |state| state.asked.len() < count).unwrap());
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }
}

struct Request {
    line: String,
    api_key: String,
    body: Vec<u8>,
}

fn serve(stream: TcpStream, shared: &Shared) {
    stream.set_nodelay(true).unwrap();
    let mut connection = BufReader::new(stream);
    while let Some(request) = read_request(&mut connection) {
        let Some((status, body)) = answer(&request, shared) else { return };
        // Pages are chunked, since a node writes them as it reads them.
        let text = if status == 200 && body.starts_with('[') {
            format!("HTTP/1.1 200 S\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
        } else {
            format!(
                "HTTP/1.1 {status} S\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        if connection.get_mut().write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(request: &Request, shared: &Shared) -> Option<(u16, String)> {
    let path = request.line.split(' ').nth(1).unwrap().trim_start_matches("/db/api/v1").to_owned();
    if path == "/ping" {
        let pong = r#"{"status":"ok","entity":"demo","node":"1","leader":"1","uptime":"3s"}"#;
        return Some((200, pong.to_owned()));
    }
    if path == "/limits" {
        let limit =
            shared.rate_limit.map_or_else(String::new, |limit| format!(r#""rate_per_second_data_limit":{limit}"#));
        let usage = r#"{"bytes_on_disk":0,"bytes_in_memory":0}"#;
        return Some((200, format!(r#"{{"usage":{usage},"max_limits":{{{limit}}}}}"#)));
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let query = |name: &str| {
        let (_, query) = path.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    let key = body["key"].as_str().map(str::to_owned).or_else(|| query("key")).unwrap_or_default();
    let asked = Asked { line: request.line.clone(), api_key: request.api_key.clone(), key: key.clone() };
    let mut state = shared.state.lock().unwrap();
    let number = state.asked.len();
    state.asked.push(asked.clone());
    shared.arrived.notify_all();
    match (shared.fault)(number, &asked) {
        Fault::None => {}
        Fault::HangUp => return None,
        Fault::Refuse(status, code) => return Some(problem(status, code)),
    }
    let text = |field: &str| body[field].as_str().unwrap().to_owned();
    let place = (asked.api_key, key);
    let stored = state.stored.get(&place).cloned();
    let route = path.split('?').next().unwrap();
    Some(match (asked.line.split(' ').next().unwrap(), route) {
        ("GET", "/vs" | "/cache") => match stored {
            Some(value) => (200, format!(r#"{{"data":"{value}"}}"#)),
            None => problem(404, "key_not_found"),
        },
        ("GET", "/vs/iterate" | "/cache/iterate") => (200, r#"["a","b"]"#.to_owned()),
        ("DELETE", "/vs" | "/cache") => {
            state.stored.remove(&place);
            (200, "{}".to_owned())
        }
        ("POST", "/vs/bump") => {
            let sum = stored.map_or(0, |sum| sum.parse().unwrap()) + text("value").parse::<i64>().unwrap();
            state.stored.insert(place, sum.to_string());
            (200, format!(r#"{{"data":"{sum}"}}"#))
        }
        ("POST", "/vs" | "/cache") => {
            state.stored.insert(place, text("value"));
            (200, "{}".to_owned())
        }
        ("POST", "/vs/setnx" | "/cache/setnx") if stored.is_none() => {
            state.stored.insert(place, text("value"));
            (200, "{}".to_owned())
        }
        ("POST", "/vs/setnx" | "/cache/setnx") => problem(409, "key_exists"),
        ("POST", "/vs/cas" | "/cache/cas") if stored == Some(text("old_value")) => {
            state.stored.insert(place, text("new_value"));
            (200, "{}".to_owned())
        }
        ("POST", "/vs/cas" | "/cache/cas") => problem(409, "value_differs"),
        _ => problem(404, "route_not_found"),
    })
}

fn problem(status: u16, code: &str) -> (u16, String) {
    (status, format!(r#"{{"type":"about:blank","title":"T","status":{status},"detail":"D","code":"{code}"}}"#))
}

/// `None` when the client is gone.
fn read_request(connection: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    connection.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    let mut request = Request { line: line.trim_end().to_owned(), api_key: String::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                request.api_key = value.trim_start_matches("Bearer ").to_owned();
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                request.body = vec![0; value.parse().unwrap()];
            }
            Some(_) => {}
            None => break,
        }
    }
    connection.read_exact(&mut request.body).ok()?;
    Some(request)
}
