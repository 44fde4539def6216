//! The selection of Explore, and its form in a link.
//!
//! `explore=image:1,step:6,layer:2,pass:label,expert:6,patch:35,view:who,tab:experts,shift:-1.5`

use std::str::FromStr;

use diffmoe::scheduler::Branch;

/// The overlay of the image on the canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overlay {
    /// The image alone.
    Image,
    /// The strongest expert of each patch.
    #[default]
    Who,
    /// How many experts take each patch.
    HowMany,
    /// How far each patch is from the threshold of the chosen expert.
    Margin,
}

/// The thresholds that the what-if moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scope {
    /// All of them.
    #[default]
    All,
    /// Those of the chosen block.
    Block,
    /// The one of the chosen expert.
    Expert,
}

/// The card below the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Card {
    /// Where each expert works in this image.
    #[default]
    Experts,
    /// This run beside another one.
    Compare,
    /// What changes without an expert.
    Mute,
    /// Patches that an expert works on.
    Gallery,
    /// Where an expert works in all images.
    Place,
    /// Which expert works on which label, over many images.
    Labels,
    /// All views over noise; a separate card only in the one-column layout.
    Noise,
    /// Why the selected patch is routed this way; a separate card only in the one-column layout.
    Patch,
}

const OVERLAYS: [(Overlay, &str); 4] = [
    (Overlay::Image, "picture"),
    (Overlay::Who, "who"),
    (Overlay::HowMany, "many"),
    (Overlay::Margin, "margin"),
];
const SCOPES: [(Scope, &str); 3] =
    [(Scope::All, "all"), (Scope::Block, "block"), (Scope::Expert, "expert")];
const CARDS: [(Card, &str); 8] = [
    (Card::Experts, "experts"),
    (Card::Compare, "compare"),
    (Card::Mute, "mute"),
    (Card::Gallery, "gallery"),
    (Card::Place, "place"),
    (Card::Labels, "labels"),
    (Card::Noise, "noise"),
    (Card::Patch, "patch"),
];

/// One selection for all views of Explore.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selection {
    /// The image.
    pub image: usize,
    /// The denoising step; `None` follows the run.
    pub step: Option<usize>,
    /// Place among the layers that route.
    pub layer: usize,
    /// Conditional or unconditional passes.
    pub pass: Branch,
    /// Which evaluation of a step, from 0, where the scheduler needs several.
    pub evaluation: usize,
    /// The expert.
    pub expert: Option<usize>,
    /// The patch, counted row by row.
    pub patch: Option<usize>,
    /// The overlay of the image.
    pub overlay: Overlay,
    /// The card below the stage.
    pub card: Card,
    /// What if the thresholds were higher by this many log-odds.
    pub shift: f32,
    /// The stop of the guided tour, from 0; `None` outside of it.
    pub tour: Option<usize>,
    /// The thresholds that are meant.
    pub scope: Scope,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            image: 0,
            step: None,
            layer: usize::MAX,
            pass: Branch::Conditional,
            evaluation: 0,
            expert: None,
            patch: None,
            overlay: Overlay::default(),
            card: Card::default(),
            shift: 0.0,
            tour: None,
            scope: Scope::default(),
        }
    }
}

/// Stops of the guided tour.
pub const TOUR_STOPS: usize = 7;

/// Largest shift, in log-odds.
pub const MOST_SHIFT: f32 = 12.0;

