//! What is measured of a finished picture against its source, what it must reach, and what a rate is sought for.
//!
//! Invariant: scores are finite numbers on the metric's own scale, checked by [`crate::scenario::check`].

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ValueError;

named_values!(
    /// A measure of how near a picture is to its source.
    Metric, "a measure of quality", {
        Vmaf = "vmaf",
        Psnr = "psnr",
        Ssim = "ssim",
    }
);

impl Metric {
    /// FFmpeg's filter, which is the feature that a worker must have for it.
    #[must_use]
    pub fn filter(self) -> &'static str {
        match self {
            Metric::Vmaf => "libvmaf",
            Metric::Psnr => "psnr",
            Metric::Ssim => "ssim",
        }
    }

    /// The worst and the best score that can be asked for, and the unit.
    #[must_use]
    pub fn range(self) -> (f64, f64, &'static str) {
        match self {
            Metric::Vmaf => (0.0, 100.0, "of VMAF"),
            Metric::Psnr => (10.0, 100.0, "dB"),
            Metric::Ssim => (0.0, 1.0, "of SSIM"),
        }
    }

    /// How far above what is sought a score may lie for the search to end there.
    #[must_use]
    pub fn slack(self) -> f64 {
        match self {
            Metric::Vmaf => 0.5,
            Metric::Psnr => 0.2,
            Metric::Ssim => 0.001,
        }
    }
}

/// Measures, as a list or as text with commas between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Metrics(pub Vec<Metric>);

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Metrics, D::Error> {
        let metrics = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Array(list) => list
                .into_iter()
                .map(serde_json::from_value)
                .collect::<Result<_, _>>()
                .map_err(serde::de::Error::custom)?,
            serde_json::Value::String(text) => text
                .split(',')
                .map(|name| name.trim().parse())
                .collect::<Result<_, _>>()
                .map_err(serde::de::Error::custom)?,
            other => {
                let error = ValueError::new(&other.to_string(), "a list of `vmaf`, `psnr` and `ssim`");
                return Err(serde::de::Error::custom(error));
            }
        };
        Ok(Metrics(metrics))
    }
}

impl JsonSchema for Metrics {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Metrics".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let metric = generator.subschema_for::<Metric>();
        schemars::json_schema!({"anyOf": [
            {"type": "array", "items": metric, "minItems": 1},
            {"type": "string", "examples": ["vmaf,ssim"]},
        ]})
    }
}

/// The mean scores that an output must reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QualityTarget {
    /// VMAF, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmaf: Option<f64>,
    /// PSNR over all planes, in dB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psnr: Option<f64>,
    /// SSIM over all planes, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssim: Option<f64>,
}

impl QualityTarget {
    /// Every score that is asked for.
    pub fn scores(&self) -> impl Iterator<Item = (Metric, f64)> {
        let scores = [(Metric::Vmaf, self.vmaf), (Metric::Psnr, self.psnr), (Metric::Ssim, self.ssim)];
        scores.into_iter().filter_map(|(metric, score)| Some((metric, score?)))
    }
}

/// The score for which the cheapest CRF is sought.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Aim {
    /// The measure.
    pub metric: Metric,
    /// Its mean.
    pub score: f64,
}

/// What is measured of an output, and what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QualityWish {
    /// What is measured, each once.
    pub metrics: Vec<Metric>,
    /// What must be reached.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub target: QualityTarget,
    /// What the CRF is sought for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aim: Option<Aim>,
}

impl QualityWish {
    /// What follows from the wishes of a job: a score that is to be reached is measured too. `None`: nothing is measured.
    #[must_use]
    pub fn of(metrics: &[Metric], target: QualityTarget, aim: Option<Aim>) -> Option<QualityWish> {
        let is_measured = |metric: &Metric| {
            metrics.contains(metric)
                || target.scores().any(|(wished, _)| wished == *metric)
                || aim.is_some_and(|aim| aim.metric == *metric)
        };
        let metrics: Vec<Metric> = Metric::ALL.iter().copied().filter(is_measured).collect();
        (!metrics.is_empty()).then_some(QualityWish { metrics, target, aim })
    }
}
