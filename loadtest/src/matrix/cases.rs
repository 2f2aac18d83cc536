//! The jobs of the matrix: the hundred of the original's scheduler test, its benchmarks B1 to B10, its sample jobs, ladders.
//!
//! Invariant: what a job asks for is written here in numbers, not worked out by the code under test.

use std::path::Path;

use serde_json::{Value, json};

/// What an output must be.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Wish {
    /// The codec, by the prober's name.
    pub codec: &'static str,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames a second.
    pub fps: f64,
    /// The pixel format.
    pub pixel_format: &'static str,
    /// Bits per second, where the job asks for an average.
    pub bitrate: Option<u64>,
}

impl Wish {
    /// How much there is to encode.
    fn megapixels(&self, secs: f64) -> f64 {
        f64::from(self.width) * f64::from(self.height) * self.fps * secs / 1e6
    }

    fn of(mut self, change: impl FnOnce(&mut Wish)) -> Wish {
        change(&mut self);
        self
    }
}

/// One job.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Case {
    /// Its part of the matrix.
    pub group: &'static str,
    /// What tells it from the others.
    pub name: String,
    /// The job as a client writes it.
    pub body: Value,
    /// What each of its outputs must be.
    pub wishes: Vec<Wish>,
}

impl Case {
    /// How much there is to encode.
    pub(super) fn megapixels(&self, secs: f64) -> f64 {
        self.wishes.iter().map(|wish| wish.megapixels(secs)).sum()
    }
}

fn wish(codec: &'static str, width: u32, height: u32, fps: f64) -> Wish {
    Wish { codec, width, height, fps, pixel_format: "yuv420p", bitrate: None }
}

fn uhd60() -> Wish {
    wish("h264", 3840, 2160, 60.0)
}

fn hd60() -> Wish {
    wish("hevc", 1920, 1080, 60.0)
}

fn hd30() -> Wish {
    wish("h264", 1280, 720, 30.0)
}

