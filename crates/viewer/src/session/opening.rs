//! Opening a model, alone or with a shared run.

use super::loading::{Loaded, Loading, Opened};
use super::losses::Losses;
use super::survey::images_of_survey;
use super::{Controls, Model, ModelSource, NoteKind, Origin, Session, Share};

/// What a link of two runs asks for after the first of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// This run beside the one on screen, with the same model.
    Beside(Share),
    /// The run on screen becomes the other one, and this one is opened.
    Instead(Share),
}

impl Session {
    /// Loads a model or a decoder, whichever the file is; the present one stays until the new one is good. Of
    /// several models, the last requested one stays.
    pub fn load(&mut self, source: ModelSource) {
        self.load_with(source, None);
    }

    fn load_with(&mut self, source: ModelSource, share: Option<Share>) {
        if share.is_some() || matches!(source, ModelSource::Named(_)) {
            // A model for sure.
            self.loading.iter_mut().for_each(|loading| loading.is_superseded = true);
        }
        self.loading.push(Loading::begin(source, share, self.backend, &self.waker));
    }

    /// Shows a shared run: loads its model if another one is open, and draws.
    ///
    /// Of two runs of one model the other one follows ([`Session::take_next`]); of two models the other one comes
    /// first, so that the model of the run that is explored is open in the end.
    pub fn open_share(&mut self, mut share: Share) {
        self.next = None;
        if let Some(other) = share.other.take() {
            if (&other.model, &other.hash) == (&share.model, &share.hash) {
                self.next = Some(Next::Beside(*other));
            } else {
                // Explore opens before the first of them is drawn, so that both keep their scores.
                self.selection = share.explore.or(self.selection);
                self.next = Some(Next::Instead(share));
                share = *other;
            }
        }
        // The same file under another name is the same model.
        let open = |name: &str| {
            self.model.as_ref().is_some_and(|model| {
                share.agrees_with(&model.info.hash)
                    && (share.hash.is_some() || model.info.source.name() == name)
            })
        };
        let (decoder, origin) = (share.decoder.clone(), share.origin.clone());
        self.selection = share.explore.or(self.selection);
        // Its first run may begin before Explore is open, and has to keep its scores.
        self.recording |= self.selection.is_some();
        let source = match share.model.as_deref() {
            None => None,
            Some(name) if open(name) => None,
            Some(name) if self.available.iter().any(|known| known == name) => {
                Some(ModelSource::Named(name.to_owned()))
            }
            Some(name) if name.starts_with("https://") || name.starts_with("http://") => {
                Some(ModelSource::Url(name.to_owned()))
            }
            Some(name) => {
                let sum = share.hash.as_ref().map(|hash| format!(" (SHA-256 {hash}…)"));
                let text = format!(
                    "{} uses a local model file, {name}{}. Open that file here to see its images",
                    share.origin,
                    sum.unwrap_or_default()
                );
                self.note(NoteKind::Info, text);
                self.awaited = Some(share);
                return;
            }
        };
        match source {
            Some(source) => self.load_with(source, Some(share)),
            None if self.model.is_some() => self.show_share(share),
            None => {
                let name = self.available.first().cloned().unwrap_or_default();
                self.load_with(ModelSource::Named(name), Some(share));
            }
        }
        if let Some(decoder) = decoder {
            self.open_shared_decoder(&origin, decoder);
        }
    }

    /// Gets the decoder that a link names, unless it is the one that is open.
    fn open_shared_decoder(&mut self, origin: &Origin, name: String) {
        if self.decoder().is_some_and(|decoder| decoder.source.name() == name) {
            return;
        }
        if name.starts_with("https://") || name.starts_with("http://") {
            return self.load(ModelSource::Url(name));
        }
        let text = format!(
            "{origin} uses a local decoder file, {name}. Open that file here to decode the images"
        );
        self.note(NoteKind::Info, text);
    }

