//! The devices of this worker that encode: which work, how many encodes each may run, and which rest because they are sick.
//!
//! Invariant: an encoder that is offered has encoded a frame on a device as the tools' user; a device never runs more
//! encodes than its limit; an encoder that has failed too often is offered again only after a frame has gone well.

mod breaker;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ffpool_schema::device::{Device, DeviceLimit, DeviceState, Family};
use ffpool_schema::encode::Encoder;
use ffpool_schema::metrics as names;
use metrics::{counter, gauge};
use tokio::sync::Notify;
use tracing::{error, info};

use crate::encoders::{self, Trial, Verdict};
use crate::quarters::Quarters;
use breaker::Breaker;
pub use breaker::Policy;

/// How often it is looked whether a device is to be tried again.
const LOOK: Duration = Duration::from_secs(1);

/// Why nothing is tried on a device.
const NO_FILE: &str = "no file shows it";

/// How devices are used.
#[derive(Debug, Clone)]
pub struct DeviceSettings {
    /// The devices; `None`: those that this machine has, as far as files tell.
    pub devices: Option<Vec<DeviceLimit>>,
    /// Time between two trials of an encoder that does nothing.
    pub check_every: Duration,
    /// When an encoder rests, and for how long.
    pub policy: Policy,
}

impl Default for DeviceSettings {
    fn default() -> DeviceSettings {
        DeviceSettings { devices: None, check_every: Duration::from_secs(3600), policy: Policy::default() }
    }
}

/// The devices of one worker. Clones share them.
#[derive(Clone)]
pub struct Devices {
    shared: Arc<Shared>,
}

struct Shared {
    settings: DeviceSettings,
    ffmpeg: PathBuf,
    quarters: Quarters,
    /// Never held across an await.
    devices: Mutex<Vec<One>>,
    freed: Notify,
}

/// One device.
struct One {
    device: Device,
    sessions: u32,
    used: u32,
    encoders: Vec<Standing>,
}

/// How one encoder is on one device.
struct Standing {
    encoder: Encoder,
    works: bool,
    tried: Instant,
    breaker: Breaker,
}

impl Standing {
    fn is_offered(&self) -> bool {
        self.works && !self.breaker.is_resting()
    }
}

impl Devices {
    /// Tries every hardware encoder that FFmpeg was built with on every device of its family.
    pub async fn open(ffmpeg: &Path, quarters: Quarters, built_in: &[Encoder], settings: DeviceSettings) -> Devices {
        let dev = Path::new("/dev");
        let limits = settings.devices.clone().unwrap_or_else(|| found(built_in, dev));
        let mut devices = Vec::new();
        for DeviceLimit { device, sessions } in limits {
            let family = built_in.iter().copied().filter(|encoder| encoder.family() == Some(device.family));
            let trials: Vec<Trial> = family.map(|encoder| Trial { encoder, device: Some(device) }).collect();
            let tried = match may_be_there(device, dev) {
                true => encoders::try_all(ffmpeg, &quarters, trials).await,
                false => Vec::from_iter(trials.into_iter().map(|trial| (trial, Verdict::Fails(NO_FILE.to_owned())))),
            };
            let standing = |(trial, verdict): (Trial, Verdict)| Standing {
                encoder: trial.encoder,
                works: verdict == Verdict::Works,
                tried: Instant::now(),
                breaker: Breaker::default(),
            };
            devices.push(One { device, sessions, used: 0, encoders: tried.into_iter().map(standing).collect() });
        }
        let shared = Shared {
            settings,
            ffmpeg: ffmpeg.to_owned(),
            quarters,
            devices: Mutex::new(devices),
            freed: Notify::new(),
        };
        let devices = Devices { shared: Arc::new(shared) };
        devices.count();
        devices
    }

    fn lock(&self) -> MutexGuard<'_, Vec<One>> {
        self.shared.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encoders that work on some device and do not rest there.
    #[must_use]
    pub fn encoders(&self) -> Vec<Encoder> {
        let devices = self.lock();
        let offered = |encoder: &Encoder| is_offered(&devices, *encoder);
        Encoder::ALL.iter().copied().filter(offered).collect()
    }

