//! Devices that are lost while latents are decoded, and decoders that do not fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::latents::{assert_decoded, decoder, with_decoder};
use super::model::latent_file;
use super::{Losses, controls, ready, spend, start, until};
use crate::session::{ModelSource, NoteKind, Phase, Rendering, Session, Start};
use diffmoe::engine::{EngineError, Progress, Taps};
use diffmoe::pipeline::Backend;
use diffmoe::vae::Decoder;

/// A decoder whose device is lost after some units of work.
struct Failing {
    inner: Box<dyn Decoder>,
    units_left: usize,
}

impl Decoder for Failing {
    fn device(&self) -> String {
        self.inner.device()
    }
    fn latent_shape(&self) -> [usize; 3] {
        self.inner.latent_shape()
    }
    fn image_shape(&self) -> [usize; 3] {
        self.inner.image_shape()
    }
    fn begin(&mut self, latents: &[f32]) {
        self.inner.begin(latents);
    }
    fn advance(&mut self, _budget: usize) -> Result<Progress, EngineError> {
        spend(&mut self.units_left)?;
        self.inner.advance(1)
    }
    fn fraction(&self) -> f32 {
        self.inner.fraction()
    }
    fn take(&mut self) -> Option<Vec<f32>> {
        self.inner.take()
    }
    fn wait(&mut self) -> Result<(), EngineError> {
        self.inner.wait()
    }
    fn decode_with_taps(&mut self, latent: &[f32]) -> Result<Taps, EngineError> {
        self.inner.decode_with_taps(latent)
    }
}

/// Lets each decoder fail after the next number of units, and the later ones never; counts the decoders.
fn failing(session: &mut Session, units: Vec<usize>) -> Arc<AtomicUsize> {
    let (losses, made) = Losses::after(units);
    session.wrap_decoder =
        Some(Arc::new(move |inner| Ok(Box::new(Failing { inner, units_left: losses.next() }))));
    made
}

#[test]
fn a_lost_device_changes_nothing_in_the_images() {
    let (_folder, path) = latent_file(4);
    for units in [0, 1, 5, 12, 20, 30] {
        let mut session = with_decoder(&path, "vae_kl_mini");
        let made = failing(&mut session, vec![units]);
        session.generate();
        ready(&mut session);
        assert_eq!(made.load(Ordering::Relaxed), 2, "after {units} units");
        let note = &session.notes()[0];
        assert_eq!(note.kind, NoteKind::Info);
        assert!(note.text.contains("pulled the plug: decoding again"), "{}", note.text);
        assert_decoded(&session, &path, "vae_kl_mini");
    }
}

#[test]
fn after_three_losses_in_a_row_the_processor_decodes_and_then_nobody() {
    let (_folder, path) = latent_file(4);
    let mut session = with_decoder(&path, "vae_kl_mini");
    let made = failing(&mut session, vec![2, 2, 2]);
    session.generate();
    ready(&mut session);
    assert_eq!(made.load(Ordering::Relaxed), 4);
    assert!(session.notes().last().unwrap().text.contains("decoding on the CPU"));
    assert_decoded(&session, &path, "vae_kl_mini");

    let mut session = with_decoder(&path, "vae_kl_mini");
    let made = failing(&mut session, vec![2, 2, 2, 2]);
    session.generate();
    ready(&mut session);
    assert_eq!(made.load(Ordering::Relaxed), 4);
    let note = session.notes().last().unwrap();
    assert_eq!(note.kind, NoteKind::Error);
    assert!(note.text.contains("Press Decode"), "{}", note.text);
    let end = session.record().unwrap().frames.len() - 1;
    assert_eq!(session.record().unwrap().rendering(end), Rendering::Preview, "the preview stays");
    session.decode(end);
    ready(&mut session);
    assert_decoded(&session, &path, "vae_kl_mini");
}

#[test]
fn what_does_not_fit_gets_the_memory_of_the_engine_and_is_told_else() {
    let (_folder, path) = latent_file(4);
    for (refusals, decoded) in [(1, true), (2, false)] {
        let mut session = with_decoder(&path, "vae_tiny_mini");
        let left = AtomicUsize::new(refusals);
        session.wrap_decoder = Some(Arc::new(move |decoder| {
            let refuse = |left: usize| left.checked_sub(1);
            match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, refuse) {
                Ok(_) => Err(EngineError::TooLarge("3000 MB are needed, 20 are free".into())),
                Err(_) => Ok(decoder),
            }
        }));
        session.generate();
        ready(&mut session);
        if decoded {
            assert!(session.notes().is_empty(), "{:?}", session.notes());
            assert_decoded(&session, &path, "vae_tiny_mini");
        } else {
            assert!(session.notes()[0].text.contains("20 are free"), "{:?}", session.notes());
        }
        // The engine that made room is made again.
        session.controls.sampling.seed = 3;
        session.generate();
        ready(&mut session);
        assert_decoded(&session, &path, "vae_tiny_mini");
    }
}

#[test]
fn a_graphics_device_decodes_and_its_loss_leaves_no_trace_in_the_images() {
    let (_folder, path) = latent_file(4);
    let mut session = Session::new(Start {
        draw_at_once: false,
        backend: Backend::Gpu,
        decoder: Some(ModelSource::Path(decoder("vae_kl_mini"))),
        ..start(path, None)
    });
    until(&mut session, "model and decoder", |s| s.loading().is_none());
    assert!(session.decoder().is_some(), "this needs a GPU or lavapipe: {:?}", session.notes());
    session.controls = controls();
    session.generate();
    ready(&mut session);
    let images = |session: &Session| {
        let record = session.record().unwrap();
        let images = record.images(record.frames.len() - 1).unwrap();
        assert_eq!(images.rendering, Rendering::Decoded, "{:?}", session.notes());
        images.samples.into_owned()
    };
    let whole = images(&session);
    assert_eq!(whole.len(), 2 * 3 * 8 * 8);
    let lost = |session: &Session| {
        session.decoder.as_ref().unwrap().open.gpu().unwrap().device.destroy();
    };
    // Before it is asked for anything, and in the middle.
    lost(&session);
    session.generate();
    ready(&mut session);
    assert_eq!(images(&session), whole);
    session.generate();
    until(&mut session, "decoding", |s| matches!(s.phase(), Phase::Decoding { .. }));
    lost(&session);
    ready(&mut session);
    assert_eq!(images(&session), whole);
}
