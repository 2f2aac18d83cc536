//! Sends spans to the collector, on a thread of its own.
//!
//! Invariant: whoever has a span never waits. At most [`QUEUE`] spans wait for the collector; those that find no room and those that
//! it does not take are dropped and counted, and that it happens is told once, until the collector takes spans again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ffpool_schema::metrics::{TRACE_SPANS_DROPPED, TRACE_SPANS_EXPORTED};
use metrics::counter;
use opentelemetry_otlp::SpanExporter as Otlp;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

/// Spans that wait at most: what a busy process makes in some seconds, about 10 MB.
const QUEUE: usize = 8_192;
/// Spans sent together at most.
const BATCH: usize = 512;
/// How long a span waits for others to be sent with.
const LINGER: Duration = Duration::from_millis(500);
/// For one batch with all its repetitions; a collector that is started anew is back by then.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// For the spans that are left when the process ends.
const LAST: Duration = Duration::from_secs(3);

/// Where spans go.
pub(super) struct Exporter {
    queue: mpsc::Sender<SpanData>,
    /// Whether it has been told that spans find no room.
    full: Arc<AtomicBool>,
    /// Taken by whoever shuts it down.
    stop: Mutex<Option<(oneshot::Sender<()>, std::sync::mpsc::Receiver<()>)>>,
}

impl Exporter {
    /// Sends by `otlp`, which was made within `runtime`, to what is called `place` in logs.
    pub(super) fn start(otlp: Otlp, runtime: Runtime, place: String) -> std::io::Result<Exporter> {
        let (queue, spans) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let (done, is_done) = std::sync::mpsc::channel();
        let full = Arc::new(AtomicBool::new(false));
        let mut courier = Courier { otlp, spans, place, fails: false, full: full.clone() };
        std::thread::Builder::new().name("traces".into()).spawn(move || {
            runtime.block_on(courier.run(stopped));
            // A request that hangs does not keep the process.
            runtime.shutdown_background();
            // Nobody waits any more: then there is nobody to tell.
            let _ = done.send(());
        })?;
        Ok(Exporter { queue, full, stop: Mutex::new(Some((stop, is_done))) })
    }

    pub(super) fn send(&self, span: SpanData) {
        if self.queue.try_send(span).is_err() {
            counter!(TRACE_SPANS_DROPPED, "reason" => "full").increment(1);
            if !self.full.swap(true, Ordering::Relaxed) {
                warn!(
                    waiting = QUEUE,
                    "the collector does not keep up: spans of traces are dropped, which is said once"
                );
            }
        }
    }

    /// Sends what is left, for [`LAST`] at most.
    pub(super) fn shut_down(&self) {
        let taken = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, is_done)) = taken {
            let _ = stop.send(());
            let _ = is_done.recv_timeout(LAST + Duration::from_secs(1));
        }
    }
}

struct Courier {
    otlp: Otlp,
    spans: mpsc::Receiver<SpanData>,
    place: String,
    /// Whether the last batch was not taken, which has been told.
    fails: bool,
    full: Arc<AtomicBool>,
}

impl Courier {
    /// Sends until nobody has spans any more, or until it is stopped and has sent what was left.
    async fn run(&mut self, mut stopped: oneshot::Receiver<()>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut patience = PATIENCE;
        loop {
            tokio::select! {
                filled = fill(&mut self.spans, &mut batch) => {
                    if !filled {
                        return;
                    }
                    self.deliver(&mut batch, patience).await;
                }
                _ = &mut stopped, if patience > LAST => {
                    patience = LAST;
                    self.spans.close();
                }
            }
        }
    }

    async fn deliver(&mut self, batch: &mut Vec<SpanData>, patience: Duration) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let sent = tokio::time::timeout(patience, self.otlp.export(std::mem::take(batch))).await;
        let trouble = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {patience:?}")),
        };
        match trouble {
            None => {
                counter!(TRACE_SPANS_EXPORTED).increment(count);
                self.full.store(false, Ordering::Relaxed);
                if std::mem::take(&mut self.fails) {
                    info!(collector = self.place, "the collector takes traces again");
                }
            }
            Some(error) => {
                counter!(TRACE_SPANS_DROPPED, "reason" => "refused").increment(count);
                if !std::mem::replace(&mut self.fails, true) {
                    warn!(collector = self.place, error, "traces are not exported, which is said once; jobs go on");
                }
            }
        }
    }
}

/// Waits for spans, and a moment for more. `false` when there are none and none will come; if it is given up, what it has taken is
/// in `batch`.
async fn fill(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) -> bool {
    if batch.is_empty() && spans.recv_many(batch, BATCH).await == 0 {
        return false;
    }
    let more = async {
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            if spans.recv_many(batch, room).await == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, more).await;
    true
}
