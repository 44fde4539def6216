//! The location of instructions in the machine code, which a driver's statistics do not include.

/// The loop that does most of the arithmetic, as instructions of its text; all zero where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MainLoop {
    /// From the first to the branch back.
    pub(crate) instructions: usize,
    /// Vector arithmetic, of which a dual instruction is two.
    pub(crate) vector: usize,
    /// Fused multiply-adds among them.
    pub(crate) fused: usize,
    /// Instructions after the loop.
    pub(crate) after: usize,
}

/// The outermost loop with the most multiply-adds: over K in a product, over keys in attention. AMD's syntax.
pub(crate) fn main_loop(assembly: &str) -> MainLoop {
    let code = Code::parse(assembly);
    let mut best = MainLoop::default();
    for (first, last) in code.outermost_loops() {
        let body = &code.instructions[first..=last];
        let sum = |count: fn(&str) -> usize| body.iter().map(|i| count(i)).sum();
        let found = MainLoop {
            instructions: body.len(),
            vector: sum(vector_operations),
            fused: sum(fused_operations),
            after: code.instructions.len() - last - 1,
        };
        if found.fused > best.fused {
            best = found;
        }
    }
    best
}

#[derive(Default)]
struct Code<'a> {
    instructions: Vec<&'a str>,
    /// Targets of branches and the instruction that follows each.
    labels: Vec<(&'a str, usize)>,
}

impl<'a> Code<'a> {
    fn parse(assembly: &'a str) -> Self {
        let mut code = Self::default();
        for line in assembly.lines() {
            let line = line.split([';']).next().unwrap_or_default().trim_end();
            if let Some(label) = line.trim_start().strip_suffix(':') {
                code.labels.push((label, code.instructions.len()));
            } else if line.starts_with(char::is_whitespace)
                && line.trim_start().starts_with(|c: char| c.is_ascii_lowercase())
            {
                code.instructions.push(line.trim_start());
            }
        }
        code
    }

    /// First and last instruction of each loop that lies in no other, in order.
    fn outermost_loops(&self) -> Vec<(usize, usize)> {
        let mut loops: Vec<(usize, usize)> = Vec::new();
        for (at, instruction) in self.instructions.iter().enumerate() {
            let mut words = instruction.split_whitespace();
            let is_branch =
                words.next().is_some_and(|op| op == "s_branch" || op.starts_with("s_cbranch"));
            let target = words.next().filter(|_| is_branch);
            let label = self.labels.iter().find(|(name, _)| Some(*name) == target);
            if let Some(&(_, first)) = label.filter(|(_, first)| *first <= at) {
                loops.push((first, at));
            }
        }
        let contains = |a: &(usize, usize), b: &(usize, usize)| a != b && a.0 <= b.0 && a.1 >= b.1;
        let mut outermost: Vec<_> =
            loops.iter().filter(|l| !loops.iter().any(|o| contains(o, l))).copied().collect();
        outermost.sort_unstable();
        outermost.dedup();
        outermost
    }
}

/// Operations of an instruction that a name part marks; the two of a dual instruction are divided by `::`.
fn operations(instruction: &str) -> impl Iterator<Item = &str> {
    instruction.split("::").filter_map(|half| half.split_whitespace().next())
}

fn vector_operations(instruction: &str) -> usize {
    operations(instruction).filter(|op| op.starts_with("v_")).count()
}

fn fused_operations(instruction: &str) -> usize {
    let names = ["v_fma", "v_dual_fma", "v_mac", "v_mad_f", "v_pk_fma", "v_dot", "v_wmma"];
    operations(instruction).filter(|op| names.iter().any(|name| op.starts_with(name))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_outermost_loop_with_the_most_multiply_adds() {
        let code = "
BB0:
	v_mov_b32_e32 v0, 0                    ; 7e000280
BB1:
	v_fma_f32 v1, v2, v3, v1               ; d6130001
	s_cbranch_scc1 BB1                     ; bfa2fffd
BB2:
	s_waitcnt vmcnt(0)                     ; bf8903f7
BB3:
	ds_load_b128 v[4:7], v8                ; dbfc0000
	v_dual_fmac_f32 v1, v2, v3 :: v_dual_mul_f32 v4, v5, v6 ; c8060702
	v_fmac_f32_e32 v9, v2, v3              ; 56120702
	s_cbranch_execz BB3                    ; bfa5fffb
	s_cbranch_scc0 BB2                     ; bfa1fff9
	buffer_store_b32 v1, v2, s[0:3], 0     ; e0680000
	s_endpgm                               ; bfb00000
";
        let want = MainLoop { instructions: 6, vector: 3, fused: 2, after: 2 };
        assert_eq!(main_loop(code), want);
        assert_eq!(main_loop("\tv_fma_f32 v1, v2, v3, v1\n\ts_endpgm\n"), MainLoop::default());
    }
}
