//! The values of the engine contract as bytes.

use std::sync::Arc;

use super::codec::{Packed, packed_struct};
use crate::engine::{ForwardRouting, Keep, LayerRouting, RunConfig, Scores, Snapshot, Stage};
use crate::model::{LabelMix, Muted, Routing, RoutingRule, Shifts};
use crate::scheduler::{Branch, Denoise, Deviation, Instruction, Latent, Level};

packed_struct!(RunConfig {
    latent,
    buffers,
    keep,
    labels,
    mix,
    prompts,
    negative,
    routing,
    muted,
    shifts,
    record_scores,
});
packed_struct!(LabelMix { rows, strength });
packed_struct!(Keep { image, noise, mask });
packed_struct!(Level { signal, noise });
packed_struct!(Routing { rule, gamma, shift, log_odds });
packed_struct!(Snapshot { steps, latent, routing, stage_ms, reports });
packed_struct!(ForwardRouting { step, time, branch, scale, layers });
packed_struct!(LayerRouting { block, masks, scores });
packed_struct!(Scores { gate, need, thresholds });
packed_struct!(Denoise { guidance, guided_channels, predict, clip, mean, deviation, noise });

/// A choice as its place in a list of all of them.
macro_rules! packed_choice {
    ($Name:ident: $all:expr) => {
        impl Packed for $Name {
            fn put(&self, out: &mut Vec<u8>) {
                let place = $all.iter().position(|other| other == self);
                place.map_or(u8::MAX, |place| place as u8).put(out);
            }

            fn get(from: &mut &[u8]) -> Option<Self> {
                $all.get(usize::from(u8::get(from)?)).copied()
            }
        }
    };
}

packed_choice!(RoutingRule: RoutingRule::ALL);
packed_choice!(Stage: Stage::ALL);
packed_choice!(Branch: [Branch::Conditional, Branch::Unconditional]);

impl Packed for Latent {
    fn put(&self, out: &mut Vec<u8>) {
        let (kind, number) = match *self {
            Self::Sample => (0_u8, 0),
            Self::Trial => (1, 0),
            Self::Velocity(number) => (2, number),
            Self::Output(number) => (3, number),
            Self::Shifted => (4, 0),
        };
        (kind, number).put(out);
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        match <(u8, u8)>::get(from)? {
            (0, _) => Some(Self::Sample),
            (1, _) => Some(Self::Trial),
            (2, number) => Some(Self::Velocity(number)),
            (3, number) => Some(Self::Output(number)),
            (4, _) => Some(Self::Shifted),
            _ => None,
        }
    }
}

impl Packed for Deviation {
    fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Fixed(deviation) => (0_u8, deviation).put(out),
            Self::Learned { low, high } => (1_u8, [low, high]).put(out),
        }
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        match u8::get(from)? {
            0 => Some(Self::Fixed(f32::get(from)?)),
            1 => {
                let [low, high] = <[f32; 2]>::get(from)?;
                Some(Self::Learned { low, high })
            }
            _ => None,
        }
    }
}

impl Packed for Instruction {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Forward { input, output, time, branch } => {
                0_u8.put(out);
                ([*input, *output], (*time, *branch)).put(out);
            }
            Self::JointForward { input, time } => {
                1_u8.put(out);
                (*input, *time).put(out);
            }
            Self::Combine { output, terms } => {
                2_u8.put(out);
                output.put(out);
                terms.put(out);
            }
            Self::Denoise(step) => {
                3_u8.put(out);
                step.put(out);
            }
            Self::Report(latent) => {
                4_u8.put(out);
                latent.put(out);
            }
            Self::Keep(level) => {
                5_u8.put(out);
                level.put(out);
            }
            Self::Shift { input, output, by } => {
                6_u8.put(out);
                ([*input, *output], *by).put(out);
            }
        }
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        Some(match u8::get(from)? {
            0 => {
                let [input, output] = <[Latent; 2]>::get(from)?;
                let (time, branch) = Packed::get(from)?;
                Self::Forward { input, output, time, branch }
            }
            1 => {
                let (input, time) = Packed::get(from)?;
                Self::JointForward { input, time }
            }
            2 => Self::Combine { output: Packed::get(from)?, terms: Packed::get(from)? },
            3 => Self::Denoise(Packed::get(from)?),
            4 => Self::Report(Packed::get(from)?),
            5 => Self::Keep(Packed::get(from)?),
            6 => {
                let ([input, output], by) = Packed::get(from)?;
                Self::Shift { input, output, by }
            }
            _ => return None,
        })
    }
}

impl<T: Packed> Packed for Arc<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        T::get(from).map(Self::new)
    }
}

impl Packed for Muted {
    fn put(&self, out: &mut Vec<u8>) {
        self.list().to_vec().put(out);
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        Some(Vec::<(usize, usize)>::get(from)?.into_iter().collect())
    }
}

impl Packed for Shifts {
    fn put(&self, out: &mut Vec<u8>) {
        let list = self.list().iter().map(|s| ((s.block, s.expert), s.log_odds));
        list.collect::<Vec<_>>().put(out);
    }

    fn get(from: &mut &[u8]) -> Option<Self> {
        let mut shifts = Self::default();
        for ((block, expert), log_odds) in Vec::<((usize, Option<usize>), f32)>::get(from)? {
            shifts.add(block, expert, log_odds);
        }
        Some(shifts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::tests::round;
    use super::*;

    #[test]
    fn every_instruction_comes_back() {
        let (input, output) = (Latent::Trial, Latent::Output(3));
        let noise = Some(Arc::new(vec![0.5, -2.0]));
        let deviation = Deviation::Learned { low: -3.0, high: 0.25 };
        let denoise = Denoise {
            guidance: 2.5,
            guided_channels: 3,
            predict: [1.0, 2.0],
            clip: true,
            mean: [0.25, 0.75],
            deviation,
            noise,
        };
        let fixed = Denoise { deviation: Deviation::Fixed(0.1), noise: None, ..denoise.clone() };
        for instruction in [
            Instruction::Forward { input, output, time: 0.3, branch: Branch::Unconditional },
            Instruction::JointForward { input: Latent::Sample, time: 999.0 },
            Instruction::Combine { output: Latent::Velocity(6), terms: vec![(0.1, output)] },
            Instruction::Denoise(denoise),
            Instruction::Denoise(fixed),
            Instruction::Report(Latent::Velocity(1)),
            Instruction::Keep(Level { signal: 0.25, noise: 0.75 }),
            Instruction::Shift { input: Latent::Shifted, output: input, by: [-4, 3] },
        ] {
            round(&instruction);
        }
    }

    #[test]
    fn thresholds_and_blends_come_back() {
        round(&"1:2,5:0".parse::<Muted>().unwrap());
        round(&"3=1.5,3:0=0.25,5:2=-1".parse::<Shifts>().unwrap());
        let rule = RoutingRule::Pool;
        round(&Routing { rule, gamma: Some(0.3), shift: -0.5, log_odds: 1.25 });
        round(&LabelMix { rows: vec![None, Some(3)], strength: 0.25 });
        Stage::ALL.iter().for_each(round);
    }
}
