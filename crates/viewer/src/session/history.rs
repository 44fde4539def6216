//! Earlier runs of a session, as many as fit into memory.

use std::sync::Arc;

use super::Record;

/// More would not fit a strip of thumbnails.
const MOST_RUNS: usize = 12;
/// Memory limit of all of them: a page has little more than a gigabyte.
const MOST_BYTES: usize = 256 << 20;

/// Finished runs, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    records: Vec<Arc<Record>>,
    /// The one on the screen, if it is one of them.
    shown: Option<usize>,
}

impl History {
    pub(super) fn records(&self) -> &[Arc<Record>] {
        &self.records
    }

    pub(super) fn shown(&self) -> Option<usize> {
        self.shown
    }

    pub(super) fn shown_record(&self) -> Option<&Arc<Record>> {
        self.records.get(self.shown?)
    }

    /// Changes one of them; other references keep the old one.
    pub(super) fn change(&mut self, id: u64, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.iter_mut().find(|record| record.id == id) {
            change(Arc::make_mut(record));
        }
    }

    /// Changes those whose samples are latents.
    pub(super) fn change_latents(&mut self, mut change: impl FnMut(&mut Record)) {
        for record in self.records.iter_mut().filter(|record| record.latents.is_some()) {
            change(Arc::make_mut(record));
        }
    }

    /// Removes one of them; the one on screen stays.
    pub(super) fn forget(&mut self, id: u64) {
        let Some(at) = self.records.iter().position(|record| record.id == id) else { return };
        self.records.remove(at);
        self.shown = match self.shown {
            Some(shown) if shown == at => None,
            Some(shown) if shown > at => Some(shown - 1),
            shown => shown,
        };
    }

    /// Shows one of them, or none.
    pub(super) fn show(&mut self, index: Option<usize>) {
        self.shown = index.filter(|&index| index < self.records.len());
    }

    /// Adds a run and removes the oldest if there are too many. The new one stays, however large it is.
    pub(super) fn push(&mut self, record: Record) {
        self.records.push(Arc::new(record));
        let bytes = |records: &[Arc<Record>]| records.iter().map(|r| r.bytes()).sum::<usize>();
        while self.records.len() > 1
            && (self.records.len() > MOST_RUNS || bytes(&self.records) > MOST_BYTES)
        {
            self.records.remove(0);
            // If the oldest is on screen, show the next.
            self.shown = self.shown.map(|shown| shown.saturating_sub(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::finished_record;
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_the_one_on_the_screen_followed() {
        let mut history = History::default();
        let record = finished_record();
        for seed in 0..MOST_RUNS as u64 {
            let mut record = record.clone();
            record.settings.sampling.seed = seed;
            history.push(record);
        }
        history.show(Some(5));
        history.push(record.clone());
        assert_eq!(history.records().len(), MOST_RUNS);
        assert_eq!(
            (history.shown(), history.shown_record().unwrap().settings.sampling.seed),
            (Some(4), 5)
        );
        history.show(Some(99));
        assert_eq!(history.shown(), None);

        history.show(Some(4));
        let (first, third) = (history.records()[0].id, history.records()[2].settings.sampling.seed);
        let count = history.records().len();
        // All have the same number here: the first one is removed.
        history.forget(first);
        assert_eq!((history.records().len(), history.shown()), (count - 1, Some(3)));
        assert_eq!(history.records()[1].settings.sampling.seed, third);
        history.forget(first + 99);
        assert_eq!(history.records().len(), count - 1);

        let mut large = record;
        large.frames.push(vec![0.0; MOST_BYTES / 4]);
        history.push(large);
        assert_eq!(history.records().len(), 1, "the newest stays, however large");
    }
}
