//! Models that generate latents: previews, decoders, and the images at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::model::{file, latent_file};
use super::{assert_same, finished, opened, ready, reference, start, until};
use crate::session::{
    Images, ModelSource, NoteKind, Phase, Record, Rendering, Session, Share, Start, Tick, export,
};
use diffmoe::engine::{EngineError, Progress, Taps};
use diffmoe::kernels::WeightPrecision;
use diffmoe::pipeline::{Backend, LoadedDecoder};
use diffmoe::pixels;
use diffmoe::vae::{Decoder, DecoderFile};

/// A decoder of the fixtures; its configuration lies beside it.
pub(super) fn decoder(case: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    root.join(case).join("model.safetensors")
}

/// What a decoder makes of latents of 4 × 4, without a session.
pub(super) fn decoded(case: &str, latents: &[f32]) -> Vec<f32> {
    let file = DecoderFile::open(&decoder(case)).unwrap();
    let open = LoadedDecoder::open(&file, Backend::Cpu, WeightPrecision::F16).unwrap();
    open.decoder([4, 4]).unwrap().decode_now(latents).unwrap()
}

/// A session with a model that generates latents, a decoder, and nothing drawn yet.
pub(super) fn with_decoder(path: &Path, case: &str) -> Session {
    let mut session = opened(path.to_owned());
    session.load(ModelSource::Path(decoder(case)));
    until(&mut session, "a decoder", |s| s.decoder().is_some());
    session
}

fn last(record: &Record) -> Images<'_> {
    record.images(record.frames.len() - 1).unwrap()
}

/// Asserts that the run on the screen ends with what a decoder makes of the right latents.
pub(super) fn assert_decoded(session: &Session, path: &Path, case: &str) {
    let record = session.record().unwrap();
    assert_same(record, path);
    let images = last(record);
    assert_eq!(images.rendering, Rendering::Decoded);
    let (samples, _) = reference(path, &record.controls);
    assert_eq!(*images.samples, decoded(case, &samples));
}

/// A decoder of which each unit takes longer than a slice.
struct Slow(Box<dyn Decoder>);

impl Decoder for Slow {
    fn device(&self) -> String {
        self.0.device()
    }
    fn latent_shape(&self) -> [usize; 3] {
        self.0.latent_shape()
    }
    fn image_shape(&self) -> [usize; 3] {
        self.0.image_shape()
    }
    fn begin(&mut self, latents: &[f32]) {
        self.0.begin(latents);
    }
    fn advance(&mut self, _budget: usize) -> Result<Progress, EngineError> {
        std::thread::sleep(Duration::from_millis(9));
        self.0.advance(1)
    }
    fn fraction(&self) -> f32 {
        self.0.fraction()
    }
    fn take(&mut self) -> Option<Vec<f32>> {
        self.0.take()
    }
    fn wait(&mut self) -> Result<(), EngineError> {
        self.0.wait()
    }
    fn decode_with_taps(&mut self, latent: &[f32]) -> Result<Taps, EngineError> {
        self.0.decode_with_taps(latent)
    }
}

fn slow(session: &mut Session) {
    session.wrap_decoder = Some(Arc::new(|decoder| Ok(Box::new(Slow(decoder)))));
}

fn decodes(session: &Session) -> bool {
    matches!(session.phase(), Phase::Decoding { .. })
}

#[test]
fn without_a_decoder_latents_are_shown_and_with_one_they_are_decoded() {
    let (_folder, path) = latent_file(4);
    let mut session = opened(path.clone());
    session.generate();
    ready(&mut session);
    let record = session.record().unwrap();
    assert_same(record, &path);
    let shown = last(record);
    assert_eq!((shown.rendering, shown.size), (Rendering::Latents, [4, 4]));
    assert_eq!(shown.samples.len(), 2 * 3 * 4 * 4, "three colours of two images");
    assert!(!session.can_decode(3) && session.share().unwrap().contains("seed=11"));

    for (case, factor) in [("vae_kl_mini", 2), ("vae_tiny_mini", 4)] {
        session.load(ModelSource::Path(decoder(case)));
        until(&mut session, "a decoder", |s| s.decoder().is_some_and(|d| d.factor == factor));
        ready(&mut session);
        assert_decoded(&session, &path, case);
        let record = session.record().unwrap();
        assert_eq!(last(record).size, [4 * factor; 2]);
        let earlier = record.images(3).unwrap();
        assert_eq!((earlier.rendering, earlier.size), (Rendering::Preview, [4, 4]));
        assert_ne!(earlier.samples, record.images(2).unwrap().samples);
        assert!(record.bytes() > 4 * last(record).samples.len());
    }
    let info = session.decoder().unwrap();
    assert_eq!((info.kind, info.channels), ("AutoencoderTiny", 4));
    assert!(info.parameters > 1000 && info.file_bytes > 2000 && info.explained > 0.0);
    assert!(info.device.starts_with("processor"), "{}", info.device);
    assert!(session.share().unwrap().contains("vae=model.safetensors"));

    session.remove_decoder();
    assert!(session.decoder().is_none());
    assert_eq!(last(session.record().unwrap()).rendering, Rendering::Decoded, "it was drawn so");
    session.controls.sampling.seed = 12;
    session.generate();
    ready(&mut session);
    assert_eq!(last(session.record().unwrap()).rendering, Rendering::Latents);
    assert!(session.notes().is_empty(), "{:?}", session.notes());
}

