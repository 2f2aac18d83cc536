//! `plan`: what a worker would run for a job, what must come out, and what it will cost, before anything runs.
//!
//! Invariant: nothing is written and nothing is sent; the arguments are made by the same function as a worker's.

mod gstreamer;
mod live;
mod place;
mod source;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ffpool_schema::encode::{Encode, Encoder, Source};
use ffpool_schema::failure::Cause;
use ffpool_schema::job::{JobSpec, Sha256Sum};
use ffpool_schema::live::Live;
use ffpool_schema::message::EngineChoice;
use ffpool_schema::plan::estimate::{self, Estimate, LiveEstimate};
use ffpool_schema::plan::ladder::{self, Output, Outputs};
use ffpool_schema::plan::package::{Layout, Rendition, package_arguments};
use ffpool_schema::plan::quality::{self, Comparison};
use ffpool_schema::plan::together::{Refused, Shared, Together, together};
use ffpool_schema::plan::{Expected, Refusal, Request, Schedule, pictures, search};
use ffpool_schema::probe::Probed;
use ffpool_schema::scenario;
use jiff::Timestamp;
use serde::Serialize;

use live::By;
use place::Place;
use source::Found;

use super::args;
use super::exit::{Exit, Trouble};
use super::progress::Progress;
use super::{Context, format, output, submit};

/// A plan as it is printed.
#[derive(Serialize)]
struct View {
    /// The typed encode.
    encode: Encode,
    /// The worker that it is planned for, where one is named.
    worker: Option<String>,
    /// What the job says that its input is.
    input: Stated,
    /// The engine that a worker with all that the job needs would take, and why.
    engine: EngineChoice,
    /// What is made, in the order of the job.
    outputs: Vec<Made>,
    /// The runs, in order. Empty where the source cannot be looked at from here.
    runs: Vec<Run>,
    /// What it will cost.
    estimate: Option<Estimate>,
    /// What it will take while it runs, of a live job.
    live: Option<LiveEstimate>,
    /// What may go wrong.
    warnings: Vec<String>,
    /// What was assumed.
    notes: Vec<String>,
}

/// What the job says that its input is.
#[derive(Serialize)]
struct Stated {
    sha256: Option<Sha256Sum>,
    size_bytes: Option<u64>,
}

impl Stated {
    fn of(spec: &JobSpec) -> Stated {
        Stated { sha256: spec.input_sha256.clone(), size_bytes: spec.input_size_bytes }
    }

    /// In words.
    fn told(&self) -> String {
        let size = self.size_bytes.map(|bytes| format!("{bytes} bytes"));
        let sum = self.sha256.as_ref().map(|sum| format!("the sha256 {sum}"));
        let all: Vec<String> = size.into_iter().chain(sum).collect();
        if all.is_empty() { String::new() } else { format!("must have {}", all.join(" and ")) }
    }

    /// What is wrong with the size of a source that was looked at.
    fn warning(&self, probed: Option<&Probed>) -> Option<String> {
        let (stated, is) = (self.size_bytes?, probed?.size_bytes?);
        let cause = Cause::InputMismatch;
        (stated != is)
            .then(|| format!("the input has {is} bytes, and the job says {stated}: an attempt fails with `{cause}`"))
    }
}

#[derive(Serialize)]
struct Made {
    /// Which output of the job it is, where there are several.
    name: Option<String>,
    /// Where it goes; absent: the worker names it.
    address: Option<String>,
    /// The encoder that would be taken.
    encoder: Option<&'static str>,
    /// What must come out. Absent where the source cannot be looked at from here.
    expected: Option<Expected>,
}

#[derive(Serialize)]
struct Run {
    purpose: &'static str,
    tool: &'static str,
    arguments: Vec<String>,
}

impl Run {
    fn of(purpose: &'static str, tool: &'static str, arguments: &[OsString]) -> Run {
        let arguments = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Run { purpose, tool, arguments }
    }
}

