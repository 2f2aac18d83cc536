//! The quality of an output: measured frame against frame, held against what is demanded, and a CRF sought for it.

use ffpool_schema::encode::{Fit, Metric, Metrics, QualityTarget, Resolution};
use ffpool_schema::failure::Cause;
use ffpool_schema::job::JobSpec;
use ffpool_schema::message::Quality;

use super::bench::{Bench, failure, fault, ffmpeg, manifest};

/// A moving picture with noise in it, at a rate whose frames have no whole milliseconds, and sound that begins first.
fn noisy(bench: &Bench) -> String {
    let path = bench.media("noisy.mkv").display().to_string();
    let picture = "testsrc2=size=192x144:rate=30000/1001:duration=2,noise=alls=12:allf=t";
    let mut arguments = vec!["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=duration=2"];
    arguments.extend(["-c:v", "libx264", "-preset", "ultrafast", "-crf", "8", "-pix_fmt", "yuv420p", "-c:a", "aac"]);
    arguments.push(&path);
    ffmpeg(&arguments);
    path
}

fn job(bench: &Bench, scenario: &str, input: &str, output: &str) -> JobSpec {
    let mut spec = bench.spec(scenario);
    spec.input = Some(input.to_owned());
    spec.output = Some(bench.media(output).display().to_string());
    spec.parameters.quality = Some(Metrics(vec![Metric::Psnr, Metric::Ssim]));
    spec
}

