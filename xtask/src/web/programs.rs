//! The program in two forms: one for browsers with relaxed SIMD, whose products use multiply-adds, and one for all others.
//! In the second, every multiply-add of the first is a product and a sum. The page is thus compiled once, and one script
//! serves both. Of relaxed SIMD the first uses multiply-adds alone: the compiler also takes other instructions, whose
//! results for numbers that are none differ between processors.

use walrus::ir::{
    BinaryOp, Binop, Instr, InstrLocId, InstrSeq, LocalGet, LocalSet, TernOp, TernaryOp, UnaryOp,
    Unop, V128Bitselect, VisitorMut, dfs_pre_order_mut,
};
use walrus::{LocalId, Module, ValType};

/// Both forms, with the same imports and exports.
pub(super) struct Programs {
    /// Needs relaxed SIMD.
    pub(super) relaxed: Vec<u8>,
    /// Needs SIMD alone.
    pub(super) plain: Vec<u8>,
}

impl Programs {
    /// Both, of a module that was compiled for relaxed SIMD. Changes it.
    pub(super) fn from_relaxed(module: &mut Module) -> Result<Self, String> {
        replace(module, true)?;
        let relaxed = module.emit_wasm();
        let replaced = replace(module, false)?;
        println!("replaced {replaced} multiply-adds for browsers without relaxed SIMD");
        Ok(Self { relaxed, plain: module.emit_wasm() })
    }

    /// Both after `change`.
    pub(super) fn map(
        self,
        change: impl Fn(Vec<u8>) -> Result<Vec<u8>, String>,
    ) -> Result<Self, String> {
        Ok(Self { relaxed: change(self.relaxed)?, plain: change(self.plain)? })
    }
}

/// Replaces the instructions of relaxed SIMD, or all but multiply-adds; how many.
fn replace(module: &mut Module, keep_multiply_adds: bool) -> Result<usize, String> {
    let mut replaced = 0;
    let Module { funcs, locals, .. } = module;
    let places = [ValType::V128; 2].map(|kind| locals.add(kind));
    for (_, function) in funcs.iter_local_mut() {
        let mut replace = Replace { keep_multiply_adds, places, replaced: 0, unknown: None };
        let entry = function.entry_block();
        dfs_pre_order_mut(&mut replace, function, entry);
        if let Some(unknown) = replace.unknown {
            return Err(format!(
                "the program uses {unknown:?}, which xtask/src/web/programs.rs cannot replace yet"
            ));
        }
        replaced += replace.replaced;
    }
    Ok(replaced)
}

/// Whether browsers without relaxed SIMD refuse an instruction.
fn is_relaxed(instruction: &Instr) -> bool {
    use BinaryOp as B;
    use UnaryOp as U;
    match instruction {
        // All that there are.
        Instr::TernOp(_) => true,
        Instr::Binop(Binop { op }) => matches!(
            op,
            B::I8x16RelaxedSwizzle
                | B::F32x4RelaxedMin
                | B::F32x4RelaxedMax
                | B::F64x2RelaxedMin
                | B::F64x2RelaxedMax
                | B::I16x8RelaxedQ15mulrS
                | B::I16x8RelaxedDotI8x16I7x16S
        ),
        Instr::Unop(Unop { op }) => matches!(
            op,
            U::I32x4RelaxedTruncF32x4S
                | U::I32x4RelaxedTruncF32x4U
                | U::I32x4RelaxedTruncF64x2SZero
                | U::I32x4RelaxedTruncF64x2UZero
        ),
        _ => false,
    }
}

/// Replaces those of one function.
struct Replace {
    keep_multiply_adds: bool,
    /// Places for operands: the stack lets only the last ones be reached.
    places: [LocalId; 2],
    replaced: usize,
    /// An instruction that is not known here.
    unknown: Option<Instr>,
}

impl Replace {
    /// Instructions without relaxed SIMD that do the same.
    fn strict(&self, relaxed: &Instr) -> Option<Vec<Instr>> {
        match relaxed {
            Instr::TernOp(TernOp { op }) => self.strict_of_three(*op),
            Instr::Binop(Binop { op }) => match op {
                BinaryOp::F32x4RelaxedMin => {
                    Some(self.number(BinaryOp::F32x4PMin, BinaryOp::F32x4Ne))
                }
                BinaryOp::F32x4RelaxedMax => {
                    Some(self.number(BinaryOp::F32x4PMax, BinaryOp::F32x4Ne))
                }
                BinaryOp::F64x2RelaxedMin => {
                    Some(self.number(BinaryOp::F64x2PMin, BinaryOp::F64x2Ne))
                }
                BinaryOp::F64x2RelaxedMax => {
                    Some(self.number(BinaryOp::F64x2PMax, BinaryOp::F64x2Ne))
                }
                _ => None,
            },
            Instr::Unop(Unop { op }) => Some(vec![Instr::Unop(Unop { op: saturating(*op)? })]),
            _ => None,
        }
    }

    fn strict_of_three(&self, op: TernaryOp) -> Option<Vec<Instr>> {
        let addend = self.places[0];
        let multiply_add = |mul, add| vec![set(addend), binop(mul), get(addend), binop(add)];
        match op {
            TernaryOp::F32x4RelaxedMadd => {
                Some(multiply_add(BinaryOp::F32x4Mul, BinaryOp::F32x4Add))
            }
            TernaryOp::F64x2RelaxedMadd => {
                Some(multiply_add(BinaryOp::F64x2Mul, BinaryOp::F64x2Add))
            }
            // The same where all bits of a lane are equal, and the compiler uses it for nothing else.
            TernaryOp::I8x16RelaxedLaneselect
            | TernaryOp::I16x8RelaxedLaneselect
            | TernaryOp::I32x4RelaxedLaneselect
            | TernaryOp::I64x2RelaxedLaneselect => {
                Some(vec![Instr::V128Bitselect(V128Bitselect {})])
            }
            _ => None,
        }
    }

