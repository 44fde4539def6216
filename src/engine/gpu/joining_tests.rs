use super::*;
use crate::model::Preset;

fn pass(input: Latent, output: u8, time: f32, branch: Branch) -> Instruction {
    Instruction::Forward { input, output: Latent::Output(output), time, branch }
}

const COND: Branch = Branch::Conditional;
const NULL: Branch = Branch::Unconditional;

#[test]
fn two_branches_of_the_same_sample_at_the_same_time_become_one_part() {
    let (sample, trial) = (Latent::Sample, Latent::Trial);
    let sum = Instruction::Combine { output: trial, terms: vec![(1.0, sample)] };
    let heun = [
        pass(sample, 0, 0.5, COND),
        pass(sample, 1, 0.5, NULL),
        sum.clone(),
        pass(trial, 2, 0.75, COND),
        pass(trial, 3, 0.75, NULL),
        sum.clone(),
    ];
    let parts = Part::of_step(&heun, true);
    let passes: Vec<_> = parts.iter().map(Part::passes).collect();
    let both = |time| vec![(time, COND), (time, NULL)];
    assert_eq!(passes, [both(0.5), vec![], both(0.75), vec![]]);
    assert_eq!(Part::of_step(&heun, false).len(), heun.len());
    // Another input, time, order or place, or something between them.
    for apart in [
        vec![pass(sample, 0, 0.5, COND), pass(trial, 1, 0.5, NULL)],
        vec![pass(sample, 0, 0.5, COND), pass(sample, 1, 0.6, NULL)],
        vec![pass(sample, 0, 0.5, NULL), pass(sample, 1, 0.5, COND)],
        vec![pass(sample, 1, 0.5, COND), pass(sample, 0, 0.5, NULL)],
        vec![pass(sample, 0, 0.5, COND), pass(sample, 2, 0.5, NULL)],
        vec![pass(sample, 0, 0.5, COND), sum, pass(sample, 1, 0.5, NULL)],
    ] {
        assert_eq!(Part::of_step(&apart, true).len(), apart.len(), "{apart:?}");
    }
}

#[test]
fn branches_are_joined_where_dispatches_are_short_and_nothing_is_split() {
    let joined = |name: &str, batch, profile, limit| {
        let config = name.parse::<Preset>().unwrap().config();
        Branches::Suitable.are_joined(&config, batch, profile, limit)
    };
    let (gpu, software) = (Profile::Gpu, Profile::Software);
    assert!(joined("S-E16", 1, gpu, 128 << 20));
    assert!(joined("L-E8", 1, gpu, 128 << 20));
    assert!(!joined("S-E16", 1, software, 128 << 20), "long dispatches, cheap ones");
    assert!(!joined("L-E8", 4, gpu, 2 << 30), "a dispatch would take too long");
    // 2 · 4 · 256 tokens for 16 experts, 1536 hidden numbers of 4 bytes each: 192 MiB.
    assert!(joined("S-E16", 4, gpu, 192 << 20));
    assert!(!joined("S-E16", 4, gpu, (192 << 20) - 4), "rows of experts would be split");
    let small = "S-E16".parse::<Preset>().unwrap().config();
    assert!(Branches::Together.are_joined(&small, 4, software, 192 << 20));
    assert!(!Branches::Together.are_joined(&small, 4, software, 128 << 20), "there is no room");
    assert!(!Branches::Apart.are_joined(&small, 1, gpu, 1 << 30));
}