impl Selection {
    /// The text that [`Selection::from_str`] reads; what is not chosen is left out.
    pub fn to_text(&self) -> String {
        let mut parts = vec![format!("image:{}", self.image)];
        let mut put = |key: &str, value: Option<usize>| {
            parts.extend(value.map(|value| format!("{key}:{value}")));
        };
        put("step", self.step);
        put("layer", (self.layer != usize::MAX).then_some(self.layer));
        put("expert", self.expert);
        put("patch", self.patch);
        put("evaluation", (self.evaluation > 0).then_some(self.evaluation));
        if self.pass == Branch::Unconditional {
            parts.push("pass:null".to_owned());
        }
        let overlay = OVERLAYS.iter().find(|(overlay, _)| *overlay == self.overlay);
        parts.extend(overlay.map(|(_, name)| format!("view:{name}")));
        let card = CARDS.iter().find(|(card, _)| *card == self.card);
        parts.extend(card.map(|(_, name)| format!("tab:{name}")));
        if self.shift != 0.0 {
            parts.push(format!("shift:{}", self.shift));
        }
        // People count from 1.
        parts.extend(self.tour.map(|stop| format!("tour:{}", stop + 1)));
        if let Some((_, name)) = SCOPES[1..].iter().find(|(scope, _)| *scope == self.scope) {
            parts.push(format!("of:{name}"));
        }
        parts.join(",")
    }
}

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut selection = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once(':').unwrap_or((part, ""));
            let wrong = |should: &str| {
                format!(
                    "invalid {key} in the explore part of the link: expected {should}, got \
                    {value:?}"
                )
            };
            let number = || value.parse::<usize>().map_err(|_| wrong("a whole number"));
            let named = "a name that Explore uses";
            match key {
                "image" => selection.image = number()?,
                "step" => selection.step = Some(number()?),
                "layer" => selection.layer = number()?,
                "expert" => selection.expert = Some(number()?),
                "patch" => selection.patch = Some(number()?),
                "pass" => {
                    selection.pass = match value {
                        "label" => Branch::Conditional,
                        "null" => Branch::Unconditional,
                        _ => return Err(wrong("label or null")),
                    }
                }
                "evaluation" => selection.evaluation = number()?,
                "of" => {
                    let found = SCOPES.iter().find(|(_, name)| *name == value);
                    selection.scope = found.ok_or_else(|| wrong("all, block or expert"))?.0;
                }
                "view" => {
                    let found = OVERLAYS.iter().find(|(_, name)| *name == value);
                    selection.overlay = found.ok_or_else(|| wrong(named))?.0;
                }
                "tab" => {
                    let found = CARDS.iter().find(|(_, name)| *name == value);
                    selection.card = found.ok_or_else(|| wrong(named))?.0;
                }
                "shift" => {
                    let shift = value.parse::<f32>().ok();
                    let shift = shift.filter(|shift| shift.abs() <= MOST_SHIFT);
                    selection.shift = shift.ok_or_else(|| wrong("a number from -12 to 12"))?;
                }
                "tour" => {
                    let stop = number()?.checked_sub(1).filter(|&stop| stop < TOUR_STOPS);
                    selection.tour = Some(stop.ok_or_else(|| wrong("a stop from 1 to 7"))?);
                }
                // A later version may choose more.
                _ => {}
            }
        }
        Ok(selection)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_selection_is_read_as_it_was_written(
            image in 0_usize..16,
            (step, expert, patch) in (
                proptest::option::of(0_usize..250),
                proptest::option::of(0_usize..32),
                proptest::option::of(0_usize..4096),
            ),
            layer in prop_oneof![0_usize..40, Just(usize::MAX)],
            null in any::<bool>(),
            overlay in 0_usize..OVERLAYS.len(),
            card in 0_usize..CARDS.len(),
            shift in -MOST_SHIFT..=MOST_SHIFT,
            tour in proptest::option::of(0..TOUR_STOPS),
            (evaluation, scope) in (0_usize..3, 0_usize..SCOPES.len()),
        ) {
            let pass = if null { Branch::Unconditional } else { Branch::Conditional };
            let (overlay, card) = (OVERLAYS[overlay].0, CARDS[card].0);
            let scope = SCOPES[scope].0;
            let selection = Selection {
                image, step, layer, pass, evaluation, expert, patch, overlay, card, shift, tour, scope,
            };
            prop_assert_eq!(selection.to_text().parse(), Ok(selection));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = text.parse::<Selection>();
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refused = |text: &str| text.parse::<Selection>().unwrap_err();
        assert!(refused("step:x").contains(
            "invalid step in the explore part of the link: expected a whole number, got \"x\""
        ));
        assert!(refused("pass:both").contains("label or null"));
        assert!(refused("shift:40").contains("from -12 to 12"));
        assert!(refused("shift:NaN").contains("from -12 to 12"));
        assert!(
            refused("tour:0").contains("from 1 to 7") && refused("tour:8").contains("from 1 to 7")
        );
        assert!(refused("view:x").contains("expected"));
        assert_eq!("zoom:4".parse(), Ok(Selection::default()), "from a later version");
    }
}