pub(crate) async fn plan(context: &Context, args: args::Plan) -> Result<Exit, Trouble> {
    let spec = submit::one_job(context, &args.source).await?;
    let encode = scenario::resolve(&spec).map_err(|faults| Trouble::rejected("the job", &faults))?;
    let Some(encode) = encode else {
        return Err(Trouble::usage("a `noop` job runs nothing: there is nothing to plan"));
    };
    let (mut notes, mut warnings) = (Vec::new(), Vec::new());
    let busy = Progress::busy("looking at the tools and the source");
    let place = Place::find(context, &args, (&spec, &encode), (&mut notes, &mut warnings)).await?;
    let found = source::find(&args, &encode, &mut notes).await?;
    drop(busy);
    let input = Stated::of(&spec);
    warnings.extend(input.warning(found.probed()));
    if let Found::Unseen(why) = &found {
        warnings.extend(why.clone());
    }
    let view = View {
        encode: encode.shown(),
        worker: place.worker_id(),
        input,
        engine: place.engine.clone(),
        outputs: Vec::new(),
        runs: Vec::new(),
        estimate: None,
        live: None,
        warnings,
        notes,
    };
    let view = match &encode.live {
        Some(wish) => of_live(view, &spec, (&encode, wish), &place, &found)?,
        None => of_files(view, &spec, &encode, &place, &found)?,
    };
    context.format.print(&view, |view| people(view, args.explain));
    Ok(Exit::Success)
}

/// The plan of a job whose outputs are files.
fn of_files(mut view: View, spec: &JobSpec, encode: &Encode, place: &Place, found: &Found) -> Result<View, Trouble> {
    let list: Vec<Output> = match found {
        // The rungs of a ladder follow from what is in the source.
        Found::Unseen(_) => {
            let sure = ladder::possible(encode).into_iter().filter(|possible| possible.is_sure);
            sure.map(|possible| possible.output).collect()
        }
        Found::Generated | Found::Seen(..) => {
            let Outputs { list, reasons } =
                ladder::outputs(encode, found.probed()).map_err(|refusal| refused(spec, 0, refusal))?;
            view.notes.extend(reasons);
            list
        }
    };
    let presentations: Vec<Output> = list;
    let list = ladder::files(&presentations);
    let encoders = list.iter().map(|output| place.chosen(&output.encode)).collect::<Result<Vec<_>, _>>()?;
    let made = |(output, encoder): (&Output, &Option<Encoder>)| Made {
        name: output.name.clone(),
        address: output.encode.output.clone(),
        encoder: if place.is_gstreamer() { gstreamer::encoder(&output.encode) } else { encoder.map(Encoder::as_str) },
        expected: None,
    };
    view.outputs = list.iter().zip(&encoders).map(made).collect();
    let mut view = match found {
        Found::Unseen(_) => view,
        Found::Generated => planned(view, spec, &list, &encoders, None, place)?,
        Found::Seen(path, probed) => planned(view, spec, &list, &encoders, Some((path, probed)), place)?,
    };
    if let (Source::Remote { .. }, Some(probed), Some(estimate)) = (&encode.source, found.probed(), &mut view.estimate)
    {
        with_input(estimate, probed);
    }
    if let Some(estimate) = &view.estimate {
        view.warnings.extend(too_large("memory", "max_memory_mb", estimate.memory_mb, place.memory_mb(spec)));
        let disk_mb = estimate.disk_mb.unwrap_or(0);
        view.warnings.extend(too_large("scratch", "max_disk_mb", disk_mb, place.disk_mb(spec)));
    }
    let cuts = cuts(&presentations, &list, &view, place.threads(spec));
    view.runs.extend(cuts);
    Ok(view)
}

/// What is fetched lies in the scratch too.
fn with_input(estimate: &mut Estimate, probed: &Probed) {
    let Some(bytes) = probed.size_bytes else {
        estimate.disk_mb = None;
        estimate
            .basis
            .push("scratch: the server does not say how large the input is, which is fetched into it".to_owned());
        return;
    };
    estimate.disk_mb = estimate.disk_mb.map(|mib| mib + bytes.div_ceil(1 << 20));
    estimate.basis.push(format!("scratch: the {} of the input, which is fetched into it", format::bytes(bytes)));
    estimate.basis.push("time: without that of the fetch, which is the network's".to_owned());
}

