//! Asks a dispatcher over TLS, as a program with a key and as a browser with a session, and notes how long it took.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use futures_util::future::join_all;
use reqwest::header::{ACCEPT_ENCODING, COOKIE, SET_COOKIE};
use serde_json::Value;

use super::Row;
use super::facts::Facts;
use super::questions::{self, Question, Until, Who};
use crate::pool::Pool;
use crate::waits::{Measured, PATIENCE};

/// Those who ask. Clones share their connections.
#[derive(Clone)]
pub(super) struct Asker {
    http: reqwest::Client,
    base: String,
    key: String,
    tenant_key: String,
    /// Of a session that the key began.
    cookie: String,
}

impl Asker {
    /// Begins the session.
    pub(super) async fn open(pool: &Pool, tenant_key: &str) -> anyhow::Result<Asker> {
        let ca = pool.api_ca.as_deref().context("the API speaks TLS")?;
        let trusted = reqwest::Certificate::from_pem_bundle(&std::fs::read(ca)?)?;
        let http = reqwest::Client::builder().tls_certs_only(trusted).timeout(PATIENCE).build()?;
        let (base, key) = (pool.api_url.clone(), pool.key.clone());
        let begun = http.post(format!("{base}/v1/session")).bearer_auth(&key).send().await?.error_for_status()?;
        let cookie = begun.headers().get(SET_COOKIE).context("a session has a cookie")?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        Ok(Asker { http, base, key, tenant_key: tenant_key.to_owned(), cookie })
    }

    /// Every question, the files of the dashboard among them.
    pub(super) async fn questions(&self, facts: &Facts) -> anyhow::Result<Vec<Question>> {
        let description: Value = serde_json::from_str(&self.text(Who::Key, "/openapi.json").await?)?;
        let mut all = match questions::all(&description, facts) {
            Ok(all) => all,
            Err(missing) => bail!("nobody has said what to ask for of {}", missing.join(", ")),
        };
        let files = self.files().await?;
        ensure!(!files.is_empty(), "the dashboard loads no files");
        all.extend(files.into_iter().map(|path| Question::one(Who::Session, path, Until::End)));
        Ok(all)
    }

    /// Every file that the dashboard's page loads, and what these load.
    async fn files(&self) -> anyhow::Result<Vec<String>> {
        let mut found: Vec<String> = named(&self.text(Who::Session, "/").await?);
        let mut next = 0;
        while let Some(path) = found.get(next).cloned() {
            next += 1;
            for more in named(&self.text(Who::Session, &path).await?) {
                if !found.contains(&more) {
                    found.push(more);
                }
            }
        }
        Ok(found)
    }

    /// Asks everything in turn, so often, on so many connections that begin at different questions.
    pub(super) async fn ask_all(&self, questions: &[Question], asks: u32, connections: u8) -> anyhow::Result<Vec<Row>> {
        let measured = questions.iter().map(|_| Measured::new().map(Mutex::new)).collect::<anyhow::Result<Vec<_>>>()?;
        let (questions, measured) = (Arc::new(questions.to_vec()), Arc::new(measured));
        let (connections, asks) = (usize::from(connections), usize::try_from(asks)?);
        let mut tasks = Vec::new();
        for connection in 0..connections {
            let (asker, questions, measured) = (self.clone(), questions.clone(), measured.clone());
            tasks.push(tokio::spawn(async move {
                let first = questions.len() * connection / connections;
                // Each takes its part of the rounds; the first ones one more where they are not even.
                for _ in 0..asks / connections + usize::from(connection < asks % connections) {
                    for index in (first..questions.len()).chain(0..first) {
                        let began = Instant::now();
                        let is_answered = asker.ask(&questions[index]).await;
                        measured[index]
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .note(began.elapsed(), is_answered);
                    }
                }
            }));
        }
        for task in tasks {
            task.await?;
        }
        let row = |(question, measured): (&Question, &Mutex<Measured>)| {
            let waits = measured.lock().unwrap_or_else(PoisonError::into_inner).waits();
            Row { who: question.who, path: question.path.clone(), waits }
        };
        Ok(questions.iter().zip(measured.iter()).map(row).collect())
    }

    /// Whether all of it was answered.
    async fn ask(&self, question: &Question) -> bool {
        let answers =
            join_all(question.paths.iter().map(|(path, until)| self.answer(question.who, path, *until))).await;
        for (answer, (path, _)) in answers.iter().zip(&question.paths) {
            if let Err(error) = answer {
                eprintln!("{path} as {}: {error:#}", question.who);
            }
        }
        answers.iter().all(Result::is_ok)
    }

    async fn answer(&self, who: Who, path: &str, until: Until) -> anyhow::Result<()> {
        let mut answer = self.request(who, path).send().await?;
        let status = answer.status();
        if !status.is_success() {
            bail!("{status}: {}", answer.text().await.unwrap_or_default());
        }
        match until {
            Until::End => answer.bytes().await.map(|_| ())?,
            Until::FirstEvent => drop(answer.chunk().await?.context("the stream ended")?),
        }
        Ok(())
    }

    /// The text of an answer.
    pub(super) async fn text(&self, who: Who, path: &str) -> anyhow::Result<String> {
        Ok(self.request(who, path).send().await?.error_for_status()?.text().await?)
    }

    fn request(&self, who: Who, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.get(format!("{}{path}", self.base));
        match who {
            Who::Key => request.bearer_auth(&self.key),
            Who::Tenant => request.bearer_auth(&self.tenant_key),
            Who::Session if path.starts_with("/v1/") => request.header(COOKIE, &self.cookie),
            // Plain where it is read here: what is measured is what the dispatcher does.
            Who::Session => request.header(COOKIE, &self.cookie).header(ACCEPT_ENCODING, "identity"),
        }
    }
}

/// The files of the dashboard that a text names.
fn named(text: &str) -> Vec<String> {
    let part = |part: &str| {
        let name =
            part.strip_prefix("/assets/").or_else(|| part.strip_prefix("./").filter(|name| name.ends_with(".js")))?;
        Some(format!("/assets/{name}"))
    };
    text.split(['"', '\'']).filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_pages_and_in_scripts() {
        let text =
            r#"<script type="module" src="/assets/app.js"></script> import {h} from './dom.js'; fetch('./other')"#;
        assert_eq!(named(text), ["/assets/app.js", "/assets/dom.js"]);
    }
}
