//! Gives up the copy of the worker's memory that a fork made, in a process that will load no program.
//!
//! Invariant: what stays is what is mapped of files (program, libraries), the statics behind them, and a window around the stack and
//! around what belongs to the thread: all that a few system calls in a loop need. Heaps, and the stacks of other threads, where
//! secrets lie, are gone. To load a program of a few lines instead would do the same, but there is none: the worker's own binary may
//! be closed to the tools' user, or be a test, and its loader writes more memory than stays here.
//!
//! Runs after the fork: it allocates nothing. Source: proc(5) for the format of `/proc/self/maps`.

use std::io;
use std::ops::Range;

use nix::libc;

/// What is kept below the stack's present end, for calls to come, and on both sides of what belongs to the thread: its control
/// block, its statics, and where the kernel writes on which processor it runs.
const WINDOW: usize = 64 * 1024;
/// What is kept above the stack's present end: the frames of who called, which go on.
const FRAMES: usize = 16 * 1024;
/// What is read of a line: all but the end of a long path.
const LINE_BYTES: usize = 128;
/// Windows are made of whole pages, of whatever size.
const PAGE: usize = 64 * 1024;

/// A part of memory, as one line of the kernel's tells.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    range: Range<usize>,
    is_writable: bool,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// Of a file.
    File,
    /// The kernel's own, such as its clock.
    Kernel,
    /// Of nothing: heaps, stacks, statics without a value.
    Anonymous,
}

impl Mapping {
    /// A line such as `7f00-7f10 rw-p 00000000 00:00 0    [heap]`.
    fn parse(line: &str) -> Option<Mapping> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let is_writable = words.next()?.contains('w');
        let what = match (words.nth(2)?, words.next()) {
            ("0", Some(name)) if name.starts_with("[v") => What::Kernel,
            ("0", _) => What::Anonymous,
            _ => What::File,
        };
        Some(Mapping { range: number(start)?..number(end)?, is_writable, what })
    }

    /// Whether it stays whatever lies in it: of statics without a value too, which follow those that have one.
    fn stays(&self, before: Option<&Mapping>) -> bool {
        let follows =
            |before: &Mapping| before.what == What::File && before.is_writable && before.range.end == self.range.start;
        match self.what {
            What::File | What::Kernel => true,
            What::Anonymous => before.is_some_and(follows),
        }
    }
}

/// Gives up all that the invariant does not keep. System calls only.
pub(super) fn forget() -> io::Result<()> {
    let here = 0_u8;
    let windows = windows(std::ptr::from_ref(&here).addr());
    let mut before: Option<Mapping> = None;
    each_line(|line| {
        let mapping = Mapping::parse(line).ok_or(io::ErrorKind::InvalidData)?;
        if !mapping.stays(before.as_ref()) {
            outside(&mapping.range, &windows, unmap)?;
        }
        before = Some(mapping);
        Ok(())
    })
}

/// What is in use, in order: the stack here, and what belongs to the thread.
fn windows(here: usize) -> [Range<usize>; 2] {
    // SAFETY: they take nothing and answer with addresses that are not read here.
    let own = unsafe { [libc::__errno_location().addr(), libc::pthread_self() as usize] };
    let pages = |range: Range<usize>| range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE);
    let stack = pages(here - WINDOW..here + FRAMES);
    let thread = pages(own[0].min(own[1]) - WINDOW..own[0].max(own[1]) + WINDOW);
    if stack.start < thread.start { [stack, thread] } else { [thread, stack] }
}

/// Does something with every part of a range that lies in none of the windows, which are in order.
fn outside(
    range: &Range<usize>,
    windows: &[Range<usize>; 2],
    mut each: impl FnMut(Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut from = range.start;
    for window in windows {
        let to = window.start.min(range.end);
        if from < to {
            each(from..to)?;
        }
        from = from.max(window.end);
    }
    if from < range.end { each(from..range.end) } else { Ok(()) }
}

fn unmap(range: Range<usize>) -> io::Result<()> {
    let start = std::ptr::without_provenance_mut(range.start);
    // SAFETY: nothing that this process still does touches what lies there: see the invariant.
    if unsafe { libc::munmap(start, range.len()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Goes through the lines of `/proc/self/maps`, which may change meanwhile: the kernel goes on behind the last address.
fn each_line(mut each: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
    // SAFETY: the path ends with a zero.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if maps < 0 {
        return Err(io::Error::last_os_error());
    }
    let (mut line, mut filled) = ([0_u8; LINE_BYTES], 0);
    let mut chunk = [0_u8; 4096];
    loop {
        // SAFETY: the chunk has this length.
        let read = unsafe { libc::read(maps, chunk.as_mut_ptr().cast(), chunk.len()) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        if read == 0 {
            break;
        }
        for byte in &chunk[..read] {
            if *byte == b'\n' {
                each(text(&line[..filled]))?;
                filled = 0;
            } else if filled < LINE_BYTES {
                line[filled] = *byte;
                filled += 1;
            }
        }
    }
    // SAFETY: it was opened above and is used by nobody else.
    unsafe { libc::close(maps) };
    Ok(())
}

/// What is text of it: a path need not be.
fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_told_by_the_kernel_s_lines() {
        let lines = [
            ("55d0-55d1 r-xp 00001000 fd:01 77 /usr/bin/ffpool-worker", true),
            ("55d1-55d2 rw-p 00002000 fd:01 77 /usr/bin/ffpool-worker", true),
            // Its statics without a value.
            ("55d2-55d3 rw-p 00000000 00:00 0 ", true),
            ("55d4-55d9 rw-p 00000000 00:00 0                          [heap]", false),
            ("7f00-7f10 rw-p 00000000 00:00 0 ", false),
            ("7f10-7f11 ---p 00000000 00:00 0 ", false),
            ("7f12-7f13 r--p 00000000 fd:01 78 /usr/lib/a library (deleted)", true),
            // What follows a file that is only read is nobody's static.
            ("7f13-7f14 rw-p 00000000 00:00 0                          [anon: pool]", false),
            ("7ffc-7ffd rw-p 00000000 00:00 0                          [stack]", false),
            ("7ffd-7ffe r--p 00000000 00:00 0                          [vvar]", true),
            ("7ffe-7fff r-xp 00000000 00:00 0                          [vdso]", true),
        ];
        let mut before = None;
        for (line, stays) in lines {
            let mapping = Mapping::parse(line).unwrap();
            assert_eq!(mapping.stays(before.as_ref()), stays, "{line}");
            before = Some(mapping);
        }
        for broken in ["", "55d0", "55d0-55d1 r-xp", "x-y rw-p 0 00:00 0"] {
            assert_eq!(Mapping::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn what_lies_outside_of_both_windows_is_given_up() {
        let given_up = |range: Range<usize>| {
            let mut parts = Vec::new();
            outside(&range, &[10..20, 30..40], |part| {
                parts.push((part.start, part.end));
                Ok(())
            })
            .unwrap();
            parts
        };
        assert_eq!(given_up(0..50), [(0, 10), (20, 30), (40, 50)]);
        assert_eq!(given_up(12..35), [(20, 30)]);
        assert_eq!(given_up(0..5), [(0, 5)]);
        assert_eq!(given_up(40..41), [(40, 41)]);
        assert!(given_up(15..18).is_empty());
    }
}
