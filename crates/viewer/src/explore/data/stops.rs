//! The stops of the guided tour: the selection and the caption of each. Stops that do not apply to a run are skipped:
//! needs without a capacity predictor, gates without scores.

use diffmoe::model::{Kind, Router};
use diffmoe::scheduler::Branch;

use super::lens::{Layer, Lens};
use super::tokens::how_many;
use crate::session::{Card, Overlay, Record, Selection, TOUR_STOPS as STOPS};

/// Their names.
pub(crate) const TITLES: [&str; STOPS] = [
    "From noise to image",
    "An image is a list of tokens",
    "The gate",
    "Need and threshold",
    "Easy and hard patches",
    "Mute an expert",
    "Your own link",
];

/// A place in a run where there is something to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) step: usize,
    pub(crate) layer: usize,
    pub(crate) patch: usize,
    pub(crate) expert: usize,
    /// The patch that the fewest experts take at this step.
    pub(crate) easiest: usize,
}

fn lens(record: &Record) -> Lens<'_> {
    Lens::new(&record.trace, Branch::Conditional, 0.0)
}

/// In the middle of a run: the patch of the first image that most experts take, the layer in which most of them do, and
/// there the strongest of them.
pub(crate) fn place(record: &Record) -> Option<Place> {
    let lens = lens(record);
    let step = record.trace.steps() as usize / 2;
    let counts = how_many(&lens, step, 0);
    // Of equal counts the first.
    let patch = (0..counts.len()).rev().max_by_key(|&patch| counts[patch])?;
    let easiest = (0..counts.len()).min_by_key(|&patch| counts[patch])?;
    let layers = record.trace.blocks().len();
    let takers = |layer: usize| lens.layer(step, layer).map_or(0, |l| l.mask(patch).count_ones());
    let layer = (0..layers).max_by_key(|&layer| takers(layer))?;
    let ranked = lens.layer(step, layer)?.ranked(patch);
    let expert = ranked.first().map_or(0, |(expert, _)| *expert);
    Some(Place { step, layer, patch, expert, easiest })
}

/// The stops that a run has.
pub(crate) fn available(record: &Record) -> Vec<usize> {
    let trace = &record.trace;
    if trace.blocks().is_empty() || trace.steps() == 0 || trace.tokens() == 0 {
        return Vec::new();
    }
    let layer = lens(record).layer(0, 0);
    let gates = layer.as_ref().is_some_and(|layer| layer.gates(0).is_some());
    let needs = layer.as_ref().is_some_and(Layer::has_needs);
    (0..STOPS).filter(|&stop| (stop != 2 || gates) && (stop != 3 || needs)).collect()
}

/// What a stop selects.
pub(crate) fn selection(record: &Record, stop: usize) -> Option<Selection> {
    let Place { step, layer, patch, expert, .. } = place(record)?;
    let base = Selection { layer, step: Some(step), tour: Some(stop), ..Selection::default() };
    let (overlay, card) = match stop {
        0 => (Overlay::Image, Card::Noise),
        1 => (Overlay::Image, Card::Experts),
        2 => (Overlay::Who, Card::Patch),
        3 => (Overlay::Margin, Card::Patch),
        4 => (Overlay::HowMany, Card::Noise),
        5 => (Overlay::Who, Card::Mute),
        6 => (Overlay::Who, Card::Experts),
        _ => return None,
    };
    let place = Selection { overlay, card, patch: Some(patch), ..base };
    Some(match stop {
        0 => Selection { step: Some(0), patch: None, ..place },
        2 | 3 => Selection { expert: Some(expert), ..place },
        5 => Selection { expert: Some(busiest(record, layer)?.0), patch: None, ..place },
        _ => place,
    })
}

/// The expert of a layer that takes most tokens of a run, and its share of what all take there.
fn busiest(record: &Record, layer: usize) -> Option<(usize, f32)> {
    let lens = lens(record);
    let mut tokens = vec![0_u32; record.trace.experts()];
    for layer in (0..).map_while(|step| lens.layer(step, layer)) {
        for token in 0..layer.pool() {
            let mask = layer.mask(token);
            tokens.iter_mut().enumerate().for_each(|(e, count)| *count += (mask >> e & 1) as u32);
        }
    }
    let expert = (0..tokens.len()).rev().max_by_key(|&e| tokens[e])?;
    let all = tokens.iter().sum::<u32>().max(1);
    Some((expert, tokens[expert] as f32 / all as f32))
}

