//! Decoding the latents of a step: automatically at the end of a run, or on demand; in slices between two frames,
//! and it can be paused and cancelled like a run. When the device is lost, another one continues with the stored
//! latents.

use std::sync::Arc;

use super::decoder::Decoder;
use super::job::Frame;
use super::losses::{Losses, MOST_LOSSES, Next};
use super::pacing::Pacer;
use super::{NoteKind, Phase, Record, Session, Tick};
use crate::platform::{self, Task};
use diffmoe::engine::EngineError;
use diffmoe::kernels::WeightPrecision;
use diffmoe::pipeline::{Backend, Decoding, DecodingState, LoadedDecoder};
use diffmoe::vae;

/// Wraps or replaces a decoder, for tests.
pub(super) type WrapDecoder =
    Arc<dyn Fn(Box<dyn vae::Decoder>) -> Result<Box<dyn vae::Decoder>, EngineError> + Send + Sync>;

/// A decoder for latents of one size, and the decoder on the device that was opened for it.
struct Prepared {
    decoder: Box<dyn vae::Decoder>,
    reopened: Option<LoadedDecoder>,
}

enum State {
    /// Memory is being allocated; decoding then continues from here.
    Preparing(Task<Result<Prepared, EngineError>>, DecodingState),
    Working(Box<Decoding>),
}

/// A step being decoded.
pub(super) struct DecodeJob {
    /// Number of the record.
    record: u64,
    frame: usize,
    size: [usize; 2],
    count: usize,
    state: State,
    pacer: Pacer,
    pub(super) is_paused: bool,
    losses: Losses,
}

impl DecodeJob {
    /// Its state for the user interface.
    pub(super) fn phase(&self) -> Phase {
        if self.is_paused {
            return Phase::Paused;
        }
        let fraction = match &self.state {
            State::Preparing(_, so_far) if so_far.images.is_empty() => 0.0,
            State::Preparing(..) => self.losses.finished() as f32 / self.count as f32,
            State::Working(decoding) => decoding.fraction(),
        };
        Phase::Decoding { percent: (100.0 * fraction) as u8, images: self.count }
    }

    /// Does a few milliseconds of work.
    fn advance(&mut self) -> Frame {
        let State::Working(decoding) = &mut self.state else { return Frame::Went(Tick::Later) };
        if self.is_paused {
            return Frame::Went(Tick::Idle);
        }
        Frame::of(self.pacer.frame(&mut **decoding, Decoding::advance))
    }
}

impl Session {
    /// Decodes a frame of the run on the screen, when there is a decoder for it and nothing samples.
    pub fn decode(&mut self, frame: usize) {
        if !self.can_decode(frame) {
            return;
        }
        let Some(id) = self.record().map(|record| record.id) else { return };
        self.begin_decoding(id, frame);
    }

    /// Whether [`Session::decode`] would do something.
    pub fn can_decode(&self, frame: usize) -> bool {
        let prepares = self.preparing.is_some() && !self.prepares_survey();
        let samples = prepares || self.samples();
        !samples
            && self.decode.is_none()
            && self.record().is_some_and(|record| {
                let latents = record.latents.as_ref();
                frame < record.frames.len()
                    && latents.is_some_and(|latents| !latents.is_decoded(frame))
                    && self.decoder_for(&record.config).is_some()
            })
    }

    /// Decodes the last step of the run on screen, unless it is decoded already or was cancelled.
    pub(super) fn decode_what_is_shown(&mut self) {
        let Some(record) = self.record().filter(|record| record.is_complete()) else { return };
        let last = record.frames.len() - 1;
        if record.latents.as_ref().is_some_and(|latents| !latents.declined) {
            self.decode(last);
        }
    }

    /// Decodes the end of a run that is finished.
    pub(super) fn decode_end_of(&mut self, id: u64) {
        let Some(record) = self.find_record(id) else { return };
        let (config, last) = (record.config.clone(), record.frames.len() - 1);
        if record.latents.is_some() && self.decoder_for(&config).is_some() {
            self.begin_decoding(id, last);
        }
    }

    fn begin_decoding(&mut self, id: u64, frame: usize) {
        let Some(record) = self.find_record(id) else { return };
        let Some(latents) = record.frames.get(frame).cloned() else { return };
        let (size, count) = (record.config.input_size, record.labels.len());
        let so_far = DecodingState { latents, images: Vec::new() };
        let Some(task) = self.prepare_decoder(size, None) else { return };
        self.decode = Some(DecodeJob {
            record: id,
            frame,
            size,
            count,
            state: State::Preparing(task, so_far),
            pacer: Pacer::from_one(),
            is_paused: false,
            losses: Losses::default(),
        });
    }

    /// Creates a decoder in the background; with `reopen`, on a newly requested device.
    fn prepare_decoder(
        &self,
        size: [usize; 2],
        reopen: Option<Backend>,
    ) -> Option<Task<Result<Prepared, EngineError>>> {
        let Decoder { file, open, .. } = self.decoder.as_ref()?;
        let (file, open, wrap) = (file.clone(), open.clone(), self.wrap_decoder.clone());
        Some(platform::spawn(self.waker.clone(), move || async move {
            let reopened = match reopen {
                None => None,
                Some(backend) => {
                    let opened =
                        LoadedDecoder::open_async(&file, backend, WeightPrecision::F16).await;
                    Some(opened.map_err(|error| EngineError::DeviceLost(error.to_string()))?)
                }
            };
            let decoder = reopened.as_ref().unwrap_or(&open).decoder_async(size).await?;
            let decoder = match wrap {
                Some(wrap) => wrap(decoder)?,
                None => decoder,
            };
            Ok(Prepared { decoder, reopened })
        }))
    }

