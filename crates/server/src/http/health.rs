//! What monitors ask, on the private listener, without a key.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use tokio::time::Instant;

use crate::{
    http::{App, error::Error, router::Operation},
    service,
};

/// How long a readiness probe waits for a linearizable read.
const READY_TIME_MAX: Duration = Duration::from_secs(1);

/// Serves a probe; any other operation has no business here.
pub(crate) async fn serve(app: &App, operation: Operation) -> Result<Response, Error> {
    match operation {
        Operation::Live => Ok(text("ok".to_owned(), "text/plain; charset=utf-8")),
        Operation::Ready => {
            app.service.both(Instant::now() + READY_TIME_MAX).await?;
            app.service.check_cache_vote()?;
            app.callers.check_shares()?;
            // Last, so that it is of now: without it the node refuses what it could read.
            app.service.check_lease()?;
            Ok(text("ok".to_owned(), "text/plain; charset=utf-8"))
        }
        Operation::Metrics => {
            let metrics = app.metrics.encode(app)?;
            Ok(text(metrics, "application/openmetrics-text; version=1.0.0; charset=utf-8"))
        }
        other => Err(service::Error::Internal(format!("{other:?} is served without a key")).into()),
    }
}

fn text(body: String, content_type: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
