//! A small HTTP server that answers what the test wrote down, in order, and records what it was asked.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What happens to one request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// An answer.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// The request is read, and the connection closed without an answer.
    HangUp,
    /// The request is read, and nothing comes back until the client gives up.
    #[allow(dead_code, reason = "the tests of the command line share this file, and do not wait so long")]
    Silence,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self::Answer { status, headers: vec![("content-type", "application/json".into())], body: body.into() }
    }

    pub(crate) fn problem(status: u16, code: &str) -> Self {
        let body = format!(
            r#"{{"type":"about:blank","title":"T","status":{status},"detail":"detail of {code}","code":"{code}"}}"#
        );
        Self::Answer { status, headers: vec![("content-type", "application/problem+json".into())], body }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value.to_string()));
        }
        self
    }
}

/// What the server was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Method and target, as in a request line.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// What a connection is, once any TLS is taken off.
pub(crate) trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

struct Script {
    replies: Mutex<VecDeque<Reply>>,
    requests: Mutex<Vec<Request>>,
    is_over: AtomicBool,
}

/// The running server; it ends with the value.
pub(crate) struct Server {
    script: Arc<Script>,
    address: SocketAddr,
    scheme: &'static str,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::start_with("http", replies, |stream| Box::new(stream))
    }

    pub(crate) fn start_with(
        scheme: &'static str,
        replies: impl IntoIterator<Item = Reply>,
        open: impl Fn(TcpStream) -> Box<dyn Connection> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Script {
            replies: Mutex::new(replies.into_iter().collect()),
            requests: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        #[expect(clippy::disallowed_methods, reason = "a test's own thread")]
        let acceptor = std::thread::spawn({
            let script = script.clone();
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if script.is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (script, connection) = (script.clone(), open(stream));
                    #[expect(clippy::disallowed_methods, reason = "a test's own thread")]
                    std::thread::spawn(move || serve(connection, &script));
                }
            }
        });
        Self { script, address, scheme, acceptor: Some(acceptor) }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.script.requests.lock().unwrap().clone()
    }

    /// The request lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests().iter().map(Request::line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.script.is_over.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }
}

/// A URL where nothing listens.
pub(crate) fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn serve(connection: Box<dyn Connection>, script: &Script) {
    let mut connection = BufReader::new(connection);
    while let Some(request) = read_request(&mut connection) {
        script.requests.lock().unwrap().push(request);
        let reply = script.replies.lock().unwrap().pop_front();
        match reply.unwrap_or_else(|| Reply::json(418, "the script is over")) {
            Reply::HangUp => return,
            // Ends when the client closes the connection.
            Reply::Silence => return drop(std::io::copy(&mut connection, &mut std::io::sink())),
            Reply::Answer { status, headers, body } => {
                let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let text = format!("HTTP/1.1 {status} S\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
                let writer = connection.get_mut();
                if writer.write_all(text.as_bytes()).and_then(|()| writer.flush()).is_err() {
                    return;
                }
            }
        }
    }
}

/// `None` when the client is gone.
fn read_request(connection: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    connection.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, text)| text.parse().unwrap());
    let mut body = vec![0; length];
    connection.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body: String::from_utf8(body).unwrap() })
}
