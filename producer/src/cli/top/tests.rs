//! What keys do, and what is drawn: pictures as they stand on the screen.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ffpool_schema::api::{JobView, QueueView};
use ffpool_schema::id::JobId;
use ffpool_schema::job::Queue;
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{Phase, Progress, WorkerState};
use jiff::Timestamp;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;
use uuid::Uuid;

use super::app::{Action, App, Command, Event, Listed, Mode, Snapshot, Table};
use super::draw;
use super::theme::Theme;
use crate::cli::args::ThemeName;
use crate::cli::fleet::tests::worker;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn id(number: i64) -> JobId {
    JobId(Uuid::from_u128(number as u128))
}

fn job(number: i64, state: State) -> JobView {
    let view = json!({
        "id": id(number), "number": number, "state": state, "queue": "default", "priority": "high", "pool": "cpu",
        "scenario": "1080p30-h264", "tenant": null, "labels": {"show": "news"}, "attempt": 1, "failures": 0,
        "max_retries": 3, "worker": "encode-1", "custody": "broker", "created_at": at(900), "due_at": null,
        "started_at": at(950), "ended_at": null, "paused": false, "frozen_since": null, "deadline": null,
        "progress": null, "failure": null, "reason": null,
    });
    serde_json::from_value(view).unwrap()
}

fn running(number: i64, percent: f64) -> JobView {
    let progress = Progress {
        job: id(number),
        attempt: 1,
        worker: "encode-1".parse().unwrap(),
        seq: 1,
        phase: Phase::Encode,
        percent: Some(percent),
        frame: Some(1234),
        fps: Some(59.94),
        speed: Some(1.5),
        out_time_us: None,
        size_bytes: None,
        eta_secs: Some(75.2),
        live: None,
    };
    JobView { progress: Some(progress), ..job(number, State::Running) }
}

fn queue(name: &str, queued: i64, running: i64, paused: bool) -> QueueView {
    let mut parts = name.split('.').skip(1);
    QueueView {
        queue: parts.next().unwrap().to_owned(),
        priority: parts.next().unwrap().to_owned(),
        pool: "cpu".to_owned(),
        name: name.to_owned(),
        ready: Some(0),
        paused,
        queued,
        running,
        delayed: 0,
        oldest: (queued > 0).then(|| at(875)),
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        at: at(1000),
        queues: vec![
            queue("jobs.default.high", 3, 2, false),
            queue("jobs.batch.low", 0, 0, true),
            queue("jobs.live.high", 0, 0, false),
        ],
        workers: vec![
            worker("encode-1", WorkerState::Ready, 2),
            worker("encode-2", WorkerState::Draining, 1),
            worker("encode-0", WorkerState::Stopped, 0),
        ],
        listed: Listed::Running,
        more_workers: false,
        jobs: vec![running(17, 42.0), job(18, State::Running)],
        more: false,
    }
}

fn app() -> App {
    let mut app = App::new("https://pool.example:8080", "");
    assert_eq!(app.on(Event::Seen(Box::new(snapshot()))), []);
    app
}

fn press(app: &mut App, keys: &str) -> Vec<Command> {
    let code = |c: char| match c {
        '\t' => KeyCode::Tab,
        '\n' => KeyCode::Enter,
        '\u{1b}' => KeyCode::Esc,
        '\u{8}' => KeyCode::Backspace,
        letter => KeyCode::Char(letter),
    };
    keys.chars().flat_map(|c| app.on(Event::Key(KeyEvent::new(code(c), KeyModifiers::NONE)))).collect()
}

/// The picture on a screen of that size, without colours, blanks at the ends of lines left out.
fn picture(app: &App, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    let theme = Theme::named(ThemeName::Plain);
    terminal.draw(|frame| draw::screen(app, &theme, frame.area(), frame.buffer_mut())).unwrap();
    super::text_of(terminal.backend().buffer()).join("\n")
}