    /// How they are, those on which something works or has worked.
    #[must_use]
    pub fn states(&self) -> Vec<DeviceState> {
        let devices = self.lock();
        let told = devices.iter().filter(|one| one.encoders.iter().any(|standing| standing.works));
        told.map(One::state).collect()
    }

    /// A session for these encodes of one run, as soon as there is room: all of a family on one device, the one with the most
    /// room. `None`: no device has the encoders now.
    pub async fn session(&self, encoders: &[Encoder]) -> Option<Session> {
        loop {
            let freed = self.shared.freed.notified();
            tokio::pin!(freed);
            // Before the look, so that what is freed in between is heard of.
            freed.as_mut().enable();
            // A statement of its own: a guard in a match would be held through its arms, which lock again.
            let taking = take(&mut self.lock(), encoders);
            match taking {
                Taking::Taken(held) => {
                    self.count();
                    return Some(Session { devices: self.clone(), held });
                }
                Taking::Missing => return None,
                Taking::Full => {}
            }
            freed.await;
        }
    }

    /// Tries again what is due, until it is dropped: devices that rest, and once in a while those that do nothing.
    pub async fn tend(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            for trial in self.due(Instant::now()) {
                let tried = encoders::try_all(&self.shared.ffmpeg, &self.shared.quarters, vec![trial]).await;
                for (trial, verdict) in tried {
                    self.tried(trial, verdict == Verdict::Works);
                }
            }
        }
    }

    fn due(&self, now: Instant) -> Vec<Trial> {
        let every = self.shared.settings.check_every;
        let mut due = Vec::new();
        for one in self.lock().iter() {
            for standing in &one.encoders {
                let is_idle = one.used == 0 && now.duration_since(standing.tried) >= every;
                if standing.breaker.wants_trial(now) || (is_idle && !standing.breaker.is_resting()) {
                    due.push(Trial { encoder: standing.encoder, device: Some(one.device) });
                }
            }
        }
        due
    }

    fn tried(&self, trial: Trial, works: bool) {
        let Trial { encoder, device: Some(device) } = trial else { return };
        let policy = self.shared.settings.policy;
        self.with(device, encoder, |standing| {
            let before = standing.is_offered();
            standing.tried = Instant::now();
            if standing.breaker.is_resting() {
                standing.breaker.tried(works, Instant::now(), policy);
            } else {
                standing.works = works;
            }
            match (before, standing.is_offered()) {
                (false, true) => info!(%encoder, %device, "the encoder works on its device and is offered again"),
                (true, false) => error!(%encoder, %device, "the encoder does not work on its device any more"),
                (true, true) | (false, false) => {}
            }
        });
        // Whoever waits for a session may find one now, or none at all.
        self.shared.freed.notify_waiters();
        self.count();
    }

    fn failed(&self, device: Device, encoder: Encoder) {
        let policy = self.shared.settings.policy;
        counter!(names::WORKER_DEVICE_FAILURES, "device" => device.to_string(), "encoder" => encoder.as_str())
            .increment(1);
        self.with(device, encoder, |standing| {
            if standing.breaker.failed(Instant::now(), policy) {
                let (failures, rest) = (policy.failures, policy.rest);
                error!(%encoder, %device, failures, ?rest, "the device has failed too often: the encoder rests");
            }
        });
        self.shared.freed.notify_waiters();
        self.count();
    }

    fn with(&self, device: Device, encoder: Encoder, change: impl FnOnce(&mut Standing)) {
        let mut devices = self.lock();
        let one = devices.iter_mut().find(|one| one.device == device);
        if let Some(standing) = one.and_then(|one| one.encoders.iter_mut().find(|known| known.encoder == encoder)) {
            change(standing);
        }
    }

    fn count(&self) {
        for one in self.lock().iter() {
            let device = one.device.to_string();
            gauge!(names::WORKER_DEVICE_SESSIONS, "device" => device.clone()).set(f64::from(one.used));
            for standing in &one.encoders {
                // From 0 on, so that a rate sees the first failure.
                counter!(names::WORKER_DEVICE_FAILURES, "device" => device.clone(), "encoder" => standing.encoder.as_str())
                    .increment(0);
                let is_sick = f64::from(u8::from(standing.breaker.is_resting()));
                gauge!(names::WORKER_DEVICE_SICK, "device" => device.clone(), "encoder" => standing.encoder.as_str())
                    .set(is_sick);
            }
        }
    }
}

