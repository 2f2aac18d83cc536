//! A private Prometheus that scrapes a pool, and what it answers.
//!
//! Invariant: it ends with the thread that started it, and with its handle at the latest.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::SCRAPE_SECS;
use crate::pool::{Pool, READY_WITHIN, free_address};

/// Its targets, as a file that it reads again whenever it changes.
const TARGETS: &str = "targets.json";
/// Seconds between two values of a range.
const STEP_SECS: u32 = 5;
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// It looks for new targets every five seconds, and scrapes each for the first time some seconds later.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// A running Prometheus.
pub(super) struct Prometheus {
    child: Child,
    address: SocketAddr,
    directory: PathBuf,
    client: reqwest::Client,
}

/// What a query came to.
#[derive(Debug)]
pub(super) struct Reading {
    /// Every value of every series; what is no number counts as none.
    values: Vec<f64>,
}

impl Reading {
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(super) fn is_flat(&self) -> bool {
        self.values.iter().all(|value| *value == 0.0)
    }
}

/// An alert as Prometheus has read and evaluated it.
#[derive(Debug)]
pub(super) struct Alert {
    pub(super) name: String,
    pub(super) query: String,
    /// `ok` where the last evaluation worked.
    pub(super) health: String,
    pub(super) error: String,
}

impl Prometheus {
    /// Starts it on the metrics of the pool's parts, with these rules.
    pub(super) async fn start(pool: &Pool, rules: &Path) -> anyhow::Result<Prometheus> {
        let directory = pool.directory().join("prometheus");
        std::fs::create_dir(&directory)?;
        std::fs::write(directory.join("prometheus.yaml"), configuration(rules).to_string())?;
        write_targets(&directory, pool)?;
        let address = free_address();
        let log = File::create(directory.join("log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "prometheus", "--log.level=warn"])
            .arg(format!("--web.listen-address={address}"))
            .arg(format!("--config.file={}", directory.join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start prometheus by setpriv, of the Debian packages prometheus and util-linux")?;
        let client = reqwest::Client::builder().timeout(ANSWER_WITHIN).build()?;
        let mut prometheus = Prometheus { child, address, directory, client };
        prometheus.until_ready().await?;
        Ok(prometheus)
    }

    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + READY_WITHIN;
        let url = format!("http://{}/-/ready", self.address);
        while Instant::now() < end {
            if self.client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("prometheus ended: {status}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("prometheus is not ready within {READY_WITHIN:?}\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Scrapes the parts as they are now, for one that was started again has another address, and waits until it has reached each:
    /// it takes up new targets some seconds later, and what is asked before shows nobody there.
    pub(super) async fn follow(&self, pool: &Pool) -> anyhow::Result<()> {
        write_targets(&self.directory, pool)?;
        let end = Instant::now() + FOLLOWS_WITHIN;
        for part in pool.dispatchers.iter().chain(&pool.workers) {
            let is_up = format!("up{{instance=\"{}\"}} == 1", part.metrics);
            while self.now(&is_up).await?.is_empty() {
                ensure!(
                    Instant::now() < end,
                    "prometheus has not reached {} within {FOLLOWS_WITHIN:?}\n{}",
                    part.name(),
                    self.log()
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// The value of a query now.
    pub(super) async fn now(&self, query: &str) -> anyhow::Result<Reading> {
        let data = self.ask("query", &[("query", query.to_owned())]).await?;
        Ok(Reading {
            values: data["result"].as_array().into_iter().flatten().filter_map(|one| number(&one["value"])).collect(),
        })
    }

    /// Its values over the last seconds.
    pub(super) async fn range(&self, query: &str, secs: u64) -> anyhow::Result<Reading> {
        let now = jiff::Timestamp::now().as_second();
        let from = now - i64::try_from(secs)?;
        let asked = [
            ("query", query.to_owned()),
            ("start", from.to_string()),
            ("end", now.to_string()),
            ("step", STEP_SECS.to_string()),
        ];
        let data = self.ask("query_range", &asked).await?;
        let series = data["result"].as_array().into_iter().flatten();
        let values = series.flat_map(|one| one["values"].as_array().into_iter().flatten()).filter_map(number);
        Ok(Reading { values: values.collect() })
    }

    /// Every alert of the rules.
    pub(super) async fn alerts(&self) -> anyhow::Result<Vec<Alert>> {
        let data = self.ask("rules", &[]).await?;
        let groups = data["groups"].as_array().context("no groups of rules")?;
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alerts: Vec<Alert> = rules
            .map(|rule| Alert {
                name: text(&rule["name"]),
                query: text(&rule["query"]),
                health: text(&rule["health"]),
                error: text(&rule["lastError"]),
            })
            .collect();
        ensure!(!alerts.is_empty(), "prometheus has no rules\n{}", self.log());
        Ok(alerts)
    }

    async fn ask(&self, what: &str, asked: &[(&str, String)]) -> anyhow::Result<Value> {
        let url = format!("http://{}/api/v1/{what}", self.address);
        let answer =
            self.client.get(&url).query(asked).send().await.with_context(|| format!("ask prometheus {asked:?}"))?;
        let mut answer: Value = answer.json().await?;
        ensure!(answer["status"] == "success", "prometheus says of {asked:?}: {answer}");
        Ok(answer["data"].take())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// JSON is YAML too.
fn configuration(rules: &Path) -> Value {
    let every = format!("{SCRAPE_SECS}s");
    let job = |name: &str, file: &str| json!({"job_name": name, "file_sd_configs": [{"files": [file]}]});
    json!({
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": [rules],
        "scrape_configs": [
            job("ffpool-dispatcher", &format!("dispatcher-{TARGETS}")),
            job("ffpool-worker", &format!("worker-{TARGETS}")),
        ],
    })
}

/// Written beside and moved, so that a half is never read.
fn write_targets(directory: &Path, pool: &Pool) -> anyhow::Result<()> {
    for (kind, parts) in [("dispatcher", &pool.dispatchers), ("worker", &pool.workers)] {
        let addresses: Vec<String> = parts.iter().map(|part| part.metrics.to_string()).collect();
        let path = directory.join(format!("{kind}-{TARGETS}"));
        let beside = path.with_extension("new");
        std::fs::write(&beside, json!([{"targets": addresses}]).to_string())?;
        std::fs::rename(&beside, &path)?;
    }
    Ok(())
}

/// The number of `[time, "number"]`.
fn number(sample: &Value) -> Option<f64> {
    sample[1].as_str()?.parse().ok().filter(|value: &f64| !value.is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_counts_as_none() {
        let numbers = [json!([1, "0.5"]), json!([1, "NaN"]), json!([1, "+Inf"])];
        let values: Vec<f64> = numbers.iter().filter_map(number).collect();
        assert_eq!(values, [0.5, f64::INFINITY]);
        assert!(Reading { values: Vec::new() }.is_empty() && Reading { values: vec![0.0, 0.0] }.is_flat());
    }
}