/// The screen below its first line.
const SCREEN: &str = "\
- Queues (2) --------------------------- - Workers (2) -------------------------
default.high      3 wait  2 run  2m 05s  encode-1        ###### 2/2   ready
batch.low         0 wait  0 run  paused  encode-2        ###... 1/2   draining




- Jobs, running (2) ------------------------------------------------------------
#17    1080p30-h264   ####......  42.0%   60 fps  1.50x   1m 15s  encode-1
#18    1080p30-h264   ..........     -% starting                  encode-1












Tab table  Enter log  / filter  s state  c cancel  p pause  ? keys  q quit";

#[test]
fn everything_is_on_a_screen_of_80_by_24() {
    let shown = picture(&app(), 80, 24);
    // The clock is that of this machine.
    let (first, rest) = shown.split_once('\n').unwrap();
    assert!(first.starts_with("ffpool top  2 workers  3/4 slots  2 run  3 wait  https://pool.example"), "{first}");
    assert_eq!(rest, SCREEN, "{shown}");
}

#[test]
fn every_size_is_drawn_and_nothing_is_wider_than_the_screen() {
    let mut app = app();
    press(&mut app, "\n");
    app.on(Event::Log(id(17), (0..50).map(|line| format!("frame={line} \u{1b}[31m")).collect()));
    for mode in [Mode::Browse, Mode::Help, Mode::Filter] {
        app.mode = mode;
        for (columns, rows) in [(1, 1), (5, 3), (20, 6), (40, 10), (79, 23), (200, 60), (500, 4)] {
            let shown = picture(&app, columns, rows);
            assert!(
                shown.lines().all(|line| line.chars().count() <= usize::from(columns)),
                "{columns}x{rows}\n{shown}"
            );
            assert!(!shown.contains('\u{1b}'), "no line of a tool reaches the terminal as a command:\n{shown}");
        }
    }
}

#[test]
fn a_job_is_cancelled_only_by_whoever_says_yes() {
    let mut app = app();
    assert_eq!(press(&mut app, "c"), []);
    let shown = picture(&app, 80, 24);
    assert!(shown.contains("Cancel job #17 (1080p30-h264, 42 % done)?") && shown.contains("is lost"), "{shown}");
    for no in ["n", "\n", "\u{1b}", "q"] {
        press(&mut app, "c");
        assert_eq!(press(&mut app, no), [], "{no:?} is no yes");
        assert_eq!(app.mode, Mode::Browse);
    }
    assert_eq!(press(&mut app, "cy"), [Command::Do(Action::Cancel(17))]);
    assert_eq!(press(&mut app, "jcy"), [Command::Do(Action::Cancel(18))]);
}

#[test]
fn a_worker_is_drained_by_whoever_chose_it_and_says_yes() {
    let mut app = app();
    assert_eq!(press(&mut app, "dy"), [], "a job is chosen, no worker");
    assert!(picture(&app, 80, 24).contains("! choose a worker first"));
    assert_eq!(press(&mut app, "\t\tdy"), [Command::Do(Action::Drain("encode-1".parse().unwrap()))]);
    assert_eq!(press(&mut app, "jdy"), [], "one that drains cannot be drained");
    assert!(picture(&app, 80, 24).contains("takes no work already"));
}

#[test]
fn pausing_is_taken_back_by_the_same_key() {
    let mut app = app();
    assert_eq!(press(&mut app, "p"), [Command::Do(Action::Pause(17))]);
    app.seen.as_mut().unwrap().jobs[0].paused = true;
    assert_eq!(press(&mut app, "p"), [Command::Do(Action::Resume(17))]);
    assert_eq!(press(&mut app, "\tp"), [Command::Do(Action::PauseQueue(Queue::Default))]);
    assert_eq!(press(&mut app, "jp"), [Command::Do(Action::ResumeQueue(Queue::Batch))]);
    // What came of it is told, and asked for at once.
    let follow = app.on(Event::Done(Ok("queue batch: open. Its jobs start.".to_owned())));
    assert_eq!(follow, [Command::Follow(app.want())]);
    assert!(picture(&app, 80, 24).contains("queue batch: open."));
    app.on(Event::Done(Err("the key may not".to_owned())));
    assert!(picture(&app, 80, 24).contains("! the key may not"));
}