    /// The smaller or larger of `a` and `b`, as `f32::min` and `f32::max` define it: the other one where one is not a
    /// number. `of` gives `a` unless `b` is smaller or larger.
    fn number(&self, of: BinaryOp, differs: BinaryOp) -> Vec<Instr> {
        let [a, b] = self.places;
        let choose = Instr::V128Bitselect(V128Bitselect {});
        vec![
            set(b),
            set(a),
            get(b),
            get(a),
            get(b),
            binop(of),
            // `b` where `a` differs from itself.
            get(a),
            get(a),
            binop(differs),
            choose,
        ]
    }
}

/// The conversion to integers that gives the nearest one where a number is too large.
fn saturating(relaxed: UnaryOp) -> Option<UnaryOp> {
    match relaxed {
        UnaryOp::I32x4RelaxedTruncF32x4S => Some(UnaryOp::I32x4TruncSatF32x4S),
        UnaryOp::I32x4RelaxedTruncF32x4U => Some(UnaryOp::I32x4TruncSatF32x4U),
        UnaryOp::I32x4RelaxedTruncF64x2SZero => Some(UnaryOp::I32x4TruncSatF64x2SZero),
        UnaryOp::I32x4RelaxedTruncF64x2UZero => Some(UnaryOp::I32x4TruncSatF64x2UZero),
        _ => None,
    }
}

fn get(local: LocalId) -> Instr {
    Instr::LocalGet(LocalGet { local })
}

fn set(local: LocalId) -> Instr {
    Instr::LocalSet(LocalSet { local })
}

fn binop(op: BinaryOp) -> Instr {
    Instr::Binop(Binop { op })
}

impl VisitorMut for Replace {
    fn start_instr_seq_mut(&mut self, seq: &mut InstrSeq) {
        let instructions = std::mem::take(&mut seq.instrs);
        for (instruction, at) in instructions {
            let is_kept = matches!(
                instruction,
                Instr::TernOp(TernOp {
                    op: TernaryOp::F32x4RelaxedMadd | TernaryOp::F64x2RelaxedMadd
                })
            ) && self.keep_multiply_adds;
            if is_kept || !is_relaxed(&instruction) {
                seq.instrs.push((instruction, at));
                continue;
            }
            let Some(steps) = self.strict(&instruction) else {
                self.unknown = Some(instruction);
                continue;
            };
            seq.instrs.extend(steps.into_iter().map(|step| (step, InstrLocId::default())));
            self.replaced += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use walrus::FunctionBuilder;

    use super::*;

    /// A module whose function `f` computes `op` of vectors.
    fn module(op: &Instr) -> Module {
        let mut module = Module::default();
        let mut function =
            FunctionBuilder::new(&mut module.types, &[ValType::V128; 3], &[ValType::V128]);
        let arguments = [ValType::V128; 3].map(|kind| module.locals.add(kind));
        let mut body = function.func_body();
        let operands = if matches!(op, Instr::TernOp(_)) { 3 } else { 2 };
        for &local in &arguments[..operands] {
            body.local_get(local);
        }
        body.instr(op.clone());
        let id = function.finish(arguments.to_vec(), &mut module.funcs);
        module.exports.add("f", id);
        module
    }

    fn ternary(op: TernaryOp) -> Instr {
        Instr::TernOp(TernOp { op })
    }

    fn has(program: &[u8], code: &[u8]) -> bool {
        program.windows(code.len()).any(|some| some == code)
    }

    /// `f32x4.relaxed_madd`
    const MULTIPLY_ADD: [u8; 3] = [0xfd, 0x85, 0x02];

    #[test]
    fn a_multiply_add_becomes_a_product_and_a_sum() {
        let mut module = module(&ternary(TernaryOp::F32x4RelaxedMadd));
        let programs = Programs::from_relaxed(&mut module).unwrap();
        assert!(has(&programs.relaxed, &MULTIPLY_ADD));
        assert!(!has(&programs.plain, &MULTIPLY_ADD));
        // local.set 3, f32x4.mul, local.get 3, f32x4.add
        let steps = [0x21, 3, 0xfd, 0xe6, 0x01, 0x20, 3, 0xfd, 0xe4, 0x01];
        assert!(has(&programs.plain, &steps), "{:x?}", programs.plain);
    }

    #[test]
    fn other_relaxed_instructions_are_in_neither_form() {
        // v128.bitselect; f32x4.pmax
        for (op, steps) in [
            (ternary(TernaryOp::I8x16RelaxedLaneselect), &[0xfd, 0x52][..]),
            (binop(BinaryOp::F32x4RelaxedMax), &[0xfd, 0xeb, 0x01][..]),
        ] {
            let programs = Programs::from_relaxed(&mut module(&op)).unwrap();
            for program in [programs.relaxed, programs.plain] {
                assert!(has(&program, steps), "{op:?}: {program:x?}");
                // Their codes begin at 0x100.
                let relaxed = program.windows(3).any(|code| code[0] == 0xfd && code[2] == 0x02);
                assert!(!relaxed, "{op:?}: {program:x?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_an_error() {
        for op in [ternary(TernaryOp::F32x4RelaxedNmadd), binop(BinaryOp::I8x16RelaxedSwizzle)] {
            let error = Programs::from_relaxed(&mut module(&op)).err().unwrap();
            assert!(
                error.contains("which xtask/src/web/programs.rs cannot replace yet"),
                "{error}"
            );
        }
    }
}
