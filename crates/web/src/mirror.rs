//! The app for screen readers: its controls as elements of the document, lying invisibly over the canvas where they are
//! painted. They take no pointer, so that a click at their place goes to the canvas; what an assistive technology does
//! to them is sent to the app.

use std::cell::RefCell;
use std::collections::HashMap;

use wasm_bindgen::prelude::*;
use web_sys::{Event, HtmlCanvasElement, HtmlElement, HtmlInputElement, HtmlTextAreaElement};
use web_sys::{KeyboardEvent, Node};

use diffmoe_viewer::announce;
use diffmoe_viewer::mirror::{Ask, Element, Kind, Mirror, Range, Requests, Surface};
use diffmoe_viewer::session::Session;

thread_local! {
    /// Objects of the browser stay on this thread.
    static PAGE: RefCell<Option<Page>> = const { RefCell::new(None) };
    /// What was said last: how it goes, and what is wrong; and how many notes there were by then.
    static SAID: RefCell<(String, String, usize)> = RefCell::default();
}

struct Page {
    root: HtmlElement,
    canvas: HtmlCanvasElement,
    shown: HashMap<u64, (HtmlElement, Element)>,
}

/// The page's document.
struct Document;

impl Surface for Document {
    fn show(&mut self, elements: &[Element], focus: Option<u64>) {
        PAGE.with_borrow_mut(|page| {
            if let Some(page) = page {
                // A document that refuses leaves the app as it is.
                let _ = page.show(elements, focus);
            }
        });
    }
}

/// Shows an app and its changes from now on.
pub(super) fn install(ctx: &egui::Context, canvas: HtmlCanvasElement) {
    let document = web_sys::window().and_then(|window| window.document());
    let Some(root) = document.and_then(|document| document.get_element_by_id("mirror")) else {
        return;
    };
    let root: HtmlElement = root.unchecked_into();
    let requests = Requests::default();
    for kind in ["click", "focusin", "keydown", "change"] {
        listen(&root, kind, ctx.clone(), requests.clone());
    }
    PAGE.set(Some(Page { root, canvas, shown: HashMap::new() }));
    ctx.add_plugin(Mirror::new(Document, requests));
}

/// Sends what happens to the elements to the app.
fn listen(root: &HtmlElement, kind: &'static str, ctx: egui::Context, requests: Requests) {
    let heard = Closure::<dyn FnMut(Event)>::new(move |event: Event| {
        let target = event.target().and_then(|target| target.dyn_into::<HtmlElement>().ok());
        let Some(target) = target else { return };
        let Some(id) = target.id().strip_prefix('m').and_then(|id| id.parse().ok()) else { return };
        if let Some(ask) = asked(kind, &event, &target) {
            requests.ask(id, ask);
            ctx.request_repaint();
        }
    });
    // The page has these elements as long as it lives.
    let _ = root.add_event_listener_with_callback(kind, heard.as_ref().unchecked_ref());
    heard.forget();
}

/// What an event asks for.
fn asked(kind: &str, event: &Event, target: &HtmlElement) -> Option<Ask> {
    match kind {
        "focusin" => Some(Ask::Focus),
        "change" => text_of(target).map(Ask::Text),
        // A field is written in, not pressed.
        "click" if text_of(target).is_none() => Some(Ask::Click),
        "keydown" if text_of(target).is_none() => {
            let ask = match event.unchecked_ref::<KeyboardEvent>().key().as_str() {
                "Enter" | " " => Ask::Click,
                "ArrowUp" | "ArrowRight" => Ask::Increment,
                "ArrowDown" | "ArrowLeft" => Ask::Decrement,
                _ => return None,
            };
            event.prevent_default();
            Some(ask)
        }
        _ => None,
    }
}

/// What was written into a field; `None` where it is no field.
fn text_of(element: &HtmlElement) -> Option<String> {
    let line = element.dyn_ref::<HtmlInputElement>().map(HtmlInputElement::value);
    line.or_else(|| element.dyn_ref::<HtmlTextAreaElement>().map(HtmlTextAreaElement::value))
}

impl Page {
    fn show(&mut self, elements: &[Element], focus: Option<u64>) -> Result<(), JsValue> {
        let tags: HashMap<u64, &str> = elements.iter().map(|e| (e.id, tag(&e.kind))).collect();
        self.shown.retain(|id, (node, before)| {
            let stays = tags.get(id) == Some(&tag(&before.kind));
            if !stays {
                node.remove();
            }
            stays
        });
        // The next of those that were there, so that what stays in place is not moved: moving takes its focus.
        let mut next = self.root.first_child();
        for element in elements {
            let node = self.node(element)?;
            if next.as_ref().is_some_and(|next| next.is_same_node(Some(&node))) {
                next = node.next_sibling();
            } else {
                self.root.insert_before(&node, next.as_ref())?;
            }
        }
        match focus.filter(|id| self.shown.contains_key(id)) {
            Some(id) => self.canvas.set_attribute("aria-activedescendant", &format!("m{id}")),
            None => self.canvas.remove_attribute("aria-activedescendant"),
        }
    }