#[test]
fn a_choice_stays_with_its_job_and_falls_to_the_first_when_that_is_gone() {
    let mut app = app();
    press(&mut app, "j");
    assert_eq!(app.job, Some(id(18)));
    let mut later = snapshot();
    later.jobs.insert(0, running(3, 99.0));
    app.on(Event::Seen(Box::new(later.clone())));
    assert_eq!((app.job, app.chosen(Table::Jobs)), (Some(id(18)), Some(2)));
    later.jobs.truncate(1);
    app.on(Event::Seen(Box::new(later)));
    assert_eq!(app.job, Some(id(3)));
    app.on(Event::Seen(Box::new(Snapshot { jobs: Vec::new(), ..snapshot() })));
    assert_eq!(app.job, None);
    assert_eq!(press(&mut app, "cpr\njk"), [Command::Follow(app.want())], "nothing can be done to nothing");
}

#[test]
fn a_filter_is_written_kept_and_taken_away() {
    let mut app = app();
    press(&mut app, "/#18");
    assert_eq!(app.jobs().len(), 1);
    // While it is written, q is a letter.
    press(&mut app, "q");
    assert_eq!((app.jobs().len(), app.mode.clone()), (0, Mode::Filter));
    press(&mut app, "\u{8}\n");
    assert!(picture(&app, 80, 24).contains("Jobs, running (1), filter: #18"));
    press(&mut app, "\u{1b}");
    assert_eq!((app.jobs().len(), app.filter.as_str()), (2, ""));
    press(&mut app, "/show=NEWS high\n");
    assert_eq!(app.jobs().len(), 2);
}

#[test]
fn the_log_of_the_chosen_job_is_asked_for_and_shown_from_its_end() {
    let mut app = app();
    let [Command::Follow(want)] = &press(&mut app, "\n")[..] else { panic!("the log is asked for") };
    assert_eq!(want.log, Some(id(17)));
    assert!(picture(&app, 80, 24).contains("asking..."));
    app.on(Event::Log(id(18), vec!["of another".to_owned()]));
    app.on(Event::Log(id(17), (0..100).map(|line| format!("line {line}.")).collect()));
    let shown = picture(&app, 80, 24);
    assert!(shown.contains("Log of #17") && shown.contains("line 99.") && !shown.contains("of another"), "{shown}");
    press(&mut app, "[[");
    let shown = picture(&app, 80, 24);
    assert!(shown.contains("20 lines back") && shown.contains("line 79.") && !shown.contains("line 99."), "{shown}");
    let [Command::Follow(want)] = &press(&mut app, "l")[..] else { panic!("no log is wanted any more") };
    assert_eq!(want.log, None);
}

#[test]
fn other_states_are_listed_and_a_failed_job_is_sent_round_again() {
    let mut app = app();
    assert_eq!(press(&mut app, "r"), [], "it runs");
    press(&mut app, "ss");
    assert_eq!((app.listed, app.jobs().len()), (Listed::Failed, 0));
    let mut failed = job(21, State::Failed);
    failed.reason = Some("it used more than 64 MiB".to_owned());
    let failed = Snapshot { jobs: vec![failed], more: true, listed: Listed::Failed, ..snapshot() };
    app.on(Event::Seen(Box::new(failed)));
    let shown = picture(&app, 80, 24);
    assert!(shown.contains("Jobs, failed (1+)") && shown.contains("it used more than 64 MiB"), "{shown}");
    assert_eq!(press(&mut app, "r"), [Command::Do(Action::Retry(21))]);
    assert_eq!(press(&mut app, "cy"), [], "it has ended");
    // With the keys at another table nobody sees which job is chosen.
    for key in ["\tr", "\tr", "cy"] {
        assert_eq!(press(&mut app, key), []);
        assert!(picture(&app, 80, 24).contains("! choose a job first: Tab changes the table"), "{key:?}");
    }
    assert_eq!(press(&mut app, "\tr"), [Command::Do(Action::Retry(21))]);
}

