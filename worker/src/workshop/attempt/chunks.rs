//! A long encode in chunks: whether it is split, the attempt that makes one chunk, and the one that puts them together.
//!
//! Invariant: chunks are an advantage, never a need: whatever is in their way, the job is encoded whole, unless it insists. A
//! whole that was put together has the frames of its chunks, each counted, and stands the same test as any output.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ffpool_schema::chunk::{self, Cut, Cuts, Piece, Span, Times};
use ffpool_schema::encode::{Encode, Encoder, Source};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::job::Checkpoint;
use ffpool_schema::message::{ChunkProof, Manifest, Outcome, SourceIdentity};
use ffpool_schema::plan::ladder::Output;
use ffpool_schema::plan::{self, Request};
use ffpool_schema::probe::Probed;

use super::encode::{Made, Recipe, refused_for, unproven};
use super::ends::{Destination, Place, discard};
use super::{Attempt, Consent, End, ask, blocking, unchanged};
use crate::chunks::{self, Chunks};
use crate::roots;
use crate::tool::{Listener, ToolUser};

/// A job that was split so often and still lacks chunks is encoded whole: something takes them away, or no two workers make
/// the same ones.
const SPLITS_MAX: u32 = 8;
/// The list of chunks, by name: the tools run in the scratch.
const LIST: &str = "chunks.txt";
/// The sound, by name.
const SOUND: &str = "sound.mp4";

/// What there is to put together.
pub(super) struct Parts {
    store: Chunks,
    /// Key and manifest of each chunk, in their order.
    chunks: Vec<(String, Manifest)>,
    /// The same of the sound, where it was made apart.
    sound: Option<(String, Manifest)>,
    offset_secs: f64,
}

/// Why a job is not split.
enum Why {
    /// For this reason, which a job that insists is told.
    Because(String),
    /// The attempt ends otherwise.
    End(End),
}

impl From<End> for Why {
    fn from(end: End) -> Why {
        Why::End(end)
    }
}

impl From<&str> for Why {
    fn from(why: &str) -> Why {
        Why::Because(why.to_owned())
    }
}

struct Lines<'t>(&'t mut Times);

impl Listener for Lines<'_> {
    fn output(&mut self, line: &str) -> bool {
        self.0.line(line);
        true
    }

    fn log(&mut self, _: &str) {}
}

/// A source that has been brought and probed.
pub(super) type Brought = (PathBuf, Probed, SourceIdentity);

