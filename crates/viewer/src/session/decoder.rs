//! The open image decoder: its description, and opening and removing it.

use std::sync::Arc;

use super::images::UsedDecoder;
use super::recovery::Purpose;
use super::{ModelSource, NoteKind, Record, Session};
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::Config;
use diffmoe::pipeline::{Backend, LoadedDecoder, check_decoder};
use diffmoe::vae::{DecoderFile, LatentPreview};

/// Description of the open decoder.
#[derive(Clone, Debug)]
pub struct DecoderInfo {
    /// Name of its file.
    pub name: String,
    /// Where it came from.
    pub source: ModelSource,
    /// Its kind, as named by diffusers.
    pub kind: &'static str,
    /// Latent channels.
    pub channels: usize,
    /// Pixels along a latent cell.
    pub factor: usize,
    /// Number of parameters.
    pub parameters: usize,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// The device.
    pub device: String,
    /// Why this device, if the user did not choose it.
    pub note: Option<String>,
    /// Share of the colours' variance that the preview explains, 0 to 1.
    pub explained: f32,
}

/// A decoder on a device, with the preview that was fitted to it.
pub(super) struct OpenedDecoder {
    source: ModelSource,
    name: String,
    file: Arc<DecoderFile>,
    open: LoadedDecoder,
    preview: LatentPreview,
}

impl OpenedDecoder {
    /// Puts a decoder on a device and fits the preview.
    pub(super) async fn open(
        source: ModelSource,
        name: String,
        file: Arc<DecoderFile>,
        backend: Backend,
    ) -> Result<Self, String> {
        let open = LoadedDecoder::open_async(&file, backend, WeightPrecision::F16)
            .await
            .map_err(|error| error.to_string())?;
        let preview = open.fit_preview().await.map_err(|error| error.to_string())?;
        Ok(Self { source, name, file, open, preview })
    }
}

/// A decoder that is open.
pub(super) struct Decoder {
    pub(super) info: DecoderInfo,
    pub(super) file: Arc<DecoderFile>,
    pub(super) open: LoadedDecoder,
    /// What is stored of it in records.
    pub(super) used: UsedDecoder,
}

impl Decoder {
    fn new(opened: OpenedDecoder, serial: u64) -> Self {
        let OpenedDecoder { source, name, file, open, preview } = opened;
        let info = DecoderInfo {
            name,
            kind: file.kind().name(),
            channels: file.latent_channels(),
            factor: file.factor(),
            parameters: file.parameters(),
            file_bytes: file.bytes(),
            device: open.device(),
            note: open.note().map(str::to_owned),
            explained: preview.explained(),
            source,
        };
        let link = info.source.name();
        let used = UsedDecoder { link, factor: info.factor, preview: Arc::new(preview), serial };
        Self { info, file, open, used }
    }

    /// Updates the device after a lost one was replaced.
    pub(super) fn place(&mut self, open: LoadedDecoder) {
        self.info.device = open.device();
        if let Some(note) = open.note() {
            self.info.note = Some(note.to_owned());
        }
        self.open = open;
    }
}

impl Session {
    /// The decoder that is open.
    pub fn decoder(&self) -> Option<&DecoderInfo> {
        self.decoder.as_ref().map(|decoder| &decoder.info)
    }

    /// The decoder, if it accepts the latents of a model.
    pub(super) fn decoder_for(&self, config: &Config) -> Option<&Decoder> {
        let fits = |decoder: &&Decoder| decoder.info.channels == config.in_channels;
        self.decoder.as_ref().filter(|_| !config.makes_pixels()).filter(fits)
    }

    /// Replaces the decoder, for all runs whose latents it accepts.
    pub(super) fn adopt_decoder(&mut self, opened: OpenedDecoder) {
        if let Some(config) = self.model().map(|model| model.config.clone())
            && !config.makes_pixels()
            && let Err(mismatch) = check_decoder(&opened.file, &config)
        {
            return self.note(NoteKind::Error, mismatch.to_string());
        }
        self.decode = None;
        self.decoders += 1;
        let decoder = Decoder::new(opened, self.decoders);
        let (used, channels) = (decoder.used.clone(), decoder.info.channels);
        self.decoder = Some(decoder);
        self.change_records(|record| {
            if let Some(latents) = &mut record.latents
                && record.config.in_channels == channels
            {
                latents.use_decoder(used.clone());
            }
        });
        self.decode_what_is_shown();
    }

    /// Removes the decoder. Decoded images stay.
    pub fn remove_decoder(&mut self) {
        (self.decode, self.decoder) = (None, None);
    }

    /// Adds a note if the decoder does not fit an opened model.
    pub(super) fn check_decoder(&mut self) {
        let (Some(model), Some(decoder)) = (self.model(), &self.decoder) else { return };
        if model.config.makes_pixels() {
            return;
        }
        if let Err(mismatch) = check_decoder(&decoder.file, &model.config) {
            self.note(NoteKind::Error, mismatch.to_string());
        }
    }

    fn change_records(&mut self, mut change: impl FnMut(&mut Record)) {
        if let Some(Purpose::Start(job)) = self.preparing.as_mut().map(|p| &mut p.purpose) {
            change(&mut job.record);
        }
        if let Some(job) = &mut self.job {
            change(&mut job.record);
        }
        self.history.change_latents(change);
    }
}