#[test]
fn a_list_that_comes_late_is_not_taken_for_the_one_that_is_wanted() {
    let mut app = app();
    press(&mut app, "s");
    app.on(Event::Seen(Box::new(snapshot())));
    assert_eq!((app.listed, app.jobs().len()), (Listed::Waiting, 0), "running jobs are no waiting ones");
    assert_eq!(press(&mut app, "cy\n"), [Command::Follow(app.want())], "nothing is chosen");
    assert_eq!(app.log, None);
    let waiting = Snapshot { listed: Listed::Waiting, jobs: vec![job(30, State::Queued)], ..snapshot() };
    app.on(Event::Seen(Box::new(waiting)));
    assert_eq!(app.chosen_job().map(|job| job.number), Some(30));
}

#[test]
fn what_is_printed_once_has_every_row_of_every_table() {
    let mut many = snapshot();
    many.queues = (0..9).map(|number| queue(&format!("jobs.q{number}.high"), 1, 0, false)).collect();
    many.workers = (0..40).map(|number| worker(&format!("encode-{number}"), WorkerState::Ready, 1)).collect();
    many.jobs = (100..300).map(|number| job(number, State::Running)).collect();
    let mut app = App::new("https://pool.example:8080", "");
    app.on(Event::Seen(Box::new(many)));
    let printed = super::printed(&app, 100);
    let named = |what: &str| printed.split_whitespace().filter(|word| *word == what).count();
    for (prefix, numbers, suffix) in [("q", 0..9, ".high"), ("encode-", 0..40, ""), ("#", 100..300, "")] {
        let missing: Vec<_> = numbers.filter(|number| named(&format!("{prefix}{number}{suffix}")) == 0).collect();
        assert!(missing.is_empty(), "{prefix}: {missing:?} in\n{printed}");
    }
    assert_eq!(printed.lines().count(), 1 + 1 + 40 + 1 + 200, "and nothing else:\n{printed}");
}

#[test]
fn an_api_that_is_away_is_said_and_the_last_picture_stays() {
    let mut app = app();
    app.on(Event::Lost("no answer (Connection refused); trying again".to_owned()));
    let shown = picture(&app, 120, 24);
    assert!(shown.contains("! no answer (Connection refused)") && shown.contains("#17"), "{shown}");
    app.on(Event::Seen(Box::new(snapshot())));
    assert!(!picture(&app, 120, 24).contains("Connection refused"));
}

#[test]
fn the_help_names_every_key_and_quitting_needs_none() {
    let mut app = app();
    press(&mut app, "?");
    let shown = picture(&app, 80, 24);
    for (key, meaning) in super::keys::help() {
        assert!(shown.contains(key) && shown.contains(meaning), "{key} {meaning} is missing in\n{shown}");
    }
    assert_eq!(press(&mut app, "x"), [], "any key closes it");
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(app.on(Event::Key(interrupt)), [Command::Quit]);
    assert_eq!(press(&mut app, "q"), [Command::Quit]);
}

#[test]
fn without_colours_nothing_has_one() {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    for (name, is_coloured) in [(ThemeName::Plain, false), (ThemeName::Dark, true), (ThemeName::Light, true)] {
        let theme = Theme::named(name);
        terminal.draw(|frame| draw::screen(&app(), &theme, frame.area(), frame.buffer_mut())).unwrap();
        let cells = &terminal.backend().buffer().content;
        let coloured = cells.iter().any(|cell| cell.fg != ratatui::style::Color::Reset);
        assert_eq!(coloured, is_coloured, "{name:?}");
    }
}
