//! The values of a pickle.
//!
//! Values are stored in one list and refer to each other by index, and shared data is reference-counted, so neither depth
//! nor repetition costs anything.

use std::sync::Arc;

/// Index of a value.
pub(super) type Id = u32;

/// What a pickle can hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Arc<str>),
    /// List or tuple.
    List(Vec<Id>),
    /// Dictionary, ordered or not; also the attributes of a namespace.
    Dict(Vec<(Id, Id)>),
    /// A name, to be called or used as a value.
    Global(&'static str),
    /// Numbers in another file of the archive.
    Storage(Arc<Storage>),
    Tensor(Arc<Tensor>),
    /// A value that only Python can construct, with the name of its class or function. It is never constructed, and
    /// rejected where a tensor is needed. `state` would be its attributes.
    Opaque {
        name: Arc<str>,
        state: Option<Id>,
    },
}

/// A storage: type, file and count of its numbers.
#[derive(Debug, PartialEq)]
pub(super) struct Storage {
    pub(super) dtype: &'static str,
    pub(super) key: Arc<str>,
    /// Count, as the pickle says.
    pub(super) len: i64,
}

/// A tensor: a view into a storage.
#[derive(Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) storage: Arc<Storage>,
    pub(super) offset: i64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
    /// The values have the opposite sign of those in the storage.
    pub(super) is_negated: bool,
}

/// The finished list of values and the one that the pickle stands for.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) values: Vec<Value>,
    pub(super) root: Id,
}

impl Pickle {
    pub(super) fn value(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    /// The entries of a dictionary, or of the attributes of an object; none where it is something else.
    pub(super) fn entries(&self, id: Id) -> &[(Id, Id)] {
        match self.value(id) {
            Value::Dict(entries) => entries,
            Value::Opaque { state: Some(state), .. } => match self.value(*state) {
                Value::Dict(entries) => entries,
                _ => &[],
            },
            _ => &[],
        }
    }

    /// The entries whose keys are texts.
    pub(super) fn named(&self, id: Id) -> impl Iterator<Item = (&str, Id)> {
        self.entries(id).iter().filter_map(|&(key, value)| match self.value(key) {
            Value::Text(name) => Some((&**name, value)),
            _ => None,
        })
    }

    /// Looks a text key up in a dictionary.
    pub(super) fn get(&self, id: Id, key: &str) -> Option<Id> {
        self.named(id).find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}
