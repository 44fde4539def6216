//! Atlases in files: JSON, as docs/atlas-format.md describes it.

use serde::{Deserialize, Serialize};

use super::{Atlas, AtlasTable};
use crate::model::MOST_EXPERTS;

/// The version of the format.
const FORMAT: u32 = 1;

/// Why a file is no atlas.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AtlasError {
    /// Something else.
    #[error("this is no atlas: {0}; expected is a file that `diffmoe atlas` wrote")]
    Unreadable(String),
    /// A version to come.
    #[error(
        "the atlas has format {0} and this version reads {FORMAT}; take a newer version for it"
    )]
    Format(u32),
    /// The right form, but numbers that do not belong together.
    #[error("the atlas is damaged: {0}; measure it again")]
    Damaged(String),
}

#[derive(Deserialize)]
struct Format {
    #[serde(rename = "atlas")]
    format: u32,
}

#[derive(Serialize)]
struct Document<'a> {
    atlas: u32,
    #[serde(flatten)]
    contents: &'a Atlas,
}

impl Atlas {
    /// Writes the atlas.
    ///
    /// # Errors
    /// Never in practice: the document holds only numbers and strings.
    pub fn to_json(&self) -> std::io::Result<String> {
        Ok(serde_json::to_string(&Document { atlas: FORMAT, contents: self })?)
    }

    /// Reads an atlas.
    ///
    /// # Errors
    /// When the bytes are no atlas, or a damaged one.
    pub fn from_json(bytes: &[u8]) -> Result<Self, AtlasError> {
        let unreadable = |error: serde_json::Error| AtlasError::Unreadable(error.to_string());
        // Another format may have other keys, so it is looked at first.
        let Format { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format != FORMAT {
            return Err(AtlasError::Format(format));
        }
        let atlas: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        atlas.check()?;
        Ok(atlas)
    }

    fn check(&self) -> Result<(), AtlasError> {
        let damaged = |reason: String| Err(AtlasError::Damaged(reason));
        if !(1..=MOST_EXPERTS).contains(&self.experts) {
            return damaged(format!("{} experts; 1 to {MOST_EXPERTS} are possible", self.experts));
        }
        if self.tables.is_empty() || self.blocks.is_empty() || self.passes.is_empty() {
            return damaged("it counts nothing".to_owned());
        }
        if self.tokens == 0 || self.tokens > 1 << 20 {
            return damaged(format!("{} tokens in an image", self.tokens));
        }
        let shape = [self.passes.len(), self.blocks.len(), self.experts];
        if self.margins.as_ref().is_some_and(|margins| !margins.fits(shape)) {
            return damaged("its margins are those of another model".to_owned());
        }
        match self.tables.iter().find_map(|table| table.fault(shape)) {
            Some(fault) => damaged(fault),
            None => Ok(()),
        }
    }
}

/// Whether a list is `[bands][layers][E]`.
fn is_square<T>(list: &[Vec<Vec<T>>], bands: usize, layers: usize, experts: usize) -> bool {
    let fits = |band: &Vec<Vec<T>>| {
        band.len() == layers && band.iter().all(|layer| layer.len() == experts)
    };
    list.len() == bands && list.iter().all(fits)
}

impl AtlasTable {
    /// What does not belong together.
    fn fault(&self, [bands, layers, experts]: [usize; 3]) -> Option<String> {
        let labels = self.labels.len();
        let lists = [self.rows.len(), self.images.len(), self.spread.len(), self.taken.len()];
        if labels == 0 || lists.iter().any(|&len| len != labels) {
            return Some(format!("{} has {labels} labels and lists of {lists:?}", self.name));
        }
        let taken = self.taken.iter().all(|label| is_square(label, bands, layers, experts));
        let mean = &self.shuffled.mean;
        let mean = mean.len() == bands && mean.iter().all(|band| band.len() == layers);
        let high = is_square(&self.shuffled.high, bands, layers, experts);
        (!taken || !mean || !high).then(|| {
            format!(
                "the numbers of {} are not those of {bands} bands, {layers} layers and {experts} experts",
                self.name
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AtlasMargins, BANDS, Shuffled, Thumbnails};
    use super::*;

    fn atlas() -> Atlas {
        Atlas {
            model: "t".into(),
            hash: "01234567".into(),
            experts: 2,
            blocks: vec![1],
            tokens: 4,
            images: 2,
            passes: vec![2; BANDS],
            settings: [("seed".to_owned(), "3".to_owned())].into(),
            tables: vec![AtlasTable {
                name: "class".into(),
                labels: vec!["cat".into(), "dog".into()],
                rows: vec![0, 7],
                images: vec![1, 1],
                spread: vec![0.125, 0.0],
                taken: vec![vec![vec![vec![3, 1]]; BANDS]; 2],
                shuffled: Shuffled {
                    mean: vec![vec![0.25]; BANDS],
                    high: vec![vec![vec![0.5, 0.625]]; BANDS],
                },
            }],
            margins: None,
            thumbnails: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut atlas = atlas();
        let read = |atlas: &Atlas| Atlas::from_json(atlas.to_json().unwrap().as_bytes()).unwrap();
        assert_eq!(read(&atlas), atlas);
        atlas.thumbnails = Some(Thumbnails { size: [16, 16], columns: 32, png: "AAAA".into() });
        assert_eq!(read(&atlas), atlas);
        let of = |value: f32| vec![vec![vec![value; 2]; 1]; BANDS];
        let percentiles = vec![vec![vec![[-9.0, -4.0, 0.25, 1.0, 2.5]; 2]; 1]; BANDS];
        atlas.margins = Some(AtlasMargins { mean: of(-1.5), percentiles });
        assert_eq!(read(&atlas), atlas);
        assert_eq!(atlas.margin(1, 0, 1), Some((-1.5, [-9.0, -4.0, 0.25, 1.0, 2.5])));
        assert_eq!((atlas.margin(1, 1, 1), atlas.margin(BANDS, 0, 0)), (None, None));
        atlas.passes[1] = 0;
        assert_eq!(atlas.margin(1, 0, 1), None, "nothing was decided there");
        assert!(atlas.to_json().unwrap().starts_with(r#"{"atlas":1,"model":"t""#));
    }

    #[test]
    fn what_is_no_atlas_is_refused_with_a_reason() {
        let refused = |text: &str| Atlas::from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(refused("hello").contains("no atlas"));
        assert!(refused(r#"{"format":1}"#).contains("no atlas"));
        assert!(refused(r#"{"atlas":9}"#).contains("format 9"));
        let damaged = |change: &dyn Fn(&mut Atlas)| {
            let mut atlas = atlas();
            change(&mut atlas);
            refused(&atlas.to_json().unwrap())
        };
        assert!(damaged(&|a| a.experts = 99).contains("99 experts"));
        assert!(damaged(&|a| a.tables.clear()).contains("counts nothing"));
        assert!(damaged(&|a| a.tokens = 0).contains("0 tokens"));
        let none = || AtlasMargins { mean: Vec::new(), percentiles: Vec::new() };
        assert!(damaged(&|a| a.margins = Some(none())).contains("margins"));
        assert!(damaged(&|a| _ = a.tables[0].rows.pop()).contains("2 labels"));
        assert!(damaged(&|a| _ = a.tables[0].taken[1][2][0].pop()).contains("2 experts"));
        assert!(damaged(&|a| _ = a.tables[0].shuffled.mean.pop()).contains("4 bands"));
    }
}
