//! The machine that a worker believes to run on: a metadata service that announces its end when the chaos says so.
//!
//! It speaks Azure's Scheduled Events ("Scheduled Events for Linux VMs" of Azure's documentation), the one protocol of
//! the three that names the second of the end for every notice, be it 30 s away or 120.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

const EVENTS: &str = "/metadata/scheduledevents";

/// The metadata service of one worker's machine; gone when dropped.
#[derive(Debug)]
pub(super) struct Cloud {
    address: SocketAddr,
    /// When the machine is taken away, if that has been announced.
    end: Arc<watch::Sender<Option<Timestamp>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Cloud {
    pub(super) async fn start() -> std::io::Result<Cloud> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let end = Arc::new(watch::Sender::new(None));
        let routes = Router::new().route(EVENTS, get(events).post(async || ())).with_state(Arc::clone(&end));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Cloud { address, end, server })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Announces that the machine is taken away in `time`.
    pub(super) fn announce(&self, time: Duration) {
        self.end.send_replace(Some(Timestamp::now() + time));
    }

    /// The worker's next life is on another machine.
    pub(super) fn forget(&self) {
        self.end.send_replace(None);
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn events(State(end): State<Arc<watch::Sender<Option<Timestamp>>>>) -> Json<Value> {
    let event = |end: Timestamp| {
        json!({
            "EventId": end.as_second().to_string(),
            "EventType": "Preempt",
            "ResourceType": "VirtualMachine",
            "Resources": ["this"],
            "EventStatus": "Scheduled",
            "NotBefore": end.strftime("%a, %d %b %Y %T GMT").to_string(),
        })
    };
    let events: Vec<Value> = end.borrow().iter().copied().map(event).collect();
    Json(json!({ "DocumentIncarnation": 1, "Events": events }))
}
