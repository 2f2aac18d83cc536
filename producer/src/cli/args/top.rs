//! The flags of `top`.

use std::time::Duration;

use clap::Args;

use super::time;

pub(crate) const EXAMPLES: &str = "\
Examples:
  ffpool top
  ffpool top --interval 5s --filter show=news
  ffpool top --once

Keys: Tab changes the table, arrows choose, Enter shows the log, / filters, c cancels, p pauses, d drains, ? helps, q quits.";

/// How the pool is looked at.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Print one picture as plain text and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// How often the API is asked, 500ms to 1m.
    #[arg(long, default_value = "1s", value_parser = interval, value_name = "TIME")]
    pub(crate) interval: Duration,
    /// Show only jobs with this in their number, scenario, worker, queue, tenant or labels (`name=value`).
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) filter: String,
    /// Colours: `dark` and `light` for the terminal's background, `plain` for none. Without it, `plain` where NO_COLOR is set
    /// or the terminal has none, else `dark`.
    #[arg(long, value_enum, env = "FFPOOL_THEME", value_name = "NAME")]
    pub(crate) theme: Option<ThemeName>,
}

/// A set of colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ThemeName {
    /// For a dark background.
    Dark,
    /// For a light background.
    Light,
    /// None: bold and reversed text only.
    Plain,
}

fn interval(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(500)..=Duration::from_secs(60);
    time::within(text, bounds, "a time from 500ms to 1m is expected, such as 2s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_bounds() {
        assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["", "2", "100ms", "2m", "-1s"] {
            interval(wrong).unwrap_err();
        }
    }
}
