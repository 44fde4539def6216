//! Measures what each expert is for: draws the run again without it, one expert after the other, while nobody draws
//! anything else. Each of these runs is discarded once its images are compared.

use super::pair::{changes, muting};
use crate::App;
use crate::session::{Controls, Phase, Record};

/// Mean change of the images, of 255, without an expert.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Measured {
    /// The run with all experts.
    run: u64,
    layer: usize,
    expert: usize,
    change: f32,
}

/// What is still to be measured.
struct Queue {
    run: u64,
    /// The next is the last.
    rest: Vec<(usize, usize)>,
    /// What is being drawn.
    drawing: Option<(usize, usize, Controls)>,
}

/// Everything that was measured in this visit.
#[derive(Default)]
pub(super) struct Measures {
    found: Vec<Measured>,
    queue: Option<Queue>,
}

impl Measures {
    /// Change without an expert, where it was measured.
    pub(super) fn change(&self, run: u64, layer: usize, expert: usize) -> Option<f32> {
        let of = |m: &&Measured| (m.run, m.layer, m.expert) == (run, layer, expert);
        self.found.iter().find(of).map(|measured| measured.change)
    }

    /// Whether anything of a run was measured.
    pub(super) fn any(&self, run: u64) -> bool {
        self.found.iter().any(|measured| measured.run == run)
    }

    /// The largest change of a run.
    pub(super) fn most(&self, run: u64) -> f32 {
        let of_run = self.found.iter().filter(|measured| measured.run == run);
        of_run.map(|measured| measured.change).fold(0.0, f32::max)
    }

    /// All changes of a run: layer, expert, change.
    pub(super) fn all(&self, run: u64) -> impl Iterator<Item = (usize, usize, f32)> {
        let of_run = self.found.iter().filter(move |measured| measured.run == run);
        of_run.map(|measured| (measured.layer, measured.expert, measured.change))
    }

    /// Keeps a change.
    pub(super) fn keep(&mut self, run: u64, layer: usize, expert: usize, change: f32) {
        if self.change(run, layer, expert).is_none() {
            self.found.push(Measured { run, layer, expert, change });
        }
    }

    /// Experts of a run that are not measured, first ones last.
    fn missing(&self, record: &Record) -> Vec<(usize, usize)> {
        let layers = 0..record.trace.blocks().len();
        let all = layers.flat_map(|l| (0..record.trace.experts()).map(move |e| (l, e)));
        let mut missing: Vec<_> =
            all.filter(|&(l, e)| self.change(record.id, l, e).is_none()).collect();
        missing.reverse();
        missing
    }

    /// What the button says: nothing where everything is measured.
    pub(super) fn offer(&self, record: &Record) -> Option<String> {
        if let Some(queue) = &self.queue {
            let left = queue.rest.len() + usize::from(queue.drawing.is_some());
            return Some(format!("Stop measuring, {left} left"));
        }
        (!self.missing(record).is_empty()).then(|| "Measure muting".to_owned())
    }
}

impl App {
    /// Begins to measure the run on screen, or stops.
    pub(super) fn toggle_measuring(&mut self) {
        let measures = &mut self.explore.measures;
        if measures.queue.take().is_some() {
            return;
        }
        let Some(record) = self.session.record() else { return };
        if super::is_open(&self.session, record) && record.controls.sampling.muted.is_empty() {
            let rest = measures.missing(record);
            measures.queue = Some(Queue { run: record.id, rest, drawing: None });
        }
    }

    /// Takes in what was drawn and draws the next, while nothing else is drawn. Returns whether there is more.
    pub(super) fn go_on_measuring(&mut self) -> bool {
        let Some(mut queue) = self.explore.measures.queue.take() else { return false };
        if self.session.phase() != Phase::Ready {
            self.explore.measures.queue = Some(queue);
            return true;
        }
        if let Some((layer, expert, controls)) = queue.drawing.take() {
            let history = self.session.history();
            let a = history.iter().find(|record| record.id == queue.run);
            let b = history.iter().rev().find(|record| record.controls == controls);
            if let (Some(a), Some(b)) = (a, b) {
                let (change, id) = (mean(&changes(a, b)), b.id);
                self.explore.measures.keep(queue.run, layer, expert, change);
                self.session.forget(id);
            }
        }
        let Some((layer, expert)) = queue.rest.pop() else { return false };
        let history = self.session.history();
        let Some(a) = history.iter().find(|record| record.id == queue.run) else { return false };
        let Some(controls) = muting(a, layer, expert, false) else { return false };
        self.draw_beside(controls.clone());
        queue.drawing = Some((layer, expert, controls));
        self.explore.measures.queue = Some(queue);
        true
    }

    /// Draws with other settings and leaves the run on screen where it is.
    pub(super) fn draw_beside(&mut self, controls: Controls) {
        let shown = self.session.record().map(|record| record.id);
        self.session.controls = controls;
        self.session.generate();
        let index = self.session.history().iter().position(|record| Some(record.id) == shown);
        if let Some(index) = index {
            self.session.show(index);
        }
    }
}

/// The mean of some numbers, 0 of none.
pub(super) fn mean(numbers: &[f32]) -> f32 {
    numbers.iter().sum::<f32>() / numbers.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::finished_record;

    #[test]
    fn what_is_measured_is_not_measured_again() {
        let record = finished_record();
        let (layers, experts) = (record.trace.blocks().len(), record.trace.experts());
        let mut measures = Measures::default();
        assert_eq!(measures.missing(&record).len(), layers * experts);
        assert_eq!(measures.missing(&record).last(), Some(&(0, 0)), "the first is next");
        for (layer, expert) in measures.missing(&record) {
            measures.keep(record.id, layer, expert, expert as f32);
        }
        assert_eq!(measures.offer(&record), None);
        assert_eq!(measures.change(record.id, 0, 1), Some(1.0));
        assert_eq!(measures.change(record.id + 1, 0, 1), None, "of another run");
        assert!((measures.most(record.id) - experts as f32 + 1.0).abs() < 1e-6);
    }
}
