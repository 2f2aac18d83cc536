//! Publishers of live media, and a look at what came of them.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Publishes a test picture and a tone for as long as it lives.
pub struct Publisher {
    child: Child,
}

impl Publisher {
    /// To an RTMP server, and again whenever that comes back.
    pub fn to(url: &str) -> Publisher {
        let again = "attempt_recovery=1:recover_any_error=1:recovery_wait_time=0.2:restart_with_keyframe=1:drop_pkts_on_overflow=1";
        Publisher::run(&["-fifo_options", again, "-f", "tee", &format!("[f=flv:onfail=ignore:use_fifo=1]{url}")])
    }

    /// To whoever calls by SRT; and its address.
    pub fn by_srt() -> (Publisher, String) {
        let address = format!("srt://127.0.0.1:{}", ffpool_stack::free_port());
        (Publisher::run(&["-f", "mpegts", &format!("{address}?mode=listener")]), address)
    }

    fn run(output: &[&str]) -> Publisher {
        let child = Command::new("ffmpeg")
            .args(["-nostdin", "-hide_banner", "-loglevel", "error", "-re", "-f", "lavfi"])
            .args(["-i", "testsrc2=size=320x180:rate=25", "-re", "-f", "lavfi", "-i", "sine=frequency=300"])
            .args(["-map", "0:v", "-map", "1:a", "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency"])
            .args(["-g", "13", "-pix_fmt", "yuv420p", "-c:a", "aac", "-flags", "+global_header"])
            .args(output)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("these tests need the Debian package ffmpeg: {error}"));
        Publisher { child }
    }

    /// Sends nothing more, and stays connected.
    pub fn pause(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGSTOP).unwrap();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ffprobe(arguments: &[&str], file: &Path) -> String {
    let output = Command::new("ffprobe").args(["-v", "error"]).args(arguments).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("these tests need the Debian package ffmpeg: {error}"));
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// When each frame of a file's video is shown, in order.
pub fn packet_times(file: &Path) -> Vec<f64> {
    let text = ffprobe(&["-select_streams", "v:0", "-show_entries", "packet=pts_time", "-of", "csv=p=0"], file);
    // Where there are programs, there are lines for them.
    let lines = text.lines().filter(|line| !line.is_empty());
    let mut times: Vec<f64> =
        lines.map(|line| line.trim_end_matches(',').parse().unwrap_or_else(|_| panic!("{line}"))).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// How long a file is.
pub fn clip_secs(file: &Path) -> f64 {
    ffprobe(&["-show_entries", "format=duration", "-of", "csv=p=0"], file).trim().parse().unwrap()
}
