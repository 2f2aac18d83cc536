//! A long encode in chunks: whether it is split, the attempt that makes one chunk, and the one that puts them together.
//!
//! Invariant: chunks are an advantage, never a need: whatever is in their way, the job is encoded whole, unless it insists. A
//! whole that was put together has the frames of its chunks, each counted, and stands the same test as any output.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ffpool_schema::chunk::{self, Cut, Cuts, Piece, Span, Taken, Times};
use ffpool_schema::encode::{Encode, Encoder, Fps, Source};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::job::Checkpoint;
use ffpool_schema::message::{Artifact, ChunkProof, Manifest, Outcome, SourceIdentity};
use ffpool_schema::plan::ladder::{self, Output, Rendition};
use ffpool_schema::plan::together::Refused;
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
/// The sound, by name: the tools run in the scratch.
const SOUND: &str = "sound.mp4";

/// Why a chunk is not made here.
const OTHERS: &str = "the source, the tool or the encoders here are not those for which the job was split";

/// What there is to put together.
pub(super) struct Parts {
    store: Chunks,
    /// Key and manifest of each chunk, in their order.
    chunks: Vec<(String, Manifest)>,
    /// The same of the sound, where it was made apart.
    sound: Option<(String, Manifest)>,
    /// When the first frame of each file is shown.
    offsets: Vec<f64>,
    /// Frames per second of each file, where segments are counted by them.
    rates: Vec<Option<f64>>,
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
        if !insists && !self.is_long(encode, &source.1) {
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

    /// Whether what is taken of the source is long.
    fn is_long(&self, encode: &Encode, probed: &Probed) -> bool {
        let above = self.shop.settings.chunks.chunk_above_secs;
        let all = probed.probe.video.as_ref().and_then(|video| video.duration_secs).or(probed.probe.duration_secs);
        above > 0 && all.is_some() && taken_secs(encode, all).is_some_and(|secs| secs > above as f64)
    }

    async fn find_parts(
        &mut self,
        encode: &Encode,
        outputs: &[Destination],
        (path, probed, identity): &Brought,
        user: ToolUser,
    ) -> Result<Parts, Why> {
        let splits = self.grant.splits.ok_or("the ledger does not split jobs")?;
        if let Some(feature) = chunk::needs(encode).find(|feature| !self.grant.minds(feature)) {
            return Err(Why::Because(format!("the ledger would give its chunks to workers without `{feature}`")));
        }
        if let Some(why) = chunk::unfit(encode) {
            return Err(why.into());
        }
        let made = self.single_outputs(encode, probed)?;
        let list = ladder::files(&made);
        for output in &list {
            if let Some(why) = chunk::unfit_encoder(self.encoder(&output.encode)?) {
                return Err(why.into());
            }
        }
        if splits >= SPLITS_MAX {
            return Err(Why::Because(format!("it was split {splits} times and still lacks chunks")));
        }
        let source = Some((path.as_path(), probed));
        let taken = self.taken_by_all(&made, source)??;
        let named = taken.name(&source_name(encode, identity));
        let store = self.open_chunks(outputs, &made, &named).await?;
        let keep = Duration::from_secs(self.shop.settings.chunks.chunk_keep_hours * 3600);
        let swept = store.clone();
        blocking(move || swept.sweep_beside(keep)).await?;
        if let Some(why) = store.useless() {
            return Err(Why::Because(why));
        }
        let cuts = self.cuts(&store, (path, probed), &taken, user).await?;
        let cut = list.iter().map(|output| cuts.chunks_of(&output.encode, &taken));
        let cut = cut.collect::<Result<Vec<Vec<Cut>>, _>>()?;
        let body_bytes = serde_json::to_vec(&self.grant.spec).map_or(usize::MAX, |body| body.len());
        let sound = match list.as_slice() {
            [only] => plan::sound_alone(&only.encode, probed).filter(|_| self.grant.sound_apart),
            _ => None,
        };
        let chunks = cuts.seams.len() + 1;
        let count = chunks + usize::from(sound.is_some());
        let too_many = chunk::too_many(count, list.len());
        if let Some(why) = too_many.or_else(|| chunk::too_large(body_bytes, count, list.len())) {
            return Err(Why::Because(why));
        }
        let total = u32::try_from(count).unwrap_or(u32::MAX);
        let alone: Vec<Output> = list.iter().map(|output| with(output, chunk::of(&output.encode))).collect();
        let sound: Vec<Output> = list.iter().zip(sound).map(|(output, sound)| with(output, sound)).collect();
        let of_chunk = |chunk: usize| cut.iter().map(|cuts| cuts[chunk].clone()).collect::<Vec<Cut>>();
        let taken_out = (0..chunks).map(|chunk| (of_chunk(chunk), alone.as_slice(), false));
        let all = taken_out.chain(sound.chunks(1).map(|sound| (vec![Cut::NONE], sound, true)));
        let pieces = all.zip(0..).map(|((mut cuts, alone, is_sound), number)| {
            let key = self.piece_key(is_sound, &cuts, alone, (path, probed), &named)?;
            let cut = cuts.remove(0);
            Ok(Piece { of: self.grant.job, number, total, key, cut, others: cuts, is_sound })
        });
        let pieces = pieces.collect::<Result<Vec<Piece>, End>>()?;
        let (sound, chunks): (Vec<_>, Vec<_>) =
            self.find_all(&store, pieces).await?.into_iter().partition(|(piece, _)| piece.is_sound);
        let offset = |(place, output): (usize, &Output)| {
            let frames = chunks.first().and_then(|(_, manifest): &(Piece, Manifest)| chunks::frames(manifest, place));
            let is_filled = frames.is_some_and(|frames| cut[place][0].is_filled(frames));
            if is_filled { 0.0 } else { cuts.offset_secs(output.encode.video.fps, &taken) }
        };
        let offsets = list.iter().enumerate().map(offset).collect();
        let rate =
            |output: &Output| output.encode.segments.and(output.encode.video.fps.or(probed.rate)).map(Fps::as_f64);
        let rates = list.iter().map(rate).collect();
        let found = |(piece, manifest): (Piece, Manifest)| (piece.key, manifest);
        Ok(Parts {
            store,
            chunks: chunks.into_iter().map(found).collect(),
            sound: sound.into_iter().map(found).next(),
            offsets,
            rates,
        })
    }

    /// The outputs of the job, each as a job of its own.
    fn single_outputs(&self, encode: &Encode, probed: &Probed) -> Result<Vec<Output>, End> {
        let outputs = ladder::outputs(encode, Some(probed));
        outputs.map(|outputs| outputs.list).map_err(|refusal| refused_for(&self.grant.spec, 0, refusal))
    }

    /// What the outputs take of the source, or why that is not the same for all. The renditions of a presentation are shown with the
    /// sound of the first: they take what it takes.
    fn taken_by_all(
        &self,
        list: &[Output],
        source: Option<(&Path, &Probed)>,
    ) -> Result<Result<Taken, &'static str>, End> {
        let tools = self.shop.software.tools();
        let mut all = Vec::new();
        for output in list {
            let encode = output.renditions.first().map_or(&output.encode, |rendition| &rendition.encode);
            let request = self.request(encode, source, &tools.features)?;
            let taken = plan::taken(&request);
            let taken = taken.map_err(|refusal| refused_for(&self.grant.spec, output.number, refusal))?;
            all.push((encode, taken));
        }
        Ok(chunk::taken_by_all(&all))
    }

