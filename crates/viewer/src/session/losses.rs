//! Handling of lost devices, shared by runs and decoding.

use diffmoe::pipeline::Backend;

/// Losses in a row without progress after which the CPU takes over.
pub(super) const MOST_LOSSES: u32 = 2;

/// Counts the losses of a job.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    in_a_row: u32,
    /// Finished units at the last loss.
    finished: u64,
}

/// Where a job continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// On another device of the selected kind.
    Device(Backend),
    /// On the CPU.
    Processor,
    /// Nowhere: the devices are not at fault.
    GiveUp,
}

impl Losses {
    /// Counts a loss after this number of finished steps or images.
    pub(super) fn count(&mut self, finished: u64, wanted: Backend) -> Next {
        if finished > self.finished {
            self.in_a_row = 0;
        }
        self.finished = finished;
        self.in_a_row += 1;
        match self.in_a_row {
            losses if losses <= MOST_LOSSES => Next::Device(wanted),
            losses if losses == MOST_LOSSES + 1 => Next::Processor,
            _ => Next::GiveUp,
        }
    }

    /// Finished units at the last loss.
    pub(super) fn finished(self) -> u64 {
        self.finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_between_two_losses_starts_the_count_again() {
        let mut losses = Losses::default();
        let device = Next::Device(Backend::Auto);
        let count = |losses: &mut Losses, finished| losses.count(finished, Backend::Auto);
        assert_eq!(count(&mut losses, 0), device);
        assert_eq!(count(&mut losses, 0), device);
        assert_eq!(count(&mut losses, 1), device, "a step was finished in between");
        assert_eq!(count(&mut losses, 1), device);
        assert_eq!(count(&mut losses, 1), Next::Processor);
        assert_eq!(count(&mut losses, 1), Next::GiveUp);
    }
}
