//! Every committed input, and a moment of random ones for each target: `cargo xtask fuzz` goes on from there.

use std::time::Duration;

use diffmoe_fuzz::{Campaign, TARGETS, reaction, seeds};

/// Random inputs of each target.
const TIME: Duration = Duration::from_millis(1500);

#[test]
fn no_input_is_too_much_for_a_reader() {
    let mut faults = Vec::new();
    for target in &TARGETS {
        let seeds = seeds(target).expect("the corpus");
        assert!(!seeds.is_empty(), "{} has no corpus", target.name);
        let mut campaign = Campaign::new(target, &seeds, 1);
        campaign.run(TIME, u64::MAX);
        let report = campaign.report();
        assert!(report.answers > 0, "{}: no answers", target.name);
        let of = |(fault, input): &(_, Vec<u8>)| {
            format!("{}: {fault}: {:?}", target.name, String::from_utf8_lossy(input))
        };
        faults.extend(report.faults.iter().map(of));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn good_seeds_are_read() {
    let good = [
        ("safetensors", "a model"),
        ("index", "read"),
        ("torch", "read"),
        ("pickle", "read"),
        ("yaml", "true"),
        ("config", "checked"),
        ("tokenizer", "tokens"),
        ("trace", "again"),
        ("recording", "again"),
        ("atlas", "tables"),
        ("link", "again settings"),
        ("png", "settings"),
        ("prompt", "tokens"),
    ];
    for (name, part) in good {
        let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
        let answers = seeds(target).expect("the corpus");
        let answers: Vec<_> =
            answers.iter().map(|seed| reaction(target, seed).expect("no fault")).collect();
        assert!(answers.iter().any(|answer| answer.contains(part)), "{name}: {answers:#?}");
    }
}
