//! The Python names that a pickle refers to: known ones, foreign ones that are kept as opaque values, and hostile ones
//! that no checkpoint needs.

/// Names that tensors and plain settings need. None of them is ever called.
const KNOWN: [&str; 16] = [
    "collections.OrderedDict",
    "collections.defaultdict",
    "argparse.Namespace",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.DoubleStorage",
    "torch.LongStorage",
    "torch.IntStorage",
    "torch.ShortStorage",
    "torch.CharStorage",
    "torch.ByteStorage",
    "torch.BoolStorage",
];

/// Modules that let a pickle run commands, reach the network or call arbitrary functions.
const HOSTILE: [&str; 14] = [
    "os",
    "posix",
    "nt",
    "subprocess",
    "sys",
    "shutil",
    "socket",
    "importlib",
    "runpy",
    "pty",
    "ctypes",
    "pickle",
    "webbrowser",
    "operator",
];

/// Builtin types that are plain data.
const PLAIN: [&str; 17] = [
    "set",
    "frozenset",
    "range",
    "xrange",
    "slice",
    "bytearray",
    "bytes",
    "complex",
    "list",
    "dict",
    "tuple",
    "str",
    "unicode",
    "int",
    "long",
    "float",
    "object",
];

/// Classification of a name.
pub(super) enum Name {
    /// Interpreted by this reader.
    Known(&'static str),
    /// Anything else in settings or optimizer state: NumPy scalars, dates, classes of a trainer.
    Foreign(String),
    /// Needed only for an attack.
    Hostile(String),
}

impl Name {
    pub(super) fn of(module: &str, name: &str) -> Self {
        let full = format!("{module}.{name}");
        if let Some(known) = KNOWN.into_iter().find(|known| *known == full) {
            return Self::Known(known);
        }
        let outer = module.split('.').next().unwrap_or_default();
        let is_hostile = match outer {
            "builtins" | "__builtin__" => !PLAIN.contains(&name),
            "torch" => module.starts_with("torch.hub"),
            outer => HOSTILE.contains(&outer),
        };
        if is_hostile { Self::Hostile(full) } else { Self::Foreign(full) }
    }
}
