//! Finds the dictionary with the weights, and restores the official names of its tensors.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::super::foreign::Names;
use super::value::{Id, Pickle, Tensor, Value};

/// Levels of dictionaries that are searched: some moving averages nest their copy.
const MAX_DEPTH: usize = 4;

/// Longest name of a tensor.
const MAX_NAME: usize = 1024;

/// Name parts added by wrappers: `torch.compile`, FSDP and activation checkpointing.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// The tensors of one state_dict.
pub(super) struct Chosen {
    /// By their official names.
    pub(super) tensors: BTreeMap<String, Arc<Tensor>>,
    /// Path of the dictionary, if there was a choice.
    pub(super) weights: Option<String>,
}

/// The state_dict to take: the entry `weights` of a training checkpoint, its `state_dict`, or the whole file.
pub(super) fn choose(pickle: &Pickle, weights: &str) -> Result<Chosen, String> {
    let root = pickle.root;
    match pickle.value(root) {
        Value::Dict(_) => {}
        Value::Opaque { name, .. } => {
            return Err(format!(
                "it is a Python object ({name}) instead of a dictionary of tensors; load it in Python and save its state_dict()"
            ));
        }
        _ => return Err("it is not a dictionary of tensors".into()),
    }
    let is_container = |id: &Id| matches!(pickle.value(*id), Value::Dict(_) | Value::Opaque { .. });
    // The others are those of ProMoE's code and of JiT's, which has two moving averages and samples with the first.
    let own = ["", "_model_state_dict", "_state_dict"].map(|end| format!("{weights}{end}"));
    let own = own.into_iter().chain([format!("model_{weights}1")]).collect::<Vec<_>>();
    let own =
        own.iter().find_map(|name| Some((name, pickle.get(root, name).filter(is_container)?)));
    let (dict, place) = if let Some((name, entry)) = own {
        let (dict, inner) = descend(pickle, entry, name)?;
        (dict, Some(inner))
    } else if has_tensors(pickle, root) {
        (root, None)
    } else if let Some(entry) = pickle.get(root, "state_dict") {
        let (dict, inner) = descend(pickle, entry, "state_dict")?;
        (dict, Some(inner))
    } else {
        let is_dict = |id: Id| matches!(pickle.value(id), Value::Dict(_));
        let names = pickle.named(root).filter(|(_, id)| is_dict(*id)).map(|(name, _)| name);
        let names: Vec<_> = names.take(20).collect();
        return Err(format!("it has no weights {weights:?}; available: {}", names.join(", ")));
    };
    let (tensors, part) = official_names(pickle, dict, weights)?;
    let weights = match (place, part) {
        (Some(place), Some(part)) => Some(format!("{place}.{part}")),
        (place, part) => place.or(part),
    };
    Ok(Chosen { tensors, weights })
}

fn has_tensors(pickle: &Pickle, dict: Id) -> bool {
    pickle.named(dict).any(|(_, id)| matches!(pickle.value(id), Value::Tensor(_)))
}

/// The only dictionary with tensors at or below an entry, and its path.
fn descend(pickle: &Pickle, entry: Id, name: &str) -> Result<(Id, String), String> {
    let mut found = Vec::new();
    let mut level = vec![(entry, name.to_owned())];
    let mut seen = HashSet::new();
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for (id, name) in level {
            if !seen.insert(id) {
                continue;
            }
            if has_tensors(pickle, id) {
                found.push((id, name));
                continue;
            }
            let below = |id: &Id| !pickle.entries(*id).is_empty();
            let inner = pickle.named(id).filter(|(_, id)| below(id));
            next.extend(inner.map(|(key, id)| (id, format!("{name}.{key}"))));
        }
        level = next;
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let is_unnamed = |&id: &Id| matches!(pickle.value(id), Value::Tensor(_));
            let lists = pickle.named(entry).any(|(_, id)| match pickle.value(id) {
                Value::List(items) => items.iter().any(is_unnamed),
                _ => false,
            });
            Err(if lists {
                format!("the tensors in its {name} have no names; save them as a state_dict")
            } else {
                format!("it contains no tensors in {name}")
            })
        }
        _ => {
            let names: Vec<_> = found.into_iter().map(|(_, name)| name).take(20).collect();
            Err(format!(
                "its {name} contains several dictionaries of tensors ({}); save only the one to convert",
                names.join(", ")
            ))
        }
    }
}

