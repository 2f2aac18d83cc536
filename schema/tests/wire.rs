//! Golden files freeze every wire message: a change that another version could not read fails here first.
//! `FFPOOL_BLESS=1` writes new files; an existing one is only ever rewritten on purpose.

use std::fmt::Debug;

use ffpool_schema::chunk::{Cut, Micros, Piece, Span};
use ffpool_schema::device::DeviceState;
use ffpool_schema::encode::{Metric, PictureFormat};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::gstreamer::Installation;
use ffpool_schema::id::{Incarnation, JobId};
use ffpool_schema::job::{Engine, JobSpec, Pool, Priority, Queue};
use ffpool_schema::message::{
    Ability, Artifact, ArtifactFile, AudioProbe, Capacity, ClaimReply, ClaimRequest, CommitReply, CommitRequest,
    CrfSearch, CrfTrial, DeliveredJob, DropReason, EngineChoice, Event, Grant, Heartbeat, HoldScope, JobAnswer,
    JobCommand, LiveGap, LiveProgress, LiveReport, LiveSink, LogLine, LostEncoder, Manifest, Outcome, Phase,
    PicturesProof, Probe, Progress, Proof, PsnrScores, Quality, RenditionProof, RunningAttempt, Sender, SourceIdentity,
    StreamProof, TakeOver, TakeRequest, Usage, VideoProbe, VmafScores, WorkerAnswer, WorkerCommand, WorkerState,
    fingerprint,
};
use ffpool_schema::parse::{Fault, Received, parse};
use ffpool_schema::scenario::resolve;
use ffpool_schema::topology::WorkQueue;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let written = serde_json::to_string_pretty(message).unwrap() + "\n";
    if std::env::var_os("FFPOOL_BLESS").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let frozen =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}; FFPOOL_BLESS=1 makes it"));
    assert_eq!(written, frozen, "{name} is written differently than before");
    assert_eq!(&serde_json::from_str::<T>(&frozen).unwrap(), message, "{name} is read differently than it was written");
    a_field_of_a_later_version_is_passed_over(name, message);
}

/// Parts of an encode that are read whole or not at all.
const NEVER_MORE: [&str; 2] = ["/quality/target", "/pictures/pace"];

/// Whoever is older reads what newer ones say without what they added, wherever in a message that stands. Of what is to be made nothing
/// is passed over: a job, or the part of an encode that says how much of it, is not read at all with a field that is not known, so no
/// worker makes something else. What a worker is told of the chunk that it makes was added to before, and is read like a message.
fn a_field_of_a_later_version_is_passed_over<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    name: &str,
    message: &T,
) {
    let written = serde_json::to_value(message).unwrap();
    for place in objects(&written, String::new()) {
        let mut later = written.clone();
        later.pointer_mut(&place).unwrap()["of_a_later_version"] = serde_json::json!({"thumbnail": "/9j/2Q=="});
        let read = serde_json::from_value::<T>(later);
        let at = format!("{name} with a field of a later version at `{place}`");
        let is_of_a_job = std::any::type_name::<T>() == std::any::type_name::<JobSpec>() || place.contains("/spec");
        if is_of_a_job && !place.contains("/piece") || NEVER_MORE.iter().any(|part| place.ends_with(part)) {
            assert!(read.is_err(), "{at} is read as if it were not there");
        } else {
            assert_eq!(read.as_ref().ok(), Some(message), "{at}: {read:?}");
        }
    }
}

/// Where the objects of a value stand, as JSON pointers.
fn objects(value: &Value, place: String) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let inner = fields.iter().flat_map(|(name, field)| objects(field, format!("{place}/{name}")));
            inner.chain([place.clone()]).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(index, item)| objects(item, format!("{place}/{index}"))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn job() -> JobId {
    JobId(Uuid::from_u128(0x0192_0f3a_7c1e_7d2a_8a6e_3f0c_5b1d_9e42))
}

fn from() -> Sender {
    Sender { worker: "worker-1".parse().unwrap(), incarnation: Incarnation(Uuid::from_u128(7)) }
}

