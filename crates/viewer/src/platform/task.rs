//! A background job, for a user interface that must not block.

use std::sync::{Arc, Mutex, PoisonError};

/// Called from any thread when there is something new to show.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// A background job and, later, its result. Dropping it discards the result; the job itself continues.
#[derive(Debug)]
pub struct Task<T> {
    slot: Arc<Mutex<Option<T>>>,
}

/// The end at which the result goes in.
pub(super) struct Promise<T> {
    slot: Arc<Mutex<Option<T>>>,
    on_done: Waker,
}

impl<T> Task<T> {
    pub(super) fn new(on_done: Waker) -> (Self, Promise<T>) {
        let slot = Arc::new(Mutex::new(None));
        (Self { slot: slot.clone() }, Promise { slot, on_done })
    }

    /// The result, once it is there; `Some` exactly once. Never waits.
    pub fn take(&mut self) -> Option<T> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Promise<T> {
    pub(super) fn keep(self, value: T) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        (self.on_done)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_result_is_announced_and_taken_once() {
        let (told, heard) = mpsc::channel();
        let (begin, begun) = mpsc::channel::<()>();
        let mut task =
            crate::platform::spawn(Arc::new(move || told.send(()).unwrap()), move || async move {
                begun.recv().unwrap();
                7
            });
        assert_eq!(task.take(), None, "not yet");
        begin.send(()).unwrap();
        heard.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(task.take(), Some(7));
        assert_eq!(task.take(), None, "once only");
    }
}
