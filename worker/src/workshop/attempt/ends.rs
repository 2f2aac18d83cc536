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
use ffpool_schema::message::{ArtifactFile, Manifest, Outcome, Phase, Progress, SourceIdentity};
use ffpool_schema::parse::Fault;
use ffpool_schema::plan::ladder::{self, Output, Possible};
use tokio::time::Instant;

use super::encode::Proven;
use super::{Attempt, End, NEARLY, blocking, file_url, identify, unpublished};
use crate::publish::{self, PublishError, Published, Staged, Whose};
use crate::roots;
use crate::store;
use crate::store::bucket::{Mark, Object};
use crate::store::fetch::{Bounds, FetchEnd, Origin, fetch, stopped};
use crate::store::stated::Stated;
use crate::store::tree;
use crate::store::trouble::Trouble;
use crate::store::upload::Upload;

/// The name of a fetched input. The tools run in the scratch and are given names, not paths.
const FETCHED: &str = "input";
/// Tries to put the manifest beside an object.
const MANIFEST_TRIES: u32 = 3;
const MANIFEST_PAUSE: Duration = Duration::from_secs(2);
/// Between two reports of bytes that moved.
pub(super) const REPORT: Duration = Duration::from_millis(250);

/// Where everything is.
pub(super) struct Ends {
    pub(super) input: Option<Input>,
    pub(super) outputs: Vec<Destination>,
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

/// An output that the job may come to, and where it goes.
pub(super) struct Destination {
    /// Which it is, where there are several.
    pub(super) name: Option<String>,
    /// Whether it is made whatever the source is.
    pub(super) is_sure: bool,
    pub(super) place: Place,
}

/// Where an output goes.
pub(super) enum Place {
    File(PathBuf),
    Object(Box<Object>),
}

/// An output that is ready to become visible.
pub(super) enum Ready {
    File(Staged, PathBuf),
    Object(Box<Sent>),
}

/// An object that is ready to become visible.
pub(super) struct Sent {
    upload: Upload,
    object: Object,
    mark: Mark,
    size_bytes: u64,
    /// The other objects of a presentation, which nothing names yet.
    files: Vec<ArtifactFile>,
}

impl Ready {
    /// The other files of a presentation.
    pub(super) fn files(&self) -> &[ArtifactFile] {
        match self {
            Ready::File(staged, _) => staged.files(),
            Ready::Object(sent) => &sent.files,
        }
    }

    /// Where it will be, its size and its hex sha256.
    pub(super) fn describe(&self) -> (String, u64, String) {
        match self {
            Ready::File(staged, output) => (file_url(output), staged.size_bytes, staged.sha256.clone()),
            Ready::Object(sent) => (sent.object.address().to_string(), sent.size_bytes, sent.mark.sha256.clone()),
        }
    }
}

/// Takes back what was not to become visible.
pub(super) async fn discard(ready: Vec<Ready>) {
    for ready in ready {
        match ready {
            Ready::File(staged, _) => drop(staged),
            Ready::Object(sent) => take_back(*sent).await,
        }
    }
}

fn paths(files: &[ArtifactFile]) -> Vec<String> {
    files.iter().map(|file| file.path.clone()).collect()
}

async fn take_back(mut sent: Sent) {
    sent.upload.abort().await;
    tree::delete(&sent.object, paths(&sent.files)).await;
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
        let input = self.input(encode)?;
        let mut outputs: Vec<Destination> = Vec::new();
        for Possible { output, is_sure } in ladder::possible(encode) {
            let place = self.place(&output, input.as_ref()).map_err(|end| self.at_output(end, output.number))?;
            if let Some(first) = outputs.iter().find(|other| other.place.is_same(&place)) {
                let first = first.name.as_deref().unwrap_or("output");
                let message = format!("it is the same place as `{first}`: every output needs one of its own");
                return Err(self.at_output(End::rejected("output", "same_as_output", &message), output.number));
            }
            outputs.push(Destination { name: output.name, is_sure, place });
        }
        Ok(Ends { input, outputs })
    }