fn work() -> WorkQueue {
    WorkQueue { queue: Queue::Batch, priority: Priority::Low, pool: Pool::cpu() }
}

fn ability() -> Ability {
    Ability {
        cpu_percent: 200,
        memory_mb: 4096,
        disk_mb: 20_000,
        encoders: vec!["libx264".into()],
        noop: true,
        cgroups: true,
        stores: Vec::new(),
        features: Vec::new(),
        devices: Vec::new(),
        sandbox: Vec::new(),
        gstreamer: None,
        lost: Vec::new(),
    }
}

fn progress() -> Progress {
    Progress {
        job: job(),
        attempt: 1,
        worker: from().worker,
        seq: 4,
        phase: Phase::Encode,
        percent: Some(41.5),
        frame: Some(100),
        fps: Some(25.0),
        speed: Some(1.5),
        out_time_us: Some(4_000_000),
        size_bytes: Some(100_000),
        eta_secs: Some(6.0),
        live: None,
    }
}

fn usage() -> Usage {
    Usage {
        wall_ms: 1500,
        cpu_ms: 2500,
        peak_memory_bytes: Some(1 << 20),
        input_bytes: None,
        output_bytes: Some(9),
        energy_joules: None,
    }
}

fn event(outcome: Outcome) -> Event {
    Event {
        id: Uuid::from_u128(9),
        from: from(),
        job: job(),
        attempt: 1,
        at: "2026-12-01T00:00:00Z".parse().unwrap(),
        usage: Some(usage()),
        thumbnail: None,
        outcome,
    }
}

fn piece() -> Piece {
    let span = Span::Time { from: Some(Micros(29_500_000)), to: None };
    let cut = Cut { seek: Some(Micros(26_000_000)), span, frames: Some(750), late: None };
    Piece { of: job(), number: 1, total: 2, key: "5e".repeat(32), cut, others: Vec::new(), is_sound: false }
}

#[test]
fn a_job_that_makes_a_chunk_and_one_that_may_be_split() {
    let mut spec = JobSpec::new("480p30-h264");
    spec.piece = Some(Box::new(piece()));
    let encode = resolve(&spec).unwrap();
    let grant = Grant {
        job: job(),
        attempt: 1,
        lease_ms: 5000,
        spec,
        encode,
        alone: false,
        traceparent: None,
        splits: Some(1),
        sound_apart: false,
        minds: Vec::new(),
    };
    golden("claim_run_chunk", &ClaimReply::Run(Box::new(grant)));
}

#[test]
fn a_job() {
    let mut spec = JobSpec::new("1080p60-h264");
    spec.id = Some(job());
    spec.not_before = Some("2026-12-01T00:00:00Z".parse().unwrap());
    spec.parameters.bitrate = Some("6M".parse().unwrap());
    spec.resource_limits.max_cpu_percent = Some(200);
    golden("job", &spec);
}

#[test]
fn a_claim_and_its_answers() {
    let body = br#"{"scenario":"480p30-h264"}"#.to_vec();
    let delivery = DeliveredJob {
        work: work(),
        message_id: Some(job().to_string()),
        content_type: Some("application/json".into()),
        body_len: body.len(),
        fingerprint: fingerprint(&work(), &body),
        body,
        redelivered: true,
        delivery_count: 1,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        user_id: None,
    };
    golden(
        "claim_of_a_user",
        &ClaimRequest {
            from: from(),
            delivery: DeliveredJob { user_id: Some("acme-in".into()), ..delivery.clone() },
            ability: Some(ability()),
            idle: true,
            running_unanswered: None,
        },
    );
    golden(
        "claim",
        &ClaimRequest { from: from(), delivery, ability: Some(ability()), idle: true, running_unanswered: None },
    );
    let spec = JobSpec::new("480p30-h264");
    let encode = resolve(&spec).unwrap();
    let grant = Grant {
        job: job(),
        attempt: 2,
        lease_ms: 5000,
        spec,
        encode,
        alone: false,
        traceparent: None,
        splits: None,
        sound_apart: false,
        minds: Vec::new(),
    };
    golden("claim_run", &ClaimReply::Run(Box::new(grant.clone())));
    let minds = vec![Piece::PART_FEATURE.to_owned()];
    golden("claim_run_minds", &ClaimReply::Run(Box::new(Grant { minds, splits: Some(0), ..grant })));
    golden("claim_drop", &ClaimReply::Drop { job: Some(job()), reason: DropReason::OwnerAlive });
    golden("take", &TakeRequest { from: from(), job: job(), queue: Queue::Batch, ability: ability(), idle: true });
    let reason = "the queue is paused".to_owned();
    golden("claim_hold", &ClaimReply::Hold { retry_after_ms: 500, scope: HoldScope::Queue, reason });
}

