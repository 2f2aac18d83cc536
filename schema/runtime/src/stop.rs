//! Stop signals, counted: the first asks for a graceful stop, the second for a quick one.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How many stop signals (SIGTERM, SIGINT) have arrived. Must be called inside a tokio runtime.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn signals() -> std::io::Result<watch::Receiver<u32>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (count, receiver) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                Some(()) = terminate.recv() => "SIGTERM",
                Some(()) = interrupt.recv() => "SIGINT",
                else => return,
            };
            count.send_modify(|count| *count += 1);
            tracing::info!(signal = name, count = *count.borrow(), "stop signal received");
        }
    });
    Ok(receiver)
}

/// Waits until at least `count` stop signals have arrived.
pub async fn reached(signals: &mut watch::Receiver<u32>, count: u32) {
    if signals.wait_for(|seen| *seen >= count).await.is_err() {
        // The sender lives as long as the runtime: without it nothing will ever be signalled.
        std::future::pending::<()>().await;
    }
}
