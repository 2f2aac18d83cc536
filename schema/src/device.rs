//! Devices that encode: whose they are, which one is meant, and how a worker says how they are.
//!
//! Invariant: a device is a family and a number; nothing that an operator wrote becomes an argument by itself.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encode::{Encoder, ValueError};

/// A family of devices, each with encoders of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// NVIDIA, by the number of the card.
    Nvenc,
    /// Intel Quick Sync, by the number of the render node.
    Qsv,
    /// Any driver of VA-API, by the number of the render node.
    Vaapi,
    /// Apple.
    Videotoolbox,
}

impl Family {
    /// Every family, the preferred one first.
    pub const ALL: [Family; 4] = [Family::Nvenc, Family::Qsv, Family::Vaapi, Family::Videotoolbox];

    /// The name in settings, labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Nvenc => "nvenc",
            Family::Qsv => "qsv",
            Family::Vaapi => "vaapi",
            Family::Videotoolbox => "videotoolbox",
        }
    }

    /// Encodes at a time that one device is given where nothing is set.
    #[must_use]
    pub fn usual_sessions(self) -> u32 {
        match self {
            // What NVIDIA's drivers allow on cards for consumers; the others have no such bound, but slow down together.
            Family::Nvenc | Family::Qsv | Family::Vaapi => 8,
            Family::Videotoolbox => 4,
        }
    }

    /// The number of its first device.
    #[must_use]
    pub fn first(self) -> u8 {
        match self {
            Family::Nvenc | Family::Videotoolbox => 0,
            Family::Qsv | Family::Vaapi => 128,
        }
    }
}

impl Encoder {
    /// The family of the device that it needs; `None`: software.
    #[must_use]
    pub fn family(self) -> Option<Family> {
        match self {
            Encoder::Libx264
            | Encoder::Libx265
            | Encoder::Libvpx
            | Encoder::LibvpxVp9
            | Encoder::Libsvtav1
            | Encoder::LibaomAv1 => None,
            Encoder::H264Nvenc | Encoder::HevcNvenc | Encoder::Av1Nvenc => Some(Family::Nvenc),
            Encoder::H264Qsv | Encoder::HevcQsv | Encoder::Vp9Qsv | Encoder::Av1Qsv => Some(Family::Qsv),
            Encoder::H264Vaapi | Encoder::HevcVaapi | Encoder::Vp8Vaapi | Encoder::Vp9Vaapi | Encoder::Av1Vaapi => {
                Some(Family::Vaapi)
            }
            Encoder::H264Videotoolbox | Encoder::HevcVideotoolbox => Some(Family::Videotoolbox),
        }
    }
}

/// One device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Its family.
    pub family: Family,
    /// Which of the family's.
    pub number: u8,
}

impl Device {
    /// The first device of an encoder's family; `None`: software.
    #[must_use]
    pub fn first_of(encoder: Encoder) -> Option<Device> {
        encoder.family().map(|family| Device { family, number: family.first() })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.family.as_str(), self.number)
    }
}

impl FromStr for Device {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Device, ValueError> {
        let error = || {
            ValueError::new(text, "a device: nvenc:<card>, qsv:<render node>, vaapi:<render node> or videotoolbox:0")
        };
        let (family, number) = text.split_once(':').ok_or_else(error)?;
        let family = Family::ALL.into_iter().find(|known| known.as_str() == family).ok_or_else(error)?;
        let number = number.parse().ok().filter(|number| *number >= family.first()).ok_or_else(error)?;
        if family == Family::Videotoolbox && number != 0 { Err(error()) } else { Ok(Device { family, number }) }
    }
}

/// A device and how many encodes it may run at a time: `nvenc:0=3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimit {
    /// The device.
    pub device: Device,
    /// Encodes at a time.
    pub sessions: u32,
}

impl FromStr for DeviceLimit {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<DeviceLimit, ValueError> {
        let error =
            || ValueError::new(text, "a device with its sessions: nvenc:0=3 or vaapi:128=2, 1 to 1000 sessions");
        let (device, sessions) = match text.split_once('=') {
            Some((device, sessions)) => (device, Some(sessions.parse::<u32>().map_err(|_| error())?)),
            None => (text, None),
        };
        let device: Device = device.parse()?;
        let sessions = sessions.unwrap_or_else(|| device.family.usual_sessions());
        if (1..=1000).contains(&sessions) { Ok(DeviceLimit { device, sessions }) } else { Err(error()) }
    }
}

/// A device of a worker, as its heartbeat tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceState {
    /// Its name, such as `nvenc:0`.
    pub device: String,
    /// Encodes that it may run at a time.
    pub sessions: u32,
    /// Encodes that it runs.
    pub used: u32,
    /// Encoders that work on it and are offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encoders: Vec<String>,
    /// Encoders that have failed too often, and are not offered for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resting: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_written_as_they_are_read_and_nothing_else_is_one() {
        for text in ["nvenc:0", "nvenc:3", "qsv:128", "vaapi:129", "videotoolbox:0"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        for text in ["", "nvenc", "nvenc:", "nvenc:-1", "vaapi:0", "videotoolbox:1", "cuda:0", "vaapi:/dev/dri/x"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
        assert_eq!("nvenc:1=3".parse::<DeviceLimit>().unwrap().sessions, 3);
        assert_eq!("videotoolbox:0".parse::<DeviceLimit>().unwrap().sessions, 4);
        for text in ["nvenc:0=0", "nvenc:0=", "nvenc:0=many"] {
            assert!(text.parse::<DeviceLimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_needs_a_device_has_a_family_and_is_named_after_its_codec_and_it() {
        for encoder in Encoder::ALL {
            assert_eq!(encoder.family().is_some(), encoder.is_hardware(), "{encoder}");
            let of_codec = encoder.codec().hardware_encoders();
            assert_eq!(of_codec.contains(encoder), encoder.is_hardware(), "{encoder}");
            if let Some(family) = encoder.family() {
                assert_eq!(encoder.as_str(), format!("{}_{}", encoder.codec().probe_name(), family.as_str()));
            }
        }
    }
}
