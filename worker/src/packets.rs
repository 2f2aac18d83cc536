//! The packets of a finished file, one line after the other: whether time runs forward, how many there are, how large.
//!
//! Invariant: pure, and of a size that does not grow with the file.

use ffpool_schema::message::StreamProof;

use crate::tool::Listener;

/// Streams that are followed; a file with more has none of ours.
const STREAMS: usize = 128;
/// The farthest time that is taken for true, in seconds, and the largest number otherwise.
const MOST: f64 = 1e12;
/// Descriptions of what is wrong that are kept.
const FAULTS: usize = 4;

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Packets {
    streams: Vec<Seen>,
    faults: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    packets: u64,
    bytes: u64,
    first: Option<f64>,
    end: Option<f64>,
    last_dts: Option<f64>,
    last_shown: Option<f64>,
}

/// A field of a line of the prober.
pub(crate) fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let mut fields = line.split('|').filter_map(|part| part.split_once('='));
    fields.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// A number in a line of the prober.
pub(crate) fn number(line: &str, name: &str) -> Option<f64> {
    field(line, name)?.parse::<f64>().ok().filter(|value| value.abs() <= MOST)
}

impl Packets {
    /// Takes a line of the prober: `stream_index=0|pts_time=0.08|dts_time=0.00|duration_time=0.04|size=1234`.
    fn line(&mut self, line: &str) {
        let number = |name: &str| number(line, name);
        let Some(index) =
            field(line, "stream_index").and_then(|text| text.parse::<usize>().ok()).filter(|i| *i < STREAMS)
        else {
            return;
        };
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, Seen::default);
        }
        let seen = &mut self.streams[index];
        seen.packets += 1;
        let size = field(line, "size").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        seen.bytes = seen.bytes.saturating_add(size);
        let (pts, dts) = (number("pts_time"), number("dts_time"));
        if let (Some(dts), Some(last)) = (dts, seen.last_dts)
            && dts < last
            && self.faults.len() < FAULTS
        {
            self.faults.push(format!("time runs back in stream {index}: {dts:.6} s comes after {last:.6} s"));
        }
        seen.last_dts = dts.or(seen.last_dts);
        seen.last_shown = seen.last_shown.into_iter().chain(pts).reduce(f64::max);
        if let Some(pts) = pts.or(dts) {
            let end = pts + number("duration_time").unwrap_or(0.0);
            seen.first = Some(seen.first.map_or(pts, |first| first.min(pts)));
            seen.end = Some(seen.end.map_or(end, |last| last.max(end)));
        }
    }

    /// When the last frame of a stream is shown, and when the stream ends, by the clock of the file.
    #[must_use]
    pub fn last_frame(&self, stream: usize) -> Option<(f64, f64)> {
        let seen = self.streams.get(stream)?;
        Some((seen.last_shown?, seen.end?))
    }

    /// What was found, with each stream's kind and codec; and what is wrong with it.
    #[must_use]
    pub fn finish(self, streams: &[(String, String)]) -> (Vec<StreamProof>, Vec<String>) {
        let proofs = streams.iter().enumerate().map(|(index, (kind, codec))| {
            let seen = self.streams.get(index).cloned().unwrap_or_default();
            StreamProof {
                kind: kind.clone(),
                codec: codec.clone(),
                packets: seen.packets,
                bytes: seen.bytes,
                first_secs: seen.first,
                end_secs: seen.end,
            }
        });
        (proofs.collect(), self.faults)
    }
}

impl Listener for Packets {
    fn output(&mut self, line: &str) -> bool {
        self.line(line);
        true
    }

    fn log(&mut self, _: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> (Vec<StreamProof>, Vec<String>) {
        let mut packets = Packets::default();
        for line in lines {
            packets.line(line);
        }
        packets.finish(&[("video".into(), "h264".into()), ("audio".into(), "aac".into())])
    }

    #[test]
    fn packets_are_counted_for_each_stream() {
        let (proofs, faults) = read(&[
            "stream_index=0|pts_time=0.080000|dts_time=0.000000|duration_time=0.040000|size=900",
            "stream_index=1|pts_time=0.000000|dts_time=0.000000|duration_time=0.021333|size=100",
            "stream_index=0|pts_time=0.040000|dts_time=0.040000|duration_time=0.040000|size=80",
            "stream_index=0|pts_time=N/A|dts_time=N/A|duration_time=N/A|size=1",
            "side data",
        ]);
        assert_eq!(faults, [] as [&str; 0]);
        assert_eq!((proofs[0].packets, proofs[0].bytes, proofs[0].first_secs), (3, 981, Some(0.04)));
        assert!((proofs[0].end_secs.unwrap() - 0.12).abs() < 1e-9);
        assert_eq!((proofs[1].kind.as_str(), proofs[1].packets), ("audio", 1));
    }

    #[test]
    fn sizes_and_times_that_no_file_has_are_no_sums() {
        let line = "stream_index=0|pts_time=1e308|duration_time=1e308|size=18446744073709551615";
        let (proofs, _) = read(&[line, line]);
        assert_eq!((proofs[0].packets, proofs[0].bytes, proofs[0].end_secs), (2, u64::MAX, None));
    }

    #[test]
    fn time_that_runs_back_is_named() {
        let (_, faults) = read(&["stream_index=0|dts_time=1.0|size=1", "stream_index=0|dts_time=0.5|size=1"]);
        assert_eq!(faults, ["time runs back in stream 0: 0.500000 s comes after 1.000000 s"]);
    }
}
