//! What `top` knows and what it does about it: a pure state machine.
//!
//! Invariant: what ends work is asked about first; a choice stays with what was chosen, not with the row it stood in,
//! and nothing is done to one that is not shown.

use crossterm::event::KeyEvent;
use ffpool_schema::api::{JobView, QueueView, WorkerView};
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::job::Queue;
use ffpool_schema::lifecycle::State;
use jiff::Timestamp;
use serde::Serialize;

use super::filter;
use super::keys;

/// The pool at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Snapshot {
    /// When the answers came.
    pub(crate) at: Timestamp,
    pub(crate) queues: Vec<QueueView>,
    pub(crate) workers: Vec<WorkerView>,
    /// Whether there are more workers than were listed.
    pub(crate) more_workers: bool,
    /// Which jobs were asked for.
    #[serde(skip)]
    pub(crate) listed: Listed,
    /// Jobs in the states that were asked for.
    pub(crate) jobs: Vec<JobView>,
    /// Whether there are more jobs than were listed.
    pub(crate) more: bool,
}

/// Which jobs are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Listed {
    #[default]
    Running,
    Waiting,
    Failed,
}

impl Listed {
    pub(crate) fn state(self) -> State {
        match self {
            Listed::Running => State::Running,
            Listed::Waiting => State::Queued,
            Listed::Failed => State::Failed,
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Listed::Running => "running",
            Listed::Waiting => "waiting",
            Listed::Failed => "failed",
        }
    }

    fn next(self) -> Listed {
        match self {
            Listed::Running => Listed::Waiting,
            Listed::Waiting => Listed::Failed,
            Listed::Failed => Listed::Running,
        }
    }
}

/// What is asked of the API again and again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Want {
    pub(crate) listed: Listed,
    /// The job whose log is shown.
    pub(crate) log: Option<JobId>,
}

/// One of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Queues,
    Workers,
    Jobs,
}

/// What is done through the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// By number, as all that follow.
    Cancel(i64),
    Pause(i64),
    Resume(i64),
    Retry(i64),
    Drain(WorkerId),
    PauseQueue(Queue),
    ResumeQueue(Queue),
}

/// What the outside is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Quit,
    /// Ask for this from now on, at once.
    Follow(Want),
    Do(Action),
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Key(KeyEvent),
    /// The window has another size, or the time goes on: it is drawn again.
    Redraw,
    Seen(Box<Snapshot>),
    Log(JobId, Vec<String>),
    /// The API did not answer, and what it said.
    Lost(String),
    /// What came of an action.
    Done(Result<String, String>),
}

/// A question before something that ends work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) text: String,
    pub(crate) consequence: String,
    pub(crate) action: Action,
}

/// What keys mean now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    Browse,
    Filter,
    Ask(Question),
    Help,
}

/// The lines that a job's tool wrote last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) job: JobId,
    /// `None` until they came.
    pub(crate) lines: Option<Vec<String>>,
    /// Lines back from the end.
    pub(crate) back: usize,
}

/// Everything that is shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct App {
    pub(crate) api: String,
    pub(crate) seen: Option<Snapshot>,
    pub(crate) trouble: Option<String>,
    /// What came of the last action.
    pub(crate) notice: Option<Result<String, String>>,
    pub(crate) mode: Mode,
    pub(crate) table: Table,
    pub(crate) listed: Listed,
    pub(crate) filter: String,
    pub(crate) job: Option<JobId>,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) queue: Option<String>,
    pub(crate) log: Option<Log>,
}

impl App {
    pub(crate) fn new(api: &str, filter: &str) -> App {
        App {
            api: api.to_owned(),
            seen: None,
            trouble: None,
            notice: None,
            mode: Mode::Browse,
            table: Table::Jobs,
            listed: Listed::default(),
            filter: filter.to_owned(),
            job: None,
            worker: None,
            queue: None,
            log: None,
        }
    }

    /// What is to be asked for.
    pub(crate) fn want(&self) -> Want {
        Want { listed: self.listed, log: self.log.as_ref().map(|log| log.job) }
    }

