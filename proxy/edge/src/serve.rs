//! The life of one worker thread: accept, tick, listen for the bell, end.

use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Poll;

use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use crate::deadlines::TICK_MS;
use crate::session;
use crate::shared::Shared;
use crate::sys;
use crate::worker::Worker;

/// Run a worker until it is drained. `start` begins its role's tasks.
pub(crate) fn run<F: Future<Output = ()> + 'static>(
    shared: Arc<Shared>,
    index: usize,
    start: impl FnOnce(&'static Worker) -> std::io::Result<F>,
) -> std::io::Result<()> {
    let worker = Worker::start(shared, index);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        let timer = sys::watched(sys::timer()?)?;
        let role = spawn_local(start(worker)?);
        spawn_local(tick(worker, timer));
        spawn_local(heed_bell(worker));
        worker.watch().await;
        poll_fn(|_| {
            let is_over =
                worker.is_draining() && (worker.active() == 0 || worker.shared.is_drain_over());
            if is_over {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        role.abort();
        worker.log.flush();
        Ok(())
    })
}

/// Ten times a second, while there is anything to look after: deadlines, log lines, idle connections.
async fn tick(worker: &'static Worker, timer: AsyncFd<OwnedFd>) {
    const TICKS_PER_PRUNE: u32 = 10;
    let mut ticks = 0_u32;
    loop {
        worker.wait_for_work().await;
        if sys::set_timer(timer.get_ref().as_fd(), TICK_MS).is_err() {
            return;
        }
        while worker.has_work() {
            let Ok(mut ready) = timer.readable().await else {
                return;
            };
            sys::silence(timer.get_ref().as_fd());
            ready.clear_ready();
            worker.deadlines.sweep(sys::coarse_ms());
            worker.log.flush();
            ticks = ticks.wrapping_add(1);
            if ticks % TICKS_PER_PRUNE == 0 {
                worker.view().pools.prune();
            }
            if worker.is_draining() {
                worker.announce_change();
            }
        }
        if sys::set_timer(timer.get_ref().as_fd(), 0).is_err() {
            return;
        }
    }
}

/// Look at what the control thread changed.
async fn heed_bell(worker: &'static Worker) {
    let Some(Ok(bell)) = worker
        .shared
        .bell(worker.number())
        .map(|bell| sys::watched(bell.try_clone()?))
    else {
        return;
    };
    loop {
        let Ok(mut ready) = bell.readable().await else {
            return;
        };
        sys::silence(bell.get_ref().as_fd());
        ready.clear_ready();
        // Takes a new configuration over, so that an idle worker does not keep the old one.
        drop(worker.view());
        if worker.shared.is_draining() {
            worker.drain();
        } else {
            worker.announce_change();
        }
    }
}

/// Edge: accept on every listener of this worker.
pub(crate) fn accept_all(
    worker: &'static Worker,
    sockets: Vec<OwnedFd>,
) -> std::io::Result<impl Future<Output = ()> + 'static> {
    for socket in &sockets {
        sys::set_nonblocking(socket.as_fd(), true)?;
        sys::set_nodelay(socket.as_fd())?;
    }
    Ok(async move {
        let loops: Vec<_> = sockets
            .into_iter()
            .enumerate()
            .map(|(position, socket)| spawn_local(accept(worker, socket, position)))
            .collect();
        for one in loops {
            // An accept loop ends when the worker drains.
            let _ = one.await;
        }
    })
}

/// Accept whenever the supervisor lets the socket listen.
async fn accept(worker: &'static Worker, socket: OwnedFd, position: usize) {
    worker.watch().await;
    while !worker.is_draining() {
        let listener = match wait_to_listen(worker, &socket).await {
            Ok(true) => socket.try_clone(),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        match listener.and_then(|socket| TcpListener::from_std(socket.into())) {
            Ok(listener) => take_connections(worker, &listener, position).await,
            Err(_) => worker.pause().await,
        }
    }
}

/// Until the socket listens; false when the worker drains. One that does not would be "closed" for tokio for ever.
async fn wait_to_listen(worker: &Worker, socket: &OwnedFd) -> std::io::Result<bool> {
    // It listens right after the program is ready, or not for long.
    const OFTEN_MS: u32 = 1;
    const OFTEN: u32 = 100;
    const SELDOM_MS: u32 = 50;
    if sys::is_listening(socket.as_fd()) {
        return Ok(true);
    }
    let timer = sys::watched(sys::timer()?)?;
    sys::set_timer(timer.get_ref().as_fd(), OFTEN_MS)?;
    let mut looks = 0;
    while !sys::is_listening(socket.as_fd()) {
        if worker.is_draining() {
            return Ok(false);
        }
        timer.readable().await?.clear_ready();
        sys::silence(timer.get_ref().as_fd());
        looks += 1;
        if looks == OFTEN {
            sys::set_timer(timer.get_ref().as_fd(), SELDOM_MS)?;
        }
    }
    Ok(true)
}

/// Until the socket listens no more, or the worker drains.
async fn take_connections(worker: &'static Worker, listener: &TcpListener, position: usize) {
    loop {
        let accepted = poll_fn(|cx| {
            if worker.is_draining() {
                return Poll::Ready(None);
            }
            if worker.is_full() {
                Poll::Pending
            } else {
                listener.poll_accept(cx).map(Some)
            }
        })
        .await;
        match accepted {
            None => return,
            Some(Ok((io, peer))) => {
                let admission = worker.admit();
                spawn_local(session::serve(worker, io, peer, position, admission));
            }
            Some(Err(_)) if !sys::is_listening(listener.as_fd()) => return,
            // Out of descriptors, or the client is gone already: the next connection may do better.
            Some(Err(_)) => worker.pause().await,
        }
    }
}
