//! The tables of queues, workers and jobs, and the log.

use ffpool_schema::api::{JobView, QueueView, WorkerView};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{Phase, WorkerState};
use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use super::super::app::{App, Table};
use super::super::theme::Theme;
use super::{bar, titled};
use crate::cli::format;

pub(super) fn queues(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let queues = app.queues();
    let now = app.seen.as_ref().map_or(Timestamp::UNIX_EPOCH, |seen| seen.at);
    let rows = queues.iter().map(|queue| queue_row(queue, now, theme)).collect();
    table(app, Table::Queues, &format!("Queues ({})", queues.len()), rows, theme, area, buf);
}

fn queue_row(queue: &QueueView, now: Timestamp, theme: &Theme) -> Line<'static> {
    let name = queue.name.strip_prefix("jobs.").unwrap_or(&queue.name).to_owned();
    let oldest = queue.oldest.map(|at| format::duration(format::seconds_between(at, now).max(0.0).floor()));
    let mut parts = vec![
        Span::raw(fixed(&name, 15)),
        Span::raw(format!("{:>4} wait{:>3} run", queue.queued, queue.running)),
        Span::styled(format!(" {:>7}", oldest.unwrap_or_default()), theme.faint),
    ];
    if queue.paused {
        parts[2] = Span::styled("  paused", theme.warn);
    }
    Line::from(parts)
}

pub(super) fn workers(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let workers = app.workers();
    let more = if app.seen.as_ref().is_some_and(|seen| seen.more_workers) { "+" } else { "" };
    let rows = workers.iter().map(|worker| worker_row(worker, theme)).collect();
    table(app, Table::Workers, &format!("Workers ({}{more})", workers.len()), rows, theme, area, buf);
}

fn worker_row(worker: &WorkerView, theme: &Theme) -> Line<'static> {
    let (slots, used) = (worker.capacity.slots, worker.capacity.used);
    let style = match worker.state {
        WorkerState::Ready => theme.good,
        WorkerState::Starting | WorkerState::Draining => theme.warn,
        WorkerState::Stopped => theme.faint,
        WorkerState::Lost => theme.bad,
    };
    Line::from(vec![
        Span::raw(fixed(worker.id.as_str(), 15)),
        Span::raw(" "),
        bar(f64::from(used) * 100.0 / f64::from(slots.max(1)), 6, theme),
        Span::raw(format!(" {:<6}", format!("{used}/{slots}"))),
        Span::styled(worker.state.as_str(), style),
    ])
}

pub(super) fn jobs(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let jobs = app.jobs();
    let more = if app.seen.as_ref().is_some_and(|seen| seen.more) { "+" } else { "" };
    let filter = if app.filter.is_empty() { String::new() } else { format!(", filter: {}", app.filter) };
    let title = format!("Jobs, {} ({}{more}){filter}", app.listed.title(), jobs.len());
    let now = app.seen.as_ref().map_or(Timestamp::UNIX_EPOCH, |seen| seen.at);
    let rows = jobs.iter().map(|job| job_row(job, now, usize::from(area.width), theme)).collect();
    table(app, Table::Jobs, &title, rows, theme, area, buf);
}

/// Number and scenario, how far it is, and who runs it; where there is room, its queue.
fn job_row(job: &JobView, now: Timestamp, width: usize, theme: &Theme) -> Line<'static> {
    let is_wide = width >= 110;
    let mut parts = vec![Span::raw(fixed(&format!("#{}", job.number), 7)), Span::raw(fixed(&job.scenario, 15))];
    if is_wide {
        parts.push(Span::styled(fixed(&format!("{}/{}", job.queue, job.priority), 15), theme.faint));
    }
    match job.state {
        State::Running | State::Cancelling => parts.extend(progress(job, if is_wide { 20 } else { 10 }, theme)),
        State::Blocked | State::Delayed | State::Queued => {
            let waited = format::duration(format::seconds_between(job.created_at, now).max(0.0).floor());
            let why = job.reason.clone().unwrap_or_default();
            parts.push(Span::styled(format!("{:<9}", job.state.as_str()), theme.faint));
            parts.push(Span::raw(format!("{waited:>8}  {why}")));
        }
        State::Completed | State::Failed | State::Cancelled | State::Rejected => {
            let failure =
                job.failure.as_ref().map(|failure| format!("{}: {}", failure.cause.as_str(), failure.message));
            let why = failure.or_else(|| job.reason.clone()).unwrap_or_else(|| job.state.as_str().to_owned());
            parts.push(Span::styled(why, theme.bad));
        }
    }
    if job.paused {
        parts.push(Span::styled("  paused", theme.warn));
    }
    Line::from(parts)
}

