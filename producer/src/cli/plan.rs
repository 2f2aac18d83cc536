//! `plan`: what a worker would run for a job, what must come out, and what it will cost, before anything runs.
//!
//! Invariant: nothing is written and nothing is sent; the arguments are made by the same function as a worker's.

mod gstreamer;
mod live;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ffpool_schema::encode::{Encode, Encoder, Metric, PictureFormat, Source, Treatment};
use ffpool_schema::failure::Cause;
use ffpool_schema::gstreamer::twin;
use ffpool_schema::job::{Engine, JobSpec};
use ffpool_schema::live::Live;
use ffpool_schema::message::EngineChoice;
use ffpool_schema::plan::estimate::{self, Estimate};
use ffpool_schema::plan::ladder::{self, Output, Outputs};
use ffpool_schema::plan::package::{Layout, Rendition, package_arguments};
use ffpool_schema::plan::quality::{self, Comparison};
use ffpool_schema::plan::together::{Refused, Shared, Together, together};
use ffpool_schema::plan::{self, Expected, Refusal, Request, Schedule, pictures, search};
use ffpool_schema::probe::{self, Probed};
use ffpool_schema::scenario;
use serde::Serialize;
use tokio::process::Command;

use live::By;

use super::args;
use super::exit::{Exit, Trouble};
use super::progress::Progress;
use super::{Context, format, output, submit};

/// Looking at one file, or at a list of encoders.
const TOOL: Duration = Duration::from_secs(60);

