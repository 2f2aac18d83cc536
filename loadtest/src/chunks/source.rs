//! The sources that are made in chunks: the same film in every kind of file, or one that was given.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;

use super::ChunksArgs;
use crate::tool::said;

const FPS: u32 = 25;
/// The kinds: file name, and the group of pictures.
const KINDS: [(&str, &str); 4] = [
    ("closed.mp4", "open-gop=0"),
    ("open.mp4", "open-gop=1:bframes=3"),
    ("open.mkv", "open-gop=1:bframes=3"),
    ("open.ts", "open-gop=1:bframes=3"),
];

/// Makes the sources in `directory`. Answers their names.
///
/// # Errors
/// When ffmpeg cannot make one, or the given one cannot be copied.
pub(super) fn make(args: &ChunksArgs, directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    match &args.input {
        Some(input) => {
            let name = input.file_name().with_context(|| format!("{} names no file", input.display()))?;
            std::fs::copy(input, directory.join(name)).with_context(|| format!("copy {}", input.display()))?;
            names.push(name.to_string_lossy().into_owned());
        }
        None => {
            let film = directory.join("film.mkv").display().to_string();
            film_of(args, &film)?;
            for (name, groups) in KINDS {
                let path = directory.join(name).display().to_string();
                let picture =
                    ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-g", "50", "-x264-params", groups];
                let sound = ["-c:a", "aac", "-b:a", "128k", &path];
                said(
                    &args.ffmpeg,
                    &[&["-nostdin", "-v", "error", "-y", "-i", &film][..], &picture, &sound].concat(),
                    Path::new("."),
                )?;
                names.push(name.to_owned());
            }
        }
    }
    for name in &names {
        // The tools' user reads it.
        std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(names)
}

/// Scenes of three kinds in turn, three to five seconds each, with a sound that never repeats.
fn film_of(args: &ChunksArgs, path: &str) -> anyhow::Result<()> {
    let (mut graph, mut labels, mut frames, mut number) = (String::new(), String::new(), 0, 0);
    while frames < args.seconds * FPS {
        let length = (75 + (number * 37) % 50).min(args.seconds * FPS - frames);
        let picture = match number % 3 {
            0 => format!("testsrc2=size=640x360:rate={FPS},hue=h={}", number * 50 % 360),
            1 => format!("mandelbrot=size=640x360:rate={FPS}:start_scale={:.4}", 3.0 / f64::from(number + 1)),
            _ => format!("gradients=size=640x360:rate={FPS}:speed=0.02:seed={number}:n=6"),
        };
        let shape = "format=yuv420p,setsar=1,setpts=PTS-STARTPTS";
        graph.push_str(&format!("{picture},trim=end_frame={length},{shape}[s{number}];"));
        labels.push_str(&format!("[s{number}]"));
        (frames, number) = (frames + length, number + 1);
    }
    let graph = format!("{graph}{labels}concat=n={number}:v=1:a=0[v]");
    let sound = format!("aevalsrc=sin(2*PI*t*(200+t*7)):sample_rate=48000:duration={}", args.seconds);
    let inputs = ["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", &sound, "-filter_complex", &graph];
    let output =
        ["-map", "[v]", "-map", "0:a", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", "-c:a", "flac", path];
    said(&args.ffmpeg, &[&inputs[..], &output].concat(), Path::new(".")).map(drop)
}
