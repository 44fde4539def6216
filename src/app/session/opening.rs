//! A model takes its place, alone or with a run that somebody shared.

use super::loading::{Loading, Opened};
use super::{Controls, Model, ModelSource, NoteKind, Session, Share};

impl Session {
    /// Loads a model; the present one stays until the new one is good.
    pub fn load(&mut self, source: ModelSource) {
        self.loading = Some(Loading::begin(source, None, self.backend, &self.waker));
    }

    /// Shows a run that somebody shared: loads its model where it is another one, and draws.
    pub fn open_share(&mut self, share: Share) {
        let open = |name: &str| {
            self.model.as_ref().is_some_and(|model| {
                model.info.source.name() == name
                    && share.hash.as_ref().is_none_or(|hash| *hash == model.info.hash)
            })
        };
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
                let text = format!(
                    "the link was made with somebody's own file, {name}: open that file here, and its pictures follow"
                );
                self.note(NoteKind::Info, text);
                self.awaited = Some(share);
                return;
            }
        };
        match source {
            Some(source) => {
                self.loading = Some(Loading::begin(source, Some(share), self.backend, &self.waker));
            }
            None if self.model.is_some() => self.show_share(share),
            None => {
                let name = self.available.first().cloned().unwrap_or_default();
                let first = ModelSource::Named(name);
                self.loading = Some(Loading::begin(first, Some(share), self.backend, &self.waker));
            }
        }
    }

    /// Takes in a model that was loaded.
    pub(super) fn take_model(&mut self) {
        let Some(loading) = &mut self.loading else { return };
        let Some(result) = loading.take() else { return };
        let share = self.loading.take().and_then(|loading| loading.share);
        match result {
            Ok(opened) => self.adopt(opened, share),
            Err(text) => self.note(NoteKind::Error, text),
        }
    }

    /// Puts a model in the place of the one before.
    fn adopt(&mut self, opened: Opened, share: Option<Share>) {
        let Opened { info, checkpoint, model } = opened;
        self.cancel();
        // Engines of the model before hold its weights.
        (self.idle, self.preparing) = (None, None);
        (self.lost, self.losses) = (false, 0);
        let same = self.model.as_ref().is_some_and(|before| before.info.hash == info.hash);
        let fits = |share: &mut Share| share.hash.as_ref() == Some(&info.hash);
        let share = share.or_else(|| self.awaited.take_if(fits));
        let config = info.config.clone();
        self.model = Some(Model { info, checkpoint, open: model });
        if let Some(share) = share {
            self.controls = Controls::for_model(&config);
            self.show_share(share);
        } else {
            if !same {
                self.controls = Controls::for_model(&config);
            }
            if self.draw_at_once {
                self.generate();
            }
        }
    }

    /// Draws a shared run with the model that is open.
    fn show_share(&mut self, share: Share) {
        let Some(model) = &self.model else { return };
        let config = model.info.config.clone();
        let Share { controls, hash, unknown, .. } = share;
        if controls.choices.len() != config.labels.len() {
            let text = format!(
                "the link was made for a model with {} label lists, and {} has {}: its settings are left out",
                controls.choices.len(),
                model.info.name,
                config.labels.len()
            );
            self.note(NoteKind::Error, text);
        } else if let Err(error) = controls.settings(&config).check(&config) {
            self.note(NoteKind::Error, format!("the link cannot be shown: {error}"));
        } else {
            if hash.is_some_and(|hash| hash != model.info.hash) {
                let text = format!(
                    "the link was made with another version of {}: the pictures will differ",
                    model.info.name
                );
                self.note(NoteKind::Info, text);
            }
            self.controls = controls;
        }
        if !unknown.is_empty() {
            let text = format!("parts of the link are not known here: {}", unknown.join(", "));
            self.note(NoteKind::Info, text);
        }
        self.generate();
    }
}
