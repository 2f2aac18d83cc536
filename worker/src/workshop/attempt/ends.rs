//! Where an attempt's input comes from and where its output goes: files in place, or over the network through the scratch.
//!
//! Invariant: what is fetched is whole before a tool sees it, and what was sent is visible or taken back when the attempt
//! ends, whatever it ends of. One thing cannot be taken back: an object whose manifest its store refuses stays without
//! one, and the attempt fails. The network is the worker's; the tools have their scratch.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use ffpool_schema::encode::{Encode, Source};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::location::{Location, Use};
use ffpool_schema::message::{Manifest, Phase, Progress, SourceIdentity};
use ffpool_schema::parse::Fault;
use tokio::time::Instant;

use super::{Attempt, End, NEARLY, blocking, file_url, identify, unpublished};
use crate::publish::{self, PublishError, Published, Staged};
use crate::roots;
use crate::store;
use crate::store::bucket::{Mark, Object};
use crate::store::fetch::{Bounds, FetchEnd, Origin, fetch, stopped};
use crate::store::trouble::Trouble;
use crate::store::upload::Upload;

/// The name of a fetched input. The tools run in the scratch and are given names, not paths.
const FETCHED: &str = "input";
/// Tries to put the manifest beside an object.
const MANIFEST_TRIES: u32 = 3;
const MANIFEST_PAUSE: Duration = Duration::from_secs(2);
/// Between two reports of bytes that moved.
const REPORT: Duration = Duration::from_millis(250);

/// Where everything is.
pub(super) struct Ends {
    pub(super) input: Option<Input>,
    pub(super) output: Output,
}

/// Where an input is.
pub(super) enum Input {
    File(PathBuf),
    Remote(Box<Origin>, Location),
}

impl Input {
    /// The file that is read in place.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Input::File(path) => Some(path),
            Input::Remote(..) => None,
        }
    }
}

/// Where an output goes.
pub(super) enum Output {
    File(PathBuf),
    Object(Box<Object>),
}

/// An output that is ready to become visible.
pub(super) enum Ready {
    File(Staged, PathBuf),
    Object(Box<Upload>, Box<Object>, Mark, u64),
}

impl Ready {
    /// Where it will be, its size and its hex sha256.
    pub(super) fn describe(&self) -> (String, u64, String) {
        match self {
            Ready::File(staged, output) => (file_url(output), staged.size_bytes, staged.sha256.clone()),
            Ready::Object(_, object, mark, size) => (object.address().to_string(), *size, mark.sha256.clone()),
        }
    }

    /// Takes it back.
    pub(super) async fn discard(self) {
        match self {
            Ready::File(staged, _) => drop(staged),
            Ready::Object(mut upload, ..) => upload.abort().await,
        }
    }
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> End {
        End::failed(trouble.into())
    }
}

impl From<FetchEnd> for End {
    fn from(end: FetchEnd) -> End {
        match end {
            FetchEnd::Stopped(stop) => stop.into(),
            FetchEnd::Failed(trouble) => trouble.into(),
        }
    }
}