fn progress(job: &JobView, width: usize, theme: &Theme) -> Vec<Span<'static>> {
    let worker = job.worker.as_ref().map(ToString::to_string).unwrap_or_default();
    let known = job.progress.as_ref();
    let percent = known.and_then(|progress| progress.percent);
    let word = match (job.state, job.frozen_since, known.map(|progress| progress.phase)) {
        (State::Cancelling, _, _) => Some("cancelling"),
        (_, Some(_), _) => Some("frozen"),
        (_, None, Some(Phase::Encode)) => None,
        (_, None, Some(phase)) => Some(format::phase(phase)),
        (_, None, None) => Some("starting"),
    };
    let speed = match word {
        Some(word) => format!(" {word:<24}"),
        None => {
            let fps = known.and_then(|progress| progress.fps).map_or_else(String::new, |fps| format!("{fps:.0} fps"));
            let speed =
                known.and_then(|progress| progress.speed).map_or_else(String::new, |speed| format!("{speed:.2}x"));
            let eta = known.and_then(|progress| progress.eta_secs).map_or_else(String::new, format::duration);
            format!(" {fps:>8} {speed:>6} {eta:>8}")
        }
    };
    let percent_text = percent.map_or_else(|| "     -%".to_owned(), |percent| format!(" {percent:>5.1}%"));
    vec![
        bar(percent.unwrap_or(0.0), width, theme),
        Span::raw(percent_text),
        Span::raw(speed),
        Span::styled(format!("  {worker}"), theme.faint),
    ]
}

pub(super) fn log(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let Some(log) = &app.log else { return };
    let known = app.seen.iter().flat_map(|seen| &seen.jobs).find(|job| job.id == log.job);
    let name = known.map_or_else(|| log.job.to_string(), |job| format!("#{}", job.number));
    let back = if log.back > 0 { format!(", {} lines back", log.back) } else { String::new() };
    let body = titled(&format!("Log of {name}{back}"), theme.title, area, buf);
    let nothing = match &log.lines {
        None => Some("asking..."),
        Some(lines) if lines.is_empty() => Some("It has written nothing."),
        Some(_) => None,
    };
    if let Some(nothing) = nothing {
        Span::styled(nothing, theme.faint).render(body, buf);
    }
    let lines = log.lines.as_deref().unwrap_or_default();
    let height = usize::from(body.height);
    let end = lines.len().saturating_sub(log.back).max(height.min(lines.len()));
    for (row, line) in lines[end.saturating_sub(height)..end].iter().zip(body.rows()) {
        // A tool's line is text, never a command to the terminal.
        let clean: String = row.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Span::raw(clean).render(line, buf);
    }
}

/// A table with a title; of its rows those around the chosen one.
fn table(app: &App, which: Table, title: &str, rows: Vec<Line<'_>>, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let is_active = app.table == which;
    let body = titled(title, if is_active { theme.active } else { theme.title }, area, buf);
    let chosen = app.chosen(which).filter(|_| is_active);
    let height = usize::from(body.height);
    let first = chosen.map_or(0, |row| (row + 1).saturating_sub(height));
    if rows.is_empty() && app.seen.is_some() {
        Span::styled("none", theme.faint).render(body, buf);
    }
    for ((at, line), place) in rows.into_iter().enumerate().skip(first).zip(body.rows()) {
        line.render(place, buf);
        if chosen == Some(at) {
            buf.set_style(place, theme.chosen);
        }
    }
}

/// A text of exactly so many characters, a blank at its end.
fn fixed(text: &str, width: usize) -> String {
    format!("{:<width$}", format::cut(text, width.saturating_sub(1)))
}
