//! A searchable list of the rows of a label table: what to draw, in which style.

use egui::{Button, Id, Key, Popup, PopupCloseBehavior, RichText, ScrollArea, TextEdit, Ui, vec2};

use super::icons::Icon;
use super::session::Choice;
use super::theme::Look;
use diffmoe::model::LabelTable;

/// The text of a choice.
pub fn name(table: &LabelTable, choice: Choice) -> String {
    match choice {
        Choice::Row(row) if table.values.is_empty() => format!("{} {row}", table.name),
        Choice::Row(row) => table.label(row),
        other => other.word().unwrap_or_default().to_owned(),
    }
}

/// What a list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// What to draw. `best`: whether the model knows what it draws well.
    Draw {
        /// Whether [`Choice::Best`] is among the choices.
        best: bool,
    },
    /// A label that is blended into others: the rows and [`Choice::Any`].
    Blend,
}

impl Offer {
    /// The choices before the rows.
    fn words(self) -> &'static [Choice] {
        match self {
            Self::Draw { best: true } => &[Choice::Best, Choice::Varied, Choice::Any],
            Self::Draw { best: false } => &[Choice::Varied, Choice::Any],
            Self::Blend => &[Choice::Any],
        }
    }
}

/// The choices that fit a search, the best first: those that begin with it, those with a word that does, the others
/// that hold it. An empty search finds everything.
pub fn matches(table: &LabelTable, offer: Offer, search: &str) -> Vec<Choice> {
    let wanted = search.trim().to_lowercase();
    let rows = (0..table.null).map(Choice::Row);
    let all = offer.words().iter().copied().chain(rows);
    if wanted.is_empty() {
        return all.collect();
    }
    let rank = |choice: &Choice| {
        let name = name(table, *choice).to_lowercase();
        let number = matches!(choice, Choice::Row(row) if row.to_string() == wanted);
        if number || name.starts_with(&wanted) {
            Some(0)
        } else if name.split([' ', '-']).any(|word| word.starts_with(&wanted)) {
            Some(1)
        } else {
            name.contains(&wanted).then_some(2)
        }
    };
    let mut found: Vec<_> = all.filter_map(|choice| Some((rank(&choice)?, choice))).collect();
    // Stable: within a rank the table's order stays.
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, choice)| choice).collect()
}

/// What the open list remembers.
#[derive(Clone, Debug, Default)]
struct Search {
    text: String,
    /// Place of the marked choice among those found.
    marked: usize,
}

/// A button that opens the list. Returns whether the choice changed.
pub(super) fn show(
    ui: &mut Ui,
    table: &LabelTable,
    offer: Offer,
    choice: &mut Choice,
    width: f32,
) -> bool {
    let is_blend = offer == Offer::Blend;
    let id = ui.make_persistent_id(("picker", &table.name, is_blend));
    let title = if is_blend { format!("Blended {}", table.name) } else { capital(&table.name) };
    let text = RichText::new(name(table, *choice));
    let button = Button::new((text, egui::Atom::grow(), Icon::Down.atom())).truncate();
    let response = ui.add(button.min_size(vec2(width, 0.0)));
    let described = format!("{title}: {}", name(table, *choice));
    let response = response.accessible_name(described).on_hover_text(hint(table, offer));
    let opened = response.clicked() && !Popup::is_id_open(ui.ctx(), id);
    if opened {
        ui.data_mut(|data| data.insert_temp(id, Search::default()));
    }
    let popup = Popup::from_toggle_button_response(&response)
        .id(id)
        .width(width.max(240.0))
        .close_behavior(PopupCloseBehavior::CloseOnClickOutside)
        .accessible_name(format!("Choose a {}", table.name));
    let picked = popup
        .show(|ui| list(ui, id, (table, offer), *choice, opened))
        .and_then(|shown| shown.inner);
    if let Some(picked) = picked {
        Popup::close_id(ui.ctx(), id);
        let changed = picked != *choice;
        *choice = picked;
        return changed;
    }
    false
}

