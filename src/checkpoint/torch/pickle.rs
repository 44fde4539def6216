//! A reader for the pickles of PyTorch checkpoints that executes nothing.
//!
//! A pickle is a program for a small stack machine and may call anything. This machine supports the opcodes that
//! `torch.save` writes (protocol 2) and the few globals needed for tensors and plain settings, and rejects everything
//! else by name. No crate does this: pickle crates do not support tensors, and crates for tensors bring a framework.
//!
//! Values are stored in one list and refer to each other by index, so neither depth nor repetition costs anything.

use std::collections::HashMap;

/// Index of a value.
pub(super) type Id = usize;

/// What a pickle can hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// List or tuple.
    List(Vec<Id>),
    /// Dictionary, ordered or not; also the attributes of a namespace.
    Dict(Vec<(Id, Id)>),
    /// A name, to be called or used as a value.
    Global(&'static str),
    /// Numbers in another file of the archive: type, file, count.
    Storage {
        dtype: &'static str,
        key: String,
        len: i64,
    },
    Tensor(Tensor),
}

/// A tensor: a view into a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) dtype: &'static str,
    pub(super) key: String,
    /// Elements in the storage, according to the pickle.
    pub(super) storage_len: i64,
    pub(super) offset: i64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

/// Why a pickle was refused, as the end of a sentence that begins with the file.
pub(super) type Refusal = String;

type Read<T> = Result<T, Refusal>;

/// Names that tensors and settings need. None of them is ever called.
const NAMES: [&str; 17] = [
    "collections OrderedDict",
    "argparse Namespace",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch FloatStorage",
    "torch HalfStorage",
    "torch BFloat16Storage",
    "torch DoubleStorage",
    "torch LongStorage",
    "torch IntStorage",
    "torch ShortStorage",
    "torch CharStorage",
    "torch ByteStorage",
    "torch BoolStorage",
    "torch float32",
    "torch device",
];

/// Longest pickle that is read: those of models of thousands of tensors have a few megabytes.
const MAX_BYTES: usize = 256 << 20;