    /// Does a few milliseconds of decoding.
    pub(super) fn tick_decoding(&mut self) -> Tick {
        self.take_decoder();
        let Some(job) = &mut self.decode else { return Tick::Idle };
        match job.advance() {
            Frame::Went(tick) => tick,
            Frame::Complete => {
                self.keep_decoded();
                Tick::Idle
            }
            Frame::Failed(error) if error.needs_new_device() => {
                self.recover_decoding(&error.to_string());
                Tick::Later
            }
            Frame::Failed(error) => {
                self.note(NoteKind::Error, error.to_string());
                self.give_up_decoding();
                Tick::Idle
            }
        }
    }

    /// Accepts a finished decoder.
    fn take_decoder(&mut self) {
        let Some(job) = &mut self.decode else { return };
        let State::Preparing(task, so_far) = &mut job.state else { return };
        let Some(result) = task.take() else { return };
        match result {
            Ok(Prepared { decoder, reopened }) => {
                let decoding = Decoding::resume(decoder, std::mem::take(so_far));
                job.state = State::Working(Box::new(decoding));
                job.pacer = Pacer::from_one();
                if let (Some(decoder), Some(open)) = (&mut self.decoder, reopened) {
                    decoder.place(open);
                }
            }
            // The engine of the model may occupy the missing memory; another one is created when needed.
            Err(EngineError::TooLarge(_)) if self.idle.take().is_some() => {
                let (size, so_far) = (job.size, std::mem::take(so_far));
                if let (Some(task), Some(job)) =
                    (self.prepare_decoder(size, None), &mut self.decode)
                {
                    job.state = State::Preparing(task, so_far);
                }
            }
            Err(error) if error.needs_new_device() => self.recover_decoding(&error.to_string()),
            Err(error) => {
                self.note(NoteKind::Error, error.to_string());
                self.give_up_decoding();
            }
        }
    }

    /// Puts finished images into their record.
    fn keep_decoded(&mut self) {
        let Some(DecodeJob { record, frame, state: State::Working(decoding), .. }) =
            self.decode.take()
        else {
            return;
        };
        let used = self.decoder.as_ref().map(|decoder| decoder.used.clone());
        match (decoding.images(), used) {
            (Ok(images), Some(used)) => self.change_record(record, |record| {
                if let Some(latents) = &mut record.latents {
                    latents.keep(&used, frame, images);
                }
            }),
            (Err(error), _) => {
                self.note(NoteKind::Error, error.to_string());
                self.decline(record);
            }
            (_, None) => {}
        }
        // Another run may be on screen by now.
        self.decode_what_is_shown();
    }

    /// The device failed: requests another one and continues with the stored latents. After too many losses
    /// in a row the CPU takes over.
    fn recover_decoding(&mut self, reason: &str) {
        let Some(mut job) = self.decode.take() else { return };
        let (so_far, done) = match job.state {
            State::Preparing(_, so_far) => (so_far, job.losses.finished()),
            State::Working(decoding) => {
                let done = decoding.done() as u64;
                (decoding.into_state(), done)
            }
        };
        let backend = match job.losses.count(done, self.backend) {
            Next::Device(backend) => {
                self.note(NoteKind::Info, format!("{reason}: decoding again on a new device"));
                backend
            }
            Next::Processor => {
                let text = format!("{reason}, {MOST_LOSSES} times in a row: decoding on the CPU");
                if let Some(decoder) = &mut self.decoder {
                    decoder.info.note = Some(text.clone());
                }
                self.note(NoteKind::Info, text);
                Backend::Cpu
            }
            Next::GiveUp => {
                let text = format!("{reason}; decoding has stopped. Press Decode to try again");
                self.note(NoteKind::Error, text);
                return self.decline(job.record);
            }
        };
        let Some(task) = self.prepare_decoder(job.size, Some(backend)) else { return };
        self.decode = Some(DecodeJob { state: State::Preparing(task, so_far), ..job });
    }

    /// Cancels decoding; it does not restart automatically.
    pub(super) fn give_up_decoding(&mut self) {
        if let Some(job) = self.decode.take() {
            self.decline(job.record);
        }
    }

    fn decline(&mut self, record: u64) {
        self.change_record(record, |record| {
            if let Some(latents) = &mut record.latents {
                latents.declined = true;
            }
        });
    }

    /// The record with a number, active or finished.
    fn find_record(&self, id: u64) -> Option<&Record> {
        let live = self.job.as_ref().map(|job| &job.record).filter(|record| record.id == id);
        live.or_else(|| {
            self.history.records().iter().find(|record| record.id == id).map(|record| &**record)
        })
    }

    /// Changes the record with a number, if it still exists.
    fn change_record(&mut self, id: u64, change: impl FnOnce(&mut Record)) {
        match &mut self.job {
            Some(job) if job.record.id == id => change(&mut job.record),
            _ => self.history.change(id, change),
        }
    }
}