fn too_large(what: &str, limit: &str, mib: u64, most: u64) -> Option<String> {
    (mib > most).then(|| {
        format!(
            "about {mib} MiB of {what} is more than the {most} MiB that the job may use: raise resource_limits.{limit}"
        )
    })
}

/// The plan of a live job.
fn of_live(
    mut view: View,
    spec: &JobSpec,
    (encode, wish): (&Encode, &Live),
    place: &Place,
    found: &Found,
) -> Result<View, Trouble> {
    view.notes.extend(live::notes(encode, wish));
    let encoder = place.chosen(encode)?;
    let by = if place.is_gstreamer() {
        match (&encode.source, found) {
            (Source::Live { .. } | Source::Generated { .. }, _) => Some(By::Gstreamer(None)),
            (Source::File { .. } | Source::Remote { .. }, found) => {
                found.probed().map(|seen| By::Gstreamer(Some(seen)))
            }
        }
    } else {
        Some(By::Ffmpeg(encoder))
    };
    if let Some(by) = by {
        let tool = if place.is_gstreamer() { "gst-launch-1.0" } else { "ffmpeg" };
        let arguments = live::arguments(spec, encode, wish, &by, place.threads(spec));
        let arguments = arguments.map_err(|refusal| refused(spec, 0, refusal))?;
        view.runs.push(Run { purpose: "live", tool, arguments });
    }
    let now = Timestamp::now();
    let estimate = estimate::live(&estimate::Situation {
        encode,
        encoder,
        source: found.probed(),
        threads: place.threads(spec),
        disk_mb: place.disk_mb(spec),
        secs: live::secs_to_end(spec, encode, found.probed(), now),
    });
    view.warnings.extend(live::warnings(spec, place, &estimate));
    view.live = Some(estimate);
    Ok(view)
}

/// The runs that cut presentations into segments and lay pictures out, where it is known of what.
fn cuts(outputs: &[Output], files: &[Output], view: &View, threads: u32) -> Vec<Run> {
    let names: Vec<PathBuf> = files.iter().enumerate().map(|(place, file)| file.file_name(place)).collect();
    let mut runs = Vec::new();
    let mut first = 0;
    for (place, output) in outputs.iter().enumerate() {
        let count = output.renditions.len();
        let expected = view.outputs.get(first).and_then(|made| made.expected.as_ref());
        if let Some(schedule) = expected.and_then(|expected| expected.pictures.as_ref()) {
            // As below, with the job and the attempt in the name.
            let arguments = pictures::lay_out_arguments(schedule, &names[first], "pictures", threads);
            runs.push(Run::of("lay out pictures", "ffmpeg", &arguments));
            first += 1;
            continue;
        }
        let sounds = expected.map(|made| !made.audio.is_empty());
        if let (Some(has_sound), 1..) = (sounds, count) {
            let size = |index: usize| {
                let made = view.outputs.get(first + index)?.expected.as_ref()?.video.as_ref()?;
                Some((made.width, made.height))
            };
            let renditions: Vec<Rendition<'_>> = (output.renditions.iter().zip(&names[first..]).enumerate())
                .map(|(index, (made, file))| Rendition {
                    file,
                    name: &made.name,
                    has_sound: has_sound && index == 0,
                    size: size(index).unwrap_or_default(),
                })
                .collect();
            let top = PathBuf::from(format!("presentation-{place}.{}", output.encode.container.extension()));
            // A worker puts the job and the attempt into the name.
            let layout = Layout { top: &top, segments: "segments" };
            let arguments = package_arguments(output, &renditions, layout);
            runs.push(Run::of("cut into segments", "ffmpeg", &arguments));
        }
        first += count.max(1);
    }
    runs
}

/// `number`: which of the job's outputs asks for it.
fn refused(spec: &JobSpec, number: usize, refusal: Refusal) -> Trouble {
    match refusal {
        Refusal::Job(fault) => Trouble::rejected("the job", &[spec.fault_of_output(number, fault)]),
        Refusal::Input(why) => Trouble::new(Exit::JobRejected, why),
    }
}

