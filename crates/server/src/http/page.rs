//! A page of keys, written out as it is read: a legal page can hold 1 GiB.
//!
//! 1. A blocking thread reads the keys of one view and writes them as JSON into pieces.
//! 2. The pieces go through a short channel: a slow client holds the thread back, not the node's memory. The number
//!    of such threads is bounded, and so is what all answers hold that their clients have not taken.
//! 3. A page that fits the first piece is answered whole, with its length. A longer one is streamed; when reading it
//!    fails half way, the connection is broken off, so that nobody takes the half for the whole.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use bytes::Bytes;
use consensus::env::{Env, block_on};
use futures_util::stream;
use state::{ids::ScopeId, kv::Page};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    http::{
        App,
        error::Error,
        pool::{Holdings, Pool, count_answer},
        router::IterateForm,
    },
    service::{self, AnyReader},
};

/// A piece is sent once it holds this many bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// How long a request waits for a thread. A node that has none for so long has too many such requests already.
const THREAD_WAIT_MAX: Duration = Duration::from_secs(1);
/// Pieces that wait for the client.
const PIECES_WAITING_MAX: usize = 2;

/// What to read, from where, in which form.
pub(crate) struct Request {
    /// One view of the store.
    pub(crate) reader: AnyReader,
    /// Whose keys.
    pub(crate) scope: ScopeId,
    /// On whose account the answer is.
    pub(crate) holdings: Option<Arc<Holdings>>,
    /// Which of them.
    pub(crate) page: Page,
    /// How to write them.
    pub(crate) form: IterateForm,
}

enum Piece {
    More(Bytes),
    Last(Bytes),
}

type Pieces = mpsc::Receiver<Result<Piece, Error>>;

/// The page as an answer.
///
/// # Errors
/// 503 when no thread is free in time, or all answers hold as much as they may; 500 when the first piece cannot be read.
pub(crate) async fn respond(app: &App, request: Request, deadline: Instant) -> Result<Response, Error> {
    let thread_until = deadline.min(Instant::now() + THREAD_WAIT_MAX);
    let permit = timeout_at(thread_until, app.scans.clone().acquire_owned())
        .await
        .map_err(|_| Error::Overloaded)?
        .expect("the semaphore is never closed");
    let (sender, mut pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let (env, pool) = (app.env.clone(), app.answer_bytes.clone());
    app.env.run_blocking(Box::new(move || {
        write(&*env, &pool, &request, &sender);
        drop(permit);
    }));
    let first = timeout_at(deadline, pieces.recv()).await.map_err(|_| Error::Overloaded)?;
    let body = match first.ok_or_else(broken_off)?? {
        Piece::Last(bytes) => Body::from(bytes),
        Piece::More(bytes) => Body::from_stream(remaining(bytes, pieces)),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The pieces from `first` on, up to the last.
fn remaining(first: Bytes, pieces: Pieces) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::unfold((Some(first), Some(pieces)), |(first, pieces)| async {
        if let Some(first) = first {
            return Some((Ok(first), (None, pieces)));
        }
        let mut pieces = pieces?;
        match pieces.recv().await.ok_or_else(broken_off).flatten() {
            Ok(Piece::More(bytes)) => Some((Ok(bytes), (None, Some(pieces)))),
            Ok(Piece::Last(bytes)) => Some((Ok(bytes), (None, None))),
            Err(error) => {
                tracing::error!(reason = ?error, "a page of keys broke off");
                Some((Err(io::Error::other("the page broke off")), (None, None)))
            }
        }
    })
}

fn broken_off() -> Error {
    service::Error::Internal("the thread that read a page of keys is gone".to_owned()).into()
}

/// Reads the page and sends its pieces; stops when nobody takes them any more, or there is no room for one.
fn write(env: &dyn Env, pool: &Arc<Pool>, request: &Request, sender: &mpsc::Sender<Result<Piece, Error>>) {
    let count = |json| count_answer(pool, request.holdings.clone(), json);
    let (open, close): (&[u8], &[u8]) = match request.form {
        IterateForm::Plain | IterateForm::LegacyArray => (b"[", b"]"),
        IterateForm::LegacyData => (b"{\"data\":[", b"]}"),
    };
    let mut json = open.to_vec();
    let mut first = true;
    let mut not_text = false;
    let mut no_room = None;
    let read = request.reader.visit_keys(request.scope, &request.page, |key| {
        let Ok(key) = std::str::from_utf8(key) else {
            not_text = true;
            return false;
        };
        if !std::mem::take(&mut first) {
            json.push(b',');
        }
        serde_json::to_writer(&mut json, key).expect("text always serializes, and memory takes every write");
        json.len() < PIECE_BYTES || {
            match count(std::mem::take(&mut json)) {
                Ok(piece) => block_on(env, sender.send(Ok(Piece::More(piece)))).is_ok(),
                Err(error) => {
                    no_room = Some(error);
                    false
                }
            }
        }
    });
    let last = match (read, no_room) {
        (Ok(()), None) if not_text => Err(service::Error::Internal("a stored key is not UTF-8".to_owned()).into()),
        (Ok(()), None) => {
            json.extend_from_slice(close);
            count(json).map(Piece::Last)
        }
        (Ok(()), Some(error)) => Err(error),
        (Err(error), _) => Err(error.into()),
    };
    // An error means that the client is gone, and with it everybody who wanted the page.
    drop(block_on(env, sender.send(last)));
}