/// Every field that an encode can have.
#[test]
fn a_whole_encode() {
    let parameters = serde_json::json!({
        "codec": "libx265", "bitrate": "6M", "maxrate": "8M", "bufsize": "12M", "passes": 2, "preset": "slow", "tune": "grain",
        "profile": "main10", "gop": 48, "resolution": "1280x720", "fit": "crop", "crop": "1920x800+0+140", "fps": "24000/1001",
        "deinterlace": "auto", "hdr": "keep", "start": 10, "end": 70.5, "container": "mkv", "audio_codec": "aac",
        "audio_bitrate": "192k", "audio_channels": "5.1", "sample_rate": 48000, "loudness": -23, "true_peak": -2,
        "audio_streams": 1, "subtitles": "copy", "subtitle_streams": "0,2", "metadata": "drop", "chapters": "drop",
    });
    let body =
        serde_json::json!({"scenario": "custom-input", "input": "/m/in.mkv", "parameters": parameters}).to_string();
    let spec = parse(&Received { body: body.as_bytes(), ..Received::default() }).unwrap();
    golden("job_whole", &spec);
    golden("encode_whole", &resolve(&spec).unwrap().unwrap());
    let there = Installation { version: "gst-launch-1.0 version 1.22.0".into(), missing: vec!["x265enc".into()] };
    golden("ability_with_gstreamer", &Ability { gstreamer: Some(there), ..ability() });
    let choice = EngineChoice { engine: Engine::Gstreamer, reason: "the job names it".into() };
    golden("engine_choice", &choice);
    golden("ability_with_sandbox", &Ability { sandbox: vec!["landlock".into(), "seccomp".into()], ..ability() });
    golden("ability_with_features", &Ability { features: vec!["encodes-2".into(), "zscale".into()], ..ability() });
    let stream = StreamProof {
        kind: "video".into(),
        codec: "hevc".into(),
        packets: 240,
        bytes: 1_000_000,
        first_secs: Some(0.0),
        end_secs: Some(10.0),
    };
    let proof = Proof { streams: vec![stream], frames: Some(240), lufs: Some(-23.1), ..Proof::default() };
    golden("proof", &proof);
    let taken =
        Proof { peak_dbtp: Some(-1.4), source_frames: Some(239), repeated: Some(1), left_out: Some(0), ..proof };
    golden("proof_with_source", &taken);
}

