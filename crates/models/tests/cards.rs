//! The cards of the models open with what model hubs read.

use std::path::Path;

/// Names that hubs know for what a model draws from.
const TAGS: [&str; 2] = ["unconditional-image-generation", "text-to-image"];

#[test]
fn every_card_has_the_front_matter_of_hubs() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    for name in diffmoe_models::names() {
        let card = std::fs::read_to_string(assets.join(name).with_extension("md")).expect("a card");
        let front = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n"));
        let (front, body) = front.unwrap_or_else(|| panic!("{name}: no front matter"));
        assert!(body.starts_with(&format!("# {name}")), "{name}: no title");
        let mut values: Vec<(&str, Vec<&str>)> = Vec::new();
        for line in front.lines() {
            match (line.strip_prefix("- "), line.split_once(':')) {
                (Some(item), _) => values.last_mut().expect("a key before its list").1.push(item),
                (None, Some((key, value))) => {
                    let value = value.trim();
                    let first = if value.is_empty() { Vec::new() } else { vec![value] };
                    values.push((key, first));
                }
                _ => panic!("{name}: {line:?} is neither a key nor an item of a list"),
            }
        }
        let of = |key: &str| {
            let found = values.iter().find(|(k, _)| *k == key);
            found.unwrap_or_else(|| panic!("{name}: no {key}")).1.clone()
        };
        assert_eq!(of("license"), ["apache-2.0", "mit"], "{name}");
        assert_eq!(of("library_name"), ["diffmoe"], "{name}");
        assert!(of("tags").contains(&"mixture-of-experts"), "{name}");
        let model = diffmoe_models::open(name).expect("a model").expect("it opens");
        let wanted = TAGS[usize::from(model.config().text.is_some())];
        assert_eq!(of("pipeline_tag"), [wanted], "{name}");
    }
}
