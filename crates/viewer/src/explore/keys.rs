//! Keys of Explore. They act while no field has the keyboard.

use egui::{Context, Key};

use super::tour::Go;

/// What a key does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stroke {
    /// One step back or forward.
    Step(isize),
    /// The first step, or the last.
    End(bool),
    /// The layer above or below.
    Layer(isize),
    /// An expert by its number.
    Expert(usize),
    /// Let go of what is chosen.
    Release,
    /// Go through the steps, or stop.
    Play,
    /// Draw without the chosen expert.
    Mute,
    /// The next stop of the tour, or the one before.
    Tour(Go),
    /// Make this run B, or let go of B.
    KeepAsB,
}

const DIGITS: [Key; 10] = [
    Key::Num0,
    Key::Num1,
    Key::Num2,
    Key::Num3,
    Key::Num4,
    Key::Num5,
    Key::Num6,
    Key::Num7,
    Key::Num8,
    Key::Num9,
];

/// The keys and what they do, for the help panel.
pub(crate) const KEYS: [(&str, &str); 9] = [
    ("Left, Right", "one step back or forward; Home and End"),
    ("Up, Down", "previous or next block"),
    ("0 to 9", "an expert; the same digit again adds 10"),
    ("Space", "play, stop"),
    ("X", "repeat the run without the selected expert"),
    ("B", "keep this run as B and compare; again: release B"),
    ("Esc", "release patch, expert and shift"),
    ("N, P", "next and previous stop of the tour; Esc leaves it"),
    ("E", "switch between Draw and Explore"),
];

/// The keys that were pressed in this frame.
pub(super) fn pressed(ctx: &Context) -> Vec<Stroke> {
    if ctx.text_edit_focused() {
        return Vec::new();
    }
    let free = ctx.memory(|memory| memory.focused().is_none());
    ctx.input(|input| {
        if input.modifiers.ctrl || input.modifiers.command || input.modifiers.alt {
            return Vec::new();
        }
        let fixed = [
            (Key::ArrowLeft, Stroke::Step(-1)),
            (Key::ArrowRight, Stroke::Step(1)),
            (Key::ArrowUp, Stroke::Layer(-1)),
            (Key::ArrowDown, Stroke::Layer(1)),
            (Key::Home, Stroke::End(false)),
            (Key::End, Stroke::End(true)),
            (Key::Space, Stroke::Play),
            (Key::Escape, Stroke::Release),
            (Key::X, Stroke::Mute),
            (Key::B, Stroke::KeepAsB),
            (Key::N, Stroke::Tour(Go::Next)),
            (Key::P, Stroke::Tour(Go::Back)),
        ];
        let digits = DIGITS.iter().enumerate().map(|(i, key)| (*key, Stroke::Expert(i)));
        // A focused button takes the space key for itself, a focused slider the arrows.
        let mine = |key| {
            free || matches!(key, Key::Escape | Key::X | Key::B | Key::N | Key::P)
                || DIGITS.contains(&key)
        };
        let all = fixed.into_iter().chain(digits);
        all.filter(|(key, _)| mine(*key) && input.key_pressed(*key)).map(|(_, s)| s).collect()
    })
}

/// The expert that a digit means: its number, and pressed again ten more, as far as there are so many.
pub(super) fn digit(digit: usize, chosen: Option<usize>, experts: usize) -> Option<usize> {
    let again = chosen.filter(|chosen| chosen % 10 == digit).map_or(digit, |chosen| chosen + 10);
    [again, digit].into_iter().find(|expert| *expert < experts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_reach_every_expert() {
        assert_eq!(digit(3, None, 8), Some(3));
        assert_eq!(digit(3, Some(3), 8), Some(3));
        assert_eq!(digit(9, None, 8), None);
        assert_eq!(digit(3, Some(3), 32), Some(13));
        assert_eq!(digit(3, Some(23), 32), Some(3), "around");
        assert_eq!(digit(1, Some(21), 32), Some(31));
    }
}