#[test]
fn a_job_with_several_outputs() {
    let body = serde_json::json!({
        "scenario": "ladder-h264", "input": "/m/in.mkv", "output": "/m/{name}.mp4",
        "parameters": {"ladder": "720p:2500k,480p"},
        "outputs": [{"url": "/m/a.mkv", "scenario": "240p-vp9", "parameters": {"crf": 30}}],
    });
    let spec = parse(&Received { body: body.to_string().as_bytes(), ..Received::default() }).unwrap();
    golden("job_outputs", &spec);
    golden("encode_outputs", &resolve(&spec).unwrap().unwrap());
    let body =
        serde_json::json!({"scenario": "720p-h264", "output": "/m/a.m3u8", "parameters": {"segment_seconds": 4}});
    let spec = parse(&Received { body: body.to_string().as_bytes(), ..Received::default() }).unwrap();
    golden("encode_segments", &resolve(&spec).unwrap().unwrap());
    let body = serde_json::json!({
        "scenario": "sprites", "input": "/m/in.mkv", "output": "/m/a.vtt",
        "parameters": {"every_sec": 5, "columns": 6, "rows": 4, "picture_format": "webp"},
        "outputs": [{"url": "/m/b.vtt", "scenario": "thumbnails", "parameters": {"picture_count": 12}}],
    });
    let spec = parse(&Received { body: body.to_string().as_bytes(), ..Received::default() }).unwrap();
    golden("job_pictures", &spec);
    golden("encode_pictures", &resolve(&spec).unwrap().unwrap());
    let file = ArtifactFile { path: "segments-1/main/00000.ts".into(), size_bytes: 9, sha256: "00".repeat(32) };
    let rendition =
        RenditionProof { name: "main".into(), probe: Probe::default(), proof: Proof::default(), quality: None };
    golden(
        "artifact_presentation",
        &Artifact {
            name: Some("outputs[0]".into()),
            url: "file:///media/a.m3u8".into(),
            size_bytes: 9,
            sha256: "00".repeat(32),
            probe: Probe::default(),
            proof: None,
            quality: None,
            files: vec![file],
            renditions: vec![rendition],
            pictures: None,
        },
    );
    let pictures = PicturesProof {
        count: 13,
        files: 2,
        format: PictureFormat::Jpg,
        width: 160,
        height: 90,
        columns: Some(4),
        rows: Some(3),
        first_secs: 0.0,
        last_secs: 60.04,
        end_secs: 62.5,
    };
    golden("artifact_pictures", &pictures);
}

#[test]
fn a_commit_and_its_answers() {
    golden("commit", &CommitRequest { from: from(), job: job(), attempt: 2 });
    golden("commit_granted", &CommitReply::Granted);
    golden("commit_refused", &CommitReply::Refused { reason: "the lease of this attempt is lost".into() });
}

#[test]
fn signals() {
    let heartbeat = Heartbeat {
        from: from(),
        seq: 3,
        at: "2026-12-01T00:00:00Z".parse().unwrap(),
        host: "host".into(),
        version: "0.1.0".into(),
        pools: vec![Pool::cpu()],
        state: WorkerState::Ready,
        capacity: Capacity { slots: 2, used: 1, cpu_percent: 200, memory_mb: 4096, disk_mb: 20_000 },
        ability: ability(),
        running: vec![RunningAttempt { job: job(), attempt: 1, progress: Some(progress()), frozen: false }],
        revision: 1,
        reserved: None,
    };
    golden("heartbeat", &heartbeat);
    golden("heartbeat_revision_2", &Heartbeat { revision: 2, ..heartbeat.clone() });
    golden("heartbeat_reserved", &Heartbeat { revision: 3, reserved: Some(job()), ..heartbeat });
    golden("progress", &progress());
    golden("log_line", &LogLine { job: job(), attempt: 1, seq: 1, line: "frame=1".into() });
}

#[test]
fn commands() {
    golden("worker_drain", &WorkerCommand::Drain);
    golden("worker_ping", &WorkerCommand::Ping { job: job(), attempt: 1 });
    let spec = Box::new(JobSpec::new("480p30-h264"));
    golden("worker_offer", &WorkerCommand::Offer { job: job(), alone: true, spec });
    golden("worker_withdraw", &WorkerCommand::Withdraw { job: job() });
    golden("worker_answer", &WorkerAnswer::new(from(), true));
    let keeps = WorkerAnswer { slots: Some(4), ..WorkerAnswer::new(from(), true) };
    golden("worker_answer_keeps_room", &keeps);
    let reason = Some("it keeps room for another job".to_owned());
    golden("worker_answer_declines", &WorkerAnswer { reason, ..WorkerAnswer::new(from(), false) });
    golden("take_over", &TakeOver { from: from(), attempt: 2 });
    golden("job_finish", &JobCommand::Finish { attempt: 1 });
    golden("job_cancel", &JobCommand::Cancel { attempt: 1 });
    golden("job_abandon", &JobCommand::Abandon { attempt: 1 });
    golden("job_pause", &JobCommand::Pause { attempt: 1 });
    golden("job_resume", &JobCommand::Resume { attempt: 1 });
    golden("job_answer", &JobAnswer { from: from(), accepted: false, reason: Some("not here".into()) });
}