    /// Takes in what was loaded: decoders after models.
    pub(super) fn take_loaded(&mut self) {
        self.loading.iter_mut().for_each(Loading::look);
        // A decoder has to fit the model that comes with it.
        let others = self.loading.iter().any(|loading| !loading.is_decoder());
        let is_due = |loading: &Loading| loading.has_ended() && !(loading.is_decoder() && others);
        let Some(at) = self.loading.iter().position(is_due) else { return };
        let mut loading = self.loading.remove(at);
        let (share, is_superseded) = (loading.share.take(), loading.is_superseded);
        match loading.into_result() {
            Some(Ok(Loaded::Model(_))) if is_superseded => {}
            Some(Ok(Loaded::Model(opened))) => {
                self.loading[..at].iter_mut().for_each(|older| older.is_superseded = true);
                self.adopt(*opened, share);
            }
            Some(Ok(Loaded::Decoder(opened))) => self.adopt_decoder(*opened),
            Some(Err(text)) => self.note(NoteKind::Error, text),
            None => {}
        }
    }

    /// Replaces the model.
    fn adopt(&mut self, opened: Opened, share: Option<Share>) {
        let Opened { info, checkpoint, model } = opened;
        self.decode = None;
        self.give_up_run();
        // Engines of the model before hold its weights.
        (self.idle, self.preparing, self.survey) = (None, None, None);
        (self.lost, self.losses) = (false, Losses::default());
        let same = self.model.as_ref().is_some_and(|before| before.info.hash == info.hash);
        let fits = |share: &mut Share| share.hash.is_some() && share.agrees_with(&info.hash);
        let share = share.or_else(|| self.awaited.take_if(fits));
        let (config, hash) = (info.config.clone(), info.hash.clone());
        if let Some(note) = model.note().filter(|_| model.device_is_wrong()) {
            self.note(NoteKind::Error, note);
        }
        self.find_atlas(&info.source);
        let survey_images = images_of_survey(&config);
        self.model = Some(Model { info, checkpoint, open: model, survey_images });
        self.check_decoder();
        if let Some(share) = share {
            self.controls = Controls::for_model(&config);
            self.show_share(share);
        } else {
            let recorded = self.recorded_controls(&hash, &config);
            if let Some(controls) = recorded {
                self.controls = controls;
            } else if !same {
                self.controls = Controls::for_model(&config);
            }
            if self.draw_at_once {
                self.generate();
            }
        }
    }

    /// Draws a shared run with the model that is open.
    fn show_share(&mut self, mut share: Share) {
        let Some(model) = &self.model else { return };
        let config = model.info.config.clone();
        let agrees = share.agrees_with(&model.info.hash);
        let resolved = share.resolve(&config);
        let Share { controls, image, unknown, differs, origin, .. } = share;
        let tables = controls.choices.len().max(controls.mix.len());
        if controls.choices.len() != config.labels.len() || tables > config.labels.len() {
            let text = format!(
                "{origin} is for a model with {tables} label tables, but {} has {}. Its settings were ignored",
                model.info.name,
                config.labels.len()
            );
            self.note(NoteKind::Error, text);
        } else if let Err(error) = resolved {
            self.note(NoteKind::Error, format!("cannot open {origin}: {error}"));
        } else if let Err(error) = controls.settings(&config).check(&config) {
            self.note(NoteKind::Error, format!("cannot open {origin}: {error}"));
        } else {
            if !agrees {
                let text = format!(
                    "{origin} was made with another version of {}; the images will differ",
                    model.info.name
                );
                self.note(NoteKind::Info, text);
            }
            self.controls = controls;
            self.image = image;
            if !differs.is_empty() {
                let text = format!("{origin}: {}; the images may differ here", differs.join(", "));
                self.note(NoteKind::Info, text);
            }
        }
        if !unknown.is_empty() {
            let text = format!("ignored unknown parts of {origin}: {}", unknown.join(", "));
            self.note(NoteKind::Info, text);
        }
        self.generate();
    }
}