/// What a stop says; every number is one of the run.
pub(crate) fn caption(record: &Record, stop: usize, can_draw: bool) -> Option<String> {
    let trace = &record.trace;
    let lens = lens(record);
    let at = place(record)?;
    let layer = lens.layer(at.step, at.layer)?;
    let block = *trace.blocks().get(at.layer)?;
    let [rows, columns] = trace.grid();
    let spot =
        |patch: usize| format!("row {}, column {}", patch / columns + 1, patch % columns + 1);
    let expert = at.expert;
    Some(match stop {
        0 => format!(
            "An image begins as noise, and the model removes it in {} steps. The film shows what the model expects the \
             image to be at each of them. Drag across it, or press Play.",
            trace.steps()
        ),
        1 => {
            let blocks: Vec<String> = trace.blocks().iter().map(ToString::to_string).collect();
            let coarse = trace.grid_at(0);
            let at_first = if coarse == trace.grid() {
                String::new()
            } else {
                format!("at first {} × {} and later ", coarse[0], coarse[1])
            };
            format!(
                "The model sees {at_first}{rows} × {columns} patches, each as a token: a list of numbers. In the blocks {} every \
                 token may go to some of {} experts, small networks that learned to share the work. Selected is {}.",
                blocks.join(", "),
                trace.experts(),
                spot(at.patch)
            )
        }
        2 if matches!(record.config.router, Router::Prototypes { .. }) => {
            let choice = match record.config.kind {
                Kind::Ec => "and each expert takes the tokens of an image that are nearest to its own",
                _ => "and gives it to the nearest",
            };
            format!(
                "The router compares a token with a prototype of each expert {choice}; tokens of images without a label go to \
                 the last expert. In block {block}, expert {expert} takes {}. What an expert computes is weighted by the cosine \
                 of token and prototype and added to the token.",
                spot(at.patch)
            )
        }
        2 => {
            let gate = layer.gates(at.patch)?.get(expert).copied()?;
            format!(
                "A gate scores the experts for a token, and a softmax makes the scores sum to 1. Of those that take \
                 {} in block {block}, expert {expert} has the highest gate, {gate:.2}. What an expert computes is \
                 weighted by its gate and added to the token.",
                spot(at.patch)
            )
        }
        3 => {
            let odds = |odds: f32| 1.0 / (1.0 + (-odds).exp());
            let (need, threshold) = (layer.need(at.patch, expert)?, layer.threshold(expert)?);
            let numbers = format!(
                "expert {expert} has need {1:.2} for {0}, and its threshold is {2:.2}",
                spot(at.patch),
                odds(need),
                odds(threshold)
            );
            let rule = record.settings.sampling.routing.rule.hint();
            format!(
                "The capacity predictor, a small network, estimates how likely an expert is to take a token: its need. \
                 {rule} In block {block}, {numbers}; thresholds were learned in training."
            )
        }
        4 => {
            let counts = how_many(&lens, at.step, 0);
            let layers = trace.blocks().len() as f32;
            let mean = counts.iter().sum::<u32>() as f32 / counts.len().max(1) as f32 / layers;
            format!(
                "Patches get different amounts of compute. At this step {} experts take {}, all blocks together, and {} \
                 take {}. The mean is {mean:.2} per patch and block; 1 is the compute of a dense model.",
                counts.get(at.patch)?,
                spot(at.patch),
                counts.get(at.easiest)?,
                spot(at.easiest)
            )
        }
        5 => {
            let (busiest, share) = busiest(record, at.layer)?;
            let what = if can_draw {
                "Press X to draw the same seed without it; the Mute card shows what changes"
            } else {
                "With the model open, X draws the same seed without it and shows what changes"
            };
            format!(
                "Over the whole run, expert {busiest} takes {:.0} % of all that the experts of block {block} take, more \
                 than any other there. What does it do? {what}.",
                100.0 * share
            )
        }
        6 => "The link contains everything you look at: image, step, block, expert and patch. \"Copy link\" (L) copies it, and \
              another browser draws the same run. Point at anything to preview it; click to keep it, Esc to release."
            .to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::finished_record;
    use diffmoe::model::Config;
    use diffmoe::trace::At;

    /// A run of two images, with scores.
    fn record() -> Record {
        let mut record = finished_record();
        record.trace = super::super::tests::scored();
        record
    }

    #[test]
    fn every_stop_is_a_link_that_selects_what_it_speaks_of() {
        let record = record();
        let at = place(&record).unwrap();
        assert_eq!(available(&record), (0..STOPS).collect::<Vec<_>>());
        for stop in 0..STOPS {
            let chosen = selection(&record, stop).unwrap();
            assert_eq!(chosen.to_text().parse(), Ok(chosen), "{stop}");
            assert_eq!(chosen.tour, Some(stop));
            let caption = caption(&record, stop, true).unwrap();
            assert!(caption.len() < 420, "{stop}: {} letters", caption.len());
            if let Some(expert) = chosen.expert {
                assert!(caption.contains(&format!("expert {expert}")), "{caption}");
            }
            if chosen.patch.is_some() && stop < 5 {
                let columns = record.trace.grid()[1];
                let (row, column) = (at.patch / columns + 1, at.patch % columns + 1);
                assert!(caption.contains(&format!("row {row}, column {column}")), "{caption}");
            }
        }
        assert!(selection(&record, STOPS).is_none() && caption(&record, STOPS, true).is_none());
        assert!(caption(&record, 5, false).unwrap().contains("With the model open"));
    }

    #[test]
    fn a_router_by_prototypes_has_words_of_its_own() {
        let mut record = record();
        let router = Router::Prototypes { unconditional: true };
        for (kind, words) in
            [(Kind::Tc, "gives it to the nearest"), (Kind::Ec, "each expert takes")]
        {
            let config = Config { router, kind, ..(*record.config).clone() };
            record.config = std::sync::Arc::new(config);
            let at = place(&record).unwrap();
            let told = caption(&record, 2, true).unwrap();
            assert!(told.contains(words) && told.len() < 450, "{told}");
            assert!(told.contains(&format!("expert {} takes row", at.expert)), "{told}");
        }
    }

    #[test]
    fn captions_tell_the_numbers_of_the_trace() {
        let record = record();
        let trace = &record.trace;
        let at = place(&record).unwrap();
        let pass = At { step: at.step as u32, layer: at.layer, branch: Branch::Conditional };
        let layers = 0..trace.blocks().len();
        let takes = |patch: usize| -> u32 {
            let mask = |layer| trace.layer(At { layer, ..pass }).unwrap().masks[patch];
            layers.clone().map(|layer| mask(layer).count_ones()).sum()
        };
        let counts: Vec<u32> = (0..trace.tokens()).map(takes).collect();
        assert_eq!(counts[at.patch], *counts.iter().max().unwrap(), "the hardest patch");
        assert_eq!(counts[at.easiest], *counts.iter().min().unwrap(), "and the easiest");
        let easy = caption(&record, 4, true).unwrap();
        assert!(easy.contains(&format!("{} experts take", counts[at.patch])), "{easy}");
        let gate = trace.gate_probabilities(pass, at.patch).unwrap()[at.expert];
        let told = caption(&record, 2, true).unwrap();
        assert!(told.contains(&format!("gate, {gate:.2}")), "{told}");
        let taken = trace.layer(pass).unwrap().masks[at.patch];
        assert_eq!(taken >> at.expert & 1, 1, "the expert takes the patch");
        let need = trace.need_probability(pass, at.patch, at.expert).unwrap();
        let threshold = trace.threshold(pass, at.expert).unwrap();
        let told = caption(&record, 3, true).unwrap();
        assert!(told.contains(&format!("has need {need:.2} for ")), "{told}");
        assert!(told.contains(&format!("its threshold is {threshold:.2}")), "{told}");
        let (expert, share) = busiest(&record, at.layer).unwrap();
        let count = |e: usize| -> u32 {
            let steps = 0..trace.steps();
            steps.map(|step| trace.counts(At { step, ..pass }).unwrap()[e]).sum()
        };
        let all: u32 = (0..trace.experts()).map(count).sum();
        assert!((0..trace.experts()).all(|e| count(e) <= count(expert)));
        assert!((share - count(expert) as f32 / all as f32).abs() < 1e-6);
    }

    #[test]
    fn what_a_run_lacks_is_left_out() {
        let mut record = record();
        record.trace = super::super::tests::trace();
        assert_eq!(available(&record), [0, 1, 4, 5, 6], "masks alone have no gates and needs");
        record.trace.clear();
        assert!(available(&record).is_empty() && place(&record).is_none());
    }
}
