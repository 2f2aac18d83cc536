//! The body of a request, with bounds on its size and its time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use ffpool_schema::message::MAX_BODY_BYTES;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use crate::api::problem::{Answer, ApiError, Kind};

/// A body that has not arrived by then is given up, so that a slow client does not hold a connection for ever.
const BODY_BOUND: Duration = Duration::from_secs(30);
/// So much of a body that is too large is read and thrown away, so that its client gets to read the answer.
const DRAINED_BYTES: usize = 64 * 1024 * 1024;

/// The body of a request, up to the size of a job.
pub(crate) async fn read(body: Body) -> Answer<Bytes> {
    let late = || {
        let detail = format!("the body did not arrive within {} s; send it again", BODY_BOUND.as_secs());
        ApiError::new(Kind::RequestTimeout, detail)
    };
    tokio::time::timeout(BODY_BOUND, read_bounded(body)).await.unwrap_or_else(|_| Err(late()))
}

async fn read_bounded(body: Body) -> Answer<Bytes> {
    let mut kept = Vec::new();
    let mut length = 0;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::bad_parameter("body", format!("it broke off: {error}")))?;
        length += chunk.len();
        if length <= MAX_BODY_BYTES {
            kept.extend_from_slice(&chunk);
        } else if length > DRAINED_BYTES {
            break;
        }
    }
    if length > MAX_BODY_BYTES {
        return Err(ApiError::new(
            Kind::TooLarge,
            format!("a job may have {MAX_BODY_BYTES} bytes at most; keep media out of it and give its address"),
        ));
    }
    Ok(kept.into())
}

/// What a body in JSON says; without a body, what is said by nothing.
pub(crate) async fn read_json_or_default<T: DeserializeOwned + Default>(body: Body) -> Answer<T> {
    let body = read(body).await?;
    if body.is_empty() { Ok(T::default()) } else { parse(&body) }
}

/// What a body in JSON says.
pub(crate) async fn read_json<T: DeserializeOwned>(body: Body) -> Answer<T> {
    parse(&read(body).await?)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Answer<T> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_parameter("body", format!("{error}; GET /openapi.json says what is expected")))
}
