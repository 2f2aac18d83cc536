//! The small picture of a job's output that goes with the report of its end, for whoever looks at the job.
//!
//! Its bytes come from a worker, and what is on it from strangers' media. It is no output of the job: nobody asked for it, and no
//! manifest names it.
//!
//! Invariant: whoever has a [`Thumbnail`] has what begins and ends as a JPEG, of a bounded size and of bounded sides.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::encode::PictureFormat;
use crate::track::picture_size;

/// The longer side in pixels, and the most that either may have.
pub const LONG_SIDE: u32 = 320;
/// The most bytes: a report stays small, and so does a ledger of many jobs.
pub const MAX_BYTES: usize = 32 * 1024;
/// Characters of so many bytes in base64.
const MAX_TEXT: usize = MAX_BYTES.div_ceil(3) * 4;

/// A JPEG that may be kept and shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    jpeg: Vec<u8>,
}

/// Why bytes are no thumbnail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadThumbnail {
    /// It is too much.
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// It is no base64.
    #[error("it is no base64")]
    NoBase64,
    /// It is something else.
    #[error("it is no JPEG")]
    NoJpeg,
    /// It is a JPEG of another size.
    #[error("it has {0}x{1} pixels, and no side may have more than {LONG_SIDE}")]
    Sides(u32, u32),
}

impl Thumbnail {
    /// These bytes, where they are one.
    ///
    /// # Errors
    /// What they are not.
    pub fn of(jpeg: Vec<u8>) -> Result<Thumbnail, BadThumbnail> {
        if jpeg.len() > MAX_BYTES {
            return Err(BadThumbnail::TooLarge);
        }
        if !jpeg.starts_with(b"\xff\xd8\xff") || !jpeg.ends_with(b"\xff\xd9") {
            return Err(BadThumbnail::NoJpeg);
        }
        match picture_size(PictureFormat::Jpg, &jpeg) {
            None => Err(BadThumbnail::NoJpeg),
            Some((1..=LONG_SIDE, 1..=LONG_SIDE)) => Ok(Thumbnail { jpeg }),
            Some((width, height)) => Err(BadThumbnail::Sides(width, height)),
        }
    }

    /// As a report carries it.
    ///
    /// # Errors
    /// What it is not.
    pub fn read(text: &str) -> Result<Thumbnail, BadThumbnail> {
        // Before anything is made of it.
        if text.len() > MAX_TEXT {
            return Err(BadThumbnail::TooLarge);
        }
        Thumbnail::of(STANDARD.decode(text).map_err(|_| BadThumbnail::NoBase64)?)
    }

    /// As a report carries it: base64.
    #[must_use]
    pub fn written(&self) -> String {
        STANDARD.encode(&self.jpeg)
    }

    /// The file.
    #[must_use]
    pub fn jpeg(&self) -> &[u8] {
        &self.jpeg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As much of a JPEG as is looked at, with so many bytes of picture.
    fn jpeg(width: u16, height: u16, filling: usize) -> Vec<u8> {
        let mut bytes = b"\xff\xd8\xff\xe0\0\x04JF\xff\xc0\0\x11\x08".to_vec();
        bytes.extend(height.to_be_bytes());
        bytes.extend(width.to_be_bytes());
        bytes.extend(vec![7; filling]);
        bytes.extend(b"\xff\xd9");
        bytes
    }

    #[test]
    fn a_thumbnail_is_read_as_it_was_written() {
        let small = Thumbnail::of(jpeg(320, 180, 99)).unwrap();
        assert_eq!(Thumbnail::read(&small.written()), Ok(small.clone()));
        assert_eq!(small.jpeg(), jpeg(320, 180, 99));
        let frame = jpeg(1, 1, 0).len();
        let most = Thumbnail::of(jpeg(180, 320, MAX_BYTES - frame)).unwrap();
        assert_eq!(Thumbnail::read(&most.written()), Ok(most), "as large as it may be");
    }

    #[test]
    fn whatever_else_a_worker_sends_is_none() {
        let frame = jpeg(1, 1, 0).len();
        assert_eq!(Thumbnail::of(jpeg(320, 180, MAX_BYTES - frame + 1)), Err(BadThumbnail::TooLarge));
        assert_eq!(Thumbnail::of(jpeg(321, 180, 9)), Err(BadThumbnail::Sides(321, 180)));
        assert_eq!(Thumbnail::of(jpeg(320, 0, 9)), Err(BadThumbnail::Sides(320, 0)));
        let page = b"<script>alert(1)</script>".to_vec();
        let half = jpeg(320, 180, 99)[..50].to_vec();
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\x40\0\0\0\xb4\x08\x02".to_vec();
        for wrong in [Vec::new(), page, half, png, b"\xff\xd8\xff\xd9".to_vec()] {
            assert_eq!(Thumbnail::of(wrong.clone()), Err(BadThumbnail::NoJpeg), "{wrong:?}");
        }
        assert_eq!(Thumbnail::read("<script>"), Err(BadThumbnail::NoBase64));
        assert_eq!(Thumbnail::read(&"A".repeat(MAX_TEXT + 4)), Err(BadThumbnail::TooLarge));
    }
}
