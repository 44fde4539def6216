//! Which run is B: kept by hand, drawn with one change, or named by a link. The run on screen is A.

use std::sync::Arc;

use super::data::differences::Change;
use super::now::{Hover, Now};
use crate::App;
use crate::session::{Card, Controls, Next, NoteKind, Record, Selection, Session};

/// What Explore knows about run B.
#[derive(Default)]
pub(super) struct Compare {
    /// Number of run B.
    id: Option<u64>,
    /// Run B, once it is complete. The history may forget it, we do not.
    kept: Option<Arc<Record>>,
    /// Settings of a run that becomes B as soon as it is complete.
    awaited: Option<Controls>,
    /// The change that is being put together.
    pub(super) change: Change,
}

impl Compare {
    /// Looks for B among the runs of this visit.
    pub(super) fn update(&mut self, session: &Session) {
        if let Some(controls) = &self.awaited {
            let found = session.history().iter().rev().find(|record| {
                record.is_complete()
                    && record.controls == *controls
                    && session.model().is_some_and(|m| Arc::ptr_eq(&m.config, &record.config))
            });
            if let Some(record) = found {
                self.id = Some(record.id);
                self.awaited = None;
            }
        }
        let Some(id) = self.id else { return };
        // A run that is decoded later is another value.
        if let Some(record) = session.history().iter().find(|record| record.id == id) {
            self.kept = Some(record.clone());
        }
    }

    /// Run B beside the run on screen, unless that is B itself.
    pub(super) fn beside(&self, a: &Record) -> Option<Arc<Record>> {
        self.kept.clone().filter(|b| Some(b.id) == self.id && b.id != a.id)
    }

    /// Whether a run is B.
    pub(super) fn is_b(&self, record: &Record) -> bool {
        self.id == Some(record.id)
    }

    /// Whether there is a run B, shown or awaited.
    pub(super) fn is_set(&self) -> bool {
        self.id.is_some() || self.awaited.is_some()
    }

    /// Makes a run B.
    pub(super) fn keep(&mut self, id: u64) {
        *self = Self { id: Some(id), change: self.change, ..Self::default() };
    }

    /// Lets go of B.
    pub(super) fn release(&mut self) {
        *self = Self { change: self.change, ..Self::default() };
    }
}

/// The noise level of every step of a run, as far as it is known.
pub(super) fn levels(record: &Record, so_far: &[f32]) -> Vec<f32> {
    let steps = (record.steps() as usize).max(so_far.len()).max(1);
    let ahead = |step: usize| 1.0 - step as f32 / steps as f32;
    (0..steps).map(|step| so_far.get(step).copied().unwrap_or_else(|| ahead(step))).collect()
}

/// Whether two runs are of one model, so that their experts are the same.
pub(super) fn same_model(a: &Record, b: &Record) -> bool {
    let shape = |record: &Record| {
        let trace = &record.trace;
        (trace.model().to_owned(), trace.blocks(), trace.experts(), trace.grid())
    };
    // A trace file does not say which version of the model it came from.
    let hashes = a.share.hash.as_ref().zip(b.share.hash.as_ref());
    shape(a) == shape(b) && hashes.is_none_or(|(a, b)| a == b)
}

/// What run B shows beside run A: the nearest noise level, the same block, the same place of the image.
pub(super) fn beside(a: &Record, b: &Record, now: &Now, columns: &[usize]) -> Now {
    let block = a.trace.blocks().get(now.layer).copied();
    let blocks = b.trace.blocks();
    let layer = blocks.iter().position(|other| Some(*other) == block);
    let (from, to) = (a.trace.grid(), b.trace.grid());
    let patch = now.patch.map(|patch| {
        let [row, column] = [patch / from[1].max(1), patch % from[1].max(1)];
        row * to[0] / from[0].max(1) * to[1] + column * to[1] / from[1].max(1)
    });
    let selection = Selection {
        image: now.image,
        step: columns.get(now.step).copied(),
        layer: layer.unwrap_or(now.layer),
        pass: now.pass.branch,
        evaluation: now.pass.evaluation,
        expert: now.expert,
        patch,
        overlay: now.overlay,
        ..Selection::default()
    };
    let beside = Now::of(&b.trace, b.labels.len(), &selection, Hover::default());
    Now { points_at_expert: now.points_at_expert, ..beside }
}

impl App {
    /// Makes the run on screen B; lets go of B where there is one beside it, or where it is B already.
    pub(super) fn keep_as_b(&mut self) {
        let Some(record) = self.session.record() else { return };
        let compare = &mut self.explore.compare;
        if compare.beside(record).is_some() || compare.is_b(record) {
            return compare.release();
        }
        compare.keep(record.id);
        self.explore.selection.card = Card::Compare;
    }

    /// Lets A and B change places, where B is still among the runs of this visit.
    pub(super) fn swap(&mut self) {
        let Some(a) = self.session.record().map(|record| record.id) else { return };
        let b = self.explore.compare.id;
        let place = self.session.history().iter().position(|record| Some(record.id) == b);
        if let Some(place) = place {
            self.session.show(place);
            self.explore.compare.keep(a);
        }
    }

    /// Draws the run on screen again with a change, in the background; it becomes B.
    pub(super) fn compare_with(&mut self, change: Change) {
        let Some(record) = self.session.record() else { return };
        let Some(controls) = change.controls(record) else { return };
        if !super::is_open(&self.session, record) {
            return self.session.note(NoteKind::Error, super::NOT_OPEN);
        }
        self.draw_as_b(controls);
    }

    /// Draws with some settings, unless that was done before; the run becomes B.
    fn draw_as_b(&mut self, controls: Controls) {
        self.explore.compare.release();
        self.explore.compare.awaited = Some(controls.clone());
        self.explore.compare.update(&self.session);
        if self.explore.compare.awaited.is_some() {
            self.draw_beside(controls);
        }
    }

    /// Goes on with a link of two runs, once the first of them is complete.
    pub(crate) fn open_next(&mut self) {
        match self.session.take_next() {
            Some(Next::Beside(mut share)) => {
                let Some(config) = self.session.model().map(|model| model.config.clone()) else {
                    return;
                };
                match share.resolve(&config) {
                    Ok(()) => self.draw_as_b(share.controls),
                    Err(reason) => self.session.note(NoteKind::Error, reason),
                }
            }
            Some(Next::Instead(share)) => {
                let Some(id) = self.session.record().map(|record| record.id) else { return };
                self.explore.compare.keep(id);
                self.session.open_share(share);
            }
            None => {}
        }
    }

    /// Run B beside the run on screen, while Explore is open.
    pub(crate) fn compared(&self) -> Option<Arc<Record>> {
        self.explored()?;
        self.explore.compare.beside(self.session.record()?)
    }
}
