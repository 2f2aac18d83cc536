//! A connection's bytes: read with a note that somebody is there, written with a bound on a reader that takes nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::guests::{Activity, Busy, Reason, Visit};

/// A stream whose writes fail when nothing of them is taken for [`super::Limits::stall`].
pub(super) struct Wire<S> {
    stream: S,
    activity: Arc<Activity>,
    stall: Duration,
    /// Runs while a write waits, or a flush.
    waiting: [Option<Pin<Box<Sleep>>>; 2],
}

const WRITE: usize = 0;
const FLUSH: usize = 1;

impl<S> Wire<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>, stall: Duration) -> Wire<S> {
        Wire { stream, activity, stall, waiting: [None, None] }
    }

    fn bounded<T>(&mut self, which: usize, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            // A stream that takes bytes again is not stuck with those it took before either.
            self.waiting = [None, None];
            return poll;
        }
        let bound = self.stall;
        let sleep = self.waiting[which].get_or_insert_with(|| Box::pin(tokio::time::sleep(bound)));
        ready!(sleep.as_mut().poll(cx));
        Reason::Slow.count();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let poll = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.activity.heard();
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.bounded(WRITE, cx, poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.bounded(WRITE, cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_flush(cx) {
            // Plain TCP has nothing to flush: that says nothing of a write that waits.
            Poll::Ready(flushed) => {
                this.waiting[FLUSH] = None;
                Poll::Ready(flushed)
            }
            Poll::Pending => this.bounded(FLUSH, cx, Poll::Pending),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.bounded(FLUSH, cx, poll)
    }
}

/// An answer's body; while it lasts, its connection is busy.
pub(super) struct Answering {
    body: Body,
    _busy: Busy,
    _visit: Option<Visit>,
}

impl Answering {
    pub(super) fn new(body: Body, busy: Busy, visit: Option<Visit>) -> Answering {
        Answering { body, _busy: busy, _visit: visit }
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::guests::{Guests, Limits};
    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_cut_and_every_byte_taken_begins_the_time_anew() {
        let guest = Guests::new(Limits::default(), [].into()).admit("10.0.0.1".parse().unwrap()).ok().unwrap();
        let wire = |stream, stall| Wire::new(stream, guest.activity.clone(), stall);
        let (ours, _theirs) = tokio::io::duplex(16);
        let stuck = wire(ours, Duration::from_millis(20)).write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::TimedOut);

        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut slow = wire(ours, Duration::from_secs(3600));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut write = |slow: &mut Wire<_>| Pin::new(slow).poll_write(&mut cx, &[0; 16]);
        assert!(write(&mut slow).is_ready() && write(&mut slow).is_pending());
        assert!(slow.waiting[WRITE].is_some());
        theirs.read_exact(&mut [0; 8]).await.unwrap();
        assert!(write(&mut slow).is_ready() && slow.waiting[WRITE].is_none());
    }
}