fn hint(table: &LabelTable, offer: Offer) -> String {
    if offer == Offer::Blend {
        return format!("Which {} to blend into those above.", table.name);
    }
    let well = if (offer == Offer::Draw { best: true }) {
        "Well drawn: one that this model draws well, different for each image. "
    } else {
        ""
    };
    format!(
        "Which {} to draw. {well}Varied: a different one for each image. Any: leave it to the model.",
        table.name
    )
}

fn list(
    ui: &mut Ui,
    id: Id,
    (table, offer): (&LabelTable, Offer),
    current: Choice,
    opened: bool,
) -> Option<Choice> {
    let mut search: Search = ui.data(|data| data.get_temp(id)).unwrap_or_default();
    let title = format!("Search {} {}", table.null, plural(&table.name));
    let (up, down, enter) = ui.input(|i| {
        (i.key_pressed(Key::ArrowUp), i.key_pressed(Key::ArrowDown), i.key_pressed(Key::Enter))
    });
    let edit = TextEdit::singleline(&mut search.text)
        .hint_text(title.as_str())
        .desired_width(f32::INFINITY);
    let edit = ui.add(edit).accessible_name(format!("Search {}", plural(&table.name)));
    if opened {
        edit.request_focus();
    }
    if edit.changed() {
        search.marked = 0;
    }
    let found = matches(table, offer, &search.text);
    if down {
        search.marked = (search.marked + 1).min(found.len().saturating_sub(1));
    }
    if up {
        search.marked = search.marked.saturating_sub(1);
    }
    let mut picked = found.get(search.marked).copied().filter(|_| enter);
    if found.is_empty() {
        ui.label(
            RichText::new(format!("No {} with that name.", table.name)).color(Look::of(ui).weak),
        );
    }
    let height = ui.spacing().interact_size.y;
    ui.spacing_mut().item_spacing.y = 2.0;
    let area = ScrollArea::vertical().max_height(8.5 * height).auto_shrink([false, true]);
    area.show_rows(ui, height, found.len(), |ui, shown| {
        for place in shown {
            let choice = found[place];
            let text = name(table, choice);
            let marked = place == search.marked && !search.text.is_empty();
            let button = Button::selectable(choice == current, (text, egui::Atom::grow()));
            let response = ui.add(button.min_size(vec2(ui.available_width(), height)));
            if marked {
                let stroke = egui::Stroke::new(1.0, Look::of(ui).accent);
                ui.painter().rect_stroke(response.rect, 7.0, stroke, egui::StrokeKind::Inside);
            }
            if (up || down) && place == search.marked {
                response.scroll_to_me(None);
            }
            if response.clicked() {
                picked = Some(choice);
            }
        }
    });
    ui.data_mut(|data| data.insert_temp(id, search));
    picked
}

/// `Subject` for `subject`.
pub(super) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

pub(super) fn plural(word: &str) -> String {
    if word.ends_with('s') { format!("{word}es") } else { format!("{word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> LabelTable {
        let values = ["red apple", "pineapple", "apple pie", "cat face", "dog face"];
        LabelTable {
            name: "subject".into(),
            tensor: String::new(),
            null: 5,
            values: values.map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn the_best_matches_come_first() {
        let rows = |search| matches(&table(), Offer::Draw { best: false }, search);
        assert_eq!(rows("apple"), [Choice::Row(2), Choice::Row(0), Choice::Row(1)]);
        assert_eq!(rows("  FACE "), [Choice::Row(3), Choice::Row(4)]);
        assert_eq!(rows("va"), [Choice::Varied]);
        assert_eq!(rows("zebra"), []);
        assert_eq!(rows("").len(), 7);
        let well = Offer::Draw { best: true };
        assert_eq!(matches(&table(), well, "well"), [Choice::Best]);
        assert_eq!(matches(&table(), well, "")[0], Choice::Best);
        assert_eq!(matches(&table(), Offer::Blend, "")[..2], [Choice::Any, Choice::Row(0)]);
    }

    #[test]
    fn tables_without_names_are_searched_by_number() {
        let table = LabelTable { values: Vec::new(), null: 1000, name: "class".into(), ..table() };
        assert_eq!(matches(&table, Offer::Blend, "207")[0], Choice::Row(207));
        assert_eq!(name(&table, Choice::Row(207)), "class 207");
        assert_eq!((capital("class"), plural("class")), ("Class".into(), "classes".into()));
    }
}
