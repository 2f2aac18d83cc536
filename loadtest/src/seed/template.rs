//! What is alike in all seeded rows, made from the types that read it: a field that is new is there too.

use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::job::JobSpec;
use ffpool_schema::message::{Ability, Capacity, Manifest, Phase, Progress, Usage};
use serde_json::json;

/// The parts as the SQL reads them. Ids, names and times are replaced there.
pub(super) fn settings() -> anyhow::Result<Vec<(&'static str, String)>> {
    let parts = [
        ("spec", serde_json::to_value(spec()?)?),
        ("manifest", serde_json::to_value(manifest()?)?),
        ("progress", serde_json::to_value(progress()?)?),
        ("failure", serde_json::to_value(failure())?),
        ("usage", serde_json::to_value(usage())?),
        ("capacity", serde_json::to_value(CAPACITY)?),
        ("ability", serde_json::to_value(ability()?)?),
    ];
    Ok(parts.into_iter().map(|(name, value)| (name, value.to_string())).collect())
}

/// Jobs are thrown at workers: where eight are to be expected, one worker of thousands has more than sixteen.
const CAPACITY: Capacity = Capacity { slots: 32, used: 0, cpu_percent: 3200, memory_mb: 131_072, disk_mb: 500_000 };

fn spec() -> serde_json::Result<JobSpec> {
    let mut spec = JobSpec::new("720p30-h264");
    spec.parameters.bitrate = serde_json::from_value(json!("6000000"))?;
    spec.parameters.preset = Some("fast".into());
    Ok(spec)
}

fn failure() -> Failure {
    let evidence = Some("Error while decoding stream #0:0: Invalid data found when processing input".into());
    Failure { evidence, exit_code: Some(1), ..Failure::new(Cause::Crash, "the tool gave up") }
}

fn usage() -> Usage {
    let (input_bytes, output_bytes) = (Some(80_000_000), Some(20_000_000));
    Usage { wall_ms: 1, cpu_ms: 1, peak_memory_bytes: Some(1), input_bytes, output_bytes, energy_joules: Some(900.0) }
}

fn ability() -> serde_json::Result<Ability> {
    serde_json::from_value(json!({
        "cpu_percent": CAPACITY.cpu_percent, "memory_mb": CAPACITY.memory_mb, "disk_mb": CAPACITY.disk_mb,
        "encoders": ["libx264", "libx265", "libvpx-vp9", "aac", "libopus"], "noop": false, "cgroups": true,
        "stores": ["https", "s3://media"], "features": ["encode", "scale", "pad", "overlay"],
        "sandbox": ["landlock", "seccomp", "network"],
    }))
}

fn progress() -> anyhow::Result<Progress> {
    let worker: WorkerId = "seed".parse()?;
    Ok(Progress {
        job: JobId(uuid::Uuid::nil()),
        attempt: 1,
        worker,
        seq: 40,
        phase: Phase::Encode,
        percent: Some(40.0),
        frame: Some(1000),
        fps: Some(48.0),
        speed: Some(1.6),
        out_time_us: Some(40_000_000),
        size_bytes: Some(9_000_000),
        eta_secs: Some(60.0),
        live: None,
    })
}

fn manifest() -> serde_json::Result<Manifest> {
    let arguments = "-nostdin -hide_banner -i file:/media/in.mov -map 0:v:0 -map 0:a? -vf scale=1280:720:flags=bicubic,setsar=1,fps=30 \
         -c:v libx264 -preset fast -b:v 6000000 -pix_fmt yuv420p -c:a aac -b:a 128000 -movflags +faststart file:/scratch/out.mp4";
    let video = json!({"codec": "h264", "profile": "High", "width": 1280, "height": 720, "fps": 30.0,
                       "pixel_format": "yuv420p", "duration_secs": 60.0, "frames": 1800, "rotation": null});
    let audio = json!({"codec": "aac", "channels": 2, "sample_rate": 48_000, "duration_secs": 60.0});
    let probe = json!({"format": "mov,mp4,m4a,3gp,3g2,mj2", "duration_secs": 60.0, "bitrate": 6_128_000, "video": video,
                       "audio": audio, "streams": 2});
    serde_json::from_value(json!({
        "job": uuid::Uuid::nil(), "attempt": 1, "worker": "seed", "at": "2026-01-01T00:00:00Z", "version": "0.1.0",
        "tool": "ffmpeg version 5.1.9", "arguments": arguments.split_whitespace().collect::<Vec<_>>(),
        "sandbox": ["landlock", "seccomp", "network"],
        "artifacts": [{"url": "file:///media/out.mp4", "size_bytes": 1, "sha256": "0".repeat(64), "probe": probe}],
        "source": {"url": "file:///media/in.mov", "size_bytes": 80_000_000, "modified": null},
        "usage": serde_json::to_value(usage())?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_an_object_that_the_sql_can_add_to() {
        for (name, text) in settings().unwrap() {
            assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object(), "{name}: {text}");
        }
    }
}