impl Attempt<'_> {
    /// The chunks of this job, all of them made. `None`: it is encoded whole.
    ///
    /// # Errors
    /// With what is to be reported: the chunks that are missing; or that the job insists and cannot have any.
    pub(super) async fn parts(
        &mut self,
        encode: &Encode,
        outputs: &[Destination],
        source: Option<&Brought>,
        user: ToolUser,
    ) -> Result<Option<Parts>, End> {
        let insists = match self.grant.spec.checkpoint {
            Checkpoint::Off => return Ok(None),
            Checkpoint::Auto => false,
            Checkpoint::Require => true,
        };
        let Some(source) = source else { return Ok(None) };
        if !insists && !self.is_long(&source.1) {
            return Ok(None);
        }
        match self.find_parts(encode, outputs, source, user).await {
            Ok(parts) => Ok(Some(parts)),
            Err(Why::End(end)) => Err(end),
            Err(Why::Because(why)) if insists => {
                let message =
                    format!("`require`: the job cannot be made in chunks: {why}; use `auto` to have it encoded whole");
                Err(End::rejected("checkpoint", "unsupported", &message))
            }
            Err(Why::Because(why)) => {
                self.reporter.log(&format!("[ffpool] encoded whole, not in chunks: {why}"));
                Ok(None)
            }
        }
    }

    fn is_long(&self, probed: &Probed) -> bool {
        let above = self.shop.settings.chunks.chunk_above_secs;
        let secs = probed.probe.video.as_ref().and_then(|video| video.duration_secs).or(probed.probe.duration_secs);
        above > 0 && secs.is_some_and(|secs| secs > above as f64)
    }

    async fn find_parts(
        &mut self,
        encode: &Encode,
        outputs: &[Destination],
        (path, probed, identity): &Brought,
        user: ToolUser,
    ) -> Result<Parts, Why> {
        let splits = self.grant.splits.ok_or("the ledger does not split jobs")?;
        let encoder = self.encoder(encode)?;
        if let Some(why) = chunk::unfit(encode).or_else(|| chunk::unfit_encoder(encoder)) {
            return Err(why.into());
        }
        if splits >= SPLITS_MAX {
            return Err(Why::Because(format!("it was split {splits} times and still lacks chunks")));
        }
        let named = source_name(encode, identity);
        let store = self.open_chunks(outputs, &named).await?;
        let keep = Duration::from_secs(self.shop.settings.chunks.chunk_keep_hours * 3600);
        let swept = store.clone();
        blocking(move || swept.sweep_beside(keep)).await?;
        if let Some(why) = store.useless() {
            return Err(Why::Because(why));
        }
        let cuts = self.cuts(&store, path, probed, user).await?;
        let source = Some((path.as_path(), probed));
        let features = &self.shop.features;
        let zero = plan::zero(&self.request(encode, source, features)?)
            .map_err(|refusal| refused_for(&self.grant.spec, 0, refusal))?;
        let cut = cuts.chunks(encode.video.fps, zero)?;
        let body_bytes = serde_json::to_vec(&self.grant.spec).map_or(usize::MAX, |body| body.len());
        let sound = plan::sound_alone(encode, probed).filter(|_| self.grant.sound_apart);
        let count = cut.len() + usize::from(sound.is_some());
        if let Some(why) = chunk::too_large(body_bytes, count) {
            return Err(Why::Because(why));
        }
        let total = u32::try_from(count).unwrap_or(u32::MAX);
        let alone = chunk::of(encode);
        let taken =
            cut.into_iter().map(|cut| (cut, &alone, false)).chain(sound.iter().map(|sound| (Cut::NONE, sound, true)));
        let pieces = taken.zip(0..).map(|((cut, alone, is_sound), number)| {
            let key = self.piece_key(is_sound, &cut, alone, (path, probed), &named)?;
            Ok(Piece { of: self.grant.job, number, total, key, cut, is_sound })
        });
        let pieces = pieces.collect::<Result<Vec<Piece>, End>>()?;
        let offset_secs = cuts.offset_secs(encode.video.fps, zero);
        let (sound, chunks): (Vec<_>, Vec<_>) =
            self.find_all(&store, pieces).await?.into_iter().partition(|(piece, _)| piece.is_sound);
        let found = |(piece, manifest): (Piece, Manifest)| (piece.key, manifest);
        Ok(Parts {
            store,
            chunks: chunks.into_iter().map(found).collect(),
            sound: sound.into_iter().map(found).next(),
            offset_secs,
        })
    }

    /// What a piece is called here, the sound or this stretch of the picture. `alone`: what is encoded of the job.
    fn piece_key(
        &self,
        is_sound: bool,
        cut: &Cut,
        alone: &Encode,
        (path, probed): (&Path, &Probed),
        named: &str,
    ) -> Result<String, End> {
        let (features, tool) = (&self.shop.features, &self.shop.tool_version);
        let source = Some((path, probed));
        let request = self.request(alone, source, features)?;
        let key =
            if is_sound { plan::sound_key(&request, named, tool) } else { plan::chunk_key(&request, cut, named, tool) };
        key.map_err(|refusal| refused_for(&self.grant.spec, 0, refusal))
    }

    /// Every chunk, sound. Where some are missing, these are what the attempt reports.
    async fn find_all(&self, store: &Chunks, pieces: Vec<Piece>) -> Result<Vec<(Piece, Manifest)>, End> {
        let (chunks, stop) = (store.clone(), self.orders.stop.clone());
        let looked = move || {
            let mut found = Vec::new();
            let mut missing = Vec::new();
            for piece in pieces {
                match chunks.find(&piece.key, piece.is_sound) {
                    Some(manifest) => found.push((piece, manifest)),
                    None => missing.push(piece),
                }
            }
            // Reading them all is for the one who puts them together.
            if missing.is_empty() {
                for (piece, manifest) in &found {
                    if !chunks.is_sound(&piece.key, manifest, &|| stop.borrow().is_some())? {
                        missing.push(piece.clone());
                    }
                }
            }
            Ok((found, missing))
        };
        let (found, missing) = blocking(looked).await?.map_err(|error| self.unstaged(&error))?;
        if missing.is_empty() {
            return Ok(found);
        }
        let total = found.len() + missing.len();
        self.reporter.log(&format!("[ffpool] made in {total} chunks, of which {} are missing", missing.len()));
        Err(End::Report(Box::new(Outcome::Split { pieces: missing })))
    }

    /// Where the source is cut: as somebody has settled it, else by its key frames.
    async fn cuts(&mut self, store: &Chunks, path: &Path, probed: &Probed, user: ToolUser) -> Result<Cuts, Why> {
        if let Some(cuts) = store.cuts() {
            return Ok(cuts);
        }
        let mut times = Times::default();
        self.run_ffprobe(&Times::arguments(path), user, &mut Lines(&mut times)).await?;
        let target = self.shop.settings.chunks.chunk_target_secs as f64;
        let cuts = times.cuts(probed.start_secs.unwrap_or(0.0), target)?;
        let keeper = store.clone();
        let settled = blocking(move || keeper.settle_cuts(cuts)).await?;
        Ok(settled.map_err(|error| unkept(&error))?)
    }

    async fn open_chunks(&self, outputs: &[Destination], source: &str) -> Result<Chunks, Why> {
        let store = self.shop.settings.chunks.chunk_store.clone();
        let output = match outputs.first().map(|output| &output.place) {
            Some(Place::File(path)) => path.clone(),
            Some(Place::Object(_)) | None if store.is_some() => PathBuf::new(),
            Some(Place::Object(_)) | None => {
                return Err("its output is an object, and this worker has no `chunk_store` for chunks".into());
            }
        };
        let directory = chunk::directory(source);
        let opened = blocking(move || Chunks::open(store.as_deref(), &output, &directory)).await?;
        Ok(opened.map_err(|error| unkept(&error))?)
    }

    /// Makes one chunk of another job. `None`: it is not needed as it was asked for.
    pub(super) async fn carry_out_piece(
        &mut self,
        piece: &Piece,
        encode: &Encode,
        outputs: &[Destination],
        (path, probed, identity): &Brought,
        user: ToolUser,
        consent: &dyn Consent,
    ) -> Result<Option<Manifest>, End> {
        let named = source_name(encode, identity);
        let store = self.open_chunks(outputs, &named).await.map_err(|why| match why {
            Why::End(end) => end,
            Why::Because(why) => End::failure(Cause::ConfigBad, why),
        })?;
        let source = Some((path.as_path(), probed));
        // None: this version makes no sound apart of such a job.
        let alone = if piece.is_sound { plan::sound_alone(encode, probed) } else { Some(chunk::of(encode)) };
        let key = match &alone {
            Some(alone) => Some(self.piece_key(piece.is_sound, &piece.cut, alone, (path, probed), &named)?),
            None => None,
        };
        let named_so = alone.zip(key).filter(|(_, key)| *key == piece.key);
        let moot = if named_so.is_none() {
            // The job is split anew for what is missing then, by whoever puts it together.
            Some("the source, the tool or the encoders here are not those for which the job was split".to_owned())
        } else {
            store.useless()
        };
        let (alone, key) = match (named_so, moot) {
            (Some(named), None) => named,
            (_, why) => {
                let why = why.unwrap_or_default();
                self.reporter.log(&format!("[ffpool] no chunk is made: {why}"));
                ask(&self.orders, consent).await?;
                return Ok(None);
            }
        };
        if let Some(there) = store.find(&key, piece.is_sound) {
            ask(&self.orders, consent).await?;
            return Ok(Some(there));
        }
        let recipe = if piece.is_sound {
            Recipe::Sound { secs: probed.probe.duration_secs }
        } else {
            Recipe::Chunk { cut: &piece.cut, secs: length(&piece.cut, encode, probed) }
        };
        let made = self.make(&[only(alone)], source, user, recipe).await;
        let made = unchanged(made, path, identity)?;
        if piece.cut.frames.is_some_and(|frames| made.frames() != Some(frames)) {
            let (wish, there) = (piece.cut.frames.unwrap_or(0), made.frames().unwrap_or(0));
            let why = format!("chunk {} has {there} frames that decode instead of {wish}", piece.number);
            self.reporter.log(&format!("[ffpool] {why}"));
            ask(&self.orders, consent).await?;
            blocking(move || store.mark_useless(&why)).await?.map_err(|error| unkept(&error))?;
            return Ok(None);
        }
        let place = Place::File(store.path(&key));
        let ready = self.stage_all(&made.outputs, vec![Destination { name: None, place, is_sure: true }]).await?;
        if let Err(end) = ask(&self.orders, consent).await {
            discard(ready).await;
            return Err(end);
        }
        let manifest = self.manifest(&ready, made, Some((identity.clone(), probed.probe.clone())));
        self.make_visible(ready, manifest).await.map(Some)
    }

    /// The encoder for it here.
    fn encoder(&self, encode: &Encode) -> Result<Option<Encoder>, End> {
        self.shop.encoder(&encode.video).map_err(|(wish, needs_device)| {
            let cause = if needs_device { Cause::Device } else { Cause::Platform };
            End::failure(cause, format!("this worker has no working encoder for {wish}"))
        })
    }

    /// What a chunk is named by; where its file lies makes no difference.
    fn request<'r>(
        &self,
        encode: &'r Encode,
        source: Option<(&'r Path, &'r Probed)>,
        features: &'r [String],
    ) -> Result<Request<'r>, End> {
        let (encoder, output) = (self.encoder(encode)?, Path::new("chunk"));
        Ok(Request { encode, encoder, device: None, source, output, number: 0, threads: 1, features, loudness: None })
    }

    /// Puts a job together from its chunks.
    pub(super) async fn stitch(
        &mut self,
        outputs: &[Output],
        (path, probed): (&Path, &Probed),
        user: ToolUser,
        parts: &Parts,
    ) -> Result<Made, End> {
        let total: u64 = parts.chunks.iter().filter_map(|(_, manifest)| chunks::frames(manifest)).sum();
        let made = self.put_together(outputs, (path, probed), user, parts).await;
        let made = made.and_then(|made| match made.frames() {
            Some(frames) if frames == total => Ok(made),
            frames => Err(unproven(format!("it has {} frames, its chunks have {total}", frames.unwrap_or(0)))),
        });
        let mut made = match made {
            Ok(made) => made,
            Err(end) if !may_lack_chunks(&end) => return Err(end),
            Err(end) if self.are_there(parts).await? => return Err(self.distrust(parts, end).await),
            Err(_) => {
                let why = "another job that had the same chunks has published and deleted them: they are made again";
                return Err(End::failure(Cause::IoTransient, why));
            }
        };
        let proofs = parts.all().map(|(key, manifest)| ChunkProof {
            key: key.clone(),
            job: manifest.job,
            worker: manifest.worker.clone(),
            frames: chunks::frames(manifest).unwrap_or(0),
            sha256: manifest.artifacts.first().map(|artifact| artifact.sha256.clone()).unwrap_or_default(),
        });
        made.chunks = proofs.collect();
        // All chunks differ in their cut alone.
        let example = parts.chunks.first().map(|(_, manifest)| &manifest.arguments);
        made.steps.extend(example.map(|words| words.iter().map(Into::into).collect()));
        Ok(made)
    }

    async fn put_together(
        &mut self,
        outputs: &[Output],
        source: (&Path, &Probed),
        user: ToolUser,
        parts: &Parts,
    ) -> Result<Made, End> {
        let list = self.lay_out(parts, user)?;
        let sound = match &parts.sound {
            Some((key, _)) => {
                self.lay_out_one(&parts.store.path(key), SOUND, user)?;
                let start_secs = self.probe(Path::new(SOUND), user).await?.start_secs.unwrap_or(0.0);
                Some(plan::Sound { file: Path::new(SOUND), start_secs })
            }
            None => None,
        };
        let recipe = Recipe::Stitch { list: &list, offset_secs: parts.offset_secs, sound };
        self.make(outputs, Some(source), user, recipe).await
    }

    /// Whether the chunks still lie where they were found.
    async fn are_there(&self, parts: &Parts) -> Result<bool, End> {
        let (store, keys) = (parts.store.clone(), parts.all().map(|(key, _)| key.clone()).collect::<Vec<_>>());
        blocking(move || keys.iter().all(|key| store.find(key, true).is_some())).await
    }

    /// A whole that does not stand the test although each of its chunks does: the next attempt encodes it whole.
    async fn distrust(&self, parts: &Parts, end: End) -> End {
        let evidence = match &end {
            End::Report(outcome) => match &**outcome {
                Outcome::Failed { failure: Failure { cause: Cause::VerifyFailed, message, evidence, .. } } => {
                    evidence.clone().unwrap_or_else(|| message.clone())
                }
                Outcome::Failed { .. }
                | Outcome::Finished { .. }
                | Outcome::Rejected { .. }
                | Outcome::Released { .. }
                | Outcome::Cancelled
                | Outcome::Split { .. } => return end,
            },
            End::Silent => return end,
        };
        let (store, why) = (parts.store.clone(), format!("its chunks do not make a whole: {evidence}"));
        if let Ok(Err(error)) = blocking(move || store.mark_useless(&why)).await {
            tracing::warn!(job = %self.grant.job, %error, "cannot note that chunks are of no use");
        }
        end
    }

    /// Has the chunks where the tool can read them, and the list of them.
    fn lay_out(&self, parts: &Parts, user: ToolUser) -> Result<PathBuf, End> {
        let mut names = Vec::with_capacity(parts.chunks.len());
        for (number, (key, manifest)) in parts.chunks.iter().enumerate() {
            let name = format!("chunk{number:05}.mp4");
            self.lay_out_one(&parts.store.path(key), &name, user)?;
            names.push((name, chunks::frames(manifest).unwrap_or(0)));
        }
        let list = plan::chunk_list(names.iter().map(|(name, frames)| (name.as_str(), *frames)), parts.fps());
        let written = self.create_in_scratch(LIST.as_ref()).and_then(|mut file| file.write_all(list.as_bytes()));
        written.map_err(|error| not_laid_out(&error))?;
        Ok(PathBuf::from(LIST))
    }

    fn lay_out_one(&self, from: &Path, name: &str, user: ToolUser) -> Result<(), End> {
        let can_read = match user {
            ToolUser::Own => true,
            ToolUser::Switch { uid, gid } => roots::is_readable_by(from, uid, gid),
        };
        let laid_out = if can_read {
            std::os::unix::fs::symlink(from, self.scratch_path().join(name))
        } else {
            std::fs::File::open(from)
                .and_then(|mut chunk| std::io::copy(&mut chunk, &mut self.create_in_scratch(name.as_ref())?))
                .map(drop)
        };
        laid_out.map_err(|error| not_laid_out(&error))
    }

    /// Deletes the chunks of a whole that is published.
    pub(super) async fn forget_parts(&self, parts: Parts) {
        let forgotten = blocking(move || parts.store.forget(parts.all().map(|(key, _)| key.as_str()))).await;
        if forgotten.is_err() {
            tracing::warn!(job = %self.grant.job, "the chunks of a published job stay until they are old");
        }
    }
}

