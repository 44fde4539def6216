//! The app as a page shows it to screen readers: as a list of elements, and by what it says without being asked.

use std::sync::Mutex;

use diffmoe_viewer::announce;
use diffmoe_viewer::mirror::{Ask, Element, Kind, Mirror, Requests, Surface};

use super::*;

type Elements = Arc<Mutex<Vec<Element>>>;

/// Keeps what is shown.
struct Kept(Elements);

impl Surface for Kept {
    fn show(&mut self, elements: &[Element], _focus: Option<u64>) {
        *self.0.lock().expect("no panic") = elements.to_vec();
    }
}

/// The element of a name, once it is shown.
fn named(harness: &mut Shown, elements: &Elements, name: &str) -> Element {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let found = elements.lock().expect("no panic").iter().find(|e| e.name == name).cloned();
        if let Some(element) = found {
            return element;
        }
        assert!(Instant::now() < end, "no {name}: {:#?}", elements.lock().expect("no panic"));
        harness.step();
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn mirrored() -> (Shown, Elements, Requests) {
    let mut harness = opened(DESKTOP, tiny());
    let (elements, requests) = (Elements::default(), Requests::default());
    harness.ctx.add_plugin(Mirror::new(Kept(elements.clone()), requests.clone()));
    harness.step();
    (harness, elements, requests)
}

#[test]
fn controls_have_their_kind_name_and_place() {
    let (mut harness, elements, _) = mirrored();
    let generate = named(&mut harness, &elements, "Generate");
    assert_eq!((generate.kind, generate.disabled), (Kind::Button(None), false));
    let [left, top, width, height] = generate.rect;
    assert!(left >= 0.0 && top >= 0.0 && width > 20.0 && height > 10.0, "{:?}", generate.rect);
    let url = named(&mut harness, &elements, "URL of a model file");
    assert!(matches!(url.kind, Kind::Field { multiline: false, .. }), "{:?}", url.kind);
    let elements = elements.lock().expect("no panic");
    let mut ids: Vec<u64> = elements.iter().map(|element| element.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), elements.len(), "each once");
    let nameless: Vec<_> = elements.iter().filter(|element| element.name.is_empty()).collect();
    assert!(nameless.is_empty(), "{nameless:#?}");
    assert!(elements.iter().any(|element| element.kind == Kind::Text));
}

#[test]
fn what_is_asked_of_an_element_happens() {
    let (mut harness, elements, requests) = mirrored();
    assert_eq!(announce::status(harness.state().app().session()), "Ready.");
    let generate = named(&mut harness, &elements, "Generate");
    requests.ask(generate.id, Ask::Click);
    complete(&mut harness);
    let said = announce::status(harness.state().app().session());
    assert!(said.starts_with("Finished "), "{said}");
    let url = named(&mut harness, &elements, "URL of a model file");
    requests.ask(url.id, Ask::Text("https://example.org/a".to_owned()));
    until(&mut harness, "the text", |_| {
        let elements = elements.lock().expect("no panic");
        elements
            .iter()
            .any(|e| matches!(&e.kind, Kind::Field { text, .. } if text == "https://example.org/a"))
    });
    assert_eq!(announce::alert(harness.state().app().session()), "");
}
