//! Lift: how much more than usual an expert works on a label.
//!
//! Of the work of a layer (all pairs of a token and an expert that took it) an expert does some share. Its lift on a
//! label is its share of the work on that label over its share of all work, so it does not depend on how much work the
//! label is: that is its `C`. Half a token is added to what was counted and to what was expected, so that rare experts
//! do not have infinite lifts.

/// An expert with a smaller share of a layer's work counts as idle, and is left out of means.
pub const IDLE: f32 = 0.01;
/// Largest |log₂ lift|: sixteen times as much as usual, or a sixteenth.
const MOST: f32 = 4.0;

/// Labels × experts of one layer in one noise band.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lifts {
    /// log₂ of the lift, `[labels][E]`; 0 where it is as usual.
    pub log2: Vec<Vec<f32>>,
    /// Each expert's share of the work on all labels, `[E]`; sums to 1.
    pub share: Vec<f32>,
}

impl Lifts {
    /// From the tokens that each expert took from each label, `[labels][E]`.
    pub fn of<R: AsRef<[u32]>>(counts: &[R]) -> Self {
        let experts = counts.first().map_or(0, |row| row.as_ref().len());
        let mut of_expert = vec![0_u64; experts];
        for row in counts {
            of_expert.iter_mut().zip(row.as_ref()).for_each(|(sum, &n)| *sum += u64::from(n));
        }
        let all: u64 = of_expert.iter().sum();
        let row = |row: &R| {
            let of_label: u64 = row.as_ref().iter().map(|&n| u64::from(n)).sum();
            let part = of_label as f64 / all.max(1) as f64;
            let cell = |(&n, &sum): (&u32, &u64)| {
                let expected = sum as f64 * part;
                let lift = (f64::from(n) + 0.5) / (expected + 0.5);
                (lift.log2() as f32).clamp(-MOST, MOST)
            };
            row.as_ref().iter().zip(&of_expert).map(cell).collect()
        };
        Self {
            log2: counts.iter().map(row).collect(),
            share: of_expert.iter().map(|&n| n as f32 / all.max(1) as f32).collect(),
        }
    }

    /// Whether an expert does hardly any of the work.
    pub fn is_idle(&self, expert: usize) -> bool {
        self.share.get(expert).is_none_or(|&share| share < IDLE)
    }

    /// Every |log₂ lift| of an expert that is not idle, with its expert.
    pub fn sizes(&self) -> impl Iterator<Item = (usize, f32)> {
        let cells = self.log2.iter().flat_map(|row| row.iter().enumerate());
        cells.filter(|(e, _)| !self.is_idle(*e)).map(|(e, value)| (e, value.abs()))
    }

    /// Mean of |log₂ lift|: 0 where no expert minds the label; `None` where all are idle.
    pub fn mean(&self) -> Option<f32> {
        let (sum, n) = self.sizes().fold((0.0, 0_usize), |(sum, n), (_, size)| (sum + size, n + 1));
        (n > 0).then(|| sum / n as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lift_is_a_share_over_the_usual_share() {
        // Expert 0 does 3/4 of the first label and 1/4 of the second, half of all.
        let lifts = Lifts::of(&[[3000, 1000], [1000, 3000]]);
        assert_eq!(lifts.share, [0.5, 0.5]);
        assert!((lifts.log2[0][0] - 1.5_f32.log2()).abs() < 1e-3);
        assert!((lifts.log2[1][0] + 1.0).abs() < 1e-3);
        let mean = (2.0 * 1.5_f32.log2() + 2.0) / 4.0;
        assert!((lifts.mean().unwrap() - mean).abs() < 1e-3);
    }

    #[test]
    fn how_much_work_a_label_is_does_not_matter() {
        let lifts = Lifts::of(&[[100, 300], [10, 30]]);
        assert!(lifts.sizes().all(|(_, size)| size < 0.06), "{:?}", lifts.log2);
    }

    #[test]
    fn idle_experts_and_empty_tables_have_no_lifts() {
        let lifts = Lifts::of(&[[1, 1000, 0], [0, 1000, 0]]);
        assert!(lifts.is_idle(0) && lifts.is_idle(2) && !lifts.is_idle(1) && lifts.is_idle(3));
        assert_eq!(lifts.sizes().count(), 2);
        assert!(lifts.mean().unwrap() < 1e-2);
        assert_eq!(Lifts::of(&[[0, 0]]).mean(), None);
        assert_eq!(Lifts::of::<[u32; 2]>(&[]), Lifts::default());
        let most = Lifts::of(&[[5000, 0], [0, 5000]]);
        assert!((most.log2[0][1] + MOST).abs() < 1e-6);
    }
}