impl Parts {
    /// Every chunk, then the sound.
    fn all(&self) -> impl Iterator<Item = &(String, Manifest)> {
        self.chunks.iter().chain(&self.sound)
    }

    /// Frames per second of the chunks, by the one that has most of them.
    fn fps(&self) -> f64 {
        let longest = self.chunks.iter().max_by_key(|(_, manifest)| chunks::frames(manifest));
        let probe = longest.and_then(|(_, manifest)| manifest.artifacts.first()?.probe.video.as_ref()?.fps);
        probe.filter(|fps| *fps > 0.0).unwrap_or(25.0)
    }
}

/// The only output of a job.
fn only(encode: Encode) -> Output {
    Output { name: None, number: 0, rung: None, renditions: Vec::new(), encode }
}

/// What a source is called in the names of its chunks: the same for every worker, another when it has changed.
fn source_name(encode: &Encode, identity: &SourceIdentity) -> String {
    let size = identity.size_bytes;
    match (&identity.sha256, &encode.source) {
        (Some(sha256), _) => format!("sha256 {sha256} {size}"),
        (None, Source::File { path }) => {
            format!("file {path} {size} {}", identity.modified.map_or("?".to_owned(), |time| time.to_string()))
        }
        (None, Source::Remote { url } | Source::Live { url }) => format!("remote {url} {size}"),
        (None, Source::Generated { .. }) => "generated".to_owned(),
    }
}