fn is_offered(devices: &[One], encoder: Encoder) -> bool {
    devices.iter().any(|one| one.offers(encoder))
}

impl One {
    fn offers(&self, encoder: Encoder) -> bool {
        self.encoders.iter().any(|standing| standing.encoder == encoder && standing.is_offered())
    }

    fn state(&self) -> DeviceState {
        let names = |which: fn(&Standing) -> bool| {
            let chosen = self.encoders.iter().filter(|standing| which(standing));
            chosen.map(|standing| standing.encoder.as_str().to_owned()).collect()
        };
        DeviceState {
            device: self.device.to_string(),
            sessions: self.sessions,
            used: self.used,
            encoders: names(Standing::is_offered),
            resting: names(|standing| standing.works && standing.breaker.is_resting()),
        }
    }
}

/// What came of a look for room.
enum Taking {
    Taken(Vec<Held>),
    /// There will be room.
    Full,
    /// No device offers it.
    Missing,
}

/// Takes room for these encodes, all or nothing.
fn take(devices: &mut [One], encoders: &[Encoder]) -> Taking {
    let mut held = Vec::new();
    for family in Family::ALL {
        let wanted: Vec<Encoder> =
            encoders.iter().copied().filter(|encoder| encoder.family() == Some(family)).collect();
        if wanted.is_empty() {
            continue;
        }
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let able = |one: &&One| wanted.iter().all(|encoder| one.offers(*encoder));
        if !devices.iter().any(|one| able(&one)) {
            return Taking::Missing;
        }
        // A run that needs more than a device takes gets it for itself.
        let has_room = |one: &&One| one.used == 0 || one.used.saturating_add(count) <= one.sessions;
        let found =
            devices.iter().filter(able).filter(has_room).max_by_key(|one| one.sessions.saturating_sub(one.used));
        let Some(one) = found else { return Taking::Full };
        held.push(Held { device: one.device, count, encoders: wanted });
    }
    for Held { device, count, .. } in &held {
        if let Some(one) = devices.iter_mut().find(|one| one.device == *device) {
            one.used += count;
        }
    }
    Taking::Taken(held)
}

/// Room on one device.
struct Held {
    device: Device,
    count: u32,
    encoders: Vec<Encoder>,
}

/// The right to run encodes on devices, or on none. Dropping it gives the room back.
pub struct Session {
    devices: Devices,
    held: Vec<Held>,
}

impl Session {
    /// The device of an encoder.
    #[must_use]
    pub fn device(&self, encoder: Encoder) -> Option<Device> {
        self.held.iter().find(|held| held.encoders.contains(&encoder)).map(|held| held.device)
    }

