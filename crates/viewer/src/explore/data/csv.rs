//! Series of the views as CSV: a heading, then numbers and names without commas. Where thresholds are moved, the counts
//! are those with the moved ones, as on screen.

use std::fmt::Write as _;

use diffmoe::scheduler::Branch;

use super::gallery::Pick;
use super::lens::{Lens, Pass};
use super::margins::{Histogram, middle};
use super::place::Place;
use super::story::Story;
use super::tally::Tally;

const PASSES: [(Branch, &str); 2] =
    [(Branch::Conditional, "with label"), (Branch::Unconditional, "without")];

/// What can be written, as text; empty where it is not known.
fn cell(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Counts of a kind of pass, as seen through a lens.
fn tally(lens: &Lens<'_>, branch: Branch) -> Tally {
    Tally::of(&Lens { pass: Pass { branch, ..lens.pass }, ..*lens })
}

/// The rows of two runs, A and B, after each other in one table.
pub(crate) fn of_two_runs(a: &str, b: &str) -> String {
    let mut csv = String::new();
    for (i, line) in a.lines().enumerate() {
        let run = if i == 0 { "run" } else { "A" };
        let _ = writeln!(csv, "{run},{line}");
    }
    for line in b.lines().skip(1) {
        let _ = writeln!(csv, "B,{line}");
    }
    csv
}

/// Tokens of each expert at each step, in both kinds of passes: the river and the map.
pub(crate) fn loads(lens: &Lens<'_>, noise: &[f32]) -> String {
    let mut csv = "step,noise,pass,block,expert,tokens,pool,load\n".to_owned();
    for (branch, pass) in PASSES.into_iter().filter(|(branch, _)| lens.trace.has(*branch)) {
        let tally = tally(lens, branch);
        for step in 0..tally.steps.len() {
            for (layer, block) in tally.blocks.iter().enumerate() {
                let Some(share) = tally.share(step, layer) else { continue };
                for (e, tokens) in share.tokens.iter().enumerate() {
                    let (noise, load) = (cell(noise.get(step)), cell(share.load(e)));
                    let pool = share.pool;
                    let _ =
                        writeln!(csv, "{step},{noise},{pass},{block},{e},{tokens},{pool},{load}");
                }
            }
        }
    }
    csv
}

/// C of each step, in both kinds of passes.
pub(crate) fn compute(lens: &Lens<'_>, noise: &[f32]) -> String {
    let mut csv = "step,noise,with label,without\n".to_owned();
    let tallies = PASSES.map(|(branch, _)| tally(lens, branch));
    for step in 0..lens.trace.steps() as usize {
        let [with, without] = tallies.each_ref().map(|tally| cell(tally.capacity(step)));
        let _ = writeln!(csv, "{step},{},{with},{without}", cell(noise.get(step)));
    }
    csv
}

/// Every patch of an image and every expert of a layer at a step: who takes it, with need, threshold and gate.
pub(crate) fn patches(lens: &Lens<'_>, step: usize, layer: usize, image: usize) -> String {
    let mut csv = "row,column,expert,takes,need,threshold,gate\n".to_owned();
    let Some(layer) = lens.layer(step, layer) else { return csv };
    let (tokens, columns) = (lens.trace.tokens(), lens.trace.grid()[1].max(1));
    for patch in 0..tokens {
        let token = image * tokens + patch;
        let gates = layer.gates(token);
        for e in 0..layer.experts() {
            let takes = u8::from(layer.takes(token, e));
            let (need, threshold) = (cell(layer.need(token, e)), cell(layer.threshold(e)));
            let gate = cell(gates.as_ref().and_then(|gates| gates.get(e)));
            let (row, column) = (patch / columns + 1, patch % columns + 1);
            let _ = writeln!(csv, "{row},{column},{e},{takes},{need},{threshold},{gate}");
        }
    }
    csv
}

/// The experts of one patch, in every layer at every step with such a pass; without an expert where nobody takes it.
pub(crate) fn patch_story(story: &Story, blocks: &[usize], noise: &[f32]) -> String {
    let mut csv = "block,step,noise,expert,gate\n".to_owned();
    for (block, steps) in blocks.iter().zip(story) {
        for (step, experts) in steps.iter().enumerate() {
            let (Some(experts), noise) = (experts, cell(noise.get(step))) else { continue };
            if experts.is_empty() {
                let _ = writeln!(csv, "{block},{step},{noise},,");
            }
            for (expert, gate) in experts {
                let _ = writeln!(csv, "{block},{step},{noise},{expert},{}", cell(*gate));
            }
        }
    }
    csv
}

/// How often each expert takes each patch, whatever the image.
pub(crate) fn places(place: &Place, [_, columns]: [usize; 2]) -> String {
    let mut csv = "expert,row,column,share\n".to_owned();
    for (expert, shares) in place.shares.iter().enumerate() {
        for (patch, share) in shares.iter().enumerate() {
            let (row, column) = (patch / columns.max(1) + 1, patch % columns.max(1) + 1);
            let _ = writeln!(csv, "{expert},{row},{column},{share}");
        }
    }
    csv
}

/// The patches that an expert works on, best first.
pub(crate) fn picks(picks: &[Pick], [_, columns]: [usize; 2]) -> String {
    let mut csv = "image,row,column,margin\n".to_owned();
    for Pick { image, patch, margin } in picks {
        let (row, column) = (patch / columns.max(1) + 1, patch % columns.max(1) + 1);
        let _ = writeln!(csv, "{},{row},{column},{}", image + 1, cell(*margin));
    }
    csv
}

/// How much the images change without each expert, of 255, as far as that was measured.
pub(crate) fn muting(changes: impl Iterator<Item = (usize, usize, f32)>) -> String {
    let mut csv = "block,expert,change of 255\n".to_owned();
    for (block, expert, change) in changes {
        let _ = writeln!(csv, "{block},{expert},{change}");
    }
    csv
}

/// How far decisions lie from their thresholds.
pub(crate) fn margins(histogram: &Histogram) -> String {
    let mut csv = "margin in log-odds,decisions\n".to_owned();
    for (i, decisions) in histogram.bars.iter().enumerate() {
        let _ = writeln!(csv, "{},{decisions}", middle(i));
    }
    csv
}

#[cfg(test)]
mod tests {
    use super::super::margins::histogram;
    use super::super::story::story;
    use super::super::tests::{gapped, run, scored};
    use super::*;
    use diffmoe::trace::At;

    #[test]
    fn loads_are_the_counts_of_the_trace() {
        let trace = scored();
        let csv = loads(&Lens::new(&trace, Branch::Conditional, 0.0), &[1.0, 0.5]);
        let mut lines = csv.lines();
        assert_eq!(lines.next(), Some("step,noise,pass,block,expert,tokens,pool,load"));
        let mut rows = 0;
        for line in lines {
            let cells: Vec<&str> = line.split(',').collect();
            let number = |i: usize| cells[i].parse::<usize>().unwrap();
            let branch = PASSES.iter().find(|(_, name)| *name == cells[2]).unwrap().0;
            let layer = trace.blocks().iter().position(|&block| block == number(3)).unwrap();
            let at = At { step: number(0) as u32, layer, branch };
            assert_eq!(trace.counts(at).unwrap()[number(4)] as usize, number(5), "{line}");
            rows += 1;
        }
        let passes: usize = PASSES.iter().filter(|(branch, _)| trace.has(*branch)).count();
        assert!(rows > 0 && rows <= passes * trace.steps() as usize * trace.blocks().len() * 3);
    }

    #[test]
    fn series_have_a_row_for_each_of_their_numbers() {
        let trace = run(&[&[&[0b011, 0b001, 0, 0]], &[&[0b100, 0b110, 0b100, 0]]], 3);
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        let c = compute(&lens, &[1.0, 0.5]);
        assert_eq!(c, "step,noise,with label,without\n0,1,0.75,\n1,0.5,1,\n");
        assert_eq!(
            of_two_runs(&c, "step,noise,with label,without\n0,1,0.5,\n"),
            "run,step,noise,with label,without\nA,0,1,0.75,\nA,1,0.5,1,\nB,0,1,0.5,\n"
        );
        let told = patch_story(&story(&lens, 0, 1), &trace.blocks(), &[1.0, 0.5]);
        assert_eq!(told, "block,step,noise,expert,gate\n1,0,1,0,\n1,1,0.5,1,\n1,1,0.5,2,\n");
        let all = patches(&lens, 0, 0, 0);
        assert_eq!(all.lines().count(), 1 + 4 * 3);
        assert!(all.contains("\n1,2,0,1,,,\n") && all.contains("\n2,1,0,0,,,\n"), "{all}");
    }

    #[test]
    fn places_picks_and_changes_have_a_row_each() {
        let place =
            Place { shares: vec![vec![0.5, 0.0], vec![0.25, 1.0]], explained: None, samples: 4 };
        assert_eq!(
            places(&place, [1, 2]),
            "expert,row,column,share\n0,1,1,0.5\n0,1,2,0\n1,1,1,0.25\n1,1,2,1\n"
        );
        let pick = |patch, margin| Pick { image: 1, patch, margin };
        let csv = picks(&[pick(5, Some(2.5)), pick(0, None)], [3, 4]);
        assert_eq!(csv, "image,row,column,margin\n2,2,2,2.5\n2,1,1,\n");
        let csv = muting([(3, 1, 0.5), (5, 0, 2.0)].into_iter());
        assert_eq!(csv, "block,expert,change of 255\n3,1,0.5\n5,0,2\n");
    }

    #[test]
    fn steps_without_a_pass_have_no_rows() {
        let trace = gapped();
        let lens = Lens::new(&trace, Branch::Unconditional, 0.0);
        let c = compute(&lens, &[1.0, 0.8, 0.6, 0.4, 0.2, 0.1]);
        assert_eq!(
            c,
            "step,noise,with label,without\n0,1,1,\n1,0.8,0.75,0.75\n2,0.6,1,\n3,0.4,0.5,0.5\n\
             4,0.2,0.75,0.25\n5,0.1,1,\n"
        );
        let loads = loads(&lens, &[]);
        let steps: Vec<&str> = loads
            .lines()
            .filter(|line| line.contains(",without,") && line.split(',').nth(4) == Some("0"))
            .map(|line| &line[..1])
            .collect();
        assert_eq!(steps, ["1", "3", "4"]);
        let told = patch_story(&story(&lens, 0, 1), &trace.blocks(), &[]);
        assert_eq!(told, "block,step,noise,expert,gate\n1,1,,0,\n1,3,,,\n1,4,,,\n");
    }

    #[test]
    fn needs_gates_and_margins_are_those_of_the_scores() {
        let trace = scored();
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        let at = At { step: 1, layer: 0, branch: Branch::Conditional };
        let csv = patches(&lens, 1, 0, 1);
        let line = csv.lines().nth(1 + 3 * 2 + 1).unwrap();
        let cells: Vec<f32> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
        let token = 4 + 2;
        assert!((cells[4] - trace.need(at, token, 1).unwrap()).abs() < 1e-6);
        assert!((cells[6] - trace.gate_probabilities(at, token).unwrap()[1]).abs() < 1e-6);
        let histogram = histogram(&lens.layer(1, 0).unwrap(), None).unwrap();
        let csv = margins(&histogram);
        let sum: u32 =
            csv.lines().skip(1).map(|l| l.split_once(',').unwrap().1.parse::<u32>().unwrap()).sum();
        assert_eq!(sum, histogram.bars.iter().sum::<u32>());
        assert!(csv.contains("\n-12,") && csv.contains("\n12,"));
    }
}