type Named = (BTreeMap<String, Arc<Tensor>>, Option<String>);

/// The tensors of a dictionary under their official names, and the prefix that was selected if the dictionary contains
/// several models.
fn official_names(pickle: &Pickle, dict: Id, weights: &str) -> Result<Named, String> {
    let mut all = Vec::new();
    for (name, id) in pickle.named(dict) {
        if name.len() > MAX_NAME {
            return Err(format!("a name in it has {} bytes", name.len()));
        }
        match pickle.value(id) {
            Value::Tensor(tensor) => all.push((unwrapped(name), Ok(tensor))),
            Value::Opaque { name: class, .. } => all.push((unwrapped(name), Err(class))),
            // `_metadata` and the like.
            _ => {}
        }
    }
    let mut part = None;
    let wanted = format!("{weights}.");
    if all.iter().any(|(name, _)| name.starts_with(&wanted)) {
        all.retain(|(name, _)| name.starts_with(&wanted));
        part = Some(weights.to_owned());
    }
    // The attribute name of the model in Lightning modules.
    for prefix in [wanted.as_str(), "model."] {
        if all.iter().all(|(name, _)| name.starts_with(prefix)) {
            for (name, _) in &mut all {
                *name = unwrapped(&name[prefix.len()..]);
            }
        }
    }
    let names = Names::of(all.iter().map(|(name, _)| name.as_str()));
    let mut tensors = BTreeMap::new();
    for (name, tensor) in all {
        let name = names.official(&name);
        match tensor {
            Ok(tensor) => {
                if tensors.contains_key(&name) {
                    return Err(format!("it contains two tensors {name}"));
                }
                tensors.insert(name, tensor.clone());
            }
            // State of low-precision libraries.
            Err(_) if name.ends_with("_extra_state") => {}
            Err(class) => {
                return Err(format!(
                    "{name} is not a plain tensor but made by {class}; nothing was executed. Save it as a tensor of \
                     floating-point numbers"
                ));
            }
        }
    }
    Ok((tensors, part))
}

