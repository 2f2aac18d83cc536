//! Several outputs of one source: one run makes as many of them as one run can, so that the source is decoded once.
//!
//! What has two passes has runs of its own, because the second must find what the first has written under a name that
//! counts the streams of its run. Everything else goes together, whatever the codecs and containers are.
//!
//! Invariant: every output is made by exactly one run, and by the same arguments as if it were alone; only where reading
//! begins and what is generated are shared.

use super::{Expected, Purpose, Refusal, Request, Step, Whole, run};

/// What to run for all outputs of a job, and what must come out.
#[derive(Debug, Clone, PartialEq)]
pub struct Together {
    /// The runs, in this order.
    pub steps: Vec<Shared>,
    /// What each output must be, in the order of the requests.
    pub expected: Vec<Expected>,
}

impl Together {
    /// Length in seconds of the longest output, where it can be known.
    #[must_use]
    pub fn duration_secs(&self) -> Option<f64> {
        let secs = |expected: &Expected| expected.duration_secs.or_else(|| expected.pictures.as_ref()?.secs);
        self.expected.iter().filter_map(secs).reduce(f64::max)
    }
}

/// A run for some of the outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared {
    /// The run.
    pub step: Step,
    /// The outputs that it is for, by their places among the requests.
    pub outputs: Vec<usize>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{refusal}")]
pub struct Refused {
    /// The place of the output among the requests.
    pub output: usize,
    /// Why.
    pub refusal: Refusal,
}

/// The plan of several outputs of one source. For one output it is that of [`plan`](super::plan).
///
/// # Errors
/// When one of them cannot be made of it.
pub fn together(requests: &[Request<'_>]) -> Result<Together, Refused> {
    let wholes = wholes(requests)?;
    let mut steps = before(&wholes);
    let (twice, once): (Vec<usize>, Vec<usize>) =
        (0..wholes.len()).partition(|output| requests[*output].encode.video.two_pass);
    for output in twice {
        let refused = |refusal| Refused { output, refusal };
        for (purpose, pass) in [(Purpose::FirstPass, 1), (Purpose::Encode, 2)] {
            let arguments = run(&[&wholes[output]], Some(pass)).map_err(refused)?;
            steps.push(Shared { step: Step { purpose, arguments }, outputs: vec![output] });
        }
    }
    if !once.is_empty() {
        let made: Vec<&Whole<'_>> = once.iter().map(|output| &wholes[*output]).collect();
        // Which output it is that cannot be made shows when each is planned alone.
        let arguments = run(&made, None).map_err(|refusal| {
            let alone = |output: &usize| run(&[&wholes[*output]], None).is_err();
            Refused { output: once.iter().copied().find(alone).unwrap_or(0), refusal }
        })?;
        steps.push(Shared { step: Step { purpose: Purpose::Encode, arguments }, outputs: once });
    }
    Ok(Together { steps, expected: wholes.into_iter().map(|whole| whole.expected).collect() })
}

/// What each of the outputs is made of.
pub(super) fn wholes<'a>(requests: &'a [Request<'a>]) -> Result<Vec<Whole<'a>>, Refused> {
    let whole = |(output, request)| Whole::of(request).map_err(|refusal| Refused { output, refusal });
    requests.iter().enumerate().map(whole).collect()
}

/// What must be known or at hand before they are made.
pub(super) fn before(wholes: &[Whole<'_>]) -> Vec<Shared> {
    let mut steps: Vec<Shared> = Vec::new();
    for (output, whole) in wholes.iter().enumerate() {
        for step in whole.before() {
            // The same loudness of the same sound is measured once.
            match steps.iter_mut().find(|shared| shared.step == step) {
                Some(shared) => shared.outputs.push(output),
                None => steps.push(Shared { step, outputs: vec![output] }),
            }
        }
    }
    steps
}