/// The three scenarios that most groups of the original go through.
fn trio() -> [(&'static str, Wish); 3] {
    [("4K60-h264", uhd60()), ("1080p60-h265", hd60()), ("720p30-h264", hd30())]
}

struct List {
    secs: f64,
    cases: Vec<Case>,
}

impl List {
    fn add(&mut self, group: &'static str, scenario: &str, parameters: Value, more: Value, wish: Wish) {
        self.add_all(group, scenario, parameters, more, vec![wish]);
    }

    fn add_all(&mut self, group: &'static str, scenario: &str, parameters: Value, more: Value, wishes: Vec<Wish>) {
        let mut body = json!({"scenario": scenario, "parameters": {"duration": self.secs}});
        let mut words = vec![scenario.to_owned()];
        for (target, source) in [("/parameters", &parameters), ("", &more)] {
            let place = body.pointer_mut(target).and_then(Value::as_object_mut);
            let (Some(place), Some(source)) = (place, source.as_object()) else { continue };
            for (name, value) in source {
                words.push(match value {
                    Value::String(text) => text.clone(),
                    Value::Object(labels) => labels.get("case").and_then(Value::as_str).unwrap_or(name).to_owned(),
                    Value::Array(outputs) => format!("and {} more outputs", outputs.len()),
                    other => format!("{name}={other}"),
                });
                place.insert(name.clone(), value.clone());
            }
        }
        self.cases.push(Case { group, name: words.join(" "), body, wishes });
    }
}

/// Every job, with outputs of `secs` seconds; `clip` is a file of 640x360 at 25 frames a second.
pub(super) fn all(secs: f64, clip: &Path) -> Vec<Case> {
    let mut list = List { secs, cases: Vec::new() };
    scheduling(&mut list);
    rates(&mut list);
    encoders(&mut list);
    combinations(&mut list);
    deep(&mut list);
    edges(&mut list);
    benchmarks(&mut list, clip);
    samples(&mut list, clip);
    ladders(&mut list, clip);
    list.cases
}

/// Groups 1 to 3: where a job waits and who runs it says nothing about its output.
fn scheduling(list: &mut List) {
    for (scenario, wish) in trio() {
        for queue in ["live", "default", "batch"] {
            for priority in ["high", "medium", "low"] {
                let more = json!({"queue": queue, "priority": priority});
                list.add("1 priority and queue", scenario, json!({}), more, wish.clone());
            }
        }
    }
    for (scenario, wish) in trio() {
        for engine in ["auto", "ffmpeg", "gstreamer"] {
            list.add("2 engine", scenario, json!({}), json!({"engine": engine}), wish.clone());
        }
    }
    for (scenario, wish) in trio() {
        for confidence in ["auto", "high", "medium", "low"] {
            list.add("3 confidence", scenario, json!({}), json!({"confidence": confidence}), wish.clone());
        }
    }
}

fn rates(list: &mut List) {
    let small = || wish("h264", 854, 480, 30.0);
    for (scenario, rates, wish) in [
        ("4K60-h264", &[20_000, 15_000, 10_000][..], uhd60()),
        ("1080p60-h265", &[8000, 5000, 3000], hd60()),
        ("720p30-h264", &[2500, 1500], hd30()),
        ("480p30-h264", &[1000, 500], small()),
    ] {
        for rate in rates {
            let asked = wish.clone().of(|wish| wish.bitrate = Some(rate * 1000));
            list.add("4 bit rate", scenario, json!({"bitrate": format!("{rate}k")}), json!({}), asked);
        }
    }
}

fn encoders(list: &mut List) {
    for (encoder, codec) in [
        ("h264_nvenc", "h264"),
        ("h264_qsv", "h264"),
        ("h264_vaapi", "h264"),
        ("libx264", "h264"),
        ("libx265", "hevc"),
        ("hevc_nvenc", "hevc"),
        ("libvpx-vp9", "vp9"),
        ("libaom-av1", "av1"),
    ] {
        let asked = hd30().of(|wish| wish.codec = codec);
        list.add("5 encoder", "720p30-h264", json!({"encoder": encoder}), json!({}), asked);
    }
    for preset in ["ultrafast", "superfast", "veryfast", "fast", "medium", "slow", "veryslow"] {
        list.add("6 preset", "720p30-h264", json!({"preset": preset}), json!({}), hd30());
    }
    for crf in [18, 20, 23, 26, 28, 30] {
        list.add("7 crf", "720p30-h264", json!({"crf": crf}), json!({}), hd30());
    }
}

fn combinations(list: &mut List) {
    let group = "8 combination";
    for (scenario, rate, preset, encoder, wish) in [
        ("4K60-h265", 15_000, "fast", "libx265", uhd60().of(|wish| wish.codec = "hevc")),
        ("1080p60-h264", 6000, "veryfast", "libx264", hd60().of(|wish| wish.codec = "h264")),
        ("1080p60-h265", 4000, "ultrafast", "libx265", hd60()),
        ("1080p30-h264", 4500, "fast", "libx264", wish("h264", 1920, 1080, 30.0)),
        ("720p30-h264", 2000, "slow", "libx264", hd30()),
        ("720p30-h265", 1500, "medium", "libx265", hd30().of(|wish| wish.codec = "hevc")),
        ("720p30-vp9", 1800, "fast", "libvpx-vp9", hd30().of(|wish| wish.codec = "vp9")),
        ("480p30-av1", 800, "veryfast", "libsvtav1", wish("av1", 854, 480, 30.0)),
    ] {
        let parameters = json!({"bitrate": format!("{rate}k"), "preset": preset, "encoder": encoder});
        list.add(group, scenario, parameters, json!({}), wish.of(|wish| wish.bitrate = Some(rate * 1000)));
    }
}

fn deep(list: &mut List) {
    let group = "9 HDR and pixel formats";
    for (scenario, parameters, rate, pixel_format, wish) in [
        (
            "4K60-h265",
            json!({"encoder": "libx265", "bitrate": "25000k", "pixel_format": "yuv420p10le"}),
            Some(25_000_000),
            "yuv420p10le",
            uhd60().of(|wish| wish.codec = "hevc"),
        ),
        (
            "4K60-h265",
            json!({"encoder": "hevc_nvenc", "bitrate": "30000k", "pixel_format": "p010le"}),
            Some(30_000_000),
            "yuv420p10le",
            uhd60().of(|wish| wish.codec = "hevc"),
        ),
        ("1080p60-h265", json!({"pixel_format": "yuv420p10le"}), None, "yuv420p10le", hd60()),
        ("1080p60-h265", json!({"pixel_format": "yuv444p"}), None, "yuv444p", hd60()),
        ("720p30-h264", json!({"pixel_format": "yuv422p"}), None, "yuv422p", hd30()),
    ] {
        let asked = wish.of(|wish| {
            wish.bitrate = rate;
            wish.pixel_format = pixel_format;
        });
        list.add(group, scenario, parameters, json!({}), asked);
    }
}

fn edges(list: &mut List) {
    let group = "10 edge";
    for (scenario, parameters, more, rate, wish) in [
        (
            "8K60-h265",
            json!({"bitrate": "50000k", "preset": "ultrafast", "encoder": "libx265"}),
            json!({}),
            50_000,
            wish("hevc", 7680, 4320, 60.0),
        ),
        ("360p15-h264", json!({"bitrate": "250k"}), json!({}), 250, wish("h264", 640, 360, 15.0)),
        (
            "4K120-h264",
            json!({"bitrate": "40000k", "encoder": "h264_nvenc", "preset": "p1"}),
            json!({}),
            40_000,
            wish("h264", 3840, 2160, 120.0),
        ),
        (
            "1080p240-h264",
            json!({"bitrate": "15000k", "encoder": "h264_nvenc", "preset": "p1"}),
            json!({}),
            15_000,
            wish("h264", 1920, 1080, 240.0),
        ),
        (
            "720p60-h264",
            json!({"bitrate": "3000k", "tune": "zerolatency"}),
            json!({"engine": "gstreamer", "queue": "live"}),
            3000,
            wish("h264", 1280, 720, 60.0),
        ),
        (
            "4K24-h265",
            json!({"bitrate": "25000k", "encoder": "libx265", "preset": "slow"}),
            json!({}),
            25_000,
            wish("hevc", 3840, 2160, 24.0),
        ),
        (
            "1080p30-h264",
            json!({"bitrate": "4500k", "preset": "veryfast"}),
            json!({"queue": "live"}),
            4500,
            wish("h264", 1920, 1080, 30.0),
        ),
        ("480p60-h264", json!({"bitrate": "800k"}), json!({}), 800, wish("h264", 854, 480, 60.0)),
    ] {
        list.add(group, scenario, parameters, more, wish.of(|wish| wish.bitrate = Some(rate * 1000)));
    }
}

fn benchmarks(list: &mut List, clip: &Path) {
    let group = "B benchmarks";
    for (name, scenario, rate, preset, wish) in [
        ("B1", "1080p60-h264", 6000, None, wish("h264", 1920, 1080, 60.0)),
        ("B2", "1080p60-h264", 6000, Some("fast"), wish("h264", 1920, 1080, 60.0)),
        ("B3", "2160p60-h264", 20_000, None, uhd60()),
        ("B4", "2160p30-h264", 13_000, None, wish("h264", 3840, 2160, 30.0)),
        ("B5", "1440p60-h264", 12_000, None, wish("h264", 2560, 1440, 60.0)),
        ("B6", "720p30-h264", 1500, None, hd30()),
        ("B7", "720p30-h264", 2500, None, hd30()),
        ("B8", "1080p30-h264", 4000, None, wish("h264", 1920, 1080, 30.0)),
        ("B9", "1080p30-h264", 5000, None, wish("h264", 1920, 1080, 30.0)),
    ] {
        let mut parameters = json!({"bitrate": format!("{rate}k")});
        if let Some(preset) = preset {
            parameters["preset"] = json!(preset);
        }
        let labels = json!({"labels": {"case": name}});
        list.add(group, scenario, parameters, labels, wish.of(|wish| wish.bitrate = Some(rate * 1000)));
    }
    let b10 = [("1080p30", 5000), ("720p30", 2500), ("480p30", 1000)];
    ladder(list, group, "B10", &b10, clip);
}

/// Renditions in one job, each with its rate in kbit/s: B10, and those of the original's stress test.
fn ladder(list: &mut List, group: &'static str, name: &str, rungs: &[(&str, u64)], clip: &Path) {
    let media = clip.parent().unwrap_or(Path::new("/media"));
    let wished = |size: &str, rate: u64| {
        let wish = match size {
            "1080p30" => wish("h264", 1920, 1080, 30.0),
            "720p30" => hd30(),
            _ => wish("h264", 854, 480, 30.0),
        };
        wish.of(|wish| wish.bitrate = Some(rate * 1000))
    };
    let wishes = rungs.iter().map(|(size, rate)| wished(size, *rate)).collect();
    let outputs = rungs.iter().skip(1).map(|(size, rate)| {
        json!({"url": media.join(format!("{name}-{size}.mp4")), "scenario": format!("{size}-h264"),
               "parameters": {"bitrate": format!("{rate}k")}})
    });
    let more = json!({"labels": {"case": name}, "outputs": outputs.collect::<Vec<Value>>()});
    let (size, rate) = rungs[0];
    list.add_all(group, &format!("{size}-h264"), json!({"bitrate": format!("{rate}k")}), more, wishes);
}

/// Renditions of one source in one job, other than B10.
fn ladders(list: &mut List, clip: &Path) {
    let group = "D ladders";
    for (name, rate) in [("ladder at 2500k", 2500), ("ladder at 5000k", 5000)] {
        ladder(list, group, name, &[("1080p30", rate), ("720p30", rate), ("480p30", rate)], clip);
    }
    let output = clip.with_file_name("auto-{name}.mp4");
    let wishes = [(640, 360), (426, 240)].map(|(width, height)| wish("h264", width, height, 25.0)).into();
    let body = json!({"scenario": "ladder-h264", "input": clip, "output": output});
    list.cases.push(Case { group, name: "ladder-h264 of a file of 360p25".to_owned(), body, wishes });
}

/// The sample jobs of the original, with its spellings; their lengths are cut.
fn samples(list: &mut List, clip: &Path) {
    let group = "C sample jobs";
    let secs = list.secs;
    let full = || wish("h264", 1920, 1080, 30.0);
    let rated = |wish: Wish, rate: u64| wish.of(|wish| wish.bitrate = Some(rate));
    for (name, body, wish) in [
        (
            "1080p-h264",
            json!({"scenario": "1080p-h264", "confidence": "auto", "parameters": {"duration": secs, "bitrate": "5M"}}),
            rated(full(), 5_000_000),
        ),
        (
            "4K60-h264",
            json!({"scenario": "4K60-h264", "confidence": "auto", "engine": "auto", "queue": "default",
                   "priority": "medium", "parameters": {"duration": secs, "bitrate": "10M", "output_mode": "file"}}),
            rated(uhd60(), 10_000_000),
        ),
        (
            "4k-h265 slow",
            json!({"scenario": "4k-h265", "queue": "batch", "priority": "medium",
                   "parameters": {"bitrate": "20M", "duration": secs, "preset": "slow"},
                   "resource_limits": {"max_cpu_percent": 800, "max_memory_mb": 4096, "timeout_sec": 7200}}),
            rated(wish("hevc", 3840, 2160, 30.0), 20_000_000),
        ),
        (
            "720p30-h264 rtmp",
            json!({"scenario": "720p30-h264", "queue": "live", "priority": "high",
                   "parameters": {"bitrate": "2M", "output_mode": "rtmp"},
                   "resource_limits": {"max_cpu_percent": 200, "max_memory_mb": 1024, "timeout_sec": 3600}}),
            rated(hd30(), 2_000_000),
        ),
        (
            "custom-input",
            json!({"scenario": "custom-input",
                   "parameters": {"input": clip, "bitrate": "2000k", "codec": "h264"}}),
            rated(wish("h264", 640, 360, 25.0), 2_000_000),
        ),
        (
            "test-1080p",
            json!({"scenario": "test-1080p", "parameters": {"resolution_width": 1920, "resolution_height": 1080,
                   "frame_rate": 60, "duration_seconds": secs, "bitrate": "5000k", "codec": "h264"}}),
            rated(wish("h264", 1920, 1080, 60.0), 5_000_000),
        ),
        (
            "live-stream nvenc p4",
            json!({"scenario": "live-stream", "parameters": {"encoder": "h264_nvenc", "preset": "p4"},
                   "classification": "production"}),
            full(),
        ),
    ] {
        list.cases.push(Case { group, name: name.to_owned(), body, wishes: vec![wish] });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_has_its_hundred_jobs_ten_benchmarks_seven_samples_and_three_ladders() {
        let cases = all(1.0, Path::new("/media/video.mp4"));
        let count = |prefix: &str| cases.iter().filter(|case| case.group.starts_with(prefix)).count();
        let groups = ["1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "7 ", "8 ", "9 ", "10 ", "B", "C", "D"];
        assert_eq!(groups.map(count), [27, 9, 12, 10, 8, 7, 6, 8, 5, 8, 10, 7, 3]);
    }
}
