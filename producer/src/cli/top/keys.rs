//! What each key does, in one table: the help is made of it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::WorkerState;

use super::app::{Action, App, Command, Mode, Question, Table};

/// Rows that a page key moves by.
const PAGE: usize = 10;
/// Where no job is shown as chosen.
const NO_JOB: &str = "choose a job first: Tab changes the table";

/// What a key does while nothing is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Quit,
    NextTable,
    LastTable,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Log,
    LogBack,
    LogOn,
    List,
    Filter,
    Clear,
    Cancel,
    Pause,
    Retry,
    Drain,
    Help,
}

/// Keys, how they are written, and what they do.
const TABLE: &[(&[KeyCode], &str, Deed, &str)] = &[
    (&[KeyCode::Tab], "Tab", Deed::NextTable, "next table"),
    (&[KeyCode::BackTab], "Shift-Tab", Deed::LastTable, "table before"),
    (&[KeyCode::Up, KeyCode::Char('k')], "Up, k", Deed::Up, "row above"),
    (&[KeyCode::Down, KeyCode::Char('j')], "Down, j", Deed::Down, "row below"),
    (&[KeyCode::PageUp], "PgUp", Deed::PageUp, "ten rows up"),
    (&[KeyCode::PageDown], "PgDn", Deed::PageDown, "ten rows down"),
    (&[KeyCode::Home, KeyCode::Char('g')], "Home, g", Deed::First, "first row"),
    (&[KeyCode::End, KeyCode::Char('G')], "End, G", Deed::Last, "last row"),
    (&[KeyCode::Enter, KeyCode::Char('l')], "Enter, l", Deed::Log, "the chosen job's log"),
    (&[KeyCode::Char('[')], "[", Deed::LogBack, "ten lines back in the log"),
    (&[KeyCode::Char(']')], "]", Deed::LogOn, "ten lines on in the log"),
    (&[KeyCode::Char('s')], "s", Deed::List, "running, waiting or failed jobs"),
    (&[KeyCode::Char('/')], "/", Deed::Filter, "filter jobs"),
    (&[KeyCode::Esc], "Esc", Deed::Clear, "no filter, no log"),
    (&[KeyCode::Char('c')], "c", Deed::Cancel, "cancel the chosen job"),
    (&[KeyCode::Char('p')], "p", Deed::Pause, "pause the chosen job or queue, or let it go on"),
    (&[KeyCode::Char('r')], "r", Deed::Retry, "send the chosen failed job round again"),
    (&[KeyCode::Char('d')], "d", Deed::Drain, "drain the chosen worker"),
    (&[KeyCode::Char('?'), KeyCode::Char('h')], "?, h", Deed::Help, "this help"),
    (&[KeyCode::Char('q')], "q, Ctrl-C", Deed::Quit, "quit"),
];

/// Each key as it is written, and what it does.
pub(crate) fn help() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.iter().map(|(_, written, _, meaning)| (*written, *meaning))
}

/// Takes a key.
pub(crate) fn on(app: &mut App, key: KeyEvent) -> Vec<Command> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { vec![Command::Quit] } else { Vec::new() };
    }
    match app.mode.clone() {
        Mode::Browse => browse(app, key.code),
        Mode::Help => {
            app.mode = Mode::Browse;
            if key.code == KeyCode::Char('q') { vec![Command::Quit] } else { Vec::new() }
        }
        Mode::Filter => {
            write_filter(app, key.code);
            Vec::new()
        }
        Mode::Ask(question) => answer(app, question, key.code),
    }
}

fn browse(app: &mut App, key: KeyCode) -> Vec<Command> {
    let Some((_, _, deed, _)) = TABLE.iter().find(|(keys, _, _, _)| keys.contains(&key)) else { return Vec::new() };
    app.notice = None;
    match deed {
        Deed::Quit => return vec![Command::Quit],
        Deed::NextTable | Deed::LastTable => app.table = neighbour(app.table, *deed == Deed::NextTable),
        Deed::Up => walk(app, |row| row.saturating_sub(1)),
        Deed::Down => walk(app, |row| row + 1),
        Deed::PageUp => walk(app, |row| row.saturating_sub(PAGE)),
        Deed::PageDown => walk(app, |row| row + PAGE),
        Deed::First => walk(app, |_| 0),
        Deed::Last => walk(app, |_| usize::MAX),
        Deed::Log => return app.toggle_log(),
        Deed::LogBack => scroll(app, |back| back + PAGE),
        Deed::LogOn => scroll(app, |back| back.saturating_sub(PAGE)),
        Deed::List => return app.list_next(),
        Deed::Filter => app.mode = Mode::Filter,
        Deed::Clear => {
            app.filter.clear();
            app.keep_choices();
            if app.log.take().is_some() {
                return vec![Command::Follow(app.want())];
            }
        }
        Deed::Cancel => cancel(app),
        Deed::Pause => return pause(app),
        Deed::Retry => return retry(app),
        Deed::Drain => drain(app),
        Deed::Help => app.mode = Mode::Help,
    }
    Vec::new()
}