    /// The node of an element, brought up to date.
    fn node(&mut self, element: &Element) -> Result<Node, JsValue> {
        let node = match self.shown.remove(&element.id) {
            Some((node, before)) if before == *element => {
                let kept = node.clone().unchecked_into();
                self.shown.insert(element.id, (node, before));
                return Ok(kept);
            }
            Some((node, _)) => node,
            None => {
                let document = self.root.owner_document().ok_or("no document")?;
                let node: HtmlElement =
                    document.create_element(tag(&element.kind))?.unchecked_into();
                node.set_id(&format!("m{}", element.id));
                node
            }
        };
        describe(&node, element)?;
        let kept = node.clone().unchecked_into();
        self.shown.insert(element.id, (node, element.clone()));
        Ok(kept)
    }
}

fn tag(kind: &Kind) -> &'static str {
    match kind {
        Kind::Text => "span",
        Kind::Heading => "h2",
        Kind::Field { multiline: false, .. } => "input",
        Kind::Field { multiline: true, .. } => "textarea",
        _ => "div",
    }
}

/// Writes an element's name, role, state and place.
fn describe(node: &HtmlElement, element: &Element) -> Result<(), JsValue> {
    for (property, value) in ["left", "top", "width", "height"].into_iter().zip(element.rect) {
        node.style().set_property(property, &format!("{value:.0}px"))?;
    }
    let set = |name: &str, value: Option<String>| match value {
        Some(value) => node.set_attribute(name, &value),
        None => node.remove_attribute(name),
    };
    let flag = |on: Option<bool>| on.map_or("mixed", |on| if on { "true" } else { "false" });
    let (mut checked, mut pressed, mut range) = (None, None, None);
    let role = match &element.kind {
        Kind::Text | Kind::Heading => {
            node.set_text_content(Some(&element.name));
            return Ok(());
        }
        Kind::Field { text, .. } => {
            write_field(node, text);
            None
        }
        Kind::Image => Some("img"),
        Kind::Link => Some("link"),
        Kind::Button(on) => {
            pressed = on.map(|on| flag(Some(on)));
            Some("button")
        }
        Kind::CheckBox(on) => {
            checked = Some(flag(*on));
            Some("checkbox")
        }
        Kind::Radio(on) => {
            checked = Some(flag(Some(*on)));
            Some("radio")
        }
        Kind::Slider(of) => {
            range = Some(*of);
            Some("slider")
        }
        Kind::Number(of) => {
            range = Some(*of);
            Some("spinbutton")
        }
        Kind::Progress(of) => {
            range = Some(*of);
            Some("progressbar")
        }
    };
    set("role", role.map(str::to_owned))?;
    set("aria-label", Some(element.name.clone()))?;
    set("aria-description", element.value.clone().filter(|_| range.is_none()))?;
    set("aria-valuetext", element.value.clone().filter(|_| range.is_some()))?;
    set("aria-disabled", element.disabled.then(|| "true".to_owned()))?;
    set("aria-checked", checked.map(str::to_owned))?;
    set("aria-pressed", pressed.map(str::to_owned))?;
    let Range { now, min, max } = range.unwrap_or_default();
    set("aria-valuenow", now.map(|now| now.to_string()))?;
    set("aria-valuemin", min.map(|min| min.to_string()))?;
    set("aria-valuemax", max.map(|max| max.to_string()))?;
    let is_still = matches!(element.kind, Kind::Image | Kind::Progress(_));
    // The keyboard's way through the controls is the app's own; these take the focus when they are asked to.
    set("tabindex", (!is_still).then(|| "-1".to_owned()))
}

/// Puts the app's text into a field, unless somebody is writing in it.
fn write_field(node: &HtmlElement, text: &str) {
    let active = node.owner_document().and_then(|document| document.active_element());
    if active.is_some_and(|active| active.is_same_node(Some(node))) {
        return;
    }
    if let Some(field) = node.dyn_ref::<HtmlInputElement>() {
        field.set_value(text);
    } else if let Some(field) = node.dyn_ref::<HtmlTextAreaElement>() {
        field.set_value(text);
    }
}

/// Says how it goes, what came of something, and what is wrong, where that has changed.
pub(super) fn announce(session: &Session) {
    let say = |id: &str, text: &str| {
        let document = web_sys::window().and_then(|window| window.document());
        if let Some(region) = document.and_then(|document| document.get_element_by_id(id)) {
            region.set_text_content(Some(text));
        }
    };
    let (status, alert) = (announce::status(session), announce::alert(session));
    SAID.with_borrow_mut(|said| {
        let mut text = Vec::new();
        if said.0 != status {
            said.0.clone_from(&status);
            text.push(status.as_str());
        }
        if said.2 != session.noted() {
            said.2 = session.noted();
            text.extend(Some(announce::news(session)).filter(|news| !news.is_empty()));
        }
        if !text.is_empty() {
            say("said", &text.join(" "));
        }
        if said.1 != alert {
            say("warned", alert);
            alert.clone_into(&mut said.1);
        }
    });
}
