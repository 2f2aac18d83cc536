//! The matrix as a table.

use std::fmt::{self, Write as _};

use super::{Case, Verdict, Wish};

/// What became of every job.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Length of every output, in seconds.
    pub seconds: f64,
    /// The tool's first version line.
    pub tool: String,
    /// Each job with what became of it.
    pub rows: Vec<(Case, Verdict)>,
}

impl Report {
    /// Whether every job is as asked, refused or left out.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.rows.iter().any(|(_, verdict)| matches!(verdict, Verdict::Wrong { .. }))
    }

    /// Jobs that are as asked, refused, left out, wrong.
    #[must_use]
    pub fn counts(&self) -> [usize; 4] {
        let count = |is: fn(&Verdict) -> bool| self.rows.iter().filter(|(_, verdict)| is(verdict)).count();
        [
            count(|verdict| matches!(verdict, Verdict::Made { .. })),
            count(|verdict| matches!(verdict, Verdict::Refused { .. })),
            count(|verdict| matches!(verdict, Verdict::LeftOut)),
            count(|verdict| matches!(verdict, Verdict::Wrong { .. })),
        ]
    }

    /// The page `docs/matrix.md`.
    #[must_use]
    pub fn markdown(&self) -> String {
        let [made, refused, left_out, wrong] = self.counts();
        let tool = self.tool.split(" Copyright").next().unwrap_or(&self.tool);
        let mut text = format!(
            "# The acceptance matrix\n\n\
             Written by `ffpool-loadtest matrix --seconds {} --markdown docs/matrix.md` with {tool}. Every job was carried out as a\n\
             worker does it and its output probed, or it was refused before anything ran. Jobs that come to the same encode were\n\
             carried out once. Bit rates are judged from 5 seconds on. What a machine with devices would make is refused on one without.\n\n\
             As asked: {made}. Refused: {refused}. Left out: {left_out}. Wrong: {wrong}.\n\n\
             | Group | Job | Asked for | Found, or why it was refused |\n|---|---|---|---|\n",
            self.seconds
        );
        for (case, verdict) in &self.rows {
            let asked: Vec<String> = case.wishes.iter().map(asked).collect();
            let asked = asked.join("; ");
            let _ = writeln!(text, "| {} | {} | {asked} | {} |", case.group, case.name, short(verdict));
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (case, verdict) in &self.rows {
            writeln!(f, "{:24} {:48} {}", case.group, case.name, short(verdict))?;
        }
        let [made, refused, left_out, wrong] = self.counts();
        writeln!(f, "as asked {made}, refused {refused}, left out {left_out}, wrong {wrong}")
    }
}

fn asked(wish: &Wish) -> String {
    let Wish { codec, width, height, fps, pixel_format, bitrate } = wish;
    let rate = bitrate.map(|rate| format!(" {}k", rate / 1000)).unwrap_or_default();
    format!("{codec} {width}x{height} {fps} {pixel_format}{rate}")
}

/// A verdict in a line.
pub(super) fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Made { found, secs: Some(secs) } => format!("{found} ({secs:.1} s)"),
        Verdict::Made { found, secs: None } => format!("{found} (same encode as above)"),
        Verdict::Refused { faults } => {
            let reasons: Vec<String> = faults.iter().map(ToString::to_string).collect();
            format!("refused: {}", reasons.join("; "))
        }
        Verdict::LeftOut => "left out: too large".to_owned(),
        Verdict::Wrong { why } => format!("WRONG: {why}"),
    }
}
