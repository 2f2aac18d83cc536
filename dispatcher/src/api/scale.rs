//! How many workers there should be.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use ffpool_schema::advice::{ScaleAnswer, WaitTargets, Wishes};
use ffpool_schema::job::Pool;

use crate::api::App;
use crate::api::problem::{Answer, ApiError};
use crate::api::query::{self, Query};

/// `GET /v1/scale`
pub(crate) async fn advise(State(app): State<App>, uri: Uri) -> Answer<Json<ScaleAnswer>> {
    let query = Query::read(&uri, query::SCALE)?;
    let wishes = wishes(&query, app.scaling.targets)?;
    let pool = query.text("pool").map(str::parse::<Pool>).transpose();
    Ok(Json(match pool.map_err(|error| ApiError::bad_parameter("pool", error.to_string()))? {
        Some(pool) => ScaleAnswer::Pool(Box::new(app.scaling.advise_one(&pool, &wishes).await?)),
        None => ScaleAnswer::Pools { pools: app.scaling.advise_all(&wishes).await? },
    }))
}

fn wishes(query: &Query, targets: WaitTargets) -> Answer<Wishes> {
    let (min, max) = (query.integer("min")?.unwrap_or(0), query.integer("max")?);
    if let Some(max) = max.filter(|max| *max < min) {
        return Err(ApiError::bad_parameter("max", format!("{max} is less than `min`, which is {min}")));
    }
    let targets = WaitTargets {
        live: query.integer("wait_live")?.unwrap_or(targets.live),
        default: query.integer("wait_default")?.unwrap_or(targets.default),
        batch: query.integer("wait_batch")?.unwrap_or(targets.batch),
    };
    Ok(Wishes { min, max, slots: query.integer("slots")?, targets })
}
