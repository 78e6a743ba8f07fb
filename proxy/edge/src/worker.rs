//! What one worker thread has for itself. Nothing here is shared or locked.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::accesslog::LogBuffer;
use crate::counters::{Count, Counters};
use crate::deadlines::Deadlines;
use crate::pool::Pools;
use crate::shared::{Live, Shared};

/// One worker's state; lives as long as the program.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) deadlines: Deadlines,
    pub(crate) log: LogBuffer,
    index: usize,
    view: RefCell<Rc<View>>,
    active: Cell<usize>,
    /// Tasks that look again when a limit is left or draining proceeds.
    watchers: RefCell<Vec<Waker>>,
    /// The ticker, while it sleeps.
    ticker: Cell<Option<Waker>>,
}

/// A configuration as this worker uses it: cloning an `Rc` touches no other worker's cache.
pub(crate) struct View {
    pub(crate) live: Arc<Live>,
    pub(crate) pools: Pools,
}

thread_local! {
    static WORKER: OnceCell<&'static Worker> = const { OnceCell::new() };
    static SERVER_NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Counters of threads that are no worker.
static NOBODY: std::sync::LazyLock<Counters> = std::sync::LazyLock::new(Counters::new);

/// This thread's number; 0 where there is no worker.
pub(crate) fn index() -> usize {
    WORKER.with(|worker| worker.get().map_or(0, |worker| worker.index))
}

/// This thread's counters.
pub(crate) fn counters() -> &'static Counters {
    WORKER
        .with(|worker| worker.get().copied())
        .map_or_else(|| &*NOBODY, Worker::counters)
}

/// Remember the name that a client asks for, while rustls reads its hello.
pub(crate) fn note_server_name(name: Option<&str>) {
    SERVER_NAME.with_borrow_mut(|place| *place = name.map(Into::into));
}

/// The name that was noted last.
pub(crate) fn take_server_name() -> Option<Box<str>> {
    SERVER_NAME.take()
}

impl Worker {
    /// Make this thread worker `index`.
    pub(crate) fn start(shared: Arc<Shared>, index: usize) -> &'static Self {
        let live = shared.live();
        let worker: &'static Self = Box::leak(Box::new(Self {
            log: LogBuffer::new(shared.log.clone()),
            deadlines: Deadlines::default(),
            index,
            view: RefCell::new(Rc::new(View {
                pools: live.pools(),
                live,
            })),
            active: Cell::new(0),
            watchers: RefCell::default(),
            ticker: Cell::default(),
            shared,
        }));
        WORKER.with(|place| {
            place.get_or_init(|| worker);
        });
        worker
    }

    pub(crate) fn number(&self) -> usize {
        self.index
    }

    /// This worker's counters.
    pub(crate) fn counters(&self) -> &Counters {
        self.shared.counters.get(self.index).unwrap_or(&NOBODY)
    }

    /// The configuration in force; takes over a new one, with the idle connections to servers that stay.
    pub(crate) fn view(&self) -> Rc<View> {
        let mut view = self.view.borrow_mut();
        if view.live.generation != self.shared.generation() {
            let live = self.shared.live();
            let pools = live.pools();
            for (position, server) in live.servers.iter().enumerate() {
                if let Some(old) = view.live.servers.iter().position(|old| old == server) {
                    pools.adopt(position, &view.pools, old);
                }
            }
            pools.adopt_egress(&view.pools);
            *view = Rc::new(View { live, pools });
        }
        Rc::clone(&view)
    }

    /// Whether another connection would be too many.
    pub(crate) fn is_full(&self) -> bool {
        self.active.get()
            >= self
                .view()
                .live
                .limits
                .connections
                .div_ceil(self.shared.workers)
                .max(1)
    }

    pub(crate) fn active(&self) -> usize {
        self.active.get()
    }

    /// Count a connection until the admission is dropped.
    pub(crate) fn admit(&'static self) -> Admission {
        self.counters().add(Count::Accepted);
        self.occupy(true)
    }

    fn occupy(&'static self, is_connection: bool) -> Admission {
        self.active.set(self.active.get() + 1);
        if let Some(ticker) = self.ticker.take() {
            ticker.wake();
        }
        Admission {
            worker: self,
            is_connection,
        }
    }

    /// Wait for about a tick.
    pub(crate) async fn pause(&'static self) {
        let occupied = self.occupy(false);
        let deadline = poll_fn(|cx| Poll::Ready(self.deadlines.enter(cx))).await;
        deadline.set(0);
        poll_fn(|_| {
            if deadline.has_passed() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        drop(occupied);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// Wake what is idle, so that it ends.
    pub(crate) fn drain(&self) {
        self.deadlines.wake_all();
        self.announce_change();
    }

    /// Wake this task whenever a limit is left or draining proceeds.
    pub(crate) async fn watch(&self) {
        poll_fn(|cx| {
            self.watchers.borrow_mut().push(cx.waker().clone());
            Poll::Ready(())
        })
        .await;
    }

    /// Wake the tasks that watch.
    pub(crate) fn announce_change(&self) {
        self.watchers.borrow().iter().for_each(Waker::wake_by_ref);
    }

    /// Whether the ticker has anything to look after.
    pub(crate) fn has_work(&self) -> bool {
        self.active.get() > 0
            || !self.log.is_empty()
            || !self.view.borrow().pools.is_empty()
            || self.is_draining()
    }

    /// Wait until there is something to look after.
    pub(crate) async fn wait_for_work(&self) {
        poll_fn(|cx| {
            if self.has_work() {
                return Poll::Ready(());
            }
            self.ticker.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// One connection's place under the limit.
pub(crate) struct Admission {
    worker: &'static Worker,
    is_connection: bool,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let worker = self.worker;
        let was_full = worker.is_full();
        worker.active.set(worker.active.get().saturating_sub(1));
        if self.is_connection {
            worker.counters().add(Count::Closed);
        }
        if was_full || worker.is_draining() {
            worker.announce_change();
        }
    }
}
