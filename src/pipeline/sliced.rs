//! Long work in slices that fit between two frames: what a [`Run`](super::Run) and a [`Decoding`](super::Decoding)
//! have in common.

use crate::engine::{EngineError, Progress, SliceTime};
use crate::platform::yield_now;

/// Work done in slices that never blocks.
pub trait Sliced {
    /// Does at most about `budget` units of work (a unit is about one kernel) and collects results. Never
    /// waits for the device.
    ///
    /// # Errors
    /// When the device is lost or out of memory; what was finished stays readable.
    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError>;

    /// How much is done, 0 to 1.
    fn fraction(&self) -> f32;

    /// How long the last finished slice took on a device of its own; `None` where [`Sliced::advance`] itself
    /// computes, or nothing has finished yet.
    fn slice_time(&self) -> Option<SliceTime>;

    /// Waits until submitted work is finished; returns at once in a browser, which cannot block.
    /// Not for user interfaces.
    ///
    /// # Errors
    /// When the device is lost.
    fn wait(&mut self) -> Result<(), EngineError>;
}

/// Advances to the end in slices of `budget`; blocks a thread, but not a page.
/// `on_progress` sees the work after each slice.
///
/// # Errors
/// As [`Sliced::advance`].
pub(super) async fn finish<S: Sliced>(
    work: &mut S,
    budget: usize,
    mut on_progress: impl FnMut(&S),
) -> Result<(), EngineError> {
    loop {
        match work.advance(budget)? {
            Progress::Done => return Ok(()),
            Progress::Working => {}
            Progress::Busy => work.wait()?,
        }
        on_progress(work);
        yield_now().await;
    }
}
