//! Shows on a terminal how far a command is that takes its time.
//!
//! Invariant: nothing is drawn in the first second, nor where nobody looks, and nothing stays on the screen afterwards.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

/// A command that ends by then needs no picture.
const AFTER: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(120);

/// How far something is. Dropped, it is gone from the screen.
pub(crate) struct Progress {
    shown: Option<(ProgressBar, JoinHandle<()>)>,
}

impl Progress {
    /// Of so many steps, which `what` names: `jobs`, `checks`.
    pub(crate) fn of(total: usize, what: &str) -> Progress {
        let template = format!("{{spinner}} [{{bar:30}}] {{pos}}/{{len}} {what} {{wide_msg}}");
        Progress::open(Some(total as u64), &template)
    }

    /// Of something that has no steps, or nobody knows how many.
    pub(crate) fn busy(doing: &str) -> Progress {
        let progress = Progress::open(None, "{spinner} {wide_msg} {elapsed}");
        progress.say(doing);
        progress
    }

    fn open(total: Option<u64>, template: &str) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress { shown: None };
        }
        let style = ProgressStyle::with_template(template).expect("the templates are constants").progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()).with_style(style);
        let late = bar.clone();
        let appears = tokio::spawn(async move {
            tokio::time::sleep(AFTER).await;
            late.set_draw_target(ProgressDrawTarget::stderr());
            late.enable_steady_tick(TICK);
        });
        Progress { shown: Some((bar, appears)) }
    }

    /// What is being done now.
    pub(crate) fn say(&self, doing: &str) {
        if let Some((bar, _)) = &self.shown {
            bar.set_message(doing.to_owned());
        }
    }

    /// Waits for a step, and counts it.
    pub(crate) async fn step<T>(&self, step: impl Future<Output = T>) -> T {
        let made = step.await;
        self.done(1);
        made
    }

    /// So many steps more are done.
    pub(crate) fn done(&self, steps: usize) {
        if let Some((bar, _)) = &self.shown {
            bar.inc(steps as u64);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((bar, appears)) = self.shown.take() {
            appears.abort();
            bar.finish_and_clear();
        }
    }
}