/// A name without the parts added by wrappers.
fn unwrapped(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    // Added by data-parallel training, sometimes twice.
    let parts: Vec<_> = parts.skip_while(|part| *part == "module").collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of empty tensors in nested dictionaries: `[("ema", &["a", "b"])]`; a name of `""` stands for the file
    /// itself.
    fn file(dicts: &[(&str, &[&str])]) -> Pickle {
        let text = |text: &str| {
            let mut op = b"X".to_vec();
            op.extend((text.len() as u32).to_le_bytes());
            op.extend(text.as_bytes());
            op
        };
        let tensor = [
            &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
            &text("storage"),
            b"ctorch\nFloatStorage\n",
            &text("0"),
            &text("cpu"),
            b"K\x00tQK\x00K\x00\x85K\x01\x85\x89}tR",
        ]
        .concat();
        let dict = |names: &[&str]| {
            let entries: Vec<u8> =
                names.iter().flat_map(|name| [text(name), tensor.clone()].concat()).collect();
            [&b"}("[..], &entries, b"u"].concat()
        };
        let mut bytes = b"\x80\x02}(".to_vec();
        for (path, names) in dicts {
            if path.is_empty() {
                for name in *names {
                    bytes.extend([text(name), tensor.clone()].concat());
                }
                continue;
            }
            let parts: Vec<&str> = path.split('/').collect();
            bytes.extend(text(parts[0]));
            for part in &parts[1..] {
                bytes.extend([&b"}("[..], &text(part)].concat());
            }
            bytes.extend(dict(names));
            bytes.extend(b"u".repeat(parts.len() - 1));
        }
        bytes.extend(b"u.");
        Pickle::read(&bytes).unwrap()
    }

    fn names(dicts: &[(&str, &[&str])]) -> (Vec<String>, Option<String>) {
        let chosen = choose(&file(dicts), "ema").unwrap();
        (chosen.tensors.into_keys().collect(), chosen.weights)
    }

    fn refused(dicts: &[(&str, &[&str])]) -> String {
        choose(&file(dicts), "ema").map(|chosen| chosen.tensors).unwrap_err()
    }

    #[test]
    fn wrappers_are_taken_off_the_names() {
        let wrapped: [&[&str]; 8] = [
            &["x.weight", "blocks.0.y"],
            &["module.x.weight", "module.blocks.0.y"],
            &["module.module.x.weight", "module.module.blocks.0.y"],
            &["_orig_mod.x.weight", "_orig_mod.blocks.0.y"],
            &["_orig_mod.module.x.weight", "_orig_mod.module.blocks.0.y"],
            &["x.weight", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.y"],
            &["model.x.weight", "model.blocks.0.y"],
            &["model._orig_mod.module.x.weight", "model._orig_mod.module.blocks.0.y"],
        ];
        for dict in wrapped {
            for place in ["", "ema", "state_dict"] {
                let (names, weights) = names(&[(place, dict)]);
                assert_eq!(names, ["blocks.0.y", "x.weight"], "{dict:?} in {place:?}");
                assert_eq!(weights.unwrap_or_default(), place);
            }
        }
        let twice = refused(&[("", &["x.weight", "module.x.weight"])]);
        assert!(twice.contains("two tensors x.weight"), "{twice}");
    }

    #[test]
    fn weights_are_found_where_trainers_keep_them() {
        let own = |place: &str| (vec!["x".to_owned()], Some(place.to_owned()));
        assert_eq!(names(&[("model", &["y"]), ("ema", &["x"])]), own("ema"));
        assert_eq!(names(&[("model", &["y"]), ("ema/shadow", &["x"])]), own("ema.shadow"));
        assert_eq!(names(&[("ema/state/params", &["x"])]), own("ema.state.params"));
        let beside = [("model_state_dict", &["y"][..]), ("ema_model_state_dict", &["x"])];
        assert_eq!(names(&beside), own("ema_model_state_dict"));
        let plain = choose(&file(&beside), "model").unwrap();
        assert_eq!(plain.weights.as_deref(), Some("model_state_dict"));
        let lightning: &[&str] = &["model.x", "ema.x", "loss.z"];
        assert_eq!(names(&[("state_dict", lightning)]), own("state_dict.ema"));
        let none = refused(&[("model", &["x"]), ("best", &["x"])]);
        assert!(none.contains("no weights \"ema\"; available: model, best"), "{none}");
        assert!(refused(&[("ema", &[])]).contains("no tensors in ema"));
        assert!(refused(&[("ema/a/b/c/d/e", &["x"])]).contains("no tensors in ema"));
    }

    #[test]
    fn tensors_that_only_python_can_make_are_refused() {
        let opaque = |name: &str| {
            let text = |text: &str| {
                [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
            };
            let make = b"cmy.tensors\nMake\n)R";
            let bytes = [&b"\x80\x02}("[..], &text("x"), b"cmy.tensors\nMake\n)R", b"u."].concat();
            assert!(choose(&Pickle::read(&bytes).unwrap(), "ema").is_err(), "no tensor at all");
            let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000NK\x01tQK\0))tR";
            let bytes = [&b"\x80\x02}("[..], &text("x"), tensor, &text(name), make, b"u."].concat();
            choose(&Pickle::read(&bytes).unwrap(), "ema").map(|chosen| chosen.tensors)
        };
        let error = opaque("y").unwrap_err();
        assert!(error.contains("y is not a plain tensor but made by my.tensors.Make"), "{error}");
        let tensors = opaque("linear._extra_state").unwrap();
        assert_eq!(tensors.into_keys().collect::<Vec<_>>(), ["x"]);
    }

    #[test]
    fn dictionaries_that_hold_themselves_end() {
        // ema = {"a": ema, "b": ema, …}
        let mut bytes = b"\x80\x02}X\x03\x00\x00\x00ema}q\x00(".to_vec();
        for _ in 0..1000 {
            bytes.extend(b"X\x01\x00\x00\x00ah\x00");
        }
        bytes.extend(b"us.");
        let pickle = Pickle::read(&bytes).unwrap();
        let refusal = choose(&pickle, "ema").map(|chosen| chosen.tensors).unwrap_err();
        assert!(refusal.contains("no tensors in ema"), "{refusal}");
    }
}
