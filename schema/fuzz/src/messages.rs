//! Messages over NATS and the durable reports over AMQP; what is read back from a store.
//!
//! Invariant: what is read is read the same from what is written of it.

use std::fmt::Debug;

use ffpool_schema::api::StreamEvent;
use ffpool_schema::chunk::Cuts;
use ffpool_schema::message::{
    ClaimReply, ClaimRequest, CommitReply, CommitRequest, Event, Heartbeat, JobAnswer, JobCommand, LogLine, Manifest,
    Progress, TakeOver, TakeRequest, WorkerAnswer, WorkerCommand,
};
use ffpool_schema::thumbnail::Thumbnail;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message: the first byte says which, the rest is its payload.
pub fn message(data: &[u8]) {
    let Some((kind, payload)) = data.split_first() else { return };
    let all: [fn(&[u8]); 18] = [
        again::<ClaimRequest>,
        again::<ClaimReply>,
        again::<TakeRequest>,
        again::<CommitRequest>,
        again::<CommitReply>,
        again::<Event>,
        again::<Heartbeat>,
        again::<Progress>,
        again::<LogLine>,
        again::<WorkerCommand>,
        again::<WorkerAnswer>,
        again::<JobCommand>,
        again::<JobAnswer>,
        again::<TakeOver>,
        again::<Manifest>,
        written::<StreamEvent>,
        cuts,
        thumbnail,
    ];
    // Letters, so that seeds can be read.
    all[usize::from(kind.wrapping_sub(b'a')) % all.len()](payload);
}

fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(payload: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(payload) else { return };
    let written = serde_json::to_vec(&message).expect("a message can be written");
    let read: T = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(read, message);
}

fn written<T: Serialize + DeserializeOwned>(payload: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(payload) else { return };
    let written = serde_json::to_vec(&message).expect("a message can be written");
    let read: T = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(serde_json::to_vec(&read).expect("a message can be written"), written);
}

/// Where a source is cut, as other attempts find it: what is sound can be counted with.
fn cuts(payload: &[u8]) {
    again::<Cuts>(payload);
    let Ok(cuts) = serde_json::from_slice::<Cuts>(payload) else { return };
    if cuts.are_sound() {
        for fps in [None, "25".parse().ok(), "30000/1001".parse().ok()] {
            let _ = cuts.chunks(fps, &ffpool_schema::chunk::Taken::all(cuts.start));
        }
    }
}

/// The picture in a report: what is taken is the same when it is read from what is written of it.
fn thumbnail(payload: &[u8]) {
    let read = [Thumbnail::of(payload.to_vec()), Thumbnail::read(&String::from_utf8_lossy(payload))];
    for thumbnail in read.into_iter().flatten() {
        assert_eq!(Thumbnail::read(&thumbnail.written()), Ok(thumbnail));
    }
}
