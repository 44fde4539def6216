//! `println!` and `eprintln!` that do not panic.
//!
//! The macros of the standard library panic when the reader is gone (`| head -1`) or the disk is full. These continue:
//! the work is finished in any case, and `main` reports the error at the end. Control characters are replaced, because
//! names and labels come from files.

use std::fmt::Arguments;
use std::io::{Error, ErrorKind, Write};
use std::sync::{Mutex, PoisonError};

/// Prints a line to stdout.
macro_rules! println {
    ($($text:tt)*) => { $crate::print::out(format_args!($($text)*)) };
}

/// Prints a line to stderr.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::print::note(format_args!($($text)*)) };
}

/// The first error on stdout.
static FAILURE: Mutex<Option<Error>> = Mutex::new(None);

/// A line to stdout.
pub(super) fn out(text: Arguments<'_>) {
    let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    if failure.is_none() {
        *failure = line(&mut std::io::stdout().lock(), text).err();
    }
}

/// A line to stderr. An error is ignored, because there is no place left to report it.
pub(super) fn note(text: Arguments<'_>) {
    drop(line(&mut std::io::stderr().lock(), text));
}

/// The first error on stdout; `None` if the reader closed the pipe.
pub(super) fn failure() -> Option<Error> {
    let failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.filter(|error| error.kind() != ErrorKind::BrokenPipe)
}

fn line(to: &mut impl Write, text: Arguments<'_>) -> Result<(), Error> {
    to.write_all((harmless(&text.to_string()) + "\n").as_bytes())?;
    to.flush()
}

/// Replaces characters that move the cursor, change colours or override the writing direction.
fn harmless(text: &str) -> String {
    let is_harmful = |c: char| {
        let is_kept = matches!(c, '\n' | '\t');
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        (c.is_control() && !is_kept) || turns
    };
    text.chars().map(|c| if is_harmful(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(harmless("größer\t1 → 2\n😀"), "größer\t1 → 2\n😀");
        assert_eq!(
            harmless("\u{1b}[31ma\rb\u{9b}c\u{202e}d"),
            "\u{fffd}[31ma\u{fffd}b\u{fffd}c\u{fffd}d"
        );
    }
}