fn planned<'a>(
    mut view: View,
    spec: &JobSpec,
    list: &'a [Output],
    encoders: &[Option<Encoder>],
    source: Option<(&Path, &Probed)>,
    place: &Place,
) -> Result<View, Trouble> {
    let threads = place.threads(spec);
    // A worker writes into a directory of its own first.
    let names: Vec<PathBuf> = list.iter().enumerate().map(|(place, output)| output.file_name(place)).collect();
    let request = |(number, output): (usize, &'a Output)| Request {
        encode: &output.encode,
        encoder: encoders[number],
        device: None,
        source,
        output: names[number].as_path(),
        number,
        threads,
        features: &place.features,
        loudness: None,
    };
    let requests: Vec<Request<'_>> = list.iter().enumerate().map(request).collect();
    let told = |Refused { output, refusal }: Refused| refused(spec, list[output].number, refusal);
    let Together { steps, expected } = together(&requests).map_err(told)?;
    let estimate = estimate::together(&requests, threads).map_err(told)?;
    let mut notes = view.notes.clone();
    let run = |shared: &Shared| Run::of(shared.step.purpose.as_str(), "ffmpeg", &shared.step.arguments);
    let mut runs: Vec<Run> = steps.iter().map(run).collect();
    if place.is_gstreamer() {
        let by_gstreamer = requests.iter().map(|request| gstreamer::runs(request, source.map(|(path, _)| path)));
        let by_gstreamer: Result<Vec<_>, Refusal> = by_gstreamer.collect();
        runs = by_gstreamer.map_err(|refusal| refused(spec, 0, refusal))?.into_iter().flatten().collect();
    }
    for (request, output) in requests.iter().zip(list) {
        for note in quality_notes(request.encode) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        runs.extend(measurement(request).map_err(|refusal| refused(spec, output.number, refusal))?);
    }
    for (made, expected) in view.outputs.iter_mut().zip(expected) {
        made.expected = Some(expected);
    }
    Ok(View { runs, estimate: Some(estimate), notes, ..view })
}

/// The run that measures the output, where the job asks for one.
fn measurement(request: &Request<'_>) -> Result<Option<Run>, Refusal> {
    let Some(wish) = &request.encode.quality else { return Ok(None) };
    let comparison = Comparison::of(request)?;
    let arguments = quality::quality_arguments(request, &comparison, &wish.metrics, 1, false)?;
    Ok(Some(Run::of("measure quality", "ffmpeg", &arguments)))
}

/// What is measured, sought and demanded, in words.
fn quality_notes(encode: &Encode) -> Vec<String> {
    let Some(wish) = &encode.quality else { return Vec::new() };
    let names: Vec<&str> = wish.metrics.iter().map(|metric| metric.as_str()).collect();
    let mut notes = vec![format!(
        "{} of the finished output are measured against the source at the source's size; of long outputs every so \
         many-th frame, by the worker's setting",
        names.join(", ")
    )];
    if let Some(aim) = wish.aim {
        notes.push(format!(
            "the worker first seeks the highest CRF whose samples have a mean {} of {}, in {} trials at most: the CRF \
             above is only where it begins",
            aim.metric,
            aim.score,
            search::MOST_TRIALS
        ));
    }
    notes.extend(wish.target.scores().map(|(metric, score)| {
        format!(
            "a mean {metric} under {score} fails the job with `{}`, and it is not tried again",
            Cause::QualityMissed
        )
    }));
    notes
}