#[test]
fn events() {
    let video = VideoProbe { codec: "h264".into(), width: 854, height: 480, fps: Some(30.0), ..VideoProbe::default() };
    let audio = AudioProbe { codec: "aac".into(), channels: Some(2), ..AudioProbe::default() };
    let manifest = Manifest {
        job: job(),
        attempt: 1,
        worker: from().worker,
        at: "2026-12-01T00:00:00Z".parse().unwrap(),
        version: "0.1.0".into(),
        tool: "ffmpeg version 5.1".into(),
        arguments: vec!["-i".into(), "file:/media/in.mov".into()],
        steps: Vec::new(),
        prober: None,
        sandbox: Vec::new(),
        device: None,
        fallback: None,
        engine: None,
        checker: None,
        artifacts: vec![Artifact {
            name: None,
            files: Vec::new(),
            renditions: Vec::new(),
            pictures: None,
            url: "file:///media/out.mp4".into(),
            size_bytes: 9,
            sha256: "00".repeat(32),
            probe: Probe {
                format: "mov,mp4".into(),
                duration_secs: Some(10.0),
                bitrate: Some(1_000_000),
                video: Some(video),
                audio: Some(audio),
                streams: 2,
            },
            proof: None,
            quality: None,
        }],
        source: Some(SourceIdentity {
            url: "file:///media/in.mov".into(),
            size_bytes: 10,
            modified: None,
            sha256: None,
            etag: None,
        }),
        source_probe: None,
        chunks: Vec::new(),
        usage: usage(),
        live: None,
    };
    golden("event_finished", &event(Outcome::Finished { manifest: Some(Box::new(manifest)) }));
    let failure = Failure {
        evidence: Some("moov atom not found".into()),
        exit_code: Some(183),
        ..Failure::new(Cause::InputBad, "the input is damaged")
    };
    golden("event_failed", &event(Outcome::Failed { failure }));
    let faults = vec![Fault::new("input", "outside_roots", "not under a media root")];
    golden("event_rejected", &event(Outcome::Rejected { faults }));
    golden("event_released", &event(Outcome::Released { reason: "the worker drains".into() }));
    golden("event_cancelled", &event(Outcome::Cancelled));
    golden("usage_with_energy", &Usage { energy_joules: Some(312.5), ..usage() });
    golden("event_split", &event(Outcome::Split { pieces: vec![piece()] }));
    let thumbnail = Some("/9j/4AAESkb/2Q==".to_owned());
    golden("event_with_thumbnail", &Event { thumbnail, ..event(Outcome::Finished { manifest: None }) });
}

#[test]
fn what_a_worker_serves_and_what_was_fetched_are_said_only_where_there_is_something() {
    golden("ability_with_stores", &Ability { stores: vec!["https".into(), "s3://media".into()], ..ability() });
    let url = "https://media.example/in.mov?***".into();
    let (sha256, etag) = (Some("ab".repeat(32)), Some("\"v1\"".into()));
    golden("source_fetched", &SourceIdentity { url, size_bytes: 10, modified: None, sha256, etag });
}

#[test]
fn a_job_says_what_its_input_is() {
    let spec = JobSpec {
        input: Some("https://media.example/in.mov".into()),
        input_sha256: Some("ab".repeat(32).parse().unwrap()),
        input_size_bytes: Some(10),
        ..JobSpec::new("720p30-h264")
    };
    golden("job_stated_input", &spec);
}