    /// Takes what happened and says what is to be done.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Command> {
        match event {
            Event::Key(key) => return keys::on(self, key),
            Event::Redraw => {}
            // It was on its way while other jobs came to be wanted: it would stand below their title.
            Event::Seen(snapshot) if snapshot.listed != self.listed => {}
            Event::Seen(snapshot) => {
                self.trouble = None;
                self.seen = Some(*snapshot);
                self.keep_choices();
            }
            Event::Log(job, lines) => {
                if let Some(log) = self.log.as_mut().filter(|log| log.job == job) {
                    log.lines = Some(lines);
                }
            }
            Event::Lost(why) => self.trouble = Some(why),
            Event::Done(outcome) => {
                self.notice = Some(outcome);
                // What it changed is shown at once.
                return vec![Command::Follow(self.want())];
            }
        }
        Vec::new()
    }

    /// The jobs that pass the filter: those nearest to their end first, then by number.
    pub(crate) fn jobs(&self) -> Vec<&JobView> {
        let all = self.seen.iter().flat_map(|seen| &seen.jobs);
        let mut jobs: Vec<&JobView> = all.filter(|job| filter::passes(job, &self.filter)).collect();
        jobs.sort_by_key(|job| match self.listed {
            Listed::Running | Listed::Waiting => job.number,
            Listed::Failed => -job.number,
        });
        jobs
    }

    /// The workers that have not stopped.
    pub(crate) fn workers(&self) -> Vec<&WorkerView> {
        use ffpool_schema::message::WorkerState;
        let all = self.seen.iter().flat_map(|seen| &seen.workers);
        all.filter(|worker| worker.state != WorkerState::Stopped).collect()
    }

    /// The queues in which something is, or that are paused.
    pub(crate) fn queues(&self) -> Vec<&QueueView> {
        let all = self.seen.iter().flat_map(|seen| &seen.queues);
        all.filter(|queue| queue.paused || queue.queued + queue.running + queue.delayed > 0).collect()
    }

    /// The chosen rows of the tables.
    pub(crate) fn chosen(&self, table: Table) -> Option<usize> {
        match table {
            Table::Jobs => self.jobs().iter().position(|job| Some(job.id) == self.job),
            Table::Workers => self.workers().iter().position(|worker| Some(&worker.id) == self.worker.as_ref()),
            Table::Queues => self.queues().iter().position(|queue| Some(&queue.name) == self.queue.as_ref()),
        }
    }

    /// Chooses a row, or the last there is.
    pub(crate) fn choose(&mut self, table: Table, row: usize) {
        match table {
            Table::Jobs => {
                let jobs = self.jobs();
                self.job = jobs.get(row).or(jobs.last()).map(|job| job.id);
            }
            Table::Workers => {
                let workers = self.workers();
                self.worker = workers.get(row).or(workers.last()).map(|worker| worker.id.clone());
            }
            Table::Queues => {
                let queues = self.queues();
                self.queue = queues.get(row).or(queues.last()).map(|queue| queue.name.clone());
            }
        }
    }

    /// A choice whose row is gone falls to the first row.
    pub(crate) fn keep_choices(&mut self) {
        for table in [Table::Jobs, Table::Workers, Table::Queues] {
            if self.chosen(table).is_none() {
                self.choose(table, 0);
            }
        }
    }

    /// Lists jobs in the next states.
    pub(crate) fn list_next(&mut self) -> Vec<Command> {
        self.listed = self.listed.next();
        if let Some(seen) = &mut self.seen {
            // Those that are known are in the wrong state.
            seen.jobs.clear();
        }
        self.table = Table::Jobs;
        vec![Command::Follow(self.want())]
    }

    /// The chosen job.
    pub(crate) fn chosen_job(&self) -> Option<&JobView> {
        self.jobs().into_iter().find(|job| Some(job.id) == self.job)
    }

    /// The chosen job, where the jobs have the keys: elsewhere nobody sees which it is.
    pub(crate) fn shown_job(&self) -> Option<&JobView> {
        self.chosen_job().filter(|_| self.table == Table::Jobs)
    }

    /// The chosen worker.
    pub(crate) fn chosen_worker(&self) -> Option<&WorkerView> {
        self.workers().into_iter().find(|worker| Some(&worker.id) == self.worker.as_ref())
    }

    /// The chosen work queue.
    pub(crate) fn chosen_queue(&self) -> Option<&QueueView> {
        self.queues().into_iter().find(|queue| Some(&queue.name) == self.queue.as_ref())
    }

    /// Shows the log of the chosen job, or no log any more.
    pub(crate) fn toggle_log(&mut self) -> Vec<Command> {
        let job = self.chosen_job().map(|job| job.id);
        let job = job.filter(|job| self.log.as_ref().is_none_or(|log| log.job != *job));
        self.log = job.map(|job| Log { job, lines: None, back: 0 });
        vec![Command::Follow(self.want())]
    }
}
