//! Devices that encode: tried before they are offered, never given more than they take, left alone while they are sick.
//!
//! No machine of these tests has one: what FFmpeg says without one is seen, and a stand-in plays one that a file makes well,
//! sick or busy.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ffpool_schema::device::DeviceState;
use ffpool_schema::encode::Encoder;
use ffpool_schema::failure::Cause;
use ffpool_schema::job::{HardwarePolicy, JobSpec};
use ffpool_schema::plan;
use ffpool_worker::encoders::find_program;

use super::bench::{Bench, Ledger, failure, manifest, until};

/// FFmpeg with a card of NVIDIA's that software plays. `state` says how the card is: `well`, `sick`, `busy`, or `slow`, which
/// waits for the file `go`; `without libx265` has that encoder fail. Its encodes are written down in `log`.
const CARD: &str = r#"#!/bin/bash
dir=$(dirname "$0")
state=$(cat "$dir/state")
case "$state" in "without "*) case " $* " in *" ${state#without } "*) echo "Error while opening encoder" >&2; exit 1 ;; esac ;; esac
case "$*" in *h264_nvenc*) ;; *) exec REAL "$@" ;; esac
arguments=(); gpu=none; skip=
for word in "$@"; do
    if [ -n "$skip" ]; then [ "$skip" = -gpu ] && gpu=$word; skip=; continue; fi
    case "$word" in
        -gpu|-rc|-cq|-preset) skip=$word ;;
        h264_nvenc) arguments+=(libx264 -preset ultrafast) ;;
        *) arguments+=("$word") ;;
    esac
done
case "$state" in
    sick) echo "[h264_nvenc @ 0x1] [error] OpenEncodeSessionEx failed: unsupported device (2): (no details)" >&2; exit 1 ;;
    busy) echo "[h264_nvenc @ 0x1] [error] OpenEncodeSessionEx failed: out of memory (10): (no details)" >&2; exit 1 ;;
    slow) while [ ! -e "$dir/go" ]; do sleep 0.05; done ;;
esac
case "$*" in *-progress*) echo "begin $gpu" >>"$dir/log" ;; esac
REAL "${arguments[@]}"; code=$?
case "$*" in *-progress*) echo "end $gpu" >>"$dir/log" ;; esac
exit $code
"#;

struct Card {
    dir: PathBuf,
}

