//! Puts every mutant of a file into it, each behind a switch, so that one build tests all of them.
//!
//! ```text
//! a + b      match at(17, 2) { 1 => a - b, 2 => a * b, _ => a + b }
//! ```
//!
//! Left alone is what the compiler computes (constants, types, patterns) and what macros take.

use std::collections::HashSet;

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::spanned::Spanned as _;
use syn::visit_mut::{self, VisitMut};
use syn::{BinOp, Expr, UnOp};

use crate::values;

/// A change of the code.
#[derive(Clone, Debug)]
pub(crate) struct Mutant {
    /// From 1.
    pub(crate) id: u32,
    /// The first one behind the same switch.
    pub(crate) group: u32,
    pub(crate) file: String,
    pub(crate) line: usize,
    /// The innermost function.
    pub(crate) function: String,
    /// What it does, in words.
    pub(crate) change: String,
}

/// Mutants of all files so far.
pub(crate) struct Switches<'a> {
    pub(crate) mutants: Vec<Mutant>,
    next: u32,
    file: String,
    function: Vec<String>,
    /// Levels of code that runs while the program is compiled.
    constant: usize,
    /// Mutants that do not compile.
    unviable: &'a HashSet<u32>,
}

impl<'a> Switches<'a> {
    pub(crate) fn new(unviable: &'a HashSet<u32>) -> Self {
        let (mutants, function) = (Vec::new(), Vec::new());
        Self { mutants, next: 1, file: String::new(), function, constant: 0, unviable }
    }

