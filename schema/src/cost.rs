//! What work costs: prices of the operator's times what attempts used.
//!
//! Invariant: what was not measured costs nothing here and is counted apart; no figure is made up for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::message::Usage;

const MS_PER_HOUR: f64 = 3_600_000.0;
const BYTES_PER_GB: f64 = 1e9;
/// Joules in a kilowatt hour.
const JOULES_PER_KWH: f64 = 3_600_000.0;

/// The operator's prices; one that is absent is nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Prices {
    /// Of one core for an hour of processor time.
    pub core_hour: Option<f64>,
    /// Of a gigabyte of memory for an hour: the attempt's peak, for as long as it ran.
    pub gb_hour: Option<f64>,
    /// Of an hour of an attempt's wall time.
    pub worker_hour: Option<f64>,
    /// Of a kilowatt hour, of what was measured.
    #[serde(default)]
    pub kwh: Option<f64>,
    /// In which currency.
    pub currency: String,
}

/// What was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hours {
    /// Processor time.
    pub core_hours: f64,
    /// Peak memory for as long as it ran.
    pub gb_hours: f64,
    /// Wall time.
    pub worker_hours: f64,
    /// Energy in kilowatt hours, as far as workers could read it; absent: none could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kwh: Option<f64>,
}

impl Hours {
    /// What one attempt used. Memory that was not measured counts as none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "hours are shown with a few digits")]
    pub fn of(usage: &Usage) -> Hours {
        let worker_hours = usage.wall_ms as f64 / MS_PER_HOUR;
        Hours {
            core_hours: usage.cpu_ms as f64 / MS_PER_HOUR,
            gb_hours: usage.peak_memory_bytes.unwrap_or(0) as f64 / BYTES_PER_GB * worker_hours,
            worker_hours,
            kwh: usage.energy_joules.map(|joules| joules / JOULES_PER_KWH),
        }
    }
}

impl Prices {
    /// What so much costs; `None` without any price for what was measured.
    #[must_use]
    pub fn of(&self, used: &Hours) -> Option<f64> {
        let parts = [
            (self.core_hour, Some(used.core_hours)),
            (self.gb_hour, Some(used.gb_hours)),
            (self.worker_hour, Some(used.worker_hours)),
            (self.kwh, used.kwh),
        ];
        let priced: Vec<f64> = parts.into_iter().filter_map(|(price, used)| Some(price? * used?)).collect();
        (!priced.is_empty()).then(|| priced.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_prices_times_hours_and_none_without_prices() {
        let usage = Usage {
            wall_ms: 1_800_000,
            cpu_ms: 7_200_000,
            peak_memory_bytes: Some(4_000_000_000),
            input_bytes: None,
            output_bytes: None,
            energy_joules: None,
        };
        let hours = Hours::of(&usage);
        assert_eq!(hours, Hours { core_hours: 2.0, gb_hours: 2.0, worker_hours: 0.5, kwh: None });
        let prices = Prices { core_hour: Some(0.04), worker_hour: Some(0.1), ..Prices::default() };
        assert!((prices.of(&hours).unwrap() - 0.13).abs() < 1e-9);
        assert_eq!(Prices::default().of(&hours), None);
        let unmeasured = Usage { peak_memory_bytes: None, ..usage };
        assert_eq!(Hours::of(&unmeasured).gb_hours, 0.0);
    }

    #[test]
    fn energy_costs_where_it_was_read_and_is_not_made_up_where_it_was_not() {
        let usage = Usage { cpu_ms: 3_600_000, energy_joules: Some(1_800_000.0), ..Usage::default() };
        let read = Hours::of(&usage);
        let unread = Hours::of(&Usage { energy_joules: None, ..usage });
        let energy = Prices { kwh: Some(0.3), ..Prices::default() };
        assert_eq!((read.kwh, energy.of(&read)), (Some(0.5), Some(0.15)));
        assert_eq!((unread.kwh, energy.of(&unread)), (None, None));
        let both = Prices { core_hour: Some(1.0), ..energy };
        assert_eq!((both.of(&read), both.of(&unread)), (Some(1.15), Some(1.0)));
    }
}
