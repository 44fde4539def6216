//! A reader for the pickles of PyTorch checkpoints that executes nothing.
//!
//! A pickle is a program for a small stack machine and may call anything. This machine supports the opcodes that
//! `torch.save` writes (protocol 2) and the few globals needed for tensors. Other globals become opaque values
//! ([`Value::Opaque`]); those that only an attack needs are rejected. No crate does this: pickle crates do not support
//! tensors, and crates for tensors bring a framework.
//!
//! A small pickle can describe any number of values, so values and list entries have a budget.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::names::Name;
use super::value::{Id, Pickle, Storage, Tensor, Value};

/// Why a pickle was refused, as the end of a sentence that begins with the file.
pub(super) type Refusal = String;

type Read<T> = Result<T, Refusal>;

/// Longest pickle that is read: those of models of thousands of tensors have less than a megabyte.
const MAX_BYTES: usize = 32 << 20;

/// Values and list entries that any pickle may have. Beyond it, one for three bytes: a tensor takes about 35 of them and
/// more than a hundred bytes.
const FREE: usize = 500_000;

/// Most dimensions of a tensor, as in PyTorch.
const MAX_DIMENSIONS: usize = 64;

impl Pickle {
    /// Reads a pickle.
    pub(super) fn read(bytes: &[u8]) -> Read<Self> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("its description of {} bytes is too long", bytes.len()));
        }
        let machine = Machine {
            bytes,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            namespaces: HashSet::new(),
            left: FREE + bytes.len() / 3,
        };
        machine.run()
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<u32>,
    memo: HashMap<u32, Id>,
    /// Dictionaries whose entries are the attributes of an object.
    namespaces: HashSet<Id>,
    /// Values, list entries and marks that may still be made.
    left: usize,
}