impl Card {
    fn new(dir: &Path) -> Card {
        let real = find_program(Path::new("ffmpeg")).expect("these tests need the Debian package ffmpeg");
        let card = Card { dir: dir.to_owned() };
        std::fs::write(card.program(), CARD.replace("REAL", &real.display().to_string())).unwrap();
        std::fs::set_permissions(card.program(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.join("log"), "").unwrap();
        std::fs::set_permissions(dir.join("log"), std::fs::Permissions::from_mode(0o666)).unwrap();
        card.is("well");
        card
    }

    fn program(&self) -> PathBuf {
        self.dir.join("card")
    }

    fn is(&self, state: &str) {
        std::fs::write(self.dir.join("state"), state).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }
}

/// A workshop whose FFmpeg has that card.
async fn with_card(devices: &str, rest: Duration) -> (Bench, Card) {
    let mut card = None;
    let bench = Bench::with(|settings, dir| {
        let new = Card::new(dir);
        // The stand-in reads how its card is.
        settings.sandbox_reads.push(dir.to_owned());
        settings.ffmpeg = new.program();
        settings.devices.devices = Some(devices.split(',').map(|text| text.parse().unwrap()).collect());
        settings.devices.policy.failures = 2;
        settings.devices.policy.rest = rest;
        card = Some(new);
    })
    .await;
    (bench, card.unwrap())
}

fn job(codec: &str) -> JobSpec {
    let mut spec = JobSpec::new("240p25-h264");
    spec.parameters.codec = Some(codec.parse().unwrap());
    spec.parameters.duration = Some(0.4);
    spec
}

fn offers(bench: &Bench) -> bool {
    bench.workshop.ability().encoders.iter().any(|name| name == "h264_nvenc")
}

fn states(bench: &Bench) -> Vec<DeviceState> {
    bench.workshop.ability().devices
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_device_no_hardware_encoder_is_offered_however_ffmpeg_was_built() {
    let bench = Bench::open().await;
    let ability = bench.workshop.ability();
    assert_eq!(
        (ability.encoders.iter().any(|name| name.contains('_')), ability.devices.len()),
        (false, 0),
        "{ability:?}"
    );
    for codec in ["h264_nvenc", "h264_qsv", "h264_vaapi", "vp9_qsv", "vp9_vaapi"] {
        let ended = bench.run_spec(&job(codec)).await;
        assert_eq!(failure(&ended).cause, Cause::Device, "{codec}");
    }
    let mut spec = job("h264");
    spec.parameters.hw = Some(HardwarePolicy::Require);
    assert_eq!(failure(&bench.run_spec(&spec).await).cause, Cause::Device);
    spec.parameters.hw = Some(HardwarePolicy::Prefer);
    let ended = bench.run_spec(&spec).await;
    let fallback = manifest(&ended).fallback.as_deref().unwrap();
    assert!(fallback.starts_with("libx264 encodes instead of a device"), "{fallback}");
    assert_eq!(manifest(&ended).device, None);
}

/// What FFmpeg says of an option that an encoder does not have, and of a value that an option does not take.
const NOT_KNOWN: [&str; 5] = [
    "has not been used for any stream",
    "Unrecognized option",
    "Option not found",
    "Error setting option",
    "Unable to parse",
];

/// Without a device FFmpeg looks at the options all the same: of NVENC and Quick Sync at names and values, of VA-API at names.
#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_knows_every_option_that_devices_are_asked_with() {
    let ffmpeg = find_program(Path::new("ffmpeg")).expect("these tests need the Debian package ffmpeg");
    let listed = ffpool_worker::encoders::listed(&ffmpeg).await.unwrap().video;
    let hardware: Vec<Encoder> = listed.into_iter().filter(|encoder| encoder.is_hardware()).collect();
    assert!(!hardware.is_empty(), "Debian's FFmpeg is built with NVENC, Quick Sync and VA-API");
    let said = |encoder: Encoder, more: &[&str]| {
        let mut arguments = plan::trial_arguments(encoder, None);
        // It goes no further where the device is not there.
        if let Some(at) = arguments.iter().position(|word| word == "-init_hw_device" || word == "-vaapi_device") {
            arguments.drain(at..at + 2);
        }
        let at = arguments.iter().position(|word| word == "-loglevel").unwrap();
        arguments[at + 1] = "warning".into();
        let end = arguments.iter().rposition(|word| word == "-f").unwrap();
        arguments.splice(end..end, more.iter().map(Into::into));
        let output = std::process::Command::new(&ffmpeg).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for encoder in &hardware {
        let said = said(*encoder, &[]);
        assert!(!NOT_KNOWN.iter().any(|words| said.contains(words)), "{encoder}: {said}");
    }
    let said = said(hardware[0], &["-row-mt", "1"]);
    assert!(NOT_KNOWN.iter().any(|words| said.contains(words)), "an option of others is told: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_that_fails_takes_no_other_with_it() {
    let bench = Bench::with(|settings, dir| {
        let card = Card::new(dir);
        card.is("without libx265");
        settings.sandbox_reads.push(dir.to_owned());
        settings.ffmpeg = card.program();
    })
    .await;
    let encoders = bench.workshop.ability().encoders;
    let has = |name: &str| encoders.iter().any(|encoder| encoder == name);
    assert!(has("libx264") && has("libvpx-vp9") && !has("libx265"), "{encoders:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_encode_has_a_session_on_the_device_with_the_most_room_and_waits_for_one() {
    let (bench, card) = with_card("nvenc:0=1,nvenc:1=1", Duration::from_secs(60)).await;
    assert!(offers(&bench), "{:?}", bench.workshop.ability());
    card.is("slow");
    let mut spec = job("h264");
    spec.parameters.hw = Some(HardwarePolicy::Require);
    let jobs: Vec<_> = (0..3).map(|_| bench.start(&bench.grant(&spec), Ledger::Grants)).collect();
    let used = || states(&bench).iter().map(|state| state.used).collect::<Vec<_>>();
    until(
        "both devices to be in use",
        || if used() == [1, 1] { Ok(()) } else { Err(format!("{used:?}", used = used())) },
    )
    .await;
    std::fs::write(card.dir.join("go"), "").unwrap();
    let mut devices = Vec::new();
    for job in jobs {
        let ended = job.ended.await.unwrap();
        devices.push(manifest(&ended).device.clone().unwrap());
    }
    devices.sort();
    devices.dedup();
    assert_eq!(devices, ["nvenc:0", "nvenc:1"]);
    for gpu in ["0", "1"] {
        let lines: Vec<String> = card.log().lines().filter(|line| line.ends_with(gpu)).map(str::to_owned).collect();
        let is_one_by_one = lines.chunks(2).all(|pair| pair[0].starts_with("begin") && pair[1].starts_with("end"));
        assert!(is_one_by_one, "device {gpu} ran two at a time: {lines:?}");
    }
    assert_eq!(used(), [0, 0]);
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_too_often_rests_until_a_frame_goes_well() {
    let (bench, card) = with_card("nvenc:0=4", Duration::from_millis(300)).await;
    for (state, is_offered) in [("sick", true), ("busy", false)] {
        card.is(state);
        let ended = bench.run_spec(&job("h264_nvenc")).await;
        assert_eq!(failure(&ended).cause, Cause::Device, "{state}: {:?}", failure(&ended));
        assert_eq!(offers(&bench), is_offered, "after `{state}`: {:?}", states(&bench));
    }
    assert_eq!(states(&bench)[0].resting, ["h264_nvenc"]);
    assert!(bench.workshop.ability().rested().encoders.iter().any(|name| name == "h264_nvenc"));
    let mut spec = job("h264");
    spec.parameters.hw = Some(HardwarePolicy::Prefer);
    let ended = bench.run_spec(&spec).await;
    assert!(manifest(&ended).fallback.is_some() && manifest(&ended).device.is_none(), "{:?}", manifest(&ended));

    let tending = tokio::spawn({
        let workshop = bench.workshop.clone();
        async move { workshop.tend_devices().await }
    });
    card.is("well");
    until("the encoder to be offered again", || {
        if offers(&bench) { Ok(()) } else { Err(format!("{:?}", states(&bench))) }
    })
    .await;
    tending.abort();
    let ended = bench.run_spec(&spec).await;
    assert_eq!(manifest(&ended).device.as_deref(), Some("nvenc:0"));
    assert_eq!(manifest(&ended).fallback, None);
    bench.assert_clean();
}