fn people(view: &View, explain: bool) -> String {
    let mut text = String::new();
    for (number, run) in view.runs.iter().enumerate() {
        text += &format!("run {}: {}\n  {} {}\n", number + 1, run.purpose, run.tool, run.arguments.join(" "));
    }
    let mut rows = vec![("worker", view.worker.clone().unwrap_or_default()), ("input", view.input.told())];
    for made in &view.outputs {
        if let Some(name) = &made.name {
            rows.push(("output", format!("{name}: {}", made.address.as_deref().unwrap_or("named by the worker"))));
        }
        rows.extend(made.expected.iter().flat_map(|expected| outcome(expected, made.encoder)));
    }
    if let Some(cost) = &view.estimate {
        let known = |value: Option<String>| value.unwrap_or_else(|| "not known".to_owned());
        rows.push(("time", known(cost.wall_secs.map(|secs| format!("about {}", format::duration(secs))))));
        rows.push(("memory", format!("about {} MiB", cost.memory_mb)));
        rows.push(("size", known(cost.size_bytes.map(|bytes| format!("about {}", format::bytes(bytes))))));
        rows.push(("scratch", known(cost.disk_mb.map(|mib| format!("about {mib} MiB")))));
    }
    rows.extend(view.live.iter().flat_map(live::rows));
    text += &output::fields(&rows);
    for warning in &view.warnings {
        text += &format!("! {warning}\n");
    }
    if explain {
        let basis = view.estimate.iter().flat_map(|cost| &cost.basis);
        let live = view.live.iter().flat_map(|cost| &cost.basis);
        for line in view.notes.iter().chain(basis).chain(live) {
            text += &format!("- {line}\n");
        }
    } else {
        for note in view.notes.iter().filter(|_| view.runs.is_empty()) {
            text += &format!("- {note}\n");
        }
    }
    text
}

fn outcome(expected: &Expected, encoder: Option<&'static str>) -> Vec<(&'static str, String)> {
    if let (Some(schedule), Some(video)) = (&expected.pictures, &expected.video) {
        return set(schedule, (video.width, video.height));
    }
    let mut rows = vec![("container", expected.container.to_string())];
    if let Some(video) = &expected.video {
        let by = encoder.map(|encoder| format!(" by {encoder}")).unwrap_or_default();
        let fps = video.fps.map(|fps| format!(", {fps:.3} frames a second")).unwrap_or_default();
        let pixels = video.pixel_format.map(|format| format!(", {format}")).unwrap_or_default();
        let rate = video.bitrate.map(|rate| format!(", {rate} bits per second")).unwrap_or_default();
        rows.push(("video", format!("{}{by}, {}x{}{fps}{pixels}{rate}", video.codec, video.width, video.height)));
    }
    for audio in &expected.audio {
        let channels = audio.channels.map(|count| format!(", {count} channels")).unwrap_or_default();
        let rate = audio.sample_rate.map(|rate| format!(", {rate} Hz")).unwrap_or_default();
        let loudness = audio.loudness.map(|wish| format!(", {} LUFS", wish.lufs)).unwrap_or_default();
        rows.push(("audio", format!("{}{channels}{rate}{loudness}", audio.codec)));
    }
    rows.push(("subtitles", expected.subtitles.join(", ")));
    rows.push(("length", expected.duration_secs.map(|secs| format!("{secs:.3} s")).unwrap_or_default()));
    rows
}

/// A set of pictures in words.
fn set(schedule: &Schedule, (width, height): (u32, u32)) -> Vec<(&'static str, String)> {
    let Schedule { every_secs, secs, least, most, format, grid } = *schedule;
    let known = |count: Option<u64>| count.map_or("as many as there are".to_owned(), |count| count.to_string());
    let count = if least == most { known(most) } else { format!("{} or {}", known(least), known(most)) };
    let mut rows = vec![("pictures", format!("{count}, {width}x{height}, one every {every_secs:.3} s"))];
    match grid {
        None => rows.push(("files", format!("{}, {format}", known(most)))),
        Some(grid) => {
            let (columns, rows_of_it) = (grid.columns, grid.rows);
            let size = format!("{}x{}", width * columns, height * rows_of_it);
            let sheets = known(most.map(|most| schedule.files(most)));
            rows.push(("sheets", format!("{sheets} of {columns} x {rows_of_it} pictures, {size}, {format}")));
        }
    }
    rows.push(("track", secs.map(|secs| format!("WebVTT, to {secs:.3} s")).unwrap_or("WebVTT".to_owned())));
    rows
}
