//! Keyboard shortcuts. They are active while no field or button has the keyboard focus.

use egui::{Context, Key};

/// Actions available from the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    GenerateOrPause,
    Step,
    Cancel,
    Back,
    Forward,
    First,
    Last,
    Dice,
    Save,
    Keep,
    Link,
    Overlay,
    Help,
    Mode,
}

/// Each shortcut: the key, its name and what it does, in the order of the help panel.
pub(super) const SHORTCUTS: [(Key, &str, &str, Action); 14] = [
    (Key::Space, "Space", "generate, pause, resume", Action::GenerateOrPause),
    (Key::S, "S", "one step, then pause", Action::Step),
    (Key::Escape, "Esc", "cancel the run, or close what is open", Action::Cancel),
    (Key::ArrowLeft, "Left", "one step back", Action::Back),
    (Key::ArrowRight, "Right", "one step forward", Action::Forward),
    (Key::Home, "Home", "go to the noise", Action::First),
    (Key::End, "End", "go to the last step", Action::Last),
    (Key::R, "R", "another seed", Action::Dice),
    (Key::M, "M", "token map on or off", Action::Overlay),
    (Key::D, "D", "save the image", Action::Save),
    (Key::K, "K", "keep the image in the gallery", Action::Keep),
    (Key::L, "L", "copy a link to the image", Action::Link),
    (Key::E, "E", "switch between Explore and Draw", Action::Mode),
    (Key::Questionmark, "?", "this help", Action::Help),
];

/// The actions whose keys were pressed in this frame.
pub(super) fn pressed(ctx: &Context) -> Vec<Action> {
    if ctx.text_edit_focused() {
        return Vec::new();
    }
    let free = ctx.memory(|memory| memory.focused().is_none());
    ctx.input(|input| {
        if input.modifiers.ctrl || input.modifiers.command || input.modifiers.alt {
            return Vec::new();
        }
        let shortcuts = SHORTCUTS.iter();
        // A focused button handles the space key itself, a focused slider the arrows.
        let mine = |key| {
            free || !matches!(
                key,
                Key::Space | Key::ArrowLeft | Key::ArrowRight | Key::Home | Key::End
            )
        };
        shortcuts.filter(|s| mine(s.0) && input.key_pressed(s.0)).map(|s| s.3).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shortcut_has_a_key_and_an_action_of_its_own() {
        for (i, a) in SHORTCUTS.iter().enumerate() {
            for b in &SHORTCUTS[..i] {
                assert!(a.0 != b.0 && a.3 != b.3, "{a:?} {b:?}");
            }
        }
    }
}
