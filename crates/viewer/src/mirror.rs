//! The accessibility tree of the app as a flat list of elements, for a page: eframe hands the tree to no one there.
//!
//! [`Mirror`] is a plugin of egui. It shows the elements on a [`Surface`], such as the page's document, and brings back
//! what an assistive technology asks of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use egui::accesskit::{
    Action, ActionData, ActionRequest, Node, NodeId, Role, Toggled, TreeId, TreeUpdate,
};
use egui::{Context, Event, FullOutput, RawInput};
use web_time::Instant;

/// A document is changed no more often than this.
const PAUSE: Duration = Duration::from_millis(100);

/// What an element is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Text that is there to be read.
    Text,
    /// A heading.
    Heading,
    /// An image with a description.
    Image,
    /// Something to press; whether it stays pressed, where it does.
    Button(Option<bool>),
    /// A check box; `None` where it is neither.
    CheckBox(Option<bool>),
    /// One of several choices.
    Radio(bool),
    /// A link.
    Link,
    /// A number between two others.
    Slider(Range),
    /// A number to be entered.
    Number(Range),
    /// A field for text, of one line or of several.
    Field {
        /// What is in it.
        text: String,
        /// Whether it has several lines.
        multiline: bool,
    },
    /// How much is done.
    Progress(Range),
}

/// A value and its bounds, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Range {
    /// The value.
    pub now: Option<f64>,
    /// The least.
    pub min: Option<f64>,
    /// The most.
    pub max: Option<f64>,
}

/// An element of the app.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// The same for the same control in every frame.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// What it is called; the text, for a text.
    pub name: String,
    /// Its value in words, where that says more than the number.
    pub value: Option<String>,
    /// Whether it cannot be used now.
    pub disabled: bool,
    /// Left, top, width and height in points of the page.
    pub rect: [f32; 4],
}

/// What is asked of an element.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// To be pressed.
    Click,
    /// To take the keyboard.
    Focus,
    /// A larger number.
    Increment,
    /// A smaller one.
    Decrement,
    /// This text.
    Text(String),
}

/// Requests on their way to the app. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Mutex<Vec<ActionRequest>>>);

impl Requests {
    /// Asks something of an element; the app answers in its next frame.
    pub fn ask(&self, element: u64, ask: Ask) {
        let (action, data) = match ask {
            Ask::Click => (Action::Click, None),
            Ask::Focus => (Action::Focus, None),
            Ask::Increment => (Action::Increment, None),
            Ask::Decrement => (Action::Decrement, None),
            Ask::Text(text) => (Action::SetValue, Some(ActionData::Value(text.into()))),
        };
        let (target_tree, target_node) = (TreeId::ROOT, NodeId(element));
        let request = ActionRequest { action, target_tree, target_node, data };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }

    fn take(&self) -> Vec<ActionRequest> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where elements are shown.
pub trait Surface: Send + Sync + 'static {
    /// Shows these elements in this order instead of those before; `focus` is the one that has the keyboard.
    fn show(&mut self, elements: &[Element], focus: Option<u64>);
}

/// The plugin.
pub struct Mirror<S> {
    surface: S,
    requests: Requests,
    shown: (Vec<Element>, Option<u64>),
    at: Option<Instant>,
}

impl<S: Surface> Mirror<S> {
    /// Shows the app on a surface, which sends what is asked to `requests`.
    pub fn new(surface: S, requests: Requests) -> Self {
        Self { surface, requests, shown: (Vec::new(), None), at: None }
    }
}

