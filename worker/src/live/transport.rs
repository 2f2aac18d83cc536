//! Where a transport stream that a tool writes can be cut: before the first packet of a frame.
//!
//! Invariant: what lies before a cut is whole. The muxer writes all packets of a frame, or of a group of sound, one after
//! the other, so where one begins everything before it has ended.
//! Source: FFmpeg 5.1 read (`mpegtsenc.c`): only tables and clocks come between the packets of one PES. GStreamer 1.22
//! measured: the same in 12 000 packets of picture and sound.

use std::io::{self, Read, Seek, SeekFrom};

/// Bytes of one packet.
pub const PACKET: u64 = 188;
/// What every packet begins with.
const SYNC: u8 = 0x47;
/// Packets that are read at once.
const WINDOW: u64 = 8192;
/// Ticks of a second.
const TICKS: f64 = 90_000.0;
/// Bits of a time.
const TIME_BITS: u32 = 33;

/// Where something begins that has a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Begin {
    at: u64,
    is_video: bool,
    /// When it is decoded; `None`: it does not say.
    ticks: Option<u64>,
}

/// The last position up to which the first `length` bytes hold only what is whole; `from`: how much of them is known
/// to be. Both are whole packets' ends, or are taken as such.
///
/// # Errors
/// When it cannot be read, or is no transport stream.
pub fn whole(stream: &mut (impl Read + Seek), from: u64, length: u64) -> io::Result<u64> {
    let mut found = from;
    backwards(stream, from, length, |begin| {
        found = begin.at;
        false
    })?;
    Ok(found)
}

/// Where a stream of so many bytes is to end so that no picture is later than so many seconds after what comes first in it,
/// picture or sound; `None`: they end before.
///
/// # Errors
/// When it cannot be read, or is no transport stream.
pub fn cut(stream: &mut (impl Read + Seek), length: u64, secs: f64) -> io::Result<Option<u64>> {
    let Some(first) = first_time(stream, length)? else { return Ok(None) };
    let wanted = first.wrapping_add((secs.max(0.0) * TICKS) as u64);
    let mut end = None;
    // From behind: the clock of a stream begins anew each day.
    backwards(stream, 0, length, |begin| match begin.ticks.filter(|_| begin.is_video) {
        Some(ticks) if is_before(ticks, wanted) => false,
        Some(_) => {
            end = Some(begin.at);
            true
        }
        None => true,
    })?;
    Ok(end)
}

/// Seconds from what comes first, picture or sound, to the last picture of a stream of so many bytes, which lasts about so
/// many seconds; `None`: it has nothing.
///
/// # Errors
/// When it cannot be read, or is no transport stream.
pub fn secs(stream: &mut (impl Read + Seek), length: u64, about: f64) -> io::Result<Option<f64>> {
    let Some(first) = first_time(stream, length)? else { return Ok(None) };
    let mut last = first;
    backwards(stream, 0, length, |begin| match begin.ticks.filter(|_| begin.is_video) {
        Some(ticks) => {
            last = ticks;
            false
        }
        None => true,
    })?;
    let turn = (1_u64 << TIME_BITS) as f64 / TICKS;
    let secs = (last.wrapping_sub(first) % (1 << TIME_BITS)) as f64 / TICKS;
    // How often its clock has begun anew, only its length tells.
    Ok(Some(secs + ((about - secs) / turn).round().max(0.0) * turn))
}

fn first_time(stream: &mut (impl Read + Seek), length: u64) -> io::Result<Option<u64>> {
    let mut at = 0;
    while at + PACKET <= length {
        let window = read(stream, at, length.min(at + WINDOW * PACKET))?;
        let mut begins = begins(&window, at)?;
        if let Some(ticks) = begins.find_map(|begin| begin.ticks) {
            return Ok(Some(ticks));
        }
        at += window.len() as u64;
    }
    Ok(None)
}

/// Shows what begins between two positions, last first, for as long as `goes_on` says so.
fn backwards(
    stream: &mut (impl Read + Seek),
    from: u64,
    to: u64,
    mut goes_on: impl FnMut(Begin) -> bool,
) -> io::Result<()> {
    let (from, mut end) = (from - from % PACKET, to - to % PACKET);
    while end > from {
        let begin = end.saturating_sub(WINDOW * PACKET).max(from);
        let window = read(stream, begin, end)?;
        let found: Vec<Begin> = begins(&window, begin)?.collect();
        if !found.into_iter().rev().all(&mut goes_on) {
            return Ok(());
        }
        end = begin;
    }
    Ok(())
}

/// The whole packets between two positions.
fn read(stream: &mut (impl Read + Seek), from: u64, to: u64) -> io::Result<Vec<u8>> {
    let length = (to - from) / PACKET * PACKET;
    let mut window = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    stream.seek(SeekFrom::Start(from))?;
    stream.read_exact(&mut window)?;
    Ok(window)
}