    /// Where the input is; `None`: it is generated, or the tool reads it itself.
    pub(super) fn input(&self, encode: &Encode) -> Result<Option<Input>, End> {
        Ok(match &encode.source {
            Source::File { path } => Some(Input::File(self.shop.roots.input(path)?)),
            Source::Remote { url } => {
                let location = location("input", url, Use::Input)?;
                match self.shop.stores.origin(&location)? {
                    Some(origin) => Some(Input::Remote(Box::new(origin), location)),
                    None => return Err(End::rejected("input", "bad_value", "a file is not fetched")),
                }
            }
            Source::Live { .. } | Source::Generated { .. } => None,
        })
    }

    /// Where an output goes.
    fn place(&self, output: &Output, input: Option<&Input>) -> Result<Place, End> {
        let Output { encode, rung, .. } = output;
        let address = encode.output.as_deref();
        let path = match address.map(|address| location("output", address, Use::Output)).transpose()? {
            Some(Location::Object(address)) => return Ok(Place::Object(Box::new(self.shop.stores.object(&address)?))),
            Some(Location::File(_) | Location::Web(_) | Location::Live(_)) | None => {
                let job = self.grant.job;
                let unnamed = rung.as_ref().map_or_else(|| job.to_string(), |rung| format!("{job}.{rung}"));
                self.shop.roots.output(address, &unnamed, encode.container)?
            }
        };
        if let Some(Input::File(input)) = input {
            roots::distinct(input, &path)?;
        }
        Ok(Place::File(path))
    }

    /// What ended the attempt at one output, at the field of the job that asks for it.
    pub(super) fn at_output(&self, end: End, number: usize) -> End {
        let End::Report(outcome) = end else { return end };
        match *outcome {
            Outcome::Rejected { faults } => {
                let faults = faults.into_iter().map(|fault| self.grant.spec.fault_of_output(number, fault)).collect();
                End::Report(Box::new(Outcome::Rejected { faults }))
            }
            other @ (Outcome::Finished { .. }
            | Outcome::Failed { .. }
            | Outcome::Released { .. }
            | Outcome::Split { .. }
            | Outcome::Cancelled) => End::Report(Box::new(other)),
        }
    }

    /// What an earlier attempt published before it died. Its outputs are as good as ours would be, if all are there.
    pub(super) async fn published_before(&self, outputs: &[Destination]) -> Option<Manifest> {
        if self.grant.attempt < 2 {
            return None;
        }
        let mut found: Option<Manifest> = None;
        let mut count = 0;
        for output in outputs {
            let manifest = match self.find_published(output).await {
                Some(manifest) => manifest,
                None if output.is_sure => return None,
                None => continue,
            };
            // A crash between two outputs leaves one of this attempt and one of an earlier.
            if found.as_ref().is_some_and(|first| first.attempt != manifest.attempt) {
                return None;
            }
            count += 1;
            found = Some(manifest);
        }
        let found = found.filter(|manifest| manifest.artifacts.len() == count);
        if let Some(manifest) = &found {
            let (job, attempt) = (self.grant.job, self.grant.attempt);
            tracing::info!(%job, attempt, made_by = manifest.attempt, "adopting what was published");
        }
        found
    }

    async fn find_published(&self, output: &Destination) -> Option<Manifest> {
        let (job, name) = (self.grant.job, output.name.clone());
        match &output.place {
            Place::File(output) => {
                let (output, stop) = (output.clone(), self.orders.stop.clone());
                let find = move || publish::find_published(&output, name.as_deref(), job, &|| stop.borrow().is_some());
                blocking(find).await.ok().flatten()
            }
            Place::Object(object) => {
                let mut stop = self.orders.stop.clone();
                tokio::select! {
                    biased;
                    _ = stopped(&mut stop) => None,
                    () = tokio::time::sleep_until(self.deadline()) => None,
                    found = store::find_published(object, name.as_deref(), job) => found,
                }
            }
        }
    }

