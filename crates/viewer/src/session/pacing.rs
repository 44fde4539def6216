//! The amount of work to submit at once: slices of about eight milliseconds, and the real duration of a step.

use web_time::Instant;

use diffmoe::engine::{Engine, EngineError, Progress, SliceTime};
use diffmoe::pipeline::Sliced;

/// Time that a slice should take, so that a window still paints at 60 frames a second.
pub(super) const SLICE_MS: f32 = 8.0;
/// One and a half frames at 60 Hz: reports of the device may be this late without meaning anything.
const LATE_MS: f32 = 24.0;
/// Lower limit of a slice if only the report was late: a slow window does not mean a slow device.
const FEWEST_BY_LATE_NEWS: usize = 16;
/// Units that a graphics processor gets at first: even an integrated one finishes these kernels of a small model in a
/// few milliseconds.
const FIRST_ON_GPU: usize = 16;
/// More than the kernels of a step of any model that fits a device.
const MOST_UNITS: usize = 1 << 14;
/// A longer pause between two frames was a window in the background.
const LONGEST_GAP_MS: f32 = 100.0;

/// Finds the number of units that fill a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacer {
    units: usize,
    /// Number of the slice that was judged last.
    judged: usize,
    /// Lower limit if only the report was late.
    fewest: usize,
}

impl Default for Pacer {
    fn default() -> Self {
        Self { units: 1, judged: 0, fewest: FEWEST_BY_LATE_NEWS }
    }
}

impl Pacer {
    /// For runs on an engine: what was found before for the same work, else a careful guess.
    pub(super) fn for_engine(engine: &dyn Engine, work: &Workload, before: Option<&Pace>) -> Self {
        let judged = engine.slice_time().map_or(0, |slice| slice.slice);
        let on_gpu = engine.gpu_samples().is_some_and(|samples| !samples.gpu.is_software());
        let guess = if on_gpu { FIRST_ON_GPU } else { 1 };
        let units = before.and_then(|pace| pace.units_for(work)).unwrap_or(guess);
        Self { units, judged, ..Self::default() }
    }

    /// What it found for this work.
    pub(super) fn pace(&self, work: Workload) -> Pace {
        Pace { work, units: self.units }
    }

    /// For units so large that one alone may fill a slice.
    pub(super) fn from_one() -> Self {
        Self { fewest: 1, ..Self::default() }
    }

    /// Submits slices of work with `advance` until the time of a frame is used up (`Working`), the device has enough
    /// to do (`Busy`), or all is done.
    pub(super) fn frame<S: Sliced>(
        &mut self,
        work: &mut S,
        mut advance: impl FnMut(&mut S, usize) -> Result<Progress, EngineError>,
    ) -> Result<Progress, EngineError> {
        let begin = Instant::now();
        loop {
            let before = Instant::now();
            let progress = advance(work, self.units)?;
            let now = Instant::now();
            let took = milliseconds(before, now);
            self.judge(work.slice_time(), progress, took);
            if progress != Progress::Working || milliseconds(begin, now) + took > SLICE_MS {
                return Ok(progress);
            }
        }
    }

    /// Adapts to the last slice: `slice` is the device's report on finished slices, `took`
    /// the milliseconds that handing out took.
    pub(super) fn judge(&mut self, slice: Option<SliceTime>, progress: Progress, took: f32) {
        match slice {
            Some(slice) => self.finished(slice),
            None if progress != Progress::Busy => self.computed(took),
            None => {}
        }
    }

    /// Units to submit next.
    #[cfg(test)]
    fn units(self) -> usize {
        self.units
    }

    /// The submitted units were computed immediately, in `ms`.
    fn computed(&mut self, ms: f32) {
        // A quarter of a slice: several fit, and the last does not make it much longer.
        if ms < SLICE_MS / 8.0 {
            self.more();
        } else if ms > SLICE_MS / 2.0 {
            self.fewer();
        }
    }

    /// The device finished a slice.
    fn finished(&mut self, slice: SliceTime) {
        if slice.slice == self.judged {
            return;
        }
        self.judged = slice.slice;
        let (short, long) =
            if slice.exact { (SLICE_MS / 2.0, 1.5 * SLICE_MS) } else { (LATE_MS, 2.0 * LATE_MS) };
        if slice.ms < short {
            self.more();
        } else if slice.ms > long {
            self.fewer();
        }
        if !slice.exact {
            self.units = self.units.max(self.fewest);
        }
    }

    fn more(&mut self) {
        self.units = (2 * self.units).min(MOST_UNITS);
    }

    fn fewer(&mut self) {
        self.units = (self.units / 2).max(1);
    }
}

/// What the time of a unit depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    /// Digits of the model's hash, where it is known.
    pub(super) model: Option<String>,
    /// The engine's name for its device.
    pub(super) device: String,
    /// Samples of the largest pass.
    pub(super) samples: usize,
}

/// The size of slices that was found for some work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    work: Workload,
    units: usize,
}

