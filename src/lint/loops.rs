//! Loops that never end: `while true do n = n + 1 end`. Only certain cases are reported: on no path does the loop reach
//! a return, a call, or a field of a table (whose metatable may call something). Arithmetic is assumed to be on
//! numbers.

use std::collections::BTreeSet;

use super::bytecode::{Ins, Proto, op};
use super::found::Found;
use super::scan::Facts;
use crate::telemetry::language::both;

/// The first endless loop of each function of a file: the code behind it is never reached.
pub(super) fn endless(facts: &Facts) -> Vec<Found> {
    let found = facts.protos.iter().filter_map(|proto| {
        let begins: BTreeSet<usize> =
            proto.code.iter().enumerate().filter_map(|(at, ins)| goes_back(at, *ins)).collect();
        let begin = begins.into_iter().find(|begin| is_endless(proto, *begin))?;
        let what = both!(
            "this loop never ends: nothing leaves it, and it calls nothing that could",
            "这个循环永远不会结束：没有离开它的地方，它也不调用任何可能使它结束的东西"
        );
        let fix = both!(
            "the handler that comes to it is stopped by its time budget",
            "运行到这里的处理函数会因时间预算被终止"
        );
        Some(Found::new(proto.code.get(begin)?.line, "", what, fix))
    });
    found.collect()
}

/// Where an instruction jumps to, if it always jumps backwards: the beginning of a loop.
fn goes_back(at: usize, ins: Ins) -> Option<usize> {
    ins.target(at).filter(|target| *target <= at && matches!(ins.op(), op::JMP | op::UCLO))
}

/// Whether every path from there stays within the loop.
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

/// Whether an instruction only computes, on registers, upvalues and globals. Concatenations are excluded: they end when
/// memory runs out.
fn is_plain(code: u8) -> bool {
    matches!(code, op::MOV..=op::GSET | op::LOOP | op::BNOT..=op::BSAR) && code != op::CAT
}
