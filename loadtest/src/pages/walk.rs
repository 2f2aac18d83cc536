//! Goes through every list that has pages from its first to its last, and says which rows it met.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::asker::Asker;
use super::facts::Facts;
use super::questions::Who;
use super::tenant_key;
use crate::pool::Pool;

/// Rows of a page: so few that even a small list has many.
const LIMIT: u32 = 60;

/// What one list showed.
#[derive(Debug, Clone, Default)]
pub struct Walked {
    /// Pages.
    pub pages: usize,
    /// What tells its rows apart, in the order in which they came.
    pub rows: Vec<String>,
}

/// Every list of the dispatcher of `pool` that takes a cursor, by its path.
///
/// # Errors
/// When an answer is no page, or a cursor leads back.
pub async fn walk(pool: &Pool) -> anyhow::Result<BTreeMap<String, Walked>> {
    let facts = Facts::read(&pool.database_url).await?;
    let asker = Asker::open(pool, &tenant_key(pool, &facts).await?).await?;
    let description: Value = serde_json::from_str(&asker.text(Who::Key, "/openapi.json").await?)?;
    let paths = description["paths"].as_object().context("the description has paths")?;
    let mut walked = BTreeMap::new();
    for (path, methods) in paths {
        let parameters = methods["get"]["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        if parameters.iter().any(|parameter| parameter["name"] == "cursor") {
            walked.insert(path.clone(), walk_one(&asker, path).await.with_context(|| format!("walk through {path}"))?);
        }
    }
    Ok(walked)
}

async fn walk_one(asker: &Asker, path: &str) -> anyhow::Result<Walked> {
    let (mut walked, mut cursor, mut seen) = (Walked::default(), None::<String>, BTreeSet::new());
    loop {
        let after = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page: Value =
            serde_json::from_str(&asker.text(Who::Session, &format!("{path}?limit={LIMIT}{after}")).await?)?;
        let items = page["items"].as_array().context("a page has items")?;
        // An entry of the audit has no name of its own: all of it tells it apart.
        let key = |item: &Value| item["id"].as_str().map_or_else(|| item.to_string(), str::to_owned);
        walked.rows.extend(items.iter().map(key));
        walked.pages += 1;
        let Some(next) = page["next"].as_str() else { return Ok(walked) };
        ensure!(seen.insert(next.to_owned()), "the cursor {next} leads back");
        cursor = Some(next.to_owned());
    }
}
