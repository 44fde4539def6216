//! The size of slices from one run to the next.

use std::sync::{Arc, Mutex};

use super::hooked::{Hooked, Hooks};
use super::model::file;
use super::{opened, ready};
use diffmoe::engine::{EngineError, SliceTime};

/// Notes the budget of every slice, and says as a device would that each took a millisecond for ten units.
struct Timed {
    budgets: Arc<Mutex<Vec<usize>>>,
    slices: usize,
    ms: f32,
}

impl Hooks for Timed {
    fn before_slice(&mut self, budget: usize) -> Result<(), EngineError> {
        self.budgets.lock().unwrap().push(budget);
        self.slices += 1;
        self.ms = budget as f32 / 10.0;
        Ok(())
    }

    fn slice_time(&self) -> Option<SliceTime> {
        let (slice, ms) = (self.slices, self.ms);
        (slice > 0).then_some(SliceTime { slice, ms, exact: true })
    }
}

#[test]
fn a_run_begins_with_the_slices_that_the_last_one_found() {
    let (_folder, path) = file();
    let mut session = opened(path);
    let budgets = Arc::new(Mutex::new(Vec::new()));
    let seen = budgets.clone();
    session.wrap = Some(Arc::new(move |inner| {
        let hooks = Timed { budgets: seen.clone(), slices: 0, ms: 0.0 };
        Ok(Box::new(Hooked { inner, hooks }))
    }));
    let mut draw = |count, guidance| {
        session.controls.count = count;
        session.controls.sampling.guidance = guidance;
        session.generate();
        ready(&mut session);
        std::mem::take(&mut *budgets.lock().unwrap())
    };
    let first = draw(2, 1.5);
    assert_eq!(first[0], 1, "nothing is known yet");
    let found = *first.last().unwrap();
    assert!((40..=120).contains(&found), "slices of 4 to 12 ms: {first:?}");
    // The same engine, another one for more samples, and one for fewer.
    let again = draw(2, 1.5);
    assert_eq!(again[0], found);
    let more = draw(4, 1.5);
    assert_eq!(more[0], again.last().unwrap() / 2);
    let fewer = draw(1, 1.0);
    assert_eq!(fewer[0], *more.last().unwrap());
}