impl Machine<'_> {
    fn run(mut self) -> Read<Pickle> {
        loop {
            let op = self.take::<1>()?[0];
            match op {
                // PROTO
                0x80 => {
                    let version = self.take::<1>()?[0];
                    if version != 2 {
                        return Err(format!(
                            "it is a pickle of protocol {version}; save it with torch.save's default, protocol 2"
                        ));
                    }
                }
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Pickle { values: self.values, root });
                }
                b'(' => {
                    self.charge(1)?;
                    self.marks.push(self.stack.len() as u32);
                }
                b'0' => drop(self.pop()?),
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'J' | b'K' | b'M' | b'G' | 0x8a => self.number(op)?,
                b'X' => {
                    let len = u32::from_le_bytes(self.take()?) as usize;
                    let text = self.text(len)?.into();
                    self.push(Value::Text(text))?;
                }
                b'c' => self.global()?,
                b'Q' => self.storage()?,
                b'q' | b'r' | b'h' | b'j' => self.remember(op)?,
                b'}' => self.push(Value::Dict(Vec::new()))?,
                b']' | b')' => self.push(Value::List(Vec::new()))?,
                b't' => {
                    let items = self.since_mark()?;
                    self.list(items)?;
                }
                0x85..=0x87 => {
                    let first = self.stack.len().checked_sub(usize::from(op - 0x84));
                    let items = self.stack.split_off(first.ok_or_else(cut_off)?);
                    self.list(items)?;
                }
                b'a' | b'e' | b's' | b'u' => self.extend(op)?,
                b'R' | 0x81 => self.call()?,
                b'b' => self.build()?,
                other => {
                    return Err(format!(
                        "its opcode 0x{other:02x} is not one that torch.save writes"
                    ));
                }
            }
        }
    }

    /// Takes what is made from the budget.
    fn charge(&mut self, count: usize) -> Read<()> {
        self.left = self.left.checked_sub(count).ok_or_else(|| {
            format!(
                "its description of {} bytes expands to far more values than tensors need, as in an attack on memory",
                self.bytes.len()
            )
        })?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Read<[u8; N]> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        self.at += N;
        bytes.copied().ok_or_else(cut_off)
    }

    fn text(&mut self, len: usize) -> Read<&str> {
        let end = self.at.checked_add(len).ok_or_else(cut_off)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(cut_off)?;
        self.at = end;
        std::str::from_utf8(bytes).map_err(|_| "a name in it is not text".to_owned())
    }

    fn line(&mut self) -> Read<String> {
        let rest = self.bytes.get(self.at..).ok_or_else(cut_off)?;
        let len = rest.iter().position(|&b| b == b'\n').ok_or_else(cut_off)?;
        let text = self.text(len)?.to_owned();
        self.at += 1;
        Ok(text)
    }

    fn push(&mut self, value: Value) -> Read<()> {
        self.charge(1)?;
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    fn list(&mut self, items: Vec<Id>) -> Read<()> {
        self.charge(items.len())?;
        self.push(Value::List(items))
    }

    fn value(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    fn pop(&mut self) -> Read<Id> {
        // A mark is not a value: what is below it must stay.
        if self.marks.last().is_some_and(|&mark| mark as usize == self.stack.len()) {
            return Err(cut_off());
        }
        self.stack.pop().ok_or_else(cut_off)
    }

    fn since_mark(&mut self) -> Read<Vec<Id>> {
        let mark = self.marks.pop().map(|mark| mark as usize);
        let mark = mark.filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or_else(cut_off)?))
    }

    fn number(&mut self, op: u8) -> Read<()> {
        let value = match op {
            b'J' => Value::Int(i32::from_le_bytes(self.take()?).into()),
            b'K' => Value::Int(self.take::<1>()?[0].into()),
            b'M' => Value::Int(u16::from_le_bytes(self.take()?).into()),
            b'G' => Value::Float(f64::from_be_bytes(self.take()?)),
            _ => {
                let len = usize::from(self.take::<1>()?[0]);
                let bytes = self.bytes.get(self.at..self.at + len).ok_or_else(cut_off)?;
                self.at += len;
                if len > 8 {
                    // Such as a seed of 64 bits. No count or index is as large.
                    let name = "a whole number of more than 63 bits".into();
                    return self.push(Value::Opaque { name, state: None });
                }
                // Little-endian two's complement: the last byte has the sign.
                let is_negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let mut all = [if is_negative { 0xff } else { 0 }; 8];
                all[..len].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(all))
            }
        };
        self.push(value)
    }

    fn global(&mut self) -> Read<()> {
        let (module, name) = (self.line()?, self.line()?);
        match Name::of(&module, &name) {
            Name::Known(name) => self.push(Value::Global(name)),
            Name::Foreign(name) => self.push(Value::Opaque { name: name.into(), state: None }),
            Name::Hostile(name) => Err(format!(
                "it refers to {name}, which tensors do not need. Nothing was executed. If you trust it, load it \
                 in Python and save its state_dict alone"
            )),
        }
    }

    /// The reference to a storage: ("storage", type, key, device, count).
    fn storage(&mut self) -> Read<()> {
        let id = self.pop()?;
        let wrong = || "a reference to tensor data in it is damaged".to_owned();
        let Value::List(parts) = self.value(id) else { return Err(wrong()) };
        let &[kind, dtype, key, _device, len] = &parts[..] else { return Err(wrong()) };
        let value = match [kind, dtype, key, len].map(|id| self.value(id)) {
            // Complex or quantised numbers.
            [_, Value::Opaque { name, .. }, ..] => {
                Value::Opaque { name: name.clone(), state: None }
            }
            [Value::Text(kind), Value::Global(dtype), Value::Text(key), Value::Int(len)]
                if **kind == *"storage" =>
            {
                let dtype = dtype.strip_prefix("torch.").and_then(|d| d.strip_suffix("Storage"));
                let dtype = dtype.ok_or_else(wrong)?;
                Value::Storage(Arc::new(Storage { dtype, key: key.clone(), len: *len }))
            }
            _ => return Err(wrong()),
        };
        self.push(value)
    }

    fn remember(&mut self, op: u8) -> Read<()> {
        let slot = match op {
            b'q' | b'h' => self.take::<1>()?[0].into(),
            _ => u32::from_le_bytes(self.take()?),
        };
        if matches!(op, b'q' | b'r') {
            let top = *self.stack.last().ok_or_else(cut_off)?;
            self.memo.insert(slot, top);
        } else {
            self.stack.push(*self.memo.get(&slot).ok_or_else(cut_off)?);
        }
        Ok(())
    }

    /// Appends to a list or a dictionary.
    fn extend(&mut self, op: u8) -> Read<()> {
        let items = match op {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.since_mark()?,
        };
        self.charge(items.len())?;
        let target = *self.stack.last().ok_or_else(cut_off)?;
        match &mut self.values[target as usize] {
            Value::List(list) if matches!(op, b'a' | b'e') => list.extend(items),
            Value::Dict(dict) if matches!(op, b's' | b'u') && items.len().is_multiple_of(2) => {
                dict.extend(items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
            }
            // What a class of lists or dictionaries would hold.
            Value::Opaque { .. } => {}
            _ => {
                return Err(
                    "it appends to something that is neither a list nor a dictionary".into()
                );
            }
        }
        Ok(())
    }

    /// A call: only those that build tensors and empty containers have a meaning, and we give it to them.
    fn call(&mut self) -> Read<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let name = match self.value(function) {
            Value::Global(name) => *name,
            Value::Opaque { name, .. } => {
                let name = name.clone();
                return self.push(Value::Opaque { name, state: None });
            }
            _ => {
                return Err(
                    "it calls something that is not a function; nothing was executed".into()
                );
            }
        };
        let Value::List(arguments) = self.value(arguments) else {
            return Err(format!("it calls {name} without arguments"));
        };
        let value = match (name, &arguments[..]) {
            ("argparse.Namespace", []) => {
                self.namespaces.insert(self.values.len() as Id);
                Value::Dict(Vec::new())
            }
            ("collections.OrderedDict", []) | ("collections.defaultdict", [] | [_]) => {
                Value::Dict(Vec::new())
            }
            (
                "torch._utils._rebuild_tensor_v2",
                &[storage, offset, shape, strides, ref rest @ ..],
            ) if rest.len() <= 3 => {
                self.tensor([storage, offset, shape, strides], rest.get(2).copied())?
            }
            // The parameter is its tensor, and a shape its list.
            ("torch._utils._rebuild_parameter", &[same, ..]) | ("torch.Size", &[same]) => {
                self.stack.push(same);
                return Ok(());
            }
            _ => {
                return Err(format!("it calls {name} unlike torch.save; nothing was executed"));
            }
        };
        self.push(value)
    }

    fn tensor(&self, parts: [Id; 4], metadata: Option<Id>) -> Read<Value> {
        let numbers = |value: &Value| -> Option<Vec<i64>> {
            let Value::List(items) = value else { return None };
            let number = |&id: &Id| match self.value(id) {
                Value::Int(n) => Some(*n),
                _ => None,
            };
            if items.len() > MAX_DIMENSIONS {
                return None;
            }
            items.iter().map(number).collect()
        };
        let [storage, offset, shape, strides] = parts.map(|id| self.value(id));
        let (storage, offset) = match (storage, offset) {
            (Value::Storage(storage), Value::Int(offset)) => (storage.clone(), *offset),
            (Value::Opaque { name, .. }, _) => {
                return Ok(Value::Opaque { name: name.clone(), state: None });
            }
            _ => return Err("a tensor in it has no data".into()),
        };
        let (Some(shape), Some(strides)) = (numbers(shape), numbers(strides)) else {
            return Err("a tensor in it has no shape".into());
        };
        let is_negated = metadata.map_or(Ok(false), |id| self.is_negated(id))?;
        Ok(Value::Tensor(Arc::new(Tensor { storage, offset, shape, strides, is_negated })))
    }

    /// What PyTorch notes with a tensor beside its place: that its sign is to be changed, and nothing else that real
    /// numbers have.
    fn is_negated(&self, metadata: Id) -> Read<bool> {
        let refused = || {
            "a tensor in it is a view of a kind that is not supported; save clones of its tensors"
                .to_owned()
        };
        let entries = match self.value(metadata) {
            Value::None => return Ok(false),
            Value::Dict(entries) => entries,
            _ => return Err(refused()),
        };
        let mut is_negated = false;
        for &(key, value) in entries {
            match (self.value(key), self.value(value)) {
                (_, Value::Bool(false)) => {}
                (Value::Text(key), Value::Bool(true)) if **key == *"neg" => is_negated = true,
                _ => return Err(refused()),
            }
        }
        Ok(is_negated)
    }

    /// The state of an object: of a namespace, its attributes; of a tensor or dictionary, hooks that we leave out.
    fn build(&mut self) -> Read<()> {
        let state = self.pop()?;
        let target = *self.stack.last().ok_or_else(cut_off)?;
        match (self.value(target), self.value(state)) {
            // The attributes of a dictionary, such as `_metadata`, are not its entries.
            (Value::Dict(_), Value::Dict(attributes)) if self.namespaces.contains(&target) => {
                // Counted first: an object may be given its own attributes, again and again.
                self.charge(attributes.len())?;
                let Value::Dict(attributes) = self.value(state) else { return Err(cut_off()) };
                let attributes = attributes.clone();
                if let Value::Dict(entries) = &mut self.values[target as usize] {
                    entries.extend(attributes);
                }
                Ok(())
            }
            (Value::Dict(_) | Value::Tensor(_), _) => Ok(()),
            (Value::Opaque { .. }, _) => {
                if let Value::Opaque { state: held, .. } = &mut self.values[target as usize] {
                    *held = Some(state);
                }
                Ok(())
            }
            _ => Err("it sets the state of an object without state".into()),
        }
    }
}

fn cut_off() -> Refusal {
    "its list of tensors is damaged or cut off".into()
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
mod tests;