/// A plan as it is printed.
#[derive(Serialize)]
struct View {
    /// The typed encode.
    encode: Encode,
    /// The engine that a worker with all that the job needs would take, and why.
    engine: EngineChoice,
    /// What is made, in the order of the job.
    outputs: Vec<Made>,
    /// The runs, in order. Empty where the source cannot be looked at from here.
    runs: Vec<Run>,
    /// What it will cost.
    estimate: Option<Estimate>,
    /// What may go wrong.
    warnings: Vec<String>,
    /// What was assumed.
    notes: Vec<String>,
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

/// What FFmpeg on this machine can do.
struct Tools {
    encoders: Vec<Encoder>,
    features: Vec<String>,
}

pub(crate) async fn plan(context: &Context, args: args::Plan) -> Result<Exit, Trouble> {
    let spec = submit::one_job(context, &args.source).await?;
    let encode = scenario::resolve(&spec).map_err(|faults| Trouble::rejected("the job", &faults))?;
    let Some(encode) = encode else {
        return Err(Trouble::usage("a `noop` job runs nothing: there is nothing to plan"));
    };
    let mut notes = Vec::new();
    let engine = engine(&spec, &encode, &mut notes);
    let busy = Progress::busy("looking at the tools and the source");
    let tools = tools(&args, &encode, &mut notes).await;
    if let Some(wish) = &encode.live {
        notes.extend(live::notes(&encode, wish));
        let runs = live_runs(&args, &spec, &encode, wish, engine.engine, &tools, &mut notes).await?;
        drop(busy);
        let (outputs, warnings) = (Vec::new(), Vec::new());
        let view = View { encode: encode.shown(), engine, outputs, runs, estimate: None, warnings, notes };
        context.format.print(&view, |view| people(view, args.explain));
        return Ok(Exit::Success);
    }
    let source = source(&args, &encode, &mut notes).await?;
    drop(busy);
    let probed = match &source {
        Found::Here(_, probed) => Some(&**probed),
        Found::Generated | Found::Unseen => None,
    };
    let list: Vec<Output> = match source {
        // The rungs of a ladder follow from what is in the source.
        Found::Unseen => {
            let sure = ladder::possible(&encode).into_iter().filter(|possible| possible.is_sure);
            sure.map(|possible| possible.output).collect()
        }
        Found::Generated | Found::Here(..) => {
            let Outputs { list, reasons } =
                ladder::outputs(&encode, probed).map_err(|refusal| refused(&spec, 0, refusal))?;
            notes.extend(reasons);
            list
        }
    };
    let presentations: Vec<Output> = list;
    let list = ladder::files(&presentations);
    let is_gstreamer = engine.engine == Engine::Gstreamer;
    let encoder = |output: &Output| {
        if is_gstreamer { Ok(twin(output.encode.video.codec)) } else { chosen(&output.encode, &tools, &args) }
    };
    let encoders = list.iter().map(encoder).collect::<Result<Vec<_>, _>>()?;
    let made = |(output, encoder): (&Output, &Option<Encoder>)| Made {
        name: output.name.clone(),
        address: output.encode.output.clone(),
        encoder: if is_gstreamer { gstreamer::encoder(&output.encode) } else { encoder.map(Encoder::as_str) },
        expected: None,
    };
    let outputs = list.iter().zip(&encoders).map(made).collect();
    let (runs, warnings) = (Vec::new(), Vec::new());
    let view = View { encode: encode.shown(), engine, outputs, runs, estimate: None, warnings, notes };
    let view = match &source {
        Found::Unseen => view,
        Found::Generated => planned(view, &spec, &list, &encoders, None, &tools)?,
        Found::Here(path, probed) => planned(view, &spec, &list, &encoders, Some((path, probed)), &tools)?,
    };
    let cuts = cuts(&presentations, &list, &view, threads(&spec));
    let view = View { runs: view.runs.into_iter().chain(cuts).collect(), ..view };
    context.format.print(&view, |view| people(view, args.explain));
    Ok(Exit::Success)
}

/// The run of a live job.
async fn live_runs(
    args: &args::Plan,
    spec: &JobSpec,
    encode: &Encode,
    wish: &Live,
    engine: Engine,
    tools: &Tools,
    notes: &mut Vec<String>,
) -> Result<Vec<Run>, Trouble> {
    let arguments = |by: By<'_>| {
        live::arguments(spec, encode, wish, &by, threads(spec)).map_err(|refusal| refused(spec, 0, refusal))
    };
    if engine != Engine::Gstreamer {
        let arguments = arguments(By::Ffmpeg(chosen(encode, tools, args)?))?;
        return Ok(vec![Run { purpose: "live", tool: "ffmpeg", arguments }]);
    }
    let found = source(args, encode, notes).await?;
    let arguments = match (&found, &encode.source) {
        (Found::Here(_, probed), _) => arguments(By::Gstreamer(Some(probed)))?,
        (Found::Generated, _) | (Found::Unseen, Source::Live { .. }) => arguments(By::Gstreamer(None))?,
        (Found::Unseen, Source::File { .. } | Source::Remote { .. } | Source::Generated { .. }) => {
            return Ok(Vec::new());
        }
    };
    Ok(vec![Run { purpose: "live", tool: "gst-launch-1.0", arguments }])
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

/// The engine that encodes where a worker has what the job needs.
fn engine(spec: &JobSpec, encode: &Encode, notes: &mut Vec<String>) -> EngineChoice {
    let engine = match spec.engine {
        Engine::Gstreamer => Engine::Gstreamer,
        Engine::Auto | Engine::Ffmpeg | Engine::Noop => Engine::Ffmpeg,
    };
    let reason = scenario::why_engine(spec.engine).to_owned();
    notes.push(format!("{} encodes: {reason}", engine.as_str()));
    if engine == Engine::Gstreamer {
        notes.push(gstreamer::needs(encode));
    }
    EngineChoice { engine, reason }
}

/// `number`: which of the job's outputs asks for it.
fn refused(spec: &JobSpec, number: usize, refusal: Refusal) -> Trouble {
    match refusal {
        Refusal::Job(fault) => Trouble::rejected("the job", &[spec.fault_of_output(number, fault)]),
        Refusal::Input(why) => Trouble::new(Exit::JobRejected, why),
    }
}

/// Where a job's source is.
enum Found {
    Generated,
    Here(PathBuf, Box<Probed>),
    Unseen,
}

async fn source(args: &args::Plan, encode: &Encode, notes: &mut Vec<String>) -> Result<Found, Trouble> {
    let path = match &encode.source {
        Source::Generated { .. } => return Ok(Found::Generated),
        Source::File { path } => PathBuf::from(path),
        Source::Live { .. } => return Ok(Found::Unseen),
        Source::Remote { .. } => {
            notes.push("the input is fetched by a worker: its arguments follow from what is in it".to_owned());
            return Ok(Found::Unseen);
        }
    };
    if !path.is_file() {
        notes
            .push(format!("{} is not on this machine: a worker's arguments follow from what is in it", path.display()));
        return Ok(Found::Unseen);
    }
    let look = async |arguments: Vec<OsString>| {
        let mut command = Command::new(&args.ffprobe);
        command.args(arguments);
        ask(command, &args.ffprobe).await.map_err(|error| {
            Trouble::new(Exit::Trouble, format!("{} cannot be looked at: {error}", path.display()))
                .next("Install FFmpeg (Debian's package: ffmpeg), or name its prober with --ffprobe.")
        })
    };
    let unreadable = |error: serde_json::Error| {
        Trouble::new(Exit::Trouble, format!("{}'s answer cannot be read: {error}", args.ffprobe))
    };
    let mut probed = probe::parse(&look(probe::arguments(&path)).await?).map_err(unreadable)?;
    if probed.is_hdr_unsaid() {
        probe::add_frame(&mut probed, &look(probe::frame_arguments(&path)).await?).map_err(unreadable)?;
    }
    Ok(Found::Here(path, Box::new(probed)))
}

/// The encoder that would be taken.
fn chosen(encode: &Encode, tools: &Tools, args: &args::Plan) -> Result<Option<Encoder>, Trouble> {
    let video = &encode.video;
    let encoder = plan::choose_encoder(video, |encoder| tools.encoders.contains(&encoder));
    if video.treatment != Treatment::Encode || encoder.is_some() {
        return Ok(encoder);
    }
    let wish = video.encoder.map_or(video.codec.as_str(), |encoder| encoder.as_str());
    Err(Trouble::new(Exit::JobRejected, format!("{} has no encoder for {wish}", args.ffmpeg))
        .next("A worker with such an encoder may have one: `ffpool workers show NAME` lists what it has."))
}

/// Threads that a worker like this machine would give the job.
fn threads(spec: &JobSpec) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    spec.resource_limits.max_cpu_percent.map_or(cores, |percent| percent.div_ceil(100)).clamp(1, 64)
}