impl<S: Surface> egui::Plugin for Mirror<S> {
    fn debug_name(&self) -> &'static str {
        "accessibility mirror"
    }

    fn setup(&mut self, ctx: &Context) {
        ctx.enable_accesskit();
    }

    fn input_hook(&mut self, _ctx: &Context, input: &mut RawInput) {
        input.events.extend(self.requests.take().into_iter().map(Event::AccessKitActionRequest));
    }

    fn output_hook(&mut self, ctx: &Context, output: &mut FullOutput) {
        let Some(update) = &output.platform_output.accesskit_update else { return };
        let focus = Some(update.focus.0).filter(|id| update.nodes.iter().any(|n| n.0.0 == *id));
        let now = (elements(update, ctx.zoom_factor()), focus);
        if now == self.shown {
            return;
        }
        let since = self.at.map_or(PAUSE, |at| at.elapsed());
        if since < PAUSE {
            return ctx.request_repaint_after(PAUSE.saturating_sub(since));
        }
        self.surface.show(&now.0, now.1);
        (self.shown, self.at) = (now, Some(Instant::now()));
    }
}

/// The elements of a tree in reading order; a point of the app has `scale` points of the page.
pub fn elements(update: &TreeUpdate, scale: f32) -> Vec<Element> {
    let nodes: HashMap<NodeId, &Node> = update.nodes.iter().map(|(id, node)| (*id, node)).collect();
    let mut found = Vec::new();
    let mut open: Vec<NodeId> = update.tree.iter().map(|tree| tree.root).collect();
    while let Some(id) = open.pop() {
        let Some(node) = nodes.get(&id) else { continue };
        open.extend(node.children().iter().rev());
        found.extend(element(id, node, &nodes, scale));
    }
    found
}

/// What a node has to say for itself.
fn element(id: NodeId, node: &Node, nodes: &HashMap<NodeId, &Node>, scale: f32) -> Option<Element> {
    let text =
        |text: Option<&str>| text.map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
    let of_labels = || {
        let labels = node.labelled_by().iter().filter_map(|id| nodes.get(id));
        let names = labels.filter_map(|label| text(label.label()).or_else(|| text(label.value())));
        Some(names.collect::<Vec<_>>().join(" ")).filter(|name| !name.is_empty())
    };
    let name = text(node.label()).or_else(of_labels).or_else(|| text(node.placeholder()));
    let value = text(node.value());
    let toggled = node.toggled().and_then(|toggled| match toggled {
        Toggled::True => Some(true),
        Toggled::False => Some(false),
        Toggled::Mixed => None,
    });
    let range = Range {
        now: node.numeric_value(),
        min: node.min_numeric_value(),
        max: node.max_numeric_value(),
    };
    let kind = match node.role() {
        Role::Label | Role::Paragraph => Kind::Text,
        Role::Heading => Kind::Heading,
        Role::Image => Kind::Image,
        Role::CheckBox | Role::Switch => Kind::CheckBox(toggled),
        Role::RadioButton => Kind::Radio(toggled == Some(true)),
        Role::Link => Kind::Link,
        Role::Slider => Kind::Slider(range),
        Role::SpinButton | Role::NumberInput => Kind::Number(range),
        Role::TextInput | Role::SearchInput | Role::PasswordInput | Role::MultilineTextInput => {
            let multiline = node.role() == Role::MultilineTextInput;
            Kind::Field { text: node.value().unwrap_or_default().to_owned(), multiline }
        }
        Role::ProgressIndicator | Role::Meter => Kind::Progress(range),
        // Menus, tabs, lists to choose from: all that is pressed.
        _ if node.supports_action(Action::Click) => Kind::Button(toggled),
        _ => return None,
    };
    let (name, value) = match kind {
        // A text is its value.
        Kind::Text | Kind::Heading => (value.or(name)?, None),
        Kind::Field { .. } => (name.unwrap_or_default(), None),
        Kind::Image => (name?, value),
        // Without a name or a value there is nothing that could be said.
        _ => match (name, value) {
            (None, None) => return None,
            (None, Some(value)) => (value, None),
            (Some(name), value) => (name, value),
        },
    };
    let rect = node.bounds().map_or([0.0; 4], |rect| {
        [rect.x0, rect.y0, rect.x1 - rect.x0, rect.y1 - rect.y0].map(|v| v as f32 * scale)
    });
    let disabled = node.is_disabled();
    Some(Element { id: id.0, kind, name, value, disabled, rect })
}
