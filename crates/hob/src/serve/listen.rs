//! The listening socket: how many connections there may be, and how long each may keep the server waiting.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

/// A first request's head must be whole after so long, and a later one's after [`IDLE`].
const HEAD: Duration = Duration::from_secs(15);

/// An open connection may wait so long for its next request.
const IDLE: Duration = Duration::from_secs(75);

/// A client that takes nothing of an answer for so long has gone.
const STALLED: Duration = Duration::from_secs(60);

/// A listener that opens so many connections and no more; others wait in the system's queue.
pub struct Gate {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Gate {
    /// Over a bound listener.
    pub fn new(listener: TcpListener, most: usize) -> Gate {
        Gate { listener, room: Arc::new(Semaphore::new(most)) }
    }
}

impl Listener for Gate {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        loop {
            // The semaphore is never closed.
            let Ok(place) = self.room.clone().acquire_owned().await else { continue };
            let (stream, addr) = Listener::accept(&mut self.listener).await;
            let _ = stream.set_nodelay(true);
            return (Line::new(stream, place), addr);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// When a connection must have said something; `None` while an answer is being made.
#[derive(Clone)]
pub struct Clock(Arc<Mutex<Option<Instant>>>);

impl Clock {
    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = until;
    }

    fn until(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A request's head is here: its body is another's to watch.
    pub fn busy(&self) {
        self.set(None);
    }

    /// The answer is out, and the next request may come.
    pub fn idle(&self) {
        self.set(Some(Instant::now() + IDLE));
    }
}

impl Connected<IncomingStream<'_, Gate>> for Clock {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Clock {
        stream.io().clock.clone()
    }
}

/// A connection with its times.
pub struct Line {
    stream: TcpStream,
    clock: Clock,
    /// what `reading` waits for
    set_for: Option<Instant>,
    reading: Pin<Box<Sleep>>,
    writing: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Line {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Line {
        let until = Instant::now() + HEAD;
        let clock = Clock(Arc::new(Mutex::new(Some(until))));
        let reading = Box::pin(sleep_until(until));
        Line { stream, clock, set_for: Some(until), reading, writing: None, _place: place }
    }

    /// What a write came to; an error when it has waited too long.
    fn wrote<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.writing = None;
            return done;
        }
        let wait = self.writing.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + STALLED)));
        match wait.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // The time is looked at before the bytes: one that drips them in never lacks some.
        if let Some(until) = this.clock.until() {
            if this.set_for != Some(until) {
                this.reading.as_mut().reset(until);
                this.set_for = Some(until);
            }
            if this.reading.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