#[test]
fn causes_keep_their_numbers_and_names() {
    let table: Vec<String> = Cause::ALL.iter().map(|cause| format!("{} {cause}", cause.code())).collect();
    golden("causes", &table);
    for cause in Cause::ALL {
        assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
    }
    // A newer worker knows more of them, and is heard all the same.
    assert_eq!(serde_json::from_str::<Cause>("\"of_a_later_version\"").unwrap(), Cause::Unknown);
    let packed = rmp_serde::to_vec_named("of_a_later_version").unwrap();
    assert_eq!(rmp_serde::from_slice::<Cause>(&packed).unwrap(), Cause::Unknown);
}

/// A live job, the encode it resolves to, and what is said of it while it runs and at its end.
#[test]
fn live() {
    let body = serde_json::json!({
        "scenario": "720p30-h264", "queue": "live", "input": "rtmp://in.example/live/key",
        "output": "srt://out.example:9000?streamid=x",
        "outputs": [{"url": "/m/live.m3u8", "scenario": "720p30-h264"}, {"url": "/m/rec.mp4", "scenario": "720p30-h264"}],
        "parameters": {"reconnect_sec": 30, "restarts": 5, "source_end": "fail"},
    })
    .to_string();
    let spec = parse(&Received { body: body.as_bytes(), ..Received::default() }).unwrap();
    golden("job_live", &spec);
    golden("encode_live", &resolve(&spec).unwrap().unwrap());
    golden("live_progress", &LiveProgress { run: 2, is_up: true, dropped: 3, duplicated: 4, sinks_down: 1 });
    let sink =
        LiveSink { url: "srt://out.example:9000?***".into(), is_up: true, losses: 1, evidence: Some("refused".into()) };
    let gap = LiveGap { at_secs: 12.5, secs: 2.25, cause: Cause::SourceGone };
    golden("live_report", &LiveReport { runs: 2, secs: 60.5, gaps: vec![gap], sinks: vec![sink] });
}

/// Devices of a worker, and a manifest that tells which one encoded or why none did.
#[test]
fn devices() {
    let state = DeviceState {
        device: "nvenc:0".into(),
        sessions: 8,
        used: 1,
        encoders: vec!["h264_nvenc".into()],
        resting: vec!["hevc_nvenc".into()],
    };
    golden("ability_with_devices", &Ability { devices: vec![state], ..ability() });
    let lost = LostEncoder { encoder: "libx265".into(), why: "Unknown encoder 'libx265'".into() };
    let lacking = Ability { lost: vec![lost], ..ability() };
    golden("ability_with_lost", &lacking);
    assert_eq!(lacking.rested().encoders, ["libx264", "libx265"]);
    let body =
        serde_json::json!({"scenario": "720p-h264", "input": "/m/in.mkv", "parameters": {"hw": "require"}}).to_string();
    let spec = parse(&Received { body: body.as_bytes(), ..Received::default() }).unwrap();
    golden("encode_on_a_device", &resolve(&spec).unwrap().unwrap());
}

/// What is asked of an output's quality, and what is found.
#[test]
fn quality() {
    let body = serde_json::json!({
        "scenario": "720p-h264", "input": "/m/in.mkv",
        "parameters": {"quality": ["ssim", "vmaf"], "quality_target": {"vmaf": 90, "psnr": 38.5}, "target_vmaf": 93},
    })
    .to_string();
    let spec = parse(&Received { body: body.as_bytes(), ..Received::default() }).unwrap();
    golden("job_quality", &spec);
    golden("encode_quality", &resolve(&spec).unwrap().unwrap());
    let found = Quality {
        frames: 200,
        every: 5,
        width: 1920,
        height: 1080,
        vmaf: Some(VmafScores {
            model: "vmaf_v0.6.1".into(),
            mean: 93.5,
            harmonic_mean: 93.25,
            p1: 80.5,
            p5: 85.5,
            min: 79.5,
        }),
        psnr: Some(PsnrScores { mean: 41.5, min: 38.5 }),
        ssim: Some(0.985),
        search: Some(CrfSearch {
            metric: Metric::Vmaf,
            aim: 93.0,
            crf: 24,
            samples: 3,
            trials: vec![CrfTrial { crf: 23, score: 94.5 }, CrfTrial { crf: 24, score: 93.25 }],
        }),
    };
    golden("quality", &found);
}
