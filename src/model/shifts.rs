//! Thresholds of single layers and experts, moved for a run: what the model does where one expert is wanted less.

use std::fmt;
use std::str::FromStr;

use super::Config;
use super::routing::{Muted, MutedError, moved};

/// Moves by more log-odds than this make a threshold 0 or 1.
const MOST: f32 = 24.0;

/// Log-odds added to the thresholds of whole layers and of single experts, after
/// [`Routing`](super::Routing). Positive saves compute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shifts {
    /// Ascending by place, each place once, none of them 0.
    list: Vec<Shift>,
}

/// One entry of [`Shifts`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// The transformer block.
    pub block: usize,
    /// One of its experts, or all of them.
    pub expert: Option<usize>,
    /// Added to the threshold, in log-odds.
    pub log_odds: f32,
}

/// A shift that the model cannot follow, or text that is none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ShiftsError {
    /// Text in another form.
    #[error(
        "\"{0}\" does not move a threshold; write BLOCK=LOG_ODDS or BLOCK:EXPERT=LOG_ODDS, as in 3:7=-1.5"
    )]
    Form(String),
    /// A move too far, or no number.
    #[error("thresholds must move by -24–24 log-odds, got {0}")]
    Range(f32),
    /// A layer or expert that the model does not have.
    #[error(transparent)]
    Place(#[from] MutedError),
}

impl Shifts {
    /// Whether every threshold stays where it is.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All entries, ascending by block and expert, a whole block before its experts.
    pub fn list(&self) -> &[Shift] {
        &self.list
    }

    /// Moves the threshold of an expert, or of all experts of a block, by some more log-odds.
    pub fn add(&mut self, block: usize, expert: Option<usize>, log_odds: f32) {
        let place = self.list.binary_search_by_key(&(block, expert), |s| (s.block, s.expert));
        match place {
            Ok(at) => {
                self.list[at].log_odds += log_odds;
                if self.list[at].log_odds == 0.0 {
                    self.list.remove(at);
                }
            }
            Err(_) if log_odds == 0.0 => {}
            Err(at) => self.list.insert(at, Shift { block, expert, log_odds }),
        }
    }

    /// Log-odds that are added for an expert, its block's included.
    pub fn of(&self, block: usize, expert: usize) -> f32 {
        let meets = |s: &&Shift| s.block == block && s.expert.is_none_or(|e| e == expert);
        // The sum of nothing would be -0.
        self.list.iter().filter(meets).fold(0.0, |sum, s| sum + s.log_odds)
    }

    /// Moves the thresholds of a block, `[E]`; those of muted experts stay infinite.
    pub(crate) fn apply(&self, block: usize, thresholds: &mut [f32]) {
        for (expert, threshold) in thresholds.iter_mut().enumerate().filter(|(_, t)| t.is_finite())
        {
            *threshold = moved(*threshold, self.of(block, expert));
        }
    }

    /// Checks that the model has these layers and experts, and that no threshold moves too far.
    ///
    /// # Errors
    /// The first entry that cannot work.
    pub fn check(&self, config: &Config) -> Result<(), ShiftsError> {
        for shift in &self.list {
            Muted::from_iter([(shift.block, shift.expert.unwrap_or(0))]).check(config)?;
            if !(-MOST..=MOST).contains(&shift.log_odds) {
                return Err(ShiftsError::Range(shift.log_odds));
            }
        }
        Ok(())
    }
}

/// One entry as `BLOCK=LOG_ODDS` or `BLOCK:EXPERT=LOG_ODDS`, several separated by commas; nothing for none.
impl fmt::Display for Shifts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Shift { block, expert, log_odds }) in self.list.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{block}")?;
            if let Some(expert) = expert {
                write!(f, ":{expert}")?;
            }
            write!(f, "={log_odds}")?;
        }
        Ok(())
    }
}

impl FromStr for Shifts {
    type Err = ShiftsError;

    fn from_str(text: &str) -> Result<Self, ShiftsError> {
        let entry = |part: &str| {
            let (place, log_odds) = part.split_once('=')?;
            let (block, expert) = match place.split_once(':') {
                Some((block, expert)) => (block, Some(expert.trim().parse().ok()?)),
                None => (place, None),
            };
            Some((block.trim().parse().ok()?, expert, log_odds.trim().parse::<f32>().ok()?))
        };
        let mut shifts = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (block, expert, log_odds) =
                entry(part).ok_or_else(|| ShiftsError::Form(part.into()))?;
            if !(-MOST..=MOST).contains(&log_odds) {
                return Err(ShiftsError::Range(log_odds));
            }
            shifts.add(block, expert, log_odds);
        }
        Ok(shifts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_are_written_as_they_are_read_and_add_up() {
        let mut shifts: Shifts = "5:2=-1, 3=1.5,3:0=0.25".parse().unwrap();
        assert_eq!(shifts.to_string(), "3=1.5,3:0=0.25,5:2=-1");
        let of = |block, expert| shifts.of(block, expert).to_string();
        assert_eq!([of(3, 0), of(3, 1), of(5, 2), of(1, 2)], ["1.75", "1.5", "-1", "0"]);
        shifts.add(5, Some(2), 1.0);
        shifts.add(1, None, 0.0);
        assert_eq!(shifts.list().len(), 2, "what does not move is left out");
        assert_eq!("".parse(), Ok(Shifts::default()));
        for wrong in ["3", "3:1", "x=1", "3:=1", "3=one"] {
            let error = wrong.parse::<Shifts>().unwrap_err().to_string();
            assert!(error.contains("BLOCK:EXPERT=LOG_ODDS"), "{error}");
        }
        for wrong in ["3=NaN", "3=25", "3:1=-inf"] {
            assert!(matches!(wrong.parse::<Shifts>(), Err(ShiftsError::Range(_))), "{wrong}");
        }
    }

    #[test]
    fn thresholds_move_where_they_are_told_to() {
        let shifts: Shifts = format!("3={0},3:1=-{0}", 3.0_f32.ln()).parse().unwrap();
        let mut thresholds = [0.5, 0.5, f32::INFINITY];
        shifts.apply(3, &mut thresholds);
        assert!((thresholds[0] - 0.75).abs() < 1e-6 && (thresholds[1] - 0.5).abs() < 1e-6);
        assert!(thresholds[2].is_infinite(), "a muted expert stays muted");
        let mut others = [0.5, 0.25];
        shifts.apply(5, &mut others);
        assert!((others[0] - 0.5).abs() < 1e-9 && (others[1] - 0.25).abs() < 1e-9);
    }

    #[test]
    fn places_that_the_model_lacks_are_refused() {
        let config = Config::from_json(
            r#"{"kind":"diffmoe","t_kind":"flow","params":{"input_size":4,"num_classes":1,"patch_size":2,
            "depth":2,"hidden_size":16,"num_heads":2,"MoE_config":{"num_experts":2,"interleave":true}}}"#,
        )
        .unwrap();
        let check = |text: &str| text.parse::<Shifts>().unwrap().check(&config);
        assert_eq!(check("1=2,1:1=-3"), Ok(()));
        assert!(check("0=1").unwrap_err().to_string().contains("block 0 has no experts"));
        assert!(check("1:2=1").unwrap_err().to_string().contains("no expert 2"));
    }
}