impl Attempt<'_> {
    /// What the addresses of a job are for this worker.
    pub(super) fn ends(&self, encode: &Encode) -> Result<Ends, End> {
        let input = match &encode.source {
            Source::File { path } => Some(Input::File(self.shop.roots.input(path)?)),
            Source::Remote { url } => {
                let location = location("input", url, Use::Input)?;
                match self.shop.stores.origin(&location)? {
                    Some(origin) => Some(Input::Remote(Box::new(origin), location)),
                    None => return Err(End::rejected("input", "bad_value", "a file is not fetched")),
                }
            }
            Source::Generated { .. } => None,
        };
        let address = encode.output.as_deref();
        let output = match address.map(|address| location("output", address, Use::Output)).transpose()? {
            Some(Location::Object(address)) => Output::Object(Box::new(self.shop.stores.object(&address)?)),
            None | Some(Location::File(_) | Location::Web(_)) => {
                Output::File(self.shop.roots.output(address, self.grant.job, encode.container)?)
            }
        };
        if let (Some(Input::File(input)), Output::File(output)) = (&input, &output) {
            roots::distinct(input, output)?;
        }
        Ok(Ends { input, output })
    }

    /// What an earlier attempt published before it died. Its output is as good as ours would be.
    pub(super) async fn published_before(&self, output: &Output) -> Option<Manifest> {
        if self.grant.attempt < 2 {
            return None;
        }
        let job = self.grant.job;
        let found = match output {
            Output::File(output) => {
                let (output, stop) = (output.clone(), self.orders.stop.clone());
                let find = move || publish::find_published(&output, job, &|| stop.borrow().is_some());
                blocking(find).await.ok().flatten()
            }
            Output::Object(object) => {
                let mut stop = self.orders.stop.clone();
                tokio::select! {
                    biased;
                    _ = stopped(&mut stop) => None,
                    () = tokio::time::sleep_until(self.deadline()) => None,
                    found = store::find_published(object, job) => found,
                }
            }
        };
        if let Some(manifest) = &found {
            tracing::info!(%job, attempt = self.grant.attempt, made_by = manifest.attempt, "adopting a published output");
        }
        found
    }

    /// Has the input where the tools can read it, and says what it is.
    pub(super) async fn bring(&mut self, input: Input) -> Result<(PathBuf, SourceIdentity), End> {
        let (mut origin, location) = match input {
            Input::File(path) => {
                let identity = identify(&path);
                return Ok((path, identity));
            }
            Input::Remote(origin, location) => (origin, location),
        };
        self.stand_still().await;
        let bounds = Bounds { bytes: self.disk_bytes(), until: self.deadline() };
        let mut reported = Instant::now();
        let reporter = &self.reporter;
        let mut said = |bytes, _| {
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                reporter.send(Progress { size_bytes: Some(bytes), ..reporter.blank(Phase::Prepare) });
            }
        };
        let to = self.scratch_path().join(FETCHED);
        let started = Instant::now();
        let (fetched, frozen_for) = fetch(&mut origin, &to, bounds, &self.orders, &mut said).await;
        self.frozen_for += frozen_for;
        let fetched = fetched?;
        self.reporter.log(&format!(
            "[ffpool] fetched {} bytes in {:.1} s from {location}, sha256 {}",
            fetched.size_bytes,
            started.elapsed().as_secs_f64(),
            fetched.sha256
        ));
        let identity = SourceIdentity {
            url: location.to_string(),
            size_bytes: fetched.size_bytes,
            modified: fetched.modified,
            sha256: Some(fetched.sha256),
            etag: fetched.etag,
        };
        Ok((PathBuf::from(FETCHED), identity))
    }

    /// Has the output one step from visible: a file beside its name, or an object's parts in its store.
    pub(super) async fn stage(&mut self, file: &Path, output: Output) -> Result<Ready, End> {
        let object = match output {
            Output::File(output) => {
                let staged = self.stage_file(file, &output).await?;
                return Ok(Ready::File(staged, output));
            }
            Output::Object(object) => object,
        };
        let (made, stop) = (file.to_owned(), self.orders.stop.clone());
        let measured = blocking(move || publish::measure(&made, &|| stop.borrow().is_some())).await?;
        let (size, sha256) = measured.map_err(|error| self.unstaged(&error))?;
        self.usage.output_bytes = Some(size);
        self.reporter.phase(Phase::Commit, Some(NEARLY));
        let mark = Mark { job: self.grant.job, attempt: self.grant.attempt, sha256 };
        let mut upload = Upload::begin((*object).clone(), file, size, mark.clone()).await?;
        match self.send(&mut upload, file, size).await {
            Ok(()) => Ok(Ready::Object(Box::new(upload), object, mark, size)),
            Err(end) => {
                upload.abort().await;
                Err(end)
            }
        }
    }

    /// Sends what can be sent before it is allowed to be seen, unless the attempt is to end.
    async fn send(&self, upload: &mut Upload, file: &Path, size: u64) -> Result<(), End> {
        let reported = Mutex::new(Instant::now());
        let said = |bytes| {
            let mut reported = reported.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if reported.elapsed() >= REPORT {
                *reported = Instant::now();
                let blank = self.reporter.blank(Phase::Commit);
                self.reporter.send(Progress { percent: Some(NEARLY), size_bytes: Some(bytes), ..blank });
            }
        };
        let mut stop = self.orders.stop.clone();
        tokio::select! {
            biased;
            order = stopped(&mut stop) => Err(order.into()),
            sent = upload.send(file, size, &said) => Ok(sent?),
            () = tokio::time::sleep_until(self.deadline()) => {
                Err(End::failure(Cause::Timeout, "the attempt's time was over before its output was sent"))
            }
        }
    }

    /// Makes the output visible, and its manifest beside it.
    pub(super) async fn make_visible(&self, ready: Ready, manifest: Manifest) -> Result<Manifest, End> {
        let published = match ready {
            Ready::File(staged, output) => {
                let copy = manifest.clone();
                let done = blocking(move || publish::publish(staged, &output, &copy)).await?;
                done.map_err(|error| unpublished(&error))?
            }
            Ready::Object(upload, object, mark, _) => match upload.commit().await? {
                Published::Done => put_manifest(&object, &manifest, mark).await?,
                Published::Lost => Published::Lost,
            },
        };
        match published {
            Published::Done => Ok(manifest),
            Published::Lost => {
                tracing::info!(job = %manifest.job, attempt = manifest.attempt, "a later attempt has published already");
                Err(End::Silent)
            }
        }
    }

    /// What a staging that failed means.
    fn unstaged(&self, error: &PublishError) -> End {
        match error {
            PublishError::Stopped => self.orders.stop.borrow().clone().map_or(End::Silent, End::from),
            PublishError::Io { .. } | PublishError::NoPlainFile { .. } => unpublished(error),
        }
    }

    async fn stage_file(&mut self, file: &Path, output: &Path) -> Result<Staged, End> {
        let (file, output) = (file.to_owned(), output.to_owned());
        let (job, attempt, stop) = (self.grant.job, self.grant.attempt, self.orders.stop.clone());
        let (shop, is_stopped) = (self.shop.clone(), move || stop.borrow().is_some());
        let staged = blocking(move || publish::stage(&file, &output, job, attempt, &shop.notes, &is_stopped)).await?;
        let staged = staged.map_err(|error| self.unstaged(&error))?;
        self.usage.output_bytes = Some(staged.size_bytes);
        Ok(staged)
    }
}

async fn put_manifest(object: &Object, manifest: &Manifest, mark: Mark) -> Result<Published, End> {
    let mut text = serde_json::to_vec_pretty(manifest).map_err(|error| {
        End::failed(Failure::new(Cause::Platform, format!("the manifest cannot be written: {error}")))
    })?;
    text.push(b'\n');
    let text = Bytes::from(text);
    let mut tries = 1;
    loop {
        // The object is there already, and an object cannot be taken back as a file can.
        match Upload::small(object.manifest(), text.clone(), "application/json", mark.clone()).commit().await {
            Err(trouble) if trouble.is_passing && tries < MANIFEST_TRIES => tries += 1,
            ended => return Ok(ended?),
        }
        tokio::time::sleep(MANIFEST_PAUSE).await;
    }
}

fn location(path: &str, address: &str, purpose: Use) -> Result<Location, End> {
    Location::parse(address, purpose).map_err(|bad| End::faulty(Fault::new(path, bad.code, bad.message)))
}