    /// The devices by their names; `None`: it needs none.
    #[must_use]
    pub fn names(&self) -> Option<String> {
        let names: Vec<String> = self.held.iter().map(|held| held.device.to_string()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The encode failed, and a device is to blame.
    pub fn failed(&self) {
        for (device, encoder) in self.pairs() {
            self.devices.failed(device, encoder);
        }
    }

    /// The encode went well.
    pub fn succeeded(&self) {
        for (device, encoder) in self.pairs() {
            self.devices.with(device, encoder, |standing| {
                standing.tried = Instant::now();
                standing.breaker.succeeded();
            });
        }
    }

    /// Each encoder once, with its device.
    fn pairs(&self) -> impl Iterator<Item = (Device, Encoder)> {
        let each = |held: &Held| {
            let mut encoders = held.encoders.clone();
            encoders.sort_unstable();
            encoders.dedup();
            let device = held.device;
            encoders.into_iter().map(move |encoder| (device, encoder))
        };
        self.held.iter().flat_map(each)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for held in &self.held {
            if let Some(one) = self.devices.lock().iter_mut().find(|one| one.device == held.device) {
                one.used -= held.count;
            }
        }
        if !self.held.is_empty() {
            self.devices.shared.freed.notify_waiters();
            self.devices.count();
        }
    }
}

/// The devices that files under `/dev` tell of, for the families that FFmpeg was built with; without any file the first of
/// each, because not every driver shows one, and some show it later.
fn found(built_in: &[Encoder], dev: &Path) -> Vec<DeviceLimit> {
    let numbers = |directory: PathBuf, prefix: &str| -> Vec<u8> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut numbers: Vec<u8> = names.filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    };
    let mut limits = Vec::new();
    for family in Family::ALL {
        if !built_in.iter().any(|encoder| encoder.family() == Some(family)) {
            continue;
        }
        let there = match family {
            Family::Nvenc => numbers(dev.to_owned(), "nvidia"),
            Family::Qsv | Family::Vaapi => numbers(dev.join("dri"), "renderD"),
            Family::Videotoolbox => Vec::new(),
        };
        let there = if there.is_empty() { vec![family.first()] } else { there };
        let limit = |number| DeviceLimit { device: Device { family, number }, sessions: family.usual_sessions() };
        limits.extend(there.into_iter().map(limit));
    }
    limits
}

/// Whether a device may be there. Of those that are opened by a file, it is asked for.
fn may_be_there(device: Device, dev: &Path) -> bool {
    match device.family {
        Family::Qsv | Family::Vaapi => dev.join("dri").join(format!("renderD{}", device.number)).exists(),
        Family::Nvenc | Family::Videotoolbox => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(number: u8, sessions: u32) -> One {
        let standing = |encoder| Standing { encoder, works: true, tried: Instant::now(), breaker: Breaker::default() };
        let encoders = vec![standing(Encoder::H264Nvenc), standing(Encoder::HevcNvenc)];
        One { device: Device { family: Family::Nvenc, number }, sessions, used: 0, encoders }
    }

    #[test]
    fn a_run_has_all_its_encodes_on_one_device_or_waits() {
        let mut devices = [one(0, 2), one(1, 3)];
        let device = |taking: Taking| match taking {
            Taking::Taken(held) => held.iter().map(|held| held.device.number).collect::<Vec<_>>(),
            Taking::Full => vec![100],
            Taking::Missing => vec![200],
        };
        assert_eq!(device(take(&mut devices, &[])), Vec::<u8>::new());
        assert_eq!(device(take(&mut devices, &[Encoder::H264Nvenc, Encoder::HevcNvenc])), [1]);
        assert_eq!(device(take(&mut devices, &[Encoder::H264Nvenc, Encoder::H264Nvenc])), [0]);
        assert_eq!(device(take(&mut devices, &[Encoder::H264Nvenc, Encoder::H264Nvenc])), [100], "1 is left, on 1");
        assert_eq!(device(take(&mut devices, &[Encoder::H264Nvenc])), [1]);
        assert_eq!(device(take(&mut devices, &[Encoder::H264Nvenc])), [100]);
        assert_eq!(device(take(&mut devices, &[Encoder::H264Vaapi])), [200]);
        devices[0].used = 0;
        assert_eq!(device(take(&mut devices, &[Encoder::H264Nvenc; 5])), [0], "more than it takes, alone");
    }

    #[test]
    fn devices_are_found_by_their_files_and_assumed_without_any() {
        let dev = tempfile::tempdir().unwrap();
        let built_in = [Encoder::Libx264, Encoder::H264Nvenc, Encoder::H264Vaapi];
        let names = |dev: &Path| -> Vec<String> {
            found(&built_in, dev).into_iter().map(|limit| limit.device.to_string()).collect()
        };
        assert_eq!(names(dev.path()), ["nvenc:0", "vaapi:128"]);
        let may_be_there = || ["nvenc:0", "vaapi:129"].map(|name| may_be_there(name.parse().unwrap(), dev.path()));
        assert_eq!(may_be_there(), [true, false]);
        std::fs::create_dir(dev.path().join("dri")).unwrap();
        for name in ["nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm", "dri/renderD129", "dri/card0"] {
            std::fs::write(dev.path().join(name), "").unwrap();
        }
        assert_eq!(names(dev.path()), ["nvenc:0", "nvenc:1", "vaapi:129"]);
        assert_eq!(may_be_there(), [true, true]);
    }
}
