//! What the black-box tests share: the real server as a child process, and a plain HTTP/1.1 client on a socket that
//! can also send what no library would.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests have real threads")]

pub(crate) mod books;
pub(crate) mod cluster;
pub(crate) mod history;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const BASE: &str = "/db/api/v1";

/// Waits until `condition` yields a value; panics with `what` when it never does.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        // Only the pace of polling: the condition decides.
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// `insid dev` as a child process on free ports. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) public: SocketAddr,
    pub(crate) private: SocketAddr,
    pub(crate) root_key: String,
    pub(crate) dir: PathBuf,
}

impl Server {
    /// Starts a server on `dir`, and returns when it says that it is ready.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[], &[])
    }

    pub(crate) fn start_with(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_by(Command::new(INSID), dir, args, env)
    }

    /// Starts a server at these addresses, public and private; returns when it says that it is ready.
    pub(crate) fn start_at(dir: &Path, [public, private]: [SocketAddr; 2]) -> Self {
        let addresses = [public, private].map(|address| address.to_string());
        let mut program = Command::new(INSID);
        program.arg("dev").arg("--data-dir").arg(dir).args(["--public", &addresses[0], "--private", &addresses[1]]);
        let mut child = piped(program);
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = said.any(|line| line.unwrap().contains("InsiDB is ready"));
        if !is_ready {
            let mut why = String::new();
            child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            panic!("insid ended at its start: {why}");
        }
        std::thread::spawn(move || drop(said.last()));
        drain(&mut child);
        let root_key = std::fs::read_to_string(dir.join("root.key")).unwrap().trim().to_owned();
        Self { child, public, private, root_key, dir: dir.to_owned() }
    }

    /// Starts a server that the system lets have no more than so many files open.
    pub(crate) fn start_with_files(dir: &Path, files: u32, env: &[(&str, &str)]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), INSID]);
        Self::start_by(shell, dir, &[], env)
    }

    fn start_by(program: Command, dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let addresses = dir.join("addresses.json");
        // Left from a killed process, it would name ports that nobody listens on.
        drop(std::fs::remove_file(&addresses));
        let mut child = spawn_by(program, dir, args, env);
        let found = wait_for("addresses.json", || {
            if let Some(status) = child.try_wait().unwrap() {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("insid ended at its start with {status}: {said}");
            }
            let json = std::fs::read(&addresses).ok()?;
            serde_json::from_slice::<serde_json::Value>(&json).ok()
        });
        let address = |name: &str| found[name].as_str().unwrap().parse().unwrap();
        drain(&mut child);
        Self {
            public: address("public"),
            private: address("private"),
            root_key: std::fs::read_to_string(dir.join("root.key")).unwrap().trim().to_owned(),
            dir: dir.to_owned(),
            child,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process as a power cut would end its memory.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name: `TERM`, `INT`, `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end by itself; its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        wait_for("the server to end", || self.child.try_wait().unwrap()).code()
    }

    /// A tenant's key with ample limits.
    pub(crate) fn create_key(&self, name: &str) -> String {
        let (key, uuid) = self.create_key_with_id(name);
        let limits = serde_json::json!({"key_uuid": uuid, "limits": {"rate_per_second_data_limit": 10_000_000}});
        let answer = self.admin("POST", "/admin/limits/set", &limits.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
        key
    }

    /// A tenant's key with the default limits, and its public id.
    pub(crate) fn create_key_with_id(&self, name: &str) -> (String, String) {
        let body = serde_json::json!({ "key_name": name }).to_string();
        let answer = self.admin("POST", "/admin/api/create", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json = answer.json();
        (json["key"].as_str().unwrap().to_owned(), json["key_uuid"].as_str().unwrap().to_owned())
    }

    /// A request to the private listener with the root key.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &str) -> Answer {
        Client::connect(self.private).key(&self.root_key).request(method, path, body)
    }

    /// A client of the public listener with this key.
    pub(crate) fn client(&self, key: &str) -> Client {
        Client::connect(self.public).key(key)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Starts `insid dev` without waiting for it.
pub(crate) fn spawn(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Child {
    spawn_by(Command::new(INSID), dir, args, env)
}

/// The server's program.
const INSID: &str = env!("CARGO_BIN_EXE_insid");

fn spawn_by(mut program: Command, dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Child {
    program
        .arg("dev")
        .arg("--data-dir")
        .arg(dir)
        .args(["--public", "127.0.0.1:0", "--private", "127.0.0.1:0"])
        .args(args)
        .envs(env.iter().copied());
    piped(program)
}

fn piped(mut program: Command) -> Child {
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Reads away what the child says, so that a full pipe never stops it; kept beside its data for a look after a failure.
fn drain(child: &mut Child) {
    fn pump(stream: Option<impl Read + Send + 'static>) {
        let Some(mut stream) = stream else { return };
        std::thread::spawn(move || drop(std::io::copy(&mut stream, &mut std::io::sink())));
    }
    pump(child.stdout.take());
    pump(child.stderr.take());
}

/// An HTTP answer, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

/// One connection. `try_request` fails as the socket does; `request` panics then.
pub(crate) struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
    authorization: Option<String>,
    accept: &'static str,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap()
    }

    pub(crate) fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { address, stream: BufReader::new(stream), authorization: None, accept: "*/*" })
    }

    pub(crate) fn key(mut self, key: &str) -> Self {
        self.authorization = Some(format!("Bearer {key}"));
        self
    }

    /// Asks for errors as problem documents, which carry their code.
    pub(crate) fn problems(mut self) -> Self {
        self.accept = "application/problem+json";
        self
    }

    /// Waits no longer than this for an answer.
    pub(crate) fn patience(self, wait: Duration) -> std::io::Result<Self> {
        self.stream.get_ref().set_read_timeout(Some(wait))?;
        Ok(self)
    }

    /// `path` is below the base path and already encoded.
    pub(crate) fn request(&mut self, method: &str, path: &str, body: &str) -> Answer {
        self.try_request(method, path, body).unwrap()
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    pub(crate) fn post(&mut self, path: &str, body: serde_json::Value) -> Answer {
        self.request("POST", path, &body.to_string())
    }

    pub(crate) fn try_request(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
        let authorization =
            self.authorization.as_ref().map(|it| format!("Authorization: {it}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {BASE}{path} HTTP/1.1\r\nHost: {}\r\n{authorization}Accept: {}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            self.accept,
            body.len()
        );
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body.as_bytes());
        self.send(&bytes)?;
        self.read_answer(method)
    }

    /// Sends these bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Tells the server that nothing more will be sent.
    pub(crate) fn close_sending(&mut self) {
        self.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Reads one answer. `method` decides whether a body follows.
    pub(crate) fn read_answer(&mut self, method: &str) -> std::io::Result<Answer> {
        let status_line = self.line()?;
        let status =
            status_line.split(' ').nth(1).and_then(|it| it.parse().ok()).ok_or_else(|| malformed(&status_line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if method != "HEAD" && status >= 200 && status != 204 && status != 304 {
            answer.body = self.body(&answer)?;
        }
        Ok(answer)
    }

    fn body(&mut self, answer: &Answer) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if answer.header("transfer-encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(&size, 16).map_err(|_| malformed(&size))?;
                let mut chunk = vec![0; size + 2];
                self.stream.read_exact(&mut chunk)?;
                if size == 0 {
                    return Ok(body);
                }
                body.extend_from_slice(&chunk[..size]);
            }
        }
        match answer.header("content-length") {
            Some(length) => {
                body.resize(length.parse().map_err(|_| malformed(length))?, 0);
                self.stream.read_exact(&mut body)?;
            }
            None => {
                self.stream.read_to_end(&mut body)?;
            }
        }
        Ok(body)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Reads to the end of what the server sends; panics when the end does not come.
    pub(crate) fn read_to_close(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("not closed: {error}"),
            Ok(_) | Err(_) => rest,
        }
    }
}

/// A request over TLS that trusts this certificate alone.
pub(crate) fn https(address: SocketAddr, certificate: &Path) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = Stream::new(&mut connection, &mut socket);
    stream.write_all(b"GET /db/api/v1/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A request whose head and half of whose body have been sent.
pub(crate) struct Late {
    client: Client,
    rest: Vec<u8>,
}

impl Late {
    /// Returns when the server has the request in hand: its key has been looked at.
    pub(crate) fn begin(server: &Server, key: &str, path: &str, body: &serde_json::Value) -> Self {
        let mut client = Client::connect(server.public);
        let body = body.to_string();
        let (half, rest) = body.as_bytes().split_at(body.len() / 2);
        let head = format!(
            "POST {BASE}{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nExpect: 100-continue\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        client.send(head.as_bytes()).unwrap();
        // The server says "continue" when the handler asks for the body: past the look at the key.
        assert_eq!(client.read_answer("POST").unwrap().status, 100);
        client.send(half).unwrap();
        Self { client, rest: rest.to_vec() }
    }

    pub(crate) fn finish(mut self) -> Answer {
        self.client.send(&self.rest).unwrap();
        self.client.read_answer("POST").unwrap()
    }
}

fn malformed(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, format!("malformed answer: {what:?}"))
}

/// Percent-encodes a query value.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (byte as char).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// A small generator of pseudo-random numbers (xorshift64*), so that a failing run can name its seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
