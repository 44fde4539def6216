//! Every shader, without a device: it parses and validates, keeps to what plain WebGPU guarantees, and
//! its uniform is the Rust struct field by field. All failures are collected before the one assert.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use diffmoe::gpu::KernelSource;
use diffmoe::kernels::all_sources;
use naga::back::pipeline_constants::process_overrides;
use naga::proc::IndexableLength;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Binding, BuiltIn, Expression, Literal, Module, Scalar, TypeInner};

/// WebGPU's guaranteed limits (and our own habit for the lanes, a round number on all hardware).
const STORAGE_BINDINGS: usize = 8;
const LANES: u32 = 256;
const WORKGROUP_BYTES: u32 = 16 << 10;

/// Words that WGSL keeps for its future. naga lets some pass, Chrome does not.
const RESERVED: &str = "NULL Self abstract active alignas alignof as asm asm_fragment async attribute \
    auto await become cast catch class co_await co_return co_yield coherent column_major common compile \
    compile_fragment concept const_cast consteval constexpr constinit crate debugger decltype delete \
    demote demote_to_helper do dynamic_cast enum explicit export extends extern external fallthrough \
    filter final finally friend from fxgroup get goto groupshared highp impl implements import inline \
    instanceof interface layout lowp macro macro_rules match mediump meta mod module move mut mutable \
    namespace new nil noexcept noinline nointerpolation non_coherent noncoherent noperspective null \
    nullptr of operator package packoffset partition pass patch pixelfragment precise precision premerge \
    priv protected pub public readonly ref regardless register reinterpret_cast require resource restrict \
    self set shared sizeof smooth snorm static static_assert static_cast std subroutine super target \
    template this thread_local throw trait try type typedef typeid typename typeof union unless unorm \
    unsafe unsized use using varying virtual volatile wgsl where with writeonly yield";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_shader_is_portable() {
    let mut failures = Vec::new();
    let sources = all_sources();
    assert!(!sources.is_empty());
    for kernel in &sources {
        for failure in check(kernel) {
            failures.push(format!("{}: {failure}", kernel.shader.name));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn every_file_is_a_kernel_and_every_kernel_a_file() {
    let listed: Vec<_> = all_sources().iter().map(|k| k.shader.name.to_string()).collect();
    let names: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(names.len(), listed.len(), "a kernel is listed twice");
    assert_eq!(
        names,
        wgsl_stems(&root().join("shaders")),
        "kernels on the left, files on the right"
    );
    // A shared file that nobody appends is dead text.
    for stem in wgsl_stems(&root().join("shaders/shared")) {
        let text =
            std::fs::read_to_string(root().join(format!("shaders/shared/{stem}.wgsl"))).unwrap();
        let text = bare(&text);
        let is_used = all_sources().iter().any(|k| bare(k.shader.source).contains(&text));
        assert!(is_used, "shaders/shared/{stem}.wgsl is part of no kernel");
    }
}

fn wgsl_stems(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "wgsl"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect()
}

fn without_comments(text: &str) -> String {
    text.lines().flat_map(|line| [line.split("//").next().unwrap_or(line), "\n"]).collect()
}

/// A text without comments, indentation and empty lines: what kernels hold of a file.
fn bare(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(line).trim());
    lines.filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
}

/// What is wrong with a kernel.
fn check(kernel: &KernelSource) -> Vec<String> {
    let source = kernel.shader.source;
    let module = match naga::front::wgsl::parse_str(source) {
        Ok(module) => module,
        Err(error) => return vec![error.emit_to_string(source)],
    };
    let mut failures = Vec::new();
    // No capability beyond what every WebGPU device has: subgroups, f16, f64, immediates all fail.
    // Reading two f16 out of a word is part of WGSL itself.
    let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = match Validator::new(ValidationFlags::all(), capabilities).validate(&module) {
        Ok(info) => info,
        Err(error) => return vec![error.emit_to_string(source)],
    };
    let code = without_comments(source);
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for word in code.split(|c| !is_name(c)).collect::<BTreeSet<_>>() {
        if RESERVED.split_whitespace().any(|reserved| reserved == word) {
            failures.push(format!("`{word}` is a reserved word"));
        }
    }
    // Chrome wants `enable` for what naga may accept without it.
    for word in ["enable ", "requires ", "subgroup", "var<immediate>", "diagnostic("] {
        if code.contains(word) {
            failures.push(format!("uses `{word}`"));
        }
    }
    check_sizes(kernel, &module, &mut failures);
    check_bindings(&module, &mut failures);
    check_structs(kernel, &module, &mut failures);
    // As a pipeline sees it: with the sizes that Rust gives and the defaults of what depends on a call.
    let sizes = kernel.shader.sizes.iter();
    let sizes = sizes.map(|&(name, value)| (name.to_owned(), f64::from(value))).collect();
    let main = Some((naga::ShaderStage::Compute, "main"));
    match process_overrides(&module, &info, main, &sizes) {
        Ok((module, _)) => check_entry_point(&module, &mut failures),
        Err(error) => failures.push(error.to_string()),
    }
    failures
}

/// What Rust and WGSL both name has one value: overrides that depend on no call have none in WGSL, and a `const` has
/// Rust's.
fn check_sizes(kernel: &KernelSource, module: &Module, failures: &mut Vec<String>) {
    let without_default: BTreeSet<_> = module
        .overrides
        .iter()
        .filter_map(|(_, o)| if o.init.is_none() { o.name.as_deref() } else { None })
        .collect();
    let given: BTreeSet<_> = kernel.shader.sizes.iter().map(|size| size.0).collect();
    if without_default != given {
        failures.push(format!(
            "overrides without a default are {without_default:?}, Rust gives {given:?}"
        ));
    }
    for &(name, value) in kernel.shader.consts {
        let named = |(_, c): &(_, &naga::Constant)| c.name.as_deref() == Some(name);
        let found = module.constants.iter().find(named);
        let found = found.map(|(_, constant)| module.global_expressions[constant.init].clone());
        match found {
            Some(Expression::Literal(Literal::U32(found))) if found == value => {}
            found => failures.push(format!("const {name} is {found:?}, in Rust {value}")),
        }
    }
}

fn check_entry_point(module: &Module, failures: &mut Vec<String>) {
    let [entry] = &*module.entry_points else {
        failures.push(format!("{} entry points", module.entry_points.len()));
        return;
    };
    if entry.name != "main" || entry.stage != naga::ShaderStage::Compute {
        failures.push(format!("entry point `{}` in {:?}", entry.name, entry.stage));
    }
    let lanes = entry.workgroup_size.iter().product::<u32>();
    if !(1..=LANES).contains(&lanes) {
        failures.push(format!("{lanes} lanes"));
    }
    let mut bytes = 0;
    for (_, variable) in module.global_variables.iter() {
        if variable.space == AddressSpace::WorkGroup {
            match type_bytes(module, variable.ty) {
                Some(n) => bytes += n,
                None => failures.push(format!("size of {:?} is not known", variable.name)),
            }
        }
    }
    if bytes > WORKGROUP_BYTES {
        failures.push(format!("{bytes} bytes of workgroup memory with default overrides"));
    }
    for argument in &entry.function.arguments {
        let Some(Binding::BuiltIn(builtin)) = argument.binding else { continue };
        let is_plain = matches!(
            builtin,
            BuiltIn::WorkGroupId
                | BuiltIn::NumWorkGroups
                | BuiltIn::LocalInvocationId
                | BuiltIn::LocalInvocationIndex
                | BuiltIn::GlobalInvocationId
        );
        if !is_plain {
            failures.push(format!("{builtin:?}"));
        }
    }
}

/// Bindings are 0, 1, 2, … of group 0; the first is the uniform and all others are storage: buffers, or textures of a
/// format that every WebGPU device stores.
fn check_bindings(module: &Module, failures: &mut Vec<String>) {
    let mut bindings: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| {
            let texture = matches!(
                module.types[v.ty].inner,
                TypeInner::Image {
                    class: naga::ImageClass::Storage {
                        format: naga::StorageFormat::Rgba8Unorm,
                        access,
                    },
                    ..
                } if access == naga::StorageAccess::STORE
            );
            v.binding.map(|b| (b.group, b.binding, v.space, v.name.clone(), texture))
        })
        .collect();
    bindings.sort_by_key(|b| (b.0, b.1));
    for (i, (group, binding, space, name, texture)) in (0..).zip(&bindings) {
        let fits = if i == 0 {
            *space == AddressSpace::Uniform && name.as_deref() == Some("params")
        } else {
            *texture || matches!(space, AddressSpace::Storage { .. })
        };
        if (*group, *binding) != (0, i) || !fits {
            failures.push(format!("binding {binding} of group {group}: {name:?} in {space:?}"));
        }
    }
    if bindings.len() > 1 + STORAGE_BINDINGS {
        failures.push(format!("{} storage bindings", bindings.len() - 1));
    }
}

/// Bound structs, the uniform above all, have the fields of the Rust struct of their name, in order, with nothing
/// between them.
fn check_structs(kernel: &KernelSource, module: &Module, failures: &mut Vec<String>) {
    let bound = module.global_variables.iter().filter(|(_, v)| v.binding.is_some());
    for (_, variable) in bound {
        let ty = &module.types[variable.ty];
        let TypeInner::Struct { members, span } = &ty.inner else { continue };
        let name = ty.name.as_deref().unwrap_or_default();
        if name == "Params" && *span as usize != kernel.params_size {
            failures.push(format!("Params: {span} bytes in WGSL, {} in Rust", kernel.params_size));
        }
        let mut fields = Vec::new();
        let mut end = 0;
        for member in members {
            // Rust's struct has no gaps, because it is `Pod`.
            if member.offset != end {
                failures.push(format!("{name}.{:?} leaves a gap before it", member.name));
            }
            let inner = &module.types[member.ty].inner;
            end = member.offset + inner.size(module.to_ctx());
            let scalar = match inner {
                TypeInner::Scalar(Scalar::U32) => Some("u32"),
                TypeInner::Scalar(Scalar::F32) => Some("f32"),
                _ => None,
            };
            fields.push((member.name.clone().unwrap_or_default(), scalar.map(str::to_owned)));
        }
        match rust_struct(kernel.shader.name, name) {
            Some(found) if found == fields => {}
            found => failures.push(format!("{name}: {fields:?} in WGSL, {found:?} in Rust")),
        }
    }
}

/// Fields of a struct that the kernel's Rust file declares, with the types of scalars. A `_software` or `_normal`
/// twin has the parameters of the kernel that it is a variant of.
fn rust_struct(kernel: &str, name: &str) -> Option<Vec<(String, Option<String>)>> {
    let variants = ["_software", "_normal"];
    let stem = variants.iter().find_map(|suffix| kernel.strip_suffix(suffix)).unwrap_or(kernel);
    let path = root().join(format!("src/kernels/{stem}.rs"));
    let text = std::fs::read_to_string(path).ok()?;
    let body = text.split(&format!("struct {name} {{")).nth(1)?.split('}').next()?;
    let code = without_comments(body);
    let field = |field: &str| {
        let (name, ty) = field.split_once(':')?;
        let scalar = ["u32", "f32"].contains(&ty.trim()).then(|| ty.trim().to_owned());
        Some((name.split_whitespace().last()?.to_owned(), scalar))
    };
    Some(code.split(',').filter_map(field).collect())
}

/// Bytes of a type in workgroup memory.
fn type_bytes(module: &Module, ty: naga::Handle<naga::Type>) -> Option<u32> {
    match module.types[ty].inner {
        TypeInner::Array { size, stride, .. } => match size.resolve(module.to_ctx()) {
            Ok(IndexableLength::Known(length)) => Some(stride * length),
            _ => None,
        },
        ref inner => Some(inner.size(module.to_ctx())),
    }
}