fn begins(window: &[u8], at: u64) -> io::Result<impl Iterator<Item = Begin>> {
    let packets = window.chunks_exact(PACKET as usize);
    if packets.clone().any(|packet| packet[0] != SYNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what the tool wrote is no transport stream"));
    }
    Ok((at..).step_by(PACKET as usize).zip(packets).filter_map(|(at, packet)| begin(packet, at)))
}

/// What begins with a packet, if anything that has a time does.
fn begin(packet: &[u8], at: u64) -> Option<Begin> {
    let begins = packet[1] & 0x40 != 0;
    let payload = match (packet[3] >> 4) & 3 {
        1 => packet.get(4..),
        3 => packet.get(5 + usize::from(packet[4])..),
        _ => None,
    };
    let payload = payload.filter(|payload| begins && payload.starts_with(&[0, 0, 1]))?;
    let is_video = payload.get(3).is_some_and(|stream| stream & 0xf0 == 0xe0);
    let ticks = match payload.get(7).map(|flags| flags >> 6) {
        Some(2) => time(payload.get(9..14)?),
        Some(3) => time(payload.get(14..19)?),
        _ => None,
    };
    Some(Begin { at, is_video, ticks })
}

fn time(bytes: &[u8]) -> Option<u64> {
    let [a, b, c, d, e] = *bytes else { return None };
    let part = |byte: u8, by: u32| u64::from(byte >> 1) << by;
    Some(u64::from((a >> 1) & 7) << 30 | u64::from(b) << 22 | part(c, 15) | u64::from(d) << 7 | part(e, 0))
}

/// Whether a time lies before another that is less than half a day away.
fn is_before(ticks: u64, other: u64) -> bool {
    let ahead = ticks.wrapping_sub(other) % (1 << TIME_BITS);
    ahead >= 1 << (TIME_BITS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A packet in which something begins at a time, or goes on.
    fn packet(stream: u8, ticks: Option<u64>) -> Vec<u8> {
        let mut packet = vec![SYNC, 0x01, 0x00, 0x10];
        if let Some(ticks) = ticks {
            packet[1] |= 0x40;
            let byte = |by: u32| (ticks >> by) as u8;
            packet.extend([0, 0, 1, stream, 0, 0, 0x80, 0x80, 5]);
            packet.extend([0x21 | (byte(30) & 7) << 1, byte(22), byte(14) | 1, byte(7), byte(0) << 1 | 1]);
        }
        packet.resize(PACKET as usize, 0xff);
        packet
    }

    /// A table, frames of three packets 40 ms apart, and sound after each.
    fn stream(first: u64, frames: u64) -> Vec<u8> {
        let mut table = packet(0, None);
        table[1] |= 0x40;
        let mut bytes = table;
        for number in 0..frames {
            let ticks = (first + number * 3600) % (1 << TIME_BITS);
            bytes.extend(packet(0xe0, Some(ticks)));
            bytes.extend([packet(0, None), packet(0, None), packet(0xc0, Some(ticks))].concat());
        }
        bytes
    }

    #[test]
    fn what_is_not_written_to_its_end_is_left_out() {
        let bytes = stream(7, 3);
        let whole = |from: u64, length: u64| whole(&mut Cursor::new(&bytes), from, length).unwrap();
        // The last sound may go on; a frame of which a part is there is not whole, nor is half a packet.
        assert_eq!(whole(0, bytes.len() as u64), 12 * PACKET);
        assert_eq!(whole(0, 11 * PACKET + 5), 9 * PACKET);
        assert_eq!(whole(9 * PACKET, 11 * PACKET), 9 * PACKET);
        assert_eq!(whole(10 * PACKET, 11 * PACKET), 10 * PACKET);
        assert_eq!(whole(0, PACKET), 0);
        let mut broken = bytes.clone();
        broken[188] = 0;
        super::whole(&mut Cursor::new(&broken), 0, bytes.len() as u64).unwrap_err();
    }

    #[test]
    fn a_stream_is_cut_before_a_frame_even_where_its_clock_begins_anew() {
        for first in [0, 133_200, (1 << TIME_BITS) - 2 * 3600] {
            let bytes = stream(first, 10);
            let length = bytes.len() as u64;
            let cut = |secs| cut(&mut Cursor::new(&bytes), length, secs).unwrap();
            assert_eq!(cut(0.4), None, "{first}");
            assert_eq!(cut(0.2), Some((1 + 5 * 4) * PACKET), "{first}");
            assert_eq!(cut(0.15), Some((1 + 4 * 4) * PACKET), "{first}");
            assert_eq!(cut(0.0), Some(PACKET), "{first}");
            let secs = |about| secs(&mut Cursor::new(&bytes), length, about).unwrap().unwrap();
            assert!((secs(0.1) - 0.36).abs() < 1e-9 && (secs(95_444.0) - 95_444.0).abs() < 1.0, "{first}");
        }
        assert_eq!(cut(&mut Cursor::new(packet(0, None)), PACKET, 1.0).unwrap(), None);
    }
}