    /// Has the input where the tools can read it, and says what it is. It is what the job says of it.
    pub(super) async fn bring(&mut self, input: Input) -> Result<(PathBuf, SourceIdentity), End> {
        let (mut origin, location) = match input {
            Input::File(path) => {
                let mut identity = identify(&path);
                self.check_in_place(&path, &mut identity).await?;
                self.reads.push(path.clone());
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
        let mut span = self.reporter.phases.part("fetch");
        let stated = Stated::of(&self.grant.spec);
        let (fetched, frozen_for) = fetch(&mut origin, &to, &stated, bounds, &self.orders, &mut said).await;
        if let Some(span) = &mut span {
            match &fetched {
                Ok(fetched) => span.set("ffpool.bytes", i64::try_from(fetched.size_bytes).unwrap_or(i64::MAX)),
                Err(_) => span.fail("not fetched"),
            }
        }
        drop(span);
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

    /// Has every output one step from visible, or none.
    pub(super) async fn stage_all(&mut self, made: &[Proven], outputs: Vec<Destination>) -> Result<Vec<Ready>, End> {
        self.within_output_bound(made)?;
        let mut ready = Vec::new();
        let outputs = outputs.into_iter().filter(|output| made.iter().any(|made| made.name == output.name));
        for (number, (made, output)) in (0u32..).zip(made.iter().zip(outputs)) {
            match self.stage(made, output.place, number).await {
                Ok(next) => ready.push(next),
                Err(end) => {
                    discard(ready).await;
                    return Err(end);
                }
            }
        }
        let size = |ready: &Ready| ready.describe().1 + ready.files().iter().map(|file| file.size_bytes).sum::<u64>();
        self.usage.output_bytes = Some(ready.iter().map(size).sum());
        Ok(ready)
    }

    /// Ends the attempt where its outputs together are larger than the worker lets them be.
    fn within_output_bound(&self, made: &[Proven]) -> Result<(), End> {
        let scratch = self.scratch_path();
        let files = made.iter().flat_map(|made| {
            std::iter::once(made.file.clone()).chain(made.names.iter().map(|name| scratch.join(name)))
        });
        let bytes: u64 = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
        if bytes <= self.shop.settings.bounds.output_bytes() {
            return Ok(());
        }
        let (bytes, most) = (bytes >> 20, self.shop.settings.bounds.output_bytes() >> 20);
        let message = format!("the outputs have {bytes} MiB together, FFPOOL_MAX_OUTPUT_MB is {most}");
        Err(End::failure(Cause::OutputTooLarge, message))
    }

    /// Has an output one step from visible: a file beside its name, or an object's parts in its store.
    async fn stage(&mut self, made: &Proven, output: Place, number: u32) -> Result<Ready, End> {
        let file = &made.file;
        let object = match output {
            Place::File(output) => {
                let staged = self.stage_file(file, &made.names, &output, number).await?;
                return Ok(Ready::File(staged, output));
            }
            Place::Object(object) => object,
        };
        let (top, stop) = (file.to_owned(), self.orders.stop.clone());
        let measured = blocking(move || publish::measure(&top, &|| stop.borrow().is_some())).await?;
        let (size, sha256) = measured.map_err(|error| self.unstaged(&error))?;
        self.reporter.phase(Phase::Commit, Some(NEARLY));
        let mark = Mark { job: self.grant.job, attempt: self.grant.attempt, sha256 };
        let files = self.send_tree(&object, &made.names).await?;
        let upload = Upload::begin((*object).clone(), file, size, mark.clone()).await?;
        let mut sent = Sent { upload, object: *object, mark, size_bytes: size, files };
        match self.send(&mut sent.upload, file, size).await {
            Ok(()) => Ok(Ready::Object(Box::new(sent))),
            Err(end) => {
                take_back(sent).await;
                Err(end)
            }
        }
    }

    /// Sends the other files of a presentation: they lie under names that no other attempt has, and nothing names them yet.
    async fn send_tree(&self, object: &Object, names: &[PathBuf]) -> Result<Vec<ArtifactFile>, End> {
        let mut stop = self.orders.stop.clone();
        let (job, attempt, scratch) = (self.grant.job, self.grant.attempt, self.scratch_path().to_owned());
        let sent = tokio::select! {
            biased;
            order = stopped(&mut stop) => Err(order.into()),
            sent = tree::send(object, &scratch, names, job, attempt) => sent.map_err(|error| match error {
                tree::Unsent::File(error) => self.unstaged(&error),
                tree::Unsent::Store(trouble) => trouble.into(),
            }),
            () = tokio::time::sleep_until(self.deadline()) => {
                Err(End::failure(Cause::Timeout, "the attempt's time was over before its output was sent"))
            }
        };
        if sent.is_err() {
            tree::delete(object, names.iter().filter_map(|name| name.to_str().map(str::to_owned)).collect()).await;
        }
        sent
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

    /// Makes the outputs visible, and the manifest beside each. Objects first, because they cannot be taken back: where a
    /// store refuses one, no file has been replaced.
    pub(super) async fn make_visible(&self, ready: Vec<Ready>, manifest: Manifest) -> Result<Manifest, End> {
        let (mut files, mut objects) = (Vec::new(), Vec::new());
        for ready in ready {
            match ready {
                Ready::File(staged, output) => files.push((staged, output)),
                Ready::Object(sent) => objects.push(*sent),
            }
        }
        let mut put = Vec::new();
        let mut objects = objects.into_iter();
        for Sent { upload, object, mark, files, .. } in objects.by_ref() {
            let before = store::named_beside(&object).await;
            match upload.commit().await {
                Ok(Published::Done) => put.push((object, mark, files, before)),
                ended => {
                    tree::delete(&object, paths(&files)).await;
                    for sent in objects {
                        take_back(sent).await;
                    }
                    return ended.map_err(End::from).and_then(|_| Err(superseded(&manifest)));
                }
            }
        }
        let copy = manifest.clone();
        let done = blocking(move || publish::publish(files, &copy)).await?;
        if done.map_err(|error| unpublished(&error))? == Published::Lost {
            return Err(superseded(&manifest));
        }
        for (object, mark, files, before) in put {
            if put_manifest(&object, &manifest, mark).await? == Published::Lost {
                return Err(superseded(&manifest));
            }
            // What the replaced presentation named, and ours does not.
            let old = before.into_iter().filter(|old| !files.iter().any(|file| file.path == *old)).collect();
            tree::delete(&object, old).await;
        }
        Ok(manifest)
    }

    /// What a staging that failed means.
    pub(super) fn unstaged(&self, error: &PublishError) -> End {
        match error {
            PublishError::Stopped => self.orders.stop.borrow().clone().map_or(End::Silent, End::from),
            PublishError::Io { .. } | PublishError::NoPlainFile { .. } => unpublished(error),
        }
    }

    async fn stage_file(&mut self, file: &Path, names: &[PathBuf], output: &Path, number: u32) -> Result<Staged, End> {
        let names = names.to_vec();
        let (file, output, stop) = (file.to_owned(), output.to_owned(), self.orders.stop.clone());
        let whose = Whose { job: self.grant.job, attempt: self.grant.attempt, number };
        let (shop, is_stopped) = (self.shop.clone(), move || stop.borrow().is_some());
        let staged = blocking(move || match names.as_slice() {
            [] => publish::stage(&file, &output, whose, &shop.notes, &is_stopped),
            names => publish::stage_tree(&file, names, &output, whose, &shop.notes, &is_stopped),
        })
        .await?;
        staged.map_err(|error| self.unstaged(&error))
    }
}

impl Place {
    /// Whether the two are one place, whatever their names are.
    fn is_same(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::File(a), Place::File(b)) => a == b || roots::distinct(a, b).is_err(),
            (Place::Object(a), Place::Object(b)) => a.address() == b.address(),
            (Place::File(_), Place::Object(_)) | (Place::Object(_), Place::File(_)) => false,
        }
    }
}

/// The end of an attempt whose outputs a later one has published already.
fn superseded(manifest: &Manifest) -> End {
    tracing::info!(job = %manifest.job, attempt = manifest.attempt, "a later attempt has published already");
    End::Silent
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

pub(super) fn location(path: &str, address: &str, purpose: Use) -> Result<Location, End> {
    Location::parse(address, purpose).map_err(|bad| End::faulty(Fault::new(path, bad.code, bad.message)))
}