    /// What a piece is called here, the sound or this stretch of the picture. `alone`: what is encoded of each output.
    fn piece_key(
        &self,
        is_sound: bool,
        cuts: &[Cut],
        alone: &[Output],
        (path, probed): (&Path, &Probed),
        named: &str,
    ) -> Result<String, End> {
        let tools = self.shop.software.tools();
        let (features, tool) = (&tools.features, &tools.version);
        let source = Some((path, probed));
        let requests = alone.iter().map(|output| self.request(&output.encode, source, features));
        let requests = requests.collect::<Result<Vec<Request<'_>>, End>>()?;
        let key = match requests.first() {
            Some(request) if is_sound => {
                plan::sound_key(request, named, tool).map_err(|refusal| Refused { output: 0, refusal })
            }
            Some(_) | None => plan::chunk_key(&requests, cuts, named, tool),
        };
        key.map_err(|Refused { output, refusal }| {
            refused_for(&self.grant.spec, alone.get(output).map_or(0, |output| output.number), refusal)
        })
    }

    /// Every chunk, sound. Where some are missing, these are what the attempt reports.
    async fn find_all(&self, store: &Chunks, pieces: Vec<Piece>) -> Result<Vec<(Piece, Manifest)>, End> {
        let (chunks, stop) = (store.clone(), self.orders.stop.clone());
        let looked = move || {
            let mut found = Vec::new();
            let mut missing = Vec::new();
            for piece in pieces {
                match chunks.find(&piece.key, 1 + piece.others.len(), piece.is_sound) {
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

    /// Where what is taken of the source is cut: as somebody has settled it, else by its key frames.
    async fn cuts(
        &mut self,
        store: &Chunks,
        (path, probed): (&Path, &Probed),
        taken: &Taken,
        user: ToolUser,
    ) -> Result<Cuts, Why> {
        if let Some(cuts) = store.cuts() {
            return Ok(cuts);
        }
        let mut times = Times::default();
        self.run_ffprobe(&Times::arguments(path), user, &mut Lines(&mut times)).await?;
        let target = self.shop.settings.chunks.chunk_target_secs as f64;
        let cuts = times.cuts(probed.start_secs.unwrap_or(0.0), target, taken)?;
        let keeper = store.clone();
        let settled = blocking(move || keeper.settle_cuts(cuts)).await?;
        Ok(settled.map_err(|error| unkept(&error))?)
    }

    /// The chunks of a source, beside the first of the outputs that are made.
    async fn open_chunks(&self, outputs: &[Destination], list: &[Output], source: &str) -> Result<Chunks, Why> {
        let store = self.shop.settings.chunks.chunk_store.clone();
        let first = outputs.iter().find(|output| list.first().is_some_and(|made| made.name == output.name));
        let output = match first.map(|output| &output.place) {
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
        let source = Some((path.as_path(), probed));
        let all = self.single_outputs(encode, probed)?;
        let Ok(taken) = self.taken_by_all(&all, source)? else { return self.make_none(OTHERS, consent).await };
        let named = taken.name(&source_name(encode, identity));
        let store = self.open_chunks(outputs, &all, &named).await.map_err(|why| match why {
            Why::End(end) => end,
            Why::Because(why) => End::failure(Cause::ConfigBad, why),
        })?;
        let (cuts, list) = (piece.cuts(), ladder::files(&all));
        let alone: Vec<Output> = if piece.is_sound {
            let sound = |output: &Output| Some(with(output, plan::sound_alone(&output.encode, probed)?));
            list.iter().filter_map(sound).collect()
        } else {
            list.iter().map(|output| with(output, chunk::of(&output.encode))).collect()
        };
        if alone.len() != cuts.len() {
            return self.make_none(OTHERS, consent).await;
        }
        let key = self.piece_key(piece.is_sound, &cuts, &alone, (path, probed), &named)?;
        if key != piece.key {
            return self.make_none(OTHERS, consent).await;
        }
        if let Some(why) = store.useless() {
            return self.make_none(&why, consent).await;
        }
        if let Some(there) = store.find(&key, cuts.len(), piece.is_sound) {
            ask(&self.orders, consent).await?;
            return Ok(Some(there));
        }
        let recipe = if piece.is_sound {
            Recipe::Sound { secs: taken_secs(encode, probed.probe.duration_secs) }
        } else {
            Recipe::Chunk { cuts: &cuts, secs: length(&piece.cut, encode, probed) }
        };
        let made = self.make(&alone, source, user, recipe).await;
        let made = unchanged(made, path, identity)?;
        let mut counted = cuts.iter().zip(made.frames().into_iter().map(|frames| frames.unwrap_or(0)));
        if let Some((cut, there)) = counted.find(|(cut, frames)| !cut.allows(*frames)) {
            let wish = cut.frames.unwrap_or(0);
            let why = format!("chunk {} has {there} frames that decode instead of {wish}", piece.number);
            self.reporter.log(&format!("[ffpool] {why}"));
            ask(&self.orders, consent).await?;
            blocking(move || store.mark_useless(&why)).await?.map_err(|error| unkept(&error))?;
            return Ok(None);
        }
        let destination = |(place, output): (usize, &Output)| Destination {
            name: output.name.clone(),
            place: Place::File(store.path(&key, place)),
            is_sure: true,
        };
        let places = alone.iter().enumerate().map(destination).collect();
        let ready = self.stage_all(&made.outputs, places).await?;
        if let Err(end) = ask(&self.orders, consent).await {
            discard(ready).await;
            return Err(end);
        }
        let manifest = self.manifest(&ready, made, Some((identity.clone(), probed.probe.clone())));
        self.make_visible(ready, manifest).await.map(Some)
    }

    /// A chunk that is not made: the job is split anew for what is missing then, by whoever puts it together.
    async fn make_none(&self, why: &str, consent: &dyn Consent) -> Result<Option<Manifest>, End> {
        self.reporter.log(&format!("[ffpool] no chunk is made: {why}"));
        ask(&self.orders, consent).await?;
        Ok(None)
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
        let files = ladder::files(outputs);
        let totals: Vec<u64> = (0..files.len()).map(|file| parts.frames(file).sum()).collect();
        let made = self.put_together(outputs, (path, probed), user, parts).await;
        let made = made.and_then(|made| {
            let counted = made.frames().into_iter().map(|frames| frames.unwrap_or(0));
            match counted.zip(&totals).find(|(frames, total)| frames != *total) {
                Some((frames, total)) => Err(unproven(format!("it has {frames} frames, its chunks have {total}"))),
                None => Ok(made),
            }
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
        let names: Vec<Option<String>> = outputs.iter().flat_map(names).collect();
        made.chunks = parts.all().flat_map(|(key, manifest)| proofs(key, manifest, &names)).collect();
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
        let lists = (0..parts.offsets.len()).map(|file| self.lay_out(parts, file, user));
        let lists = lists.collect::<Result<Vec<PathBuf>, End>>()?;
        let sound = match &parts.sound {
            Some((key, _)) => {
                self.lay_out_one(&parts.store.path(key, 0), SOUND, user)?;
                let start_secs = self.probe(Path::new(SOUND), user).await?.start_secs.unwrap_or(0.0);
                Some(plan::Sound { file: Path::new(SOUND), start_secs })
            }
            None => None,
        };
        let rows = lists.iter().zip(&parts.offsets).map(|(list, offset)| plan::Row { list, offset_secs: *offset });
        let rows: Vec<plan::Row<'_>> = rows.collect();
        self.make(outputs, Some(source), user, Recipe::Stitch { rows: &rows, sound }).await
    }

    /// Whether the chunks still lie where they were found.
    async fn are_there(&self, parts: &Parts) -> Result<bool, End> {
        let found = parts.all().map(|(key, manifest)| (key.clone(), manifest.artifacts.len()));
        let (store, found) = (parts.store.clone(), found.collect::<Vec<_>>());
        blocking(move || found.iter().all(|(key, outputs)| store.find(key, *outputs, true).is_some())).await
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

    /// Has the chunks of a file where the tool can read them, and the list of them.
    fn lay_out(&mut self, parts: &Parts, file: usize, user: ToolUser) -> Result<PathBuf, End> {
        let mut names = Vec::with_capacity(parts.chunks.len());
        for (number, ((key, _), frames)) in parts.chunks.iter().zip(parts.frames(file)).enumerate() {
            let name = format!("chunk{number:05}.{file}.mp4");
            self.lay_out_one(&parts.store.path(key, file), &name, user)?;
            names.push((name, frames));
        }
        let list = plan::chunk_list(names.iter().map(|(name, frames)| (name.as_str(), *frames)), parts.fps(file));
        let name = PathBuf::from(format!("chunks.{file}.txt"));
        let written = self.create_in_scratch(&name).and_then(|mut list_file| list_file.write_all(list.as_bytes()));
        written.map_err(|error| not_laid_out(&error))?;
        Ok(name)
    }

    fn lay_out_one(&mut self, from: &Path, name: &str, user: ToolUser) -> Result<(), End> {
        let can_read = match user {
            ToolUser::Own => true,
            ToolUser::Switch { uid, gid } => roots::is_readable_by(from, uid, gid),
        };
        let laid_out = if can_read {
            self.reads.push(from.to_owned());
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

    /// Frames of each chunk of a file.
    fn frames(&self, file: usize) -> impl Iterator<Item = u64> {
        self.chunks.iter().map(move |(_, manifest)| chunks::frames(manifest, file).unwrap_or(0))
    }

    /// Frames per second of a file's chunks: as segments are counted, else by the one that has most of them.
    fn fps(&self, file: usize) -> f64 {
        let longest = self.chunks.iter().max_by_key(|(_, manifest)| chunks::frames(manifest, file));
        let probe = || longest.and_then(|(_, manifest)| manifest.artifacts.get(file)?.probe.video.as_ref()?.fps);
        let exact = self.rates.get(file).copied().flatten();
        exact.or_else(probe).filter(|fps| *fps > 0.0).unwrap_or(25.0)
    }
}

/// What the files of an output are called where their chunks are proven.
fn names(output: &Output) -> Vec<Option<String>> {
    let rendition = |rendition: &Rendition| match &output.name {
        Some(name) => format!("{name} {}", rendition.name),
        None => rendition.name.clone(),
    };
    match output.renditions.as_slice() {
        [] => vec![output.name.clone()],
        renditions => renditions.iter().map(|made| Some(rendition(made))).collect(),
    }
}

/// What a manifest says of a chunk. Another job may have made it, so the files are called what this one calls them.
fn proofs<'a>(
    key: &'a str,
    manifest: &'a Manifest,
    names: &'a [Option<String>],
) -> impl Iterator<Item = ChunkProof> + 'a {
    let one = move |(artifact, name): (&Artifact, &Option<String>)| ChunkProof {
        key: key.to_owned(),
        job: manifest.job,
        worker: manifest.worker.clone(),
        frames: artifact.proof.as_ref().and_then(|proof| proof.frames).unwrap_or(0),
        sha256: artifact.sha256.clone(),
        output: name.clone(),
    };
    manifest.artifacts.iter().zip(names).map(one)
}

/// An output of which only this is encoded.
fn with(output: &Output, encode: Encode) -> Output {
    Output { encode, ..output.clone() }
}

/// What a source is called in the names of its chunks: the same for every worker, another when it has changed.
fn source_name(encode: &Encode, identity: &SourceIdentity) -> String {
    let size = identity.size_bytes;
    match (&identity.sha256, &encode.source) {
        // Its sha256 is known only where the job names one, and to the attempts that make chunks not even then.
        (_, Source::File { path }) => {
            format!("file {path} {size} {}", identity.modified.map_or("?".to_owned(), |time| time.to_string()))
        }
        (Some(sha256), _) => format!("sha256 {sha256} {size}"),
        (None, Source::Remote { url } | Source::Live { url }) => format!("remote {url} {size}"),
        (None, Source::Generated { .. }) => "generated".to_owned(),
    }
}

/// Seconds of what is taken of a source that has `all` of them.
fn taken_secs(encode: &Encode, all: Option<f64>) -> Option<f64> {
    let left = all.map(|secs| (secs - encode.start_secs.unwrap_or(0.0)).max(0.0));
    left.into_iter().chain(encode.duration_secs).reduce(f64::min)
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

#[cfg(test)]
mod tests {
    use super::*;
    use ffpool_schema::job::JobSpec;

    #[test]
    fn a_part_is_no_longer_than_what_is_left_of_its_source() {
        let whole = ffpool_schema::scenario::resolve(&JobSpec::new("720p-h264")).unwrap().unwrap();
        let part = |start_secs, duration_secs| Encode { start_secs, duration_secs, ..whole.clone() };
        let secs = |start, length| taken_secs(&part(start, length), Some(100.0));
        assert_eq!([secs(None, None), secs(Some(70.0), None)], [Some(100.0), Some(30.0)]);
        assert_eq!([secs(Some(70.0), Some(10.0)), secs(Some(70.0), Some(50.0))], [Some(10.0), Some(30.0)]);
        assert_eq!(secs(Some(170.0), None), Some(0.0));
        assert_eq!(taken_secs(&part(Some(7.0), Some(10.0)), None), Some(10.0));
    }
}
