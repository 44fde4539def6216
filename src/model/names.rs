//! Choices by name: each variant of such an enum states its name, title and hint once, and the command line, links,
//! the JavaScript API and the controls of the viewer read them from here.

/// A name that is not in its table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {given:?}: expected {expected}")]
pub struct UnknownName {
    what: &'static str,
    given: String,
    expected: String,
}

impl UnknownName {
    /// For a table of `names`.
    pub fn new<'a>(
        what: &'static str,
        given: &str,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self { what, given: given.to_owned(), expected: one_of(names) }
    }
}

/// Names as a list for people: `a`, `a or b`, `a, b or c`.
pub fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    match names.as_slice() {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

/// Declares an enum as a table of choices: `Variant = ("name", "Title", "One-line hint.")`. The hint is the variant's
/// documentation. `ALL`, `name`, `title`, `hint`, `FromStr` and `Display` follow, so a new row is known everywhere.
macro_rules! choices {
    (
        $(#[$meta:meta])*
        pub enum $Name:ident: $what:literal {
            $($(#[$of_variant:meta])* $Variant:ident = ($name:literal, $title:literal, $hint:literal),)+
        }
    ) => {
        $(#[$meta])*
        pub enum $Name {
            $(#[doc = $hint] $(#[$of_variant])* $Variant,)+
        }

        impl $Name {
            /// The whole table, in the order of its rows.
            pub const ALL: &'static [Self] = &[$(Self::$Variant),+];

            /// Name in options, links and files.
            pub fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name),+ }
            }

            /// Title of a control.
            pub fn title(self) -> &'static str {
                match self { $(Self::$Variant => $title),+ }
            }

            /// What it does, in a line or two.
            pub fn hint(self) -> &'static str {
                match self { $(Self::$Variant => $hint),+ }
            }
        }

        impl std::str::FromStr for $Name {
            type Err = $crate::model::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let known = || Self::ALL.iter().map(|choice| choice.name());
                let found = Self::ALL.iter().find(|choice| choice.name() == text);
                found.copied().ok_or_else(|| $crate::model::UnknownName::new($what, text, known()))
            }
        }

        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(crate) use choices;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RoutingRule;

    #[test]
    fn names_lead_to_choices_and_back() {
        for rule in RoutingRule::ALL {
            assert_eq!(rule.to_string().parse(), Ok(*rule));
            assert!(!rule.title().is_empty() && rule.hint().ends_with('.'));
        }
        let error = "dice".parse::<RoutingRule>().unwrap_err().to_string();
        let names = one_of(RoutingRule::ALL.iter().map(|rule| rule.name()));
        assert_eq!(error, format!("unknown routing rule \"dice\": expected {names}"));
    }

    #[test]
    fn lists_read_well() {
        assert_eq!(one_of(["a"]), "a");
        assert_eq!(one_of(["a", "b", "c"]), "a, b or c");
    }
}