    /// The text of a file with switches.
    pub(crate) fn insert(&mut self, name: &str, text: &str) -> syn::Result<String> {
        name.clone_into(&mut self.file);
        let mut file = syn::parse_file(text)?;
        self.visit_file_mut(&mut file);
        Ok(quote!(#file).to_string())
    }

    /// Makes mutants with these descriptions; the code of their switch and the places of those that compile.
    fn make(&mut self, span: Span, changes: &[String]) -> Option<(TokenStream, Vec<usize>)> {
        let first = self.next;
        self.next += changes.len() as u32;
        if self.constant > 0 {
            return None;
        }
        let viable = |i: &usize| !self.unviable.contains(&(first + *i as u32));
        let viable: Vec<usize> = (0..changes.len()).filter(viable).collect();
        for &i in &viable {
            self.mutants.push(Mutant {
                id: first + i as u32,
                group: first,
                file: self.file.clone(),
                line: span.start().line,
                function: self.function.last().cloned().unwrap_or_default(),
                change: changes[i].clone(),
            });
        }
        let count = changes.len() as u32;
        let switch = quote!(crate::mutant_switch::at(#first, #count));
        (!viable.is_empty()).then_some((switch, viable))
    }

    /// A binary operation.
    fn binary(&mut self, binary: &syn::ExprBinary) -> Option<Expr> {
        let (left, op, right) = (&binary.left, &binary.op, &binary.right);
        let others = others(op);
        let name = |op: &BinOp| quote!(#op).to_string();
        let changes: Vec<_> =
            others.iter().map(|other| format!("{} becomes {}", name(op), name(other))).collect();
        if changes.is_empty() || has_let(left) || has_let(right) {
            return None;
        }
        let (switch, viable) = self.make(op.span(), &changes)?;
        let arms = |make: &dyn Fn(&BinOp) -> TokenStream| {
            let arms = viable.iter().map(|&i| {
                let (code, nth) = (make(&others[i]), i as u32 + 1);
                quote!(#nth => #code,)
            });
            quote!(#(#arms)*)
        };
        Some(match op {
            BinOp::And(_) | BinOp::Or(_) => {
                // The right side is not evaluated where the left one decides.
                let other = &others[0];
                syn::parse_quote!((match (#switch, #left) {
                    (1, left) => left #other #right,
                    (_, left) => left #op #right,
                }))
            }
            op if is_comparison(op) => {
                let arms = arms(&|op| quote!(left #op right));
                syn::parse_quote!((match (&(#left), &(#right)) {
                    (left, right) => match #switch { #arms _ => left #op right },
                }))
            }
            op if is_assignment(op) => {
                let arms = arms(&|op| quote!(#left #op #right));
                syn::parse_quote!((match #switch { #arms _ => #left #op #right }))
            }
            op => {
                let arms = arms(&|op| quote!(left #op right));
                syn::parse_quote!((match (#left, #right) {
                    (left, right) => match #switch { #arms _ => left #op right },
                }))
            }
        })
    }

    /// A negation or a minus, left out.
    fn unary(&mut self, unary: &syn::ExprUnary) -> Option<Expr> {
        let (op, inner) = (&unary.op, &unary.expr);
        if matches!(op, UnOp::Deref(_)) || has_let(inner) {
            return None;
        }
        let (switch, _) = self.make(op.span(), &[format!("{} is left out", quote!(#op))])?;
        Some(syn::parse_quote!((match (#switch, #inner) {
            (1, value) => value,
            (_, value) => #op value,
        })))
    }

    /// A function that returns at once.
    fn function(&mut self, signature: &syn::Signature, block: &mut syn::Block) {
        if block.stmts.is_empty() {
            return;
        }
        let values = values::of(&signature.output);
        let changes: Vec<_> =
            values.iter().map(|(text, _)| format!("the function returns {text}")).collect();
        let Some((switch, viable)) = self.make(signature.ident.span(), &changes) else { return };
        let arms = viable.iter().map(|&i| {
            let (value, nth) = (&values[i].1, i as u32 + 1);
            quote!(#nth => return #value,)
        });
        let early = quote!(match #switch { #(#arms)* _ => {} });
        block.stmts.insert(0, syn::parse_quote!(#early));
    }

    fn in_function(&mut self, signature: &syn::Signature, visit: impl FnOnce(&mut Self)) {
        let is_constant = usize::from(signature.constness.is_some());
        self.constant += is_constant;
        self.function.push(signature.ident.to_string());
        visit(self);
        self.function.pop();
        self.constant -= is_constant;
    }

    fn in_constant(&mut self, visit: impl FnOnce(&mut Self)) {
        self.constant += 1;
        visit(self);
        self.constant -= 1;
    }
}

/// The operators that an operator is replaced by, as in cargo-mutants.
fn others(op: &BinOp) -> Vec<BinOp> {
    let all: &[&str] = match op {
        BinOp::Add(_) => &["-", "*"],
        BinOp::Sub(_) | BinOp::Mul(_) => &["+", "/"],
        BinOp::Div(_) => &["%", "*"],
        BinOp::Rem(_) => &["/", "+"],
        BinOp::BitAnd(_) => &["|", "^"],
        BinOp::BitOr(_) => &["&", "^"],
        BinOp::BitXor(_) => &["|", "&"],
        BinOp::Shl(_) => &[">>"],
        BinOp::Shr(_) => &["<<"],
        BinOp::And(_) => &["||"],
        BinOp::Or(_) => &["&&"],
        BinOp::Eq(_) => &["!="],
        BinOp::Ne(_) => &["=="],
        BinOp::Lt(_) => &["==", ">", "<="],
        BinOp::Gt(_) => &["==", "<", ">="],
        BinOp::Le(_) => &[">"],
        BinOp::Ge(_) => &["<"],
        BinOp::AddAssign(_) => &["-=", "*="],
        BinOp::SubAssign(_) | BinOp::MulAssign(_) => &["+=", "/="],
        BinOp::DivAssign(_) => &["%=", "*="],
        BinOp::BitAndAssign(_) => &["|=", "^="],
        BinOp::BitOrAssign(_) => &["&=", "^="],
        BinOp::BitXorAssign(_) => &["|=", "&="],
        _ => &[],
    };
    all.iter().filter_map(|text| syn::parse_str(text).ok()).collect()
}

fn is_comparison(op: &BinOp) -> bool {
    use BinOp::{Eq, Ge, Gt, Le, Lt, Ne};
    matches!(op, Eq(_) | Ne(_) | Lt(_) | Gt(_) | Le(_) | Ge(_))
}

fn is_assignment(op: &BinOp) -> bool {
    quote!(#op).to_string().ends_with('=') && !is_comparison(op)
}

/// Whether an operand is or has a `let`, which stands only directly in a condition.
fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

/// Whether something is a test, or part of one.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = quote!(#attribute).to_string().replace(' ', "");
        text == "#[test]" || text == "#[cfg(test)]"
    })
}

impl VisitMut for Switches<'_> {
    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        visit_mut::visit_expr_mut(self, expr);
        let changed = match expr {
            Expr::Binary(binary) => self.binary(binary),
            Expr::Unary(unary) => self.unary(unary),
            _ => None,
        };
        if let Some(changed) = changed {
            *expr = changed;
        }
    }

    fn visit_arm_mut(&mut self, arm: &mut syn::Arm) {
        visit_mut::visit_arm_mut(self, arm);
        let Some((word, guard)) = &mut arm.guard else { return };
        let changes = ["the guard is true", "the guard is false"].map(str::to_owned);
        if let Some((switch, viable)) = self.make(word.span(), &changes) {
            let arms = viable.iter().map(|&i| {
                let (value, nth) = (i == 0, i as u32 + 1);
                quote!(#nth => #value,)
            });
            **guard = syn::parse_quote!((match #switch { #(#arms)* _ => #guard }));
        }
    }

    fn visit_item_mut(&mut self, item: &mut syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            visit_mut::visit_item_mut(self, item);
        }
    }

    fn visit_item_fn_mut(&mut self, item: &mut syn::ItemFn) {
        let syn::ItemFn { sig, block, .. } = item;
        self.in_function(sig, |all| {
            all.visit_block_mut(block);
            all.function(sig, block);
        });
    }

    fn visit_impl_item_fn_mut(&mut self, item: &mut syn::ImplItemFn) {
        let syn::ImplItemFn { sig, block, attrs, .. } = item;
        if is_test(attrs) {
            return;
        }
        self.in_function(sig, |all| {
            all.visit_block_mut(block);
            all.function(sig, block);
        });
    }

    fn visit_trait_item_fn_mut(&mut self, item: &mut syn::TraitItemFn) {
        let syn::TraitItemFn { sig, default: Some(block), .. } = item else { return };
        self.in_function(sig, |all| {
            all.visit_block_mut(block);
            all.function(sig, block);
        });
    }

    // A closure in a constant runs later.
    fn visit_expr_closure_mut(&mut self, closure: &mut syn::ExprClosure) {
        let constant = std::mem::take(&mut self.constant);
        visit_mut::visit_expr_closure_mut(self, closure);
        self.constant = constant;
    }

    fn visit_item_const_mut(&mut self, item: &mut syn::ItemConst) {
        self.in_constant(|all| visit_mut::visit_item_const_mut(all, item));
    }

    fn visit_item_static_mut(&mut self, item: &mut syn::ItemStatic) {
        self.in_constant(|all| visit_mut::visit_item_static_mut(all, item));
    }

    fn visit_impl_item_const_mut(&mut self, item: &mut syn::ImplItemConst) {
        self.in_constant(|all| visit_mut::visit_impl_item_const_mut(all, item));
    }

    fn visit_item_enum_mut(&mut self, _: &mut syn::ItemEnum) {}

    fn visit_expr_const_mut(&mut self, _: &mut syn::ExprConst) {}

    fn visit_expr_repeat_mut(&mut self, repeat: &mut syn::ExprRepeat) {
        self.visit_expr_mut(&mut repeat.expr);
    }

    fn visit_type_mut(&mut self, _: &mut syn::Type) {}

    fn visit_pat_mut(&mut self, _: &mut syn::Pat) {}

    fn visit_generic_argument_mut(&mut self, _: &mut syn::GenericArgument) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inserted(text: &str, unviable: &[u32]) -> (Vec<(usize, String)>, String) {
        let unviable = unviable.iter().copied().collect();
        let mut switches = Switches::new(&unviable);
        let changed = switches.insert("x.rs", text).unwrap();
        (switches.mutants.into_iter().map(|m| (m.line, m.change)).collect(), changed)
    }

    #[test]
    fn what_runs_gets_mutants_and_what_the_compiler_computes_does_not() {
        let text = "const N: usize = 2 + 3;
            fn f(x: [f32; 1 + 1]) -> Option<bool> {
                match x.len() { n if n > 1 => None, _ => Some(!(x[0] == 1.0)) }
            }
            static T: fn() -> i32 = || -1;
            #[cfg(test)] mod tests { fn g() -> bool { 1 < 2 } }";
        let (mutants, changed) = inserted(text, &[]);
        let changes: Vec<_> = mutants.iter().map(|(line, text)| format!("{line} {text}")).collect();
        assert_eq!(
            changes,
            [
                "3 > becomes ==",
                "3 > becomes <",
                "3 > becomes >=",
                "3 the guard is true",
                "3 the guard is false",
                "3 == becomes !=",
                "3 ! is left out",
                "2 the function returns None",
                "2 the function returns Some(true)",
                "2 the function returns Some(false)",
                "5 - is left out",
            ]
        );
        syn::parse_file(&changed).unwrap();
        assert_eq!(changed.matches("mutant_switch").count(), 6);
    }

    #[test]
    fn conditions_with_let_are_left_alone_and_their_parts_are_not() {
        let (mutants, changed) =
            inserted("fn f(x: Option<u8>) { if let Some(n) = x && n < 3 { g(); } }", &[]);
        assert_eq!(mutants.len(), 4, "{mutants:?}");
        syn::parse_file(&changed).unwrap();
    }

    #[test]
    fn numbers_stay_when_some_do_not_compile() {
        let text = "fn f(a: u8, b: u8) -> u8 { a + b * a }";
        let (all, _) = inserted(text, &[]);
        let (some, changed) = inserted(text, &[2, 3, 4]);
        assert_eq!((all.len(), some.len()), (6, 3));
        assert_eq!(some[0], all[0]);
        assert!(changed.contains("1u32 =>") && !changed.contains("at (3u32"), "{changed}");
    }
}
