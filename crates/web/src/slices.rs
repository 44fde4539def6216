//! Work in slices of about 8 ms, so that the page stays responsive, and progress for scripts.

use js_sys::{Array, Function, Uint8ClampedArray};
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;
use web_time::Instant;

use super::events::{Turns, pause};
use super::objects::error;
use super::options::Options;
use diffmoe::engine::{EngineError, Progress};

/// A slice of work aims at this many milliseconds, half of a frame.
const SLICE: f64 = 8.0;

/// Advances some work until it is done: `advance` takes a number of units. The outer errors are for the script.
pub(super) async fn slices(
    listener: &Listener,
    mut advance: impl FnMut(usize) -> Result<Result<Progress, EngineError>, JsValue>,
) -> Result<Result<(), EngineError>, JsValue> {
    let turns = Turns::new()?;
    let mut budget = 1;
    loop {
        let begin = Instant::now();
        let progress = match advance(budget)? {
            Ok(progress) => progress,
            Err(failure) => return Ok(Err(failure)),
        };
        let elapsed = begin.elapsed().as_secs_f64() * 1e3;
        match progress {
            Progress::Done => return Ok(Ok(())),
            Progress::Working if elapsed > SLICE => budget = (budget / 2).max(1),
            Progress::Working if elapsed < SLICE / 2.0 => budget = (budget * 2).min(1 << 10),
            Progress::Working | Progress::Busy => {}
        }
        if progress == Progress::Busy {
            pause(1).await;
        } else {
            turns.next().await?;
        }
        listener.check()?;
    }
}

/// What work reports to.
pub(super) struct Listener {
    on_step: Option<Function>,
    on_decode: Option<Function>,
    signal: Option<AbortSignal>,
}

impl Listener {
    /// As the options of `sample` name it.
    pub(super) fn new(options: &Options) -> Result<Self, JsValue> {
        Ok(Self {
            on_step: options.function("onStep").map_err(error)?,
            on_decode: options.function("onDecode").map_err(error)?,
            signal: options.signal().map_err(error)?,
        })
    }

    /// Fails with the reason of the signal where it was aborted.
    pub(super) fn check(&self) -> Result<(), JsValue> {
        match &self.signal {
            Some(signal) if signal.aborted() => Err(signal.reason()),
            _ => Ok(()),
        }
    }

    /// A step is finished; its images, of `size` (height and width), are only made if there is a callback.
    pub(super) fn step(
        &self,
        step: u32,
        steps: u32,
        [height, width]: [usize; 2],
        rgba: impl FnOnce() -> Uint8ClampedArray,
    ) -> Result<(), JsValue> {
        let Some(on_step) = &self.on_step else { return Ok(()) };
        let number = |n: usize| JsValue::from(n as u32);
        let (step, steps) = (JsValue::from(step), JsValue::from(steps));
        let told = Array::of5(&step, &steps, &rgba(), &number(width), &number(height));
        on_step.apply(&JsValue::NULL, &told).map(drop)
    }

    /// Some of the latents are decoded, from 0 to 1.
    pub(super) fn decoded(&self, fraction: f32) -> Result<(), JsValue> {
        let Some(on_decode) = &self.on_decode else { return Ok(()) };
        on_decode.call1(&JsValue::NULL, &fraction.into()).map(drop)
    }
}