#[test]
fn every_step_has_a_preview_and_the_end_is_decoded_in_slices() {
    let (_folder, path) = latent_file(4);
    let mut session = with_decoder(&path, "vae_kl_mini");
    slow(&mut session);
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    let rendering = |s: &Session| last(s.record().unwrap()).rendering;
    assert_eq!(rendering(&session), Rendering::Preview, "at once");
    // On demand, in the middle of the run.
    assert!(session.can_decode(1) && !session.can_decode(2));
    session.decode(1);
    until(&mut session, "decoding", decodes);
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    assert_eq!(rendering(&session), Rendering::Decoded);
    assert!(!session.can_decode(1), "it is there");
    let frame = session.record().unwrap().frames[1].clone();
    assert_eq!(*last(session.record().unwrap()).samples, decoded("vae_kl_mini", &frame));

    session.go_on();
    until(&mut session, "decoding", decodes);
    assert_eq!(finished(&session), 6);
    assert_eq!(rendering(&session), Rendering::Preview);
    let mut percents = Vec::new();
    while let Phase::Decoding { percent, images } = session.phase() {
        assert_eq!(images, 2);
        percents.push(percent);
        let begin = std::time::Instant::now();
        if session.tick() == Tick::Later {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(begin.elapsed() < Duration::from_millis(200), "a tick does not wait for the end");
    }
    assert!(percents.is_sorted(), "{percents:?}");
    percents.dedup();
    assert!(percents.len() > 5, "its progress is seen: {percents:?}");
    assert_eq!(session.phase(), Phase::Ready);
    assert_decoded(&session, &path, "vae_kl_mini");
}

#[test]
fn decoding_can_be_paused_given_up_and_asked_for_again() {
    let (_folder, path) = latent_file(4);
    let mut session = with_decoder(&path, "vae_tiny_mini");
    slow(&mut session);
    session.generate();
    until(&mut session, "decoding", decodes);
    until(
        &mut session,
        "some of it",
        |s| matches!(s.phase(), Phase::Decoding { percent, .. } if percent > 10),
    );
    session.pause();
    assert_eq!(session.phase(), Phase::Paused);
    for _ in 0..20 {
        assert_eq!(session.tick(), Tick::Idle);
    }
    session.go_on();
    assert!(decodes(&session));
    session.cancel();
    assert_eq!(session.phase(), Phase::Ready);
    let end = session.record().unwrap().frames.len() - 1;
    assert!(session.record().unwrap().is_complete());
    assert_eq!(last(session.record().unwrap()).rendering, Rendering::Preview);
    for _ in 0..20 {
        assert_eq!(session.tick(), Tick::Idle, "it does not begin again by itself");
    }
    session.show(0);
    assert_eq!(session.phase(), Phase::Ready);
    assert!(session.can_decode(end));
    session.decode(end);
    ready(&mut session);
    assert_decoded(&session, &path, "vae_tiny_mini");

    // The newest run takes precedence; the previous one is decoded when it is shown again.
    session.controls.sampling.seed = 5;
    session.generate();
    until(&mut session, "decoding", decodes);
    session.controls.sampling.seed = 6;
    session.generate();
    ready(&mut session);
    assert_eq!(session.record().unwrap().settings.sampling.seed, 6);
    assert_decoded(&session, &path, "vae_tiny_mini");
    assert_eq!(last(&session.history()[1]).rendering, Rendering::Preview);
    session.show(1);
    assert!(decodes(&session));
    ready(&mut session);
    assert_eq!(session.record().unwrap().settings.sampling.seed, 5);
    assert_decoded(&session, &path, "vae_tiny_mini");
}

#[test]
fn a_decoder_that_does_not_belong_to_the_model_is_refused() {
    let (_folder, path) = latent_file(6);
    let mut session = opened(path);
    session.load(ModelSource::Path(decoder("vae_kl_mini")));
    until(&mut session, "a note", |s| !s.notes().is_empty());
    let told = session.notes()[0].clone();
    assert_eq!(told.kind, NoteKind::Error);
    assert!(told.text.contains("tiny generates latents with 6 channels"), "{}", told.text);
    assert!(told.text.contains("expects 4") && session.decoder().is_none(), "{}", told.text);
    // Drawn all the same.
    session.generate();
    ready(&mut session);
    assert_eq!(last(session.record().unwrap()).rendering, Rendering::Latents);

    // The other way round: the decoder is there, and another model comes.
    let (_folder, pixels) = file();
    let mut session = with_decoder(&pixels, "vae_kl_mini");
    session.generate();
    ready(&mut session);
    assert_eq!(last(session.record().unwrap()).rendering, Rendering::Pixels);
    assert!(session.notes().is_empty(), "a model of pixels leaves it alone");
    let (_folder, other) = latent_file(6);
    session.load(ModelSource::Path(other));
    until(&mut session, "a note", |s| !s.notes().is_empty());
    assert!(session.notes()[0].text.contains("6 channels"), "{:?}", session.notes());
    session.generate();
    ready(&mut session);
    assert_eq!(last(session.record().unwrap()).rendering, Rendering::Latents);
}

#[test]
fn files_that_come_together_find_each_other_in_any_order() {
    let (_pixels, pixels) = latent_file(6);
    let (_folder, path) = latent_file(4);
    for decoder_first in [true, false] {
        let mut session = opened(pixels.clone());
        let mut files = [decoder("vae_kl_mini"), path.clone()];
        if !decoder_first {
            files.reverse();
        }
        for file in files {
            session.load(ModelSource::Path(file));
        }
        until(&mut session, "both", |s| s.loading().is_none());
        assert!(session.notes().is_empty(), "{:?}", session.notes());
        assert!(session.decoder().is_some());
        assert_eq!(session.model().unwrap().config.in_channels, 4);
        session.generate();
        ready(&mut session);
        assert_decoded(&session, &path, "vae_kl_mini");
    }
    let mut session = opened(pixels);
    let broken = Arc::new(crate::platform::Bytes::new(b"I am no decoder".to_vec()));
    session.load(ModelSource::File { name: "vae.safetensors".into(), bytes: broken });
    until(&mut session, "a note", |s| !s.notes().is_empty());
    assert!(session.notes()[0].text.contains("vae.safetensors"), "{:?}", session.notes());
}

#[test]
fn a_session_begins_with_a_decoder_and_a_link_asks_for_one() {
    let (_folder, path) = latent_file(4);
    let mut session = Session::new(Start {
        decoder: Some(ModelSource::Path(decoder("vae_tiny_mini"))),
        ..start(path.clone(), None)
    });
    until(&mut session, "a decoder", |s| s.decoder().is_some());
    until(&mut session, "an image", |s| !s.history().is_empty() && s.phase() == Phase::Ready);
    assert_decoded(&session, &path, "vae_tiny_mini");
    let mut share = Share::parse(&session.share().unwrap()).unwrap();
    assert_eq!(share.decoder.as_deref(), Some("model.safetensors"));
    share.model = None;
    session.open_share(share.clone());
    assert!(session.notes().is_empty(), "that decoder is open: {:?}", session.notes());
    session.remove_decoder();
    session.open_share(share);
    let told = &session.notes()[0].text;
    assert!(told.contains("a local decoder file, model.safetensors. Open that file"), "{told}");
}

#[test]
fn exports_have_the_decoded_images() {
    let (_folder, path) = latent_file(4);
    let mut session = with_decoder(&path, "vae_kl_mini");
    session.generate();
    ready(&mut session);
    let record = session.record().unwrap();
    let (samples, _) = reference(&path, &record.controls);
    let images = decoded("vae_kl_mini", &samples);
    let pixels = |png: &[u8]| {
        let image = image::load_from_memory(png).unwrap().to_rgb8();
        pixels::RgbImage::from_raw(image.width(), image.height(), image.into_raw()).unwrap()
    };
    let end = record.frames.len() - 1;
    let grid = pixels::grid(&images, [8, 8], Some(3));
    assert_eq!(pixels(&export::png(record, None, end, Some(3)).unwrap()), grid);
    let second = pixels::grid(&images[3 * 64..], [8, 8], Some(1));
    assert_eq!(pixels(&export::png(record, Some(1), end, Some(1)).unwrap()), second);
    let preview = pixels(&export::png(record, Some(0), 2, Some(1)).unwrap());
    assert_eq!((preview.width(), preview.height()), (4, 4), "a step that is not decoded");

    let moving = export::apng(record, Some(3)).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(&moving)).read_info().unwrap();
    let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut buffer).unwrap();
    assert_eq!(buffer, grid.pixels(), "programs without animation show the decoded images");
    for frame in 0..record.frames.len() {
        reader.next_frame(&mut buffer).unwrap();
        if frame == 2 {
            let preview = record.images(2).unwrap();
            assert_eq!(
                buffer,
                pixels::grid(&preview.samples, [4, 4], Some(6)).pixels(),
                "enlarged as much"
            );
        }
    }
    assert_eq!(buffer, grid.pixels());
}
