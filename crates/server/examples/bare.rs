//! The bare limit that `bench/run.py` measures `insid` beside: an HTTP server that reads the same requests and writes the same
//! answers, and stores nothing.
//!
//! It listens on a free port of loopback and says on standard output which. Its argument is the length in bytes of the value that
//! every get answers: 100 unless given.

use std::io;

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
    serve::ListenerExt as _,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// A body of `set`.
#[derive(Deserialize)]
struct Set {
    key: String,
    value: String,
}

/// The query of `get`.
#[derive(Deserialize)]
struct Get {
    key: String,
}

#[derive(Serialize)]
struct Done {
    status: &'static str,
}

#[derive(Serialize)]
struct Found {
    data: &'static str,
}

/// What `insic bench` asks first.
#[derive(Serialize)]
struct Pong {
    status: &'static str,
    entity: &'static str,
    node: &'static str,
    leader: &'static str,
    uptime: &'static str,
}

const VALUE_BYTES: usize = 100;

async fn set(Json(Set { key, value }): Json<Set>) -> Json<Done> {
    // What is read is used, or it could be left out.
    std::hint::black_box((key, value));
    Json(Done { status: "ok" })
}

async fn pong() -> Json<Pong> {
    Json(Pong { status: "ok", entity: "bare", node: "", leader: "", uptime: "" })
}

async fn found(State(data): State<&'static str>, Query(Get { key }): Query<Get>) -> Json<Found> {
    std::hint::black_box(key);
    Json(Found { data })
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let value_bytes = match std::env::args().nth(1) {
        Some(text) => text.parse().map_err(io::Error::other)?,
        None => VALUE_BYTES,
    };
    // It lives as long as the process.
    let value: &'static str = "x".repeat(value_bytes).leak();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    #[allow(clippy::print_stdout, reason = "whoever starts it reads the address there")]
    {
        println!("{}", listener.local_addr()?);
    }
    let routes = || get(found).post(set);
    let stores = Router::new().route("/db/api/v1/vs", routes()).route("/db/api/v1/cache", routes());
    let app = stores.route("/db/api/v1/ping", get(pong)).with_state(value);
    // As insid does it: answers do not wait for more to send.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, app).await
}
