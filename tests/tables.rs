//! The tables of choices compared with the hand-written types of the JavaScript API and the manuals.

use std::path::Path;

use diffmoe::model::RoutingRule;
use diffmoe::pipeline::Backend;
use diffmoe::scheduler::{ALL, OptionValues};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).expect("a file of the repository")
}

/// `"a" | "b"`
fn union<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" | ")
}

#[test]
fn the_types_of_the_javascript_api_have_every_choice() {
    let types = file("web/diffmoe.d.ts");
    let expect = |line: String| assert!(types.contains(&line), "web/diffmoe.d.ts lacks {line}");
    expect(format!("scheduler?: {};", union(ALL.iter().map(|info| info.name))));
    expect(format!("routing?: {};", union(RoutingRule::ALL.iter().map(|rule| rule.name()))));
    expect(format!("backend?: {};", union(Backend::ALL.iter().map(|backend| backend.name()))));
    for option in ALL.iter().flat_map(|info| info.options) {
        let values = match option.values {
            OptionValues::Number { .. } => "number".to_owned(),
            OptionValues::Flag => "boolean".to_owned(),
            OptionValues::Names(names) => union(names.iter().copied()),
        };
        expect(format!("{}?: {values};", option.camel_case()));
    }
}

/// The comment above an option of the JavaScript API.
fn comment<'a>(types: &'a str, option: &str) -> &'a str {
    let end = types.find(&format!("{option}?:")).expect("an option");
    types[..end].rsplit("/**").next().unwrap_or_default()
}

/// The comment above an option names the schedulers that have it, and that of the routing rule explains each.
#[test]
fn the_types_of_the_javascript_api_say_whose_option_it_is() {
    let types = file("web/diffmoe.d.ts");
    for rule in RoutingRule::ALL {
        let comment = comment(&types, "routing");
        assert!(comment.contains(&format!("`{rule}`")), "{rule}: {comment}");
    }
    for option in ALL.iter().flat_map(|info| info.options) {
        let comment = comment(&types, &option.camel_case());
        for info in ALL {
            let has = info.options.iter().any(|other| other.name == option.name);
            let says = comment.contains(&format!("`{}`", info.name));
            assert_eq!(says, has, "{} and {}: {comment}", option.name, info.name);
        }
    }
}

#[test]
fn the_manuals_name_every_scheduler() {
    for manual in ["README.md", "web/README.md", "python/README.md", "docs/models.md"] {
        let text = file(manual);
        for info in ALL {
            let (name, title) = (format!("`{}`", info.name), info.title);
            assert!(text.contains(&name) || text.contains(title), "{manual} lacks {}", info.name);
        }
    }
}

#[test]
fn the_python_package_has_every_routing_rule() {
    let source = file("python/src/diffmoe/routing.py");
    let list = source.lines().find_map(|line| line.strip_prefix("RULES = ")).expect("its rules");
    for rule in RoutingRule::ALL {
        assert!(list.contains(&format!("{:?}", rule.name())), "{list} lacks {rule}");
    }
    assert_eq!(list.split(',').count(), RoutingRule::ALL.len(), "{list}");
}