async fn measured(bench: &Bench, spec: &JobSpec) -> Quality {
    let ended = bench.run_spec(spec).await;
    manifest(&ended).artifacts[0].quality.clone().expect("the manifest has no quality")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_frame_is_held_against_its_own_whatever_container_cut_and_fit() {
    let bench = Bench::open().await;
    let input = noisy(&bench);
    // Next to its neighbour any of these frames has under 26 dB, and bars that are taken for picture have under 15.
    for output in ["whole.mp4", "whole.mkv", "whole.ts"] {
        let mut spec = job(&bench, "custom-input", &input, output);
        spec.parameters.crf = Some(6);
        let found = measured(&bench, &spec).await;
        let psnr = found.psnr.unwrap();
        assert!(psnr.mean > 40.0 && psnr.min > 35.0 && psnr.min <= psnr.mean, "{output}: {found:?}");
        assert!(found.ssim.unwrap() > 0.98, "{output}: {found:?}");
        assert_eq!((found.width, found.height, found.every), (192, 144, 1), "{output}");
    }
    for fit in [Fit::Pad, Fit::Crop, Fit::Stretch] {
        let mut spec = job(&bench, "custom-input", &input, &format!("{fit}.mp4"));
        spec.parameters.crf = Some(6);
        spec.parameters.start = Some(0.51);
        spec.parameters.duration = Some(1.0);
        spec.parameters.resolution = Some(Resolution::new(320, 144).unwrap());
        spec.parameters.fit = Some(fit);
        let found = measured(&bench, &spec).await;
        let size = if fit == Fit::Crop { (320, 144) } else { (192, 144) };
        assert_eq!((found.width, found.height), size, "{fit}");
        assert!(found.psnr.unwrap().mean > 30.0, "{fit}: {found:?}");
    }
    let mut generated = bench.spec("240p25-h264");
    generated.parameters.duration = Some(1.0);
    generated.parameters.quality = Some(Metrics(vec![Metric::Ssim]));
    let found = measured(&bench, &generated).await;
    assert!(found.ssim.unwrap() > 0.9 && found.psnr.is_none(), "{found:?}");
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_quality_ends_the_job_with_both_numbers_and_nothing_is_published() {
    let bench = Bench::open().await;
    let input = noisy(&bench);
    let mut spec = job(&bench, "custom-input", &input, "poor.mp4");
    spec.parameters.crf = Some(45);
    spec.parameters.quality_target = Some(QualityTarget { ssim: Some(0.99), psnr: Some(12.0), vmaf: None });
    let ended = bench.run_spec(&spec).await;
    let failure = failure(&ended);
    assert_eq!(failure.cause, Cause::QualityMissed, "{failure:?}");
    let evidence = failure.evidence.as_deref().unwrap();
    assert!(evidence.starts_with("ssim is 0.") && evidence.ends_with(" instead of 0.99 or more"), "{evidence}");
    assert!(!bench.media("poor.mp4").exists());

    spec.parameters.crf = None;
    spec.parameters.quality_target = None;
    spec.parameters.target_psnr = Some(99.0);
    let ended = bench.run_spec(&spec).await;
    let failure = super::bench::failure(&ended);
    assert_eq!(failure.cause, Cause::QualityMissed, "{failure:?}");
    assert!(failure.evidence.as_deref().unwrap().starts_with("crf 6 reaches "), "{failure:?}");
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_crf_that_reaches_a_score_is_sought_on_samples_and_taken() {
    let bench = Bench::open().await;
    let input = noisy(&bench);
    let mut cases = vec![("libx264", Metric::Ssim, 0.93), ("libvpx-vp9", Metric::Psnr, 33.0)];
    if has_vmaf(&bench) {
        cases.extend(["libx264", "libx265", "libsvtav1", "libvpx-vp9"].map(|codec| (codec, Metric::Vmaf, 85.0)));
    }
    for (codec, metric, aim) in cases {
        let mut spec = job(&bench, "custom-input", &input, &format!("{codec}-{metric}.mkv"));
        spec.parameters.codec = Some(codec.parse().unwrap());
        spec.parameters.duration = Some(1.0);
        let place = match metric {
            Metric::Vmaf => &mut spec.parameters.target_vmaf,
            Metric::Psnr => &mut spec.parameters.target_psnr,
            Metric::Ssim => &mut spec.parameters.target_ssim,
        };
        *place = Some(aim);
        let ended = bench.run_spec(&spec).await;
        let manifest = manifest(&ended);
        let found = manifest.artifacts[0].quality.as_ref().unwrap();
        let search = found.search.as_ref().unwrap();
        let crf = search.crf.to_string();
        let arguments = manifest.arguments.join(" ");
        assert!(arguments.contains(&format!("crf {crf} ")) || arguments.contains(&format!("crf={crf}")), "{arguments}");
        let taken = search.trials.iter().find(|trial| trial.crf == search.crf).unwrap();
        assert!(taken.score >= aim, "{codec}: {search:?}");
        let is_next_bad = search.trials.iter().any(|trial| trial.crf == search.crf + 1 && trial.score < aim);
        assert!(taken.score < aim + metric.slack() || is_next_bad, "{codec}: {search:?}");
        // The one sample is the whole.
        let whole = [found.ssim, found.psnr.map(|psnr| psnr.mean), found.vmaf.as_ref().map(|vmaf| vmaf.mean)];
        let is_near = |score: &f64| (score - taken.score).abs() < taken.score * 0.02;
        assert!(whole.iter().flatten().any(is_near), "{codec}: {found:?}");
    }
    bench.assert_clean();
}

fn has_vmaf(bench: &Bench) -> bool {
    bench.workshop.ability().features.iter().any(|feature| feature == "libvmaf")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ffmpeg_here_cannot_measure_is_refused_before_it_runs() {
    let bench = Bench::open().await;
    let features = bench.workshop.ability().features;
    assert!(features.iter().any(|has| has == "psnr") && features.iter().any(|has| has == "ssim"), "{features:?}");
    let mut spec = job(&bench, "custom-input", &noisy(&bench), "never.mp4");
    spec.parameters.quality_target = Some(QualityTarget { vmaf: Some(20.0), ..QualityTarget::default() });
    let ended = bench.run_spec(&spec).await;
    if has_vmaf(&bench) {
        assert!(manifest(&ended).artifacts[0].quality.as_ref().unwrap().vmaf.is_some());
    } else {
        assert_eq!(fault(&ended), "parameters.quality unsupported");
    }
}
