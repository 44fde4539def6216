//! Notices a worker that hangs: one that has been silent is asked for a sign of life, which it gives between two slices of
//! its work.
//!
//! Time counts only while someone looks. A page that was asleep, with its worker or without, finds answers late.

use std::time::Duration;

use web_time::Instant;

/// Most of the time between two looks that counts.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// How long a worker may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until it is asked.
    pub(super) quiet: Duration,
    /// From then on, until it is given up.
    pub(super) asked: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { quiet: Duration::from_secs(5), asked: Duration::from_secs(20) }
    }
}

impl Patience {
    /// While it opens a model, which it does in one go.
    pub(super) fn loading(self) -> Self {
        Self { quiet: self.quiet, asked: 6 * self.asked }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// Nothing.
    Fine,
    /// Ask for a sign of life.
    Ask,
    /// Give it up.
    Hangs,
}

/// Silence of a worker.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    last_look: Option<Instant>,
    quiet: Duration,
    /// Since it was asked, if it was.
    asked: Option<Duration>,
}

impl Pulse {
    /// A message has arrived.
    pub(super) fn heard(&mut self) {
        (self.quiet, self.asked) = (Duration::ZERO, None);
    }

    /// Nothing more has arrived until `now`.
    pub(super) fn look(&mut self, now: Instant, patience: Patience) -> Sign {
        let gap = self.last_look.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last_look = Some(now);
        let gap = gap.min(LONGEST_GAP);
        self.quiet += gap;
        match &mut self.asked {
            Some(asked) => {
                *asked += gap;
                if *asked >= patience.asked { Sign::Hangs } else { Sign::Fine }
            }
            None if self.quiet >= patience.quiet => {
                self.asked = Some(Duration::ZERO);
                Sign::Ask
            }
            None => Sign::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of some looks says, so many milliseconds after the one before.
    fn looks(pulse: &mut Pulse, at: &mut Instant, gaps: &[u64]) -> Vec<Sign> {
        let look = |&gap: &u64| {
            *at += Duration::from_millis(gap);
            pulse.look(*at, Patience::default())
        };
        gaps.iter().map(look).collect()
    }

    #[test]
    fn silence_is_asked_about_once_and_then_given_up() {
        let (mut pulse, mut at) = (Pulse::default(), Instant::now());
        let signs = looks(&mut pulse, &mut at, &[500; 60]);
        // The first look begins to count.
        let first = |wanted: Sign| signs.iter().position(|sign| *sign == wanted);
        assert_eq!((first(Sign::Ask), first(Sign::Hangs)), (Some(10), Some(50)));
        assert_eq!(signs.iter().filter(|sign| **sign == Sign::Ask).count(), 1);
    }

    #[test]
    fn an_answer_begins_anew() {
        let (mut pulse, mut at) = (Pulse::default(), Instant::now());
        for _ in 0..5 {
            let signs = looks(&mut pulse, &mut at, &[500; 40]);
            assert!(!signs.contains(&Sign::Hangs) && signs.contains(&Sign::Ask));
            pulse.heard();
        }
    }

    #[test]
    fn time_asleep_does_not_count() {
        let (mut pulse, mut at) = (Pulse::default(), Instant::now());
        // Hours, and once a minute in the background.
        let signs = looks(&mut pulse, &mut at, &[0, 7_200_000, 60_000, 60_000, 60_000]);
        assert_eq!(signs, [Sign::Fine; 5]);
        assert_eq!(looks(&mut pulse, &mut at, &[60_000; 2]), [Sign::Ask, Sign::Fine]);
        assert_eq!(looks(&mut pulse, &mut at, &[60_000; 18]), [Sign::Fine; 18]);
        assert_eq!(looks(&mut pulse, &mut at, &[60_000]), [Sign::Hangs]);
    }
}