/// The finished list of values and the one that the pickle stands for.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

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
        };
        machine.run()
    }

    pub(super) fn root(&self) -> &Value {
        &self.values[self.root]
    }

    pub(super) fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// Looks a text key up in a dictionary.
    pub(super) fn get<'a>(&'a self, dict: &'a Value, key: &str) -> Option<&'a Value> {
        let Value::Dict(entries) = dict else { return None };
        let entry = entries.iter().find(|e| self.values[e.0] == Value::Text(key.to_owned()))?;
        Some(&self.values[entry.1])
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
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
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'N' => self.push(Value::None),
                0x88 => self.push(Value::Bool(true)),
                0x89 => self.push(Value::Bool(false)),
                b'J' | b'K' | b'M' | b'G' | 0x8a => self.number(op)?,
                b'X' => {
                    let len = u32::from_le_bytes(self.take()?) as usize;
                    let text = self.text(len)?;
                    self.push(Value::Text(text));
                }
                b'c' => self.global()?,
                b'Q' => self.storage()?,
                b'q' | b'r' | b'h' | b'j' => self.remember(op)?,
                b'}' => self.push(Value::Dict(Vec::new())),
                b']' | b')' => self.push(Value::List(Vec::new())),
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Value::List(items));
                }
                0x85..=0x87 => {
                    let first = self.stack.len().checked_sub(usize::from(op - 0x84));
                    let items = self.stack.split_off(first.ok_or_else(cut_off)?);
                    self.push(Value::List(items));
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

    fn take<const N: usize>(&mut self) -> Read<[u8; N]> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        self.at += N;
        bytes.copied().ok_or_else(cut_off)
    }

    fn text(&mut self, len: usize) -> Read<String> {
        let end = self.at.checked_add(len).ok_or_else(cut_off)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(cut_off)?;
        self.at = end;
        String::from_utf8(bytes.to_vec()).map_err(|_| "a name in it is not text".to_owned())
    }

    fn line(&mut self) -> Read<String> {
        let rest = self.bytes.get(self.at..).ok_or_else(cut_off)?;
        let len = rest.iter().position(|&b| b == b'\n').ok_or_else(cut_off)?;
        let text = self.text(len)?;
        self.at += 1;
        Ok(text)
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Read<Id> {
        // A mark is not a value: what is below it must stay.
        if self.marks.last() == Some(&self.stack.len()) {
            return Err(cut_off());
        }
        self.stack.pop().ok_or_else(cut_off)
    }

    fn since_mark(&mut self) -> Read<Vec<Id>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
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
                    return Err("a number in it has more than 64 bits".into());
                }
                // Little-endian two's complement: the last byte has the sign.
                let is_negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let mut all = [if is_negative { 0xff } else { 0 }; 8];
                all[..len].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(all))
            }
        };
        self.push(value);
        Ok(())
    }

    fn global(&mut self) -> Read<()> {
        let (module, name) = (self.line()?, self.line()?);
        let full = format!("{module} {name}");
        let known = NAMES.into_iter().find(|n| *n == full);
        let known = known.ok_or_else(|| {
            format!(
                "it refers to {module}.{name}, which tensors do not need. Nothing was \
                 executed. If you trust the file, load it in Python and save only its state_dict"
            )
        })?;
        self.push(Value::Global(known));
        Ok(())
    }

    /// The reference to a storage: ("storage", type, key, device, count).
    fn storage(&mut self) -> Read<()> {
        let id = self.pop()?;
        let wrong = || "a reference to tensor data in it is damaged".to_owned();
        let Value::List(parts) = &self.values[id] else { return Err(wrong()) };
        let &[kind, dtype, key, _device, len] = &parts[..] else { return Err(wrong()) };
        let parts = [kind, dtype, key, len].map(|id| &self.values[id]);
        let [Value::Text(kind), Value::Global(dtype), Value::Text(key), Value::Int(len)] = parts
        else {
            return Err(wrong());
        };
        let dtype = dtype.strip_prefix("torch ").and_then(|d| d.strip_suffix("Storage"));
        let (Some(dtype), "storage") = (dtype, kind.as_str()) else { return Err(wrong()) };
        let value = Value::Storage { dtype, key: key.clone(), len: *len };
        self.push(value);
        Ok(())
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
        let target = *self.stack.last().ok_or_else(cut_off)?;
        match &mut self.values[target] {
            Value::List(list) if matches!(op, b'a' | b'e') => list.extend(items),
            Value::Dict(dict) if matches!(op, b's' | b'u') && items.len().is_multiple_of(2) => {
                dict.extend(items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
            }
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
        let Value::Global(name) = self.values[function] else {
            return Err("it calls something that is not a function; nothing was executed".into());
        };
        let Value::List(arguments) = self.values[arguments].clone() else {
            return Err(format!("it calls {name} without arguments"));
        };
        let value = match (name, &arguments[..]) {
            ("collections OrderedDict" | "argparse Namespace", []) => Value::Dict(Vec::new()),
            ("torch._utils _rebuild_tensor_v2", [storage, offset, shape, strides, ..]) => {
                Value::Tensor(self.tensor([*storage, *offset, *shape, *strides])?)
            }
            // The parameter is its tensor.
            ("torch._utils _rebuild_parameter", [tensor, ..]) => self.values[*tensor].clone(),
            ("torch Size" | "torch device", [only]) => self.values[*only].clone(),
            _ => {
                return Err(format!(
                    "it calls {} unlike torch.save; nothing was executed",
                    name.replace(' ', ".")
                ));
            }
        };
        self.push(value);
        Ok(())
    }

    fn tensor(&self, parts: [Id; 4]) -> Read<Tensor> {
        let numbers = |value: &Value| -> Option<Vec<i64>> {
            let Value::List(items) = value else { return None };
            let number = |&id: &Id| match self.values[id] {
                Value::Int(n) => Some(n),
                _ => None,
            };
            items.iter().map(number).collect()
        };
        let [storage, offset, shape, strides] = parts.map(|id| &self.values[id]);
        let (Value::Storage { dtype, key, len }, Value::Int(offset)) = (storage, offset) else {
            return Err("a tensor in it has no data".into());
        };
        let (Some(shape), Some(strides)) = (numbers(shape), numbers(strides)) else {
            return Err("a tensor in it has no shape".into());
        };
        let (key, storage_len) = (key.clone(), *len);
        Ok(Tensor { dtype, key, storage_len, offset: *offset, shape, strides })
    }

    /// The state of an object: of a namespace, its attributes; of a tensor or dictionary, hooks that we leave out.
    fn build(&mut self) -> Read<()> {
        let state = self.pop()?;
        let target = *self.stack.last().ok_or_else(cut_off)?;
        if let (Value::Dict(_), Value::Dict(attributes)) =
            (&self.values[target], &self.values[state])
        {
            let attributes = attributes.clone();
            if let Value::Dict(entries) = &mut self.values[target] {
                entries.extend(attributes);
            }
            return Ok(());
        }
        match self.values[target] {
            Value::Dict(_) | Value::Tensor(_) => Ok(()),
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