fn neighbour(table: Table, is_forward: bool) -> Table {
    match (table, is_forward) {
        (Table::Queues, true) | (Table::Jobs, false) => Table::Workers,
        (Table::Workers, true) | (Table::Queues, false) => Table::Jobs,
        (Table::Jobs, true) | (Table::Workers, false) => Table::Queues,
    }
}

fn walk(app: &mut App, to: impl Fn(usize) -> usize) {
    let row = app.chosen(app.table).unwrap_or(0);
    app.choose(app.table, to(row));
}

fn scroll(app: &mut App, to: impl Fn(usize) -> usize) {
    if let Some(log) = &mut app.log {
        let most = log.lines.as_ref().map_or(0, |lines| lines.len().saturating_sub(1));
        log.back = to(log.back).min(most);
    }
}

fn write_filter(app: &mut App, key: KeyCode) {
    match key {
        KeyCode::Char(letter) => app.filter.push(letter),
        KeyCode::Backspace => {
            app.filter.pop();
        }
        KeyCode::Esc => {
            app.filter.clear();
            app.mode = Mode::Browse;
        }
        KeyCode::Enter => app.mode = Mode::Browse,
        _ => {}
    }
    app.keep_choices();
}

/// Only a plain yes is one.
fn answer(app: &mut App, question: Question, key: KeyCode) -> Vec<Command> {
    match key {
        KeyCode::Char('y' | 'Y') => {
            app.mode = Mode::Browse;
            vec![Command::Do(question.action)]
        }
        KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc | KeyCode::Enter => {
            app.mode = Mode::Browse;
            Vec::new()
        }
        _ => Vec::new(),
    }
}

fn refuse(app: &mut App, why: &str) -> Vec<Command> {
    app.notice = Some(Err(why.to_owned()));
    Vec::new()
}

fn cancel(app: &mut App) {
    let Some(job) = app.shown_job() else {
        refuse(app, NO_JOB);
        return;
    };
    if job.state.is_end() {
        refuse(app, "this job has ended already; r sends it round again");
        return;
    }
    let done = job.progress.as_ref().and_then(|progress| progress.percent);
    let done = done.map_or_else(String::new, |percent| format!(", {percent:.0} % done"));
    let question = Question {
        text: format!("Cancel job #{} ({}{done})?", job.number, job.scenario),
        consequence: "What it has made so far is lost.".to_owned(),
        action: Action::Cancel(job.number),
    };
    app.mode = Mode::Ask(question);
}

fn drain(app: &mut App) {
    let Some(worker) = app.chosen_worker().filter(|_| app.table == Table::Workers) else {
        refuse(app, "choose a worker first: Tab changes the table");
        return;
    };
    if worker.state != WorkerState::Ready {
        refuse(app, "this worker takes no work already");
        return;
    }
    let question = Question {
        text: format!("Drain worker {}?", worker.id),
        consequence: match worker.running.len() {
            0 => "It runs nothing; it stops at once and stays down.".to_owned(),
            1 => "It takes no more, finishes the job that it runs, and stops.".to_owned(),
            jobs => format!("It takes no more, finishes the {jobs} jobs that it runs, and stops."),
        },
        action: Action::Drain(worker.id.clone()),
    };
    app.mode = Mode::Ask(question);
}

/// A pause ends nothing, so it is not asked about.
fn pause(app: &mut App) -> Vec<Command> {
    match app.table {
        Table::Workers => refuse(app, "workers are drained (d); jobs and queues are paused"),
        Table::Queues => match app.chosen_queue().map(|queue| (queue.queue.parse(), queue.paused)) {
            Some((Ok(queue), true)) => vec![Command::Do(Action::ResumeQueue(queue))],
            Some((Ok(queue), false)) => vec![Command::Do(Action::PauseQueue(queue))],
            Some((Err(_), _)) | None => refuse(app, "no queue is chosen"),
        },
        Table::Jobs => match app.shown_job().map(|job| (job.number, job.state.is_end(), job.paused)) {
            None => refuse(app, NO_JOB),
            Some((_, true, _)) => refuse(app, "this job has ended already"),
            Some((job, false, true)) => vec![Command::Do(Action::Resume(job))],
            Some((job, false, false)) => vec![Command::Do(Action::Pause(job))],
        },
    }
}

fn retry(app: &mut App) -> Vec<Command> {
    match app.shown_job().map(|job| (job.number, job.state)) {
        Some((job, State::Failed | State::Cancelled)) => vec![Command::Do(Action::Retry(job))],
        Some(_) => refuse(app, "only a job that has failed or was cancelled can be sent round again"),
        None => refuse(app, NO_JOB),
    }
}

/// What was done, for whoever asked for it.
pub(crate) fn told(action: &Action, state: &str, message: &str) -> String {
    let subject = match action {
        Action::Cancel(job) | Action::Pause(job) | Action::Resume(job) | Action::Retry(job) => {
            format!("job #{job}")
        }
        Action::Drain(worker) => format!("worker {worker}"),
        Action::PauseQueue(queue) | Action::ResumeQueue(queue) => format!("queue {queue}"),
    };
    format!("{subject}: {state}. {message}")
}