impl Pace {
    /// What to begin with for other work: fewer units where a pass has more samples. `None` for another model or
    /// device, about which it says nothing.
    fn units_for(&self, work: &Workload) -> Option<usize> {
        let Workload { model, device, samples } = &self.work;
        let is_known = (model, device) == (&work.model, &work.device);
        let fewer = self.units * samples / work.samples.max(*samples).max(1);
        is_known.then_some(fewer.max(1))
    }
}

/// Milliseconds between two moments.
pub(super) fn milliseconds(from: Instant, to: Instant) -> f32 {
    to.duration_since(from).as_secs_f32() * 1e3
}

/// Time spent on steps, without pauses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StepClock {
    ms: f32,
    last: Option<Instant>,
}

impl StepClock {
    /// A frame starts; the time since the previous one counts, unless the window was in the background.
    pub(super) fn frame(&mut self, now: Instant) {
        self.ms += self.since(now).min(LONGEST_GAP_MS);
        self.last = Some(now);
    }

    /// Work was done in this frame.
    pub(super) fn worked(&mut self, now: Instant) {
        self.ms += self.since(now);
        self.last = Some(now);
    }

    /// Nothing counts until the next frame.
    pub(super) fn pause(&mut self) {
        self.last = None;
    }

    /// The time of each of `steps` steps that are finished now.
    pub(super) fn take(&mut self, steps: usize) -> f32 {
        std::mem::take(&mut self.ms) / steps.max(1) as f32
    }

    fn since(&self, now: Instant) -> f32 {
        self.last.map_or(0.0, |last| now.duration_since(last).as_secs_f32() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The size of slices after some time on a device that needs `ms` per unit and reports immediately, or once per frame.
    fn settled(ms: f32, frame: Option<f32>) -> (f32, usize) {
        let mut pacer = Pacer::default();
        for slice in 1..60 {
            let took = pacer.units() as f32 * ms;
            // Two slices are in flight; the second is reported when both are done.
            let seen = frame.map_or(took, |frame| (2.0 * took / frame).ceil() * frame);
            pacer.finished(SliceTime { slice, ms: seen, exact: frame.is_none() });
        }
        (pacer.units() as f32 * ms, pacer.units())
    }

    #[test]
    fn slices_on_a_device_approach_eight_milliseconds() {
        for ms in [0.01, 0.1, 1.0, 3.0] {
            let (slice, _) = settled(ms, None);
            assert!((4.0..=12.0).contains(&slice), "{ms} ms a unit: slices of {slice} ms");
        }
        assert_eq!(settled(50.0, None).1, 1, "less than a unit cannot be");
    }

    #[test]
    fn late_news_is_not_taken_for_slow_work() {
        let (fast, _) = settled(0.01, Some(16.7));
        assert!((4.0..=24.0).contains(&fast), "slices of {fast} ms");
        let (slow, _) = settled(3.0, Some(16.7));
        assert!(slow <= 48.0, "slices of {slow} ms");
        let (_, units) = settled(0.01, Some(200.0));
        assert_eq!(units, FEWEST_BY_LATE_NEWS, "a slow window makes no longer slices");
    }

    #[test]
    fn computing_here_takes_small_bites() {
        let mut pacer = Pacer::default();
        for _ in 0..40 {
            pacer.computed(pacer.units() as f32 * 0.05);
        }
        let bite = pacer.units() as f32 * 0.05;
        assert!((0.5..=4.0).contains(&bite), "{bite} ms");
        for _ in 0..20 {
            pacer.computed(pacer.units() as f32 * 30.0);
        }
        assert_eq!(pacer.units(), 1);
    }

    #[test]
    fn the_size_that_was_found_is_kept_for_the_same_model_and_device_only() {
        let work = |model: &str, device: &str, samples| Workload {
            model: Some(model.to_owned()),
            device: device.to_owned(),
            samples,
        };
        let pacer = Pacer { units: 64, ..Pacer::default() };
        let pace = pacer.pace(work("a", "gpu", 8));
        assert_eq!(pace.units_for(&work("a", "gpu", 8)), Some(64));
        assert_eq!(pace.units_for(&work("a", "gpu", 2)), Some(64), "no guess upwards");
        assert_eq!(pace.units_for(&work("a", "gpu", 16)), Some(32));
        assert_eq!(pace.units_for(&work("a", "gpu", 4096)), Some(1));
        assert_eq!(pace.units_for(&work("b", "gpu", 8)), None);
        assert_eq!(pace.units_for(&work("a", "processor", 8)), None);
    }

    #[test]
    fn pauses_do_not_count() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut clock = StepClock::default();
        clock.frame(at(0));
        clock.worked(at(10));
        clock.frame(at(20));
        clock.pause();
        clock.frame(at(5000));
        clock.worked(at(5030));
        assert!((clock.take(2) - 25.0).abs() < 0.01);
        clock.frame(at(60_000));
        assert!((clock.take(1) - LONGEST_GAP_MS).abs() < 0.01, "a tab in the background");
    }
}
