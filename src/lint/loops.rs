//! Loops that nothing ends: `while true do n = n + 1 end`. Told are only those of which it is certain: whichever way a loop
//! goes, it comes to no return, no call, and no field of a table, behind which a metatable may call something. Arithmetic is
//! taken for that of numbers.

use std::collections::BTreeSet;

use super::bytecode::{Ins, Proto, op};
use super::found::Found;
use super::scan::Facts;

/// The first of each function of a file: what comes behind it is never reached.
pub(super) fn endless(facts: &Facts) -> Vec<Found> {
    let found = facts.protos.iter().filter_map(|proto| {
        let begins: BTreeSet<usize> =
            proto.code.iter().enumerate().filter_map(|(at, ins)| goes_back(at, *ins)).collect();
        let begin = begins.into_iter().find(|begin| is_endless(proto, *begin))?;
        let what = "this loop never ends: nothing leaves it, and it calls nothing that could";
        let fix = "the handler that comes to it is stopped by its time budget";
        Some(Found::new(proto.code.get(begin)?.line, "", what, fix))
    });
    found.collect()
}

/// Where an instruction jumps to, if that is backwards whenever it is reached: the beginning of a loop.
fn goes_back(at: usize, ins: Ins) -> Option<usize> {
    ins.target(at).filter(|target| *target <= at && matches!(ins.op(), op::JMP | op::UCLO))
}

/// Whether what begins there stays among instructions that lead nowhere else.
fn is_endless(proto: &Proto, begin: usize) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![begin]);
    while let Some(at) = open.pop() {
        let Some(ins) = proto.code.get(at) else { return false };
        if !seen.insert(at) {
            continue;
        }
        match ins.op() {
            // A jump follows, which is taken or not.
            ..=op::ISF => open.extend([at + 1, at + 2]),
            op::JMP | op::UCLO => open.extend(ins.target(at)),
            stays if is_plain(stays) => open.push(at + 1),
            _ => return false,
        }
    }
    true
}

/// Whether an instruction only computes: on registers, upvalues and globals. Concatenations end with the memory.
fn is_plain(code: u8) -> bool {
    matches!(code, op::MOV..=op::GSET | op::LOOP | op::BNOT..=op::BSAR) && code != op::CAT
}
