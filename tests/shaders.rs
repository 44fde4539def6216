//! Every shader, without a device: it parses and validates, keeps to what plain WebGPU guarantees, and
//! its uniform is the Rust struct field by field. All failures are collected before the one assert.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use diffmoe::gpu::KernelSource;
use diffmoe::kernels::all_sources;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, ArraySize, Binding, BuiltIn, Module, Override, TypeInner};

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
            failures.push(format!("{}: {failure}", kernel.name));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn every_file_is_a_kernel_and_every_kernel_a_file() {
    let listed: Vec<_> = all_sources().iter().map(|k| k.name.to_string()).collect();
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
        let is_used = all_sources().iter().any(|k| k.source.contains(&text));
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

/// What is wrong with a kernel.
fn check(kernel: &KernelSource) -> Vec<String> {
    let module = match naga::front::wgsl::parse_str(kernel.source) {
        Ok(module) => module,
        Err(error) => return vec![error.emit_to_string(kernel.source)],
    };
    let mut failures = Vec::new();
    // No capability beyond what every WebGPU device has: subgroups, f16, f64, immediates all fail.
    // Reading two f16 out of a word is part of WGSL itself.
    let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if let Err(error) = Validator::new(ValidationFlags::all(), capabilities).validate(&module) {
        failures.push(error.emit_to_string(kernel.source));
    }
    let code = without_comments(kernel.source);
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
    check_entry_point(&module, &mut failures);
    check_bindings(&module, &mut failures);
    check_params(kernel, &module, &mut failures);
    failures
}

fn check_entry_point(module: &Module, failures: &mut Vec<String>) {
    let [entry] = &*module.entry_points else {
        failures.push(format!("{} entry points", module.entry_points.len()));
        return;
    };
    if entry.name != "main" || entry.stage != naga::ShaderStage::Compute {
        failures.push(format!("entry point `{}` in {:?}", entry.name, entry.stage));
    }
    let size = |axis: usize| match entry.workgroup_size_overrides.and_then(|o| o[axis]) {
        Some(expression) => evaluate(module, expression),
        None => Some(entry.workgroup_size[axis]),
    };
    match (0..3).map(size).product::<Option<u32>>() {
        Some(lanes) if (1..=LANES).contains(&lanes) => {}
        lanes => failures.push(format!("{lanes:?} lanes")),
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

/// Bindings are 0, 1, 2, … of group 0; the first is the uniform and all others are storage.
fn check_bindings(module: &Module, failures: &mut Vec<String>) {
    let mut bindings: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| v.binding.map(|b| (b.group, b.binding, v.space, v.name.clone())))
        .collect();
    bindings.sort_by_key(|b| (b.0, b.1));
    for (i, (group, binding, space, name)) in (0..).zip(&bindings) {
        let fits = if i == 0 {
            *space == AddressSpace::Uniform && name.as_deref() == Some("params")
        } else {
            matches!(space, AddressSpace::Storage { .. })
        };
        if (*group, *binding) != (0, i) || !fits {
            failures.push(format!("binding {binding} of group {group}: {name:?} in {space:?}"));
        }
    }
    if bindings.len() > 1 + STORAGE_BINDINGS {
        failures.push(format!("{} storage bindings", bindings.len() - 1));
    }
}

/// The uniform has the fields of the Rust struct, in order, with nothing between them.
fn check_params(kernel: &KernelSource, module: &Module, failures: &mut Vec<String>) {
    let find = |(_, ty): &(_, &naga::Type)| ty.name.as_deref() == Some("Params");
    let Some((_, ty)) = module.types.iter().find(find) else {
        failures.push("no struct Params".into());
        return;
    };
    let TypeInner::Struct { members, span } = &ty.inner else {
        failures.push("Params is no struct".into());
        return;
    };
    if *span as usize != kernel.params_size {
        failures.push(format!("Params: {span} bytes in WGSL, {} in Rust", kernel.params_size));
    }
    let mut names = Vec::new();
    let mut end = 0;
    for member in members {
        // Rust's struct has no gaps, because it is `Pod`.
        if member.offset != end {
            failures.push(format!("Params.{:?} leaves a gap before it", member.name));
        }
        end = member.offset + module.types[member.ty].inner.size(module.to_ctx());
        names.push(member.name.clone().unwrap_or_default());
    }
    match rust_params(kernel.name) {
        Some(fields) if fields == names => {}
        fields => failures.push(format!("Params: {names:?} in WGSL, {fields:?} in Rust")),
    }
}

/// Field names of the struct `Params` that the kernel's Rust file declares. A `_software` twin lies in
/// the file of its GPU variant.
fn rust_params(kernel: &str) -> Option<Vec<String>> {
    let stem = kernel.strip_suffix("_software").unwrap_or(kernel);
    let path = root().join(format!("src/kernels/{stem}.rs"));
    let text = std::fs::read_to_string(path).ok()?;
    let body = text.split("struct Params {").nth(1)?.split('}').next()?;
    let code = without_comments(body);
    let name = |field: &str| Some(field.split(':').next()?.split_whitespace().last()?.to_string());
    Some(code.split(',').filter(|f| f.contains(':')).filter_map(name).collect())
}

/// Bytes of a type in workgroup memory.
fn type_bytes(module: &Module, ty: naga::Handle<naga::Type>) -> Option<u32> {
    match module.types[ty].inner {
        TypeInner::Array { size: ArraySize::Pending(length), stride, .. } => {
            Some(stride * override_value(module, &module.overrides[length])?)
        }
        ref inner => Some(inner.size(module.to_ctx())),
    }
}

fn override_value(module: &Module, value: &Override) -> Option<u32> {
    evaluate(module, value.init?)
}

/// A constant expression of integers, with the defaults of its overrides.
fn evaluate(module: &Module, handle: naga::Handle<naga::Expression>) -> Option<u32> {
    use naga::{BinaryOperator, Expression, Literal};
    match module.global_expressions[handle] {
        Expression::Literal(Literal::U32(n)) => Some(n),
        Expression::Literal(Literal::I32(n)) => u32::try_from(n).ok(),
        Expression::Constant(c) => evaluate(module, module.constants[c].init),
        Expression::Override(o) => override_value(module, &module.overrides[o]),
        Expression::Binary { op, left, right } => {
            let (left, right) = (evaluate(module, left)?, evaluate(module, right)?);
            match op {
                BinaryOperator::Add => left.checked_add(right),
                BinaryOperator::Subtract => left.checked_sub(right),
                BinaryOperator::Multiply => left.checked_mul(right),
                BinaryOperator::Divide => left.checked_div(right),
                _ => None,
            }
        }
        _ => None,
    }
}
