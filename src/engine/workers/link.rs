//! The connection to a worker, as a host implements it.

use std::sync::Arc;

use super::pulse::Patience;

/// A connection to a [`Host`](super::Host) on another thread. Messages arrive whole and in order. Dropping it ends the
/// worker.
pub trait Link: Send {
    /// Sends a message.
    fn send(&mut self, message: Vec<u8>);

    /// The oldest message that has arrived and was not taken yet. Never waits.
    fn receive(&mut self) -> Option<Vec<u8>>;

    /// Why the worker is gone, if it is.
    fn failure(&self) -> Option<String>;

    /// Waits a moment for a message or a failure; `false` at once where a thread cannot wait.
    fn wait(&mut self) -> bool {
        false
    }
}

/// Makes a worker and connects to it.
type Connect = dyn Fn() -> Result<Box<dyn Link>, String> + Send + Sync;

/// The workers that a host offers.
#[derive(Clone)]
pub struct Workers {
    most: usize,
    connect: Arc<Connect>,
    patience: Patience,
}

impl Workers {
    /// Up to `most` workers, at least one, each made by `connect`.
    pub fn new(
        most: usize,
        connect: impl Fn() -> Result<Box<dyn Link>, String> + Send + Sync + 'static,
    ) -> Self {
        Self { most: most.max(1), connect: Arc::new(connect), patience: Patience::default() }
    }

    /// The same, given up after another time.
    #[cfg(test)]
    pub(super) fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// How long they may be silent.
    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// How many there may be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Makes one.
    pub(super) fn connect(&self) -> Result<Box<dyn Link>, String> {
        (self.connect)()
    }
}
