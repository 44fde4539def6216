//! What a screen reader says without being asked: how a run goes, and what came of it.

use super::session::{NoteKind, Phase, Record, Session};

/// No more labels than these are read out.
const MOST_LABELS: usize = 8;

/// How it goes. It changes a few times in a run, not at every step, because each change is read out.
pub fn status(session: &Session) -> String {
    let record = session.record().filter(|record| !record.recorded);
    match session.phase() {
        Phase::Fetching { name, .. } => format!("Downloading {name}."),
        Phase::Opening { what, .. } => format!("Loading {what}."),
        Phase::Running => match record {
            Some(record) => {
                let quarters = 4 * record.finished_steps() / record.steps().max(1);
                format!("Generating {}: {}%.", count(record), 25 * quarters.min(3))
            }
            None => "Generating.".to_owned(),
        },
        Phase::Decoding { images: 1, .. } => "Decoding the image.".to_owned(),
        Phase::Decoding { .. } => "Decoding the images.".to_owned(),
        Phase::Paused => "Paused.".to_owned(),
        Phase::Recovering => "The device was lost. Continuing on another one.".to_owned(),
        Phase::NoModel => "No model is open.".to_owned(),
        Phase::Ready => match record {
            Some(record) if record.is_complete() => finished(record),
            _ => "Ready.".to_owned(),
        },
    }
}

/// The newest error that is still shown.
pub fn alert(session: &Session) -> &str {
    let mut errors = session.notes().iter().filter(|note| note.kind == NoteKind::Error);
    errors.next_back().map_or("", |note| &note.text)
}

/// The newest note, if it is no error: what came of keeping an image, or of opening a link. It is read out when
/// [`Session::noted`] has grown.
pub fn news(session: &Session) -> &str {
    let newest = session.notes().last().filter(|note| note.kind != NoteKind::Error);
    newest.map_or("", |note| &note.text)
}

fn count(record: &Record) -> String {
    match record.labels.len() {
        1 => "one image".to_owned(),
        count => format!("{count} images"),
    }
}

fn finished(record: &Record) -> String {
    let mut labels = record.labels.iter().take(MOST_LABELS).cloned().collect::<Vec<_>>();
    if record.labels.len() > MOST_LABELS {
        labels.push("and others".to_owned());
    }
    format!("Finished {}: {}.", count(record), labels.join("; "))
}
