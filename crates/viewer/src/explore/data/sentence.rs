//! One sentence or two about what compute does in this run, from the counts alone.

use super::tally::{Share, Tally};

/// A piece of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Words.
    Words(String),
    /// The number of an expert, shown as its chip.
    Expert(usize),
}

/// Says how C and the skipped patches change from the first step with such a pass to the last, and who hands over to
/// whom in a layer. Empty without experts.
pub(crate) fn sentence(tally: &Tally, layer: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let Some([first, last]) = tally.ends() else { return pieces };
    let mut say = |words: String| pieces.push(Piece::Words(words));
    let (Some(first_c), Some(last_c)) = (tally.capacity(first), tally.capacity(last)) else {
        return pieces;
    };
    let (skipped, skipped_last) = (tally.skipped(first), tally.skipped(last));
    // The sign stays on the line of its number.
    let percent = |share: Option<f32>| format!("{:.0}\u{a0}%", share.unwrap_or(0.0) * 100.0);
    let all = tally.steps.len();
    let with = (0..all).filter(|&step| tally.has(step)).count();
    if with < all {
        say(format!("{with} of {all} steps have this pass. "));
    }
    if last == first {
        let step =
            if first == 0 { "the first step".to_owned() } else { format!("step {}", first + 1) };
        say(format!(
            "In {step} C is {first_c:.2}; {} of the patches are skipped by all experts.",
            percent(skipped)
        ));
        return pieces;
    }
    let (from, to) = (format!("{first_c:.2}"), format!("{last_c:.2}"));
    let course = if from == to {
        let ends = if with < all { "both ends" } else { "the first and the last step" };
        format!("C is {from} at {ends}")
    } else {
        let verb = if last_c < first_c { "falls" } else { "rises" };
        format!("C {verb} from {from} to {to}")
    };
    let over = if with < all {
        format!("From step {} to step {}", first + 1, last + 1)
    } else {
        "From noise to image".to_owned()
    };
    let (before, after) = (percent(skipped), percent(skipped_last));
    let goes = if before == after {
        format!("stays at {before}")
    } else {
        format!("goes from {before} to {after}")
    };
    say(format!("{over} {course}; the share of patches that no expert takes {goes}. "));
    hand_over(tally, layer, [first, last], &mut pieces);
    pieces
}

/// Who loses most in a layer, and whether somebody gains at least half of it.
fn hand_over(
    tally: &Tally,
    layer: usize,
    [first, last]: [usize; 2],
    pieces: &mut Vec<Piece>,
) -> Option<()> {
    let (before, after) = (tally.share(first, layer)?, tally.share(last, layer)?);
    let block = tally.blocks.get(layer)?;
    // The last step may have more tokens than the first: then both are counted as shares.
    let is_equal = before.pool == after.pool;
    let [before_pool, after_pool] =
        [before, after].map(|share| if is_equal { 1 } else { i64::from(share.pool) });
    let was = |e: usize| i64::from(before.tokens[e]) * after_pool;
    let is = |e: usize| i64::from(after.tokens[e]) * before_pool;
    let change = |e: usize| is(e) - was(e);
    let experts = 0..tally.experts;
    let loser = experts.clone().min_by_key(|&e| change(e))?;
    let winner = experts.max_by_key(|&e| change(e))?;
    let told = |share: &Share, e: usize| {
        if is_equal {
            return share.tokens[e].to_string();
        }
        let percent = 100.0 * share.tokens[e] as f32 / share.pool.max(1) as f32;
        format!("{percent:.0}\u{a0}%")
    };
    let unit = if is_equal { "tokens" } else { "of the tokens" };
    let course = |e: usize| format!("({} to {} {unit})", told(before, e), told(after, e));
    let mut say = |words: String| pieces.push(Piece::Words(words));
    if change(loser) >= 0 {
        say(format!("In block {block} no expert loses tokens."));
        return Some(());
    }
    say(format!("In block {block} expert "));
    pieces.push(Piece::Expert(loser));
    let verb = if 2 * is(loser) < was(loser) { "fades" } else { "loses most" };
    if 2 * change(winner) >= -change(loser) && change(winner) > 0 {
        pieces.push(Piece::Words(format!(" {verb} {} and ", course(loser))));
        pieces.push(Piece::Expert(winner));
        let course = format!(" takes over ({} to {}).", told(before, winner), told(after, winner));
        pieces.push(Piece::Words(course));
    } else {
        let rest = format!(" {verb} {}, and no other expert takes over.", course(loser));
        pieces.push(Piece::Words(rest));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use diffmoe::scheduler::Branch;

    use super::super::lens::Lens;
    use super::super::tests::{gapped, run};
    use super::*;

    fn said(steps: &[&[&[u64]]]) -> String {
        told(&run(steps, 3), Branch::Conditional)
    }

    fn told(trace: &diffmoe::trace::Trace, branch: Branch) -> String {
        let tally = Tally::of(&Lens::new(trace, branch, 0.0));
        let pieces = sentence(&tally, 0);
        let text = |piece: Piece| match piece {
            Piece::Words(words) => words,
            Piece::Expert(e) => format!("#{e}"),
        };
        pieces.into_iter().map(text).collect::<String>().replace('\u{a0}', " ")
    }

    #[test]
    fn a_hand_over_is_told() {
        assert_eq!(
            said(&[&[&[0b001, 0b001, 0b001, 0b010]], &[&[0b010, 0b010, 0b100, 0]]]),
            "From noise to image C falls from 1.00 to 0.75; the share of patches that no \
             expert takes goes from 0 % to 25 %. In block 1 expert #0 fades (3 to 0 tokens), and \
             no other expert takes over."
        );
        assert_eq!(
            said(&[&[&[0b001, 0b001, 0b001, 0b001]], &[&[0b001, 0b011, 0b010, 0b110]]]),
            "From noise to image C rises from 1.00 to 1.50; the share of patches that no \
             expert takes stays at 0 %. In block 1 expert #0 loses most (4 to 2 tokens) \
             and #1 takes over (0 to 3)."
        );
    }

    #[test]
    fn a_pass_that_some_steps_lack_is_told_over_the_others() {
        assert_eq!(
            told(&gapped(), Branch::Unconditional),
            "3 of 6 steps have this pass. From step 2 to step 5 C falls from 0.75 to 0.25; the \
             share of patches that no expert takes goes from 25 % to 75 %. In block 1 expert #0 \
             fades (2 to 0 tokens) and #2 takes over (0 to 1)."
        );
        assert!(
            told(&gapped(), Branch::Conditional).starts_with("From noise to image C is 1.00 at")
        );
    }

    #[test]
    fn steps_with_other_numbers_of_tokens_are_compared_by_their_shares() {
        let said = told(&super::super::tests::refined(), Branch::Conditional);
        let hand_over =
            "expert #0 fades (100 % to 25 % of the tokens) and #1 takes over (0 % to 50 %).";
        assert!(said.ends_with(hand_over), "{said}");
    }

    #[test]
    fn nothing_is_claimed_that_is_not_there() {
        let same: &[u64] = &[0b001, 0b010, 0, 0];
        assert_eq!(
            said(&[&[same], &[same]]),
            "From noise to image C is 0.50 at the first and the last step; the share of \
             patches that no expert takes stays at 50 %. In block 1 no expert loses \
             tokens."
        );
        assert_eq!(
            said(&[&[same]]),
            "In the first step C is 0.50; 50 % of the patches are skipped by all experts."
        );
        assert_eq!(said(&[]), "");
    }
}
