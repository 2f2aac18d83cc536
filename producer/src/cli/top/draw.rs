//! Draws what `top` knows: one picture from one state, the same wherever it is drawn.
//!
//! Invariant: pure, and every size is drawn: what there is no room for is left out, the least telling first.

mod dialog;
mod tables;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use super::app::{App, Mode, Table};
use super::theme::Theme;
use crate::cli::format;

/// Rows of the tables of queues and workers, without their titles, where there is room.
const UPPER_ROWS: u16 = 6;

/// Draws everything.
pub(crate) fn screen(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let upper = (UPPER_ROWS + 1).min(area.height.saturating_sub(2) / 3);
    let [head, above, middle, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(upper),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    header(app, theme, head, buf);
    upper_tables(app, theme, above, buf);
    match app.log.is_some() {
        true => {
            let [jobs, log] = Layout::vertical([Constraint::Percentage(45), Constraint::Fill(1)]).areas(middle);
            tables::jobs(app, theme, jobs, buf);
            tables::log(app, theme, log, buf);
        }
        false => tables::jobs(app, theme, middle, buf),
    }
    footer(app, theme, foot, buf);
    match &app.mode {
        Mode::Browse | Mode::Filter => {}
        Mode::Ask(question) => dialog::ask(question, theme, area, buf),
        Mode::Help => dialog::help(theme, area, buf),
    }
}

/// All that is known on one picture, as high as it has to be, without the line of keys: of what is printed nobody scrolls.
pub(crate) fn whole(app: &App, theme: &Theme, columns: u16) -> Buffer {
    let height = |rows: usize| u16::try_from(rows.max(1) + 1).unwrap_or(u16::MAX);
    let (upper, jobs) = (height(app.queues().len().max(app.workers().len())), height(app.jobs().len()));
    let mut buf = Buffer::empty(Rect::new(0, 0, columns, upper.saturating_add(jobs).saturating_add(1)));
    let heights = [Constraint::Length(1), Constraint::Length(upper), Constraint::Fill(1)];
    let [head, above, middle] = Layout::vertical(heights).areas(buf.area);
    header(app, theme, head, &mut buf);
    upper_tables(app, theme, above, &mut buf);
    tables::jobs(app, theme, middle, &mut buf);
    buf
}

fn upper_tables(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let [left, right] = Layout::horizontal([Constraint::Percentage(50), Constraint::Fill(1)]).spacing(1).areas(area);
    tables::queues(app, theme, left, buf);
    tables::workers(app, theme, right, buf);
}

fn header(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let mut parts = vec![Span::styled("ffpool top", theme.active)];
    match (&app.trouble, &app.seen) {
        (Some(trouble), _) => parts.push(Span::styled(format!("  ! {trouble}"), theme.bad)),
        (None, None) => parts.push(Span::styled("  asking...", theme.faint)),
        (None, Some(seen)) => {
            let workers = app.workers();
            let (used, slots) = workers
                .iter()
                .fold((0, 0), |(used, slots), worker| (used + worker.capacity.used, slots + worker.capacity.slots));
            let sum = |of: fn(&ffpool_schema::api::QueueView) -> i64| seen.queues.iter().map(of).sum::<i64>();
            let (running, waiting) = (sum(|queue| queue.running), sum(|queue| queue.queued));
            let more = if seen.more_workers { "+" } else { "" };
            parts.push(Span::raw(format!(
                "  {}{more} worker{}  {used}/{slots}{more} slots  {running} run  {waiting} wait",
                workers.len(),
                if workers.len() == 1 { "" } else { "s" }
            )));
        }
    }
    // Last, because it is the first to be cut.
    parts.push(Span::styled(format!("  {}", app.api), theme.faint));
    let clock = app.seen.as_ref().map(|seen| format::clock(seen.at)).unwrap_or_default();
    let clock = clock.rsplit(' ').next().unwrap_or_default().to_owned();
    let [text, time] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(clock.len() as u16)]).spacing(1).areas(area);
    Line::from(parts).render(text, buf);
    Span::styled(clock, theme.faint).render(time, buf);
}

fn footer(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    if app.mode == Mode::Filter {
        return Line::from(vec![
            Span::styled("filter: ", theme.active),
            Span::raw(app.filter.as_str()),
            Span::styled(" ", theme.chosen),
            Span::styled("  Enter keeps it, Esc takes it away", theme.faint),
        ])
        .render(area, buf);
    }
    match &app.notice {
        Some(Ok(done)) => Span::styled(done.as_str(), theme.good).render(area, buf),
        Some(Err(why)) => Span::styled(format!("! {why}"), theme.bad).render(area, buf),
        None => {
            let keys = match app.table {
                Table::Jobs => "Tab table  Enter log  / filter  s state  c cancel  p pause  ? keys  q quit",
                Table::Workers => "Tab table  d drain  ? keys  q quit",
                Table::Queues => "Tab table  p pause  ? keys  q quit",
            };
            Span::styled(keys, theme.faint).render(area, buf);
        }
    }
}

/// A rule with a title, and the space below it.
fn titled(title: &str, style: Style, area: Rect, buf: &mut Buffer) -> Rect {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let width = usize::from(head.width);
    let rule = "-".repeat(width.saturating_sub(title.chars().count() + 3));
    Span::styled(format!("- {title} {rule}"), style).render(head, buf);
    body
}

/// A bar of `width` characters.
fn bar(percent: f64, width: usize, theme: &Theme) -> Span<'static> {
    let done = ((percent / 100.0).clamp(0.0, 1.0) * width as f64).floor() as usize;
    let (full, empty) = theme.blocks;
    let text: String = (0..width).map(|at| if at < done { full } else { empty }).collect();
    Span::styled(text, theme.bar)
}
