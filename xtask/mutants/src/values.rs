//! Values that a function could return instead of its own.

use quote::{ToTokens, quote};
use syn::{GenericArgument, PathArguments, ReturnType, Type};

/// An expression, as text and as code.
type Value = (String, syn::Expr);

/// Plausible values of a return type; none where the type is one of our own.
pub(crate) fn of(output: &ReturnType) -> Vec<Value> {
    match output {
        ReturnType::Default => vec![value(&quote!(()))],
        ReturnType::Type(_, of) => of_type(of),
    }
}

fn value(code: &impl ToTokens) -> Value {
    let code = code.to_token_stream();
    (code.to_string().replace(' ', ""), syn::parse_quote!(#code))
}

fn all(codes: &[proc_macro2::TokenStream]) -> Vec<Value> {
    codes.iter().map(value).collect()
}

fn of_type(of: &Type) -> Vec<Value> {
    match of {
        Type::Tuple(tuple) => {
            let parts: Vec<Vec<Value>> = tuple.elems.iter().map(of_type).collect();
            if parts.iter().any(Vec::is_empty) {
                return Vec::new();
            }
            let most = parts.iter().map(Vec::len).max().unwrap_or(1);
            let nth = |i: usize| {
                let parts = parts.iter().map(|part| &part[i % part.len()].1);
                value(&quote!((#(#parts,)*)))
            };
            (0..most).map(nth).collect()
        }
        Type::Array(array) => {
            let len = &array.len;
            let each = |(_, item): &Value| value(&quote!([#item; #len]));
            of_type(&array.elem).iter().map(each).collect()
        }
        Type::Reference(reference) if reference.mutability.is_none() => match &*reference.elem {
            Type::Slice(_) => all(&[quote!(&[])]),
            Type::Path(path) if path.path.is_ident("str") => all(&[quote!(""), quote!("xyzzy")]),
            _ => Vec::new(),
        },
        Type::Path(path) => of_path(path),
        _ => Vec::new(),
    }
}

fn of_path(path: &syn::TypePath) -> Vec<Value> {
    let Some(last) = path.path.segments.last() else { return Vec::new() };
    let inner = |n: usize| {
        let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
        match arguments.args.iter().nth(n)? {
            GenericArgument::Type(of) => Some(of_type(of)),
            _ => None,
        }
    };
    let of_each = |make: fn(&syn::Expr) -> proc_macro2::TokenStream| {
        inner(0).unwrap_or_default().iter().map(|(_, item)| value(&make(item))).collect::<Vec<_>>()
    };
    match last.ident.to_string().as_str() {
        "bool" => all(&[quote!(true), quote!(false)]),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => {
            all(&[quote!(0), quote!(1)])
        }
        "f32" | "f64" => all(&[quote!(0.0), quote!(1.0), quote!(-1.0)]),
        "String" => all(&[quote!(String::new()), quote!("xyzzy".to_owned())]),
        "Option" => [all(&[quote!(None)]), of_each(|item| quote!(Some(#item)))].concat(),
        "Vec" => {
            let mut some = of_each(|item| quote!(vec![#item]));
            some.truncate(1);
            [all(&[quote!(Vec::new())]), some].concat()
        }
        "BTreeMap" => all(&[quote!(std::collections::BTreeMap::new())]),
        "HashMap" => all(&[quote!(std::collections::HashMap::new())]),
        // Both the usual one and an alias without an error.
        "Result" if matches!(last.arguments, PathArguments::None) => all(&[quote!(Ok(()))]),
        "Result" => of_each(|item| quote!(Ok(#item))),
        _ => Vec::new(),
    }
}