/// Length of a chunk in seconds, for its progress.
fn length(cut: &Cut, encode: &Encode, probed: &Probed) -> Option<f64> {
    let fps = match cut.span {
        Span::Time { .. } => probed.probe.video.as_ref()?.fps,
        Span::Frame { .. } => encode.video.fps.map(|fps| fps.as_f64()),
    };
    Some(cut.frames? as f64 / fps.filter(|fps| *fps > 0.0)?)
}

fn unkept(error: &std::io::Error) -> End {
    End::failure(roots::io_cause(error), format!("the chunks cannot be kept: {error}"))
}

fn not_laid_out(error: &std::io::Error) -> End {
    End::failure(roots::io_cause(error), format!("the chunks cannot be laid out: {error}"))
}

/// Whether chunks that are gone may be why an attempt ends so. What we ended, and what ran out of something, is what it is.
fn may_lack_chunks(end: &End) -> bool {
    let End::Report(outcome) = end else { return false };
    match &**outcome {
        Outcome::Failed { failure } => {
            matches!(
                failure.cause,
                Cause::VerifyFailed | Cause::InputMissing | Cause::InputBad | Cause::IoTransient | Cause::Unknown
            )
        }
        Outcome::Finished { .. }
        | Outcome::Rejected { .. }
        | Outcome::Released { .. }
        | Outcome::Split { .. }
        | Outcome::Cancelled => false,
    }
}