fn planned<'a>(
    mut view: View,
    spec: &JobSpec,
    list: &'a [Output],
    encoders: &[Option<Encoder>],
    source: Option<(&Path, &Probed)>,
    tools: &Tools,
) -> Result<View, Trouble> {
    let threads = threads(spec);
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
        features: &tools.features,
        loudness: None,
    };
    let requests: Vec<Request<'_>> = list.iter().enumerate().map(request).collect();
    let told = |Refused { output, refusal }: Refused| refused(spec, list[output].number, refusal);
    let Together { steps, expected } = together(&requests).map_err(told)?;
    let estimate = estimate::together(&requests, threads).map_err(told)?;
    let (mut warnings, mut notes) = (Vec::new(), view.notes.clone());
    let limit = spec.resource_limits.memory_mb();
    if estimate.memory_mb > limit {
        warnings.push(format!(
            "about {} MiB of memory is more than the {limit} MiB that the job may use: raise resource_limits.max_memory_mb",
            estimate.memory_mb
        ));
    }
    let run = |shared: &Shared| Run::of(shared.step.purpose.as_str(), "ffmpeg", &shared.step.arguments);
    let mut runs: Vec<Run> = steps.iter().map(run).collect();
    if view.engine.engine == Engine::Gstreamer {
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
    Ok(View { runs, estimate: Some(estimate), warnings, notes, ..view })
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

/// What FFmpeg here has; without one, what an ordinary worker has.
async fn tools(args: &args::Plan, encode: &Encode, notes: &mut Vec<String>) -> Tools {
    let lists = async |what: &str| {
        let mut command = Command::new(&args.ffmpeg);
        command.args(["-hide_banner", what]);
        let text = ask(command, &args.ffmpeg).await?;
        Ok::<Vec<String>, String>(
            text.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect(),
        )
    };
    let mut found = match (lists("-encoders").await, lists("-filters").await) {
        (Ok(encoders), Ok(filters)) => {
            notes
                .push(format!("encoders and filters as {} lists them; a worker tries each encoder first", args.ffmpeg));
            let has = |encoder: &Encoder| encoders.iter().any(|name| name == encoder.as_str());
            let webp = PictureFormat::Webp.encoder();
            let webp = encoders.iter().any(|name| name == webp).then(|| webp.to_owned());
            let features = filters.into_iter().chain(webp).collect();
            Tools { encoders: Encoder::ALL.iter().copied().filter(has).collect(), features }
        }
        (Err(error), _) | (_, Err(error)) => {
            notes.push(format!("{error}: a worker with every software encoder and filter is assumed"));
            let is_software = |encoder: &Encoder| !encoder.is_hardware();
            Tools {
                encoders: Encoder::ALL.iter().copied().filter(is_software).collect(),
                features: ["bwdif", "libwebp", "loudnorm", "psnr", "ssim", "subtitles", "tonemap", "zscale"]
                    .map(str::to_owned)
                    .into(),
            }
        }
    };
    let own = [Encode::FEATURE, Encode::OUTPUTS_FEATURE, Encode::SEGMENTS_FEATURE, Encode::PICTURES_FEATURE];
    found.features.extend(own.map(str::to_owned));
    let mut lacking: Vec<&str> = std::iter::once(encode).chain(&encode.others).flat_map(Encode::needs).collect();
    lacking.retain(|need| !found.features.iter().any(|has| has == need));
    for need in lacking {
        notes.push(format!("a worker must have the feature `{need}`, which FFmpeg here lacks"));
        // What measures changes nothing about how the output is made.
        if Metric::ALL.iter().any(|metric| metric.filter() == need) {
            found.features.push(need.to_owned());
        }
    }
    found
}

async fn ask(mut command: Command, program: &str) -> Result<String, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(TOOL, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("`{program}` says {}", said.lines().last().unwrap_or("nothing")))
        }
        Ok(Err(error)) => Err(format!("`{program}` cannot be started: {error}")),
        Err(_) => Err(format!("`{program}` did not end within {} s", TOOL.as_secs())),
    }
}

fn people(view: &View, explain: bool) -> String {
    let mut text = String::new();
    for (number, run) in view.runs.iter().enumerate() {
        text += &format!("run {}: {}\n  {} {}\n", number + 1, run.purpose, run.tool, run.arguments.join(" "));
    }
    let mut rows = Vec::new();
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
    text += &output::fields(&rows);
    for warning in &view.warnings {
        text += &format!("! {warning}\n");
    }
    if explain {
        let basis = view.estimate.iter().flat_map(|cost| &cost.basis);
        for line in view.notes.iter().chain(basis) {
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
