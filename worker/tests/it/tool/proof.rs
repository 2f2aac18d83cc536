//! What the proof of an output holds it against: the frames of its source, its length, its loudest peak.

use ffpool_schema::encode::Channels;
use ffpool_schema::failure::Cause;
use ffpool_schema::job::JobSpec;
use ffpool_schema::message::Proof;

use super::bench::{Bench, failure, ffmpeg, manifest, stand_in};

/// Makes a file of others, or of a picture of four seconds at 25 frames per second and a tone.
fn make(bench: &Bench, name: &str, inputs: &[&str], options: &[&str]) -> String {
    let picture = ["-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25:duration=4"];
    let tone = ["-f", "lavfi", "-i", "sine=frequency=300:duration=4.1"];
    let made = [&picture[..], &tone[..]].concat();
    let coded = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-pix_fmt", "yuv420p", "-c:a", "aac"];
    let coded = if inputs.is_empty() { &coded[..] } else { &["-c", "copy"][..] };
    let path = bench.media(name).display().to_string();
    ffmpeg(&[if inputs.is_empty() { &made[..] } else { inputs }, coded, options, &[&path]].concat());
    path
}

async fn proof(bench: &Bench, input: &str, output: &str, adjust: impl FnOnce(&mut JobSpec)) -> Proof {
    let mut spec = bench.spec("custom-input");
    spec.input = Some(input.to_owned());
    spec.output = Some(bench.media(output).display().to_string());
    adjust(&mut spec);
    let ended = bench.run_spec(&spec).await;
    manifest(&ended).artifacts[0].proof.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_frame_of_every_kind_of_source_is_in_the_output_and_none_is_refused() {
    let bench = Bench::open().await;
    // Of 100 frames 53 are left, at irregular times.
    let uneven = ["-vf", "select='not(mod(n*n,7)-1)+not(mod(n,3))'", "-fps_mode", "vfr"];
    let uneven = make(&bench, "uneven.mp4", &[], &uneven);
    let jitter =
        ["-vf", "settb=1/1000,setpts='PTS+3*mod(N,5)'", "-enc_time_base", "1/1000", "-fps_mode", "passthrough"];
    let jitter = make(&bench, "jitter.mkv", &[], &jitter);
    let whole = make(&bench, "whole.mp4", &[], &["-g", "50"]);
    // An edit list hides what comes before 2.6 s.
    let edited = make(&bench, "edited.mp4", &["-ss", "2.6", "-i", &whole], &[]);
    let late =
        make(&bench, "late.mkv", &["-itsoffset", "0.7", "-i", &whole, "-i", &whole], &["-map", "0:v", "-map", "1:a"]);
    // Its groups are open, and it begins in the middle of one: the frames before its first key frame do not decode.
    let open = ["-x264-params", "open-gop=1:keyint=25:bframes=3:b-adapt=0", "-preset", "veryfast"];
    let open = make(&bench, "open.ts", &[], &open);
    let bytes = std::fs::read(&open).unwrap();
    let torn = bench.media("torn.ts");
    std::fs::write(&torn, &bytes[bytes.len() / 3 / 188 * 188..]).unwrap();
    let torn = torn.display().to_string();
    // The last third of a second of its sound stands under one time.
    let packed = make(&bench, "packed.ts", &[], &["-b:a", "32k", "-t", "4.1"]);
    for (input, frames, outputs) in [
        (&uneven, Some(53), &["out.mp4", "out.mkv"][..]),
        (&jitter, Some(100), &["out.mp4"]),
        (&edited, Some(35), &["out.mp4"]),
        (&late, Some(100), &["out.mkv"]),
        (&torn, None, &["out.mp4", "out.mkv"]),
        (&packed, Some(100), &["out.mp4"]),
    ] {
        for output in outputs {
            let proof = proof(&bench, input, output, |_| {}).await;
            let taken = proof.source_frames;
            assert!(frames.map_or(taken.is_some(), |_| taken == frames), "{input} to {output}: {proof:?}");
            let (repeated, left_out) = (proof.repeated.unwrap(), proof.left_out.unwrap());
            assert_eq!(taken.map(|taken| taken + repeated - left_out), proof.frames, "{input} to {output}: {proof:?}");
        }
    }
    for (input, start) in [(&uneven, 0.7), (&open, 1.3)] {
        let part = |spec: &mut JobSpec| (spec.parameters.start, spec.parameters.duration) = (Some(start), Some(1.51));
        proof(&bench, input, "part.mkv", part).await;
    }
    // A tone that is longer than its picture, in a stream that does not tell of its end.
    proof(&bench, &whole, "low.ts", |spec| spec.parameters.audio_bitrate = Some("24k".parse().unwrap())).await;
    bench.assert_clean();
}

/// A shell's way to put a word into the value of an option of an encode, and of nothing else.
fn altered(option: &str, before: &str, after: &str) -> String {
    format!(
        "case \"$*\" in *libx264*|*libopus*|*aac*-y*) for word do shift; was=$word; \
         [ \"$last\" = {option} ] && word=\"{before}$word{after}\"; last=$was; set -- \"$@\" \"$word\"; done;; esac\n\
         exec ffmpeg \"$@\""
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_lost_between_source_and_output_is_found() {
    let bench = Bench::with(|settings, dir| {
        settings.ffmpeg = stand_in(dir, &altered("-vf", "select=not(eq(n\\\\,10)),", ""));
    })
    .await;
    let whole = make(&bench, "whole.mp4", &[], &[]);
    let moved = make(&bench, "moved.mkv", &["-i", &whole], &[]);
    // The length is right, and where a rate is kept the number of frames too: one is repeated instead.
    for (input, output) in [(&whole, "never.mp4"), (&moved, "never.mkv")] {
        let mut spec = bench.spec("custom-input");
        spec.input = Some(input.clone());
        spec.output = Some(bench.media(output).display().to_string());
        let ended = bench.run_spec(&spec).await;
        let failure = failure(&ended);
        assert_eq!(failure.cause, Cause::VerifyFailed, "{input} to {output}: {failure:?}");
        let evidence = failure.evidence.as_deref().unwrap();
        assert!(evidence.contains("frames of the source is 99 instead of 100"), "{input} to {output}: {evidence}");
        assert!(!bench.media(output).exists());
    }
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peak_over_what_was_asked_for_is_found() {
    let bench = Bench::with(|settings, dir| {
        // So short that the loudness hardly changes.
        let click = ",aeval=val(ch)+if(between(t\\\\,1\\\\,1.0004)\\\\,2\\\\,0):c=same";
        settings.ffmpeg = stand_in(dir, &altered("-af", "", click));
    })
    .await;
    let quiet = bench.media("quiet.mkv").display().to_string();
    let noise = "anoisesrc=duration=5:amplitude=0.02:sample_rate=48000:seed=1,lowpass=f=6000";
    ffmpeg(&["-f", "lavfi", "-i", noise, "-c:a", "flac", &quiet]);
    let mut spec = JobSpec::new("audio-aac");
    spec.input = Some(quiet);
    spec.output = Some(bench.media("never.m4a").display().to_string());
    spec.parameters.loudness = Some(-20.0);
    spec.parameters.true_peak = Some(-9.0);
    spec.parameters.audio_channels = Some(Channels::Mono);
    let ended = bench.run_spec(&spec).await;
    let failure = failure(&ended);
    assert_eq!(failure.cause, Cause::VerifyFailed, "{failure:?}");
    let evidence = failure.evidence.as_deref().unwrap();
    assert!(evidence.contains("the true peak is ") && evidence.ends_with("instead of -9.0 dBTP or less"), "{evidence}");
    assert!(!bench.media("never.m4a").exists());
    bench.assert_clean();
}
