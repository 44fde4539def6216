//! Two workers that compute the same images: each does one branch of guidance and gets the result of the other.

use super::codec::Packed;
use crate::engine::{ForwardRouting, Snapshot};
use crate::scheduler::{Branch, Instruction, Latent};

/// What a worker does of a step, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    /// Computes.
    Do(Vec<Instruction>),
    /// Sends a result of a forward pass to the twin.
    Send(Latent),
    /// Waits for that of the twin.
    Await(Latent),
}

impl Packed for Part {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Do(ops) => {
                0_u8.put(out);
                ops.put(out);
            }
            Self::Send(latent) => (1_u8, *latent).put(out),
            Self::Await(latent) => (2_u8, *latent).put(out),
        }
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        match u8::get(from)? {
            0 => Packed::get(from).map(Self::Do),
            1 => Packed::get(from).map(Self::Send),
            2 => Packed::get(from).map(Self::Await),
            _ => None,
        }
    }
}

/// A step with joint passes as two passes: the same where tokens do not compete.
pub(super) fn without_joint(ops: &[Instruction]) -> Vec<Instruction> {
    let pass = |input, time, output, branch| Instruction::Forward {
        input,
        output: Latent::Output(output),
        time,
        branch,
    };
    let split = |op: &Instruction| match *op {
        Instruction::JointForward { input, time } => vec![
            pass(input, time, 0, Branch::Conditional),
            pass(input, time, 1, Branch::Unconditional),
        ],
        _ => vec![op.clone()],
    };
    ops.iter().flat_map(split).collect()
}

/// The length of the run of forward passes that a list begins with, if none reads what another writes: they have
/// different outputs, and inputs are never outputs.
fn passes(ops: &[Instruction]) -> usize {
    let mut outputs = Vec::new();
    for op in ops {
        match op {
            Instruction::Forward { output, .. } if !outputs.contains(output) => {
                outputs.push(*output);
            }
            _ => break,
        }
    }
    outputs.len()
}

/// The parts of a step for the first or the second of two workers (`which` is 0 or 1).
pub(super) fn parts(ops: &[Instruction], which: usize) -> Vec<Part> {
    let mut found = Vec::new();
    let mut alone = Vec::new();
    let mut rest = ops;
    while let Some(op) = rest.first() {
        let count = passes(rest);
        if count < 2 {
            alone.push(op.clone());
            rest = &rest[1..];
            continue;
        }
        let (shared, after) = rest.split_at(count);
        let (mut sends, mut awaits) = (Vec::new(), Vec::new());
        for (i, op) in shared.iter().enumerate() {
            let Instruction::Forward { output, .. } = op else { continue };
            if i % 2 == which {
                alone.push(op.clone());
                sends.push(Part::Send(*output));
            } else {
                awaits.push(Part::Await(*output));
            }
        }
        found.push(Part::Do(std::mem::take(&mut alone)));
        found.extend(sends);
        found.extend(awaits);
        rest = after;
    }
    found.push(Part::Do(alone));
    found
}

/// Which of the two workers has the routing of each recorded pass of a step; `None` where both have it.
pub(super) fn owners(ops: &[Instruction]) -> Vec<Option<usize>> {
    let mut found = Vec::new();
    let mut rest = ops;
    while let Some(op) = rest.first() {
        let count = passes(rest);
        if count < 2 {
            found.extend(op.recorded_passes().iter().map(|_| None));
            rest = &rest[1..];
        } else {
            let recorded = |i: &usize| !rest[*i].recorded_passes().is_empty();
            found.extend((0..count).filter(recorded).map(|i| Some(i % 2)));
            rest = &rest[count..];
        }
    }
    found
}

/// The snapshot of a step of two workers, with the passes of both in their order.
pub(super) fn join(first: Snapshot, second: Snapshot, owners: &[Option<usize>]) -> Snapshot {
    let mut routing = [first.routing.into_iter(), second.routing.into_iter()];
    let mut next = |owner: &Option<usize>| -> Option<ForwardRouting> {
        let Some(which) = owner else {
            routing[1].next();
            return routing[0].next();
        };
        routing[*which].next()
    };
    let joined = owners.iter().filter_map(&mut next).collect();
    Snapshot { routing: joined, ..first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_twin_does_one_branch_and_gets_the_other() {
        let input = Latent::Sample;
        let [c, u] = [Latent::Output(0), Latent::Output(1)];
        let sum = Instruction::Combine { output: input, terms: vec![(1.0, c), (2.0, u)] };
        let ops = [Instruction::JointForward { input, time: 0.5 }, sum.clone()];
        let ops = without_joint(&ops);
        assert_eq!(ops.len(), 3);
        let of = |which: usize| parts(&ops, which);
        let first = vec![
            Part::Do(vec![ops[0].clone()]),
            Part::Send(c),
            Part::Await(u),
            Part::Do(vec![sum.clone()]),
        ];
        assert_eq!(of(0), first);
        assert_eq!(of(1)[..3], [Part::Do(vec![ops[1].clone()]), Part::Send(u), Part::Await(c)]);
        assert_eq!(owners(&ops), [Some(0), Some(1)]);
        let single = [ops[0].clone(), sum];
        assert_eq!(parts(&single, 1), [Part::Do(single.to_vec())]);
        assert_eq!(owners(&single), [None]);
    }

    #[test]
    fn a_pass_that_overwrites_another_waits_for_it() {
        let pass = |output| Instruction::Forward {
            input: Latent::Sample,
            output: Latent::Output(output),
            time: 0.0,
            branch: Branch::Conditional,
        };
        assert_eq!(owners(&[pass(0), pass(0)]), [None, None]);
        assert_eq!(owners(&[pass(0), pass(1), pass(0)]), [Some(0), Some(1), None]);
    }
}
